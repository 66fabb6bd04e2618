//! The conservative ring: counts of hits in sub-buckets of the window, the oldest of them counted in full.
//!
//! Time is cut into sub-buckets of S = ⌈W/60⌉ microseconds, and the ring holds the current one and the 60
//! before it. At a time `now` in sub-bucket `c`, a hit after `now - W` is after `now - 60 S`, so it lies in
//! sub-bucket `c - 60` or later: **every interval of length W that ends now lies inside the 61 sub-buckets
//! that are summed**. Rounding S up is what makes this exact for windows that 60 does not divide.
//!
//! The price: a hit counts for up to 61 S instead of W, so room comes back up to W/60 (and 61 us) late.

use crate::clock::Timestamp;
use crate::policy::rate::Window;

pub(super) const SUB_BUCKETS_PER_WINDOW: u64 = 60;
const RING_LEN: u64 = SUB_BUCKETS_PER_WINDOW + 1;
const NANOS_PER_MICRO: u64 = 1000;

/// The sum of a ring of `u16` is a `u16` as well: it serves limits below 65 536 with 124 bytes.
#[derive(Clone, Debug)]
pub(super) struct Ring<C> {
    /// The sum of the counts, kept up so that the usual decision reads no count.
    sum: C,
    /// The slot of the oldest sub-bucket that has hits, kept up for whoever asks when there is room again. It means nothing
    /// where none has.
    oldest: u8,
    /// Sub-bucket `i` of all time is at `i % 61`.
    counts: [C; RING_LEN as usize],
}

/// The width of a ring's counts.
pub(super) trait Count: Copy + Default + Into<u32> {
    const MAX: u32;
    /// The count for `n`, which is at most [`Self::MAX`].
    fn of(n: u32) -> Self;
}

impl Count for u16 {
    const MAX: u32 = u16::MAX as u32;
    fn of(n: u32) -> Self {
        Self::try_from(n).unwrap_or(Self::MAX)
    }
}

impl Count for u32 {
    const MAX: u32 = u32::MAX;
    fn of(n: u32) -> Self {
        n
    }
}

impl<C: Count> Ring<C> {
    pub(super) fn new() -> Self {
        Self { sum: C::default(), oldest: 0, counts: [C::default(); RING_LEN as usize] }
    }

    /// The same counts, in counts of another width that holds them.
    pub(super) fn with_width<D: Count>(&self) -> Ring<D> {
        let counts = self.counts.map(|count| D::of(count.into()));
        Ring { sum: D::of(self.sum.into()), oldest: self.oldest, counts }
    }

    pub(super) fn used(&self) -> u32 {
        self.sum.into()
    }

    /// Forgets the sub-buckets that drop out between two times.
    pub(super) fn advance(&mut self, window: Window, from: Timestamp, to: Timestamp) {
        let (from, to) = (sub_bucket(window, from), sub_bucket(window, to));
        for index in from + 1..=to.min(from + RING_LEN) {
            self.take(index, u32::MAX);
            // Its slot is that of a new one now.
            if slot(index) == usize::from(self.oldest) {
                self.oldest = next(self.oldest);
            }
        }
        if from < to {
            self.skip_empty(to);
        }
    }

    /// Finds the oldest sub-bucket that has hits, where that which was the oldest may have none any more.
    fn skip_empty(&mut self, newest: u64) {
        while usize::from(self.oldest) != slot(newest) && self.count(self.oldest) == 0 {
            self.oldest = next(self.oldest);
        }
    }

    fn count(&self, slot: u8) -> u32 {
        self.counts.get(usize::from(slot)).copied().unwrap_or_default().into()
    }

    pub(super) fn fits(&self, hits: u32) -> bool {
        hits <= C::MAX - self.used()
    }

    /// Adds hits at a time that the ring covers; as many as fit.
    pub(super) fn charge(&mut self, window: Window, hits: u32, at: Timestamp) {
        self.add(sub_bucket(window, at), hits);
    }

    /// Adds hits to a sub-bucket that the ring covers, by its number, and that is not older than all that have hits; as many
    /// as fit.
    pub(super) fn add(&mut self, index: u64, hits: u32) {
        let hits = hits.min(C::MAX - self.used());
        if self.used() == 0 {
            self.oldest = slot(index) as u8;
        }
        if let Some(count) = self.counts.get_mut(slot(index)) {
            *count = C::of((*count).into() + hits);
            self.sum = C::of(self.used() + hits);
        }
    }

