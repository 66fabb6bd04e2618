//! The leases of this replica: which requests they answer, and what is given back of them.
//!
//! ```text
//! take --> decided, all from leases or by what the store said a moment ago
//!     \--> Asking: what could be taken is taken; the store is asked for the rest, once
//!             told --> the counters know more, and have new leases
//!             drop --> unless the request is admitted, what was taken is put back
//! sweep --> settlements: the rest of leases that ended
//! ```
//!
//! A request takes the locks of all its counters before it looks at the first, always in ascending order, and keeps them
//! until the last is charged; so it takes from all of its leases or from none.
//!
//! Memory is bounded: a counter that is new takes the place of the one of its set that matters least, and one with a lease
//! stays.

mod set;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use super::Settlement;
use super::lease::{self, Counter, Ended, TakenHits, Told};
use super::script::{Answer, Question, Wants};
use crate::clock::Timestamp;
use crate::counters::{Admission, Outcome};
use crate::limiter::key::CounterKey;
use crate::limiter::{Charge, Verdict};
use crate::metrics::LeaseMetrics;
use set::Set;

const SETS: usize = 4096;
/// The most settlements that wait. What does not fit is lost until its window has passed.
const WAITING_MAX: usize = 65_536;

#[derive(Debug)]
pub(super) struct Leases {
    sets: Box<[Mutex<Set>]>,
    /// Nobody can choose keys that share a set.
    seed: RandomState,
    /// About how far the store's clock is ahead, in nanoseconds.
    ahead: AtomicI64,
    /// To be given back.
    waiting: Mutex<Vec<Settlement>>,
    is_closed: AtomicBool,
    metrics: LeaseMetrics,
}

#[expect(clippy::large_enum_variant, reason = "it is on the stack for one request, which a box would allocate for")]
pub(super) enum Take<'a> {
    Admitted(Admission),
    Denied(Admission),
    Ask(Asking<'a>),
}

/// A request that the store is asked about. Dropped, it puts back what it took.
pub(super) struct Asking<'a> {
    leases: &'a Leases,
    charges: &'a [Charge],
    /// By charge, what was taken from a lease, or is known without.
    taken: SmallVec<[Option<Taken>; 4]>,
    /// The charges that the store is asked for, and what is wanted of each in advance.
    rest: SmallVec<[Charge; 4]>,
    wants: SmallVec<[u32; 4]>,
}

#[derive(Clone, Copy, Debug)]
enum Taken {
    Hits(TakenHits),
    /// Of a limit in shadow that has no room: nothing is taken.
    Nothing(Verdict),
}

impl Leases {
    pub(super) fn new(metrics: LeaseMetrics) -> Self {
        Self {
            sets: (0..SETS).map(|_| Mutex::default()).collect(),
            seed: RandomState::new(),
            ahead: AtomicI64::new(0),
            waiting: Mutex::default(),
            is_closed: AtomicBool::new(false),
            metrics,
        }
    }

    /// Decides a request where that takes no store. Else takes what can be taken.
    pub(super) fn take<'a>(&'a self, charges: &'a [Charge], now: Timestamp) -> Take<'a> {
        let mut asking =
            Asking { leases: self, charges, taken: SmallVec::new(), rest: SmallVec::new(), wants: SmallVec::new() };
        // One counter twice is rare, and the store knows how to judge it.
        if self.is_closed.load(Ordering::Relaxed) || is_any_twice(charges) {
            asking.taken.resize(charges.len(), None);
            asking.rest.extend_from_slice(charges);
            return Take::Ask(asking);
        }
        let mut sets = self.lock(charges);
        let mut denied = false;
        for (number, charge) in charges.iter().enumerate() {
            let taken = sets.counter(number).and_then(|counter| {
                counter.used(charge.hits, now);
                let offer = counter.offers(charge.hits, now).map(Taken::Hits);
                let denial = || counter.denies(charge.hits, now).map(Taken::Nothing);
                offer.or_else(denial)
            });
            denied |= charge.is_enforced() && matches!(taken, Some(Taken::Nothing(_)));
            asking.taken.push(taken);
        }
        if denied && let Some(outcomes) = asking.deny(&mut sets, now) {
            asking.taken.clear();
            return Take::Denied(Admission { admitted: false, outcomes });
        }
        let at_store = self.at_store(now);
        for (number, (charge, taken)) in charges.iter().zip(&mut asking.taken).enumerate() {
            match taken {
                Some(Taken::Hits(hits)) => sets.take(number, hits.hits),
                Some(Taken::Nothing(_)) if !charge.is_enforced() => {}
                taken => {
                    *taken = None;
                    let wants = sets.counter(number).map_or(0, |counter| counter.wants(now, at_store));
                    asking.wants.push(if charge.hits == 0 { 0 } else { wants });
                    asking.rest.push(*charge);
                }
            }
        }
        if asking.rest.is_empty() { Take::Admitted(asking.admitted()) } else { Take::Ask(asking) }
    }

