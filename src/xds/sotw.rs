//! State of the world: one Envoy's side of a StreamAggregatedResources stream, as values in, values out.
//!
//! A request says everything that is wanted of a type. A response is all of it for clusters and listeners, where
//! what is absent is deleted, and may be a part of it for the other types (xDS protocol, "Grouping Resources into
//! Responses").

use std::collections::BTreeMap;
use std::sync::Arc;

use super::session::{Answer, Outgoing, Step};
use super::subscription::Subscription;
use crate::names::Version;
use crate::snapshot::resource::ResourceType;
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
pub(super) struct Sotw {
    types: [OneType; ResourceType::COUNT],
    last_nonce: u64,
}

#[derive(Debug, Default)]
struct OneType {
    is_requested: bool,
    subscription: Subscription,
    /// The nonce of the last response; empty before the first.
    nonce: String,
    /// Whether the last response was neither acknowledged nor refused yet. Until then nothing more is sent of the
    /// type: newer state waits here, as a comparison to be made, not as a queue.
    is_pending: bool,
    /// What was sent last of each resource, refused or not: a refused version is not sent again until it changes.
    sent: BTreeMap<Arc<str>, Version>,
}

impl Sotw {
    pub(super) fn on_request(&mut self, request: Request, resources: Option<&Resources>) -> Step {
        let mut step = Step::default();
        let Some(one) = self.types.get_mut(request.resource_type.index()) else { return step };
        // A nonce of an earlier stream says nothing here; nor does the nonce of a response that another overtook.
        // Envoy repeats what it wants with the newer nonce.
        if one.is_requested && request.nonce != one.nonce {
            return step;
        }
        if one.is_requested && !one.nonce.is_empty() {
            one.is_pending = false;
            step.answer = Some((request.resource_type, Answer::of(request.error)));
        }
        one.is_requested = true;
        one.subscription.replace(request.resource_type, request.names);
        // What is no longer wanted is forgotten by the Envoy. If it is wanted again it is sent again.
        one.sent.retain(|name, _| one.subscription.wants(name));
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
            let Some((changed, mut response)) = one.update(resource_type, resources.of_type(resource_type)) else {
                continue;
            };
            self.last_nonce += 1;
            one.nonce = self.last_nonce.to_string();
            one.is_pending = true;
            response.nonce.clone_from(&one.nonce);
            responses.push(response);
            // A changed cluster stays warming until it gets its endpoints, even if these did not change.
            if let (ResourceType::Cluster, Some(endpoints)) =
                (resource_type, self.types.get_mut(ResourceType::Endpoint.index()))
            {
                endpoints.sent.retain(|name, _| !changed.contains(name));
            }
        }
        responses
    }
}

impl OneType {
    /// The next response, without its nonce, and which of its resources are new or changed.
    fn update(&mut self, resource_type: ResourceType, resources: &OfType) -> Option<(Vec<Arc<str>>, Outgoing)> {
        if !self.is_requested || self.is_pending {
            return None;
        }
        let wanted: Vec<_> = self.subscription.select(resources).collect();
        let is_changed = |name: &Arc<str>, version| self.sent.get(name) != Some(&version);
        let changed: Vec<_> =
            wanted.iter().filter(|r| is_changed(&r.name, r.version)).map(|r| Arc::clone(&r.name)).collect();
        let is_full_state = resource_type.has_wildcard();
        let has_lost = is_full_state
            && self.sent.len() + changed.iter().filter(|name| !self.sent.contains_key(*name)).count() > wanted.len();
        // An Envoy that wants all and gets none waits for nothing more.
        let is_first_of_all = self.nonce.is_empty() && self.subscription.wants_all();
        if changed.is_empty() && !has_lost && !is_first_of_all {
            return None;
        }
        let to_send = wanted.into_iter().filter(|resource| is_full_state || changed.contains(&resource.name));
        let to_send: Vec<_> = to_send.map(Arc::clone).collect();
        if is_full_state {
            self.sent.clear();
        }
        self.sent.extend(to_send.iter().map(|resource| (Arc::clone(&resource.name), resource.version)));
        let response = Outgoing {
            resource_type,
            version: resources.version,
            resources: to_send,
            removed: Vec::new(),
            nonce: String::new(),
        };
        Some((changed, response))
    }
}
