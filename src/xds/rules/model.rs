//! Any history of changes, subscriptions, acknowledgements and refusals ends with an Envoy that has what it is to have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::talk::{owned, world};
use crate::clock::Timestamp;
use crate::nodes::{Protocol, Standing};
use crate::snapshot::Resources;
use crate::snapshot::resource::ResourceType;
use crate::xds::session::{Outgoing, Session};
use crate::xds::{delta, sotw};

const TYPES: [ResourceType; 4] =
    [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Listener, ResourceType::Route];
const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Step {
    /// For each type and name: which content there is; 0 is none, 3 is one that Envoys refuse.
    Change([[u8; 3]; 4]),
    /// The pending response of the type is answered; of a bad one so many resources are taken over all the same.
    Answer(usize, usize),
    /// From now on these are wanted.
    Subscribe(usize, [bool; 3]),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let contents = || prop::array::uniform4(prop::array::uniform3(0..4_u8));
    prop_oneof![
        2 => contents().prop_map(Step::Change),
        4 => (0..4_usize, 0..3_usize).prop_map(|(index, taken)| Step::Answer(index, taken)),
        1 => (0..4_usize, prop::array::uniform3(any::<bool>())).prop_map(|(index, names)| Step::Subscribe(index, names)),
        1 => (0..9_u64).prop_map(Step::Wait),
    ]
}

/// An Envoy as the protocol wants one.
struct Envoy {
    session: Session,
    world: Arc<Resources>,
    now: Timestamp,
    has: BTreeMap<ResourceType, BTreeMap<String, String>>,
    wants: BTreeMap<ResourceType, BTreeSet<String>>,
    pending: BTreeMap<ResourceType, Outgoing>,
    nonces: BTreeMap<ResourceType, u64>,
}

impl Envoy {
    fn new(protocol: Protocol) -> Self {
        let mut envoy = Self {
            session: Session::new(protocol),
            world: world(&[]),
            now: Timestamp::default(),
            has: BTreeMap::new(),
            wants: BTreeMap::new(),
            pending: BTreeMap::new(),
            nonces: BTreeMap::new(),
        };
        for resource_type in TYPES {
            let names = if resource_type.has_wildcard() { vec![] } else { owned(&NAMES) };
            envoy.wants.insert(resource_type, names.iter().cloned().collect());
            envoy.request(resource_type, names, vec![], None, false);
        }
        envoy
    }

    fn request(
        &mut self,
        resource_type: ResourceType,
        subscribe: Vec<String>,
        unsubscribe: Vec<String>,
        error: Option<String>,
        is_answer: bool,
    ) {
        let nonce = self.nonces.get(&resource_type).map(ToString::to_string).unwrap_or_default();
        match self.session.protocol {
            Protocol::StateOfTheWorld => {
                let names = self.wants[&resource_type].iter().cloned().collect();
                sotw::on_request(&mut self.session, resource_type, sotw::Request { names, nonce, error });
            }
            Protocol::Delta => {
                let nonce = if is_answer { nonce } else { String::new() };
                let request = delta::Request { subscribe, unsubscribe, nonce, error, ..Default::default() };
                delta::on_request(&mut self.session, resource_type, request);
            }
        }
        self.advance();
    }

    fn advance(&mut self) {
        for response in self.session.advance(&self.world, self.now) {
            self.nonces.insert(response.resource_type, response.nonce);
            let before = self.pending.insert(response.resource_type, response);
            assert!(before.is_none(), "one response of a type is under way");
        }
    }

    fn act(&mut self, step: Step) {
        match step {
            Step::Change(contents) => {
                let of_type = |(resource_type, contents): (ResourceType, [u8; 3])| {
                    let there = NAMES.into_iter().zip(contents).filter(|(_, content)| *content > 0);
                    there.map(move |(name, content)| format!("{resource_type}:{name}={content}"))
                };
                let resources: Vec<String> = TYPES.into_iter().zip(contents).flat_map(of_type).collect();
                self.world = world(&resources.iter().map(String::as_str).collect::<Vec<_>>());
                self.advance();
            }
            Step::Answer(index, taken) => self.answer(TYPES[index], taken),
            Step::Subscribe(index, names) => self.subscribe(TYPES[index], names),
            Step::Wait(seconds) => {
                self.now = self.now + Duration::from_secs(seconds);
                self.advance();
            }
        }
    }

