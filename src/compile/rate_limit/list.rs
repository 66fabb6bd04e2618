//! Lists of Envoy actions, back in Envoy's words. Fields that Envoy has deprecated, and refuses by default, were read
//! as what replaces them.

use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::rate_limit::action::meta_data::Source;
use envoy_types::pb::envoy::config::route::v3::rate_limit::action::{
    ActionSpecifier, DestinationCluster, GenericKey, HeaderValueMatch, MaskedRemoteAddress, MetaData,
    QueryParameterValueMatch, QueryParameters, RemoteAddress, RemoteAddressMatch, RequestHeaders, SourceCluster,
};
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher as HeaderMatcherPb, QueryParameterMatcher, RateLimit};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{AddressMatcher, StringMatcher};
use envoy_types::pb::envoy::r#type::v3::Int64Range;
use envoy_types::pb::xds::core::v3::CidrRange;

use super::{generic_key, header, metadata_key, rate_limit};
use crate::compile::pb;
use crate::names::descriptor;
use crate::policy::limit::Cost;
use crate::policy::rate_limits::{
    Action, AddressRange, Entry, HeaderMatcher, HeaderTest, Metadata, MetadataSource, QueryMatcher, RateLimits,
    TextMatcher, TextPattern,
};

/// One descriptor for each entry that counts, with a first entry that says which one it is. What is unlimited is not
/// reported.
pub(super) fn rate_limits(list: &RateLimits) -> impl Iterator<Item = RateLimit> {
    list.limited().map(|(entry, limit)| {
        let id = generic_key(descriptor::RATE_LIMITS, &entry.id);
        let cost = match &limit.cost {
            Cost::Hits(_) => None,
            Cost::Header(name) => limit.cost.descriptor_key().map(|key| header(&key, name)),
        };
        let actions = std::iter::once(id).chain(entry.actions.iter().map(action)).chain(cost).collect();
        RateLimit { disable_key: entry.disable_key.clone().unwrap_or_default(), ..rate_limit(actions) }
    })
}

fn action(action: &Action) -> ActionSpecifier {
    match action {
        Action::RequestHeader { key, name, skip_if_absent } => ActionSpecifier::RequestHeaders(RequestHeaders {
            header_name: name.clone(),
            descriptor_key: key.clone(),
            skip_if_absent: *skip_if_absent,
        }),
        Action::QueryParameter { key, name, skip_if_absent } => ActionSpecifier::QueryParameters(QueryParameters {
            query_parameter_name: name.clone(),
            descriptor_key: key.clone(),
            skip_if_absent: *skip_if_absent,
        }),
        Action::RemoteAddress => ActionSpecifier::RemoteAddress(RemoteAddress {}),
        Action::MaskedRemoteAddress { v4_bits, v6_bits } => ActionSpecifier::MaskedRemoteAddress(MaskedRemoteAddress {
            v4_prefix_mask_len: pb::uint32(*v4_bits),
            v6_prefix_mask_len: pb::uint32(*v6_bits),
        }),
        Action::RemoteAddressMatch { entry, ranges, is_inverted } => {
            let Entry { key, value, default } = entry.clone();
            let ranges = ranges.iter().map(cidr_range).collect();
            ActionSpecifier::RemoteAddressMatch(RemoteAddressMatch {
                descriptor_key: key,
                descriptor_value: value,
                default_value: default.unwrap_or_default(),
                address_matcher: Some(AddressMatcher { ranges, invert_match: *is_inverted }),
            })
        }
        Action::GenericKey(entry) => {
            let Entry { key, value, default } = entry.clone();
            let default_value = default.unwrap_or_default();
            ActionSpecifier::GenericKey(GenericKey { descriptor_key: key, descriptor_value: value, default_value })
        }
        Action::HeaderMatch { entry, expect_match, headers } => {
            let Entry { key, value, default } = entry.clone();
            ActionSpecifier::HeaderValueMatch(HeaderValueMatch {
                descriptor_key: key,
                descriptor_value: value,
                default_value: default.unwrap_or_default(),
                expect_match: pb::boolean(*expect_match),
                headers: headers.iter().map(header_matcher).collect(),
            })
        }
        Action::QueryMatch { entry, expect_match, parameters } => {
            let Entry { key, value, default } = entry.clone();
            ActionSpecifier::QueryParameterValueMatch(QueryParameterValueMatch {
                descriptor_key: key,
                descriptor_value: value,
                default_value: default.unwrap_or_default(),
                expect_match: pb::boolean(*expect_match),
                query_parameters: parameters.iter().map(query_matcher).collect(),
            })
        }
        Action::Metadata(metadata) => ActionSpecifier::Metadata(metadata_action(metadata)),
        Action::SourceCluster => ActionSpecifier::SourceCluster(SourceCluster {}),
        Action::DestinationCluster => ActionSpecifier::DestinationCluster(DestinationCluster {}),
    }
}

fn metadata_action(metadata: &Metadata) -> MetaData {
    let source = match metadata.source {
        MetadataSource::Dynamic => Source::Dynamic,
        MetadataSource::RouteEntry => Source::RouteEntry,
        MetadataSource::ClusterEntry => Source::ClusterEntry,
    };
    MetaData {
        descriptor_key: metadata.key.clone(),
        metadata_key: Some(metadata_key(&metadata.namespace, &metadata.path)),
        default_value: metadata.default.clone().unwrap_or_default(),
        source: source as i32,
        skip_if_absent: metadata.skip_if_absent,
    }
}

fn cidr_range(range: &AddressRange) -> CidrRange {
    CidrRange { address_prefix: range.address.to_string(), prefix_len: pb::uint32(range.bits.into()) }
}

fn header_matcher(matcher: &HeaderMatcher) -> HeaderMatcherPb {
    let specifier = match &matcher.test {
        HeaderTest::Present(expected) => HeaderMatchSpecifier::PresentMatch(*expected),
        HeaderTest::Text(matcher) => HeaderMatchSpecifier::StringMatch(string_matcher(matcher)),
        HeaderTest::Range(range) => HeaderMatchSpecifier::RangeMatch(Int64Range { start: range.start, end: range.end }),
    };
    HeaderMatcherPb {
        name: matcher.name.clone(),
        header_match_specifier: Some(specifier),
        invert_match: matcher.is_inverted,
        treat_missing_header_as_empty: matcher.treat_missing_as_empty,
    }
}

fn query_matcher(matcher: &QueryMatcher) -> QueryParameterMatcher {
    let specifier = match &matcher.test {
        Ok(matcher) => QueryParameterMatchSpecifier::StringMatch(string_matcher(matcher)),
        Err(expected) => QueryParameterMatchSpecifier::PresentMatch(*expected),
    };
    QueryParameterMatcher { name: matcher.name.clone(), query_parameter_match_specifier: Some(specifier) }
}

fn string_matcher(matcher: &TextMatcher) -> StringMatcher {
    let pattern = match &matcher.pattern {
        TextPattern::Exact(text) => MatchPattern::Exact(text.clone()),
        TextPattern::Prefix(text) => MatchPattern::Prefix(text.clone()),
        TextPattern::Suffix(text) => MatchPattern::Suffix(text.clone()),
        TextPattern::Contains(text) => MatchPattern::Contains(text.clone()),
        TextPattern::Regex(regex) => MatchPattern::SafeRegex(pb::regex(regex)),
    };
    StringMatcher { ignore_case: matcher.ignore_case, ..pb::string_match(pattern) }
}
