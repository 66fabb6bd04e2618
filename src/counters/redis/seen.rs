//! Counters that people look at or reset: one at a time, over the same connections as decisions, and with more patience.

use std::time::Duration;

use futures_util::future::try_join_all;
use redis::{Cmd, FromRedisValue};

use super::link::Way;
use super::script::read_kept;
use super::{Failure, Redis, Servers, keys};
use crate::clock::Timestamp;
use crate::counters::StoreAway;
use crate::limiter::key::CounterKey;
use crate::limiter::{Charge, Usage};

const LOOK: &str = include_str!("look.lua");

/// The time that a person waits for the answer about one counter.
const PATIENCE: Duration = Duration::from_secs(1);
/// Questions that are under way at the same time, so that the store has requests to decide in between.
const AT_ONCE: usize = 16;

/// Seconds, microseconds, head, ring.
type Looked = (u64, u64, Option<Vec<u8>>, Option<Vec<u8>>);

impl Redis {
    /// As [`Counters::look`](crate::counters::Counters::look).
    pub async fn look(&self, charges: &[Charge]) -> Result<Vec<Option<Usage>>, StoreAway> {
        // A store before 7.0 knows no EVAL_RO; the script writes nothing all the same.
        let command = |charge: &Charge| {
            let [head, ring] = self.keys(charge.key);
            (charge.key, redis::cmd("EVAL").arg(LOOK).arg(2).arg(head).arg(ring).to_owned())
        };
        let looked: Vec<Looked> = self.query_all(charges.iter().map(command).collect()).await?;
        Ok(charges.iter().zip(looked).map(|(charge, looked)| usage(charge, looked, self.skew(charge.key))).collect())
    }

    /// As [`Counters::reset`](crate::counters::Counters::reset).
    pub async fn reset(&self, charges: &[Charge]) -> Result<Vec<bool>, StoreAway> {
        let command = |charge: &Charge| (charge.key, redis::cmd("DEL").arg(&self.keys(charge.key)).to_owned());
        let deleted: Vec<u64> = self.query_all(charges.iter().map(command).collect()).await?;
        Ok(deleted.into_iter().map(|keys| keys > 0).collect())
    }

    async fn query_all<T: FromRedisValue>(&self, commands: Vec<(CounterKey, Cmd)>) -> Result<Vec<T>, StoreAway> {
        let mut answers = Vec::with_capacity(commands.len());
        for some in commands.chunks(AT_ONCE) {
            let told = try_join_all(some.iter().map(|(key, command)| self.query(*key, command))).await;
            answers.extend(told.map_err(|failure| {
                failure.count(&self.metrics);
                StoreAway
            })?);
        }
        Ok(answers)
    }

    async fn query<T: FromRedisValue>(&self, key: CounterKey, command: &Cmd) -> Result<T, Failure> {
        match &self.servers {
            Servers::One(node) | Servers::Sentinel(_, node) => node.query(command, PATIENCE, Way::Usual).await,
            Servers::Cluster(cluster) => cluster.query(key, command, PATIENCE).await,
        }
    }

    /// The skew of the clock that a counter goes by.
    fn skew(&self, key: CounterKey) -> i64 {
        match &self.servers {
            Servers::One(node) | Servers::Sentinel(_, node) => node.skew(),
            Servers::Cluster(cluster) => cluster.skew(key),
        }
    }

    fn keys(&self, key: CounterKey) -> [String; 2] {
        let prefix = &self.settings.prefix;
        [keys::head(prefix, key), keys::ring(prefix, key)]
    }
}

/// What else stands under the key counts as nothing, as it does where requests are decided.
fn usage(charge: &Charge, (seconds, micros, head, ring): Looked, skew: i64) -> Option<Usage> {
    let micros = seconds.saturating_mul(1_000_000).saturating_add(micros).saturating_add_signed(skew.saturating_neg());
    let at = Timestamp::from_nanos(micros.saturating_mul(1000));
    let kept = read_kept(&head?, ring.as_deref())?;
    Some(kept.into_cell(charge.rate, charge.algorithm).usage(charge.rate.limit, charge.algorithm, at))
}
