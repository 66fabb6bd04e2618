//! Which group of Envoys is offered what: the newest generation, but for what an Envoy of the group refused.
//!
//! ```text
//! live --Served--> Rollout --Offer--> xds --> Envoys
//!                     ^                |
//!                     +-- refused, acknowledged
//! ```
//!
//! A generation passed every check of ours. What only an Envoy finds is found by the first that gets it. So that it goes
//! no further, the documents behind the refused resource are held (`rollout/hold.rs`): the group is offered what they
//! were when some Envoy of it had last acknowledged everything, and everything else of the generation. An Envoy that
//! starts then starts with what works. The hold ends when the documents change, or when another Envoy of the group
//! acknowledges what was refused: then it is that one Envoy that is odd. It is lifted now and then (`rollout/retry.rs`), for
//! the reason may be none of the documents.
//!
//! Which Envoy gets what is decided here alone, node by node, in [`Offer::select`].

mod evidence;
mod hold;
mod members;
mod offer;
mod retry;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::live::{Forms, Generation, Group, Served};
use crate::names::{Name, NodeIdentity, StreamId, Version};
use crate::policy::gateway::Gateway;
use crate::snapshot::Snapshot;
use crate::snapshot::feature::EnvoyVersion;
use crate::snapshot::resource::ResourceType;
use evidence::{Evidence, Proven};
use members::Members;
use retry::Retries;

pub use hold::{Hold, Reason};
pub use members::Member;
pub use offer::{GroupOffer, Offer, Selection};

/// A nack: the node that refused, and the resources that were new in the refused response.
#[derive(Clone, Debug)]
pub struct Nack {
    pub node: String,
    pub resource_type: ResourceType,
    pub resources: Vec<(Arc<str>, Version)>,
    pub message: String,
    pub at: Timestamp,
}

#[derive(Debug, Default)]
pub struct Rollout {
    offer: ArcSwap<Offer>,
    /// Its lock is taken for every new offer, after that of `proven`.
    members: Arc<Mutex<Members>>,
    /// Told of what is offered besides the generation.
    forms: Arc<Forms>,
    /// Whoever makes an offer, or weighs what Envoys say of one, has its lock from the first look at the newest offer to
    /// the last: what two Envoys say at once is weighed one after the other.
    proven: Mutex<Proven>,
    retries: Mutex<Retries>,
}

impl Rollout {
    pub fn new(forms: Arc<Forms>) -> Self {
        Self { forms, ..Self::default() }
    }

    /// The newest offer.
    pub fn offer(&self) -> Arc<Offer> {
        self.offer.load_full()
    }

    /// Makes offers to a node from now on.
    pub fn join(&self, stream: StreamId, identity: Arc<NodeIdentity>, release: Option<EnvoyVersion>) -> Member {
        // Looks through all gateways before anybody is kept waiting.
        let mut offer = self.offer();
        let mut memberships = offer.memberships(&identity);
        let mut members = self.members.lock();
        let newest = self.offer();
        if newest.selectors != offer.selectors {
            memberships = newest.memberships(&identity);
            offer = newest;
        }
        let reached = members.join(stream, Arc::clone(&identity), &memberships);
        let (selectors, members) = (offer.selectors, Arc::clone(&self.members));
        Member { identity, release, memberships, selectors, stream, reached, members }
    }

    /// Offers what is served now. What is held stays held while its documents stay what they are. Tells the number of the
    /// generation and the streams that it reaches, before any of them can see it.
    pub fn advance(&self, served: Arc<Served>, tell: impl FnOnce(u64, &[StreamId])) {
        let mut proven = self.proven.lock();
        let before = self.offer();
        let Some(generation) = served.generation.as_deref() else { return };
        let sequence = before.sequence + 1;
        let mut groups = before.groups.clone();
        // All others have what they had.
        let remade = self.reached(&before, generation);
        for gateway in &remade {
            let old = groups.remove(gateway);
            if let Some(old) = &old {
                before.end(old);
                proven.advance(old);
            }
            let new = group_offer(generation, gateway, sequence, old.as_ref(), proven.get(gateway));
            let Some(new) = new.map(Arc::new) else {
                proven.remove(gateway);
                continue;
            };
            if new.hold.is_some() {
                self.forms.offer(&generation.matcher, gateway, new.group(), served.read_at);
            }
            proven.advance(&new);
            groups.insert(gateway.clone(), new);
        }
        let is_held = |gateway: &Name| groups.get(gateway).is_some_and(|group| group.hold.is_some());
        self.retries.lock().retain(is_held);
        let reselecting = reselecting(before.served.generation.as_deref(), generation);
        let selectors = before.selectors + u64::from(!reselecting.is_empty());
        let (number, unions) = (generation.number, Mutex::new(before.unions_kept(&groups)));
        let offer = Offer { number, served, sequence, selectors, groups, unions };
        self.make(&before, offer, &remade, &reselecting, |reached| tell(number, reached));
    }

