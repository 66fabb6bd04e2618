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
//! acknowledges what was refused: then it is that one Envoy that is odd.
//!
//! Which Envoy gets what is decided here alone, node by node, in [`Offer::select`].

mod hold;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock::Timestamp;
use crate::live::{Generation, Group, Served};
use crate::names::{Name, NodeIdentity, Version};
use crate::snapshot::Resources;
use crate::snapshot::resource::ResourceType;

pub use hold::{HeldDocument, Hold, Reason};

/// What every Envoy is to have, at one moment.
#[derive(Debug, Default)]
pub struct Offer {
    /// The number of the generation; 0 before the first.
    pub number: u64,
    pub served: Arc<Served>,
    /// Stays the same for as long as no gateway selects other nodes than before.
    pub selectors: u64,
    groups: BTreeMap<Name, Arc<GroupOffer>>,
    /// What nodes get that several gateways select, made when the first of them asks.
    unions: Mutex<BTreeMap<Vec<Name>, Arc<Resources>>>,
}

/// What the Envoys of one gateway are to have.
#[derive(Debug)]
pub struct GroupOffer {
    pub gateway: Name,
    /// What differs from the generation, and why.
    pub hold: Option<Arc<Hold>>,
    group: Group,
    /// Shared by all offers of the same resources.
    evidence: Arc<Evidence>,
}

/// What Envoys have acknowledged of a group's resources.
#[derive(Debug, Default)]
struct Evidence {
    by_type: [AtomicBool; ResourceType::COUNT],
    of_all: AtomicBool,
}

/// What one node is to have.
#[derive(Clone, Debug)]
pub struct Selection {
    pub groups: Vec<Arc<GroupOffer>>,
    pub resources: Arc<Resources>,
}

impl Offer {
    /// The gateways whose Envoy the node is, in the order of their names.
    pub fn gateways_of(&self, node: &NodeIdentity) -> Vec<Name> {
        let Some(generation) = &self.served.generation else { return Vec::new() };
        let gateways = generation.policies.gateways.values();
        let selecting = gateways.filter(|gateway| gateway.nodes.selects(&node.id, &node.cluster, &node.metadata));
        selecting.map(|gateway| gateway.name.clone()).collect()
    }

    /// What a node of these gateways is to have. `None` where that is not known: before a first set is loaded; and where
    /// no gateway selects it, unless that means that it is to have nothing: the document of its gateway may be broken.
    pub fn select(&self, gateways: &[Name]) -> Option<Selection> {
        self.served.generation.as_ref()?;
        if gateways.is_empty() && self.served.may_miss_gateways() {
            return None;
        }
        let groups: Vec<_> = gateways.iter().filter_map(|gateway| self.groups.get(gateway)).map(Arc::clone).collect();
        let resources = match groups.as_slice() {
            [only] => Arc::clone(only.resources()),
            several => {
                let mut unions = self.unions.lock();
                let union = unions.entry(gateways.to_vec());
                Arc::clone(union.or_insert_with(|| Resources::union(several.iter().map(|group| group.resources()))))
            }
        };
        Some(Selection { groups, resources })
    }

    pub fn group(&self, gateway: &str) -> Option<&Arc<GroupOffer>> {
        self.groups.get(gateway)
    }

    pub fn holds(&self) -> impl Iterator<Item = (&Name, &Hold)> {
        self.groups.iter().filter_map(|(gateway, group)| Some((gateway, &**group.hold.as_ref()?)))
    }
}

impl GroupOffer {
    pub fn resources(&self) -> &Arc<Resources> {
        &self.group.resources
    }

    /// Whether the group is offered something else than the generation by now.
    pub fn is_held(&self, offers: &watch::Receiver<Arc<Offer>>) -> bool {
        offers.borrow().group(self.gateway.as_str()).is_some_and(|group| group.hold.is_some())
    }

