//! The state of the whole in one answer.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Admin;
use super::documents::refusal_json;

pub(super) async fn status(State(admin): State<Admin>) -> Json<Value> {
    let generation = admin.live.generation();
    let refused: Vec<Value> = admin.live.refused().iter().map(refusal_json).collect();
    let nodes = admin.nodes.all();
    let refusing = nodes.iter().filter(|node| node.types.values().any(|status| status.refused.is_some())).count();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "generation": generation.as_ref().map(|generation| generation.number),
        "revision": generation.as_ref().map(|generation| generation.revision.0),
        "ready": generation.is_some(),
        "documents": generation.as_ref().map_or(0, |generation| generation.documents.len()),
        "refused": refused,
        "nodes": { "connected": nodes.len(), "refusing": refusing },
        "counters": { "store": "memory", "keys": admin.counters.len(), "keys_max": admin.counters.keys_max() },
        "listeners": admin.listeners,
    }))
}
