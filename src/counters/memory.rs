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
    pub fn admit(&self, charges: &[impl AsRef<Charge>], now: Timestamp, on_error: OnError) -> Admission {
        self.admit_in_units(1, charges, now, on_error)
    }

    /// The same where a request comes in units of so many hits: a look asks whether one unit would pass.
    pub fn admit_in_units<'a, C: AsRef<Charge>>(
        &self,
        unit: u32,
        charges: &'a [C],
        now: Timestamp,
        on_error: OnError,
    ) -> Admission {
        let mut shards = self.lock(charges);
        // One by one into its place, here and below: to collect them would move each twice.
        let mut asked: SmallVec<[Asked<'a>; 4]> = SmallVec::new();
        for charge in charges.iter().map(AsRef::as_ref) {
            asked.push(shards.ask(charge, hits_of_key(charges, charge.key).max(unit), now));
        }
        let all_allow = asked.iter().filter(|asked| asked.is_enforced()).all(|asked| asked.allows);

        if asked.iter().any(|asked| asked.is_new(all_allow)) {
            let is_part = |key| charges.iter().any(|charge| charge.as_ref().key == key);
            for asked in asked.iter_mut().filter(|asked| asked.is_new(all_allow)) {
                asked.has_room = shards.at(asked.shard).ensure(asked.charge, is_part, now);
            }
            // One that was dropped for another may have left its place to a third.
            for asked in &mut asked {
                asked.place = shards.at(asked.shard).place(asked.charge.key);
            }
        }
        let has_room = asked.iter().filter(|asked| asked.is_enforced()).all(|asked| asked.has_room);
        let admitted = all_allow && (has_room || on_error != OnError::Deny);
        let mut admission = Admission { admitted, outcomes: SmallVec::new() };
        for asked in &asked {
            admission.outcomes.push(shards.conclude(asked, admitted, now));
        }
        admission
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
    fn lock(&self, charges: &[impl AsRef<Charge>]) -> LockedShards<'_> {
        let mut indexes: SmallVec<[usize; 4]> = SmallVec::new();
        for charge in charges {
            indexes.push(self.index_of(charge.as_ref().key));
        }
        indexes.sort_unstable();
        indexes.dedup();
        let mut shards = LockedShards { memory: self, locked: SmallVec::new() };
        for &index in &indexes {
            shards.locked.push((index, self.shard(index).lock()));
        }
        shards
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

/// The counter of a charge, which is looked up once.
struct Asked<'a> {
    charge: &'a Charge,
    /// All that the request asks of it.
    hits: u32,
    /// Which of the locked shards it is in.
    shard: usize,
    /// Where it is there. `None`: it is not there, and says what a new one would.
    place: Option<usize>,
    allows: bool,
    /// False where it is not there, and there is no room for it.
    has_room: bool,
}

impl Asked<'_> {
    fn is_enforced(&self) -> bool {
        self.charge.is_enforced()
    }

    /// Its hits are counted, where there is room.
    fn is_counted(&self, admitted: bool) -> bool {
        self.allows && (admitted || !self.is_enforced())
    }

    /// It is not there, and has to be.
    fn is_new(&self, admitted: bool) -> bool {
        self.place.is_none() && self.charge.hits > 0 && self.is_counted(admitted)
    }
}

impl LockedShards<'_> {
    fn ask<'a>(&mut self, charge: &'a Charge, hits: u32, now: Timestamp) -> Asked<'a> {
        let index = self.memory.index_of(charge.key);
        let shard = self.locked.iter().position(|(locked, _)| *locked == index);
        let shard = shard.expect("the shards of all charges were locked");
        let found = self.at(shard);
        let place = found.place(charge.key);
        let allows = match place.and_then(|place| found.at(place)) {
            Some(cell) => cell.allows(charge.rate.limit, charge.algorithm, hits, now),
            None => hits.max(1) <= charge.capacity(),
        };
        Asked { charge, hits, shard, place, allows, has_room: true }
    }

    /// Counts the hits where they are to be counted.
    fn conclude(&mut self, asked: &Asked<'_>, admitted: bool, now: Timestamp) -> Outcome {
        let shard = self.at(asked.shard);
        if !asked.has_room {
            return Outcome::NoRoom;
        }
        Outcome::Judged(match asked.place.and_then(|place| shard.at(place)) {
            Some(cell) if asked.is_counted(admitted) => cell.charge(asked.charge.hits, now),
            Some(cell) => Verdict { allowed: asked.allows, ..cell.verdict(asked.hits, now) },
            None => shard.judge(asked.charge, asked.hits, now),
        })
    }

    fn at(&mut self, shard: usize) -> &mut Shard {
        &mut self.locked.get_mut(shard).expect("it is the place of a locked shard").1
    }
}

/// The sum of what a request asks of one counter. Each key is usually there once.
fn hits_of_key(charges: &[impl AsRef<Charge>], key: CounterKey) -> u32 {
    let of_key = charges.iter().map(AsRef::as_ref).filter(|charge| charge.key == key);
    of_key.fold(0, |hits, charge| hits.saturating_add(charge.hits))
}

#[cfg(test)]
mod tests;
