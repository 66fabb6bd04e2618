//! Who has the largest part of a stream, in places for so many: what Misra and Gries count ("Finding repeated elements", 1982),
//! with weights, and forgetting the smaller half at once.
//!
//! Whoever has a place is counted exactly from when he got it. Before that he may have been counted and forgotten: no more than
//! `missed`, which is what those had at most who were forgotten last. In a stream of weight N that is no more than
//! N / (PLACES + 1): each time the bound grows by d, there are so many who have d more each, and all of that is of
//! the stream. So whoever has more than this in all has a place for sure.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::AddAssign;

/// So many keep their places when there is no room. There are twice as many, so that it happens seldom.
pub(super) const PLACES: usize = 256;
pub(super) const PLACES_MAX: usize = 2 * PLACES;

/// What is large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    Decisions,
    Denied,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub decisions: u64,
    pub denied: u64,
}

#[derive(Debug)]
pub(super) struct Sketch<K, N> {
    by: Measure,
    places: HashMap<K, Place<N>>,
    /// What a place had at most that was taken away.
    missed_max: u64,
}

#[derive(Debug)]
struct Place<N> {
    name: N,
    counts: Counts,
    /// What may have come before it had a place.
    missed: u64,
}

impl<K: Hash + Eq + Clone, N> Sketch<K, N> {
    /// Counts something. Who has no place gets one, where there is something of the measure.
    pub(super) fn add(&mut self, key: &K, counts: Counts, name: impl FnOnce() -> N) {
        if let Some(place) = self.places.get_mut(key) {
            place.counts += counts;
            return;
        }
        if counts.of(self.by) == 0 {
            return;
        }
        if self.places.len() >= PLACES_MAX {
            self.make_room();
        }
        self.places.insert(key.clone(), Place { name: name(), counts, missed: self.missed_max });
    }

    fn make_room(&mut self) {
        let by = self.by;
        let all = |place: &Place<N>| place.missed + place.counts.of(by);
        let mut sizes: Vec<u64> = self.places.values().map(all).collect();
        let (_, missed_max, _) = sizes.select_nth_unstable_by(PLACES, |a, b| b.cmp(a));
        self.missed_max = *missed_max;
        self.places.retain(|_, place| all(place) > self.missed_max);
    }
}

impl<K: Hash + Eq, N> Sketch<K, N> {
    pub(super) fn counts(&self, key: &K) -> Option<Counts> {
        self.places.get(key).map(|place| place.counts)
    }
}

impl<K, N> Sketch<K, N> {
    pub(super) fn new(by: Measure) -> Self {
        Self { by, places: HashMap::new(), missed_max: 0 }
    }

    /// What anybody's counts may lack.
    pub(super) fn missed_max(&self) -> u64 {
        self.missed_max
    }

    pub(super) fn places(&self) -> impl Iterator<Item = (&K, Counts, &N)> {
        self.places.iter().map(|(key, place)| (key, place.counts, &place.name))
    }
}

impl Measure {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Decisions => Self::Denied,
            Self::Denied => Self::Decisions,
        }
    }
}

impl Counts {
    pub(super) fn of_decisions(weight: u32, is_denied: bool) -> Self {
        let decisions = weight.into();
        Self { decisions, denied: if is_denied { decisions } else { 0 } }
    }

    pub(super) fn of(self, measure: Measure) -> u64 {
        match measure {
            Measure::Decisions => self.decisions,
            Measure::Denied => self.denied,
        }
    }

    /// Of two counts of the same decisions, neither of which has too many.
    pub(super) fn max(self, other: Self) -> Self {
        Self { decisions: self.decisions.max(other.decisions), denied: self.denied.max(other.denied) }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.decisions += other.decisions;
        self.denied += other.denied;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Stream = Vec<(u64, u32)>;

    /// Holds the sketch to what is promised of it, whatever came.
    fn check(stream: &Stream) -> Sketch<u64, ()> {
        let mut sketch = Sketch::new(Measure::Decisions);
        let mut truth: HashMap<u64, u64> = HashMap::new();
        for (key, weight) in stream {
            sketch.add(key, Counts::of_decisions(*weight, false), || ());
            *truth.entry(*key).or_default() += u64::from(*weight);
            assert!(sketch.places.len() <= PLACES_MAX);
        }
        let all: u64 = truth.values().sum();
        let error_max = all / (PLACES as u64 + 1);
        assert!(sketch.missed_max() <= error_max, "{} of {error_max}", sketch.missed_max());
        for (key, own) in truth {
            let counted = sketch.counts(&key).unwrap_or_default().decisions;
            assert!(counted <= own && own - counted <= sketch.missed_max(), "{key}: {counted} of {own}");
        }
        sketch
    }

    fn drawn(count: usize, mut draw: impl FnMut() -> u64) -> Stream {
        fastrand::seed(7);
        (0..count).map(|_| (draw(), 1 + fastrand::u32(0..3))).collect()
    }

    #[test]
    fn of_a_stream_as_tenants_are_the_largest_are_counted_nearly_exactly() {
        // Zipf: the inverse of the sum of 1/k, up to a hundred thousand of them.
        let zipf = drawn(200_000, || (100_000_f64.powf(fastrand::f64())) as u64);
        let sketch = check(&zipf);
        let mut largest: Vec<_> = sketch.places().map(|(key, counts, ())| (counts.decisions, *key)).collect();
        largest.sort_unstable_by(|a, b| b.cmp(a));
        let keys: Vec<u64> = largest.iter().take(5).map(|(_, key)| *key).collect();
        assert_eq!(keys, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn of_a_stream_in_which_nobody_is_large_the_error_stays_within_its_bound() {
        check(&drawn(200_000, || fastrand::u64(0..100_000)));
        // Nobody comes twice.
        check(&(0..50_000).map(|key| (key, 1)).collect());
        // All who have a place have the same.
        check(&(0..5_000).flat_map(|round| (0..40).map(move |key| (key + 40 * (round % 20), 1))).collect());
    }

    #[test]
    fn who_comes_after_a_flood_of_others_is_seen_as_well_as_who_was_there_before() {
        let flood = |from: u64| (from..from + 20_000).map(|key| (key, 1));
        let many = |key| std::iter::repeat_n((key, 1), 2_000);
        let stream: Stream = many(1_000_001).chain(flood(0)).chain(many(1_000_002)).chain(flood(20_000)).collect();
        let sketch = check(&stream);
        assert_eq!(sketch.counts(&1_000_001).unwrap().decisions, 2_000, "it always had a place");
        assert_eq!(sketch.counts(&1_000_002).unwrap().decisions, 2_000, "from its first on");
    }

    #[test]
    fn where_there_is_room_for_all_everything_is_exact() {
        let sketch = check(&drawn(100_000, || fastrand::u64(0..PLACES_MAX as u64)));
        assert_eq!(sketch.missed_max(), 0);
    }

    #[test]
    fn who_is_never_denied_has_no_place_among_the_denied() {
        let mut sketch = Sketch::new(Measure::Denied);
        sketch.add(&1, Counts::of_decisions(5, false), || ());
        assert_eq!(sketch.counts(&1), None);
        sketch.add(&1, Counts::of_decisions(5, true), || ());
        sketch.add(&1, Counts::of_decisions(7, false), || ());
        assert_eq!(sketch.counts(&1), Some(Counts { decisions: 12, denied: 5 }));
    }
}