    /// Whether some Envoy acknowledged all resources of the type.
    pub fn is_acknowledged(&self, resource_type: ResourceType) -> bool {
        self.evidence.by_type.get(resource_type.index()).is_some_and(|type_| type_.load(Ordering::Relaxed))
    }

    fn has(&self, resource_type: ResourceType, name: &str, version: Version) -> bool {
        self.resources().of_type(resource_type).by_name.get(name).is_some_and(|resource| resource.version == version)
    }
}

/// What was refused, and by whom.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub node: String,
    pub resource_type: ResourceType,
    /// What was new in the refused response.
    pub resources: Vec<(Arc<str>, Version)>,
    pub message: String,
    pub at: Timestamp,
}

#[derive(Debug)]
pub struct Rollout {
    offers: watch::Sender<Arc<Offer>>,
    /// By gateway: the last offer that some Envoy acknowledged as a whole. Its lock is held by whoever makes an offer.
    proven: Mutex<BTreeMap<Name, Arc<GroupOffer>>>,
}

impl Default for Rollout {
    fn default() -> Self {
        Self { offers: watch::Sender::new(Arc::default()), proven: Mutex::default() }
    }
}

impl Rollout {
    pub fn subscribe(&self) -> watch::Receiver<Arc<Offer>> {
        self.offers.subscribe()
    }

    pub fn offer(&self) -> Arc<Offer> {
        Arc::clone(&self.offers.borrow())
    }

    /// Offers what is served now. What is held stays held while its documents stay what they are.
    pub fn advance(&self, served: Arc<Served>) {
        let mut proven = self.proven.lock();
        let before = self.offer();
        let Some(generation) = served.generation.as_deref() else { return };
        let gateways = generation.snapshot.groups.keys();
        let groups: BTreeMap<_, _> = gateways
            .filter_map(|gateway| {
                let old = before.groups.get(gateway);
                let offer = group_offer(generation, gateway, old, proven.get(gateway))?;
                Some((gateway.clone(), Arc::new(offer)))
            })
            .collect();
        proven.retain(|gateway, _| groups.contains_key(gateway));
        for (gateway, offer) in &groups {
            // The same resources, of newer documents.
            if offer.evidence.of_all.load(Ordering::Relaxed) {
                proven.insert(gateway.clone(), Arc::clone(offer));
            }
        }
        let selectors = before.selectors + u64::from(!selects_same(&before.served, generation));
        let number = generation.number;
        self.offers.send_replace(Arc::new(Offer { number, served, selectors, groups, unions: Mutex::default() }));
    }

    /// An Envoy has all of the group's resources of the type; `is_whole` if it has all of every type.
    pub fn acknowledged(&self, group: &Arc<GroupOffer>, resource_type: ResourceType) {
        if let Some(evidence) = group.evidence.by_type.get(resource_type.index()) {
            evidence.store(true, Ordering::Relaxed);
        }
        let is_all = ResourceType::ALL
            .into_iter()
            .all(|type_| group.is_acknowledged(type_) || group.resources().of_type(type_).by_name.is_empty());
        if is_all && !group.evidence.of_all.swap(true, Ordering::Relaxed) {
            let mut proven = self.proven.lock();
            // Of those with the same resources the newest: its documents are what later ones are compared with.
            let newest = self.offer().group(group.gateway.as_str()).map(Arc::clone);
            let newest = newest.filter(|newest| Arc::ptr_eq(&newest.evidence, &group.evidence));
            proven.insert(group.gateway.clone(), newest.unwrap_or_else(|| Arc::clone(group)));
        }
    }

    /// An Envoy has what another refused: nobody is kept from it any longer.
    pub fn acknowledged_held(&self, gateway: &Name, resource_type: ResourceType, resources: &[(Arc<str>, Version)]) {
        let proven = self.proven.lock();
        let offer = self.offer();
        let (Some(group), Some(generation)) = (offer.group(gateway.as_str()), &offer.served.generation) else { return };
        let is_refused = |hold: &Arc<Hold>| hold.has_refused(resource_type, resources);
        if !group.hold.as_ref().is_some_and(is_refused) {
            return;
        }
        if let Some(group) = generation.group(gateway.as_str()) {
            let evidence = Arc::default();
            self.replace(&offer, GroupOffer { gateway: gateway.clone(), hold: None, group, evidence });
        }
        drop(proven);
    }

