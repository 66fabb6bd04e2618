//! One server of the store: a few links to it, and a breaker over all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use redis::{Cmd, FromRedisValue};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::failure::Failure;
use super::link::{Follow, Link, Place, Way};
use super::roll::{Entry, Errand, Roll};
use super::script::{Answer, Question};
use super::settings::RedisSettings;
use super::settle::Settlement;
use super::store_clock::StoreClock;
use super::url::ServerAddress;
use crate::clock::Clock;
use crate::metrics::Metrics;

/// Failures in a row after which all links are closed.
const FAILURES_MAX: u32 = 5;

#[derive(Debug)]
pub(super) struct Node {
    links: Box<[Link]>,
    /// Counts the questions; tells which link is next.
    questions: AtomicUsize,
    /// Failures in a row.
    failures: AtomicU32,
    /// The home of the key that it is probed by: one that it serves, in a Cluster.
    probe_home: Arc<AtomicU16>,
    time: Arc<StoreClock>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

/// The state of one server, for people.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = RedisNode)]
pub struct NodeReport {
    /// Where its last connection led. `None`: there was none yet.
    pub address: Option<String>,
    /// How many slots of a Cluster it serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<usize>,
    pub connections: usize,
    pub connections_open: usize,
    /// The last failure of a connection that is not open.
    pub trouble: Option<String>,
}

impl Node {
    /// A server that is away until [`Node::keep`] runs and has opened a connection.
    pub(super) fn new(settings: &Arc<RedisSettings>, place: &Place, clock: Clock, metrics: &Arc<Metrics>) -> Self {
        let probe_home = Arc::<AtomicU16>::default();
        let time = Arc::new(StoreClock::new(clock));
        let link = |_| Link::new(Arc::clone(settings), place.clone(), Arc::clone(&probe_home), Arc::clone(&time));
        Self {
            links: (0..settings.connections).map(link).collect(),
            questions: AtomicUsize::new(0),
            failures: AtomicU32::new(0),
            probe_home,
            time,
            metrics: Arc::clone(metrics),
            clock,
        }
    }

    /// Opens the connections, and again whenever one is lost.
    pub(super) async fn keep(&self) {
        futures_util::future::join_all(self.links.iter().map(Link::keep)).await;
    }

    pub(super) async fn ask(
        &self,
        question: &Question<'_>,
        by: Instant,
        way: Way,
        follow: Follow<'_>,
    ) -> Result<Answer, Failure> {
        let link = self.next().ok_or(Failure::Away)?;
        let started = self.clock.now();
        let answer = link.ask(question, by, way, follow).await;
        self.metrics.counter_store_seconds.observe(self.clock.now().since(started).as_secs_f64());
        self.judge(&answer);
        answer
    }

    pub(super) async fn settle(&self, settlements: &[Settlement], way: Way) -> Result<(), Failure> {
        self.next().ok_or(Failure::Away)?.settle(settlements, way).await
    }

    /// As [`Link::query`].
    pub(super) async fn query<T: FromRedisValue>(
        &self,
        command: &Cmd,
        patience: Duration,
        way: Way,
    ) -> Result<T, Failure> {
        self.next().ok_or(Failure::Away)?.query(command, patience, way).await
    }

    pub(super) async fn call_roll(&self, roll: &Roll, errand: Errand, way: Way) -> Result<Entry, Failure> {
        let entry = self.next().ok_or(Failure::Away)?.call_roll(roll, errand, way).await?;
        Ok(entry.less(self.time.skew()))
    }

    /// A server that fails several times in a row is not asked again until it has decided something over a new connection.
    fn judge(&self, answer: &Result<Answer, Failure>) {
        match answer {
            Ok(_) => self.failures.store(0, Ordering::Relaxed),
            Err(failure) if failure.is_the_stores() => {
                if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES_MAX {
                    // New connections begin anew.
                    self.failures.store(0, Ordering::Relaxed);
                    self.close(failure);
                }
            }
            Err(_) => {}
        }
    }

    /// Closes all connections, to be opened again.
    pub(super) fn close(&self, failure: &Failure) {
        self.links.iter().for_each(|link| link.close(failure));
    }

    /// True where a question would be asked at all.
    pub(super) fn is_there(&self) -> bool {
        self.links.iter().any(Link::is_open)
    }

    pub(super) fn address(&self) -> Option<Arc<ServerAddress>> {
        self.links.iter().find_map(Link::address)
    }

    /// The skew of its clock, in microseconds.
    pub(super) fn skew(&self) -> i64 {
        self.time.skew()
    }

    pub(super) fn set_probe_home(&self, home: u16) {
        self.probe_home.store(home, Ordering::Relaxed);
    }

    pub(super) fn links(&self) -> &[Link] {
        &self.links
    }

    pub(super) fn report(&self) -> NodeReport {
        NodeReport {
            address: self.address().map(|address| address.to_string()),
            slots: None,
            connections: self.links.len(),
            connections_open: self.links.iter().filter(|link| link.is_open()).count(),
            trouble: self.links.iter().find_map(Link::trouble),
        }
    }

    /// The links in turn, without those that are closed.
    fn next(&self) -> Option<&Link> {
        let first = self.questions.fetch_add(1, Ordering::Relaxed);
        let turn = |step| self.links.get(first.wrapping_add(step) % self.links.len());
        (0..self.links.len()).filter_map(turn).find(|link| link.is_open())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::redis::RedisTls;

    #[test]
    fn failures_of_closed_connections_do_not_count_against_new_ones() {
        let settings = RedisSettings {
            url: "redis://127.0.0.1:1".parse().unwrap(),
            user: None,
            sentinel_password_file: None,
            tls: RedisTls::default(),
            prefix: RedisSettings::PREFIX.to_owned(),
            connections: 1,
            deadline: RedisSettings::DEADLINE,
            leases: true,
            local_keys_max: 1024,
        };
        let place = Place::Fixed(settings.url.servers()[0].clone());
        let node = Node::new(&Arc::new(settings), &place, Clock::start(), &Arc::default());
        let after = |failure: Failure| {
            node.judge(&Err(failure));
            node.failures.load(Ordering::Relaxed)
        };
        assert_eq!([1, 2, 3, 4, 0, 1].map(|_| after(Failure::Unanswered)), [1, 2, 3, 4, 0, 1]);
        assert_eq!(after(Failure::Away), 1, "what is known already says nothing new");
    }
}
