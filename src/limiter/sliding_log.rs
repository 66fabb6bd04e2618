//! The exact sliding window: the time of every hit that still counts.

use crate::clock::Timestamp;
use crate::policy::rate::Window;

/// As many hits as make a log no larger than a [`Ring`](super::sliding_ring::Ring) of small counts.
pub(super) const LOG_HITS_MAX: usize = 14;

/// A hit at `t` counts until just before `t + window`.
#[derive(Clone, Debug)]
pub(super) struct Log {
    /// Oldest first. Only the first `len` mean anything.
    times: [Timestamp; LOG_HITS_MAX],
    len: u8,
}

impl Log {
    pub(super) fn new() -> Self {
        Self { times: [Timestamp::default(); LOG_HITS_MAX], len: 0 }
    }

    pub(super) fn used(&self) -> u32 {
        self.len.into()
    }

    pub(super) fn times(&self) -> impl DoubleEndedIterator<Item = Timestamp> {
        self.times.iter().copied().take(self.len.into())
    }

    /// Forgets what no longer counts at `now`.
    pub(super) fn advance(&mut self, window: Window, now: Timestamp) {
        let expired = self.times().take_while(|hit| now.nanos_since(*hit) >= window.nanos()).count();
        if expired > 0 {
            self.times.rotate_left(expired);
            self.len -= expired as u8; // at most `len`
        }
    }

    pub(super) fn fits(&self, hits: u32) -> bool {
        self.used().saturating_add(hits) <= LOG_HITS_MAX as u32
    }

    /// Adds hits that fit, at a time that is no earlier than the last.
    pub(super) fn charge(&mut self, hits: u32, now: Timestamp) {
        for time in self.times.iter_mut().skip(self.len.into()).take(hits as usize) {
            *time = now;
            self.len += 1;
        }
    }

    /// The time at which no more than `keep` hits count: when the one before the newest `keep` expires.
    pub(super) fn falls_to(&self, keep: u32, window: Window) -> Timestamp {
        self.times().rev().nth(keep as usize).map_or(Timestamp::default(), |hit| hit.plus_nanos(window.nanos()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW_NANOS: u64 = 1_000_000_000;

    fn log(times: &[u64]) -> Log {
        let mut log = Log::new();
        for time in times {
            log.charge(1, Timestamp::from_nanos(*time));
        }
        log
    }

    #[test]
    fn a_hit_counts_for_exactly_one_window() {
        let window = Window::from_secs(1).unwrap();
        let mut log = log(&[5, 6, 6, 9]);
        for (now, used) in [(9, 4), (4 + WINDOW_NANOS, 4), (5 + WINDOW_NANOS, 3), (6 + WINDOW_NANOS, 1)] {
            log.advance(window, Timestamp::from_nanos(now));
            assert_eq!(log.used(), used, "{now}");
        }
        log.charge(2, Timestamp::from_nanos(20 + WINDOW_NANOS));
        assert_eq!(log.times().map(Timestamp::as_nanos).collect::<Vec<_>>(), [9, 1_000_000_020, 1_000_000_020]);
    }

    #[test]
    fn room_comes_back_when_the_oldest_hits_expire() {
        let window = Window::from_secs(1).unwrap();
        let log = log(&[5, 6, 9]);
        for (keep, nanos) in [(2, 5), (1, 6), (0, 9)] {
            assert_eq!(log.falls_to(keep, window), Timestamp::from_nanos(nanos + WINDOW_NANOS));
        }
    }

    #[test]
    fn it_holds_no_more_than_fits() {
        let mut log = log(&[0; LOG_HITS_MAX - 1]);
        assert!(log.fits(1) && !log.fits(2) && !log.fits(u32::MAX));
        log.charge(u32::MAX, Timestamp::from_nanos(1));
        assert_eq!(log.used(), LOG_HITS_MAX as u32);
    }
}
