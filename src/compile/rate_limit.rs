//! What a route reports to the rate limit service: the API, the tenant, and whatever limits count by.
//!
//! All of it is one descriptor. Where a request lacks a value Envoy leaves the entry out and not the descriptor,
//! so a request without a tenant is still counted: the rate limit service knows what a missing entry means.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::route::v3::rate_limit::Action;
use envoy_types::pb::envoy::config::route::v3::rate_limit::action::meta_data::Source;
use envoy_types::pb::envoy::config::route::v3::rate_limit::action::{
    ActionSpecifier, DestinationCluster, GenericKey, HeaderValueMatch, MaskedRemoteAddress, MetaData, QueryParameters,
    RemoteAddress, RequestHeaders, SourceCluster,
};
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, RateLimit, header_matcher::HeaderMatchSpecifier};
use envoy_types::pb::envoy::extensions::filters::http::header_to_metadata::v3::Config as HeaderToMetadata;
use envoy_types::pb::envoy::extensions::filters::http::header_to_metadata::v3::config::{KeyValuePair, Rule};
use envoy_types::pb::envoy::extensions::rate_limit_descriptors::jwt_claim::v3::Descriptor as JwtClaim;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::metadata::v3::MetadataKey;
use envoy_types::pb::envoy::r#type::metadata::v3::metadata_key::PathSegment;
use envoy_types::pb::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;

use super::{any, pb};
use crate::names::descriptor;
use crate::policy::api::Api;
use crate::policy::gateway::{Gateway, TenantSource};
use crate::policy::limit::{Dimension, Limit};
use crate::policy::rate_limits::RateLimits;
use crate::policy::raw::{RawAction, RawHeaderMatcher, RawStringMatch};
use crate::policy::set::PolicySet;

/// Where cookies are put for the actions to find them.
const COOKIE_NAMESPACE: &str = "tierflow.cookies";

/// Everything a route of the API reports.
pub(super) fn rate_limits(policies: &PolicySet, gateway: &Gateway, api: &Api) -> Vec<RateLimit> {
    let tenant = gateway.tenant.as_ref().map(|tenant| tenant_action(&tenant.from));
    let dimensions = dimensions(policies, gateway, api);
    let own = std::iter::once(generic_key(descriptor::API, api.name.as_str())).chain(tenant).chain(
        // Entries by key: `client_ip` and `client_ip/24` are one, and a cost in a header is a header.
        dimensions.iter().map(dimension_action),
    );
    let lists = policies.rate_limits.values().filter(|list| list.gateway.as_ref().is_none_or(|g| *g == gateway.name));
    std::iter::once(own.collect()).chain(lists.flat_map(|list| entries(list))).map(rate_limit).collect()
}

/// Makes the cookies that the route reports readable to its actions, where it reports any.
pub(super) fn cookies(policies: &PolicySet, gateway: &Gateway, api: &Api) -> Option<HeaderToMetadata> {
    let mut cookies: BTreeSet<String> = dimensions(policies, gateway, api)
        .into_iter()
        .filter_map(|dimension| if let Dimension::Cookie(name) = dimension { Some(name) } else { None })
        .collect();
    if let Some(TenantSource::Cookie(name)) = gateway.tenant.as_ref().map(|tenant| &tenant.from) {
        cookies.insert(name.clone());
    }
    let rule = |cookie: String| Rule {
        on_header_present: Some(KeyValuePair {
            metadata_namespace: COOKIE_NAMESPACE.to_owned(),
            key: cookie.clone(),
            ..Default::default()
        }),
        cookie,
        ..Default::default()
    };
    let request_rules: Vec<_> = cookies.into_iter().map(rule).collect();
    (!request_rules.is_empty()).then(|| HeaderToMetadata { request_rules, ..Default::default() })
}

/// What any limit counts by that could apply to a request of this API, once for each descriptor entry.
fn dimensions(policies: &PolicySet, gateway: &Gateway, api: &Api) -> BTreeSet<Dimension> {
    let mut limits: Vec<&Limit> = api.limits.iter().map(AsRef::as_ref).collect();
    if gateway.tenant.is_none() {
        return limits.into_iter().flat_map(Limit::reported).collect();
    }
    for plan in policies.plans.values() {
        limits.extend(plan.limits.iter().chain(plan.apis.get(&api.name).into_iter().flatten()).map(AsRef::as_ref));
    }
    let of_tenants = policies.reported_for_tenants.of_api(&api.name).cloned();
    limits.into_iter().flat_map(Limit::reported).chain(of_tenants).collect()
}

fn tenant_action(source: &TenantSource) -> ActionSpecifier {
    let key = descriptor::TENANT;
    match source {
        TenantSource::Header(name) => header(key, name),
        TenantSource::Query(name) => query(key, name),
        TenantSource::Cookie(name) => cookie(key, name),
        TenantSource::JwtClaim(claim) => jwt_claim(key, claim),
    }
}

fn dimension_action(dimension: &Dimension) -> ActionSpecifier {
    let key = &dimension.descriptor_key();
    match dimension {
        Dimension::ClientIp { .. } => ActionSpecifier::RemoteAddress(RemoteAddress {}),
        Dimension::Header(name) => header(key, name),
        Dimension::Query(name) => query(key, name),
        Dimension::Cookie(name) => cookie(key, name),
        Dimension::Path => header(key, ":path"),
        Dimension::Method => header(key, ":method"),
        Dimension::Host => header(key, ":authority"),
        Dimension::JwtClaim(claim) => jwt_claim(key, claim),
    }
}

