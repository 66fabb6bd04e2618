//! How Envoy asks instances whether they are well: over the same transport as requests go, TLS included.

use envoy_types::pb::envoy::config::core::v3::HealthCheck as HealthCheckPb;
use envoy_types::pb::envoy::config::core::v3::health_check::{
    GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck, TlsOptions,
};
use envoy_types::pb::envoy::r#type::v3::CodecClientType;

use super::tls::{HTTP_1, HTTP_2};
use crate::compile::pb;
use crate::policy::service::{Probe, Protocol, Service};

pub(super) fn health_check(service: &Service) -> Option<HealthCheckPb> {
    let health_check = service.health_check.as_ref()?;
    let checker = match &health_check.probe {
        Probe::Http { path } => HealthChecker::HttpHealthCheck(HttpHealthCheck {
            path: path.clone(),
            // Servers of many hosts answer with 421 where this is not the host of the handshake.
            host: service.tls.as_ref().and_then(|tls| tls.sni.clone()).unwrap_or_default(),
            // A server that knows only HTTP/2 would not understand another question.
            codec_client_type: match service.protocol {
                Protocol::Http2 => CodecClientType::Http2,
                Protocol::Http1 | Protocol::Auto => CodecClientType::Http1,
            } as i32,
            ..Default::default()
        }),
        Probe::Grpc { service } => {
            HealthChecker::GrpcHealthCheck(GrpcHealthCheck { service_name: service.clone(), ..Default::default() })
        }
        Probe::Tcp => HealthChecker::TcpHealthCheck(TcpHealthCheck::default()),
    };
    // The check speaks what it speaks: it must not offer the other in the handshake.
    let alpn = match (&health_check.probe, service.protocol) {
        (Probe::Http { .. }, Protocol::Auto) => Some(HTTP_1),
        (Probe::Grpc { .. }, Protocol::Auto | Protocol::Http1) => Some(HTTP_2),
        _ => None,
    };
    let alpn = alpn.filter(|_| service.tls.is_some());
    Some(HealthCheckPb {
        timeout: pb::duration(health_check.timeout),
        interval: pb::duration(health_check.interval),
        // Envoy's default is a minute: much too long to learn that an idle service has gone.
        no_traffic_interval: pb::duration(health_check.interval),
        unhealthy_threshold: pb::uint32(health_check.unhealthy_threshold),
        healthy_threshold: pb::uint32(health_check.healthy_threshold),
        health_checker: Some(checker),
        tls_options: alpn.map(|protocol| TlsOptions { alpn_protocols: vec![protocol.to_owned()] }),
        ..Default::default()
    })
}
