//! A rollout of real documents, without Envoys: what each group is offered after refusals and acknowledgements.

use std::time::Duration;

use futures_util::FutureExt;

use super::*;
use crate::compile::RateLimitService;
use crate::document::{Documents, split};
use crate::limiter::key::KeyHasher;
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
        let (live, writer) =
            Live::new(Settings { rate_limit_service, counter_keys: KeyHasher::seeded([5; 16]), allow_empty: false });
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
        self.rollout.advance(self.live.served(), |_, _| ());
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

    /// The holds after an Envoy refused what is offered under the name.
    fn refuse(&self, gateway: &str, resource_type: ResourceType, name: &str) -> Vec<String> {
        self.refuse_all(gateway, resource_type, vec![self.offered(gateway, resource_type, name)], "no")
    }

    fn refuse_at(&self, gateway: &str, resource: &(Arc<str>, Version), at: Timestamp) {
        let (node, message, resources) = ("odd".to_owned(), "no".to_owned(), vec![resource.clone()]);
        let nack = Nack { node, resource_type: ResourceType::Route, resources, message, at };
        self.rollout.refused(&Name::parse(gateway).unwrap(), &nack);
    }

    fn refuse_all(
        &self,
        gateway: &str,
        resource_type: ResourceType,
        resources: Vec<(Arc<str>, Version)>,
        message: &str,
    ) -> Vec<String> {
        let (node, message) = ("odd".to_owned(), message.to_owned());
        let nack = Nack { node, resource_type, resources, message, at: Timestamp::default() };
        self.rollout.refused(&Name::parse(gateway).unwrap(), &nack);
        self.held(gateway)
    }

    fn held(&self, gateway: &str) -> Vec<String> {
        let group = self.group(gateway);
        group.hold.iter().flat_map(|hold| hold.documents.keys().map(ToString::to_string)).collect()
    }

    /// True where the group is offered what these documents make.
    fn is_offered(&self, gateway: &str, text: &str) -> bool {
        let mut other = Self::new();
        other.serve(text);
        self.group(gateway).resources().is_same(other.group(gateway).resources())
    }
}

