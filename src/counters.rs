//! Stores of counters, and the one question that they answer: may this request pass?
//!
//! ```text
//! rls --charges of all limits--> Counters::admit --> Admission: an outcome for each charge
//!                                              \--> StoreAway: the gateway's `on_error` decides
//! ```
//!
//! A request is charged to every enforced limit that applies to it, or to none. Limits in shadow are judged
//! and charged as if each stood alone, whatever the others say, and never deny.
//!
//! A store knows keys, cells and time, and no policy. Memory is told the time; a shared store has a clock of its own, so that
//! those of its replicas do not matter.

pub mod memory;
pub mod redis;

use std::sync::Arc;

use smallvec::SmallVec;

use crate::clock::Timestamp;
use crate::limiter::{Charge, Verdict};
use memory::Memory;
use redis::Redis;

pub use crate::limiter::{OnError, Usage};

/// The store that counts for this process.
#[derive(Clone)]
pub enum Counters {
    /// The memory of this process alone. It is never away and never waits: its future is ready when it is polled first.
    Memory(Arc<Memory>),
    /// A store that replicas share, which has a clock of its own.
    Redis(Arc<Redis>),
    #[cfg(test)]
    Away,
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub struct Admission {
    pub admitted: bool,
    /// One for each charge, in the order asked.
    pub outcomes: SmallVec<[Outcome; 4]>,
}

/// The answer of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// If the hits were counted, the verdict is `allowed` and its numbers are those after the charge. A verdict
    /// of an enforced limit can be `allowed` in a request that another limit denied: then nothing was counted.
    Judged(Verdict),
    /// The limit has room, but the store has none to count in: nothing was counted for this limit.
    NoRoom,
}

/// The store gave no answer in time. Nothing is known of any counter; the request may have been charged all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreAway;

/// A question to a store elsewhere, as it is told to whoever traces requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trip {
    pub asked: Timestamp,
    pub answered: Timestamp,
    /// Why there was no answer, in the words of the metric.
    pub failure: Option<&'static str>,
}

impl Admission {
    /// A request that meets no limit.
    fn of_nothing() -> Self {
        Self { admitted: true, outcomes: SmallVec::new() }
    }
}

impl Counters {
    /// True where [`Counters::admit_now`] answers.
    pub fn never_waits(&self) -> bool {
        matches!(self, Self::Memory(_))
    }

    /// [`Counters::admit`], where that waits for nothing; else `None`.
    pub fn admit_now(&self, charges: &[impl AsRef<Charge>], now: Timestamp, on_error: OnError) -> Option<Admission> {
        match self {
            _ if charges.is_empty() => Some(Admission::of_nothing()),
            Self::Memory(memory) => Some(memory.admit(charges, now, on_error)),
            _ => None,
        }
    }

    /// Decides one request over all its limits, and charges it: to every enforced limit if all of them have room, else to
    /// none; to each shadow limit that has room. Where a limit has room and the store has none to count in, `on_error`
    /// decides; the store has to know it beforehand, because it decides before it charges.
    ///
    /// Where two charges name the same key, each is judged by the hits of both. A request without charges asks no store.
    pub async fn admit(&self, charges: &[Charge], now: Timestamp, on_error: OnError) -> Result<Admission, StoreAway> {
        self.admit_traced(charges, now, on_error, None).await
    }

    /// The same, and says when a store elsewhere was asked, where one was.
    pub async fn admit_traced(
        &self,
        charges: &[Charge],
        now: Timestamp,
        on_error: OnError,
        trip: Option<&mut Option<Trip>>,
    ) -> Result<Admission, StoreAway> {
        if charges.is_empty() {
            return Ok(Admission::of_nothing());
        }
        match self {
            Self::Memory(memory) => Ok(memory.admit(charges, now, on_error)),
            Self::Redis(redis) if on_error == OnError::Local => Ok(redis.admit_or_decide_traced(charges, trip).await),
            Self::Redis(redis) => redis.admit_traced(charges, trip).await,
            #[cfg(test)]
            Self::Away => {
                tokio::task::yield_now().await;
                Err(StoreAway)
            }
        }
    }

    /// What the counter of each charge counts now; `None` where there is none. Charges nothing and makes no counter.
    pub async fn look(&self, charges: &[Charge], now: Timestamp) -> Result<Vec<Option<Usage>>, StoreAway> {
        match self {
            Self::Memory(memory) => Ok(charges.iter().map(|charge| memory.look(charge, now)).collect()),
            Self::Redis(redis) => redis.look(charges).await,
            #[cfg(test)]
            Self::Away => Err(StoreAway),
        }
    }

    /// Forgets the counter of each charge, with all that it counted: false where there was none. Where the store is away in
    /// the middle of it, some may be forgotten; to ask again does no harm.
    pub async fn reset(&self, charges: &[Charge]) -> Result<Vec<bool>, StoreAway> {
        match self {
            Self::Memory(memory) => Ok(charges.iter().map(|charge| memory.remove(charge.key)).collect()),
            Self::Redis(redis) => redis.reset(charges).await,
            #[cfg(test)]
            Self::Away => Err(StoreAway),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::limiter::fixture::charge;

    #[test]
    fn memory_answers_when_it_is_polled_first() {
        let counters = Counters::Memory(Arc::new(Memory::new(memory::MemoryLimits::default())));
        for (limit, admitted) in [("1/minute", true), ("1/minute", false)] {
            let admission = counters.admit(&[charge(1, limit)], Timestamp::from_nanos(1), OnError::Deny).now_or_never();
            assert_eq!(admission.unwrap().map(|admission| admission.admitted), Ok(admitted));
        }
    }

    #[tokio::test]
    async fn a_request_without_limits_asks_no_store() {
        let ask = async |charges: &[Charge]| Counters::Away.admit(charges, Timestamp::default(), OnError::Deny).await;
        assert!(ask(&[]).await.is_ok_and(|admission| admission.admitted));
        assert_eq!(ask(&[charge(1, "1/minute")]).await.err(), Some(StoreAway));
    }
}
