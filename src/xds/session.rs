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
