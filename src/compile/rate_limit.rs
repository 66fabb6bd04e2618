//! What a route reports to the rate limit service: the API, the tenant, and whatever limits count by.
//!
//! All of it is one descriptor. Where a request lacks a value Envoy leaves the entry out and not the descriptor,
//! so a request without a tenant is still counted: the rate limit service knows what a missing entry means.

mod list;

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::common::mutation_rules::v3::HeaderMutation as Mutation;
use envoy_types::pb::envoy::config::common::mutation_rules::v3::header_mutation::Action as MutationAction;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, TypedExtensionConfig};
use envoy_types::pb::envoy::config::route::v3::RateLimit;
use envoy_types::pb::envoy::config::route::v3::rate_limit::Action;
use envoy_types::pb::envoy::config::route::v3::rate_limit::action::meta_data::Source;
use envoy_types::pb::envoy::config::route::v3::rate_limit::action::{
    ActionSpecifier, GenericKey, MetaData, QueryParameters, RemoteAddress, RequestHeaders,
};
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::{HeaderMutation, Mutations};
use envoy_types::pb::envoy::extensions::filters::http::header_to_metadata::v3::Config as HeaderToMetadata;
use envoy_types::pb::envoy::extensions::filters::http::header_to_metadata::v3::config::{KeyValuePair, Rule};
use envoy_types::pb::envoy::extensions::rate_limit_descriptors::jwt_claim::v3::Descriptor as JwtClaim;
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use envoy_types::pb::envoy::r#type::metadata::v3::MetadataKey;
use envoy_types::pb::envoy::r#type::metadata::v3::metadata_key::PathSegment;
use envoy_types::pb::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;

use super::{any, pb};
use crate::names::descriptor;
use crate::policy::api::Api;
use crate::policy::form::Form;
use crate::policy::gateway::{Gateway, TenantSource};
use crate::policy::limit::Dimension;
use crate::policy::set::PolicySet;

/// The metadata that cookies are put into for the actions to find them.
const COOKIE_NAMESPACE: &str = "tierflow.cookies";

/// The metadata that a bearer token is put into on its way to [`TOKEN_HEADER`].
const TOKEN_NAMESPACE: &str = "tierflow.tokens";
const TOKEN_KEY: &str = "bearer";
/// The bearer token of a request, alone, for the actions to find it. It is no client's to set, and does not reach services.
const TOKEN_HEADER: &str = "x-tierflow-bearer";
/// Takes the first bearer token out of `authorization`, and nothing out of any other value. The name of the scheme is the
/// same in capitals or not, and spaces follow it (RFC 9110, section 11.1). Envoy joins several such headers with commas, so
/// one of another scheme may stand before it.
const TOKEN_REGEX: &str = "^(?:(?:.*?,[ \\t]*)??(?i:bearer) +([^ ,]+).*|.*)$";

/// Everything a route of the API reports.
pub(super) fn rate_limits(policies: &PolicySet, gateway: &Gateway, api: &Api) -> Vec<RateLimit> {
    let form = Form::of(policies, gateway, api);
    let id = generic_key(descriptor::API, &descriptor::api_id(&api.name, &form.id()));
    let tenant = form.tenant.as_ref().map(tenant_action);
    // Entries by key: `client_ip` and `client_ip/24` are one, and a cost in a header is a header.
    let own = std::iter::once(id).chain(tenant).chain(form.dimensions.iter().map(dimension_action));
    let lists = policies.rate_limits.values().filter(|list| list.is_for(&gateway.name));
    std::iter::once(rate_limit(own.collect())).chain(lists.flat_map(|list| list::rate_limits(list))).collect()
}

/// The headers of an answer that tell what is left of the limits: those of the service give way to Envoy's where there are
/// limits, or there would be both. Whether a plan has any makes no difference, so that its change pushes nothing.
pub(super) fn headers_replaced(policies: &PolicySet, gateway: &Gateway, api: &Api) -> Vec<String> {
    let has_list = || policies.rate_limits.values().any(|list| list.is_for(&gateway.name));
    let is_limited = !api.limits.is_empty() || gateway.tenant.is_some() || has_list();
    if !is_limited {
        return Vec::new();
    }
    ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"].map(str::to_owned).to_vec()
}

/// The parts of requests that have to be read before the actions of a gateway's routes run, because they cannot read
/// them themselves.
#[derive(Default)]
pub(super) struct Sources {
    cookies: BTreeSet<String>,
    token: bool,
}

