//! Counters that share a lock. Their keys stand by themselves, so that to look for one reads little memory.

use smallvec::SmallVec;

use super::super::lease::Counter;
use crate::clock::Timestamp;
use crate::limiter::Charge;
use crate::limiter::key::CounterKey;

const COUNTERS_MAX: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Set {
    /// The key of each counter.
    keys: SmallVec<[CounterKey; COUNTERS_MAX]>,
    counters: Vec<Counter>,
}

impl Set {
    pub(super) fn place(&self, key: CounterKey) -> Option<usize> {
        self.keys.iter().position(|own| *own == key)
    }

    pub(super) fn get(&self, place: usize) -> Option<&Counter> {
        self.counters.get(place)
    }

    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut Counter> {
        self.counters.get_mut(place)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Counter> {
        self.counters.iter_mut()
    }

    /// The place of a new counter. `None`: all others are worth more.
    pub(super) fn place_for(&mut self, charge: &Charge, now: Timestamp) -> Option<usize> {
        let counter = Counter::new(charge, now);
        if self.counters.len() < COUNTERS_MAX {
            self.keys.push(charge.key);
            self.counters.push(counter);
            return self.counters.len().checked_sub(1);
        }
        let (place, least) = self.counters.iter_mut().enumerate().min_by_key(|(_, counter)| counter.worth(now))?;
        if least.worth(now) > counter.worth(now) {
            return None;
        }
        *self.keys.get_mut(place)? = charge.key;
        *least = counter;
        Some(place)
    }
}
