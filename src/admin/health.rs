//! Whether the process runs, and whether it can do its work.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{Admin, wall};
use crate::audit::{Report, WAITING_MAX};
use crate::certificates::EXPIRING;
use crate::counters::Counters;

/// A source that was not heard for longer is in trouble: a folder is read every 2 s, etcd is asked every second.
const SOURCE_LAG_MAX: Duration = Duration::from_secs(3);

/// The process runs.
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "healthz",
    responses((status = 200, description = "It does.", body = String, content_type = "text/plain")),
)]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether a policy set is loaded, and what is not as it should be.
#[derive(Serialize, ToSchema)]
pub(super) struct Readiness {
    ready: bool,
    checks: Vec<Check>,
}

/// Something that is looked at.
#[derive(Serialize, ToSchema)]
struct Check {
    name: &'static str,
    ok: bool,
    value: Value,
    /// The value up to which it is as it should be, or what it should be in words.
    threshold: Value,
    /// Of a store that replicas share: the number of replicas when it was last there.
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<Option<u32>>,
    /// Of a store that replicas share: gateways with `on_error: local` do not ask it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    counts_alone: Option<bool>,
}

/// Whether a policy set is loaded, and it stays.
///
/// The listeners are bound before this can be asked. Refused documents, a store that fills up and certificates that end are
/// shown and do not make it unready: degraded is not dead.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "readyz",
    responses(
        (status = 200, description = "It is.", body = Readiness),
        (status = 503, body = Readiness, description = "No policy set is loaded yet, or it is about to end."),
    ),
)]
pub(super) async fn readyz(State(admin): State<Admin>) -> (StatusCode, Json<Readiness>) {
    let generation = admin.live.generation().map(|generation| generation.number);
    let is_leaving = admin.leaving.is_cancelled();
    let ready = generation.is_some() && !is_leaving;
    let source = admin.board.read();
    let lag = source.lag(admin.clock.now());
    let refused = admin.live.refused().len();
    let is_heard = lag.is_some_and(|lag| lag <= SOURCE_LAG_MAX);
    let mut checks = vec![
        Check::new("policies", generation.is_some(), generation, "a generation is served"),
        Check::new("leaving", !is_leaving, is_leaving, false),
        Check::new("source", is_heard, lag.map(|lag| lag.as_secs_f64()), SOURCE_LAG_MAX.as_secs()),
        Check::new("documents", !source.is_emptied, source.held, "one, or --allow-empty"),
        Check::new("refused_documents", refused == 0, refused, 0),
        Check::of_counters(&admin.counters),
        Check::of_certificates(&admin),
        Check::of_identities(&admin),
    ];
    checks.extend(admin.audit.report(admin.clock.now()).map(Check::of_audit));
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, checks }))
}

impl Check {
    fn new(name: &'static str, ok: bool, value: impl Serialize, threshold: impl Serialize) -> Self {
        let (value, threshold) = (json!(value), json!(threshold));
        Self { name, ok, value, threshold, replicas: None, counts_alone: None }
    }

    /// By the first certificate to end, of those that this process shows and trusts.
    fn of_certificates(admin: &Admin) -> Self {
        let now = wall(admin.clock.now());
        let days = admin.certificates.all().first().map(|certificate| certificate.days_left(now));
        let days_min = EXPIRING.as_secs() / (24 * 60 * 60);
        Self::new("certificates", days.is_none_or(|days| days >= days_min as f64), days.map(f64::floor), days_min)
    }

    /// Gateways for some certificates only, where nobody is asked for one: nobody has them.
    fn of_identities(admin: &Admin) -> Self {
        let gateways = admin.unidentifiable_gateways().len();
        Self::new("identities", gateways == 0, gateways, 0)
    }

    /// By the lines that wait to be written. It decides nothing of requests: what is served goes on.
    fn of_audit(report: Report) -> Self {
        let Report { waiting, trouble, .. } = report;
        Self::new("audit_log", trouble.is_none() && waiting < WAITING_MAX, waiting, WAITING_MAX)
    }

    fn of_counters(counters: &Counters) -> Self {
        match counters {
            Counters::Memory(memory) => {
                let (keys, keys_max) = (memory.len(), memory.keys_max());
                Self::new("counter_keys", keys < keys_max, keys, keys_max)
            }
            Counters::Redis(redis) => {
                let report = redis.report();
                let (is_whole, open) = (report.is_whole(), report.connections_open);
                let check = Self::new("counter_store", is_whole, open, "a connection to each node");
                Self { replicas: Some(report.replicas), counts_alone: Some(report.counts_alone), ..check }
            }
            #[cfg(test)]
            Counters::Away => Self::new("counter_store", false, 0, "a connection to each node"),
        }
    }
}
