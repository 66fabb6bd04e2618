//! What is measured. Labels are bounded: names of policies and types of resources, never tenants or keys.

mod decisions;
mod exemplars;
mod parts;
mod streams;
pub mod totals;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub use decisions::{Decided, Decisions};
pub use parts::PartedHistogram;
pub use streams::{CountedStream, StreamsByGroup};

use crate::version::{COMMIT, VERSION};

#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub decisions: Decisions,
    pub decision_seconds: PartedHistogram,
    pub decision_errors: Family<CodeLabels, Counter>,
    /// All of these. It is not shown: it is their sum.
    pub decision_errors_all: Counter,
    /// Calls of the rate limit service that have come and are not answered, as of the last turn of each connection.
    pub decision_calls_waiting: Gauge,
    pub decision_forms: Family<FormLabels, Counter>,
    pub older_forms: Gauge,
    pub counter_keys: Gauge,
    pub counter_keys_max: Gauge,
    pub counter_store_connections: Gauge,
    pub counter_store_seconds: Histogram,
    pub counter_store_errors: Family<ReasonLabels, Counter>,
    pub counter_store_replicas: Gauge,
    pub counter_store_decided_alone: Counter,
    pub counter_store_hits_handed_over: Counter,
    pub counter_store_hits_dropped: Counter,
    pub leases: LeaseMetrics,
    pub spans: SpanMetrics,
    pub denial_log: DenialLogMetrics,
    pub generation: Gauge,
    /// 1 or 0.
    pub check_ok: Family<CheckLabels, Gauge>,
    pub reloads: Family<ReloadLabels, Counter>,
    pub tls_reloads: Family<ReloadLabels, Counter>,
    pub tls_handshake_failures: Counter,
    pub connections_sent_away: Family<PortLabels, Counter>,
    pub access_reloads: Family<ReloadLabels, Counter>,
    pub admin_logins_failed: Family<ReasonLabels, Counter>,
    pub admin_turned_away: Family<ReasonLabels, Counter>,
    pub audit_lines_unnoted: Family<ReasonLabels, Counter>,
    pub identity_denials: Family<PortLabels, Counter>,
    /// Beyond what each connection may hold in any case.
    pub unfinished_request_bytes: Family<PortLabels, Gauge>,
    pub unfinished_requests_refused: Family<PortLabels, Counter>,
    /// In seconds since 1970.
    pub certificate_expiration: Family<FileLabels, Gauge>,
    pub refused_documents: Gauge,
    /// In seconds.
    pub source_lag: Gauge<f64, AtomicU64>,
    pub source_resyncs: Family<ReasonLabels, Counter>,
    pub source_old_events: Counter,
    pub xds_streams: StreamsByGroup,
    pub xds_pushes: Family<TypeLabels, Counter>,
    pub xds_push_bytes: Family<TypeLabels, Counter>,
    pub xds_nacks: Family<TypeLabels, Counter>,
    pub xds_stale_nonces: Family<TypeLabels, Counter>,
    pub xds_unread_bytes: Gauge,
    pub xds_unread_closed: Family<ReasonLabels, Counter>,
    pub xds_convergence_seconds: Histogram,
}

/// Hits of the counter store that are taken in advance. The hot path has the counters themselves at hand.
#[derive(Clone, Debug, Default)]
pub struct LeaseMetrics {
    pub leases: Counter,
    pub hits_leased: Counter,
    pub hits_used: Counter,
    pub hits_given_back: Counter,
    pub decisions_by_lease: Counter,
    pub decisions_by_store: Counter,
    pub denials_from_memory: Counter,
}

/// Spans of traces, by what became of them.
#[derive(Clone, Debug, Default)]
pub struct SpanMetrics {
    pub exported: Counter,
    /// There was no room for them.
    pub dropped: Counter,
    /// The collector did not take them.
    pub failed: Counter,
}

