//! The connected Envoys and what each has.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::error::ProblemDetails;
use super::extract::OfPath;
use super::openapi::Problem;
use super::{Admin, in_background, rfc3339};
use crate::clock::Timestamp;
use crate::names::Name;
use crate::nodes::{Node, Refused, Sent, TypeStatus};
use crate::snapshot::feature::Need;

/// The connected Envoys, and what each was sent and made of it.
#[utoipa::path(
    get,
    path = "/v1/nodes",
    operation_id = "list_nodes",
    responses((status = 200)),
)]
pub(super) async fn list(State(admin): State<Admin>) -> Response {
    in_background(move || {
        let now = admin.clock.now();
        let nodes: Vec<Value> = admin.nodes.all().iter().map(|node| node_json(node, now)).collect();
        Json(json!({ "nodes": nodes })).into_response()
    })
    .await
}

/// The Envoy with a node id.
///
/// While it reconnects it has two streams, so there may be several.
#[utoipa::path(
    get,
    path = "/v1/nodes/{id}",
    operation_id = "get_node",
    responses((status = 200), Problem<400>, Problem<404>),
)]
pub(super) async fn one(State(admin): State<Admin>, OfPath(id): OfPath<String>) -> Result<Json<Value>, ProblemDetails> {
    let (nodes, now) = (admin.nodes.all(), admin.clock.now());
    let of_id = nodes.iter().filter(|node| node.identity.id == id);
    let nodes: Vec<Value> = of_id.map(|node| node_json(node, now)).collect();
    if nodes.is_empty() {
        return Err(ProblemDetails::not_found(&format!("no Envoy with the node id {id:?} is connected")));
    }
    Ok(Json(json!({ "nodes": nodes })))
}

fn node_json(node: &Node, now: Timestamp) -> Value {
    let types = node.types.iter().map(|(resource_type, status)| (resource_type.to_string(), type_json(status, now)));
    json!({
        "id": node.identity.id,
        "cluster": node.identity.cluster,
        "metadata": node.identity.metadata,
        "envoy": node.envoy_version,
        "too_old_for": too_old_for_json(node),
        "protocol": node.protocol.as_str(),
        "connected_at": rfc3339(node.connected_at),
        "groups": node.groups.iter().map(Name::as_str).collect::<Vec<_>>(),
        "standing": node.position.standing.as_str(),
        "since": rfc3339(node.position.since),
        "generation": node.position.live,
        "types": types.collect::<Map<_, _>>(),
    })
}

/// The features that its gateways need and this Envoy does not know.
pub(super) fn too_old_for_json(node: &Node) -> Vec<Value> {
    let need_json = |need: &Arc<Need>| {
        json!({
            "feature": need.feature.name,
            "since": need.feature.since.to_string(),
            "older": need.feature.older.as_str(),
            "documents": need.documents,
            "others": need.others,
        })
    };
    node.too_old_for.iter().map(need_json).collect()
}

fn type_json(status: &TypeStatus, now: Timestamp) -> Value {
    json!({
        "subscribed": { "all": status.subscribed.all, "names": status.subscribed.names },
        "sent": status.sent.map(sent_json),
        "acknowledged": status.acknowledged.map(sent_json),
        "refused": status.refused.as_ref().map(refused_json),
        "pending_since": status.pending_since.map(rfc3339),
        "late": status.is_late(now),
    })
}

fn sent_json(sent: Sent) -> Value {
    json!({ "generation": sent.generation, "version": sent.version.to_string(), "at": rfc3339(sent.at) })
}

fn refused_json(refused: &Refused) -> Value {
    json!({
        "sent": refused.sent.map(sent_json),
        "resources": refused.resources,
        "message": refused.message,
        "since": rfc3339(refused.since),
    })
}