    /// Makes the sub-bucket of `at` count `current` and all before it `past` together, where a store elsewhere says no more
    /// than that. What it has more than was known is taken for as new as it can be, and what it has less for as old: so the
    /// rest counts for no shorter than there.
    pub(super) fn follow(&mut self, window: Window, current: u32, past: u32, at: Timestamp) {
        let index = sub_bucket(window, at);
        self.take(index, u32::MAX);
        let known = self.used();
        self.add(index.saturating_sub(1), past.saturating_sub(known));
        let mut excess = known.saturating_sub(past);
        for older in index.saturating_sub(SUB_BUCKETS_PER_WINDOW)..index {
            if excess == 0 {
                break;
            }
            excess -= self.take(older, excess);
        }
        self.skip_empty(index);
        self.add(index, current);
    }

    /// Takes hits away from a sub-bucket that the ring covers, as many as it has. Tells how many.
    fn take(&mut self, index: u64, hits: u32) -> u32 {
        let Some(count) = self.counts.get_mut(slot(index)) else { return 0 };
        let taken = hits.min((*count).into());
        *count = C::of((*count).into() - taken);
        self.sum = C::of(self.used() - taken);
        taken
    }

    /// The sub-buckets that have hits, oldest first: the last microsecond of each, and its count.
    pub(super) fn counted(&self, window: Window, now: Timestamp) -> impl Iterator<Item = (Timestamp, u32)> {
        let newest = sub_bucket(window, now);
        let counts = (newest.saturating_sub(SUB_BUCKETS_PER_WINDOW)..=newest)
            .map(move |index| (index, self.counts.get(slot(index)).copied().unwrap_or_default().into()));
        counts
            .filter(|(_, count)| *count > 0)
            .map(move |(index, count)| (begins(window, index + 1).minus_nanos(NANOS_PER_MICRO), count))
    }

    /// The time at which no more than `keep` hits count, if none are added after `now`.
    pub(super) fn falls_to(&self, keep: u32, window: Window, now: Timestamp) -> Timestamp {
        let newest = sub_bucket(window, now);
        let (mut used, mut oldest) = (self.used(), self.oldest);
        while usize::from(oldest) != slot(newest) {
            used = used.saturating_sub(self.count(oldest));
            if used <= keep {
                break;
            }
            oldest = next(oldest);
        }
        drops_out(window, newest.saturating_sub(age(oldest, newest)))
    }
}

/// The age of the sub-bucket in a slot, in sub-buckets.
fn age(slot: u8, newest: u64) -> u64 {
    let (slot, newest) = (u64::from(slot), newest % RING_LEN);
    if slot <= newest { newest - slot } else { newest + RING_LEN - slot }
}

/// The slot of the sub-bucket after that of a slot.
fn next(slot: u8) -> u8 {
    if u64::from(slot) + 1 < RING_LEN { slot + 1 } else { 0 }
}

/// Whole microseconds, which is how finely a store of counters may know time.
pub(super) fn sub_bucket_nanos(window: Window) -> u64 {
    (window.nanos() / NANOS_PER_MICRO).div_ceil(SUB_BUCKETS_PER_WINDOW) * NANOS_PER_MICRO
}

/// The beginning of a sub-bucket.
pub(super) fn begins(window: Window, index: u64) -> Timestamp {
    Timestamp::from_nanos(index.saturating_mul(sub_bucket_nanos(window)))
}

/// The number of the sub-bucket that a time is in, counted from the Unix epoch.
fn sub_bucket(window: Window, at: Timestamp) -> u64 {
    at.as_nanos() / sub_bucket_nanos(window)
}

/// The time at which a sub-bucket counts no more: with the beginning of the one that takes its slot.
fn drops_out(window: Window, index: u64) -> Timestamp {
    begins(window, index.saturating_add(RING_LEN))
}