#[test]
fn what_is_held_is_offered_again_after_ever_longer_pauses() {
    let mut world = World::proven();
    world.serve(&SHOP.replace("path: /create", "path: /made"));
    let route = world.offered("shop", ResourceType::Route, "shop");
    let (mut now, mut pauses) = (Timestamp::default(), Vec::new());
    for _ in 0..9 {
        let refused_at = now;
        world.refuse_at("shop", &route, now);
        assert_eq!(world.held("shop"), ["Api create"]);
        // A second refusal of the same puts nothing off.
        world.refuse_at("shop", &route, now);
        while world.rollout.retry(now).is_empty() {
            now = now + Duration::from_secs(1);
        }
        pauses.push(now.since(refused_at).as_secs());
        assert_eq!(world.offered("shop", ResourceType::Route, "shop"), route, "it is offered again");
        assert!(world.rollout.retry(now + Duration::from_secs(3600)).is_empty(), "once");
    }
    assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
    world.acknowledge_all("shop");
    assert_eq!(world.held("shop"), [""; 0]);
    // A change is another story.
    world.serve(&SHOP.replace("path: /create", "path: /new"));
    let route = world.offered("shop", ResourceType::Route, "shop");
    world.refuse_at("shop", &route, now);
    assert!(world.rollout.retry(now + Duration::from_secs(9)).is_empty());
    assert_eq!(world.rollout.retry(now + Duration::from_secs(10)).len(), 1);
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

/// A thread that is paused between what its Envoy says and its telling of it.
#[test]
fn an_acknowledgement_that_is_told_late_takes_no_newer_one_back() {
    let mut world = World::proven();
    world.serve(&SHOP.replace("/create", "/old"));
    let old = world.group("shop");
    let good = SHOP.replace("/create", "/good");
    world.serve(&good);
    world.acknowledge_all("shop");
    ResourceType::ALL.into_iter().for_each(|resource_type| world.rollout.acknowledged(&old, resource_type));
    world.serve(&good.replace("/good", "/bad"));
    assert_eq!(world.refuse("shop", ResourceType::Route, "shop"), ["Api create"]);
    assert!(world.is_offered("shop", &good));
}

#[test]
fn an_acknowledgement_of_a_gateway_that_is_gone_is_not_kept() {
    let mut world = World::proven();
    let gone = world.group("side");
    let documents: Vec<&str> = SHOP.split("---\n").filter(|document| !document.contains("side")).collect();
    world.serve(&documents.join("---\n"));
    ResourceType::ALL.into_iter().for_each(|resource_type| world.rollout.acknowledged(&gone, resource_type));
    world.serve(&SHOP.replace("/pay", "/bad"));
    world.refuse("side", ResourceType::Route, "side");
    assert!(world.group("side").hold.is_none(), "its Envoys have taken nothing since");
}

#[test]
fn a_hold_ends_when_another_took_what_was_refused_and_tells_of_it_later() {
    let mut world = World::proven();
    let text = SHOP.replace("listen: '127.0.0.1:1'", "listen: '127.0.0.1:3'");
    world.serve(&text);
    let taken = world.group("shop");
    assert_eq!(world.refuse("shop", ResourceType::Listener, "shop"), ["Gateway shop"]);
    world.rollout.acknowledged(&taken, ResourceType::Route);
    assert_eq!(world.held("shop"), ["Gateway shop"], "that was of another type");
    world.rollout.acknowledged(&taken, ResourceType::Listener);
    assert!(world.group("shop").hold.is_none() && world.is_offered("shop", &text));
    world.refuse("shop", ResourceType::Listener, "shop");
    assert!(world.group("shop").hold.is_none(), "another has it");
}

fn plan(rate: u32) -> String {
    format!("---\n{{kind: Plan, name: gold, limits: [{{rate: {rate}/m}}]}}\n")
}

#[test]
fn a_gateway_that_a_change_does_not_reach_is_offered_the_very_same() {
    let mut world = World::proven();
    let [shop, side] = ["shop", "side"].map(|gateway| world.group(gateway));
    world.serve(&SHOP.replace("/create", "/new"));
    assert!(Arc::ptr_eq(&side, &world.group("side")) && !Arc::ptr_eq(&shop, &world.group("shop")));
    world.refuse("shop", ResourceType::Route, "shop");
    assert!(Arc::ptr_eq(&side, &world.group("side")));
}

#[test]
fn what_is_blamed_is_what_changed_since_the_last_set_that_worked() {
    let mut world = World::proven();
    // Nothing of this reaches an Envoy, so all of it worked.
    (1..4).for_each(|rate| world.serve(&format!("{SHOP}{}", plan(rate))));
    world.serve(&format!("{}{}", SHOP.replace("/create", "/bad"), plan(3)));
    assert_eq!(world.refuse("shop", ResourceType::Route, "shop"), ["Api create"]);
}

#[test]
fn an_acknowledgement_that_comes_after_the_next_offer_is_one_of_the_last_set_before_it() {
    let mut world = World::proven();
    world.serve(&SHOP.replace("/create", "/good"));
    let good = world.group("shop");
    (1..4).for_each(|rate| world.serve(&format!("{}{}", SHOP.replace("/create", "/good"), plan(rate))));
    world.serve(&format!("{}{}", SHOP.replace("/create", "/bad"), plan(3)));
    ResourceType::ALL.into_iter().for_each(|resource_type| world.rollout.acknowledged(&good, resource_type));
    assert_eq!(world.refuse("shop", ResourceType::Route, "shop"), ["Api create"]);
    assert!(world.is_offered("shop", &SHOP.replace("/create", "/good")));
}

#[test]
fn what_is_held_are_the_versions_that_were_there_when_it_was_refused() {
    let mut world = World::proven();
    let bad = SHOP.replace("/create", "/bad");
    world.serve(&format!("{bad}{}", plan(1)));
    world.serve(&format!("{bad}{}", plan(2)));
    assert_eq!(world.refuse("shop", ResourceType::Route, "shop"), ["Api create", "Plan gold"]);
    // A change of something else gives neither another chance.
    world.serve(&format!("{}{}", bad.replace("/pay", "/paid"), plan(2)));
    assert_eq!(world.held("shop"), ["Api create", "Plan gold"]);
}

/// What it is told may be of another document, although its resources stay what they are.
#[test]
fn an_envoy_that_is_too_old_is_woken_where_more_documents_ask_too_much_of_it() {
    let gateway = "{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1'";
    let shop = SHOP.replace(gateway, &format!("{gateway}, tenant: {{from: {{header: t}}, default_plan: gold}}"));
    let plan =
        |name: &str| format!("---\n{{kind: Plan, name: {name}, limits: [{{rate: 1/m, by: [{{jwt_claim: sub}}]}}]}}\n");
    let mut world = World::new();
    world.serve(&format!("{shop}{}", plan("gold")));
    let identity = NodeIdentity { cluster: "edge".to_owned(), ..NodeIdentity::default() };
    let member = world.rollout.join(StreamId(1), Arc::new(identity), Some(EnvoyVersion::new(1, 36)));
    let told = |world: &World, member: &Member| {
        let needs = world.rollout.offer().unknown_to(member);
        needs.iter().flat_map(|need| need.documents.clone()).collect::<Vec<_>>()
    };
    assert_eq!(told(&world, &member), ["Plan gold"]);
    let before = Arc::clone(world.group("shop").resources());
    world.serve(&format!("{shop}{}{}", plan("gold"), plan("silver")));
    assert!(Arc::ptr_eq(&before, world.group("shop").resources()));
    assert!(member.reached().now_or_never().is_some());
    let mut documents = told(&world, &member);
    documents.sort_unstable();
    assert_eq!(documents, ["Plan gold", "Plan silver"]);
}

/// The resources are what they were, and the documents are not: it may have been mended.
#[test]
fn a_hold_ends_with_its_documents_although_no_resource_changes() {
    let shop = |rate: &str| {
        let api = "match: {path: /create}, service: order";
        SHOP.replace(api, &format!("match: {{path: /made}}, service: order, limits: [{{rate: {rate}}}]"))
    };
    let mut world = World::proven();
    world.serve(&shop("1/m"));
    assert_eq!(world.refuse("shop", ResourceType::Route, "shop"), ["Api create"]);
    world.serve(&shop("1/m").replace("listen: '127.0.0.1:2'", "listen: '127.0.0.1:3'"));
    assert_eq!(world.held("shop"), ["Api create"], "a change elsewhere ends nothing");
    world.serve(&shop("2/m"));
    assert_eq!(world.held("shop"), [""; 0]);
    assert!(world.is_offered("shop", &shop("2/m")));
}
