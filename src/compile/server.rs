//! How Envoys reach Tierflow itself: for xDS, by their bootstrap, and for decisions; both with TLS where its ports have it. And
//! how they reach the collector of their spans.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::cluster::{CommonLbConfig, DiscoveryType, EdsClusterConfig, LbPolicy};
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, OutlierDetection};
use envoy_types::pb::envoy::config::core::v3::health_check::{GrpcHealthCheck, HealthChecker};
use envoy_types::pb::envoy::config::core::v3::retry_policy::RetryHostPredicate;
use envoy_types::pb::envoy::config::core::v3::retry_policy::retry_host_predicate::ConfigType;
use envoy_types::pb::envoy::config::core::v3::{
    BackoffStrategy, HealthCheck, Http2ProtocolOptions, KeepaliveSettings, RetryPolicy, TransportSocket,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, SdsSecretConfig, SubjectAltNameMatcher, UpstreamTlsContext,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::r#type::v3::Percent;

use super::cluster::{circuit_breakers, discovery, dns, explicit_protocol};
use super::route::HOST_SELECTION_ATTEMPTS;
use super::{
    AUTHORITY_SECRET, HostPort, IDENTITY_SECRET, RateLimitService, Secrets, ServerTls, any, endpoint, pb, secret_file,
    tls,
};
use crate::policy::service::{CircuitBreaker, DnsFamily, RetryBound, SubjectName};
use crate::policy::tracing::Tracing;

/// Names with a colon, which no service's name can have.
pub(super) const XDS_CLUSTER: &str = "tierflow:xds";
pub(super) const RATE_LIMIT_CLUSTER: &str = "tierflow:rls";
pub(super) const COLLECTOR_CLUSTER: &str = "tierflow:otlp";

/// The service's name in `grpc.health.v1`.
const RATE_LIMIT_SERVICE: &str = "envoy.service.ratelimit.v3.RateLimitService";

const HEALTH_INTERVAL: Duration = Duration::from_millis(500);
const HEALTH_TIMEOUT: Duration = Duration::from_millis(250);
const UNHEALTHY_THRESHOLD: u32 = 2;
/// The time within which an Envoy knows that a replica is not well.
pub const UNWELL_WITHIN: Duration = HEALTH_INTERVAL.saturating_add(HEALTH_TIMEOUT).saturating_mul(UNHEALTHY_THRESHOLD);

/// Replicas that a call is made to after one that did not take it.
const RETRIES: u32 = 3;
/// Questions in a row that a replica may leave unanswered.
const UNANSWERED_MAX: u32 = 5;

/// Pings tell a dead control plane from an idle one; without them only TCP would notice, after a quarter of an hour.
pub(super) fn xds(server: &HostPort, tls: ServerTls, secrets: Secrets<'_>) -> Cluster {
    let keepalive = KeepaliveSettings {
        interval: pb::duration(Duration::from_secs(30)),
        timeout: pb::duration(Duration::from_secs(5)),
        ..Default::default()
    };
    Cluster {
        connect_timeout: pb::duration(Duration::from_secs(1)),
        ..cluster(
            XDS_CLUSTER,
            std::slice::from_ref(server),
            transport_socket(tls, secrets, std::slice::from_ref(server)),
            Http2ProtocolOptions { connection_keepalive: Some(keepalive), ..Default::default() },
        )
    }
}

/// A limiter that hangs must cost requests next to nothing: its health is asked for twice a second even without traffic,
/// and once it is unwell, which is known within 1.5 s, no request waits for it.
pub(super) fn rate_limit_service(service: &RateLimitService, secrets: Secrets<'_>) -> Cluster {
    let grpc = GrpcHealthCheck { service_name: RATE_LIMIT_SERVICE.to_owned(), ..Default::default() };
    let cluster = Cluster {
        connect_timeout: pb::duration(Duration::from_millis(250)),
        lb_policy: LbPolicy::LeastRequest as i32,
        health_checks: vec![HealthCheck {
            timeout: pb::duration(HEALTH_TIMEOUT),
            interval: pb::duration(HEALTH_INTERVAL),
            no_traffic_interval: pb::duration(HEALTH_INTERVAL),
            unhealthy_threshold: pb::uint32(UNHEALTHY_THRESHOLD),
            healthy_threshold: pb::uint32(1),
            health_checker: Some(HealthChecker::GrpcHealthCheck(grpc)),
            ..Default::default()
        }],
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: 0.0 }),
            ..Default::default()
        }),
        circuit_breakers: Some(circuit_breakers(&CircuitBreaker {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            retries: RetryBound::Max(1024),
        })),
        outlier_detection: service.has_replicas.then(outlier_detection),
        // A replica that is gone is gone, however well it feels.
        ignore_health_on_host_removal: service.has_replicas,
        ..cluster(
            RATE_LIMIT_CLUSTER,
            &service.addresses,
            transport_socket(service.tls, secrets, &service.addresses),
            Http2ProtocolOptions::default(),
        )
    };
    if service.is_discovered() { cluster_of_endpoints(cluster) } else { cluster }
}

