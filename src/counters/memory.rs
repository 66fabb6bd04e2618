//! Counters in this process.
//!
//! The keys are spread over shards, each under a lock of its own. A request takes the locks of all its keys'
//! shards before it asks the first, always in ascending order, and keeps them until the last is charged.
//! So it sees and changes its counters as one step, and no two requests wait for each other in a circle.
//!
//! Memory is bounded by the number of keys. A key whose counter holds no more than 65 535 hits, as every key
//! of a lower limit does, takes at most 192 bytes; `table` tells how. One that holds more takes another 248.
//! Keys that count nothing any more are dropped by [`Memory::sweep`]; what happens to the others when there
//! are too many, `shard` tells.

mod shard;
mod table;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use super::{Admission, OnError, Outcome};
use crate::clock::Timestamp;
use crate::limiter::kept::Kept;
use crate::limiter::key::CounterKey;
use crate::limiter::{Charge, Usage, Verdict};
use shard::Shard;

/// The usual number of shards: enough that many threads seldom meet.
const SHARDS: usize = 256;
/// The fewest keys of a shard, or chance would fill some shards long before the others.
const KEYS_PER_SHARD_MIN: usize = 1024;
/// The most keys of a shard: a table that grows puts all its keys into new places under the shard's lock.
const KEYS_PER_SHARD_MAX: usize = 16_384;

#[derive(Clone, Copy, Debug)]
pub struct MemoryLimits {
    /// The most keys. They are shared out to the shards evenly, so the first shard may be full when a few percent are
    /// left.
    pub keys_max: usize,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self { keys_max: 1_000_000 }
    }
}

pub struct Memory {
    /// Plain mutexes: even a question moves its counter on to the present, so there are no readers.
    shards: Box<[Mutex<Shard>]>,
    /// The shard that is being swept.
    swept: AtomicUsize,
    keys_max: usize,
}

/// Not what it holds: that may be a million counters.
impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("keys_max", &self.keys_max).finish_non_exhaustive()
    }
}

impl Memory {
    pub fn new(limits: MemoryLimits) -> Self {
        let small = (limits.keys_max / KEYS_PER_SHARD_MIN).clamp(1, SHARDS);
        let shards = limits.keys_max.div_ceil(KEYS_PER_SHARD_MAX).max(small);
        let keys_of_shard = limits.keys_max / shards;
        let shards = (0..shards).map(|_| Mutex::new(Shard::new(keys_of_shard))).collect();
        Self { shards, swept: AtomicUsize::new(0), keys_max: limits.keys_max }
    }

    /// [`Counters::admit`](super::Counters::admit), at once.
    pub fn admit(&self, charges: &[Charge], now: Timestamp, on_error: OnError) -> Admission {
        self.admit_in_units(1, charges, now, on_error)
    }

    /// The same where a request comes in units of so many hits: a look asks whether one unit would pass.
    pub fn admit_in_units(&self, unit: u32, charges: &[Charge], now: Timestamp, on_error: OnError) -> Admission {
        let mut shards = self.lock(charges);
        let asked = |key| hits_of_key(charges, key).max(unit);
        let judge = |charge: &Charge| shards.of(charge.key).judge(charge, asked(charge.key), now);
        let mut outcomes: SmallVec<_> = charges.iter().map(judge).map(Outcome::Judged).collect();
        let all_allow = enforced(charges, &outcomes).all(is_allowed);

        for (charge, outcome) in charges.iter().zip(&mut outcomes) {
            let to_count = is_allowed(*outcome) && (all_allow || !charge.is_enforced());
            if to_count && !shards.of(charge.key).reserve(charge, charges, now) {
                *outcome = Outcome::NoRoom;
            }
        }
        let no_room_denies = on_error == OnError::Deny && enforced(charges, &outcomes).any(|o| o == Outcome::NoRoom);
        let admitted = all_allow && !no_room_denies;

        for (charge, outcome) in charges.iter().zip(&mut outcomes) {
            let to_count = is_allowed(*outcome) && (admitted || !charge.is_enforced());
            if to_count && let Some(verdict) = shards.of(charge.key).charge(charge, now) {
                *outcome = Outcome::Judged(verdict);
            }
        }
        Admission { admitted, outcomes }
    }

