//! The token bucket: `burst` hits can be saved up, and come back evenly at the rate.
//!
//! It is kept as a debt that drains instead of as tokens that refill: a counter that was never used and one
//! that is full again are then the same, nothing. The debt is counted in hits times the window's nanoseconds.
//! A hit adds the window's length and each nanosecond drains the limit, so no fraction is ever rounded.

use std::num::NonZeroU32;

use crate::clock::Timestamp;
use crate::policy::rate::{Rate, Window};

#[derive(Clone, Debug)]
pub(super) struct TokenBucket {
    burst: NonZeroU32,
    debt: u128,
}

impl TokenBucket {
    pub(super) fn new(burst: NonZeroU32) -> Self {
        Self { burst, debt: 0 }
    }

    /// A bucket that owes so many hits and a rest, in nanoseconds of the window.
    pub(super) fn owing(burst: NonZeroU32, window: Window, hits: u32, rest_nanos: u64) -> Self {
        Self { burst, debt: debt(hits, window).saturating_add(rest_nanos.into()) }
    }

    pub(super) fn burst(&self) -> u32 {
        self.burst.get()
    }

    pub(super) fn set_burst(&mut self, burst: NonZeroU32) {
        self.burst = burst;
    }

    /// The debt in hits. A hit that is paid back in part is owed as a whole.
    pub(super) fn used(&self, window: Window) -> u32 {
        u32::try_from(div_ceil(self.debt, window.nanos())).unwrap_or(u32::MAX)
    }

    pub(super) fn advance(&mut self, rate: Rate, from: Timestamp, to: Timestamp) {
        let drained = u128::from(to.nanos_since(from)) * u128::from(rate.limit);
        self.debt = self.debt.saturating_sub(drained);
    }

    /// Adds hits to the debt, up to the largest burst: a request that is charged twice what fits once owes it once.
    pub(super) fn charge(&mut self, window: Window, hits: u32) {
        self.debt = self.debt.saturating_add(debt(hits, window)).min(debt(u32::MAX, window));
    }

    /// The time at which no more than `keep` hits are owed, if none are added after `now`.
    pub(super) fn falls_to(&self, keep: u32, rate: Rate, now: Timestamp) -> Timestamp {
        let excess = self.debt.saturating_sub(debt(keep, rate.window));
        // A limit of 0 drains nothing, and nobody waits for it: it lets nothing pass.
        now.plus_nanos(div_ceil(excess, rate.limit.max(1).into()))
    }
}

fn debt(hits: u32, window: Window) -> u128 {
    u128::from(hits) * u128::from(window.nanos())
}

/// Rounded up, and no more than fits. Nearly every debt fits into 64 bits, whose division takes a fraction of the time.
fn div_ceil(debt: u128, by: u64) -> u64 {
    match u64::try_from(debt) {
        Ok(debt) => debt.div_ceil(by),
        Err(_) => u64::try_from(debt.div_ceil(by.into())).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::rate::{LIMIT_MAX, WINDOW_SECS_MAX};

    fn bucket(burst: u32) -> TokenBucket {
        TokenBucket::new(NonZeroU32::new(burst).unwrap())
    }

    #[test]
    fn hits_come_back_evenly_and_to_the_nanosecond() {
        // 3 per second: a hit comes back every 333 333 333 1/3 ns.
        let rate = Rate::parse("3/second").unwrap();
        let mut bucket = bucket(5);
        let start = Timestamp::from_nanos(1_000);
        bucket.charge(rate.window, 5);
        assert_eq!(bucket.used(rate.window), 5);
        for (keep, nanos) in [(4, 333_333_334), (3, 666_666_667), (2, 1_000_000_000), (0, 1_666_666_667)] {
            assert_eq!(bucket.falls_to(keep, rate, start), start.plus_nanos(nanos));
        }
        let mut now = start;
        for (nanos, used) in [(333_333_333, 5), (1, 4), (666_666_665, 3), (1, 2), (10_000_000_000, 0)] {
            bucket.advance(rate, now, now.plus_nanos(nanos));
            now = now.plus_nanos(nanos);
            assert_eq!(bucket.used(rate.window), used);
        }
    }

    #[test]
    fn the_largest_burst_and_window_do_not_overflow() {
        let window = Window::from_secs(WINDOW_SECS_MAX).unwrap();
        let rate = Rate { limit: LIMIT_MAX, window };
        let mut bucket = bucket(u32::MAX);
        bucket.charge(window, u32::MAX);
        assert_eq!(bucket.used(window), u32::MAX);
        let once = bucket.falls_to(0, rate, Timestamp::default());
        bucket.charge(window, u32::MAX);
        assert_eq!((bucket.used(window), bucket.falls_to(0, rate, Timestamp::default())), (u32::MAX, once));
        let never = Rate { limit: 0, window };
        assert_eq!(bucket.falls_to(0, never, Timestamp::default()), Timestamp::from_nanos(u64::MAX));
        bucket.advance(rate, Timestamp::default(), Timestamp::from_nanos(u64::MAX));
        assert_eq!(bucket.used(window), 0);
    }
}