    /// Hits that came back too late for their lease, or leases that ended.
    fn give_back(&self, settlement: Option<Settlement>) {
        let Some(settlement) = settlement else { return };
        let mut waiting = self.waiting.lock();
        if waiting.len() < WAITING_MAX {
            waiting.push(settlement);
        }
    }

    fn ended(&self, ended: Option<Ended>) {
        if let Some(Ended { used, rest }) = ended {
            self.metrics.hits_used.inc_by(used.into());
            self.give_back(rest);
        }
    }

    /// Ends the leases that are over.
    pub(super) fn sweep(&self, now: Timestamp) {
        for set in &self.sets {
            for counter in set.lock().iter_mut() {
                self.ended(counter.end_if_over(now));
            }
        }
    }

    /// Ends all leases. There will be no other.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.sweep(Timestamp::from_nanos(u64::MAX));
    }

    /// What is to be given back now, some of it.
    pub(super) fn settlements(&self, max: usize) -> Vec<Settlement> {
        let mut waiting = self.waiting.lock();
        let rest = waiting.len().saturating_sub(max);
        waiting.split_off(rest)
    }

    /// For another time, what could not be given back.
    pub(super) fn wait(&self, settlements: Vec<Settlement>) {
        settlements.into_iter().for_each(|settlement| self.give_back(Some(settlement)));
    }

    pub(super) fn given_back(&self, settlements: &[Settlement]) {
        let hits: u64 = settlements.iter().map(|settlement| settlement.hits.unsigned_abs()).sum();
        self.metrics.hits_given_back.inc_by(hits);
    }

    /// Takes what the store said of a counter. Gives the verdict on the request, to which what is leased is left too.
    fn told(&self, charge: &Charge, told: &Told) -> Verdict {
        if charge.is_exact {
            return told.verdict;
        }
        self.metrics.leases.inc_by(u64::from(told.given > 0));
        self.metrics.hits_leased.inc_by(told.given.into());
        let mut set = self.set(self.index_of(charge.key)).lock();
        let place = set.place(charge.key).or_else(|| set.place_for(charge, told.received));
        let leased = match place.and_then(|place| set.get_mut(place)) {
            Some(counter) => {
                self.ended(counter.told(charge, told));
                counter.leased(told.received)
            }
            None => {
                self.give_back(lease::settlement(
                    charge.key,
                    charge.rate,
                    charge.algorithm,
                    told.counted_at,
                    told.given,
                ));
                0
            }
        };
        if self.is_closed.load(Ordering::Relaxed) {
            set.iter_mut().for_each(|counter| self.ended(counter.end()));
        }
        // Where it is denied, the lease has too few.
        let leased = if told.verdict.allowed { leased } else { 0 };
        Verdict { remaining: told.verdict.remaining.saturating_add(leased), ..told.verdict }
    }

    fn put_back(&self, charge: &Charge, taken: &TakenHits) {
        let mut set = self.set(self.index_of(charge.key)).lock();
        let counter = set.place(charge.key).and_then(|place| set.get_mut(place));
        let gone = || lease::settlement(charge.key, charge.rate, charge.algorithm, taken.at, taken.hits);
        self.give_back(counter.map_or_else(gone, |counter| counter.put_back(taken)));
    }

    /// About the time at the store.
    fn at_store(&self, now: Timestamp) -> Timestamp {
        Timestamp::from_nanos(now.as_nanos().saturating_add_signed(self.ahead.load(Ordering::Relaxed)))
    }

    /// Locks the sets of all charges: ascending, and each once.
    fn lock(&self, charges: &[Charge]) -> LockedSets<'_> {
        let of_charges: SmallVec<[usize; 8]> = charges.iter().map(|charge| self.index_of(charge.key)).collect();
        let mut indexes = of_charges.clone();
        indexes.sort_unstable();
        indexes.dedup();
        let sets: SmallVec<[_; 8]> = indexes.iter().map(|index| self.set(*index).lock()).collect();
        let place = |(charge, index): (&Charge, &usize)| {
            let set = indexes.iter().position(|locked| locked == index)?;
            let locked: &MutexGuard<'_, Set> = sets.get(set)?;
            let place = locked.place(charge.key)?;
            let is_it = locked.get(place)?.is_of(charge) && !charge.is_exact;
            is_it.then_some((set, place))
        };
        let places = charges.iter().zip(&of_charges).map(place).collect();
        LockedSets { sets, places }
    }

    fn index_of(&self, key: CounterKey) -> usize {
        (self.seed.hash_one(key.as_u128()) % SETS as u64) as usize
    }

    fn set(&self, index: usize) -> &Mutex<Set> {
        self.sets.get(index).expect("an index is less than the number of sets")
    }
}

