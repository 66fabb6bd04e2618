//! Delta: one Envoy's side of a DeltaAggregatedResources stream, as values in, values out.
//!
//! A request says what is wanted in addition or no longer, a response what changed or is gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::session::{Answer, Outgoing, Step};
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
pub(super) struct Delta {
    types: [OneType; ResourceType::COUNT],
    last_nonce: u64,
}

#[derive(Debug, Default)]
struct OneType {
    is_requested: bool,
    subscription: Subscription,
    nonce: String,
    /// As in [`super::sotw`]: at most one response under way.
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
        let Some(one) = self.types.get_mut(request.resource_type.index()) else { return step };
        // A stale nonce only means that the answer is to an earlier response; what is wanted holds all the same.
        if one.is_pending && request.nonce == one.nonce {
            let answer = Answer::of(request.error.clone());
            one.on_answer(&answer);
            step.answer = Some((request.resource_type, answer));
        }
        one.on_subscription(&request);
        step.subscribed = one.subscription.len();
        if let Some(resources) = resources {
            step.responses = self.on_change(resources);
        }
        step
    }

    /// What has to be sent now, in the order of types.
    pub(super) fn on_change(&mut self, resources: &Resources) -> Vec<Outgoing> {
        let mut responses = Vec::new();
        for resource_type in ResourceType::ALL {
            let Some(one) = self.types.get_mut(resource_type.index()) else { continue };
            let Some(mut response) = one.update(resource_type, resources.of_type(resource_type)) else { continue };
            self.last_nonce += 1;
            one.nonce = self.last_nonce.to_string();
            one.is_pending = true;
            response.nonce.clone_from(&one.nonce);
            // A changed cluster stays warming until it gets its endpoints, even if these did not change.
            if let (ResourceType::Cluster, Some(endpoints)) =
                (resource_type, self.types.get_mut(ResourceType::Endpoint.index()))
            {
                response.resources.iter().for_each(|cluster| drop(endpoints.known.remove(&cluster.name)));
            }
            responses.push(response);
        }
        responses
    }
}

impl OneType {
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

    /// The next response, without its nonce.
    fn update(&mut self, resource_type: ResourceType, resources: &OfType) -> Option<Outgoing> {
        if !self.is_requested || self.is_pending {
            return None;
        }
        let is_due = |resource: &&Arc<Resource>| {
            self.owed.contains(&*resource.name) || self.known.get(&resource.name) != Some(&resource.version.to_string())
        };
        let mut to_send: Vec<_> = self.subscription.select(resources).filter(is_due).map(Arc::clone).collect();
        let is_gone = |name: &str| !resources.by_name.contains_key(name) || !self.subscription.wants(name);
        let mut removed: BTreeSet<String> =
            self.known.keys().filter(|name| is_gone(name)).map(|name| name.to_string()).collect();
        removed.extend(self.owed.iter().filter(|name| is_gone(name)).cloned());
        // An Envoy that wants all and gets none waits for nothing more.
        let is_first_of_all = self.nonce.is_empty() && self.subscription.wants_all() && self.known.is_empty();
        if to_send.is_empty() && removed.is_empty() && !is_first_of_all {
            return None;
        }
        let is_sent = |name: &Arc<str>| to_send.iter().any(|resource| resource.name == *name);
        let again = self.doubtful.iter().filter(|name| self.subscription.wants(name) && !is_sent(name));
        let again: Vec<_> = again.filter_map(|name| resources.by_name.get(name)).map(Arc::clone).collect();
        to_send.extend(again);

        self.owed.clear();
        removed.iter().for_each(|name| drop(self.known.remove(name.as_str())));
        self.known.extend(to_send.iter().map(|resource| (Arc::clone(&resource.name), resource.version.to_string())));
        self.under_way = to_send.iter().map(|resource| Arc::clone(&resource.name)).collect();
        let removed = removed.into_iter().collect();
        Some(Outgoing { resource_type, version: resources.version, resources: to_send, removed, nonce: String::new() })
    }
}
