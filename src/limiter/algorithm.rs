//! One counter, whatever its algorithm.
//!
//! An algorithm only says how many hits count now (`used`), and when that will have fallen far enough
//! (`falls_to`). What follows from it for a request is the same for all, and is decided here.

use std::time::Duration;

use super::fixed_window::FixedWindow;
use super::sliding_window::SlidingWindow;
use super::token_bucket::TokenBucket;
use super::{Usage, Verdict};
use crate::clock::Timestamp;
use crate::policy::limit::Algorithm;
use crate::policy::rate::Rate;

/// The state of one counter.
///
/// To judge and to charge are two steps, because a request is charged to all its limits or to none.
/// A cell knows its rate, so that a store can tell what may be dropped without knowing the policy.
#[derive(Clone, Debug)]
pub struct Cell {
    pub(super) rate: Rate,
    /// The newest time seen. `state` is what counts at this time.
    pub(super) newest: Timestamp,
    pub(super) state: State,
}

#[derive(Clone, Debug)]
pub(super) enum State {
    SlidingWindow(SlidingWindow),
    FixedWindow(FixedWindow),
    TokenBucket(TokenBucket),
}

impl Cell {
    /// A counter that has counted nothing. It takes no time before `newest` for the present.
    pub fn new(rate: Rate, algorithm: Algorithm, newest: Timestamp) -> Self {
        let state = match algorithm {
            Algorithm::SlidingWindow => State::SlidingWindow(SlidingWindow::new()),
            Algorithm::FixedWindow => State::FixedWindow(FixedWindow::default()),
            Algorithm::TokenBucket { burst } => State::TokenBucket(TokenBucket::new(burst)),
        };
        Self { rate, newest, state }
    }

    /// A counter that counts `state` at `newest`.
    pub(super) fn of(rate: Rate, newest: Timestamp, state: State) -> Self {
        Self { rate, newest, state }
    }

    /// Whether `hits` fit under `limit`, which is the counter's limit from here on, as is a token bucket's burst.
    /// Counts nothing.
    pub fn allows(&mut self, limit: u32, algorithm: Algorithm, hits: u32, now: Timestamp) -> bool {
        self.advance(now);
        self.rate.limit = limit;
        if let (State::TokenBucket(bucket), Algorithm::TokenBucket { burst }) = (&mut self.state, algorithm) {
            bucket.set_burst(burst);
        }
        hits.max(1) <= self.remaining()
    }

    /// The same, and from when on. The verdict's times are from `now`, even where the counter has already seen a later time.
    pub fn judge(&mut self, limit: u32, algorithm: Algorithm, hits: u32, now: Timestamp) -> Verdict {
        self.allows(limit, algorithm, hits, now);
        self.verdict(hits, now)
    }

    /// Counts hits that were judged to pass. The verdict is for one more such request, but for `allowed`.
    pub fn charge(&mut self, hits: u32, now: Timestamp) -> Verdict {
        self.advance(now);
        match &mut self.state {
            State::SlidingWindow(counter) => counter.charge(self.rate.window, hits, self.newest),
            State::FixedWindow(counter) => counter.charge(hits),
            State::TokenBucket(bucket) => bucket.charge(self.rate.window, hits),
        }
        Verdict { allowed: true, ..self.verdict(hits, now) }
    }

    /// What counts under `limit`, which is the counter's limit from here on, as is a token bucket's burst. Counts nothing.
    pub fn usage(&mut self, limit: u32, algorithm: Algorithm, now: Timestamp) -> Usage {
        let Verdict { remaining, grows_after, .. } = self.judge(limit, algorithm, 0, now);
        Usage { used: self.used(), remaining, frees_after: grows_after }
    }

    /// Nothing counts any more: a new cell would decide the same from `now` on.
    pub fn is_idle(&mut self, now: Timestamp) -> bool {
        self.advance(now);
        self.used() == 0
    }

    /// The share of the limit that is used: 0 where idle, 1 where the limit is reached, more where it was
    /// lowered since. A limit of 0 is not used at all: it denies, whatever was counted.
    pub fn fullness(&mut self, now: Timestamp) -> f64 {
        self.advance(now);
        match self.capacity() {
            0 => 0.0,
            capacity => f64::from(self.used()) / f64::from(capacity),
        }
    }

    /// Lets time pass at the limit that was in force, and never backwards.
    pub(super) fn advance(&mut self, now: Timestamp) {
        if now <= self.newest {
            return;
        }
        match &mut self.state {
            State::SlidingWindow(counter) => counter.advance(self.rate.window, self.newest, now),
            State::FixedWindow(counter) => counter.advance(self.rate.window, self.newest, now),
            State::TokenBucket(bucket) => bucket.advance(self.rate, self.newest, now),
        }
        self.newest = now;
    }

    /// The verdict on `hits` by what counts at the newest time.
    pub fn verdict(&self, hits: u32, now: Timestamp) -> Verdict {
        let asked = hits.max(1);
        let (capacity, used) = (self.capacity(), self.used());
        let remaining = capacity.saturating_sub(used);
        let allowed = asked <= remaining;
        let retry_after = match capacity.checked_sub(asked) {
            Some(_) if allowed => Some(Duration::ZERO),
            Some(keep) => Some(self.falls_to(keep).since(now)),
            None => None,
        };
        let grows_after = match used.min(capacity).checked_sub(1) {
            Some(keep) => self.falls_to(keep).since(now),
            None => Duration::ZERO,
        };
        Verdict { allowed, remaining, retry_after, grows_after }
    }

    fn remaining(&self) -> u32 {
        self.capacity().saturating_sub(self.used())
    }

    /// The hits that pass at once when nothing is used.
    fn capacity(&self) -> u32 {
        match &self.state {
            State::TokenBucket(bucket) if self.rate.limit > 0 => bucket.burst(),
            _ => self.rate.limit,
        }
    }

    /// The hits that count at the newest time.
    pub(super) fn used(&self) -> u32 {
        match &self.state {
            State::SlidingWindow(counter) => counter.used(),
            State::FixedWindow(counter) => counter.used(),
            State::TokenBucket(bucket) => bucket.used(self.rate.window),
        }
    }

    /// The time at which no more than `keep` hits will count, where more do now.
    fn falls_to(&self, keep: u32) -> Timestamp {
        match &self.state {
            State::SlidingWindow(counter) => counter.falls_to(keep, self.rate.window, self.newest),
            State::FixedWindow(_) => FixedWindow::ends(self.rate.window, self.newest),
            State::TokenBucket(bucket) => bucket.falls_to(keep, self.rate, self.newest),
        }
    }
}
