//! The busiest and the most denied of the last minute, tenants and counters, without a cost that a decision would notice.
//!
//! ```text
//! decision --every so many--> notes of its thread --each second--> sketches of ten seconds --> report
//! ```
//!
//! - A thread looks at each decision and notes one in so many ([`pace`]): all of them while there are few, and a thousand a
//!   second where there are many. A note weighs as much as the decisions that it stands for.
//! - Nothing is shared between threads: notes are a thread's own, under a lock that nobody else wants but once a second, for as
//!   long as it takes to put an empty list in their place.
//! - A sketch ([`sketch`]) has places for the largest alone, and knows what it may have missed.
//!
//! Memory is bounded whatever clients send: [`BYTES_MAX`] for all sketches, [`notes::BYTES_MAX`] for each thread.

pub mod notes;
mod pace;
mod sketch;

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::names::{Name, has_part};
use notes::{CounterName, Noted, Notes, TenantId};
use pace::Pace;
use sketch::Sketch;

pub use sketch::{Counts, Measure};

/// What is told is of so many times [`SLOT`], the last of which is not over yet.
const SLOTS: usize = 6;
const SLOT: Duration = Duration::from_secs(10);
/// What all sketches take at most, in bytes.
pub const BYTES_MAX: usize = SLOTS * (2 * sketch::PLACES_MAX) * (TenantId::BYTES_MAX + CounterName::BYTES_MAX);

/// The counts of this process.
#[derive(Debug)]
pub struct Top {
    /// Tells it from every other in this process.
    id: u64,
    threads: Mutex<Vec<Arc<Mutex<Notes>>>>,
    slots: Mutex<VecDeque<Slot>>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Since the epoch, in times of [`SLOT`].
    number: u64,
    tenants: Pair<TenantId, ()>,
    counters: Pair<u128, CounterName>,
    /// Some decisions were not noted.
    is_thinned: bool,
}

/// The busiest are not the most denied: each has a sketch.
#[derive(Debug)]
struct Pair<K, N> {
    busiest: Sketch<K, N>,
    most_denied: Sketch<K, N>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// `None`: all.
    pub gateway: Option<&'a str>,
    /// This one alone, and its counters.
    pub tenant: Option<&'a str>,
    /// Those with this in their names, in any case, and their counters.
    pub search: Option<&'a str>,
    /// Counters of this Api alone; tenants are not told apart by Apis.
    pub api: Option<&'a str>,
    pub by: Measure,
    /// The most tenants, and the most counters.
    pub limit: usize,
}

/// The first of the last minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub since: Timestamp,
    /// Every decision was noted, and nothing had no place.
    pub is_exact: bool,
    pub tenants: Vec<(TenantId, Counts)>,
    /// The number of those that have a place and are beyond the limit.
    pub tenants_more: usize,
    pub counters: Vec<(CounterName, Counts)>,
    pub counters_more: usize,
    /// What a tenant without a place has at most, by the measure.
    pub tenants_missed_max: u64,
}

/// A thread's part.
struct Noter {
    top: u64,
    pace: Pace,
    notes: Arc<Mutex<Notes>>,
}

thread_local! {
    static NOTER: RefCell<Option<Noter>> = const { RefCell::new(None) };
}

impl Default for Top {
    fn default() -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        Self { id: IDS.fetch_add(1, Ordering::Relaxed), threads: Mutex::default(), slots: Mutex::default() }
    }
}

impl Top {
    /// Takes a decision. `note` makes a note of it, where it is the turn of this one.
    pub fn take(&self, now: Timestamp, note: impl FnOnce(&mut Notes)) {
        NOTER.with_borrow_mut(|noter| {
            let noter = match noter {
                Some(noter) if noter.top == self.id => noter,
                // The first of this thread, or another's turn on it, which happens in tests alone.
                noter => noter.insert(self.noter(now)),
            };
            if let Some(weight) = noter.pace.take(now) {
                let mut notes = noter.notes.lock();
                if notes.begin(weight) {
                    note(&mut notes);
                }
            }
        });
    }

    fn noter(&self, now: Timestamp) -> Noter {
        let notes = Arc::<Mutex<Notes>>::default();
        self.threads.lock().push(Arc::clone(&notes));
        Noter { top: self.id, pace: Pace::new(now), notes }
    }

    /// Takes into account what the threads have noted. To be called each second: they have room for so many notes.
    pub fn collect(&self, now: Timestamp) {
        let threads = self.threads.lock().clone();
        let mut slots = self.slots.lock();
        let slot = slot_of(&mut slots, now.as_secs() / SLOT.as_secs());
        let mut notes = Notes::default();
        for thread in &threads {
            // Empty ones are left in their place: the thread does not wait for them to be told.
            std::mem::swap(&mut notes, &mut *thread.lock());
            slot.take(&mut notes);
        }
        drop((slots, threads));
        // One that is gone notes nothing any more, and what it did is told or will be.
        self.threads.lock().retain(|thread| Arc::strong_count(thread) > 1 || !thread.lock().is_empty());
    }

