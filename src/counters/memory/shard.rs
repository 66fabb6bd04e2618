//! One shard of the counters: keys up to a maximum, and what happens at the maximum.
//!
//! A new key then takes the place of another. A bounded number of keys is looked at, spread over the whole
//! shard and always others, so that an attack with ever new keys costs each request the same:
//! - The first idle key found is dropped.
//! - Else the one of those found that is the furthest from its limit.
//! - A key that has used more than half of its limit stays: to drop it for a stranger would be a refund for
//!   whoever can make up keys. If no other was found, there is no room.
//!
//! So a flood of new keys can at most give back, to a key that it happens to hit, half of that key's limit.

use super::table::Table;
use crate::clock::Timestamp;
use crate::limiter::algorithm::Cell;
use crate::limiter::kept::Kept;
use crate::limiter::key::CounterKey;
use crate::limiter::{Charge, Usage, Verdict};

/// The most keys that a search for room looks at.
const KEYS_SEARCHED: usize = 32;
/// The number of keys that may go after which it is content, if none of them is idle.
const KEYS_COMPARED: usize = 8;
/// The most places that a step of the sweep looks at: some 0.1 ms of work, where an Envoy waits 20 ms for its answer.
const PLACES_PER_SWEEP: usize = 1024;
/// A key that has used more of its limit than this is not dropped for another.
const FULLNESS_EVICTABLE_MAX: f64 = 0.5;
/// 2^64 divided by the golden ratio.
const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;

/// One step of a sweep.
pub(super) struct Swept {
    /// The number of places that were looked at.
    pub(super) places: usize,
    /// The round through the shard is complete.
    pub(super) is_last: bool,
}

pub(super) struct Shard {
    table: Table,
    keys_max: usize,
    /// The place where the search for room stands: a fraction of the table, as a number of 64 bits.
    hand: u64,
    /// The sweep's cursor: places from here on were looked at in this round.
    unswept: usize,
    /// The newest time at which keys were dropped. A key that was idle and comes back starts here: a thread
    /// that read its clock a moment earlier finds no refund.
    swept_at: Timestamp,
}

impl Shard {
    pub(super) fn new(keys_max: usize) -> Self {
        let keys_max = keys_max.min(Table::KEYS_MAX);
        Self { table: Table::default(), keys_max, hand: 0, unswept: 0, swept_at: Timestamp::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// The limit's verdict on `hits`, be the key there or not. Makes no key.
    pub(super) fn judge(&mut self, charge: &Charge, hits: u32, now: Timestamp) -> Verdict {
        match self.table.find(charge.key) {
            Some(cell) => cell.judge(charge.rate.limit, charge.algorithm, hits, now),
            None => self.fresh(charge).judge(charge.rate.limit, charge.algorithm, hits, now),
        }
    }

    /// Where a counter is, until another is dropped.
    pub(super) fn place(&self, key: CounterKey) -> Option<usize> {
        self.table.place(key)
    }

    /// The counter at a place that was told.
    pub(super) fn at(&mut self, place: usize) -> Option<&mut Cell> {
        self.table.at(place).map(|entry| &mut entry.cell)
    }

    /// What the counter counts, where there is one.
    pub(super) fn look(&mut self, charge: &Charge, now: Timestamp) -> Option<Usage> {
        let cell = self.table.find(charge.key)?;
        Some(cell.usage(charge.rate.limit, charge.algorithm, now))
    }

    /// Sees to it that there is a counter, without dropping one that stays for it. False if there is no room for it.
    pub(super) fn ensure(&mut self, charge: &Charge, stays: impl Fn(CounterKey) -> bool, now: Timestamp) -> bool {
        if self.table.find(charge.key).is_some() {
            return true;
        }
        if self.table.len() >= self.keys_max && !self.make_room(stays, now) {
            return false;
        }
        self.table.insert(charge.key, self.fresh(charge));
        true
    }

    /// Takes over what a store elsewhere counts, where there is something and room for it.
    pub(super) fn follow(&mut self, charge: &Charge, kept: &Kept, now: Timestamp) {
        if *kept != Kept::Nothing {
            self.ensure(charge, |_| false, now);
        }
        if let Some(cell) = self.table.find(charge.key) {
            cell.follow(kept, charge.rate, charge.algorithm);
        }
    }

    pub(super) fn remove(&mut self, key: CounterKey) -> bool {
        self.table.remove(key)
    }

    pub(super) fn sweeps_per_round(&self) -> usize {
        self.len().div_ceil(PLACES_PER_SWEEP).max(1)
    }

    /// Looks at the next places, and drops the keys there that count nothing any more.
    ///
    /// The round goes from the last place to the first. A key that is removed leaves its place to the last one, which
    /// was looked at before: so a round meets every key that is there from its beginning to its end, whatever requests
    /// do meanwhile.
    pub(super) fn sweep(&mut self, now: Timestamp) -> Swept {
        self.swept_at = self.swept_at.max(now);
        let from = match self.unswept {
            0 => self.table.len(),
            unswept => unswept.min(self.table.len()),
        };
        self.unswept = from.saturating_sub(PLACES_PER_SWEEP);
        for place in (self.unswept..from).rev() {
            let idle = self.table.at(place).and_then(|entry| entry.cell.is_idle(now).then_some(entry.key));
            if let Some(key) = idle {
                self.table.remove(key);
            }
        }
        self.table.shrink();
        Swept { places: from - self.unswept, is_last: self.unswept == 0 }
    }

    fn fresh(&self, charge: &Charge) -> Cell {
        Cell::new(charge.rate, charge.algorithm, self.swept_at)
    }

    /// Drops a key. False if none was found that may go.
    fn make_room(&mut self, stays: impl Fn(CounterKey) -> bool, now: Timestamp) -> bool {
        let mut emptiest: Option<(CounterKey, f64)> = None;
        let mut compared = 0;
        for _ in 0..KEYS_SEARCHED {
            let place = self.next_place();
            let Some(entry) = self.table.at(place) else { break };
            let fullness = entry.cell.fullness(now);
            let may_go = fullness <= FULLNESS_EVICTABLE_MAX && !stays(entry.key);
            if !may_go {
                continue;
            }
            if emptiest.is_none_or(|(_, least)| fullness < least) {
                emptiest = Some((entry.key, fullness));
            }
            compared += 1;
            if fullness == 0.0 || compared == KEYS_COMPARED {
                break;
            }
        }
        self.swept_at = self.swept_at.max(now);
        emptiest.is_some_and(|(key, _)| self.table.remove(key))
    }

    /// Steps of the golden ratio: however many are made, they lie evenly over the table. Keys that came
    /// together lie together, so a walk from place to place could meet nothing but full ones.
    fn next_place(&mut self) -> usize {
        self.hand = self.hand.wrapping_add(GOLDEN_RATIO);
        ((u128::from(self.hand) * self.table.len() as u128) >> 64) as usize
    }
}
