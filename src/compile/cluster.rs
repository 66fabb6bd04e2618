//! Services as clusters.

mod dns;
mod health_check;
mod outlier_detection;
mod tls;

use std::collections::HashMap;

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster};
use envoy_types::pb::envoy::config::core::v3::{Http1ProtocolOptions, Http2ProtocolOptions};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions,
};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::Any;

use super::{any, endpoint, pb};
use crate::policy::service::{CircuitBreaker, Discovery, LoadBalancing, Protocol, RetryBound, Service};

pub(super) use dns::dns;
pub(super) use tls::secrets;

/// Envoy's edge guide: small buffers, so that many slow peers cost little memory.
pub(super) const CONNECTION_BUFFER_BYTES: u32 = 32 * 1024;

/// The share of live addresses below which Envoy panics and tries them all: next to none, where half of the addresses
/// or more are dead for good. It still does where none is left.
const DEAD_ADDRESSES_PANIC_PERCENT: f64 = 1.0;

pub(super) fn service(service: &Service) -> Cluster {
    let name = service.name.as_str();
    let cluster = Cluster {
        name: name.to_owned(),
        connect_timeout: pb::duration(service.connect_timeout),
        per_connection_buffer_limit_bytes: pb::uint32(CONNECTION_BUFFER_BYTES),
        lb_policy: match service.load_balancing {
            LoadBalancing::RoundRobin => LbPolicy::RoundRobin,
            LoadBalancing::LeastRequest => LbPolicy::LeastRequest,
            LoadBalancing::Random => LbPolicy::Random,
        } as i32,
        health_checks: health_check::health_check(service).into_iter().collect(),
        circuit_breakers: Some(circuit_breakers(&service.circuit_breaker)),
        outlier_detection: outlier_detection::outlier_detection(service),
        common_lb_config: service.discovery.may_have_dead_addresses().then(|| CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: DEAD_ADDRESSES_PANIC_PERCENT }),
            ..Default::default()
        }),
        transport_socket: service.tls.as_ref().map(|files| tls::transport_socket(service, files)),
        typed_extension_protocol_options: match service.protocol {
            Protocol::Http1 => explicit_protocol(ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default())),
            Protocol::Http2 => explicit_protocol(ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default())),
            Protocol::Auto => protocol_options(UpstreamProtocolOptions::AutoConfig(AutoHttpConfig {
                http_protocol_options: Some(Http1ProtocolOptions::default()),
                http2_protocol_options: Some(Http2ProtocolOptions::default()),
                ..Default::default()
            })),
        },
        // An endpoint that was taken out of the policy is gone, however well it feels.
        ignore_health_on_host_removal: true,
        ..Default::default()
    };
    match &service.discovery {
        Discovery::Endpoints(_) | Discovery::Registry { .. } => Cluster {
            cluster_discovery_type: discovery(DiscoveryType::Eds),
            eds_cluster_config: Some(EdsClusterConfig { eds_config: pb::ads(), ..Default::default() }),
            ..cluster
        },
        Discovery::Dns { host, port, family } => Cluster {
            cluster_discovery_type: Some(dns(*family)),
            load_assignment: Some(endpoint::assignment_of(name, std::iter::once(pb::host_port(host, *port)))),
            ..cluster
        },
    }
}

pub(super) fn discovery(discovery: DiscoveryType) -> Option<ClusterDiscoveryType> {
    Some(ClusterDiscoveryType::Type(discovery as i32))
}

pub(super) fn explicit_protocol(protocol_config: ProtocolConfig) -> HashMap<String, Any> {
    let explicit = ExplicitHttpConfig { protocol_config: Some(protocol_config) };
    protocol_options(UpstreamProtocolOptions::ExplicitHttpConfig(explicit))
}

fn protocol_options(protocol_options: UpstreamProtocolOptions) -> HashMap<String, Any> {
    let options = HttpProtocolOptions { upstream_protocol_options: Some(protocol_options), ..Default::default() };
    HashMap::from([("envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(), any(&options))])
}

pub(super) fn circuit_breakers(breaker: &CircuitBreaker) -> CircuitBreakers {
    let (max_retries, retry_budget) = match breaker.retries {
        RetryBound::Max(max) => (pb::uint32(max), None),
        RetryBound::Budget { percent, min_concurrency } => {
            let budget_percent = Some(Percent { value: percent.into() });
            let min_retry_concurrency = pb::uint32(min_concurrency);
            (None, Some(RetryBudget { budget_percent, min_retry_concurrency, ..Default::default() }))
        }
    };
    let thresholds = Thresholds {
        max_connections: pb::uint32(breaker.max_connections),
        max_pending_requests: pb::uint32(breaker.max_pending_requests),
        max_requests: pb::uint32(breaker.max_requests),
        max_retries,
        retry_budget,
        // So that one can see how near a breaker is before it opens.
        track_remaining: true,
        ..Default::default()
    };
    CircuitBreakers { thresholds: vec![thresholds], ..Default::default() }
}
