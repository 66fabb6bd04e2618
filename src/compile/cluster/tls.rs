//! TLS to a service: what Envoy offers in the handshake, and the secrets that it does it with.

use envoy_types::pb::envoy::config::core::v3::TransportSocket;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{CommonTlsContext, Secret, UpstreamTlsContext};

use crate::compile::tls;
use crate::names::secret;
use crate::policy::service::{Protocol, Service, Tls};

pub(super) const HTTP_1: &str = "http/1.1";
pub(super) const HTTP_2: &str = "h2";

pub(super) fn transport_socket(service: &Service, files: &Tls) -> TransportSocket {
    let name = service.name.as_str();
    let identity = files.identity.as_ref().map(|_| tls::by_sds(secret::identity_of_service(name)));
    let authority = tls::by_sds(secret::authority_of_service(name));
    let alpn_protocols: &[&str] = match service.protocol {
        Protocol::Http1 => &[HTTP_1],
        Protocol::Http2 => &[HTTP_2],
        Protocol::Auto => &[HTTP_2, HTTP_1],
    };
    tls::transport_socket(&UpstreamTlsContext {
        sni: files.sni.clone().unwrap_or_default(),
        common_tls_context: Some(CommonTlsContext {
            alpn_protocols: alpn_protocols.iter().map(|protocol| (*protocol).to_owned()).collect(),
            tls_certificate_sds_secret_configs: identity.into_iter().collect(),
            validation_context_type: Some(ValidationContextType::ValidationContextSdsSecretConfig(authority)),
            ..Default::default()
        }),
        ..Default::default()
    })
}

pub(in crate::compile) fn secrets(service: &Service) -> Vec<Secret> {
    let Some(files) = &service.tls else { return Vec::new() };
    let name = service.name.as_str();
    let authority = tls::validation(secret::authority_of_service(name), &files.ca, &files.names);
    let identity = files.identity.as_ref().map(|files| tls::identity(secret::identity_of_service(name), files));
    std::iter::once(authority).chain(identity).collect()
}