    /// An Envoy has refused something of a group. Holds the documents behind it, unless another Envoy took it, or none of
    /// the group ever took anything that could be gone back to. Gives what is held now.
    pub fn refused(&self, gateway: &Name, refusal: &Refusal) -> Option<Arc<Hold>> {
        let proven = self.proven.lock();
        let offer = self.offer();
        let generation = offer.served.generation.as_ref()?;
        let group = offer.group(gateway.as_str())?;
        let is_offered = |(name, version): &(Arc<str>, Version)| group.has(refusal.resource_type, name, *version);
        if group.is_acknowledged(refusal.resource_type) || !refusal.resources.iter().any(is_offered) {
            return None;
        }
        let proven = proven.get(gateway)?;
        let hold = hold::extended(group, &proven.group, refusal, generation.number);
        let held = hold::apply(generation, gateway, &hold, &proven.group);
        let hold = Arc::new(hold);
        self.replace(&offer, with_evidence_of(proven, gateway, Some(Arc::clone(&hold)), held));
        Some(hold)
    }

    /// The same offer with another group.
    fn replace(&self, offer: &Offer, group: GroupOffer) {
        let mut groups = offer.groups.clone();
        groups.insert(group.gateway.clone(), Arc::new(group));
        self.offers.send_replace(Arc::new(Offer {
            number: offer.number,
            served: Arc::clone(&offer.served),
            selectors: offer.selectors,
            groups,
            unions: Mutex::default(),
        }));
    }
}

fn group_offer(
    generation: &Generation,
    gateway: &Name,
    old: Option<&Arc<GroupOffer>>,
    proven: Option<&Arc<GroupOffer>>,
) -> Option<GroupOffer> {
    let group = generation.group(gateway.as_str())?;
    let hold = old.and_then(|old| old.hold.as_ref()).and_then(|hold| hold.still_held(&group)).map(Arc::new);
    let group = match (&hold, proven) {
        (Some(hold), Some(proven)) => hold::apply(generation, gateway, hold, &proven.group),
        _ => group,
    };
    Some(match old {
        Some(old) => with_evidence_of(old, gateway, hold, group),
        None => GroupOffer { gateway: gateway.clone(), hold, group, evidence: Arc::default() },
    })
}

/// What was acknowledged of an offer is acknowledged of another with the same resources.
fn with_evidence_of(old: &GroupOffer, gateway: &Name, hold: Option<Arc<Hold>>, group: Group) -> GroupOffer {
    let is_same = old.resources().is_same(&group.resources);
    let evidence = if is_same { Arc::clone(&old.evidence) } else { evidence_of_types(old, &group) };
    GroupOffer { gateway: gateway.clone(), hold, group, evidence }
}

/// A type that did not change is as acknowledged as it was.
fn evidence_of_types(old: &GroupOffer, group: &Group) -> Arc<Evidence> {
    let evidence = Evidence::default();
    for (resource_type, is_acknowledged) in ResourceType::ALL.into_iter().zip(&evidence.by_type) {
        let [before, now] = [&old.group, group].map(|group| group.resources.of_type(resource_type).version);
        is_acknowledged.store(before == now && old.is_acknowledged(resource_type), Ordering::Relaxed);
    }
    Arc::new(evidence)
}

fn selects_same(before: &Served, generation: &Generation) -> bool {
    let Some(before) = &before.generation else { return false };
    let nodes = |generation: &Generation| -> Vec<_> {
        generation.policies.gateways.values().map(|gateway| (gateway.name.clone(), gateway.nodes.clone())).collect()
    };
    nodes(before) == nodes(generation)
}
