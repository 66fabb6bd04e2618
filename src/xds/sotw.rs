//! State of the world: one Envoy's side of a StreamAggregatedResources stream, as values in, values out.
//!
//! A request says everything that is wanted of a type. A response is all of it for clusters and listeners, where
//! what is absent is deleted, and may be a part of it for the other types (xDS protocol, "Grouping Resources into
//! Responses").

use std::collections::BTreeMap;
use std::sync::Arc;

use super::session::{Answer, OneType, Outgoing, Phase, Step, Types};
use super::subscription::Subscription;
use crate::snapshot::resource::{Resource, ResourceType};
use crate::snapshot::{OfType, Resources};

/// A DiscoveryRequest, without what only matters to the stream.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) resource_type: ResourceType,
    pub(super) names: Vec<String>,
    pub(super) nonce: String,
    /// The message of `error_detail`. It alone tells a refusal from an acknowledgement.
    pub(super) error: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Sotw(Types<SotwType>);

#[derive(Debug, Default)]
pub(super) struct SotwType {
    is_requested: bool,
    subscription: Subscription,
    /// The nonce of the last response; empty before the first.
    nonce: String,
    is_pending: bool,
    is_refused: bool,
    /// What was sent last of each resource, refused or not: a refused version is not sent again until it changes.
    sent: BTreeMap<Arc<str>, Arc<Resource>>,
}

