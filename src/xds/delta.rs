//! Delta: one Envoy's side of a DeltaAggregatedResources stream, as values in, values out.
//!
//! A request says what is wanted in addition or no longer, a response what changed or is gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::session::{Answer, OneType, Outgoing, Phase, Step, Types};
use super::subscription::Subscription;
use crate::snapshot::resource::{Resource, ResourceType};
use crate::snapshot::{OfType, Resources};

/// A DeltaDiscoveryRequest, without what only matters to the stream.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) resource_type: ResourceType,
    pub(super) subscribe: Vec<String>,
    pub(super) unsubscribe: Vec<String>,
    /// What a reconnecting Envoy has, by name.
    pub(super) initial_versions: HashMap<String, String>,
    pub(super) nonce: String,
    pub(super) error: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Delta(Types<DeltaType>);

#[derive(Debug, Default)]
pub(super) struct DeltaType {
    is_requested: bool,
    subscription: Subscription,
    /// The nonce of the last response; empty before the first.
    nonce: String,
    is_pending: bool,
    /// What the Envoy has, as far as it was told: versions as they stand on the wire.
    known: BTreeMap<Arc<str>, String>,
    /// Names that have to be answered even if nothing changed: the Envoy asked, so it may have forgotten.
    owed: BTreeSet<String>,
    /// What the last response held.
    under_way: Vec<Arc<str>>,
    /// What was in refused responses. Envoy may have taken a part of each, so nobody knows what it has: all of it
    /// goes out again with the next change, but not before.
    doubtful: BTreeSet<Arc<str>>,
}

impl Delta {
    pub(super) fn on_request(&mut self, request: Request, resources: Option<&Resources>) -> Step {
        let mut step = Step::default();
        let Some(one) = self.0.get_mut(request.resource_type) else { return step };
        // A stale nonce only means that the answer is to an earlier response; what is wanted holds all the same.
        if one.is_pending && request.nonce == one.nonce {
            let answer = Answer::of(request.error.clone());
            one.on_answer(&answer);
            step.answer = Some((request.resource_type, answer));
        }
        one.on_subscription(&request);
        step.subscribed = one.subscription.len();
        if let Some(resources) = resources {
            step.responses = self.0.on_change(resources);
        }
        step
    }

    pub(super) fn on_change(&mut self, resources: &Resources) -> Vec<Outgoing> {
        self.0.on_change(resources)
    }

    pub(super) fn on_quiet(&mut self, resources: &Resources) -> Vec<Outgoing> {
        self.0.on_quiet(resources)
    }
}

impl DeltaType {
    fn on_answer(&mut self, answer: &Answer) {
        self.is_pending = false;
        let under_way = std::mem::take(&mut self.under_way);
        match answer {
            Answer::Acknowledged => self.doubtful.retain(|name| !under_way.contains(name)),
            Answer::Refused(_) => self.doubtful.extend(under_way),
        }
    }

    fn on_subscription(&mut self, request: &Request) {
        let resource_type = request.resource_type;
        if self.is_requested {
            self.subscription.subscribe(resource_type, &request.subscribe);
            // Asked for by name: answered, whatever is thought to be known.
            self.owed.extend(request.subscribe.iter().filter(|name| *name != "*").cloned());
        } else {
            self.is_requested = true;
            self.subscription.start(resource_type, &request.subscribe);
            self.known = request.initial_versions.iter().map(|(name, v)| (name.as_str().into(), v.clone())).collect();
            let is_unknown = |name: &&String| *name != "*" && !request.initial_versions.contains_key(*name);
            self.owed.extend(request.subscribe.iter().filter(is_unknown).cloned());
        }
        self.subscription.unsubscribe(&request.unsubscribe);
        for name in &request.unsubscribe {
            self.owed.remove(name);
            if name != "*" && self.subscription.wants_all() {
                // Still wanted with all the others, or gone: the Envoy cannot know which without being told.
                self.owed.insert(name.clone());
            }
        }
        let wants = |name: &str| self.subscription.wants(name);
        if !request.unsubscribe.is_empty() {
            self.known.retain(|name, _| wants(name));
        }
    }
}

impl OneType for DeltaType {
    fn is_pending(&self) -> bool {
        self.is_pending
    }