impl Sources {
    pub(super) fn of(policies: &PolicySet, gateway: &Gateway) -> Self {
        let mut sources = Self::default();
        for form in policies.apis.of_gateway(&gateway.name).map(|api| Form::of(policies, gateway, api)) {
            for dimension in form.dimensions {
                match dimension {
                    Dimension::Cookie(name) => sources.cookies.extend([name]),
                    Dimension::JwtClaim(_) => sources.token = true,
                    _ => {}
                }
            }
            match form.tenant {
                Some(TenantSource::Cookie(name)) => sources.cookies.extend([name]),
                Some(TenantSource::JwtClaim(_)) => sources.token = true,
                _ => {}
            }
        }
        sources
    }

    pub(super) fn metadata(&self) -> Option<HeaderToMetadata> {
        let token = self.token.then(token_rule);
        let request_rules: Vec<_> = self.cookies.iter().map(|cookie| cookie_rule(cookie)).chain(token).collect();
        (!request_rules.is_empty()).then(|| HeaderToMetadata { request_rules, ..Default::default() })
    }

    /// The headers that no service is to see.
    pub(super) fn headers_to_remove(&self) -> Vec<String> {
        self.token.then(|| TOKEN_HEADER.to_owned()).into_iter().collect()
    }
}

/// Puts the bearer token into a header of its own, where the routes have it read: the action that reads claims compares
/// with case what stands before a token.
pub(super) fn token_header() -> HeaderMutation {
    let append = HeaderValueOption {
        header: Some(HeaderValue {
            key: TOKEN_HEADER.to_owned(),
            value: format!("%DYNAMIC_METADATA({TOKEN_NAMESPACE}:{TOKEN_KEY})%"),
            ..Default::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
        ..Default::default()
    };
    let actions = [MutationAction::Remove(TOKEN_HEADER.to_owned()), MutationAction::Append(append)];
    let request_mutations = actions.map(|action| Mutation { action: Some(action) }).to_vec();
    let mutations = Mutations { request_mutations, ..Default::default() };
    HeaderMutation { mutations: Some(mutations), ..Default::default() }
}

fn cookie_rule(cookie: &str) -> Rule {
    Rule {
        on_header_present: Some(KeyValuePair {
            metadata_namespace: COOKIE_NAMESPACE.to_owned(),
            key: cookie.to_owned(),
            ..Default::default()
        }),
        cookie: cookie.to_owned(),
        ..Default::default()
    }
}

fn token_rule() -> Rule {
    Rule {
        header: "authorization".to_owned(),
        on_header_present: Some(KeyValuePair {
            metadata_namespace: TOKEN_NAMESPACE.to_owned(),
            key: TOKEN_KEY.to_owned(),
            regex_value_rewrite: Some(RegexMatchAndSubstitute {
                pattern: Some(pb::regex(TOKEN_REGEX)),
                substitution: "\\1".to_owned(),
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
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
        metadata_key: Some(metadata_key(COOKIE_NAMESPACE, &[name.to_owned()])),
        source: Source::Dynamic as i32,
        skip_if_absent: true,
        ..Default::default()
    })
}

fn metadata_key(namespace: &str, path: &[String]) -> MetadataKey {
    let segment = |key: &String| PathSegment { segment: Some(Segment::Key(key.clone())) };
    MetadataKey { key: namespace.to_owned(), path: path.iter().map(segment).collect() }
}

/// The claim is read, not verified: whoever needs it to be true puts a filter in front that verifies tokens.
fn jwt_claim(key: &str, claim: &str) -> ActionSpecifier {
    let descriptor = JwtClaim {
        descriptor_key: key.to_owned(),
        header_name: TOKEN_HEADER.to_owned(),
        claim_name: claim.to_owned(),
        skip_if_absent: true,
        ..Default::default()
    };
    ActionSpecifier::Extension(TypedExtensionConfig {
        name: "envoy.rate_limit_descriptors.jwt_claim".to_owned(),
        typed_config: Some(any(&descriptor)),
    })
}

fn rate_limit(actions: Vec<ActionSpecifier>) -> RateLimit {
    let action = |specifier| Action { action_specifier: Some(specifier) };
    RateLimit { actions: actions.into_iter().map(action).collect(), ..Default::default() }
}
