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
use crate::audit;
use crate::certificates::EXPIRING;
use crate::counters::Counters;
use crate::denial_log::{self, DenialLog};
use crate::last_good;
use crate::metrics::{CheckLabels, Metrics};
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
    /// What failed, where something did. `/readyz`, which is answered to everybody, does not tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
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
    let checks = Check::all(&admin).into_iter().map(|check| Check { reason: None, ..check }).collect();
    (status, Json(Readiness { ready, checks }))
}

/// All rows that there may be.
const NAMES: [&str; 17] = [
    "policies",
    "leaving",
    "source",
    "documents",
    "refused_documents",
    "refused_files",
    "counter_store",
    "counter_keys",
    "certificates",
    "identities",
    "connections",
    "decision_calls",
    "xds_unread",
    "audit_log",
    "spans",
    "denials_log",
    "last_good_set",
];

/// A row that there is no reason for in this process is as it should be.
pub(super) fn start_series(metrics: &Metrics) {
    NAMES.into_iter().for_each(|check| measure(metrics, check, true));
}

fn measure(metrics: &Metrics, check: &'static str, is_ok: bool) {
    metrics.check_ok.get_or_create(&CheckLabels { check }).set(is_ok.into());
}

impl Check {
    /// Measures all rows, as of now.
    pub(super) fn measure_all(admin: &Admin) {
        Self::all(admin).iter().for_each(|check| measure(&admin.metrics, check.name, check.ok));
    }

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
            Self::of_refused_files(admin),
        ];
        checks.extend(Self::of_counters(&admin.counters));
        checks.extend([
            Self::of_certificates(admin),
            Self::of_identities(admin),
            Self::of_connections(admin),
            Self::of_gauge("decision_calls", &admin.metrics.decision_calls_waiting, DECISION_CALLS_MAX).of("calls"),
            Self::of_gauge("xds_unread", &admin.metrics.xds_unread_bytes, admin.xds_unread_bytes_max).of("bytes"),
        ]);
        checks.extend(admin.audit.report(admin.clock.now()).map(Self::of_audit));
        let spans = admin.traces.as_ref().map(Traces::waiting);
        checks.extend(spans.map(|spans| Self::of_queue("spans", spans, traces::WAITING_MAX).of("spans")));
        checks.extend(admin.denial_log.as_ref().map(Self::of_denials));
        checks.extend(admin.keeping.as_ref().map(|keeping| Self::of_last_good_set(&keeping.report(admin.clock.now()))));
        checks
    }

    fn new(name: &'static str, ok: bool, value: impl Serialize, threshold: impl Serialize) -> Self {
        let (value, threshold) = (json!(value), json!(threshold));
        Self { name, ok, value, threshold, unit: None, reason: None, replicas: None, counts_alone: None }
    }

    fn of(self, unit: &'static str) -> Self {
        Self { unit: Some(unit), ..self }
    }

    /// With a reason it is not ok, whatever the value is.
    fn unless(self, reason: Option<String>) -> Self {
        Self { ok: self.ok && reason.is_none(), reason, ..self }
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

    /// Files that are read again while this process runs, and whose newest version makes no sense: the one before is in use.
    fn of_refused_files(admin: &Admin) -> Self {
        let of_access = admin.access.trouble().map(|why| format!("who may ask the admin port is as before: {why}"));
        let of_ports = admin.tls_trouble.get().map(|why| format!("the certificate of before is shown: {why}"));
        let reasons: Vec<String> = of_ports.into_iter().chain(of_access).collect();
        let files = reasons.len();
        Self::new("refused_files", files == 0, files, 0).of("files").unless((files > 0).then(|| reasons.join("; ")))
    }

    /// Ports that had no place for one connection more.
    fn of_connections(admin: &Admin) -> Self {
        let now = admin.clock.now();
        let full = admin.crowding.iter().filter(|crowding| crowding.was_full(now)).map(|crowding| crowding.port);
        let full: Vec<&str> = full.collect();
        let why = || format!("all places were taken within the last minute: {}", full.join(", "));
        Self::new("connections", full.is_empty(), full.len(), 0).of("ports").unless((!full.is_empty()).then(why))
    }

    /// By the lines that wait to be written. It decides nothing of requests: what is served goes on.
    fn of_audit(report: audit::Report) -> Self {
        let unwritten = report.trouble.map(|why| format!("it cannot be written, so nothing is changed: {why}"));
        let unmoved = report.unmoved.map(|why| format!("it is full, and grows, for it cannot be moved away: {why}"));
        let why = unwritten.or(unmoved);
        Self::of_queue("audit_log", report.waiting, audit::WAITING_MAX).of("lines").unless(why)
    }

    /// By the lines that wait to be written.
    fn of_denials(log: &DenialLog) -> Self {
        let why = log.trouble().map(|why| format!("it cannot be written, so denials are missing in it: {why}"));
        Self::of_queue("denials_log", log.waiting(), denial_log::WAITING_MAX).of("lines").unless(why)
    }

    /// By the time for which what is served has not been on disk.
    fn of_last_good_set(report: &last_good::Report) -> Self {
        let why = report.trouble.as_ref();
        let why = why.map(|why| format!("what is served is not on disk for the next start: {why}"));
        let (lag, lag_max) = (report.lag.as_secs_f64(), last_good::LAG_MAX.as_secs());
        Self::new("last_good_set", report.lag <= last_good::LAG_MAX, lag, lag_max).of("seconds").unless(why)
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
