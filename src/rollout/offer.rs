//! What nodes are to have at one moment, and which node is to have what.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::evidence::Evidence;
use super::hold::Hold;
use super::members::Member;
use crate::live::{Group, Memberships, Served};
use crate::names::{Name, NodeIdentity, Version};
use crate::policy::gateway::Membership;
use crate::shared_map::SharedMap;
use crate::snapshot::Resources;
use crate::snapshot::feature::Need;
use crate::snapshot::resource::ResourceType;

/// The resources of every gateway, as its Envoys are to have them.
#[derive(Debug, Default)]
pub struct Offer {
    /// The number of the generation; 0 before the first.
    pub number: u64,
    pub served: Arc<Served>,
    /// Rises with each offer; also with those of one generation, where a hold begins or ends.
    pub(super) sequence: u64,
    /// Stays the same for as long as no gateway selects other nodes than before.
    pub(super) selectors: u64,
    pub(super) groups: SharedMap<Name, Arc<GroupOffer>>,
    /// Resources of nodes that several gateways select, made when the first of them asks.
    pub(super) unions: Mutex<BTreeMap<Vec<Name>, Arc<Resources>>>,
}

/// The resources of one gateway, as its Envoys are to have them. It stays the same object through all offers that have
/// nothing else for them.
#[derive(Debug)]
pub struct GroupOffer {
    pub gateway: Name,
    /// Documents that are kept from the group, and why.
    pub hold: Option<Arc<Hold>>,
    /// [`Offer::sequence`] of the offer that it was made for.
    pub(super) sequence: u64,
    pub(super) evidence: Arc<Evidence>,
    /// As the first generation has it that it was offered with.
    first: Group,
    /// As the last one has it, once it is known which that is: the same resources, of newer documents.
    last: OnceLock<Group>,
}

/// The resources of one node, and the gateways that it has them from.
#[derive(Clone, Debug)]
pub struct Selection {
    pub groups: Vec<Arc<GroupOffer>>,
    pub resources: Arc<Resources>,
}

impl Offer {
    /// Looks up the gateways that select the node, where they may be others than in the offer before. Gives whether they
    /// are.
    pub fn assign(&self, node: &mut Member) -> bool {
        if node.selectors == self.selectors {
            return false;
        }
        let memberships = self.memberships(&node.identity);
        let is_other = node.memberships != memberships;
        (node.memberships, node.selectors) = (memberships, self.selectors);
        is_other
    }

    /// The gateways whose Envoys have something to get, in no order.
    pub fn gateways(&self) -> impl Iterator<Item = &Name> {
        self.groups.keys()
    }

    /// The gateways whose Envoy the node is, or says that it is.
    pub fn memberships(&self, node: &NodeIdentity) -> Memberships {
        let generation = self.served.generation.as_ref();
        generation.map_or_else(Memberships::default, |generation| generation.memberships(node))
    }

    /// The resources of a node that was assigned to this offer. `None` where they are not known: before a first set is
    /// loaded; and where no gateway selects it, unless that means that it is to have nothing: the document of its gateway
    /// may be broken.
    pub fn select(&self, node: &Member) -> Option<Selection> {
        self.served.generation.as_ref()?;
        let gateways = node.gateways();
        if gateways.is_empty() && self.served.refused.may_miss_gateways() {
            return None;
        }
        let groups: Vec<_> = gateways.iter().filter_map(|gateway| self.groups.get(gateway)).map(Arc::clone).collect();
        let resources = match groups.as_slice() {
            [only] => Arc::clone(only.resources()),
            several => self.union(gateways, several),
        };
        Some(Selection { groups, resources })
    }

    /// Tells what nodes are to the gateway.
    pub(super) fn membership(&self, gateway: &Name) -> impl Fn(&NodeIdentity) -> Membership {
        let generation = self.served.generation.as_ref();
        let gateway = generation.and_then(|generation| generation.policies.gateways.get(gateway));
        move |node| gateway.map_or(Membership::Unselected, |gateway| gateway.membership(node))
    }

    /// True if nodes that no gateway selects are to have nothing.
    pub(super) fn knows_the_unselected(&self) -> bool {
        self.served.generation.is_some() && !self.served.refused.may_miss_gateways()
    }

