//! The state of the whole in one answer.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use super::Admin;
use super::documents::refusal_json;
use crate::document::Instance;
use crate::names::Name;

pub(super) async fn status(State(admin): State<Admin>) -> Json<Value> {
    let served = admin.live.served();
    let generation = served.generation.as_ref();
    let refused: Vec<Value> = served.refused.iter().map(refusal_json).collect();
    let registered: Map<_, _> =
        generation.iter().flat_map(|generation| generation.registered.iter()).map(instances_json).collect();
    let nodes = admin.nodes.all();
    let refusing = nodes.iter().filter(|node| node.types.values().any(|status| status.refused.is_some())).count();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "generation": generation.map(|generation| generation.number),
        "revision": generation.map(|generation| generation.revision.0),
        "ready": generation.is_some(),
        "source": source_json(&admin),
        "documents": generation.map_or(0, |generation| generation.documents.len()),
        "refused": refused,
        "registered": registered,
        "replicas": admin.board.read().replicas,
        "nodes": { "connected": nodes.len(), "refusing": refusing },
        "counters": { "store": "memory", "keys": admin.counters.len(), "keys_max": admin.counters.keys_max() },
        "listeners": admin.listeners,
    }))
}

/// The instances of a service that register themselves.
fn instances_json((service, instances): (&Name, &Arc<[Instance]>)) -> (String, Value) {
    (service.to_string(), instances.iter().map(|instance| json!(instance)).collect())
}

/// How fresh what is served can be.
fn source_json(admin: &Admin) -> Value {
    let health = admin.board.read();
    let now = admin.clock.now();
    json!({
        "place": health.place,
        "revision": health.revision.0,
        "lag_seconds": health.lag(now).map(|lag| lag.as_secs_f64()),
        "compared_seconds_ago": health.compared_at.map(|at| now.since(at).as_secs_f64()),
        "trouble": health.trouble,
        "serves_last_good_of_earlier_run": health.is_restored,
        "strange_instances": health.strange_instances,
    })
}