    fn answer(&mut self, resource_type: ResourceType, taken: usize) {
        let Some(response) = self.pending.remove(&resource_type) else { return };
        let is_bad = |body: &[u8]| body == b"3";
        let refuses = response.resources.iter().any(|resource| is_bad(&resource.body));
        let has = self.has.entry(resource_type).or_default();
        // Of one change an Envoy takes all or nothing, of several maybe some.
        let taken = if refuses {
            if response.changed.len() + response.removed.len() > 1 { taken } else { 0 }
        } else {
            usize::MAX
        };
        let wants = &self.wants[&resource_type];
        let is_wanted = |name: &str| resource_type.has_wildcard() || wants.contains(name);
        let good = response.resources.iter().filter(|r| !is_bad(&r.body) && is_wanted(&r.name));
        for resource in good.take(taken) {
            has.insert(resource.name.to_string(), String::from_utf8(resource.body.to_vec()).unwrap());
        }
        if !refuses {
            response.removed.iter().for_each(|name| drop(has.remove(&**name)));
            if self.session.protocol == Protocol::StateOfTheWorld && resource_type.has_wildcard() {
                has.retain(|name, _| response.resources.iter().any(|resource| *resource.name == **name));
            }
        }
        self.request(resource_type, vec![], vec![], refuses.then(|| "bad".to_owned()), true);
    }

    fn subscribe(&mut self, resource_type: ResourceType, names: [bool; 3]) {
        // What a request says that crosses a response is dropped in state of the world (xDS rule 17).
        let is_stale = self.session.protocol == Protocol::StateOfTheWorld && self.pending.contains_key(&resource_type);
        // Once it has named something, nothing is all no longer; here an Envoy either names or wants all.
        if resource_type.has_wildcard() || is_stale {
            return;
        }
        let wants: BTreeSet<String> =
            NAMES.into_iter().zip(names).filter(|(_, wanted)| *wanted).map(|(name, _)| name.to_owned()).collect();
        let before = self.wants.insert(resource_type, wants.clone()).unwrap();
        let has = self.has.entry(resource_type).or_default();
        has.retain(|name, _| wants.contains(name));
        let [new, gone] = [(&wants, &before), (&before, &wants)].map(|(a, b)| a.difference(b).cloned().collect());
        self.request(resource_type, new, gone, None, false);
    }

    /// Answers everything until there is nothing more to say.
    fn settle(&mut self) {
        for _ in 0..40 {
            TYPES.into_iter().for_each(|resource_type| self.answer(resource_type, 0));
            self.now = self.now + Duration::from_secs(1);
            self.advance();
        }
        assert!(self.pending.is_empty(), "{:?}", self.pending);
    }

    fn assert_current(&self) {
        for resource_type in TYPES {
            let wants = |name: &str| resource_type.has_wildcard() || self.wants[&resource_type].contains(name);
            let wanted = self.world.of_type(resource_type).by_name.values().filter(|resource| wants(&resource.name));
            let wanted: BTreeMap<String, String> = wanted
                .map(|resource| (resource.name.to_string(), String::from_utf8(resource.body.to_vec()).unwrap()))
                .collect();
            let mut has = self.has.get(&resource_type).cloned().unwrap_or_default();
            if self.session.protocol == Protocol::StateOfTheWorld && !resource_type.has_wildcard() {
                // What is gone is forgotten with what referred to it.
                has.retain(|name, _| wanted.contains_key(name));
            }
            assert_eq!(has, wanted, "{resource_type}");
        }
        assert_eq!(self.session.standing(), Standing::Live);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..Default::default() })]

    #[test]
    fn whatever_happened_an_envoy_ends_with_what_it_is_to_have(
        is_delta in any::<bool>(),
        steps in prop::collection::vec(step(), 1..40),
        last in prop::array::uniform4(prop::array::uniform3(0..3_u8)),
    ) {
        let mut envoy = Envoy::new(if is_delta { Protocol::Delta } else { Protocol::StateOfTheWorld });
        steps.into_iter().for_each(|step| envoy.act(step));
        envoy.act(Step::Change(last));
        envoy.settle();
        envoy.assert_current();
    }

    /// The node never gets what it refused again while nothing else changes.
    #[test]
    fn an_envoy_that_refuses_is_left_alone(
        is_delta in any::<bool>(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut envoy = Envoy::new(if is_delta { Protocol::Delta } else { Protocol::StateOfTheWorld });
        steps.into_iter().for_each(|step| envoy.act(step));
        envoy.settle();
        let nonces = envoy.nonces.clone();
        envoy.settle();
        prop_assert_eq!(nonces, envoy.nonces);
    }
}
