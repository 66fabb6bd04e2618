//! The HTTP filters of a gateway, and how the answers look that Envoy gives itself.

use envoy_types::pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use envoy_types::pb::envoy::config::accesslog::v3::{AccessLogFilter, MetadataFilter};
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::envoy::config::core::v3::{ApiVersion, DataSource, GrpcService, SubstitutionFormatString};
use envoy_types::pb::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use envoy_types::pb::envoy::extensions::filters::http::header_to_metadata::v3::Config as HeaderToMetadata;
use envoy_types::pb::envoy::extensions::filters::http::ratelimit::v3::RateLimit;
use envoy_types::pb::envoy::extensions::filters::http::ratelimit::v3::rate_limit::XRateLimitHeadersRfcVersion;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, LocalReplyConfig, ResponseMapper,
};
use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::PathSegment;
use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern as StringPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::value_matcher::MatchPattern as ValuePattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{MetadataMatcher, ValueMatcher};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use prost::{Message, Name};

use super::{any, pb, server::RATE_LIMIT_CLUSTER};
use crate::names::{denial, domain_of_gateway};
use crate::policy::gateway::{Gateway, OnError};
use crate::policy::limit::DENIAL_STATUSES;

pub(super) const HEADER_TO_METADATA: &str = "envoy.filters.http.header_to_metadata";

/// The filters are the same whatever is limited, so that no change of a limit makes a new listener.
pub(super) fn http_filters(gateway: &Gateway) -> Vec<HttpFilter> {
    vec![
        // Reads cookies for those routes that count by them; by itself it does nothing.
        filter(HEADER_TO_METADATA, &HeaderToMetadata::default()),
        filter("envoy.filters.http.ratelimit", &rate_limit(gateway)),
        filter("envoy.filters.http.router", &Router::default()),
    ]
}

fn filter<M: Message + Name>(name: &str, config: &M) -> HttpFilter {
    HttpFilter { name: name.to_owned(), config_type: Some(ConfigType::TypedConfig(any(config))), ..Default::default() }
}

fn rate_limit(gateway: &Gateway) -> RateLimit {
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
                ..Default::default()
            }),
            transport_api_version: ApiVersion::V3 as i32,
        }),
        ..Default::default()
    }
}

/// The rate limit filter knows one status for all denials. The rate limit service therefore says the status in
/// the metadata of its answer, and the reply is mapped by that.
pub(super) fn local_replies() -> LocalReplyConfig {
    let mapper = |status: u16| ResponseMapper {
        filter: Some(AccessLogFilter {
            filter_specifier: Some(FilterSpecifier::MetadataFilter(MetadataFilter {
                matcher: Some(denial_status_is(status)),
                match_if_key_not_found: pb::boolean(false),
            })),
        }),
        status_code: pb::uint32(status.into()),
        body_format_override: Some(SubstitutionFormatString {
            content_type: "application/problem+json".to_owned(),
            format: Some(Format::TextFormatSource(DataSource {
                specifier: Some(Specifier::InlineString("%LOCAL_REPLY_BODY%".to_owned())),
                ..Default::default()
            })),
            ..Default::default()
        }),
        ..Default::default()
    };
    LocalReplyConfig { mappers: DENIAL_STATUSES.into_iter().map(mapper).collect(), ..Default::default() }
}

fn denial_status_is(status: u16) -> MetadataMatcher {
    let exactly = pb::string_match(StringPattern::Exact(status.to_string()));
    MetadataMatcher {
        filter: denial::METADATA_NAMESPACE.to_owned(),
        path: vec![PathSegment { segment: Some(Segment::Key(denial::STATUS.to_owned())) }],
        value: Some(ValueMatcher { match_pattern: Some(ValuePattern::StringMatch(exactly)) }),
        invert: false,
    }
}
