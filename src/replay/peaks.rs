//! How busy the counters of a limit were, from which its number can be found.
//!
//! For each counter, the most hits that any window of the limit's length held, whatever was admitted. A limit that is no less
//! would have denied that counter nothing. APIs are also looked at as if they had limits: of all requests, by tenant and
//! by client, a minute each.
//!
//! Memory is bounded: of a limit with many counters a part is looked at, which is chosen by the counters' hashes.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};

use super::entry::Entry;
use super::report::LimitName;
use crate::clock::Timestamp;
use crate::explain::Explanation;

/// The most counters of one limit that are looked at.
const COUNTERS_MAX: usize = 4096;
/// The most limits.
const LIMITS_MAX: usize = 1024;
/// A window is looked at in so many parts, and counted as if it were one part longer.
const PARTS: usize = 10;
const MINUTE_NANOS: u64 = 60 * 1_000_000_000;

#[derive(Debug, Default)]
pub struct Peaks {
    limits: BTreeMap<Limit, Counters>,
    seed: RandomState,
    /// True where there are more limits than are looked at.
    pub is_cut: bool,
}

/// A limit that there is, or one that there could be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    Existing(LimitName),
    Possible { api: String, by: &'static str },
}

#[derive(Debug)]
struct Counters {
    window_nanos: u64,
    busy: HashMap<u64, Busy>,
    /// Counters are looked at whose hash ends with so many zeros.
    zeros: u32,
}

#[derive(Clone, Debug)]
struct Busy {
    part: u64,
    hits: [u32; PARTS + 1],
    sum: u32,
    peak: u32,
}

/// The busiest windows of a limit's counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub limit: Limit,
    /// The counters that were looked at, and the number of which they are one each.
    pub counters: usize,
    pub one_of: u64,
    /// The hits in the busiest window of a counter, by counters: the 50th, 90th and 99th percentile, and the most.
    pub p50: u32,
    pub p90: u32,
    pub p99: u32,
    pub most: u32,
}

impl Peaks {
    pub(super) fn note(&mut self, explanation: &Explanation, entry: &Entry) {
        for limit in &explanation.limits {
            let name = Limit::Existing(LimitName::of(limit, explanation));
            let window = limit.charge.rate.window.nanos();
            let counter = self.seed.hash_one(limit.charge.key.as_u128());
            self.count(name, window, counter, limit.charge.hits, entry.at);
        }
        let Some(api) = explanation.api.as_ref().filter(|_| !explanation.preflight) else { return };
        let client = entry.request.client_ip.to_string();
        let possible =
            [("", Some("")), ("tenant", explanation.tenant.as_deref()), ("client_ip", Some(client.as_str()))];
        for (by, value) in possible {
            let Some(value) = value else { continue };
            let name = Limit::Possible { api: api.clone(), by };
            self.count(name, MINUTE_NANOS, self.seed.hash_one(value), 1, entry.at);
        }
    }

    fn count(&mut self, limit: Limit, window_nanos: u64, counter: u64, hits: u32, at: Timestamp) {
        if self.limits.len() >= LIMITS_MAX && !self.limits.contains_key(&limit) {
            self.is_cut = true;
            return;
        }
        let counters = self.limits.entry(limit).or_insert_with(|| Counters::new(window_nanos));
        counters.count(counter, hits, at);
    }

    pub fn summaries(&self) -> impl Iterator<Item = Summary> {
        self.limits.iter().map(|(limit, counters)| counters.summary(limit.clone()))
    }
}

impl Counters {
    fn new(window_nanos: u64) -> Self {
        Self { window_nanos, busy: HashMap::new(), zeros: 0 }
    }

    fn count(&mut self, counter: u64, hits: u32, at: Timestamp) {
        if counter.trailing_zeros() < self.zeros {
            return;
        }
        let part = at.as_nanos() / (self.window_nanos / PARTS as u64).max(1);
        self.busy.entry(counter).or_insert_with(|| Busy::new(part)).count(part, hits);
        while self.busy.len() > COUNTERS_MAX {
            self.zeros += 1;
            let zeros = self.zeros;
            self.busy.retain(|counter, _| counter.trailing_zeros() >= zeros);
        }
    }