struct LockedSets<'a> {
    sets: SmallVec<[MutexGuard<'a, Set>; 8]>,
    /// By charge, the set and the place in it of a counter that is known.
    places: SmallVec<[Option<(usize, usize)>; 8]>,
}

impl LockedSets<'_> {
    /// The counter of a charge, by the charge's number.
    fn counter(&mut self, charge: usize) -> Option<&mut Counter> {
        let (set, place) = self.places.get(charge).copied().flatten()?;
        self.sets.get_mut(set)?.get_mut(place)
    }

    fn take(&mut self, charge: usize, hits: u32) {
        if let Some(counter) = self.counter(charge) {
            counter.take(hits);
        }
    }
}

impl Asking<'_> {
    /// The outcomes of a request that is denied, where all of them are known. Limits in shadow are charged.
    fn deny(&self, sets: &mut LockedSets<'_>, now: Timestamp) -> Option<SmallVec<[Outcome; 4]>> {
        let mut outcomes = SmallVec::new();
        for (number, (charge, taken)) in self.charges.iter().zip(&self.taken).enumerate() {
            let verdict = match taken {
                Some(Taken::Nothing(verdict)) => *verdict,
                Some(Taken::Hits(hits)) if !charge.is_enforced() => hits.verdict,
                _ if charge.is_enforced() => sets.counter(number)?.known(charge.hits, now)?,
                _ => return None,
            };
            outcomes.push(Outcome::Judged(verdict));
        }
        for (number, (charge, taken)) in self.charges.iter().zip(&self.taken).enumerate() {
            if let Some(Taken::Hits(hits)) = taken
                && !charge.is_enforced()
            {
                sets.take(number, hits.hits);
            }
        }
        Some(outcomes)
    }

    /// All of it was taken.
    fn admitted(mut self) -> Admission {
        let verdict = |taken: Option<Taken>| match taken? {
            Taken::Hits(hits) => Some(Outcome::Judged(hits.verdict)),
            Taken::Nothing(verdict) => Some(Outcome::Judged(verdict)),
        };
        let outcomes = self.taken.drain(..).filter_map(verdict).collect();
        Admission { admitted: true, outcomes }
    }

    /// What to ask the store.
    pub(super) fn question(&self, divisor: u32) -> Question<'_> {
        let question = Question::new(&self.rest);
        let is_any_wanted = self.wants.iter().any(|hits| *hits > 0);
        if is_any_wanted { question.wanting(Wants { hits: &self.wants, divisor }) } else { question }
    }

    /// The whole request's answer, from what was taken and what the store said of the rest.
    pub(super) fn told(mut self, answer: &Answer, sent: Timestamp, received: Timestamp) -> Option<Admission> {
        let admission = answer.admission.as_ref()?;
        let ahead = i128::from(answer.at.as_nanos()) - i128::from(sent.as_nanos());
        self.leases.ahead.store(i64::try_from(ahead).unwrap_or(0), Ordering::Relaxed);
        let is_kept = |charge: &Charge| admission.admitted || !charge.is_enforced();
        let mut told = self.rest.iter().zip(&admission.outcomes).enumerate();
        let mut outcomes = SmallVec::new();
        for (charge, taken) in self.charges.iter().zip(&self.taken) {
            outcomes.push(match taken {
                Some(Taken::Hits(hits)) if is_kept(charge) => Outcome::Judged(hits.verdict),
                Some(Taken::Hits(hits)) => Outcome::Judged(hits.verdict_put_back()),
                Some(Taken::Nothing(verdict)) => Outcome::Judged(*verdict),
                None => {
                    let (place, (charge, outcome)) = told.next()?;
                    let given = answer.given.get(place).copied().unwrap_or_default();
                    match *outcome {
                        Outcome::Judged(verdict) => {
                            let counted_at = answer.counted_at(charge.key).unwrap_or(answer.at);
                            let told = Told { verdict, given, sent, received, at: answer.at, counted_at };
                            Outcome::Judged(self.leases.told(charge, &told))
                        }
                        Outcome::NoRoom => Outcome::NoRoom,
                    }
                }
            });
        }
        let kept = self.charges.iter().zip(&mut self.taken).filter(|(charge, _)| is_kept(charge));
        kept.for_each(|(_, taken)| *taken = None);
        Some(Admission { admitted: admission.admitted, outcomes })
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        for (charge, taken) in self.charges.iter().zip(&self.taken) {
            if let Some(Taken::Hits(hits)) = taken {
                self.leases.put_back(charge, hits);
            }
        }
    }
}

fn is_any_twice(charges: &[Charge]) -> bool {
    charges
        .iter()
        .enumerate()
        .any(|(place, charge)| charges.iter().skip(place + 1).any(|other| other.key == charge.key))
}

#[cfg(test)]
mod tests;
