//! Whether the process runs, and whether it can do its work.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{Admin, wall};
use crate::audit::{Report, WAITING_MAX};
use crate::certificates::EXPIRING;
use crate::counters::Counters;
use crate::denial_log::{self, DenialLog};
use crate::traces::{self, Traces};

/// A source that was not heard for longer is in trouble: a folder is read every 2 s, etcd is asked every second.
const SOURCE_LAG_MAX: Duration = Duration::from_secs(3);
/// Calls that wait for a decision, or for the store of counters: a core that has nothing else to do decides so many within a
/// tenth of a second, and an Envoy waits for 20 ms.
const DECISION_CALLS_MAX: u64 = 4096;

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
pub(super) struct Check {
    name: &'static str,
    ok: bool,
    value: Value,
    /// The value up to which it is as it should be, of `certificates` from which on, or what it should be in words.
    threshold: Value,
    /// What the value is a number of; none where it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'static str>,
    /// Of a store that replicas share: the number of replicas when it was last there.
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<Option<u32>>,
    /// Of a store that replicas share: gateways with `on_error: local` do not ask it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    counts_alone: Option<bool>,
}

/// Whether a policy set is loaded, and it stays.
///
/// The listeners are bound before this can be asked. Everything else that is not as it should be is shown and does not make it
/// unready: degraded is not dead.
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
    let ready = admin.live.generation().is_some() && !admin.leaving.is_cancelled();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, checks: Check::all(&admin) }))
}

impl Check {
    /// All rows, as of now. None waits for anything.
    pub(super) fn all(admin: &Admin) -> Vec<Self> {
        let generation = admin.live.generation().map(|generation| generation.number);
        let is_leaving = admin.leaving.is_cancelled();
        let source = admin.board.read();
        let lag = source.lag(admin.clock.now());
        let refused = admin.live.refused().len();
        let is_heard = lag.is_some_and(|lag| lag <= SOURCE_LAG_MAX);
        let mut checks = vec![
            Self::new("policies", generation.is_some(), generation, "a generation is served"),
            Self::new("leaving", !is_leaving, is_leaving, false),
            Self::new("source", is_heard, lag.map(|lag| lag.as_secs_f64()), SOURCE_LAG_MAX.as_secs()).of("seconds"),
            Self::new("documents", !source.is_emptied, source.held, "one, or --allow-empty").of("documents"),
            Self::new("refused_documents", refused == 0, refused, 0).of("documents"),
        ];
        checks.extend(Self::of_counters(&admin.counters));
        checks.extend([
            Self::of_certificates(admin),
            Self::of_identities(admin),
            Self::of_gauge("decision_calls", &admin.metrics.decision_calls_waiting, DECISION_CALLS_MAX).of("calls"),
            Self::of_gauge("xds_unread", &admin.metrics.xds_unread_bytes, admin.xds_unread_bytes_max).of("bytes"),
        ]);
        checks.extend(admin.audit.report(admin.clock.now()).map(Self::of_audit));
        let spans = admin.traces.as_ref().map(Traces::waiting);
        checks.extend(spans.map(|spans| Self::of_queue("spans", spans, traces::WAITING_MAX).of("spans")));
        let denials = admin.denial_log.as_ref().map(DenialLog::waiting);
        checks.extend(denials.map(|lines| Self::of_queue("denials_log", lines, denial_log::WAITING_MAX).of("lines")));
        checks
    }

    fn new(name: &'static str, ok: bool, value: impl Serialize, threshold: impl Serialize) -> Self {
        let (value, threshold) = (json!(value), json!(threshold));
        Self { name, ok, value, threshold, unit: None, replicas: None, counts_alone: None }
    }

    fn of(self, unit: &'static str) -> Self {
        Self { unit: Some(unit), ..self }
    }

    /// What waits where there is room for so much and no more.
    fn of_queue(name: &'static str, waiting: usize, waiting_max: usize) -> Self {
        Self::new(name, waiting < waiting_max, waiting, waiting_max)
    }

    fn of_gauge(name: &'static str, gauge: &Gauge, max: u64) -> Self {
        let value = u64::try_from(gauge.get()).unwrap_or(0);
        Self::new(name, value <= max, value, max)
    }

    /// By the first certificate to end, of those that this process shows and trusts.
    fn of_certificates(admin: &Admin) -> Self {
        let now = wall(admin.clock.now());
        let days = admin.certificates.all().first().map(|certificate| certificate.days_left(now));
        let days_min = EXPIRING.as_secs() / (24 * 60 * 60);
        let is_long = days.is_none_or(|days| days >= days_min as f64);
        Self::new("certificates", is_long, days.map(f64::floor), days_min).of("days")
    }

    /// Gateways for some certificates only, where nobody is asked for one: nobody has them.
    fn of_identities(admin: &Admin) -> Self {
        let gateways = admin.unidentifiable_gateways().len();
        Self::new("identities", gateways == 0, gateways, 0).of("gateways")
    }

    /// By the lines that wait to be written. It decides nothing of requests: what is served goes on.
    fn of_audit(report: Report) -> Self {
        let Report { waiting, trouble, .. } = report;
        Self::new("audit_log", trouble.is_none() && waiting < WAITING_MAX, waiting, WAITING_MAX).of("lines")
    }

    /// The store that replicas share, and the room for counters in this process, which is for all of them where there is none.
    fn of_counters(counters: &Counters) -> Vec<Self> {
        let of_keys = |keys, keys_max| Self::of_queue("counter_keys", keys, keys_max).of("counters");
        match counters {
            Counters::Memory(memory) => vec![of_keys(memory.len(), memory.keys_max())],
            Counters::Redis(redis) => {
                let report = redis.report();
                let (is_whole, open) = (report.is_whole(), report.connections_open);
                let check = Self::new("counter_store", is_whole, open, "a connection to each node").of("connections");
                let check = Self { replicas: Some(report.replicas), counts_alone: Some(report.counts_alone), ..check };
                vec![check, of_keys(redis.local_keys(), redis.local_keys_max())]
            }
            #[cfg(test)]
            Counters::Away => vec![Self::new("counter_store", false, 0, "a connection to each node")],
        }
    }
}