    fn summary(&self, limit: Limit) -> Summary {
        let mut peaks: Vec<u32> = self.busy.values().map(|busy| busy.peak).collect();
        peaks.sort_unstable();
        let percentile = |percent: usize| {
            let place = (peaks.len() * percent).div_ceil(100).saturating_sub(1);
            peaks.get(place).copied().unwrap_or(0)
        };
        Summary {
            limit,
            counters: peaks.len(),
            one_of: 1_u64.checked_shl(self.zeros).unwrap_or(u64::MAX),
            p50: percentile(50),
            p90: percentile(90),
            p99: percentile(99),
            most: percentile(100),
        }
    }
}

impl Busy {
    fn new(part: u64) -> Self {
        Self { part, hits: [0; PARTS + 1], sum: 0, peak: 0 }
    }

    fn count(&mut self, part: u64, hits: u32) {
        let passed = part.saturating_sub(self.part).min(PARTS as u64 + 1);
        for _ in 0..passed {
            self.part += 1;
            self.forget_oldest();
        }
        self.part = self.part.max(part);
        let place = (self.part % (PARTS as u64 + 1)) as usize;
        if let Some(current) = self.hits.get_mut(place) {
            *current = current.saturating_add(hits);
        }
        self.sum = self.sum.saturating_add(hits);
        self.peak = self.peak.max(self.sum);
    }

    /// The place of the current part was that of the one which is now too old.
    fn forget_oldest(&mut self) {
        let place = (self.part % (PARTS as u64 + 1)) as usize;
        if let Some(oldest) = self.hits.get_mut(place) {
            self.sum = self.sum.saturating_sub(std::mem::take(oldest));
        }
    }
}

impl Summary {
    /// A number that would have denied nothing to 99 of 100 counters: their busiest window, a fifth more, in two digits.
    pub fn suggested(&self) -> u32 {
        let wanted = u64::from(self.p99) * 6 / 5 + 1;
        let unit = 10_u64.pow(wanted.ilog10().saturating_sub(1));
        u32::try_from(wanted.div_ceil(unit) * unit).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(tenths: u64) -> Timestamp {
        Timestamp::from_nanos(tenths * SECOND / 10)
    }

    #[test]
    fn a_counter_is_as_busy_as_its_busiest_window() {
        let mut counters = Counters::new(SECOND);
        for (time, hits) in [(0, 3), (5, 4), (10, 2), (11, 1), (40, 6), (1_000, 1)] {
            counters.count(1, hits, at(time));
        }
        let summary = counters.summary(Limit::Possible { api: "a".to_owned(), by: "" });
        assert_eq!((summary.counters, summary.most), (1, 9), "3 + 4 + 2: a window may begin anywhere within a part");
    }

    #[test]
    fn a_jump_of_any_length_leaves_nothing_behind() {
        for passed in [11, 12, 22, 10_000, u64::MAX / SECOND] {
            let mut busy = Busy::new(0);
            busy.count(0, 5);
            busy.count(passed, 1);
            assert_eq!((busy.sum, busy.peak), (1, 5), "{passed}");
            busy.count(passed - 1, 1);
            assert_eq!(busy.sum, 2, "what comes late counts with the last");
        }
    }

    #[test]
    fn of_many_counters_a_part_is_looked_at_evenly() {
        let (mut counters, seed) = (Counters::new(SECOND), RandomState::new());
        for counter in 0..100_000_u32 {
            counters.count(seed.hash_one(counter), 1 + counter % 100, at(0));
        }
        let summary = counters.summary(Limit::Possible { api: "a".to_owned(), by: "tenant" });
        assert!(counters.busy.len() <= COUNTERS_MAX && summary.one_of >= 16);
        assert!((35..=65).contains(&summary.p50) && summary.p99 >= 95, "{summary:?}");
    }

    #[test]
    fn a_suggestion_is_somewhat_more_than_99_of_100_counters_had() {
        let of = |p99| {
            let limit = Limit::Possible { api: "a".to_owned(), by: "" };
            Summary { limit, counters: 1, one_of: 1, p50: 0, p90: 0, p99, most: p99 }.suggested()
        };
        assert_eq!([0, 1, 5, 9, 10, 88, 1234, u32::MAX].map(of), [1, 2, 7, 11, 13, 110, 1500, u32::MAX]);
    }
}
