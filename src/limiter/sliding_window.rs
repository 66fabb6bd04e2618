//! The sliding window: never more than the limit in any interval of the window's length.
//!
//! ```text
//! Log (every hit, exact) -> Ring<u16> (sub-buckets, conservative) -> Ring<u32>
//! ```
//!
//! A counter begins as a log, grows when a charge does not fit, and begins again where nothing counts any more. So its
//! form depends on what it holds and not on the limit: a limit that is raised or lowered needs no care. As no more hits count than the limit
//! allows, a limit of up to 14 is always exact, and one below 65 536 never needs the wide ring.
//! Growing can let a hit count longer than before, by up to W/60, and never shorter.

use smallvec::SmallVec;

use super::sliding_log::{LOG_HITS_MAX, Log};
use super::sliding_ring::Ring;
use crate::clock::Timestamp;
use crate::policy::rate::Window;

#[derive(Clone, Debug)]
pub(super) enum SlidingWindow {
    Log(Log),
    Ring(Ring<u16>),
    /// Rare, and so boxed: it must not make the other counters larger.
    WideRing(Box<Ring<u32>>),
}

impl SlidingWindow {
    pub(super) fn new() -> Self {
        Self::Log(Log::new())
    }

    /// A log of the hits at these times, oldest first; as many as fit.
    pub(super) fn of_log(times: impl IntoIterator<Item = Timestamp>) -> Self {
        let mut log = Log::new();
        times.into_iter().for_each(|at| log.charge(1, at));
        Self::Log(log)
    }

    /// A ring of hits in sub-buckets, oldest first: the number of each sub-bucket, and its count.
    pub(super) fn of_ring(counts: impl IntoIterator<Item = (u64, u32)>) -> Self {
        let mut ring = Ring::<u32>::new();
        counts.into_iter().for_each(|(index, count)| ring.add(index, count));
        if ring.used() <= u16::MAX.into() { Self::Ring(ring.with_width()) } else { Self::WideRing(Box::new(ring)) }
    }

    pub(super) fn used(&self) -> u32 {
        match self {
            Self::Log(log) => log.used(),
            Self::Ring(ring) => ring.used(),
            Self::WideRing(ring) => ring.used(),
        }
    }

    pub(super) fn advance(&mut self, window: Window, from: Timestamp, to: Timestamp) {
        match self {
            Self::Log(log) => log.advance(window, to),
            Self::Ring(ring) => ring.advance(window, from, to),
            Self::WideRing(ring) => ring.advance(window, from, to),
        }
        if self.used() == 0 {
            // Empty, every form is the same, and only the log is exact.
            *self = Self::new();
        }
    }

    pub(super) fn charge(&mut self, window: Window, hits: u32, now: Timestamp) {
        match self {
            Self::Log(log) if log.fits(hits) => log.charge(hits, now),
            Self::Ring(ring) if ring.fits(hits) => ring.charge(window, hits, now),
            Self::WideRing(ring) => ring.charge(window, hits, now),
            Self::Log(log) => {
                *self = Self::Ring(ring_of(log, window));
                self.charge(window, hits, now);
            }
            Self::Ring(ring) => {
                *self = Self::WideRing(Box::new(ring.with_width()));
                self.charge(window, hits, now);
            }
        }
    }

    /// As [`Ring::follow`].
    pub(super) fn follow(&mut self, window: Window, current: u32, past: u32, now: Timestamp) {
        let sum = current.saturating_add(past);
        if let Self::Log(log) = self {
            *self = Self::Ring(ring_of(log, window));
        }
        match self {
            Self::Ring(ring) if sum <= u16::MAX.into() => ring.follow(window, current, past, now),
            Self::WideRing(ring) => ring.follow(window, current, past, now),
            Self::Ring(ring) => {
                let mut wide = ring.with_width();
                wide.follow(window, current, past, now);
                *self = Self::WideRing(Box::new(wide));
            }
            Self::Log(_) => {}
        }
    }

    /// The times of all hits, oldest first, and how many at each. A ring says the end of a sub-bucket for all in it.
    pub(super) fn counted(&self, window: Window, now: Timestamp) -> SmallVec<[(Timestamp, u32); LOG_HITS_MAX]> {
        match self {
            Self::Log(log) => log.times().map(|at| (at, 1)).collect(),
            Self::Ring(ring) => ring.counted(window, now).collect(),
            Self::WideRing(ring) => ring.counted(window, now).collect(),
        }
    }

    pub(super) fn falls_to(&self, keep: u32, window: Window, now: Timestamp) -> Timestamp {
        match self {
            Self::Log(log) => log.falls_to(keep, window),
            Self::Ring(ring) => ring.falls_to(keep, window, now),
            Self::WideRing(ring) => ring.falls_to(keep, window, now),
        }
    }
}

fn ring_of(log: &Log, window: Window) -> Ring<u16> {
    let mut ring = Ring::new();
    log.times().for_each(|hit| ring.charge(window, 1, hit));
    ring
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_when_a_charge_does_not_fit_and_keeps_what_was_counted() {
        let window = Window::from_secs(60).unwrap();
        let mut counter = SlidingWindow::new();
        let mut now = Timestamp::from_nanos(1_000_000_000_000);
        let mut total = 0;
        for (hits, form) in [(1, "Log"), (LOG_HITS_MAX as u32 - 1, "Log"), (1, "Ring"), (65_520, "Ring"), (1, "Wide")] {
            counter.charge(window, hits, now);
            total += hits;
            assert_eq!(counter.used(), total);
            assert!(format!("{counter:?}").starts_with(form), "{form} after {total}");
            let later = now.plus_nanos(1_500_000_000);
            counter.advance(window, now, later);
            now = later;
        }
        let later = now.plus_nanos(61_000_000_000);
        counter.advance(window, now, later);
        assert_eq!(counter.used(), 0);
    }

    #[test]
    fn a_charge_may_grow_a_log_into_a_wide_ring_at_once() {
        let window = Window::from_secs(1).unwrap();
        let mut counter = SlidingWindow::new();
        counter.charge(window, 1_000_000_000, Timestamp::from_nanos(1));
        assert_eq!(counter.used(), 1_000_000_000);
    }
}
