//! What both variants of the protocol have in common: what a session is told and what it answers.

use std::sync::Arc;

use crate::names::Version;
use crate::snapshot::resource::{Resource, ResourceType};
use crate::snapshot::{OfType, Resources};

/// What one request leads to.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// What the Envoy said to the last response of a type.
    pub(super) answer: Option<(ResourceType, Answer)>,
    /// How many names of the type are subscribed to now.
    pub(super) subscribed: usize,
    /// In the order in which they have to be sent.
    pub(super) responses: Vec<Outgoing>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Acknowledged,
    /// With the Envoy's message.
    Refused(String),
}

impl Answer {
    pub(super) fn of(error: Option<String>) -> Self {
        error.map_or(Self::Acknowledged, Self::Refused)
    }
}

/// A response of either variant.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) resource_type: ResourceType,
    /// Of all resources of the type.
    pub(super) version: Version,
    pub(super) resources: Vec<Arc<Resource>>,
    /// Which of them are new to the Envoy, or changed.
    pub(super) changed: Vec<Arc<str>>,
    /// Delta only.
    pub(super) removed: Vec<String>,
    /// Unique on the stream.
    pub(super) nonce: String,
}

/// Make before break (xDS protocol, "Eventual consistency considerations").
///
/// | | clusters, endpoints | secrets | listeners, routes |
/// |---|---|---|---|
/// | make | new and changed ones | all | all, once the clusters are acknowledged: Envoy does that when they are ready |
/// | break | those that are gone | | |
///
/// The break waits until listeners and routes are acknowledged and the stream has been quiet for a while: requests
/// that are under way still go where the old routes sent them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Make,
    Break,
}

impl Phase {
    pub(super) fn removes(self, resource_type: ResourceType) -> bool {
        self == Self::Break || !matches!(resource_type, ResourceType::Cluster | ResourceType::Endpoint)
    }
}

/// What a session knows of one type: the variants differ in this.
pub(super) trait OneType: Default {
    /// Whether the last response was neither acknowledged nor refused yet. Until then nothing more is sent of the
    /// type: newer state waits here, as a comparison to be made, not as a queue.
    fn is_pending(&self) -> bool;
    /// Whether the Envoy still has something other than what it was sent.
    fn is_refused(&self) -> bool;
    /// The next response, if there is something to say. It counts as sent, under this nonce.
    fn update(&mut self, resource_type: ResourceType, wanted: &OfType, phase: Phase, nonce: &str) -> Option<Outgoing>;
    /// Makes the resource due again, whether it changes or not.
    fn forget(&mut self, name: &str);
}

/// All types of a session, and the order in which they are sent.
#[derive(Debug, Default)]
pub(super) struct Types<T> {
    types: [T; ResourceType::COUNT],
    last_nonce: u64,
}

impl<T: OneType> Types<T> {
    pub(super) fn get_mut(&mut self, resource_type: ResourceType) -> Option<&mut T> {
        self.types.get_mut(resource_type.index())
    }

    /// What has to be sent now, in the order of types.
    pub(super) fn on_change(&mut self, resources: &Resources) -> Vec<Outgoing> {
        let mut responses = Vec::new();
        for resource_type in ResourceType::ALL {
            let waits_for_clusters = refers_to_clusters(resource_type) && self.is(ResourceType::Cluster, T::is_pending);
            if !waits_for_clusters {
                responses.extend(self.send(resource_type, resources, Phase::Make));
            }
        }
        responses
    }

    /// What can be taken away once nothing has happened for a while.
    pub(super) fn on_quiet(&mut self, resources: &Resources) -> Vec<Outgoing> {
        let is_under_way = |resource_type| {
            self.is(resource_type, T::is_pending)
                || (refers_to_clusters(resource_type) && self.is(resource_type, T::is_refused))
        };
        if ResourceType::ALL.into_iter().any(is_under_way) {
            return Vec::new();
        }
        let broken = [ResourceType::Cluster, ResourceType::Endpoint];
        broken.into_iter().filter_map(|resource_type| self.send(resource_type, resources, Phase::Break)).collect()
    }

    fn is(&self, resource_type: ResourceType, condition: fn(&T) -> bool) -> bool {
        self.types.get(resource_type.index()).is_some_and(condition)
    }

    fn send(&mut self, resource_type: ResourceType, resources: &Resources, phase: Phase) -> Option<Outgoing> {
        let nonce = (self.last_nonce + 1).to_string();
        let one = self.get_mut(resource_type)?;
        let response = one.update(resource_type, resources.of_type(resource_type), phase, &nonce)?;
        self.last_nonce += 1;
        // A changed cluster stays warming until it gets its endpoints, even if these did not change.
        if resource_type == ResourceType::Cluster {
            let endpoints = self.get_mut(ResourceType::Endpoint)?;
            response.changed.iter().for_each(|cluster| endpoints.forget(cluster));
        }
        Some(response)
    }
}

/// Whether the type refers to clusters.
fn refers_to_clusters(resource_type: ResourceType) -> bool {
    matches!(resource_type, ResourceType::Listener | ResourceType::Route)
}
