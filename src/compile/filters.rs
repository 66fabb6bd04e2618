//! The HTTP filters of a gateway.

use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::{ApiVersion, GrpcService};
use envoy_types::pb::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::Cors;
use envoy_types::pb::envoy::extensions::filters::http::header_to_metadata::v3::Config as HeaderToMetadata;
use envoy_types::pb::envoy::extensions::filters::http::ratelimit::v3::RateLimit;
use envoy_types::pb::envoy::extensions::filters::http::ratelimit::v3::rate_limit::XRateLimitHeadersRfcVersion;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use prost::{Message, Name};

use super::server::{self, RATE_LIMIT_CLUSTER};
use super::{any, cors, pb, rate_limit};
use crate::names::domain_of_gateway;
use crate::policy::gateway::{Gateway, OnError};

pub(super) const HEADER_TO_METADATA: &str = "envoy.filters.http.header_to_metadata";

/// The filters are the same whatever is limited, so that no change of a limit makes a new listener.
pub(super) fn http_filters(gateway: &Gateway) -> Vec<HttpFilter> {
    vec![
        // Before all that may deny a request, so that a denial has its headers; for the routes that have a policy.
        filter(cors::FILTER, &Cors {}),
        // Reads cookies and tokens for those routes that count by them; by itself it does nothing.
        filter(HEADER_TO_METADATA, &HeaderToMetadata::default()),
        filter("envoy.filters.http.header_mutation", &rate_limit::token_header()),
        filter("envoy.filters.http.ratelimit", &rate_limit_filter(gateway)),
        filter("envoy.filters.http.router", &Router::default()),
    ]
}

fn filter<M: Message + Name>(name: &str, config: &M) -> HttpFilter {
    HttpFilter { name: name.to_owned(), config_type: Some(ConfigType::TypedConfig(any(config))), ..Default::default() }
}

fn rate_limit_filter(gateway: &Gateway) -> RateLimit {
    let grpc = EnvoyGrpc { cluster_name: RATE_LIMIT_CLUSTER.to_owned(), ..Default::default() };
    RateLimit {
        domain: domain_of_gateway(&gateway.name),
        timeout: pb::duration(gateway.limiter.timeout),
        failure_mode_deny: gateway.limiter.on_error == OnError::Deny,
        status_on_error: Some(HttpStatus { code: 503 }),
        rate_limited_as_resource_exhausted: true,
        enable_x_ratelimit_headers: XRateLimitHeadersRfcVersion::DraftVersion03 as i32,
        rate_limit_service: Some(RateLimitServiceConfig {
            grpc_service: Some(GrpcService {
                target_specifier: Some(TargetSpecifier::EnvoyGrpc(grpc)),
                retry_policy: Some(server::retry_policy(gateway.limiter.timeout)),
                ..Default::default()
            }),
            transport_api_version: ApiVersion::V3 as i32,
        }),
        ..Default::default()
    }
}
