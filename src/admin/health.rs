//! Whether the process runs, and whether it can do its work.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Admin;
use crate::counters::Counters;

/// A source that was not heard for longer is in trouble: a folder is read every 2 s, etcd is asked every second.
const SOURCE_LAG_MAX: Duration = Duration::from_secs(3);

/// The process runs.
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "healthz",
    responses((status = 200, body = String, content_type = "text/plain")),
)]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether a policy set is loaded.
///
/// The listeners are bound before this can be asked. Refused documents and a store that fills up are shown and do not make it
/// unready: degraded is not dead.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "readyz",
    responses((status = 200), (status = 503)),
)]
pub(super) async fn readyz(State(admin): State<Admin>) -> (StatusCode, Json<Value>) {
    let generation = admin.live.generation().map(|generation| generation.number);
    let lag = admin.board.read().lag(admin.clock.now());
    let rows = json!([
        { "name": "policies", "ok": generation.is_some(), "value": generation, "threshold": "a generation is served" },
        { "name": "source", "ok": lag.is_some_and(|lag| lag <= SOURCE_LAG_MAX), "value": lag.map(|lag| lag.as_secs_f64()), "threshold": SOURCE_LAG_MAX.as_secs() },
        { "name": "refused_documents", "ok": admin.live.refused().is_empty(), "value": admin.live.refused().len(), "threshold": 0 },
        counters_json(&admin.counters),
    ]);
    let status = if generation.is_some() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": generation.is_some(), "checks": rows })))
}

fn counters_json(counters: &Counters) -> Value {
    match counters {
        Counters::Memory(memory) => {
            let (keys, keys_max) = (memory.len(), memory.keys_max());
            json!({ "name": "counter_keys", "ok": keys < keys_max, "value": keys, "threshold": keys_max })
        }
        Counters::Redis(redis) => {
            let report = redis.report();
            let (is_whole, open) = (report.is_whole(), report.connections_open);
            json!({
                "name": "counter_store", "ok": is_whole, "value": open, "threshold": "a connection to each node",
                "replicas": report.replicas, "counts_alone": report.counts_alone,
            })
        }
        #[cfg(test)]
        Counters::Away => Value::Null,
    }
}