    fn is_refused(&self) -> bool {
        !self.doubtful.is_empty()
    }

    fn update(&mut self, resource_type: ResourceType, wanted: &OfType, phase: Phase, nonce: &str) -> Option<Outgoing> {
        if !self.is_requested || self.is_pending {
            return None;
        }
        let is_due = |resource: &Resource| {
            self.owed.contains(&*resource.name) || self.known.get(&resource.name) != Some(&resource.version.to_string())
        };
        let selected = || self.subscription.select(wanted);
        let is_gone = |name: &str| !wanted.by_name.contains_key(name) || !self.subscription.wants(name);
        let removes = phase.removes(resource_type);
        let lost = self.known.keys().filter(|name| removes && is_gone(name)).map(|name| name.to_string());
        let removed: BTreeSet<String> = lost.chain(self.owed.iter().filter(|name| is_gone(name)).cloned()).collect();
        // An Envoy that wants all and gets none waits for nothing more.
        let is_first_of_all = self.nonce.is_empty() && self.subscription.wants_all() && self.known.is_empty();
        if !selected().any(|resource| is_due(resource)) && removed.is_empty() && !is_first_of_all {
            return None;
        }
        let is_sent = |resource: &&Arc<Resource>| is_due(resource) || self.doubtful.contains(&resource.name);
        let resources: Vec<_> = selected().filter(is_sent).map(Arc::clone).collect();
        let changed: Vec<_> = resources.iter().map(|resource| Arc::clone(&resource.name)).collect();

        self.owed.clear();
        for name in &removed {
            self.known.remove(name.as_str());
            self.doubtful.remove(name.as_str());
        }
        self.known.extend(resources.iter().map(|resource| (Arc::clone(&resource.name), resource.version.to_string())));
        self.under_way.clone_from(&changed);
        nonce.clone_into(&mut self.nonce);
        self.is_pending = true;
        let removed = removed.into_iter().collect();
        Some(Outgoing { resource_type, version: wanted.version, resources, changed, removed, nonce: nonce.to_owned() })
    }

