//! A gateway's listener: an HTTP connection manager with the settings of Envoy's guide to edges
//! ("Configuring Envoy as an edge proxy"), its routes by RDS.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    Http2ProtocolOptions, HttpProtocolOptions, TransportSocket, TypedExtensionConfig,
};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType as FilterConfig;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, PathWithEscapedSlashesAction, RouteSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpConnectionManager, Rds};
use envoy_types::pb::envoy::extensions::http::original_ip_detection::custom_header::v3::CustomHeaderConfig;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{CommonTlsContext, DownstreamTlsContext};

use super::{access_log, any, cluster::CONNECTION_BUFFER_BYTES, filters, local_replies, pb, spans, tls};
use crate::names::secret;
use crate::policy::gateway::{ClientIp, EscapedSlashes, Gateway};

pub(super) fn listener(gateway: &Gateway) -> Listener {
    let manager = Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(FilterConfig::TypedConfig(any(&connection_manager(gateway)))),
    };
    let chain = FilterChain {
        filters: vec![manager],
        transport_socket: gateway.tls.as_ref().map(|_| downstream_tls(gateway)),
        ..Default::default()
    };
    Listener {
        name: gateway.name.as_str().to_owned(),
        address: pb::listen_address(gateway.listen),
        filter_chains: vec![chain],
        per_connection_buffer_limit_bytes: pb::uint32(CONNECTION_BUFFER_BYTES),
        ..Default::default()
    }
}

fn connection_manager(gateway: &Gateway) -> HttpConnectionManager {
    let rds = Rds { config_source: pb::ads(), route_config_name: gateway.name.as_str().to_owned() };
    let (trusted_hops, detection) = match &gateway.client_ip {
        ClientIp::TrustedHops(hops) => (*hops, Vec::new()),
        ClientIp::Header(name) => (0, vec![detected_in_header(name)]),
    };
    HttpConnectionManager {
        stat_prefix: gateway.name.as_str().to_owned(),
        codec_type: CodecType::Auto as i32,
        route_specifier: Some(RouteSpecifier::Rds(rds)),
        http_filters: filters::http_filters(gateway),
        access_log: access_log::access_log(gateway),
        local_reply_config: Some(local_replies::local_replies()),
        tracing: spans::tracing(gateway),
        early_header_mutation_extensions: spans::early_mutations(gateway),
        // The connection's address, or what the trusted proxies in front saw: never what a client says of itself.
        use_remote_address: pb::boolean(detection.is_empty()),
        xff_num_trusted_hops: trusted_hops,
        original_ip_detection_extensions: detection,
        // One spelling of a path, so that another one is no way round a limit.
        normalize_path: pb::boolean(true),
        merge_slashes: true,
        path_with_escaped_slashes_action: escaped_slashes_action(gateway.escaped_slashes) as i32,
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: pb::duration(Duration::from_secs(3600)),
            max_headers_count: pb::uint32(100),
            ..Default::default()
        }),
        http2_protocol_options: Some(Http2ProtocolOptions {
            max_concurrent_streams: pb::uint32(100),
            initial_stream_window_size: pb::uint32(64 * 1024),
            initial_connection_window_size: pb::uint32(1024 * 1024),
            ..Default::default()
        }),
        stream_idle_timeout: pb::duration(Duration::from_secs(300)),
        request_headers_timeout: pb::duration(Duration::from_secs(10)),
        ..Default::default()
    }
}

/// An address in it is not taken for one of the own network, which would open Envoy's own headers to clients.
fn detected_in_header(name: &str) -> TypedExtensionConfig {
    let config = CustomHeaderConfig { header_name: name.to_owned(), ..Default::default() };
    TypedExtensionConfig {
        name: "envoy.http.original_ip_detection.custom_header".to_owned(),
        typed_config: Some(any(&config)),
    }
}

fn escaped_slashes_action(escaped_slashes: EscapedSlashes) -> PathWithEscapedSlashesAction {
    match escaped_slashes {
        EscapedSlashes::Redirect => PathWithEscapedSlashesAction::UnescapeAndRedirect,
        EscapedSlashes::Decode => PathWithEscapedSlashesAction::UnescapeAndForward,
        EscapedSlashes::Keep => PathWithEscapedSlashesAction::KeepUnchanged,
        EscapedSlashes::Refuse => PathWithEscapedSlashesAction::RejectRequest,
    }
}

fn downstream_tls(gateway: &Gateway) -> TransportSocket {
    let context = DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            alpn_protocols: vec!["h2".to_owned(), "http/1.1".to_owned()],
            tls_certificate_sds_secret_configs: vec![tls::by_sds(secret::of_gateway(&gateway.name))],
            ..Default::default()
        }),
        ..Default::default()
    };
    tls::transport_socket(&context)
}
