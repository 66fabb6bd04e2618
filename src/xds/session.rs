//! What both variants of the protocol have in common: what a session is told and what it answers.

use std::sync::Arc;

use crate::names::Version;
use crate::snapshot::resource::{Resource, ResourceType};

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

/// Whether the type refers to clusters.
pub(super) fn refers_to_clusters(resource_type: ResourceType) -> bool {
    matches!(resource_type, ResourceType::Listener | ResourceType::Route)
}
