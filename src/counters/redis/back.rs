//! The way away from the store and back to it, for gateways whose limits hold in between.
//!
//! ```text
//! asks the store --no connection--> decides alone --a connection--> hands over, waits for the others --> asks the store
//! ```
//!
//! Replicas find their way back one after the other. Whoever asked the store at once would be let in by what the others had
//! not handed over yet. So each goes on alone, and hands over what it admits, until a time that they share
//! ([`roll`](super::roll)).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Redis;
use super::failure::Failure;
use super::local::owed::Debt;
use super::roll::Errand;
use super::settle::SETTLEMENTS_MAX;
use crate::clock::Timestamp;

/// The time between two looks at what is to be handed over.
const TICK: Duration = Duration::from_millis(100);
/// The time between two visits to the roll.
const ROLL_CALL: Duration = Duration::from_secs(1);
/// The time that others may take to come back, where the roll says none.
const GRACE: Duration = Duration::from_secs(1);
/// The time that it may take to leave.
const LEAVE: Duration = Duration::from_secs(1);
/// Calls of the script that settles under way at the same time.
const HAND_OVER_CALLS: usize = 4;

/// The time from which the store is asked.
#[derive(Debug, Default)]
pub(super) struct AsksFrom(AtomicU64);

impl AsksFrom {
    pub(super) fn is_reached(&self, now: Timestamp) -> bool {
        now.as_nanos() >= self.0.load(Ordering::Relaxed)
    }

    /// Until the way back is known.
    pub(super) fn unset(&self) {
        self.0.store(u64::MAX, Ordering::Relaxed);
    }

    fn set(&self, at: Timestamp) {
        self.0.store(at.as_nanos(), Ordering::Relaxed);
    }

    fn get(&self) -> Option<Timestamp> {
        Some(self.0.load(Ordering::Relaxed)).filter(|nanos| *nanos < u64::MAX).map(Timestamp::from_nanos)
    }
}

impl Redis {
    /// Keeps this replica on the roll, and finds the way back, until shutdown.
    pub(super) async fn tend(&self, shutdown: CancellationToken) {
        let mut is_told = false;
        let mut roll_call = Timestamp::default();
        while shutdown.run_until_cancelled(sleep(self.pause())).await.is_some() {
            if !self.is_there() {
                if self.roll.is_met() {
                    self.asks_from.unset();
                }
                continue;
            }
            // Who is back has handed over everything before the roll says when to ask.
            let is_back = self.asks_from.get().is_none();
            self.hand_over().await;
            if !is_back && self.clock.now() < roll_call {
                continue;
            }
            match self.call_roll(is_back).await {
                Ok(()) => {
                    is_told = false;
                    roll_call = self.clock.now() + ROLL_CALL;
                }
                Err(failure) => {
                    if !is_told {
                        tracing::warn!("the number of replicas cannot be learned from the counter store: {failure}");
                        is_told = true;
                    }
                    if is_back && self.is_there() {
                        self.asks_from.set(self.clock.now() + GRACE);
                    }
                }
            }
        }
        let _ = timeout(LEAVE, self.leave()).await;
    }

    /// Tells the store what it does not have yet, and that the others are one less.
    async fn leave(&self) {
        self.hand_over().await;
        let _ = self.go_to_roll(Errand::Leave).await;
    }

    /// To the next tick, or the time from which the store is asked: then the last hits are handed over.
    fn pause(&self) -> Duration {
        let now = self.clock.now();
        let ahead = self.asks_from.get().map(|at| at.since(now)).filter(|ahead| !ahead.is_zero());
        ahead.map_or(TICK, |ahead| ahead.min(TICK))
    }

    async fn call_roll(&self, is_back: bool) -> Result<(), Failure> {
        let errand = if is_back && self.roll.is_met() { Errand::Return } else { Errand::Stay };
        let entry = self.go_to_roll(errand).await?;
        let now = self.clock.now();
        self.roll.note(&entry, now);
        // An answer to a call from before the store went away says nothing of the way back.
        if is_back {
            self.asks_from.set(now + entry.asks_from.since(entry.at));
        }
        Ok(())
    }

    /// Has the store count what this replica admitted by itself.
    async fn hand_over(&self) {
        let now = self.roll.at_store(self.clock.now());
        for debts in self.local.owed.take() {
            stream::iter(self.calls(debts, now))
                .for_each_concurrent(HAND_OVER_CALLS, |debts| self.settle_debts(debts, now))
                .await;
        }
        self.metrics.counter_store_hits_dropped.inc_by(self.local.owed.take_dropped());
    }

    async fn settle_debts(&self, mut debts: Vec<Debt>, now: Timestamp) {
        let settlements: Vec<_> = debts.iter_mut().flat_map(|debt| debt.settlements(now)).collect();
        match self.settle(&settlements).await {
            Ok(()) => {
                let hits = settlements.iter().filter_map(|settlement| u64::try_from(settlement.hits).ok()).sum();
                self.metrics.counter_store_hits_handed_over.inc_by(hits);
            }
            // Where the answer was lost they may count twice: better than not at all.
            Err(failure) => {
                tracing::debug!("hits were not handed over to the counter store: {failure}");
                self.local.owed.put_back(debts);
            }
        }
    }

    /// As many debts together as the store settles in one call. One that fails was not done, or not known to be, as a whole.
    fn calls(&self, debts: Vec<Debt>, now: Timestamp) -> Vec<Vec<Debt>> {
        // The calls of each slot, and the room in the last of them.
        let mut by_slot = BTreeMap::<u16, (Vec<Vec<Debt>>, usize)>::new();
        for mut debt in debts {
            let (calls, room) = by_slot.entry(self.slot(debt.key())).or_default();
            let settlements = debt.settlements(now).count();
            match calls.last_mut() {
                Some(call) if settlements <= *room => call.push(debt),
                _ => {
                    calls.push(vec![debt]);
                    *room = SETTLEMENTS_MAX;
                }
            }
            *room = room.saturating_sub(settlements);
        }
        by_slot.into_values().flat_map(|(calls, _)| calls).collect()
    }
}
