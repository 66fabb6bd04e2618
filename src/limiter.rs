//! Whether one more request fits under a limit: pure arithmetic over what was counted before.
//!
//! ```text
//! Charge { key, rate, algorithm, mode, hits } -> counters -> Cell::judge  -> Verdict
//!                                                         \-> Cell::charge, where every limit has room
//! ```
//!
//! A store of `counters` keeps one [`Cell`](algorithm::Cell) for each [`CounterKey`]. It asks all cells of a
//! request first and charges them after, because a request is charged to every limit or to none.
//!
//! What each algorithm guarantees for a limit L and a window W, as long as its state is kept:
//!
//! | algorithm | worst admitted in any interval of length W | a hit stops counting |
//! |---|---|---|
//! | `sliding_window` that never held more than 14 hits (an exact log) | L | when it is W old |
//! | `sliding_window`, any other (a ring of sub-buckets) | L | up to W/60 later than that |
//! | `fixed_window` | 2 L around an edge, L between two | at the next edge |
//! | `token_bucket` | burst + L | when it is drained, L in each W |
//!
//! The rules that hold for all of them:
//! - Only admitted hits count. A client that keeps knocking is not shut out for ever.
//! - Time is an argument and never runs backwards in a cell: an earlier time is taken as the newest one seen.
//! - A changed limit or burst keeps what was counted. A changed window or algorithm is a new counter, so it needs a new
//!   key.
//! - A request of 0 hits asks whether one hit would pass, and is charged nothing.
//! - A request of more hits than can ever fit never passes, and a limit of 0 lets nothing pass.
//! - No arithmetic overflows: it saturates, on the side of admitting less.
//!
//! This module does not store, lock, log or read a clock.

pub mod algorithm;
mod fixed_window;
pub mod kept;
pub mod key;
pub mod matcher;
pub mod older;
pub mod peers;
#[cfg(test)]
mod properties;
mod sliding_log;
mod sliding_ring;
mod sliding_window;
mod token_bucket;

use std::time::Duration;

use key::CounterKey;

pub use crate::policy::gateway::OnError;
pub use crate::policy::limit::{Algorithm, Mode};
pub use crate::policy::rate::{LIMIT_MAX, Rate, Window};

/// The question of one limit to its counter, for one request.
#[derive(Clone, Copy, Debug)]
pub struct Charge {
    /// Names the counter. It has to be another one where the window or the algorithm is another one.
    pub key: CounterKey,
    pub rate: Rate,
    pub algorithm: Algorithm,
    pub mode: Mode,
    /// The cost of the request. With 0, it is asked whether one hit would pass, and nothing is counted.
    pub hits: u32,
    /// A store that replicas share is asked about each request: none of them answers for it.
    pub is_exact: bool,
}

impl Charge {
    /// True for a limit that may deny. One that may not is in shadow: counted and reported only.
    pub fn is_enforced(&self) -> bool {
        self.mode == Mode::Enforce
    }

    /// The hits that pass at once when nothing is used.
    pub fn capacity(&self) -> u32 {
        match self.algorithm {
            Algorithm::TokenBucket { burst } if self.rate.limit > 0 => burst.get(),
            _ => self.rate.limit,
        }
    }
}

/// Where only the charge of something is asked for.
impl AsRef<Self> for Charge {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// The answer of a counter to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    /// The hits that would pass now; after the charge, if the request was charged.
    pub remaining: u32,
    /// The time until one more such request would pass: zero if it would at once,
    /// none if it never will because it has more hits than the limit allows at all.
    pub retry_after: Option<Duration>,
    /// The time until `remaining` grows if nothing more is counted; zero if nothing is.
    pub grows_after: Duration,
}

/// What a counter says that is only looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The hits that count now: more than the limit where that was lowered since.
    pub used: u32,
    /// The hits that would pass now.
    pub remaining: u32,
    /// The time until `remaining` grows if nothing more is counted; zero if nothing is.
    pub frees_after: Duration,
}

/// Builders, so that a test shows only what matters to it.
#[cfg(test)]
pub(crate) mod fixture {
    use super::*;

    pub(crate) fn charge(key: u64, rate: &str) -> Charge {
        let key = key::KeyHasher::seeded([7; 16]).part(&key.to_le_bytes()).finish();
        let rate = Rate::parse(rate).unwrap();
        Charge { key, rate, algorithm: Algorithm::SlidingWindow, mode: Mode::Enforce, hits: 1, is_exact: false }
    }

    impl Charge {
        pub(crate) fn hits(self, hits: u32) -> Self {
            Self { hits, ..self }
        }

        pub(crate) fn shadow(self) -> Self {
            Self { mode: Mode::Shadow, ..self }
        }
    }
}