/// Denials, by what became of their line in the log of them.
#[derive(Clone, Debug, Default)]
pub struct DenialLogMetrics {
    pub written: Counter,
    /// There were more in that second than are written.
    pub left_out: Counter,
    /// There was no room for them.
    pub dropped: Counter,
    /// The file took no more.
    pub failed: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabels {
    pub result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HitLabels {
    pub hits: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByLabels {
    pub by: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DecisionLabels {
    pub gateway: Option<Arc<str>>,
    pub api: Option<Arc<str>>,
    pub tier: &'static str,
    pub limit: Option<Arc<str>>,
    pub result: &'static str,
}

/// A gRPC status code, as in `INVALID_ARGUMENT`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabels {
    pub code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FormLabels {
    pub form: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PortLabels {
    pub port: &'static str,
}

/// A row of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CheckLabels {
    pub check: &'static str,
}

/// A file by the flag that names it, without its dashes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FileLabels {
    pub file: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReloadLabels {
    pub result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabels {
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TypeLabels {
    pub r#type: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("tierflow");
        let r = &mut registry;
        let metrics = Self {
            decisions: Decisions::default(),
            decision_seconds: PartedHistogram::doubling(Duration::from_micros(2), 16),
            decision_errors: register(
                r,
                "decision_errors",
                "Requests that were not decided, by the status of the answer",
                Family::default(),
            ),
            decision_errors_all: Counter::default(),
            decision_calls_waiting: register(
                r,
                "decision_calls_waiting",
                "Requests that wait to be decided, or for the counter store",
                Gauge::default(),
            ),
            decision_forms: register(
                r,
                "decision_forms",
                "Requests that came by routes of older policies, by whether these are known",
                Family::default(),
            ),
            older_forms: register(
                r,
                "older_forms",
                "Forms that are remembered because an Envoy may have routes of older policies",
                Gauge::default(),
            ),
            counter_store_connections: register(
                r,
                "counter_store_connections",
                "Connections to the counter store that are open",
                Gauge::default(),
            ),
            counter_store_seconds: Histogram::new(exponential_buckets(5e-5, 2.0, 10)),
            counter_store_errors: register(
                r,
                "counter_store_errors",
                "Questions that the counter store did not answer",
                Family::default(),
            ),
            counter_store_replicas: register(
                r,
                "counter_store_replicas",
                "Replicas that share the counter store, as of when it was last there",
                Gauge::default(),
            ),
            counter_store_decided_alone: register(
                r,
                "counter_store_decided_alone",
                "Requests that this replica decided by its part of the limits, without the counter store",
                Counter::default(),
            ),
            counter_store_hits_handed_over: register(
                r,
                "counter_store_hits_handed_over",
                "Hits that were admitted without the counter store, and that it has counted since",
                Counter::default(),
            ),
            counter_store_hits_dropped: register(
                r,
                "counter_store_hits_dropped",
                "Hits that were admitted without the counter store, and that it will never count, for want of memory",
                Counter::default(),
            ),
            counter_keys: register(r, "counter_keys", "Counters that are kept", Gauge::default()),
            counter_keys_max: register(r, "counter_keys_max", "The most counters that are kept", Gauge::default()),
            leases: LeaseMetrics::registered(r),
            spans: SpanMetrics::registered(r),
            denial_log: DenialLogMetrics::registered(r),
            generation: register(r, "generation", "The generation that is served", Gauge::default()),
            check_ok: register(r, "check_ok", "Whether a row of /readyz is as it should be", Family::default()),
            reloads: register(
                r,
                "reload",
                "Sets of documents that were read, by what became of them",
                Family::default(),
            ),
            tls_reloads: register(
                r,
                "tls_reload",
                "Changed files of the ports' TLS certificate, by what became of them",
                Family::default(),
            ),
            tls_handshake_failures: register(
                r,
                "tls_handshake_failures",
                "Connections to the ports that came to no TLS",
                Counter::default(),
            ),
            connections_sent_away: register(
                r,
                "connections_sent_away",
                "Connections that were closed because all places of their port were taken and another one came",
                Family::default(),
            ),
            access_reloads: register(
                r,
                "access_reload",
                "Changed files of who may ask the admin port, by what became of them",
                Family::default(),
            ),
            admin_logins_failed: register(
                r,
                "admin_logins_failed",
                "Requests at the admin port that showed something wrong, by what it was",
                Family::default(),
            ),
            admin_turned_away: register(
                r,
                "admin_turned_away",
                "Requests at the admin port that were turned away and showed nothing wrong, by why",
                Family::default(),
            ),
            audit_lines_unnoted: register(
                r,
                "audit_lines_unnoted",
                "Lines of the audit log that could not be noted, or not in time, by why",
                Family::default(),
            ),
            identity_denials: register(
                r,
                "identity_denials",
                "Streams and requests that were refused because their gateway is not for the certificate of their Envoy",
                Family::default(),
            ),
            unfinished_request_bytes: register(
                r,
                "unfinished_request_bytes",
                "Bytes of requests that have not come to their end, beyond 64 KiB of each connection",
                Family::default(),
            ),
            unfinished_requests_refused: register(
                r,
                "unfinished_requests_refused",
                "Requests that were refused because too much of requests had come that were not whole",
                Family::default(),
            ),
            certificate_expiration: Family::default(),
            refused_documents: register(r, "refused_documents", "Documents that are refused now", Gauge::default()),
            source_lag: Gauge::default(),
            source_resyncs: register(
                r,
                "source_resyncs",
                "Times that the source was listed anew, by the doubt that led to it",
                Family::default(),
            ),
            source_old_events: register(
                r,
                "source_old_events",
                "Events that were ignored because they came twice or late",
                Counter::default(),
            ),
            xds_streams: register(r, "xds_streams", "Open ADS streams", StreamsByGroup::default()),
            xds_pushes: register(r, "xds_push", "Responses that were sent", Family::default()),
            xds_push_bytes: register(r, "xds_push_bytes", "Bytes of resources that were sent", Family::default()),
            xds_nacks: register(r, "xds_nack", "Responses that an Envoy refused", Family::default()),
            xds_stale_nonces: register(
                r,
                "xds_stale_nonce",
                "Requests that answer an earlier response than the last one",
                Family::default(),
            ),
            xds_unread_bytes: register(
                r,
                "xds_unread_bytes",
                "Bytes that responses hold which Envoys have not read",
                Gauge::default(),
            ),
            xds_unread_closed: register(
                r,
                "xds_unread_closed",
                "Connections that were closed because their Envoy did not read, by why it had no more time",
                Family::default(),
            ),
            xds_convergence_seconds: Histogram::new(exponential_buckets(1e-3, 2.0, 18)),
            registry: Registry::default(),
        };
        let help = "Which Tierflow this is";
        registry.register("build", help, Info::new([("version", VERSION), ("commit", COMMIT)]));
        let help = "What was decided, by the limit that decided it";
        registry.register("decisions", help, metrics.decisions.series.clone());
        let help = "Time to decide a request, without the transport";
        registry.register_with_unit("decision", help, Unit::Seconds, metrics.decision_seconds.clone());
        let help = "The end of the first certificate of a file to end";
        let expiration = metrics.certificate_expiration.clone();
        registry.register_with_unit("certificate_expiration_timestamp", help, Unit::Seconds, expiration);
        let help = "Time of the counter store's answers";
        registry.register_with_unit("counter_store", help, Unit::Seconds, metrics.counter_store_seconds.clone());
        let help = "How long ago the source was last heard";
        registry.register_with_unit("source_lag", help, Unit::Seconds, metrics.source_lag.clone());
        let help = "From the reading of a change until the last connected Envoy that it reaches answered to it";
        registry.register_with_unit("xds_convergence", help, Unit::Seconds, metrics.xds_convergence_seconds.clone());
        Self { registry, ..metrics }
    }
}

impl SpanMetrics {
    fn registered(registry: &mut Registry) -> Self {
        let help = "Spans of traces, by what became of them";
        let spans: Family<_, Counter> = register(registry, "trace_spans", help, Family::default());
        let spans = |result| spans.get_or_create_owned(&ResultLabels { result });
        Self { exported: spans("exported"), dropped: spans("dropped"), failed: spans("failed") }
    }
}

impl DenialLogMetrics {
    fn registered(registry: &mut Registry) -> Self {
        let help = "Denials, by what became of their line in --denials-log";
        let denials: Family<_, Counter> = register(registry, "denials_logged", help, Family::default());
        let denials = |result| denials.get_or_create_owned(&ResultLabels { result });
        Self {
            written: denials("written"),
            left_out: denials("left_out"),
            dropped: denials("dropped"),
            failed: denials("failed"),
        }
    }
}

impl LeaseMetrics {
    fn registered(registry: &mut Registry) -> Self {
        let help = "Leases that were taken of counters in the store";
        let leases = register(registry, "counter_leases", help, Counter::default());
        let help = "Hits of leases, by what became of them";
        let hits: Family<_, Counter> = register(registry, "counter_lease_hits", help, Family::default());
        let hits = |hits_are| hits.get_or_create_owned(&HitLabels { hits: hits_are });
        let help = "Requests that were decided with a counter store, by where";
        let decisions: Family<_, Counter> = register(registry, "counter_decisions", help, Family::default());
        let decisions = |by| decisions.get_or_create_owned(&ByLabels { by });
        Self {
            leases,
            hits_leased: hits("leased"),
            hits_used: hits("used"),
            hits_given_back: hits("given_back"),
            decisions_by_lease: decisions("lease"),
            decisions_by_store: decisions("store"),
            denials_from_memory: decisions("denied_from_memory"),
        }
    }
}

fn register<M: prometheus_client::registry::Metric + Clone>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    metric: M,
) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// The Prometheus text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        self.decision_seconds.exemplars().add_to(text, "tierflow_decision_seconds")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_of_leases_have_a_series_before_the_first_of_them() {
        let metrics = Metrics::default();
        let series = |line: &str| metrics.render().lines().any(|own| own == line);
        for hits in ["leased", "used", "given_back"] {
            assert!(series(&format!("tierflow_counter_lease_hits_total{{hits=\"{hits}\"}} 0")), "{hits}");
        }
        metrics.leases.hits_used.inc_by(3);
        assert!(series("tierflow_counter_lease_hits_total{hits=\"used\"} 3"));
        for by in ["lease", "store", "denied_from_memory"] {
            assert!(series(&format!("tierflow_counter_decisions_total{{by=\"{by}\"}} 0")), "{by}");
        }
    }
}
