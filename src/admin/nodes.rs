//! The connected Envoys and what each has.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Map, Value, json};

use super::error::Problem;
use super::{Admin, rfc3339};
use crate::nodes::{Node, Refused, Sent, TypeStatus};

pub(super) async fn list(State(admin): State<Admin>) -> Json<Value> {
    let nodes: Vec<Value> = admin.nodes.all().iter().map(node_json).collect();
    Json(json!({ "nodes": nodes }))
}

/// An Envoy that reconnects has two streams for a while, so there may be several.
pub(super) async fn one(State(admin): State<Admin>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let nodes = admin.nodes.all();
    let nodes: Vec<Value> = nodes.iter().filter(|node| node.identity.id == id).map(node_json).collect();
    if nodes.is_empty() {
        return Err(Problem::not_found(&format!("no Envoy with the node id {id:?} is connected")));
    }
    Ok(Json(json!({ "nodes": nodes })))
}

fn node_json(node: &Node) -> Value {
    let types = node.types.iter().map(|(resource_type, status)| (resource_type.to_string(), type_json(status)));
    json!({
        "id": node.identity.id,
        "cluster": node.identity.cluster,
        "metadata": node.identity.metadata,
        "envoy": node.envoy_version,
        "protocol": node.protocol.as_str(),
        "connected_at": rfc3339(node.connected_at),
        "groups": node.groups,
        "types": types.collect::<Map<_, _>>(),
    })
}

fn type_json(status: &TypeStatus) -> Value {
    json!({
        "sent": status.sent.map(sent_json),
        "acknowledged": status.acknowledged.map(sent_json),
        "refused": status.refused.as_ref().map(refused_json),
    })
}

fn sent_json(sent: Sent) -> Value {
    json!({ "generation": sent.generation, "version": sent.version.to_string(), "at": rfc3339(sent.at) })
}

fn refused_json(refused: &Refused) -> Value {
    json!({ "sent": refused.sent.map(sent_json), "message": refused.message, "since": rfc3339(refused.since) })
}
