//! The state of a counter that a store elsewhere keeps, in its own words, and the cell that it stands for.
//!
//! Such a store decides by the same rules as a [`Cell`], in whole microseconds, and answers with what it counts. The cell
//! that is made of it then says what remains and for how long, so that these rules are written once.

use std::time::Duration;

use smallvec::SmallVec;

use super::algorithm::{Cell, State};
use super::fixed_window::FixedWindow;
use super::sliding_log::LOG_HITS_MAX;
use super::sliding_ring;
use super::sliding_window::SlidingWindow;
use super::token_bucket::TokenBucket;
use crate::clock::Timestamp;
use crate::policy::limit::Algorithm;
use crate::policy::rate::{Rate, Window};

/// The sub-buckets before the current one, each of the window's 60th part.
pub const SLOTS: usize = sliding_ring::SUB_BUCKETS_PER_WINDOW as usize;

/// The length of a sub-bucket.
pub fn sub_bucket(window: Window) -> Duration {
    Duration::from_nanos(sliding_ring::sub_bucket_nanos(window))
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kept {
    Nothing,
    /// A sliding window's hits by their times, oldest first.
    Log(SmallVec<[Timestamp; LOG_HITS_MAX]>),
    /// A sliding window's hits by sub-bucket.
    Ring(KeptRing),
    FixedWindow {
        /// The number of the window, counted from the Unix epoch.
        number: u64,
        count: u32,
    },
    TokenBucket {
        newest: Timestamp,
        /// The limit that drained it until then.
        limit: u32,
        hits: u32,
        rest_nanos: u64,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct KeptRing {
    /// The number of the current sub-bucket, counted from the Unix epoch.
    pub index: u64,
    /// The age of the oldest sub-bucket that has a hit, in sub-buckets.
    pub oldest: u64,
    pub sum: u32,
    pub current: u32,
    /// The counts of the sub-buckets before, that of number `n` at `n % 60`. Left out where all that is asked for is
    /// what remains, and when that begins to grow.
    pub slots: Option<Box<[u32; SLOTS]>>,
}

impl Kept {
    /// The time that the newest hits are counted at: their own, or where they are in a sub-bucket or a window, its begin.
    pub fn counted_at(&self, window: Window) -> Timestamp {
        match self {
            Self::Nothing => Timestamp::default(),
            Self::Log(times) => times.last().copied().unwrap_or_default(),
            Self::Ring(ring) => sliding_ring::begins(window, ring.index),
            Self::FixedWindow { number, .. } => FixedWindow::begins(window, *number),
            Self::TokenBucket { newest, .. } => *newest,
        }
    }

    /// The cell that it stands for.
    pub fn into_cell(self, rate: Rate, algorithm: Algorithm) -> Cell {
        let window = rate.window;
        match (self, algorithm) {
            (Self::Log(times), Algorithm::SlidingWindow) => {
                let newest = times.last().copied().unwrap_or_default();
                Cell::of(rate, newest, State::SlidingWindow(SlidingWindow::of_log(times)))
            }
            (Self::Ring(ring), Algorithm::SlidingWindow) => {
                let state = State::SlidingWindow(SlidingWindow::of_ring(ring.counts()));
                Cell::of(rate, sliding_ring::begins(window, ring.index), state)
            }
            (Self::FixedWindow { number, count }, Algorithm::FixedWindow) => {
                let state = State::FixedWindow(FixedWindow::of(count));
                Cell::of(rate, FixedWindow::begins(window, number), state)
            }
            (Self::TokenBucket { newest, limit, hits, rest_nanos }, Algorithm::TokenBucket { burst }) => {
                let state = State::TokenBucket(TokenBucket::owing(burst, window, hits, rest_nanos));
                Cell::of(Rate { limit, window }, newest, state)
            }
            // A key names its algorithm, so that no other can be there.
            _ => Cell::new(rate, algorithm, Timestamp::default()),
        }
    }
}

impl Cell {
    /// Takes for its own what a store elsewhere counts. An answer that is older than what is known is left out.
    ///
    /// A ring says in which sub-buckets its hits are only where somebody waits for them. Else they stay where they were seen
    /// when they were new.
    pub fn follow(&mut self, kept: &Kept, rate: Rate, algorithm: Algorithm) {
        let ring = match kept {
            Kept::Ring(ring) if ring.slots.is_none() => ring,
            _ => return *self = kept.clone().into_cell(rate, algorithm),
        };
        let (window, at) = (rate.window, sliding_ring::begins(rate.window, ring.index));
        self.advance(at);
        let is_older = self.newest >= sliding_ring::begins(window, ring.index.saturating_add(1));
        if let State::SlidingWindow(counter) = &mut self.state
            && !is_older
        {
            counter.follow(window, ring.current, ring.sum.saturating_sub(ring.current), at);
        }
    }

    /// The times of the hits that count, oldest first, and how many at each: what a store elsewhere has to add to count the
    /// same. None of them counts for shorter there.
    pub fn counted(&self) -> SmallVec<[(Timestamp, u32); LOG_HITS_MAX]> {
        match &self.state {
            State::SlidingWindow(counter) => counter.counted(self.rate.window, self.newest),
            _ => std::iter::once((self.newest, self.used())).filter(|(_, hits)| *hits > 0).collect(),
        }
    }
}

impl KeptRing {
    /// The sub-buckets' numbers and counts, oldest first. Without slots, all hits before the current sub-bucket are in the
    /// oldest.
    fn counts(&self) -> SmallVec<[(u64, u32); SLOTS + 1]> {
        let mut counts = SmallVec::new();
        match &self.slots {
            Some(slots) => {
                let numbers = (1..=SLOTS as u64).rev().map(|age| self.index.wrapping_sub(age));
                counts.extend(numbers.map(|number| {
                    let count = slots.get((number % SLOTS as u64) as usize);
                    (number, count.copied().unwrap_or_default())
                }));
            }
            None => counts.push((self.index.saturating_sub(self.oldest), self.sum.saturating_sub(self.current))),
        }
        counts.push((self.index, self.current));
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_from_elsewhere_has_room_again_when_its_oldest_hits_are_gone() {
        let rate = Rate::parse("10/minute").unwrap();
        let index = 1_000;
        let mut slots = Box::new([0; SLOTS]);
        for (age, count) in [(50, 2), (3, 4), (1, 1)] {
            slots[((index - age) % SLOTS as u64) as usize] = count;
        }
        let ring = KeptRing { index, oldest: 50, sum: 10, current: 3, slots: Some(slots) };
        let now = sliding_ring::begins(rate.window, index);
        let cell = Kept::Ring(ring).into_cell(rate, Algorithm::SlidingWindow);
        let verdict = cell.verdict(1, now);
        // In sub-buckets of a second: what is 50 of them old is counted for 11 more.
        assert_eq!((verdict.remaining, verdict.grows_after), (0, Duration::from_secs(11)));
        assert_eq!(cell.verdict(3, now).retry_after, Some(Duration::from_secs(58)));
    }
}
