//! Requests that leases have a part in, and the giving back of what leases do not use.

use std::time::Duration;

use super::failure::Failure;
use super::leases::{Asking, Leases};
use super::link::Follow;
use super::{Redis, Servers, settle};
use crate::counters::Admission;

/// The pause between two times that rests of leases are given back, and the time that it may take at shutdown.
const GIVE_BACK: Duration = Duration::from_millis(100);
const GIVE_BACK_MAX: Duration = Duration::from_secs(1);

impl Redis {
    /// Where it fails, what was taken from leases is put back.
    pub(super) async fn ask_for_rest(&self, asking: Asking<'_>, follow: Follow<'_>) -> Result<Admission, Failure> {
        let (Servers::One(node) | Servers::Sentinel(_, node)) = &self.servers else { return Err(Failure::Away) };
        let sent = self.clock.now();
        let divisor = self.peers().count.get().saturating_mul(2);
        let answer = self.ask_node(node, &asking.question(divisor), follow).await?;
        asking.told(&answer, sent, self.clock.now()).ok_or(Failure::Late)
    }

    /// Gives back what is left of leases that ended.
    pub(super) async fn give_back(&self, leases: &Leases) {
        loop {
            tokio::time::sleep(GIVE_BACK).await;
            leases.sweep(self.clock.now());
            self.settle_waiting(leases).await;
        }
    }

    /// Ends all leases, and gives back what is left of them.
    pub(super) async fn give_all_back(&self, leases: &Leases) {
        leases.close();
        let _ = tokio::time::timeout(GIVE_BACK_MAX, self.settle_waiting(leases)).await;
    }

    /// What the store did not settle for certain is tried again. Of the rest nobody knows: given back twice, it would be
    /// somebody else's, so it is lost until its window has passed.
    async fn settle_waiting(&self, leases: &Leases) {
        loop {
            let settlements = leases.settlements(settle::SETTLEMENTS_MAX);
            if settlements.is_empty() {
                return;
            }
            match self.settle(&settlements).await {
                Ok(()) => leases.given_back(&settlements),
                Err(Failure::Away | Failure::Late) => return leases.wait(settlements),
                Err(failure) => tracing::debug!("hits of leases were not given back: {failure}"),
            }
        }
    }
}
