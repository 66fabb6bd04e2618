//! The hits that this replica admitted by itself and the store has not counted yet, by counter and by when they were.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::counters::redis::Settlement;
use crate::limiter::algorithm::Cell;
use crate::limiter::key::CounterKey;
use crate::limiter::{Algorithm, Charge, Rate};

/// Enough that requests seldom meet, and that a table that grows keeps nobody waiting.
const SHARDS: usize = 64;

#[derive(Debug)]
pub struct Owed {
    shards: [Mutex<HashMap<CounterKey, Debt>>; SHARDS],
    /// The most counters of a shard.
    keys_max: usize,
    /// Hits of counters that had no room here: the store will never count them.
    dropped: AtomicU64,
}

/// The hits of one counter.
#[derive(Clone, Debug)]
pub struct Debt {
    key: CounterKey,
    rate: Rate,
    algorithm: Algorithm,
    /// It counts as the counter itself does, so that what leaves its window is owed no more.
    cell: Cell,
    /// As many hits in the cell are one hit of this replica. More than one only for a token bucket: all replicas' hits drain
    /// it together.
    unit: u32,
}

impl Owed {
    pub fn new(keys_max: usize) -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        Self { shards, keys_max: keys_max.div_ceil(SHARDS), dropped: AtomicU64::new(0) }
    }

    /// Adds the hits of a charge that was admitted, as one of `unit` replicas. `of_all` is the charge for all of them, after
    /// which `remaining` hits were left.
    pub fn add(&self, charge: &Charge, of_all: &Charge, unit: u32, remaining: u32, now: Timestamp) {
        let mut debts = self.shard(charge.key).lock();
        let is_full = debts.len() >= self.keys_max;
        let debt = match debts.entry(charge.key) {
            Entry::Occupied(debt) => debt.into_mut(),
            Entry::Vacant(_) if is_full => {
                self.dropped.fetch_add(charge.hits.into(), Ordering::Relaxed);
                return;
            }
            Entry::Vacant(place) => place.insert(Debt::new(charge, of_all, unit, remaining, now)),
        };
        debt.cell.charge(charge.hits.saturating_mul(debt.unit), now);
    }

    /// Takes the debts of all counters out of here, some at a time.
    pub fn take(&self) -> impl Iterator<Item = Vec<Debt>> {
        let of_shard = |shard: &Mutex<HashMap<_, _>>| std::mem::take(&mut *shard.lock());
        self.shards.iter().map(of_shard).filter(|debts| !debts.is_empty()).map(|debts| debts.into_values().collect())
    }

    /// Takes debts back that the store did not settle.
    pub fn put_back(&self, debts: Vec<Debt>) {
        for mut debt in debts {
            match self.shard(debt.key).lock().entry(debt.key) {
                Entry::Vacant(place) => _ = place.insert(debt),
                Entry::Occupied(mut since) => {
                    for (at, hits) in since.get().cell.counted() {
                        debt.cell.charge(hits, at);
                    }
                    since.insert(debt);
                }
            }
        }
    }

    /// The hits that were dropped since this was asked last.
    pub fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }

    fn shard(&self, key: CounterKey) -> &Mutex<HashMap<CounterKey, Debt>> {
        let index = key.as_u128() as usize % SHARDS;
        self.shards.get(index).expect("a rest is less than what it was divided by")
    }
}

impl Debt {
    fn new(charge: &Charge, of_all: &Charge, unit: u32, remaining: u32, now: Timestamp) -> Self {
        let Charge { key, rate, algorithm, .. } = *charge;
        let (unit, begins) = match algorithm {
            Algorithm::SlidingWindow | Algorithm::FixedWindow => (1, Timestamp::default()),
            // The store drains what it has of the bucket all the while. This replica's hits begin to drain after that.
            Algorithm::TokenBucket { .. } => {
                let before = of_all.capacity().saturating_sub(remaining).saturating_sub(of_all.hits);
                (unit, now.plus_nanos(drains_within(before, rate)))
            }
        };
        Self { key, rate, algorithm, cell: Cell::new(rate, algorithm, begins), unit }
    }

    pub fn key(&self) -> CounterKey {
        self.key
    }

    /// What the store has to add.
    pub fn settlements(&mut self, now: Timestamp) -> impl Iterator<Item = Settlement> {
        // Time passes for it.
        self.cell.is_idle(now);
        let Self { key, rate, algorithm, unit, .. } = *self;
        self.cell.counted().into_iter().map(move |(at, hits)| {
            let hits = hits.div_ceil(unit);
            Settlement { key, rate, algorithm, at, hits: hits.into() }
        })
    }
}

/// The nanoseconds in which so many hits drain from a token bucket.
fn drains_within(hits: u32, rate: Rate) -> u64 {
    let nanos = u128::from(hits) * u128::from(rate.window.nanos()) / u128::from(rate.limit.max(1));
    u64::try_from(nanos).unwrap_or(u64::MAX)
}