pub(super) fn collector(tracing: &Tracing) -> Cluster {
    let collector = HostPort { host: tracing.collector_host.clone(), port: tracing.collector_port };
    cluster(COLLECTOR_CLUSTER, std::slice::from_ref(&collector), None, Http2ProtocolOptions::default())
}

/// A call that nobody took (the connection was refused, or the stream, RFC 9113, section 8.7) is made to another replica: until
/// the health of one that is gone is known, its share of all calls would fail. One that may have been counted is not made twice.
///
/// Envoy takes the longest pause for the timeout of each of them as well (`convertCoreToRouteRetryPolicy`), so it is that of the
/// whole call; pauses stay far below it.
pub(super) fn retry_policy(timeout: Duration) -> RetryPolicy {
    RetryPolicy {
        retry_back_off: Some(BackoffStrategy {
            base_interval: pb::duration(Duration::from_millis(1)),
            max_interval: pb::duration(timeout),
        }),
        num_retries: pb::uint32(RETRIES),
        retry_on: "connect-failure,refused-stream".to_owned(),
        retry_host_predicate: vec![RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(ConfigType::TypedConfig(any(&PreviousHostsPredicate {}))),
        }],
        host_selection_retry_max_attempts: HOST_SELECTION_ATTEMPTS,
        ..Default::default()
    }
}

/// Has Envoy ask for the addresses.
fn cluster_of_endpoints(cluster: Cluster) -> Cluster {
    Cluster {
        cluster_discovery_type: discovery(DiscoveryType::Eds),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: pb::ads(), ..Default::default() }),
        load_assignment: None,
        ..cluster
    }
}

/// A replica that hangs is left out after a few requests, before its health is known, and until it is well: else each
/// replica that hangs would have its share of all requests wait in vain. Half of the replicas stay, or the only one.
fn outlier_detection() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: pb::uint32(UNANSWERED_MAX),
        interval: pb::duration(Duration::from_secs(1)),
        base_ejection_time: pb::duration(Duration::from_secs(1)),
        max_ejection_time: pb::duration(Duration::from_secs(5)),
        max_ejection_percent: pb::uint32(50),
        enforcing_success_rate: pb::uint32(0),
        ..Default::default()
    }
}

fn cluster(
    name: &str,
    hosts: &[HostPort],
    transport_socket: Option<TransportSocket>,
    http2: Http2ProtocolOptions,
) -> Cluster {
    let is_static = hosts.iter().all(HostPort::is_address);
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: match is_static {
            true => discovery(DiscoveryType::Static),
            // Tierflow may listen on one family of two. Addresses that do not answer are unwell, and Envoy asks for
            // its configuration at one after the other.
            false => Some(dns(DnsFamily::All)),
        },
        load_assignment: Some(endpoint::of_hosts(name, hosts)),
        transport_socket,
        typed_extension_protocol_options: explicit_protocol(ProtocolConfig::Http2ProtocolOptions(http2)),
        ..Default::default()
    }
}

/// Envoy checks who signed a certificate, and nothing else unless it is told the names that it may be for.
fn transport_socket(server_tls: ServerTls, secrets: Secrets<'_>, hosts: &[HostPort]) -> Option<TransportSocket> {
    let identity = match server_tls {
        ServerTls::None => return None,
        ServerTls::Server => None,
        ServerTls::Mutual => Some(secret(IDENTITY_SECRET, secrets)),
    };
    let names = CertificateValidationContext {
        match_typed_subject_alt_names: hosts.iter().map(subject).collect(),
        ..Default::default()
    };
    let validation = CombinedCertificateValidationContext {
        default_validation_context: Some(names),
        validation_context_sds_secret_config: Some(secret(AUTHORITY_SECRET, secrets)),
        ..Default::default()
    };
    let context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            alpn_protocols: vec!["h2".to_owned()],
            tls_certificate_sds_secret_configs: identity.into_iter().collect(),
            validation_context_type: Some(ValidationContextType::CombinedValidationContext(validation)),
            ..Default::default()
        }),
        sni: hosts.iter().find(|host| !host.is_address()).map(|host| host.host.clone()).unwrap_or_default(),
        ..Default::default()
    };
    Some(tls::transport_socket(&context))
}

/// A secret without a source of configuration is one of the bootstrap.
fn secret(name: &str, secrets: Secrets<'_>) -> SdsSecretConfig {
    let sds_config = match secrets {
        Secrets::Bootstrap => None,
        Secrets::Folder(folder) => Some(pb::file(folder, &secret_file(name))),
    };
    SdsSecretConfig { name: name.to_owned(), sds_config }
}

fn subject(host: &HostPort) -> SubjectAltNameMatcher {
    let name = host.host.parse().map_or_else(|_| SubjectName::Dns(host.host.clone()), SubjectName::Ip);
    tls::subject(&name)
}