    /// The gateways whose Envoys may be offered something else than before: what is held may have got another chance.
    fn reached(&self, before: &Offer, generation: &Generation) -> BTreeSet<Name> {
        let empty = Snapshot::default();
        let known = before.served.generation.as_ref().map_or(&empty, |before| &before.snapshot);
        let differing = generation.snapshot.groups.differing(&known.groups, Arc::ptr_eq);
        differing.chain(self.retries.lock().gateways()).cloned().collect()
    }

    /// An Envoy has all of the group's resources of the type. The offer may no longer be the newest.
    pub fn acknowledged(&self, group: &Arc<GroupOffer>, resource_type: ResourceType) {
        let mut proven = self.proven.lock();
        group.evidence.acknowledge(resource_type);
        let offer = self.offer();
        let Some(newest) = offer.group(group.gateway.as_str()) else { return };
        // Of those with the same resources the newest: its documents are what later ones are compared with.
        let has_same_resources = Arc::ptr_eq(&newest.evidence, &group.evidence);
        proven.advance(if has_same_resources { newest } else { group });
        // Another Envoy may have refused it just before this one was heard.
        let resources = group.resources().of_type(resource_type).by_name.values();
        let versions = resources.map(|resource| (&resource.name, resource.version));
        self.end_hold(&offer, newest, resource_type, versions);
    }

    /// An Envoy has what another refused: nobody is kept from it any longer.
    pub fn acknowledged_held(&self, gateway: &Name, resource_type: ResourceType, resources: &[(Arc<str>, Version)]) {
        let _making = self.proven.lock();
        let offer = self.offer();
        let Some(group) = offer.group(gateway.as_str()) else { return };
        self.end_hold(&offer, group, resource_type, resources.iter().map(|(name, version)| (name, *version)));
    }

    /// Offers the group the whole generation again, where one of these resources is behind its hold.
    fn end_hold<'a>(
        &self,
        offer: &Offer,
        held: &GroupOffer,
        resource_type: ResourceType,
        mut acknowledged: impl Iterator<Item = (&'a Arc<str>, Version)>,
    ) {
        let Some(hold) = &held.hold else { return };
        if !acknowledged.any(|(name, version)| hold.has_refused(resource_type, name, version)) {
            return;
        }
        let Some(generation) = &offer.served.generation else { return };
        let Some(group) = generation.group(held.gateway.as_str()) else { return };
        // Whoever refuses it from now on is alone with that.
        let evidence = Arc::new(Evidence::of(|acknowledged| acknowledged == resource_type));
        self.replace(offer, GroupOffer::new(&held.gateway, offer.sequence + 1, None, group, evidence));
    }

    /// An Envoy has refused something of a group. Holds the documents behind it, unless another Envoy took it, or none of
    /// the group ever took anything that could be gone back to. Gives what is held now.
    pub fn refused(&self, gateway: &Name, nack: &Nack) -> Option<Arc<Hold>> {
        let proven = self.proven.lock();
        let offer = self.offer();
        let generation = offer.served.generation.as_ref()?;
        let group = offer.group(gateway.as_str())?;
        // What was refused may be of another gateway of the node, or offered no longer.
        let mut blamed = hold::blamed(nack);
        blamed.retain(|(name, version)| group.has(nack.resource_type, name, *version));
        if group.is_acknowledged(nack.resource_type) || blamed.is_empty() {
            return None;
        }
        let proven = proven.get(gateway)?;
        offer.end(group);
        let hold = hold::extended(group, proven.group(), nack, &blamed, generation.number);
        let held = hold::apply(generation, gateway, &hold, proven.group());
        self.forms.offer(&generation.matcher, gateway, &held, nack.at);
        let hold = Arc::new(hold);
        self.retries.lock().held(gateway, nack.at);
        let sequence = offer.sequence + 1;
        self.replace(&offer, with_evidence_of(proven, gateway, sequence, Some(Arc::clone(&hold)), held));
        Some(hold)
    }