fn generic_key(key: &str, value: &str) -> ActionSpecifier {
    ActionSpecifier::GenericKey(GenericKey {
        descriptor_key: key.to_owned(),
        descriptor_value: value.to_owned(),
        ..Default::default()
    })
}

fn header(key: &str, name: &str) -> ActionSpecifier {
    ActionSpecifier::RequestHeaders(RequestHeaders {
        header_name: name.to_owned(),
        descriptor_key: key.to_owned(),
        skip_if_absent: true,
    })
}

fn query(key: &str, name: &str) -> ActionSpecifier {
    ActionSpecifier::QueryParameters(QueryParameters {
        query_parameter_name: name.to_owned(),
        descriptor_key: key.to_owned(),
        skip_if_absent: true,
    })
}

fn cookie(key: &str, name: &str) -> ActionSpecifier {
    ActionSpecifier::Metadata(MetaData {
        descriptor_key: key.to_owned(),
        metadata_key: Some(MetadataKey {
            key: COOKIE_NAMESPACE.to_owned(),
            path: vec![PathSegment { segment: Some(Segment::Key(name.to_owned())) }],
        }),
        source: Source::Dynamic as i32,
        skip_if_absent: true,
        ..Default::default()
    })
}

/// The claim is read, not verified: whoever needs it to be true puts a filter in front that verifies tokens.
fn jwt_claim(key: &str, claim: &str) -> ActionSpecifier {
    let descriptor = JwtClaim {
        descriptor_key: key.to_owned(),
        header_name: "authorization".to_owned(),
        value_prefix: "Bearer ".to_owned(),
        claim_name: claim.to_owned(),
        skip_if_absent: true,
        ..Default::default()
    };
    ActionSpecifier::Extension(TypedExtensionConfig {
        name: "envoy.rate_limit_descriptors.jwt_claim".to_owned(),
        typed_config: Some(any(&descriptor)),
    })
}

/// The lists of actions that are taken as they are, each with a first entry that says which one it is.
fn entries(list: &RateLimits) -> impl Iterator<Item = Vec<ActionSpecifier>> {
    list.entries.iter().enumerate().map(|(index, entry)| {
        let id = generic_key(descriptor::RATE_LIMITS, &descriptor::rate_limits_id(&list.name, index));
        std::iter::once(id).chain(entry.actions.iter().map(raw_action)).collect()
    })
}

fn raw_action(action: &RawAction) -> ActionSpecifier {
    match action {
        RawAction::RequestHeaders(raw) => ActionSpecifier::RequestHeaders(RequestHeaders {
            header_name: raw.header_name.clone(),
            descriptor_key: raw.descriptor_key.clone(),
            skip_if_absent: raw.skip_if_absent.unwrap_or(false),
        }),
        RawAction::QueryParameters(raw) => ActionSpecifier::QueryParameters(QueryParameters {
            query_parameter_name: raw.query_parameter_name.clone(),
            descriptor_key: raw.descriptor_key.clone(),
            skip_if_absent: raw.skip_if_absent.unwrap_or(false),
        }),
        RawAction::RemoteAddress(_) => ActionSpecifier::RemoteAddress(RemoteAddress {}),
        RawAction::MaskedRemoteAddress(raw) => ActionSpecifier::MaskedRemoteAddress(MaskedRemoteAddress {
            v4_prefix_mask_len: raw.v4_prefix_mask_len.and_then(pb::uint32),
            v6_prefix_mask_len: raw.v6_prefix_mask_len.and_then(pb::uint32),
        }),
        RawAction::GenericKey(raw) => {
            generic_key(raw.descriptor_key.as_deref().unwrap_or_default(), &raw.descriptor_value)
        }
        RawAction::HeaderValueMatch(raw) => ActionSpecifier::HeaderValueMatch(HeaderValueMatch {
            descriptor_value: raw.descriptor_value.clone(),
            descriptor_key: raw.descriptor_key.clone().unwrap_or_default(),
            expect_match: raw.expect_match.and_then(pb::boolean),
            headers: raw.headers.iter().map(raw_header_matcher).collect(),
            ..Default::default()
        }),
        RawAction::SourceCluster(_) => ActionSpecifier::SourceCluster(SourceCluster {}),
        RawAction::DestinationCluster(_) => ActionSpecifier::DestinationCluster(DestinationCluster {}),
    }
}

fn raw_header_matcher(raw: &RawHeaderMatcher) -> HeaderMatcher {
    let pattern = raw.string_match.as_ref().map(|string| match string {
        RawStringMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        RawStringMatch::Prefix(text) => MatchPattern::Prefix(text.clone()),
        RawStringMatch::Suffix(text) => MatchPattern::Suffix(text.clone()),
        RawStringMatch::Contains(text) => MatchPattern::Contains(text.clone()),
    });
    let by_string = pattern.map(|pattern| HeaderMatchSpecifier::StringMatch(pb::string_match(pattern)));
    HeaderMatcher {
        name: raw.name.clone(),
        invert_match: raw.invert_match.unwrap_or(false),
        header_match_specifier: by_string.or(raw.present_match.map(HeaderMatchSpecifier::PresentMatch)),
        ..Default::default()
    }
}

fn rate_limit(actions: Vec<ActionSpecifier>) -> RateLimit {
    let action = |specifier| Action { action_specifier: Some(specifier) };
    RateLimit { actions: actions.into_iter().map(action).collect(), ..Default::default() }
}