    pub fn report(&self, question: &Question<'_>, now: Timestamp) -> Report {
        let mut slots = self.slots.lock();
        let newest = now.as_secs() / SLOT.as_secs();
        slot_of(&mut slots, newest);
        let oldest = slots.front().map_or(newest, |slot| slot.number);
        let Question { by, limit, .. } = *question;
        let tenants = Pair::sum(slots.iter().map(|slot| &slot.tenants), by);
        let counters = Pair::sum(slots.iter().map(|slot| &slot.counters), by);
        let tenants = tenants.into_iter().map(|(tenant, (counts, ()))| (tenant, counts));
        let counters = counters.into_values().map(|(counts, name)| (name, counts));
        let (tenants, tenants_more) =
            first(tenants.filter(|(id, _)| question.is_met(&id.gateway, Some(&id.tenant))), by, limit);
        let (counters, counters_more) = first(counters.filter(|(name, _)| question.is_met_by(name)), by, limit);
        Report {
            since: Timestamp::default() + SLOT * u32::try_from(oldest).unwrap_or(u32::MAX),
            is_exact: slots.iter().all(Slot::is_exact),
            tenants,
            tenants_more,
            counters,
            counters_more,
            tenants_missed_max: slots.iter().map(|slot| slot.tenants.by(by).missed_max()).sum(),
        }
    }
}

/// The slot of this number; those that are too old are dropped.
fn slot_of(slots: &mut VecDeque<Slot>, number: u64) -> &mut Slot {
    while slots.front().is_some_and(|slot| slot.number + SLOTS as u64 <= number) {
        slots.pop_front();
    }
    if slots.back().is_none_or(|slot| slot.number < number) {
        slots.push_back(Slot { number, ..Slot::default() });
    }
    slots.back_mut().expect("one was put there if there was none")
}

impl Question<'_> {
    fn is_met(&self, gateway: &Name, tenant: Option<&str>) -> bool {
        self.gateway.is_none_or(|own| own == gateway.as_str())
            && self.tenant.is_none_or(|own| tenant == Some(&*notes::told(own)))
            && self.search.is_none_or(|part| tenant.is_some_and(|tenant| has_part(tenant, part)))
    }

    fn is_met_by(&self, counter: &CounterName) -> bool {
        let is_of = |api: &str| counter.api.as_ref().is_some_and(|own| own.as_str() == api);
        self.is_met(&counter.gateway, counter.tenant.as_deref()) && self.api.is_none_or(is_of)
    }
}

/// The largest, in an order that does not depend on chance, and the number of the others.
fn first<K: Ord>(all: impl Iterator<Item = (K, Counts)>, by: Measure, limit: usize) -> (Vec<(K, Counts)>, usize) {
    let mut all: Vec<_> = all.filter(|(_, counts)| counts.of(by) > 0).collect();
    let size = |counts: &Counts| (counts.of(by), counts.of(by.other()));
    all.sort_unstable_by(|(a, of_a), (b, of_b)| size(of_b).cmp(&size(of_a)).then_with(|| a.cmp(b)));
    let more = all.len().saturating_sub(limit);
    all.truncate(limit);
    (all, more)
}

impl Slot {
    fn take(&mut self, notes: &mut Notes) {
        self.is_thinned |= notes.is_thinned();
        let Self { tenants, counters, .. } = self;
        notes.drain(|noted| match noted {
            Noted::Tenant { gateway, tenant, is_denied, weight } => {
                let counts = Counts::of_decisions(weight, is_denied);
                tenants.add(&TenantId::new(gateway, tenant), counts, || ());
            }
            Noted::Counter { gateway, tenant, note, values, weight } => {
                let counts = Counts::of_decisions(weight, note.has_no_room);
                counters.add(&note.key, counts, || CounterName::new(gateway, tenant, note, &values));
            }
        });
    }

    fn is_exact(&self) -> bool {
        !self.is_thinned && self.tenants.is_exact() && self.counters.is_exact()
    }
}

impl<K: Hash + Eq + Clone, N: Clone> Pair<K, N> {
    fn add(&mut self, key: &K, counts: Counts, name: impl Fn() -> N) {
        self.busiest.add(key, counts, &name);
        self.most_denied.add(key, counts, &name);
    }

    fn is_exact(&self) -> bool {
        self.busiest.missed_max() == 0 && self.most_denied.missed_max() == 0
    }

    fn by(&self, by: Measure) -> &Sketch<K, N> {
        match by {
            Measure::Decisions => &self.busiest,
            Measure::Denied => &self.most_denied,
        }
    }

    /// What all of them have counted of who has a place by the measure. Of the other measure the sketch that it has a place
    /// by knows more.
    fn sum<'a>(pairs: impl Iterator<Item = &'a Self> + Clone, by: Measure) -> HashMap<K, (Counts, N)>
    where
        K: 'a,
        N: 'a,
    {
        let mut sum: HashMap<K, (Counts, N)> = HashMap::new();
        for pair in pairs {
            for (key, counts, name) in pair.by(by).places() {
                let other = pair.by(by.other()).counts(key).unwrap_or_default();
                let (all, _) = sum.entry(key.clone()).or_insert_with(|| (Counts::default(), name.clone()));
                *all += counts.max(other);
            }
        }
        sum
    }
}

impl<K, N> Default for Pair<K, N> {
    fn default() -> Self {
        Self { busiest: Sketch::new(Measure::Decisions), most_denied: Sketch::new(Measure::Denied) }
    }
}

#[cfg(test)]
mod tests;