impl Sotw {
    pub(super) fn on_request(&mut self, request: Request, resources: Option<&Resources>) -> Step {
        let mut step = Step::default();
        let Some(one) = self.0.get_mut(request.resource_type) else { return step };
        // Before the first response any nonce is one of an earlier stream, and says nothing.
        let was_answered = !one.nonce.is_empty();
        // The Envoy had not seen the newest response yet. It repeats what it wants once it has.
        if was_answered && request.nonce != one.nonce {
            return step;
        }
        if was_answered {
            one.is_pending = false;
            one.is_refused = request.error.is_some();
            step.answer = Some((request.resource_type, Answer::of(request.error)));
        }
        one.is_requested = true;
        one.subscription.replace(request.resource_type, request.names);
        // What is no longer wanted is forgotten by the Envoy. If it is wanted again it is sent again.
        one.sent.retain(|name, _| one.subscription.wants(name));
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

impl OneType for SotwType {
    fn is_pending(&self) -> bool {
        self.is_pending
    }

    fn is_refused(&self) -> bool {
        self.is_refused
    }

    fn update(&mut self, resource_type: ResourceType, wanted: &OfType, phase: Phase, nonce: &str) -> Option<Outgoing> {
        if !self.is_requested || self.is_pending {
            return None;
        }
        let is_changed =
            |resource: &Resource| self.sent.get(&resource.name).is_none_or(|sent| sent.version != resource.version);
        let selected = || self.subscription.select(wanted);
        let changed: Vec<_> = selected().filter(|r| is_changed(r)).map(|r| Arc::clone(&r.name)).collect();
        // Absence says something for these types, and nothing for the others.
        let is_full_state = resource_type.has_wildcard();
        let is_wanted = |name: &str| self.subscription.wants(name) && wanted.by_name.contains_key(name);
        let is_gone = |sent: &&Arc<Resource>| is_full_state && !is_wanted(&sent.name);
        let gone: Vec<_> = self.sent.values().filter(is_gone).map(Arc::clone).collect();
        let removes = phase.removes(resource_type);
        // An Envoy that wants all and gets none waits for nothing more.
        let is_first_of_all = self.nonce.is_empty() && self.subscription.wants_all();
        if changed.is_empty() && (gone.is_empty() || !removes) && !is_first_of_all {
            return None;
        }
        // What is absent is deleted, so what has to stay for now is sent along.
        let kept = gone.into_iter().filter(|_| !removes);
        let to_send = selected().filter(|resource| is_full_state || is_changed(resource));
        let resources: Vec<_> = to_send.map(Arc::clone).chain(kept).collect();
        if is_full_state {
            self.sent.clear();
        }
        self.sent.extend(resources.iter().map(|resource| (Arc::clone(&resource.name), Arc::clone(resource))));
        nonce.clone_into(&mut self.nonce);
        self.is_pending = true;
        let removed = Vec::new();
        Some(Outgoing { resource_type, version: wanted.version, resources, changed, removed, nonce: nonce.to_owned() })
    }

    fn forget(&mut self, name: &str) {
        self.sent.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{shown, type_of, world};
    use super::*;

    /// A session and the Envoy at its other end, which remembers the nonces it was sent.
    #[derive(Default)]
    struct Talk {
        sotw: Sotw,
        nonces: BTreeMap<ResourceType, String>,
        answer: Option<(ResourceType, Answer)>,
    }

    impl Talk {
        fn say(
            &mut self,
            type_name: &str,
            names: &[&str],
            nonce: &str,
            error: Option<&str>,
            world: &Resources,
        ) -> Vec<String> {
            let request = Request {
                resource_type: type_of(type_name),
                names: names.iter().map(|name| (*name).to_owned()).collect(),
                nonce: nonce.to_owned(),
                error: error.map(str::to_owned),
            };
            let step = self.sotw.on_request(request, Some(world));
            self.answer = step.answer;
            self.note(&step.responses)
        }

        /// A request with the newest nonce: the first, an acknowledgement, or a changed subscription.
        fn ask(&mut self, type_name: &str, names: &[&str], world: &Resources) -> Vec<String> {
            let nonce = self.nonces.get(&type_of(type_name)).cloned().unwrap_or_default();
            self.say(type_name, names, &nonce, None, world)
        }

        fn refuse(&mut self, type_name: &str, names: &[&str], world: &Resources) -> Vec<String> {
            let nonce = self.nonces.get(&type_of(type_name)).cloned().unwrap_or_default();
            self.say(type_name, names, &nonce, Some("bad"), world)
        }

        fn change(&mut self, world: &Resources) -> Vec<String> {
            let responses = self.sotw.on_change(world);
            self.note(&responses)
        }

        fn quiet(&mut self, world: &Resources) -> Vec<String> {
            let responses = self.sotw.on_quiet(world);
            self.note(&responses)
        }

        fn note(&mut self, responses: &[Outgoing]) -> Vec<String> {
            self.nonces.extend(responses.iter().map(|response| (response.resource_type, response.nonce.clone())));
            shown(responses)
        }
    }

    #[test]
    fn a_first_request_without_names_gets_all_clusters_and_listeners_and_nothing_else() {
        let world = world(&["cluster:a=1", "cluster:b=1", "endpoint:a=1", "route:r=1"]);
        let mut talk = Talk::default();
        assert_eq!(talk.ask("cluster", &[], &world), ["cluster a b"]);
        assert_eq!(talk.ask("cluster", &[], &world), [""; 0]);
        assert_eq!(talk.ask("listener", &[], &world), ["listener"], "an empty answer ends the wait for listeners");
        assert_eq!(talk.ask("endpoint", &[], &world), [""; 0]);
        assert_eq!(talk.ask("route", &[], &world), [""; 0]);
    }

    #[test]
    fn an_acknowledgement_is_not_answered() {
        let world = world(&["cluster:a=1"]);
        let mut talk = Talk::default();
        talk.ask("cluster", &[], &world);
        assert_eq!(talk.ask("cluster", &[], &world), [""; 0]);
        assert_eq!(talk.answer, Some((ResourceType::Cluster, Answer::Acknowledged)));
    }

    #[test]
    fn a_change_is_sent_once_and_clusters_are_sent_whole() {
        let mut talk = Talk::default();
        let first = world(&["cluster:a=1", "cluster:b=1"]);
        talk.ask("cluster", &[], &first);
        talk.ask("cluster", &[], &first);
        assert_eq!(talk.change(&first), [""; 0]);
        assert_eq!(talk.change(&world(&["cluster:a=1", "cluster:b=2"])), ["cluster a b"]);
    }

    #[test]
    fn a_deleted_cluster_is_left_out_of_a_response_when_it_is_quiet() {
        let mut talk = Talk::default();
        let first = world(&["cluster:a=1", "cluster:b=1"]);
        talk.ask("cluster", &[], &first);
        talk.ask("cluster", &[], &first);
        let second = world(&["cluster:a=1"]);
        assert_eq!(talk.change(&second), [""; 0]);
        assert_eq!(talk.quiet(&second), ["cluster a"]);
    }

    #[test]
    fn a_cluster_is_there_before_the_routes_that_need_it_and_goes_after_them() {
        let mut talk = Talk::default();
        let first = world(&["cluster:a=1", "route:r=a"]);
        for _ in 0..2 {
            talk.ask("cluster", &[], &first);
            talk.ask("route", &["r"], &first);
        }
        let second = world(&["cluster:b=1", "route:r=b"]);
        assert_eq!(talk.change(&second), ["cluster b a"]);
        assert_eq!(talk.quiet(&second), [""; 0]);
        assert_eq!(talk.ask("cluster", &[], &second), ["route r"]);
        assert_eq!(talk.quiet(&second), [""; 0]);
        assert_eq!(talk.refuse("route", &["r"], &second), [""; 0]);
        assert_eq!(talk.quiet(&second), [""; 0], "the Envoy still has the old routes");
        let third = world(&["cluster:b=1", "route:r=c"]);
        assert_eq!(talk.change(&third), ["route r"]);
        assert_eq!(talk.ask("route", &["r"], &third), [""; 0]);
        assert_eq!(talk.quiet(&third), ["cluster b"]);
    }

    #[test]
    fn a_stale_nonce_is_ignored_with_all_that_it_says() {
        let mut talk = Talk::default();
        let first = world(&["route:r=1", "route:s=1"]);
        talk.ask("route", &["r"], &first);
        let stale = talk.nonces[&ResourceType::Route].clone();
        talk.ask("route", &["r"], &first);
        talk.change(&world(&["route:r=2", "route:s=1"]));
        assert_eq!(talk.say("route", &["r", "s"], &stale, None, &first), [""; 0]);
        assert_eq!(talk.answer, None);
        assert_eq!(talk.ask("route", &["r", "s"], &world(&["route:r=2", "route:s=1"])), ["route s"]);
    }

    #[test]
    fn a_nonce_of_an_earlier_stream_is_a_first_request() {
        let mut talk = Talk::default();
        assert_eq!(talk.say("route", &["r"], "17", None, &world(&[])), [""; 0]);
        assert_eq!(talk.say("route", &["r", "s"], "17", None, &world(&["route:s=1"])), ["route s"]);
        assert_eq!(talk.answer, None);
    }

    #[test]
    fn names_that_are_added_are_sent_without_a_change() {
        let world = world(&["endpoint:a=1", "endpoint:b=1"]);
        let mut talk = Talk::default();
        assert_eq!(talk.ask("endpoint", &["a"], &world), ["endpoint a"]);
        assert_eq!(talk.ask("endpoint", &["a", "b"], &world), ["endpoint b"]);
        assert_eq!(talk.ask("endpoint", &["a", "b"], &world), [""; 0]);
    }

    #[test]
    fn a_name_that_is_asked_for_again_is_sent_again() {
        let world = world(&["endpoint:a=1", "endpoint:b=1"]);
        let mut talk = Talk::default();
        talk.ask("endpoint", &["a", "b"], &world);
        talk.ask("endpoint", &["a"], &world);
        assert_eq!(talk.ask("endpoint", &["a", "b"], &world), ["endpoint b"]);
    }

    #[test]
    fn a_name_that_does_not_exist_is_sent_once_it_does() {
        let mut talk = Talk::default();
        assert_eq!(talk.ask("route", &["r"], &world(&[])), [""; 0]);
        assert_eq!(talk.change(&world(&["route:r=1"])), ["route r"]);
    }

    #[test]
    fn a_refused_version_is_not_sent_again_until_it_changes() {
        let mut talk = Talk::default();
        let bad = world(&["listener:l=bad"]);
        talk.ask("listener", &[], &bad);
        assert_eq!(talk.refuse("listener", &[], &bad), [""; 0]);
        assert_eq!(talk.answer, Some((ResourceType::Listener, Answer::Refused("bad".to_owned()))));
        assert_eq!(talk.change(&bad), [""; 0]);
        assert_eq!(talk.change(&world(&["listener:l=good"])), ["listener l"]);
    }

    #[test]
    fn one_response_of_a_type_is_under_way_and_the_newest_state_follows() {
        let mut talk = Talk::default();
        talk.ask("listener", &[], &world(&["listener:l=1"]));
        for content in 2..100 {
            assert_eq!(talk.change(&world(&[&format!("listener:l={content}")])), [""; 0]);
        }
        let last = world(&["listener:l=99"]);
        assert_eq!(talk.ask("listener", &[], &last), ["listener l"]);
        assert_eq!(talk.ask("listener", &[], &last), [""; 0]);
    }

    #[test]
    fn a_changed_cluster_gets_its_endpoints_again() {
        let mut talk = Talk::default();
        let first = world(&["cluster:a=1", "endpoint:a=1", "cluster:b=1", "endpoint:b=1"]);
        for _ in 0..2 {
            talk.ask("cluster", &[], &first);
            talk.ask("endpoint", &["a", "b"], &first);
        }
        let second = world(&["cluster:a=2", "endpoint:a=1", "cluster:b=1", "endpoint:b=1"]);
        assert_eq!(talk.change(&second), ["cluster a b", "endpoint a"]);
    }

    #[test]
    fn changes_of_several_types_are_sent_in_the_order_of_references() {
        let mut talk = Talk::default();
        let first = world(&["cluster:a=1", "endpoint:a=1", "secret:s=1", "listener:l=1", "route:r=1"]);
        let types = ["cluster", "listener", "route", "secret", "endpoint"];
        let names = |type_name: &str| match type_name {
            "route" => vec!["r"],
            "secret" => vec!["s"],
            "endpoint" => vec!["a"],
            _ => vec![],
        };
        for _ in 0..2 {
            types.iter().for_each(|type_name| drop(talk.ask(type_name, &names(type_name), &first)));
        }
        let second = world(&["cluster:a=2", "endpoint:a=2", "secret:s=2", "listener:l=2", "route:r=2"]);
        assert_eq!(talk.change(&second), ["cluster a", "endpoint a", "secret s"]);
        assert_eq!(talk.ask("cluster", &[], &second), ["listener l", "route r"]);
    }

    #[test]
    fn before_a_first_generation_a_request_waits() {
        let mut talk = Talk::default();
        let request =
            Request { resource_type: ResourceType::Cluster, names: vec![], nonce: String::new(), error: None };
        assert!(talk.sotw.on_request(request, None).responses.is_empty());
        assert_eq!(talk.change(&world(&["cluster:a=1"])), ["cluster a"]);
    }
}