    /// True if the gateway's nodes are to have something else than in the offer before, or are told something else.
    pub(super) fn differs(&self, before: &Self, gateway: &Name) -> bool {
        let [old, new] = [before, self].map(|offer| offer.groups.get(gateway));
        let (Some(old), Some(new)) = (old, new) else { return true };
        let [old_needs, new_needs] = [before, self].map(|offer| offer.newest(gateway).map(|newest| newest.needs()));
        !Arc::ptr_eq(old.resources(), new.resources())
            || old.hold.is_some() != new.hold.is_some()
            || old_needs != new_needs
    }

    /// What follows the group in its place has newer documents: those that this offer has it with are its last.
    pub(super) fn end(&self, group: &GroupOffer) {
        let newest = self.served.generation.as_ref().and_then(|generation| generation.group(group.gateway.as_str()));
        if let (Some(newest), None) = (newest, &group.hold) {
            group.last.get_or_init(|| newest.with_resources(Arc::clone(group.resources())));
        }
    }

    /// The unions that nodes have and that are still the resources of their gateways: those nodes are not asked again.
    pub(super) fn unions_kept(&self, groups: &SharedMap<Name, Arc<GroupOffer>>) -> BTreeMap<Vec<Name>, Arc<Resources>> {
        let is_same = |gateway: &Name| match (self.groups.get(gateway), groups.get(gateway)) {
            (Some(old), Some(new)) => Arc::ptr_eq(old.resources(), new.resources()),
            (old, new) => old.is_none() && new.is_none(),
        };
        let mut unions = self.unions.lock().clone();
        // One has this map, and one the offer.
        unions.retain(|gateways, union| Arc::strong_count(union) > 2 && gateways.iter().all(is_same));
        unions
    }

    fn union(&self, gateways: &[Name], groups: &[Arc<GroupOffer>]) -> Arc<Resources> {
        let mut unions = self.unions.lock();
        let union = unions.entry(gateways.to_vec());
        Arc::clone(union.or_insert_with(|| Resources::union(groups.iter().map(|group| group.resources()))))
    }

    /// Features of the node's gateways that it does not know, of the newest generation: also where that is held, or what
    /// is held because of it would not be told.
    pub fn unknown_to(&self, node: &Member) -> Vec<Arc<Need>> {
        let Some(release) = node.release else { return Vec::new() };
        let groups = node.gateways().iter().filter_map(|gateway| self.newest(gateway));
        groups.flat_map(|resources| resources.unknown_to(release)).map(Arc::clone).collect()
    }

    /// The gateway's resources of the generation, be they held or not.
    fn newest(&self, gateway: &Name) -> Option<&Arc<Resources>> {
        self.served.generation.as_ref()?.snapshot.groups.get(gateway)
    }

    pub fn group(&self, gateway: &str) -> Option<&Arc<GroupOffer>> {
        self.groups.get(gateway)
    }

    /// True if the gateway's Envoys are offered something else than the generation.
    pub fn is_held(&self, gateway: &Name) -> bool {
        self.groups.get(gateway).is_some_and(|group| group.hold.is_some())
    }

    /// In the order of the gateways' names.
    pub fn holds(&self) -> impl Iterator<Item = (&Name, &Hold)> {
        let groups = self.groups.sorted().into_iter();
        groups.filter_map(|(gateway, group)| Some((gateway, &**group.hold.as_ref()?)))
    }
}

impl GroupOffer {
    pub(super) fn new(
        gateway: &Name,
        sequence: u64,
        hold: Option<Arc<Hold>>,
        group: Group,
        evidence: Arc<Evidence>,
    ) -> Self {
        Self { gateway: gateway.clone(), hold, sequence, evidence, first: group, last: OnceLock::new() }
    }

    pub fn resources(&self) -> &Arc<Resources> {
        &self.first.resources
    }

    /// Its documents are the newest that it was offered with once [`Offer::end`] is told of it, and where it is held.
    pub(super) fn group(&self) -> &Group {
        self.last.get().unwrap_or(&self.first)
    }

    /// True if some Envoy acknowledged all resources of the type.
    pub fn is_acknowledged(&self, resource_type: ResourceType) -> bool {
        self.evidence.is_acknowledged(resource_type)
    }

    /// True if all resources of all types were acknowledged.
    pub(super) fn is_proven(&self) -> bool {
        ResourceType::ALL.into_iter().all(|resource_type| {
            self.is_acknowledged(resource_type) || self.resources().of_type(resource_type).by_name.is_empty()
        })
    }

    pub(super) fn has(&self, resource_type: ResourceType, name: &str, version: Version) -> bool {
        self.resources().of_type(resource_type).by_name.get(name).is_some_and(|resource| resource.version == version)
    }
}
