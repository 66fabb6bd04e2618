//! The state of the whole in one answer.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::documents::refusal_json;
use super::nodes::too_old_for_json;
use super::{Admin, in_background, rfc3339};
use crate::counters::Counters;
use crate::document::Instance;
use crate::live::Generation;
use crate::names::Name;
use crate::nodes::{Node, Standing};
use crate::rollout::Hold;

/// Of so many Envoys that do not have the newest generation it is told why. `/v1/nodes` has all.
const BEHIND_MAX: usize = 20;

/// The state of the whole.
#[utoipa::path(
    get,
    path = "/v1/status",
    operation_id = "status",
    responses((status = 200)),
)]
pub(super) async fn status(State(admin): State<Admin>) -> Response {
    in_background(move || status_of(&admin).into_response()).await
}

fn status_of(admin: &Admin) -> Json<Value> {
    let served = admin.live.served();
    let generation = served.generation.as_ref();
    let refused: Vec<Value> = served.refused.sorted().into_iter().map(|refusal| refusal_json(refusal)).collect();
    let registered: Map<_, _> =
        generation.iter().flat_map(|generation| generation.registered.iter()).map(instances_json).collect();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "generation": generation.map(|generation| generation.number),
        "revision": generation.map(|generation| generation.revision.0),
        "ready": generation.is_some(),
        "source": source_json(admin),
        "documents": generation.map_or(0, |generation| generation.documents.len()),
        "refused": refused,
        "registered": registered,
        "replicas": admin.board.read().replicas,
        "rate_limit_service": generation.map(|generation| limiters_json(generation)),
        "nodes": nodes_json(admin),
        "held": held_json(admin),
        "counters": counters_json(&admin.counters),
        "listeners": admin.listeners,
    }))
}

/// The numbers of Envoys by what they have, and the first of those that do not have the newest generation.
fn nodes_json(admin: &Admin) -> Value {
    // What nodes have is known before it is offered to others, so the offer is looked at first.
    let offered = admin.rollout.offer().number;
    let (nodes, now) = (admin.nodes.all(), admin.clock.now());
    let is_current = |node: &Node| node.position.standing == Standing::Live && node.position.live >= offered;
    let count = |condition: &dyn Fn(&Node) -> bool| nodes.iter().filter(|node| condition(node)).count();
    let standing = |standing| count(&|node: &Node| node.position.standing == standing);
    let (live, refusing, held) = (count(&is_current), standing(Standing::Refusing), standing(Standing::Held));
    let behind = nodes.iter().filter(|node| !is_current(node)).take(BEHIND_MAX);
    let behind = behind.map(|node| {
        let refused =
            node.types.iter().filter_map(|(resource_type, status)| Some((resource_type, status.refused.as_ref()?)));
        let refused = refused.map(|(resource_type, refused)| {
            json!({ "type": resource_type.as_str(), "message": refused.message, "since": rfc3339(refused.since) })
        });
        json!({
            "id": node.identity.id,
            "groups": node.groups.iter().map(Name::as_str).collect::<Vec<_>>(),
            "standing": node.position.standing.as_str(),
            "since": rfc3339(node.position.since),
            "late": node.is_late(now),
            "generation": node.position.live,
            "refused": refused.collect::<Vec<_>>(),
        })
    });
    let behind: Vec<Value> = behind.collect();
    let too_old = nodes.iter().filter(|node| !node.too_old_for.is_empty());
    let too_old = too_old.take(BEHIND_MAX).map(
        |node| json!({ "id": node.identity.id, "envoy": node.envoy_version, "too_old_for": too_old_for_json(node) }),
    );
    let too_old: Vec<Value> = too_old.collect();
    json!({
        "connected": nodes.len(),
        "live": live,
        "refusing": refusing,
        "held": held,
        "pending": nodes.len() - live - refusing - held,
        "late": count(&|node: &Node| node.is_late(now)),
        "selected_by_no_gateway": count(&|node: &Node| node.groups.is_empty()),
        "behind": behind,
        "too_old": too_old,
    })
}

/// The holds: what groups are kept from because an Envoy refused it, and which documents that comes from.
fn held_json(admin: &Admin) -> Vec<Value> {
    let hold_json = |(gateway, hold): (&Name, &Hold)| {
        let documents = hold.documents.iter().map(|(id, parsed)| {
            let document = parsed.as_ref().map(|parsed| &parsed.document);
            json!({
                "kind": id.kind.as_str(),
                "name": id.name,
                "deleted": parsed.is_none(),
                "origin": document.map(|document| document.origin.to_string()),
                "revision": document.and_then(|document| document.revision).map(|revision| revision.0),
            })
        });
        let reasons = hold.reasons.iter().map(|reason| {
            json!({
                "node": reason.node,
                "type": reason.resource_type.as_str(),
                "resources": reason.resources,
                "message": reason.message,
                "since": rfc3339(reason.since),
            })
        });
        json!({
            "gateway": gateway.as_str(),
            "generation": hold.generation,
            "whole": hold.is_whole,
            "documents": documents.collect::<Vec<_>>(),
            "reasons": reasons.collect::<Vec<_>>(),
        })
    };
    admin.rollout.offer().holds().map(hold_json).collect()
}

/// The instances of a service that register themselves.
fn instances_json((service, instances): (&Name, &Arc<[Instance]>)) -> (String, Value) {
    (service.to_string(), instances.iter().map(|instance| json!(instance)).collect())
}

/// The addresses that Envoys are told to ask for decisions.
fn limiters_json(generation: &Generation) -> Vec<String> {
    generation.rate_limit_service.addresses.iter().map(ToString::to_string).collect()
}

fn counters_json(counters: &Counters) -> Value {
    match counters {
        Counters::Memory(memory) => json!({ "store": "memory", "keys": memory.len(), "keys_max": memory.keys_max() }),
        Counters::Redis(redis) => json!({ "store": "redis", "redis": redis.report() }),
        #[cfg(test)]
        Counters::Away => Value::Null,
    }
}

/// The age of what is served, at least.
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
        "unreadable_change": health.unreadable_change,
    })
}