fn slot(index: u64) -> usize {
    (index % RING_LEN) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::rate::WINDOW_SECS_MAX;

    #[test]
    fn an_interval_of_a_windows_length_lies_inside_the_ring() {
        for secs in [1, 2, 7, 59, 60, 61, 3600, WINDOW_SECS_MAX] {
            let window = Window::from_secs(secs).unwrap();
            let nanos = sub_bucket_nanos(window);
            assert!(nanos * SUB_BUCKETS_PER_WINDOW >= window.nanos(), "{secs}");
            // The worst `now` is the last nanosecond of a sub-bucket.
            for now in [1000 * nanos, 1000 * nanos - 1] {
                let oldest = Timestamp::from_nanos(now - window.nanos());
                let now = Timestamp::from_nanos(now);
                assert!(sub_bucket(window, now) - sub_bucket(window, oldest) < RING_LEN, "{secs}");
            }
        }
    }

    #[test]
    fn a_hit_counts_until_its_sub_bucket_drops_out() {
        let window = Window::from_secs(60).unwrap();
        let secs = |secs: u64| Timestamp::from_nanos(secs * 1_000_000_000);
        let mut ring = Ring::<u16>::new();
        ring.charge(window, 3, secs(100));
        ring.charge(window, 4, secs(110));
        assert_eq!(ring.falls_to(6, window, secs(110)), secs(161));
        assert_eq!(ring.falls_to(4, window, secs(110)), secs(161));
        assert_eq!(ring.falls_to(3, window, secs(110)), secs(171));
        for (from, to, used) in [(110, 160, 7), (160, 161, 4), (161, 170, 4), (170, 100_000, 0)] {
            ring.advance(window, secs(from), secs(to));
            assert_eq!(ring.used(), used, "{to}");
        }
    }

    /// By the counts alone, whatever was kept up beside them.
    fn falls_to(ring: &Ring<u16>, keep: u32, window: Window, now: Timestamp) -> Timestamp {
        let newest = sub_bucket(window, now);
        let mut used = ring.used();
        let fallen = (newest - SUB_BUCKETS_PER_WINDOW..newest).find(|index| {
            used -= ring.count(slot(*index) as u8);
            used <= keep
        });
        drops_out(window, fallen.unwrap_or(newest))
    }

    #[test]
    fn the_oldest_hits_are_known_whatever_came_and_went() {
        let window = Window::from_secs(60).unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        let mut ring = Ring::<u16>::new();
        let mut now = Timestamp::from_nanos(1_000_000_000_000);
        for step in 0..100_000 {
            let later = now.plus_nanos(random.u64(0..=1_000_000_000) * if step % 50 == 0 { 70 } else { 4 });
            ring.advance(window, now, later);
            now = later;
            match random.u8(0..8) {
                0 => ring.follow(window, random.u32(0..3), random.u32(0..9), now),
                1..4 => ring.charge(window, random.u32(1..3), now),
                _ => {}
            }
            assert_eq!(ring.used(), ring.counts.iter().map(|count| u32::from(*count)).sum::<u32>());
            assert!(ring.used() == 0 || ring.count(ring.oldest) > 0, "{step}: {ring:?}");
            for keep in 0..ring.used() {
                assert_eq!(ring.falls_to(keep, window, now), falls_to(&ring, keep, window, now), "{step}: {ring:?}");
            }
        }
    }

    #[test]
    fn a_full_ring_neither_wraps_nor_forgets() {
        let window = Window::from_secs(1).unwrap();
        let mut ring = Ring::<u16>::new();
        ring.charge(window, 65_000, Timestamp::from_nanos(1));
        assert!(ring.fits(535) && !ring.fits(536) && !ring.fits(u32::MAX));
        ring.charge(window, u32::MAX, Timestamp::from_nanos(2));
        assert_eq!(ring.used(), 65_535);
        let mut wide = ring.with_width::<u32>();
        wide.charge(window, u32::MAX, Timestamp::from_nanos(500_000_000));
        assert_eq!(wide.used(), u32::MAX);
        wide.advance(window, Timestamp::from_nanos(500_000_000), Timestamp::from_nanos(1_100_000_000));
        assert_eq!(wide.used(), u32::MAX - 65_535);
    }

    #[test]
    fn what_a_store_has_more_is_taken_for_new_and_what_it_has_less_for_old() {
        let window = Window::from_secs(60).unwrap();
        let secs = |secs: u64| Timestamp::from_nanos(secs * 1_000_000_000);
        let mut ring = Ring::<u32>::new();
        let mut after = |current, past, now| {
            ring.follow(window, current, past, secs(now));
            ring.counted(window, secs(now)).map(|(at, count)| (at.as_secs(), count)).collect::<Vec<_>>()
        };
        assert_eq!(after(3, 4, 100), [(99, 4), (100, 3)]);
        assert_eq!(after(5, 4, 100), [(99, 4), (100, 5)], "only the present has changed");
        assert_eq!(after(1, 12, 103), [(99, 4), (100, 5), (102, 3), (103, 1)]);
        assert_eq!(after(1, 7, 103), [(100, 4), (102, 3), (103, 1)]);
        assert_eq!(after(0, 0, 103), []);
        let hits = ring.used();
        assert_eq!(hits, 0);
    }

    #[test]
    fn the_ends_of_time_do_not_overflow() {
        let window = Window::from_secs(1).unwrap();
        let end = Timestamp::from_nanos(u64::MAX);
        let mut ring = Ring::<u32>::new();
        ring.charge(window, 1, end);
        assert_eq!(ring.falls_to(0, window, end), end);
        ring.advance(window, Timestamp::default(), end);
        assert_eq!(ring.used(), 0);
    }
}