    /// Offers again what has been held for long enough. Gives the gateways.
    pub fn retry(&self, now: Timestamp) -> Vec<Name> {
        let _making = self.proven.lock();
        let mut due = self.retries.lock().take_due(now);
        due.retain(|gateway| {
            let offer = self.offer();
            let held = offer.group(gateway.as_str()).filter(|group| group.hold.is_some());
            let generation = offer.served.generation.as_ref();
            let group = generation.and_then(|generation| generation.group(gateway.as_str()));
            let (Some(held), Some(group)) = (held, group) else { return false };
            self.replace(&offer, with_evidence_of(held, gateway, offer.sequence + 1, None, group));
            true
        });
        due
    }

    /// The same offer with another group.
    fn replace(&self, offer: &Offer, group: GroupOffer) {
        let (mut groups, sequence, gateway) = (offer.groups.clone(), group.sequence, group.gateway.clone());
        groups.insert(gateway.clone(), Arc::new(group));
        let Offer { number, selectors, ref served, .. } = *offer;
        let unions = Mutex::new(offer.unions_kept(&groups));
        let next = Offer { number, served: Arc::clone(served), sequence, selectors, groups, unions };
        self.make(offer, next, &BTreeSet::from([gateway]), &[], |_| ());
    }

    /// Makes an offer, and wakes the streams that it reaches.
    fn make(
        &self,
        before: &Offer,
        offer: Offer,
        remade: &BTreeSet<Name>,
        reselecting: &[Name],
        tell: impl FnOnce(&[StreamId]),
    ) {
        let mut members = self.members.lock();
        let reached = members.advance(before, &offer, remade, reselecting);
        tell(&reached);
        self.offer.store(Arc::new(offer));
        members.wake(&reached);
    }
}

fn group_offer(
    generation: &Generation,
    gateway: &Name,
    sequence: u64,
    old: Option<&Arc<GroupOffer>>,
    proven: Option<&Arc<GroupOffer>>,
) -> Option<GroupOffer> {
    let group = generation.group(gateway.as_str())?;
    let Some(old) = old else {
        return Some(GroupOffer::new(gateway, sequence, None, group, Arc::default()));
    };
    let hold = old.hold.as_ref().and_then(|hold| hold.still_held(&group)).map(Arc::new);
    let group = match (&hold, proven) {
        (Some(hold), Some(proven)) => hold::apply(generation, gateway, hold, proven.group()),
        _ => group,
    };
    Some(with_evidence_of(old, gateway, sequence, hold, group))
}

/// Acknowledgements of an offer count for another with the same resources, which then are the same objects.
fn with_evidence_of(
    old: &GroupOffer,
    gateway: &Name,
    sequence: u64,
    hold: Option<Arc<Hold>>,
    mut group: Group,
) -> GroupOffer {
    let is_same = old.resources().is_same(&group.resources);
    let evidence = if is_same { Arc::clone(&old.evidence) } else { evidence_of_types(old, &group) };
    if is_same {
        group.resources = Arc::clone(old.resources());
    }
    GroupOffer::new(gateway, sequence, hold, group, evidence)
}

/// A type that did not change is as acknowledged as it was.
fn evidence_of_types(old: &GroupOffer, group: &Group) -> Arc<Evidence> {
    Arc::new(Evidence::of(|resource_type| {
        let [before, now] =
            [old.resources(), &group.resources].map(|resources| resources.of_type(resource_type).version);
        before == now && old.is_acknowledged(resource_type)
    }))
}

/// The gateways that select other nodes than before, are for other certificates, or are new or gone.
fn reselecting(before: Option<&Generation>, after: &Generation) -> Vec<Name> {
    let gateways = &after.policies.gateways;
    let Some(before) = before.map(|before| &before.policies.gateways) else {
        return gateways.keys().cloned().collect();
    };
    let is_same = |new: &Arc<Gateway>, old: &Arc<Gateway>| new.nodes == old.nodes && new.identities == old.identities;
    gateways.differing(before, is_same).cloned().collect()
}