    /// The verdict that [`Memory::admit`] would hear from this limit alone. Charges nothing.
    pub fn peek(&self, charge: &Charge, now: Timestamp) -> Verdict {
        self.shard(self.index_of(charge.key)).lock().judge(charge, charge.hits, now)
    }

    /// What a counter counts now. `None` where there is none. Charges nothing.
    pub fn look(&self, charge: &Charge, now: Timestamp) -> Option<Usage> {
        self.shard(self.index_of(charge.key)).lock().look(charge, now)
    }

    /// Takes over what a store elsewhere counts for a charge's counter, where there is room for it.
    pub fn follow(&self, charge: &Charge, kept: &Kept, now: Timestamp) {
        self.shard(self.index_of(charge.key)).lock().follow(charge, kept, now);
    }

    /// Forgets a counter, with all that it counted. False if there was none.
    pub fn remove(&self, key: CounterKey) -> bool {
        self.shard(self.index_of(key)).lock().remove(key)
    }

    /// Drops keys that count nothing any more. A call looks at a bounded number of places, so that no lock is kept for
    /// long, and returns how many: whoever calls it [`Memory::sweeps_per_round`] times has met every key.
    pub fn sweep(&self, now: Timestamp) -> usize {
        let index = self.swept.load(Ordering::Relaxed);
        let swept = self.shard(index).lock().sweep(now);
        if swept.is_last {
            self.swept.store((index + 1) % self.shards.len(), Ordering::Relaxed);
        }
        swept.places
    }

    /// The sweeps that it takes to meet all keys that are kept now.
    pub fn sweeps_per_round(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().sweeps_per_round()).sum()
    }

    /// The most keys that are kept.
    pub fn keys_max(&self) -> usize {
        self.keys_max
    }

    /// The keys that are kept.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Locks the shards of all charges: ascending, and each once.
    fn lock(&self, charges: &[Charge]) -> LockedShards<'_> {
        let mut indexes: SmallVec<[usize; 4]> = charges.iter().map(|charge| self.index_of(charge.key)).collect();
        indexes.sort_unstable();
        indexes.dedup();
        let locked = indexes.into_iter().map(|index| (index, self.shard(index).lock())).collect();
        LockedShards { memory: self, locked }
    }

    /// The high bits choose the shard; the table inside it uses the low ones.
    fn index_of(&self, key: CounterKey) -> usize {
        let high = (key.as_u128() >> 96) as u64;
        ((high * self.shards.len() as u64) >> 32) as usize
    }

    fn shard(&self, index: usize) -> &Mutex<Shard> {
        self.shards.get(index).expect("an index is a number of 32 bits, scaled down to the number of shards")
    }
}

struct LockedShards<'a> {
    memory: &'a Memory,
    locked: SmallVec<[(usize, MutexGuard<'a, Shard>); 4]>,
}

impl LockedShards<'_> {
    fn of(&mut self, key: CounterKey) -> &mut Shard {
        let index = self.memory.index_of(key);
        let locked = self.locked.iter_mut().find(|(locked, _)| *locked == index);
        &mut locked.expect("the shards of all charges were locked").1
    }
}

/// The sum of what a request asks of one counter. Each key is usually there once.
fn hits_of_key(charges: &[Charge], key: CounterKey) -> u32 {
    charges.iter().filter(|charge| charge.key == key).fold(0, |hits, charge| hits.saturating_add(charge.hits))
}

fn enforced(charges: &[Charge], outcomes: &[Outcome]) -> impl Iterator<Item = Outcome> {
    charges.iter().zip(outcomes).filter(|(charge, _)| charge.is_enforced()).map(|(_, outcome)| *outcome)
}

fn is_allowed(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Judged(verdict) if verdict.allowed)
}

#[cfg(test)]
mod tests;
