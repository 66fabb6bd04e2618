//! A session and the Envoy at its other end, in few words.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::nodes::Protocol;
use crate::snapshot::Resources;
use crate::snapshot::resource::{Resource, ResourceType};
use crate::xds::session::{Answer, Outgoing, Session, Step};
use crate::xds::{delta, sotw};

/// Resources written as `cluster:a=1`: a type, a name and a content.
pub(super) fn world(resources: &[&str]) -> Arc<Resources> {
    let resource = |text: &&str| {
        let (resource_type, rest) = text.split_once(':').unwrap();
        let (name, content) = rest.split_once('=').unwrap();
        (type_of(resource_type), Arc::new(Resource::new(name, content.as_bytes().to_vec())))
    };
    Arc::new(Resources::new(resources.iter().map(resource)))
}

pub(super) fn type_of(name: &str) -> ResourceType {
    ResourceType::ALL.into_iter().find(|resource_type| resource_type.as_str() == name).unwrap()
}

pub(super) fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Nothing is said.
pub(super) const SILENCE: [&str; 0] = [];

/// The nonces, the world and the time are remembered, so that a test says only what is new.
pub(super) struct Talk {
    pub(super) session: Session,
    pub(super) world: Arc<Resources>,
    pub(super) answer: Option<Answer>,
    pub(super) is_stale: bool,
    pub(super) versions: BTreeMap<ResourceType, String>,
    pub(super) nonces: BTreeMap<ResourceType, String>,
    names: BTreeMap<ResourceType, Vec<String>>,
    now: Timestamp,
}

impl Talk {
    pub(super) fn sotw(resources: &[&str]) -> Self {
        Self::new(Protocol::StateOfTheWorld, resources)
    }

    pub(super) fn delta(resources: &[&str]) -> Self {
        Self::new(Protocol::Delta, resources)
    }

    pub(super) fn both(resources: &[&str]) -> [Self; 2] {
        [Self::sotw(resources), Self::delta(resources)]
    }

    fn new(protocol: Protocol, resources: &[&str]) -> Self {
        Self {
            session: Session::new(protocol),
            world: world(resources),
            answer: None,
            is_stale: false,
            versions: BTreeMap::new(),
            nonces: BTreeMap::new(),
            names: BTreeMap::new(),
            now: Timestamp::default(),
        }
    }

    /// The first request of a type, or one for more: in state of the world the list, in delta what is new in it.
    pub(super) fn ask(&mut self, type_name: &str, names: &[&str]) -> Vec<String> {
        match self.session.protocol {
            Protocol::StateOfTheWorld => {
                let nonce = self.nonce(type_name);
                self.names.insert(type_of(type_name), owned(names));
                self.list(type_name, names, &nonce, None)
            }
            Protocol::Delta => self.subscribe(type_name, names),
        }
    }

    pub(super) fn ack(&mut self, type_name: &str) -> Vec<String> {
        self.reply(type_name, None)
    }

    pub(super) fn nack(&mut self, type_name: &str) -> Vec<String> {
        self.reply(type_name, Some("bad"))
    }

    /// Asks, and takes what it gets, for several types one after the other.
    pub(super) fn has(&mut self, subscriptions: &[(&str, &[&str])]) {
        for (type_name, names) in subscriptions {
            self.ask(type_name, names);
            self.ack(type_name);
        }
    }

    fn reply(&mut self, type_name: &str, error: Option<&str>) -> Vec<String> {
        let nonce = self.nonce(type_name);
        match self.session.protocol {
            Protocol::StateOfTheWorld => {
                let names = self.names.get(&type_of(type_name)).cloned().unwrap_or_default();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                self.list(type_name, &names, &nonce, error)
            }
            Protocol::Delta => {
                let error = error.map(str::to_owned);
                self.say(type_name, delta::Request { nonce, error, ..Default::default() })
            }
        }
    }

    pub(super) fn nonce(&self, type_name: &str) -> String {
        self.nonces.get(&type_of(type_name)).cloned().unwrap_or_default()
    }

    /// A DiscoveryRequest.
    pub(super) fn list(&mut self, type_name: &str, names: &[&str], nonce: &str, error: Option<&str>) -> Vec<String> {
        let request = sotw::Request { names: owned(names), nonce: nonce.to_owned(), error: error.map(str::to_owned) };
        let step = sotw::on_request(&mut self.session, type_of(type_name), request);
        self.after(step)
    }

    /// A DeltaDiscoveryRequest.
    pub(super) fn say(&mut self, type_name: &str, request: delta::Request) -> Vec<String> {
        let step = delta::on_request(&mut self.session, type_of(type_name), request);
        self.after(step)
    }

    pub(super) fn subscribe(&mut self, type_name: &str, names: &[&str]) -> Vec<String> {
        self.say(type_name, delta::Request { subscribe: owned(names), ..Default::default() })
    }

    pub(super) fn unsubscribe(&mut self, type_name: &str, names: &[&str]) -> Vec<String> {
        self.say(type_name, delta::Request { unsubscribe: owned(names), ..Default::default() })
    }

    /// A first request that says what an Envoy has, as `name=content`.
    pub(super) fn reconnect(&mut self, type_name: &str, subscribe: &[&str], has: &[&str]) -> Vec<String> {
        let initial = |text: &&str| {
            let (name, content) = text.split_once('=').unwrap();
            (name.to_owned(), Resource::new(name, content.as_bytes().to_vec()).version.to_string())
        };
        let initial_versions: HashMap<_, _> = has.iter().map(initial).collect();
        self.say(type_name, delta::Request { subscribe: owned(subscribe), initial_versions, ..Default::default() })
    }

    pub(super) fn change(&mut self, resources: &[&str]) -> Vec<String> {
        self.world = world(resources);
        self.advance()
    }

    /// So many seconds pass.
    pub(super) fn wait(&mut self, seconds: u64) -> Vec<String> {
        self.now = self.now + Duration::from_secs(seconds);
        self.advance()
    }

    fn after(&mut self, step: Step) -> Vec<String> {
        self.answer = step.answer;
        self.is_stale = step.is_stale;
        self.advance()
    }

    fn advance(&mut self) -> Vec<String> {
        let responses = self.session.advance(&self.world, self.now);
        for response in &responses {
            assert!(!self.nonces.values().any(|nonce| *nonce == response.nonce.to_string()), "a nonce is unique");
            self.nonces.insert(response.resource_type, response.nonce.to_string());
            self.versions.insert(response.resource_type, response.version.to_string());
        }
        responses.iter().map(shown).collect()
    }
}

/// `cluster a b -c`: the type, what is sent, and what is removed.
fn shown(response: &Outgoing) -> String {
    let sent = response.resources.iter().map(|resource| resource.name.to_string());
    let removed = response.removed.iter().map(|name| format!("-{name}"));
    std::iter::once(response.resource_type.to_string()).chain(sent).chain(removed).collect::<Vec<_>>().join(" ")
}
