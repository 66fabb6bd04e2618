//! Decisions without the store: by what it last said of each counter, and by this replica's part of what was left.
//!
//! ```text
//! Answer of the store --follow--> mirror (what all replicas count, as far as is known)
//!                                    |
//! request --admit, every hit for all replicas (`Peers`)--> Admission
//!                                    \--hits of this replica--> Owed --Settlement--> the store, when it is back
//! ```
//!
//! Only counters of gateways with `on_error: local` come here. Time is the store's all along, so that a counter goes on in the
//! windows that it had there.

pub mod owed;

use smallvec::SmallVec;

use crate::clock::Timestamp;
use crate::counters::memory::{Memory, MemoryLimits};
use crate::counters::{Admission, OnError, Outcome};
use crate::limiter::Charge;
use crate::limiter::kept::Kept;
use crate::limiter::peers::Peers;
use owed::Owed;

#[derive(Debug)]
pub struct Local {
    pub mirror: Memory,
    pub owed: Owed,
}

impl Local {
    /// Holds so many counters at most, and owes the hits of so many.
    pub fn new(keys_max: usize) -> Self {
        Self { mirror: Memory::new(MemoryLimits { keys_max }), owed: Owed::new(keys_max) }
    }

    /// Takes over what the store says of a counter.
    pub fn follow(&self, charge: &Charge, kept: &Kept, at: Timestamp) {
        self.mirror.follow(charge, kept, at);
    }

    /// As [`Counters::admit`](crate::counters::Counters::admit), by this replica's part of each limit.
    pub fn admit(&self, charges: &[Charge], peers: Peers, now: Timestamp) -> Admission {
        let of_all: SmallVec<[Charge; 8]> = charges.iter().map(|charge| peers.charge(charge)).collect();
        let unit = peers.count.get();
        let mut admission = self.mirror.admit_in_units(unit, &of_all, now, OnError::Local);
        let admitted = admission.admitted;
        for ((charge, of_all), outcome) in charges.iter().zip(&of_all).zip(&mut admission.outcomes) {
            let Outcome::Judged(verdict) = outcome else { continue };
            let is_counted = verdict.allowed && (admitted || !charge.is_enforced());
            if is_counted && charge.hits > 0 {
                self.owed.add(charge, of_all, unit, verdict.remaining, now);
            }
            *verdict = peers.verdict(charge, *verdict);
        }
        admission
    }
}
