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
use crate::live::{Forms, Generation, Group, Served};
use crate::names::{Name, NodeIdentity, Version};
use crate::snapshot::Resources;
use crate::snapshot::feature::{EnvoyVersion, Need};
use crate::snapshot::per_type::PerType;
use crate::snapshot::resource::ResourceType;

pub use hold::Hold;

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
    by_type: PerType<AtomicBool>,
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

    /// What of these gateways an Envoy does not know, of the newest generation: also where that is held, or what is held
    /// because of it would not be told.
    pub fn unknown_to(&self, release: EnvoyVersion, gateways: &[Name]) -> Vec<Arc<Need>> {
        let groups = self.served.generation.iter().map(|generation| &generation.snapshot.groups);
        let groups = groups.flat_map(|groups| gateways.iter().filter_map(|gateway| groups.get(gateway)));
        groups.flat_map(|resources| resources.unknown_to(release)).map(Arc::clone).collect()
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
        self.evidence.by_type[resource_type].load(Ordering::Relaxed)
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

#[derive(Debug, Default)]
pub struct Rollout {
    offers: watch::Sender<Arc<Offer>>,
    /// Told of what is offered besides the generation.
    forms: Arc<Forms>,
    /// By gateway: the last offer that some Envoy acknowledged as a whole. Its lock is held by whoever makes an offer.
    proven: Mutex<BTreeMap<Name, Arc<GroupOffer>>>,
}

impl Rollout {
    pub fn new(forms: Arc<Forms>) -> Self {
        Self { forms, ..Self::default() }
    }

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
                if offer.hold.is_some() {
                    self.forms.offer(&generation.matcher, gateway, &offer.group, served.read_at);
                }
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

    /// An Envoy has all of the group's resources of the type.
    pub fn acknowledged(&self, group: &Arc<GroupOffer>, resource_type: ResourceType) {
        group.evidence.by_type[resource_type].store(true, Ordering::Relaxed);
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
        let _making = self.proven.lock();
        let offer = self.offer();
        let (Some(group), Some(generation)) = (offer.group(gateway.as_str()), &offer.served.generation) else { return };
        let is_refused = |hold: &Arc<Hold>| hold.has_refused(resource_type, resources);
        if !group.hold.as_ref().is_some_and(is_refused) {
            return;
        }
        if let Some(group) = generation.group(gateway.as_str()) {
            let evidence = Evidence::default();
            // Whoever refuses it from now on is alone with that.
            evidence.by_type[resource_type].store(true, Ordering::Relaxed);
            let evidence = Arc::new(evidence);
            self.replace(&offer, GroupOffer { gateway: gateway.clone(), hold: None, group, evidence });
        }
    }

    /// An Envoy has refused something of a group. Holds the documents behind it, unless another Envoy took it, or none of
    /// the group ever took anything that could be gone back to. Gives what is held now.
    pub fn refused(&self, gateway: &Name, refusal: &Refusal) -> Option<Arc<Hold>> {
        let proven = self.proven.lock();
        let offer = self.offer();
        let generation = offer.served.generation.as_ref()?;
        let group = offer.group(gateway.as_str())?;
        // What was refused may be of another gateway of the node, or offered no longer.
        let mut blamed = hold::blamed(refusal);
        blamed.retain(|(name, version)| group.has(refusal.resource_type, name, *version));
        if group.is_acknowledged(refusal.resource_type) || blamed.is_empty() {
            return None;
        }
        let proven = proven.get(gateway)?;
        let hold = hold::extended(group, &proven.group, refusal, &blamed, generation.number);
        let held = hold::apply(generation, gateway, &hold, &proven.group);
        self.forms.offer(&generation.matcher, gateway, &held, refusal.at);
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
    for (resource_type, is_acknowledged) in evidence.by_type.iter() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::RateLimitService;
    use crate::document::{Documents, split};
    use crate::live::{Live, Settings, Writer};
    use crate::names::Revision;

    const SHOP: &str = "\
{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1'}
---
{kind: Gateway, name: side, nodes: {clusters: [side]}, listen: '127.0.0.1:2'}
---
{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}
---
{kind: Service, name: pay, endpoints: ['127.0.0.1:9201']}
---
{kind: Api, name: create, gateway: shop, match: {path: /create}, service: order}
---
{kind: Api, name: read, gateway: shop, match: {path: /read}, service: pay}
---
{kind: Api, name: pay, gateway: side, match: {path: /pay}, service: pay}
";

    /// A rollout of documents, and one Envoy of each gateway that acknowledges what it is asked to.
    struct World {
        rollout: Rollout,
        live: Arc<Live>,
        writer: Writer,
    }

    impl World {
        /// Everybody has the shop.
        fn new() -> Self {
            let rate_limit_service = RateLimitService::default();
            let (live, writer) = Live::new(Settings { rate_limit_service, counter_seed: [5; 16], allow_empty: false });
            let mut world = Self { rollout: Rollout::default(), live, writer };
            world.serve(SHOP);
            world
        }

        fn proven() -> Self {
            let world = Self::new();
            ["shop", "side"].iter().for_each(|gateway| world.acknowledge_all(gateway));
            world
        }

        fn serve(&mut self, text: &str) {
            let documents = Documents::new(Revision::default(), split(&"p.yaml".into(), text.as_bytes()));
            self.writer.adopt(&documents, Timestamp::default());
            assert!(self.live.refused().is_empty());
            self.rollout.advance(self.live.served());
        }

        fn group(&self, gateway: &str) -> Arc<GroupOffer> {
            Arc::clone(self.rollout.offer().group(gateway).unwrap())
        }

        fn acknowledge_all(&self, gateway: &str) {
            let group = self.group(gateway);
            ResourceType::ALL.into_iter().for_each(|resource_type| self.rollout.acknowledged(&group, resource_type));
        }

        fn offered(&self, gateway: &str, resource_type: ResourceType, name: &str) -> (Arc<str>, Version) {
            let group = self.group(gateway);
            let resource = &group.resources().of_type(resource_type).by_name[name];
            (Arc::clone(&resource.name), resource.version)
        }

        /// What is held after an Envoy refused what is offered under the name.
        fn refuse(&self, gateway: &str, resource_type: ResourceType, name: &str) -> Vec<String> {
            self.refuse_all(gateway, resource_type, vec![self.offered(gateway, resource_type, name)], "no")
        }

        fn refuse_all(
            &self,
            gateway: &str,
            resource_type: ResourceType,
            resources: Vec<(Arc<str>, Version)>,
            message: &str,
        ) -> Vec<String> {
            let (node, message) = ("odd".to_owned(), message.to_owned());
            let refusal = Refusal { node, resource_type, resources, message, at: Timestamp::default() };
            self.rollout.refused(&Name::parse(gateway).unwrap(), &refusal);
            self.held(gateway)
        }

        fn held(&self, gateway: &str) -> Vec<String> {
            let group = self.group(gateway);
            group.hold.iter().flat_map(|hold| hold.documents.keys().map(ToString::to_string)).collect()
        }

        /// Whether the group is offered what these documents make.
        fn is_offered(&self, gateway: &str, text: &str) -> bool {
            let mut other = Self::new();
            other.serve(text);
            self.group(gateway).resources().is_same(other.group(gateway).resources())
        }
    }

    #[test]
    fn what_was_refused_is_held_and_the_rest_goes_on() {
        let mut world = World::proven();
        world.serve(&SHOP.replace("9101", "9102").replace("listen: '127.0.0.1:1'", "listen: '127.0.0.1:3'"));
        assert_eq!(world.refuse("shop", ResourceType::Listener, "shop"), ["Gateway shop"]);
        assert!(world.is_offered("shop", &SHOP.replace("9101", "9102")));
        assert!(world.is_offered("side", SHOP));
        // Another change neither ends the hold nor is kept by it.
        let text = SHOP.replace("9101", "9103");
        world.serve(&text.replace("listen: '127.0.0.1:1'", "listen: '127.0.0.1:3'"));
        assert_eq!(world.held("shop"), ["Gateway shop"]);
        assert!(world.is_offered("shop", &text));
    }

    #[test]
    fn of_two_gateways_of_a_node_the_one_is_held_that_is_to_blame() {
        let mut world = World::proven();
        world.serve(&SHOP.replace("127.0.0.1:1'", "127.0.0.1:3'").replace("127.0.0.1:2'", "127.0.0.1:4'"));
        let listeners = ["shop", "side"].map(|gateway| world.offered(gateway, ResourceType::Listener, gateway));
        let message = "listener(s) side: cannot bind";
        let refuse = |gateway| world.refuse_all(gateway, ResourceType::Listener, listeners.to_vec(), message);
        assert_eq!((refuse("shop"), refuse("side")), (vec![], vec!["Gateway side".to_owned()]));
    }

    #[test]
    fn a_hold_ends_with_another_version_of_its_documents() {
        let mut world = World::proven();
        let bad = SHOP.replace("/create", "/bad");
        world.serve(&bad);
        assert_eq!(world.refuse("shop", ResourceType::Route, "shop"), ["Api create"]);
        assert!(world.is_offered("shop", SHOP));
        let good = SHOP.replace("/create", "/good");
        world.serve(&good);
        assert_eq!(world.held("shop"), [""; 0]);
        assert!(world.is_offered("shop", &good));
        // The same again is given another chance.
        world.serve(&bad);
        assert!(world.is_offered("shop", &bad));
    }

    #[test]
    fn a_service_that_one_group_refuses_is_not_kept_from_another() {
        let mut world = World::proven();
        let text = SHOP.replace("9201']", "9201'], load_balancing: random");
        world.serve(&text);
        assert_eq!(world.refuse("shop", ResourceType::Cluster, "pay"), ["Service pay"]);
        assert!(world.is_offered("shop", SHOP) && world.is_offered("side", &text));
    }

    #[test]
    fn what_is_new_is_left_out_and_what_is_deleted_is_kept() {
        let mut world = World::proven();
        let api = "---\n{kind: Api, name: new, gateway: shop, match: {path: /new}, service: order}\n";
        world.serve(&format!("{SHOP}{api}"));
        assert_eq!(world.refuse("shop", ResourceType::Route, "shop"), ["Api new"]);
        assert!(world.is_offered("shop", SHOP));
        let mut world = World::proven();
        let without: Vec<&str> = SHOP.split("---\n").filter(|document| !document.contains("name: read")).collect();
        world.serve(&without.join("---\n"));
        assert_eq!(world.refuse("shop", ResourceType::Route, "shop"), ["Api read"]);
        assert!(world.is_offered("shop", SHOP));
    }

    #[test]
    fn what_refers_to_something_new_that_is_held_is_held_with_it() {
        let mut world = World::proven();
        let new = "---
{kind: Service, name: new, endpoints: ['127.0.0.1:9301']}
---
{kind: Api, name: new, gateway: shop, match: {path: /new}, service: new}
";
        world.serve(&format!("{SHOP}{new}"));
        assert_eq!(world.refuse("shop", ResourceType::Cluster, "new"), ["Service new"]);
        assert!(world.is_offered("shop", SHOP));
        // The rest of the group goes on.
        let text = SHOP.replace("/create", "/other");
        world.serve(&format!("{text}{new}"));
        assert_eq!(world.held("shop"), ["Service new"]);
        assert!(world.is_offered("shop", &text));
    }

    #[test]
    fn a_group_stays_as_it_was_where_no_document_is_to_blame() {
        let mut world = World::proven();
        let text = SHOP.replace("/create", "/new");
        world.serve(&text);
        assert_eq!(world.refuse("shop", ResourceType::Cluster, "tierflow:rls"), [""; 0]);
        assert!(world.group("shop").hold.is_none(), "an Envoy acknowledged the clusters, which did not change");
        world.serve(&text.replace("9101']", "9101'], connect_timeout: 3s"));
        world.refuse("shop", ResourceType::Cluster, "tierflow:rls");
        assert!(world.group("shop").hold.as_ref().is_some_and(|hold| hold.is_whole));
        assert!(world.is_offered("shop", SHOP));
    }

    #[test]
    fn where_nothing_was_ever_acknowledged_nothing_is_held() {
        let world = World::new();
        world.refuse("shop", ResourceType::Listener, "shop");
        assert!(world.group("shop").hold.is_none());
        assert!(world.is_offered("shop", SHOP));
    }

    #[test]
    fn one_that_refuses_what_another_took_is_odd() {
        let mut world = World::proven();
        let text = SHOP.replace("listen: '127.0.0.1:1'", "listen: '127.0.0.1:3'");
        world.serve(&text);
        let new = world.group("shop");
        world.rollout.acknowledged(&new, ResourceType::Listener);
        world.refuse("shop", ResourceType::Listener, "shop");
        assert!(world.group("shop").hold.is_none());
        assert!(world.is_offered("shop", &text));
    }

    #[test]
    fn a_hold_ends_when_another_takes_what_was_refused() {
        let mut world = World::proven();
        let text = SHOP.replace("listen: '127.0.0.1:1'", "listen: '127.0.0.1:3'");
        world.serve(&text);
        let refused = world.offered("shop", ResourceType::Listener, "shop");
        world.refuse("shop", ResourceType::Listener, "shop");
        let shop = Name::parse("shop").unwrap();
        world.rollout.acknowledged_held(
            &shop,
            ResourceType::Listener,
            &[world.offered("shop", ResourceType::Listener, "shop")],
        );
        assert_eq!(world.held("shop"), ["Gateway shop"], "that was the old one");
        world.rollout.acknowledged_held(&shop, ResourceType::Listener, &[refused]);
        assert!(world.group("shop").hold.is_none() && world.is_offered("shop", &text));
        world.refuse("shop", ResourceType::Listener, "shop");
        assert!(world.group("shop").hold.is_none(), "another has it");
    }

    #[test]
    fn what_was_acknowledged_since_is_what_is_gone_back_to() {
        let mut world = World::proven();
        let good = SHOP.replace("/create", "/good");
        world.serve(&good);
        world.acknowledge_all("shop");
        world.serve(&good.replace("/good", "/bad"));
        assert_eq!(world.refuse("shop", ResourceType::Route, "shop"), ["Api create"]);
        assert!(world.is_offered("shop", &good));
        // A hold is itself acknowledged, and the next refusal goes back to that.
        world.acknowledge_all("shop");
        world.serve(&good.replace("/good", "/bad").replace("/read", "/worse"));
        assert_eq!(world.refuse("shop", ResourceType::Route, "shop"), ["Api create", "Api read"]);
        assert!(world.is_offered("shop", &good));
    }
}
