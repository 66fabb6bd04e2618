//! Counters in Redis or Valkey, shared by all replicas.
//!
//! ```text
//! admit --Question--> Link (one of a few connections, pipelined) --EVALSHA--> admit.lua in the store
//!       <--Answer---                                             <---------
//! ```
//!
//! One round trip decides a request over all its limits, on the store's clock. A question has a deadline, and one that
//! comes to the store later is refused there: what waited in a store that hung charges nothing when it goes on.
//! After several failures in a row all links are closed; while they are, requests are told at once that the store is away.

mod failure;
mod link;
pub mod script;
mod settings;
pub mod settle;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{Admission, StoreAway};
use crate::clock::Clock;
use crate::limiter::Charge;
use crate::metrics::{Metrics, ReasonLabels};
use link::Link;
use script::Question;

pub use failure::Failure;
pub use settings::{RedisSettings, RedisTls, RedisUser};
pub use settle::Settlement;

/// Failures in a row after which all links are closed.
const FAILURES_MAX: u32 = 5;

/// A store of counters in Redis.
#[derive(Debug)]
pub struct Redis {
    links: Box<[Link]>,
    /// Counts the questions; tells which link is next.
    questions: AtomicUsize,
    /// Failures in a row.
    failures: AtomicU32,
    metrics: Arc<Metrics>,
    clock: Clock,
}

/// The state of the store, for people.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub address: String,
    pub connections: usize,
    pub connections_open: usize,
    /// The last failure of a connection that is not open.
    pub trouble: Option<String>,
}

impl Redis {
    /// A store that is away until [`Redis::keep`] runs and has opened a connection.
    pub fn new(settings: RedisSettings, clock: Clock, metrics: Arc<Metrics>) -> Self {
        let settings = Arc::new(settings);
        let links = (0..settings.connections).map(|_| Link::new(Arc::clone(&settings), clock)).collect();
        Self { links, questions: AtomicUsize::new(0), failures: AtomicU32::new(0), metrics, clock }
    }

    /// Opens the connections, and again whenever one is lost, until shutdown.
    pub async fn keep(&self, shutdown: CancellationToken) {
        let links = futures_util::future::join_all(self.links.iter().map(Link::keep));
        shutdown.run_until_cancelled(links).await;
    }

    /// As [`super::Counters::admit`].
    pub async fn admit(&self, charges: &[Charge]) -> Result<Admission, StoreAway> {
        let answer = match self.next() {
            Some(link) => self.ask(link, charges).await,
            None => Err(Failure::Away),
        };
        answer.map_err(|failure| {
            self.metrics.counter_store_errors.get_or_create(&ReasonLabels { reason: failure.reason() }).inc();
            StoreAway
        })
    }

    /// Has the store count hits after the fact, in the order given. Not for a request's path: it may take half a second.
    ///
    /// Of what failed, nobody knows whether it was settled, but for [`Failure::Away`] and [`Failure::Late`]: then it was
    /// not. There are up to [`settle::SETTLEMENTS_MAX`] in one call of the script, and none are settled after those that failed.
    pub async fn settle(&self, settlements: &[Settlement]) -> Result<(), Failure> {
        for some in settlements.chunks(settle::SETTLEMENTS_MAX) {
            self.next().ok_or(Failure::Away)?.settle(some).await?;
        }
        Ok(())
    }

    async fn ask(&self, link: &Link, charges: &[Charge]) -> Result<Admission, Failure> {
        let started = self.clock.now();
        let answer = link.ask(&Question::new(charges)).await;
        self.metrics.counter_store_seconds.observe(self.clock.now().since(started).as_secs_f64());
        self.judge(&answer);
        answer
    }

    /// A store that fails several times in a row is not asked again until it has decided something over a new connection.
    fn judge(&self, answer: &Result<Admission, Failure>) {
        match answer {
            Ok(_) => self.failures.store(0, Ordering::Relaxed),
            Err(failure) if failure.is_the_stores() => {
                if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES_MAX {
                    // New connections begin anew.
                    self.failures.store(0, Ordering::Relaxed);
                    self.links.iter().for_each(|link| link.close(failure));
                }
            }
            Err(_) => {}
        }
    }

    /// True where a question would be asked at all.
    pub fn is_there(&self) -> bool {
        self.links.iter().any(Link::is_open)
    }

    pub fn report(&self) -> Report {
        Report {
            address: self.links.first().map(Link::address).unwrap_or_default(),
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

    #[test]
    fn failures_of_closed_connections_do_not_count_against_new_ones() {
        let settings = RedisSettings {
            url: "redis://127.0.0.1:1".to_owned(),
            user: None,
            tls: RedisTls::default(),
            prefix: RedisSettings::PREFIX.to_owned(),
            connections: 1,
            deadline: RedisSettings::DEADLINE,
        };
        let store = Redis::new(settings, Clock::start(), Arc::default());
        let after = |failure: Failure| {
            store.judge(&Err(failure));
            store.failures.load(Ordering::Relaxed)
        };
        assert_eq!([1, 2, 3, 4, 0, 1].map(|_| after(Failure::Unanswered)), [1, 2, 3, 4, 0, 1]);
        assert_eq!(after(Failure::Away), 1, "what is known already says nothing new");
    }
}
