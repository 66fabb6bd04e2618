//! Hits that are counted after the fact: the script that adds them to counters where they belong in time, or takes them
//! away from there.
//!
//! | | bytes |
//! |---|---|
//! | question | time after which nobody waits f64, skew of the clock f64, each settlement |
//! | settlement | algorithm u8, limit u32, window f64, time f64, hits f64 |
//! | answer | time f64, done (1, or 2: too late) u8 |
//!
//! Counters are kept as [`script`](super::script) has them.

use std::sync::LazyLock;

use redis::{Cmd, Script};

use super::keys;
use super::script::micros;
use crate::clock::Timestamp;
use crate::limiter::key::CounterKey;
use crate::limiter::{Algorithm, Rate};

pub const TEXT: &str = include_str!("settle.lua");

/// The most settlements of one call of the script, so that it keeps no request waiting for long.
pub const SETTLEMENTS_MAX: usize = 64;

/// The name that Redis gives the script.
pub fn hash() -> &'static str {
    static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(TEXT));
    SCRIPT.get_hash()
}

const LATE: u8 = 2;

/// Hits to be added to a counter, or to be taken away from it.
///
/// The store never counts less for it than it should: of what was given back twice, or has left its window, or may have
/// drained from a token bucket since, it takes nothing away.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settlement {
    pub key: CounterKey,
    pub rate: Rate,
    pub algorithm: Algorithm,
    /// The time of the hits on the store's clock. A time to come is the present. Hits that are added to a token bucket
    /// are owed from the present on.
    pub at: Timestamp,
    /// Below 0: to be taken away.
    pub hits: i64,
}

/// The command that settles. A store that comes to it after `latest` does nothing.
pub fn command(
    verb: &'static str,
    script: &str,
    prefix: &str,
    settlements: &[Settlement],
    latest: Timestamp,
    skew: i64,
) -> Cmd {
    let mut command = redis::cmd(verb);
    command.arg(script).arg(2 * settlements.len());
    for settlement in settlements {
        command.arg(keys::head(prefix, settlement.key));
    }
    for settlement in settlements {
        command.arg(keys::ring(prefix, settlement.key));
    }
    let packed = settlements.iter().flat_map(pack);
    command
        .arg([micros(latest), skew as f64].into_iter().flat_map(f64::to_le_bytes).chain(packed).collect::<Vec<u8>>());
    command
}

/// True where the store settled, false where it came to it too late. None where the answer is none of the script.
pub fn read(answer: &[u8]) -> Option<bool> {
    let (_time, done) = answer.split_at_checked(8)?;
    let [done] = done else { return None };
    Some(*done != LATE)
}

fn pack(settlement: &Settlement) -> [u8; 29] {
    let algorithm = match settlement.algorithm {
        Algorithm::SlidingWindow => 0,
        Algorithm::FixedWindow => 1,
        Algorithm::TokenBucket { .. } => 2,
    };
    let window = f64::from(settlement.rate.window.secs()) * 1e6;
    let mut packed = [0; 29];
    let parts: [&[u8]; 5] = [
        &[algorithm],
        &settlement.rate.limit.to_le_bytes(),
        &window.to_le_bytes(),
        &micros(settlement.at).to_le_bytes(),
        &(settlement.hits as f64).to_le_bytes(),
    ];
    packed.iter_mut().zip(parts.into_iter().flatten()).for_each(|(to, from)| *to = *from);
    packed
}
