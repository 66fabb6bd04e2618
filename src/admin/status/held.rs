//! What groups are kept from because an Envoy refused it.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::first;
use crate::admin::rfc3339;
use crate::live::Parsed;
use crate::names::{DocumentId, Kind, Name};
use crate::rollout::{Hold, Reason};

/// So many gateways that are held are told of, so many documents and refusals of each, and so many resources of a refusal.
pub(super) const HELD_MAX: usize = 20;

/// What the Envoys of a gateway are kept from.
#[derive(Serialize, ToSchema)]
pub(super) struct HeldGateway {
    gateway: String,
    /// The generation that was refused first.
    generation: u64,
    /// True if they stay as they were altogether.
    whole: bool,
    /// The first 20.
    documents: Vec<HeldDocument>,
    documents_more: usize,
    /// The first 20.
    reasons: Vec<HoldingRefusal>,
    reasons_more: usize,
}

/// A document that a group does not get in this version.
#[derive(Serialize, ToSchema)]
struct HeldDocument {
    kind: Kind,
    #[schema(value_type = String)]
    name: Arc<str>,
    /// True: that it is gone is what the group does not get.
    deleted: bool,
    #[schema(required = true)]
    origin: Option<String>,
    #[schema(required = true)]
    revision: Option<u64>,
}

/// A refusal that holds a group back.
#[derive(Serialize, ToSchema)]
struct HoldingRefusal {
    node: String,
    #[serde(rename = "type")]
    resource_type: &'static str,
    /// The first 20.
    #[schema(value_type = Vec<String>)]
    resources: Vec<Arc<str>>,
    resources_more: usize,
    /// Envoy's own words.
    message: String,
    #[schema(format = DateTime)]
    since: String,
}

impl HeldGateway {
    pub(super) fn of(gateway: &Name, hold: &Hold) -> Self {
        let of = |(id, parsed): (&DocumentId, &Option<Arc<Parsed>>)| HeldDocument::of(id, parsed.as_deref());
        let (documents, documents_more) = first(hold.documents.iter(), HELD_MAX, of);
        let (reasons, reasons_more) = first(hold.reasons.iter(), HELD_MAX, HoldingRefusal::of);
        Self {
            gateway: gateway.to_string(),
            generation: hold.generation,
            whole: hold.is_whole,
            documents,
            documents_more,
            reasons,
            reasons_more,
        }
    }
}

impl HeldDocument {
    fn of(id: &DocumentId, parsed: Option<&Parsed>) -> Self {
        let document = parsed.map(|parsed| &parsed.document);
        Self {
            kind: id.kind,
            name: Arc::clone(&id.name),
            deleted: parsed.is_none(),
            origin: document.map(|document| document.origin.to_string()),
            revision: document.and_then(|document| document.revision).map(|revision| revision.0),
        }
    }
}

impl HoldingRefusal {
    fn of(reason: &Reason) -> Self {
        let (resources, resources_more) = first(reason.resources.iter(), HELD_MAX, Arc::clone);
        Self {
            node: reason.node.clone(),
            resource_type: reason.resource_type.as_str(),
            resources,
            resources_more,
            message: reason.message.clone(),
            since: rfc3339(reason.since),
        }
    }
}