    fn forget(&mut self, name: &str) {
        self.known.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{shown, type_of, world};
    use super::*;

    #[derive(Default)]
    struct Talk {
        delta: Delta,
        nonces: BTreeMap<ResourceType, String>,
        answer: Option<(ResourceType, Answer)>,
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn request(type_name: &str, subscribe: &[&str], unsubscribe: &[&str]) -> Request {
        Request {
            resource_type: type_of(type_name),
            subscribe: names(subscribe),
            unsubscribe: names(unsubscribe),
            initial_versions: HashMap::new(),
            nonce: String::new(),
            error: None,
        }
    }

    impl Talk {
        fn say(&mut self, request: Request, world: &Resources) -> Vec<String> {
            let step = self.delta.on_request(request, Some(world));
            self.answer = step.answer;
            self.note(&step.responses)
        }

        fn subscribe(&mut self, type_name: &str, subscribe: &[&str], world: &Resources) -> Vec<String> {
            self.say(request(type_name, subscribe, &[]), world)
        }

        fn answer(&mut self, type_name: &str, error: Option<&str>, world: &Resources) -> Vec<String> {
            let nonce = self.nonces[&type_of(type_name)].clone();
            self.say(Request { nonce, error: error.map(str::to_owned), ..request(type_name, &[], &[]) }, world)
        }

        fn ack(&mut self, type_name: &str, world: &Resources) -> Vec<String> {
            self.answer(type_name, None, world)
        }

        fn change(&mut self, world: &Resources) -> Vec<String> {
            let responses = self.delta.on_change(world);
            self.note(&responses)
        }

        fn quiet(&mut self, world: &Resources) -> Vec<String> {
            let responses = self.delta.on_quiet(world);
            self.note(&responses)
        }

        fn note(&mut self, responses: &[Outgoing]) -> Vec<String> {
            self.nonces.extend(responses.iter().map(|response| (response.resource_type, response.nonce.clone())));
            shown(responses)
        }
    }

    #[test]
    fn only_what_changed_is_sent() {
        let mut talk = Talk::default();
        let first = world(&["cluster:a=1", "cluster:b=1"]);
        assert_eq!(talk.subscribe("cluster", &[], &first), ["cluster a b"]);
        assert_eq!(talk.ack("cluster", &first), [""; 0]);
        assert_eq!(talk.change(&world(&["cluster:a=1", "cluster:b=2", "cluster:c=1"])), ["cluster b c"]);
    }

    #[test]
    fn what_is_gone_is_removed_and_sent_again_when_it_is_back() {
        let mut talk = Talk::default();
        let first = world(&["cluster:a=1", "cluster:b=1"]);
        talk.subscribe("cluster", &[], &first);
        talk.ack("cluster", &first);
        let second = world(&["cluster:a=1"]);
        assert_eq!(talk.change(&second), [""; 0]);
        assert_eq!(talk.quiet(&second), ["cluster -b"]);
        assert_eq!(talk.ack("cluster", &second), [""; 0]);
        assert_eq!(talk.change(&first), ["cluster b"]);
    }

    #[test]
    fn a_cluster_is_there_before_the_routes_that_need_it_and_goes_after_them() {
        let mut talk = Talk::default();
        let first = world(&["cluster:a=1", "route:r=a"]);
        talk.subscribe("cluster", &[], &first);
        talk.ack("cluster", &first);
        talk.subscribe("route", &["r"], &first);
        talk.ack("route", &first);
        let second = world(&["cluster:b=1", "route:r=b"]);
        assert_eq!(talk.change(&second), ["cluster b"]);
        assert_eq!(talk.quiet(&second), [""; 0]);
        assert_eq!(talk.ack("cluster", &second), ["route r"]);
        assert_eq!(talk.quiet(&second), [""; 0]);
        assert_eq!(talk.answer("route", Some("no"), &second), [""; 0]);
        assert_eq!(talk.quiet(&second), [""; 0], "the Envoy still has the old routes");
        let third = world(&["cluster:b=1", "route:r=c"]);
        assert_eq!(talk.change(&third), ["route r"]);
        assert_eq!(talk.ack("route", &third), [""; 0]);
        assert_eq!(talk.quiet(&third), ["cluster -a"]);
    }

    #[test]
    fn every_name_that_is_asked_for_is_answered_even_if_it_is_known() {
        let world = world(&["endpoint:a=1"]);
        let mut talk = Talk::default();
        assert_eq!(talk.subscribe("endpoint", &["a"], &world), ["endpoint a"]);
        talk.ack("endpoint", &world);
        assert_eq!(talk.subscribe("endpoint", &["a"], &world), ["endpoint a"]);
    }

    #[test]
    fn a_name_that_does_not_exist_is_removed_at_once_and_sent_once_it_exists() {
        let mut talk = Talk::default();
        assert_eq!(talk.subscribe("route", &["r"], &world(&[])), ["route -r"]);
        assert_eq!(talk.ack("route", &world(&[])), [""; 0]);
        assert_eq!(talk.change(&world(&["route:r=1"])), ["route r"]);
    }

    #[test]
    fn an_empty_list_subscribes_to_all_in_the_first_request_only() {
        let world = world(&["cluster:a=1", "cluster:b=1"]);
        let mut talk = Talk::default();
        assert_eq!(talk.subscribe("cluster", &["a"], &world), ["cluster a"]);
        talk.ack("cluster", &world);
        assert_eq!(talk.subscribe("cluster", &[], &world), [""; 0]);
    }

    #[test]
    fn a_stale_nonce_still_changes_what_is_wanted() {
        let world = world(&["endpoint:a=1", "endpoint:b=1"]);
        let mut talk = Talk::default();
        talk.subscribe("endpoint", &["a"], &world);
        talk.ack("endpoint", &world);
        let stale = Request { nonce: "0".to_owned(), ..request("endpoint", &["b"], &[]) };
        assert_eq!(talk.say(stale, &world), ["endpoint b"]);
        assert_eq!(talk.answer, None);
    }

    #[test]
    fn what_a_reconnecting_envoy_has_is_not_sent_again() {
        let world = world(&["cluster:a=1", "cluster:b=2"]);
        let version = |name: &str| world.of_type(ResourceType::Cluster).by_name[name].version.to_string();
        let initial = [("a", version("a")), ("b", "old".to_owned()), ("c", "gone".to_owned())];
        let initial_versions = initial.into_iter().map(|(name, version)| (name.to_owned(), version)).collect();
        let mut talk = Talk::default();
        let first = Request { initial_versions, ..request("cluster", &[], &[]) };
        assert_eq!(talk.say(first, &world), ["cluster b"]);
        talk.ack("cluster", &world);
        assert_eq!(talk.quiet(&world), ["cluster -c"]);
    }

    #[test]
    fn a_known_name_in_the_first_request_is_not_sent_again() {
        let world = world(&["route:r=1"]);
        let version = world.of_type(ResourceType::Route).by_name["r"].version.to_string();
        let mut talk = Talk::default();
        let first =
            Request { initial_versions: HashMap::from([("r".to_owned(), version)]), ..request("route", &["r"], &[]) };
        assert_eq!(talk.say(first, &world), [""; 0]);
    }

    #[test]
    fn what_was_refused_is_not_sent_until_something_changes_and_then_all_of_it() {
        let mut talk = Talk::default();
        let bad = world(&["listener:l=bad", "listener:m=1"]);
        talk.subscribe("listener", &[], &bad);
        assert_eq!(talk.answer("listener", Some("no"), &bad), [""; 0]);
        assert_eq!(talk.answer, Some((ResourceType::Listener, Answer::Refused("no".to_owned()))));
        assert_eq!(talk.change(&bad), [""; 0]);
        assert_eq!(talk.change(&world(&["listener:l=good", "listener:m=1"])), ["listener l m"]);
    }

    #[test]
    fn a_name_that_is_unsubscribed_beside_a_wildcard_is_answered() {
        let world = world(&["cluster:a=1"]);
        let mut talk = Talk::default();
        talk.subscribe("cluster", &["*", "a", "x"], &world);
        talk.ack("cluster", &world);
        assert_eq!(talk.say(request("cluster", &[], &["a", "x"]), &world), ["cluster a -x"]);
    }

    #[test]
    fn without_the_wildcard_only_names_are_left() {
        let mut talk = Talk::default();
        let first = world(&["cluster:a=1", "cluster:b=1"]);
        talk.subscribe("cluster", &["*", "a"], &first);
        talk.ack("cluster", &first);
        assert_eq!(talk.say(request("cluster", &[], &["*"]), &first), [""; 0]);
        assert_eq!(talk.change(&world(&["cluster:a=2", "cluster:b=2"])), ["cluster a"]);
    }

    #[test]
    fn a_changed_cluster_gets_its_endpoints_again() {
        let mut talk = Talk::default();
        let first = world(&["cluster:a=1", "endpoint:a=1"]);
        talk.subscribe("cluster", &[], &first);
        talk.subscribe("endpoint", &["a"], &first);
        talk.ack("cluster", &first);
        talk.ack("endpoint", &first);
        assert_eq!(talk.change(&world(&["cluster:a=2", "endpoint:a=1"])), ["cluster a", "endpoint a"]);
    }

    #[test]
    fn one_response_of_a_type_is_under_way_and_the_newest_state_follows() {
        let mut talk = Talk::default();
        talk.subscribe("listener", &[], &world(&["listener:l=1"]));
        for content in 2..100 {
            assert_eq!(talk.change(&world(&[&format!("listener:l={content}")])), [""; 0]);
        }
        let last = world(&["listener:l=99"]);
        assert_eq!(talk.ack("listener", &last), ["listener l"]);
        assert_eq!(talk.ack("listener", &last), [""; 0]);
    }

    #[test]
    fn a_refused_route_that_is_gone_no_longer_keeps_clusters() {
        let mut talk = Talk::default();
        let first = world(&["cluster:a=1", "cluster:b=1", "route:r=bad"]);
        talk.subscribe("cluster", &[], &first);
        talk.ack("cluster", &first);
        talk.subscribe("route", &["r"], &first);
        talk.answer("route", Some("no"), &first);
        let second = world(&["cluster:a=1"]);
        assert_eq!(talk.change(&second), ["route -r"]);
        talk.ack("route", &second);
        assert_eq!(shown(&talk.delta.on_quiet(&second)), ["cluster -b"]);
    }
}
