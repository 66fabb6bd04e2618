//! The nodes that offers are made to, and which of them an offer reaches: for all others it is the one that they had.
//!
//! A change wakes the streams of the gateways that it is about, of ten thousand others none. So that no stream misses its
//! last offer, who is selected by what is looked up here, under the lock under which offers replace each other:
//!
//! - who joins before an offer is counted among those that it may reach, and who joins later sees it;
//! - who is reached is woken once the offer is there to be seen. What happens before a stream sleeps again wakes it then.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::offer::Offer;
use crate::live::Memberships;
use crate::names::{Name, NodeIdentity, StreamId};
use crate::policy::gateway::Membership;
use crate::snapshot::feature::EnvoyVersion;

/// A node that offers are made to, for as long as this lives.
#[derive(Debug)]
pub struct Member {
    pub identity: Arc<NodeIdentity>,
    /// The release of Envoy that it says it is. `None`: it is no Envoy, or does not say which.
    pub release: Option<EnvoyVersion>,
    pub(super) memberships: Memberships,
    /// [`Offer::selectors`] of the offer that the gateways were looked up in.
    pub(super) selectors: u64,
    pub(super) stream: StreamId,
    pub(super) reached: Arc<Notify>,
    pub(super) members: Arc<Mutex<Members>>,
}

impl Member {
    /// The gateways whose Envoy the node is, in the order of their names.
    pub fn gateways(&self) -> &[Name] {
        &self.memberships.gateways
    }

    /// These, and those that it only says it belongs to.
    pub fn memberships(&self) -> &Memberships {
        &self.memberships
    }

    /// Wakes when an offer was made that is another one for the node than those before. Nothing is lost if it is not
    /// waited for to the end.
    pub async fn reached(&self) {
        self.reached.notified().await;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.members.lock().leave(self.stream);
    }
}

/// All members, as the newest offer has them.
#[derive(Debug, Default)]
pub(super) struct Members {
    by_stream: HashMap<StreamId, Selected>,
    by_gateway: HashMap<Name, HashSet<StreamId>>,
}

#[derive(Debug)]
struct Selected {
    identity: Arc<NodeIdentity>,
    gateways: BTreeSet<Name>,
    /// Those that it only says it belongs to.
    denied: BTreeSet<Name>,
    reached: Arc<Notify>,
}

impl Selected {
    /// Takes in what it is to the gateway now. True where that is something else than before.
    fn change(&mut self, gateway: &Name, now: Membership) -> bool {
        let set = |names: &mut BTreeSet<Name>, is_in: bool| match is_in {
            true => names.insert(gateway.clone()),
            false => names.remove(gateway),
        };
        let is_other_member = set(&mut self.gateways, now == Membership::Member);
        let is_other_denial = set(&mut self.denied, now == Membership::Denied);
        is_other_member || is_other_denial
    }
}

impl Members {
    pub(super) fn join(
        &mut self,
        stream: StreamId,
        identity: Arc<NodeIdentity>,
        Memberships { gateways, denied }: &Memberships,
    ) -> Arc<Notify> {
        for gateway in gateways {
            self.by_gateway.entry(gateway.clone()).or_default().insert(stream);
        }
        let reached = Arc::new(Notify::new());
        let [gateways, denied] = [gateways, denied].map(|names| names.iter().cloned().collect());
        self.by_stream.insert(stream, Selected { identity, gateways, denied, reached: Arc::clone(&reached) });
        reached
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_stream.is_empty() && self.by_gateway.is_empty()
    }

    fn leave(&mut self, stream: StreamId) {
        let Some(member) = self.by_stream.remove(&stream) else { return };
        member.gateways.iter().for_each(|gateway| self.remove_of(gateway, stream));
    }

    /// Takes in which nodes are selected now by the gateways of which that changed. Gives the streams for which the offer
    /// is another one than the offer before, which differs from it in the groups that were made anew.
    pub(super) fn advance(
        &mut self,
        before: &Offer,
        after: &Offer,
        remade: &BTreeSet<Name>,
        reselecting: &[Name],
    ) -> Vec<StreamId> {
        let mut reached: Vec<_> = reselecting.iter().flat_map(|gateway| self.reselect(gateway, after)).collect();
        for gateway in remade.iter().filter(|gateway| after.differs(before, gateway)) {
            reached.extend(self.by_gateway.get(gateway).into_iter().flatten());
        }
        if before.knows_the_unselected() != after.knows_the_unselected() {
            let unselected = self.by_stream.iter().filter(|(_, member)| member.gateways.is_empty());
            reached.extend(unselected.map(|(stream, _)| *stream));
        }
        reached.sort_unstable();
        reached.dedup();
        reached
    }

    pub(super) fn wake(&self, reached: &[StreamId]) {
        reached.iter().filter_map(|stream| self.by_stream.get(stream)).for_each(|member| member.reached.notify_one());
    }

    /// The streams whose nodes are something else to the gateway than before.
    fn reselect(&mut self, gateway: &Name, offer: &Offer) -> Vec<StreamId> {
        let mut reselected = Vec::new();
        let membership = offer.membership(gateway);
        for (stream, member) in &mut self.by_stream {
            let now = membership(&member.identity);
            if member.change(gateway, now) {
                reselected.push((*stream, now == Membership::Member));
            }
        }
        for (stream, is_member) in &reselected {
            match is_member {
                true => drop(self.by_gateway.entry(gateway.clone()).or_default().insert(*stream)),
                false => self.remove_of(gateway, *stream),
            }
        }
        reselected.into_iter().map(|(stream, _)| stream).collect()
    }

    fn remove_of(&mut self, gateway: &Name, stream: StreamId) {
        let Some(streams) = self.by_gateway.get_mut(gateway) else { return };
        streams.remove(&stream);
        if streams.is_empty() {
            self.by_gateway.remove(gateway);
        }
    }
}
