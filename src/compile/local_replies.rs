//! How the answers look that Envoy gives to denied requests.
//!
//! The rate limit filter knows one status for all denials. The rate limit service therefore says the status in the
//! metadata of its answer, and the reply is mapped by that. gRPC the filter knows by itself (RESOURCE_EXHAUSTED), but not
//! gRPC-Web, whose clients take a 429 for UNAVAILABLE and try again at once.

use envoy_types::pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use envoy_types::pb::envoy::config::accesslog::v3::{AccessLogFilter, AndFilter, HeaderFilter, MetadataFilter};
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::envoy::config::core::v3::{DataSource, HeaderValue, HeaderValueOption, SubstitutionFormatString};
use envoy_types::pb::envoy::config::route::v3::HeaderMatcher;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    LocalReplyConfig, ResponseMapper,
};
use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::PathSegment;
use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern as StringPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::value_matcher::MatchPattern as ValuePattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{MetadataMatcher, ValueMatcher};

use super::pb;
use crate::names::denial;
use crate::policy::limit::DENIAL_STATUSES;

/// RESOURCE_EXHAUSTED, as the trailers of gRPC-Web have it: a frame of its own (PROTOCOL-WEB.md, "HTTP/2 related
/// behavior"), and the same in Base64 for those who asked in text. The longer type is asked for first.
const GRPC_WEB: [(&str, &[u8]); 2] = [
    ("application/grpc-web-text", b"gAAAAA9ncnBjLXN0YXR1czo4DQo="),
    ("application/grpc-web", b"\x80\0\0\0\x0fgrpc-status:8\r\n"),
];
const RESOURCE_EXHAUSTED: &str = "8";

pub(super) fn local_replies() -> LocalReplyConfig {
    let grpc_web = GRPC_WEB.iter().map(|(content_type, trailers)| grpc_web(content_type, trailers));
    LocalReplyConfig {
        mappers: grpc_web.chain(DENIAL_STATUSES.into_iter().map(problem)).collect(),
        ..Default::default()
    }
}

fn problem(status: u16) -> ResponseMapper {
    let exactly = pb::string_match(StringPattern::Exact(status.to_string()));
    ResponseMapper {
        filter: denial_status_is(ValuePattern::StringMatch(exactly)),
        status_code: pb::uint32(status.into()),
        body_format_override: body(
            "application/problem+json",
            Specifier::InlineString("%LOCAL_REPLY_BODY%".to_owned()),
        ),
        ..Default::default()
    }
}

fn grpc_web(content_type: &str, trailers: &[u8]) -> ResponseMapper {
    let asked_in = HeaderMatcher {
        name: "content-type".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(pb::string_match(StringPattern::Prefix(
            content_type.to_owned(),
        )))),
        ..Default::default()
    };
    let asked_in = filter(FilterSpecifier::HeaderFilter(HeaderFilter { header: Some(asked_in) }));
    let is_denied = denial_status_is(ValuePattern::PresentMatch(true));
    let filters = [asked_in, is_denied].into_iter().flatten().collect();
    ResponseMapper {
        filter: filter(FilterSpecifier::AndFilter(AndFilter { filters })),
        status_code: pb::uint32(200),
        // Some clients look for the status among the headers first, some only at the end.
        headers_to_add: vec![HeaderValueOption {
            header: Some(HeaderValue {
                key: "grpc-status".to_owned(),
                value: RESOURCE_EXHAUSTED.to_owned(),
                ..Default::default()
            }),
            append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
            ..Default::default()
        }],
        body_format_override: body(&format!("{content_type}+proto"), Specifier::InlineBytes(trailers.to_vec())),
        ..Default::default()
    }
}

fn body(content_type: &str, text: Specifier) -> Option<SubstitutionFormatString> {
    Some(SubstitutionFormatString {
        content_type: content_type.to_owned(),
        format: Some(Format::TextFormatSource(DataSource { specifier: Some(text), ..Default::default() })),
        ..Default::default()
    })
}

fn filter(specifier: FilterSpecifier) -> Option<AccessLogFilter> {
    Some(AccessLogFilter { filter_specifier: Some(specifier) })
}

fn denial_status_is(pattern: ValuePattern) -> Option<AccessLogFilter> {
    let matcher = MetadataMatcher {
        filter: denial::METADATA_NAMESPACE.to_owned(),
        path: vec![PathSegment { segment: Some(Segment::Key(denial::STATUS.to_owned())) }],
        value: Some(ValueMatcher { match_pattern: Some(pattern) }),
        invert: false,
    };
    let match_if_key_not_found = pb::boolean(false);
    filter(FilterSpecifier::MetadataFilter(MetadataFilter { matcher: Some(matcher), match_if_key_not_found }))
}
