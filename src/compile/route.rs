//! The routes of a gateway. Envoy takes the first route that matches, so they are in the order of precedence,
//! and which API a request belongs to does not depend on the order of documents.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::retry_policy::RetryHostPredicate;
use envoy_types::pb::envoy::config::route::v3::retry_policy::retry_host_predicate::ConfigType;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, UpgradeConfig};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, QueryParameterMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
};
use envoy_types::pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

use super::filters::HEADER_TO_METADATA;
use super::{any, cors, pb, rate_limit};
use crate::policy::api::{Api, IDEMPOTENT_METHODS, Retry, Upgrade, is_idempotent};
use crate::policy::gateway::Gateway;
use crate::policy::matches::{Condition, HostMatch, PathMatch, TemplateSegment};
use crate::policy::set::PolicySet;

/// The number of draws in which a retry looks for an instance that was not tried before. Draws cost next to nothing;
/// with five, one in ten retries missed the only live one of four instances.
pub(super) const HOST_SELECTION_ATTEMPTS: i64 = 40;

pub(super) fn route_configuration(policies: &PolicySet, gateway: &Gateway) -> RouteConfiguration {
    let apis: Vec<&Arc<Api>> = policies.apis.of_gateway(&gateway.name).collect();
    let routes_of: BTreeMap<_, _> = apis.iter().map(|api| (&api.name, routes(policies, gateway, api))).collect();
    let sources = rate_limit::Sources::of(policies, gateway);
    let metadata = sources.metadata().map(|config| (HEADER_TO_METADATA.to_owned(), any(&config)));
    let virtual_host = |(index, (apis, domains)): (usize, (Vec<&Api>, Vec<String>))| VirtualHost {
        name: format!("{}/{index}", gateway.name),
        domains,
        routes: apis.iter().filter_map(|api| routes_of.get(&api.name)).flatten().cloned().collect(),
        ..Default::default()
    };
    RouteConfiguration {
        name: gateway.name.as_str().to_owned(),
        virtual_hosts: virtual_hosts(&apis).into_iter().enumerate().map(virtual_host).collect(),
        request_headers_to_remove: sources.headers_to_remove(),
        // What all routes share stands here, since maps of routes may hold one entry.
        typed_per_filter_config: metadata.into_iter().collect(),
        // Hosts are matched without the port and forwarded as they came: clients sign them.
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}

/// Envoy chooses a virtual host before it looks at routes. So each host that some API names gets every API that
/// takes it, in order; hosts with the same APIs share a virtual host.
fn virtual_hosts<'a>(apis: &[&'a Arc<Api>]) -> Vec<(Vec<&'a Api>, Vec<String>)> {
    let hosts: BTreeSet<&HostMatch> = apis.iter().flat_map(|api| &api.matches.hosts).collect();
    let mut virtual_hosts: Vec<(Vec<&Api>, Vec<String>)> = Vec::new();
    for host in hosts.into_iter().map(Some).chain([None]) {
        let takes_host = |api: &&&Arc<Api>| {
            let own = &api.matches.hosts;
            own.is_empty() || host.is_some_and(|host| own.iter().any(|own| own.covers(host)))
        };
        let mut taking: Vec<&Api> = apis.iter().filter(takes_host).map(|api| &***api).collect();
        taking.sort_by(|a, b| {
            a.matches.precedence(host).cmp(&b.matches.precedence(host)).then_with(|| a.name.cmp(&b.name))
        });
        // A name is the same with a dot at its end, but not to Envoy.
        let domains = host.map_or_else(|| vec!["*".to_owned()], |host| vec![host.to_string(), format!("{host}.")]);
        let is_same =
            |(other, _): &&mut (Vec<&Api>, _)| other.iter().map(|api| &api.name).eq(taking.iter().map(|api| &api.name));
        match virtual_hosts.iter_mut().find(is_same) {
            Some((_, others)) => others.extend(domains),
            None => virtual_hosts.push((taking, domains)),
        }
    }
    virtual_hosts
}

/// An API is one route, or two where its methods differ in what may be retried; and one for preflights before them.
fn routes(policies: &PolicySet, gateway: &Gateway, api: &Api) -> Vec<Route> {
    let cors = api.cors(gateway).map(|cors| any(&cors::policy(cors, api)));
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(api.service.as_str().to_owned())),
        rate_limits: rate_limit::rate_limits(policies, gateway, api),
        ..Default::default()
    };
    let route = |name: String, matches: RouteMatch, action: RouteAction| Route {
        name,
        r#match: Some(matches),
        action: Some(Action::Route(action)),
        response_headers_to_remove: rate_limit::headers_replaced(policies, gateway, api),
        typed_per_filter_config: cors.iter().map(|policy| (cors::FILTER.to_owned(), policy.clone())).collect(),
        ..Default::default()
    };
    // The filter answers. Were there a preflight that it does not answer, it would be limited like any request of the API.
    let preflight =
        cors.as_ref().map(|_| route(format!("{}/preflight", api.name), preflight_match(api), action.clone()));
    let own = methods_by_retry(policies, api).into_iter().map(|(methods, retry)| {
        let action = RouteAction {
            // Zero stands for no limit. Without a value of its own, a route has the idle timeout of the listener.
            timeout: pb::duration(api.timeout.unwrap_or_default()),
            idle_timeout: pb::duration(api.idle_timeout.unwrap_or_default()),
            retry_policy: retry.as_ref().map(retry_policy),
            upgrade_configs: api.upgrades.iter().map(|upgrade| upgrade_config(*upgrade)).collect(),
            ..action.clone()
        };
        route(api.name.to_string(), route_match(api, &methods), action)
    });
    preflight.into_iter().chain(own).collect()
}

/// The retry policies by methods; no methods stand for all others.
fn methods_by_retry<'a>(policies: &PolicySet, api: &'a Api) -> Vec<(Vec<&'a str>, Option<Retry>)> {
    let methods: Vec<&str> = api.matches.methods.iter().map(String::as_str).collect();
    let (safe, unsafe_): (Vec<&str>, Vec<&str>) = methods.iter().partition(|method| is_idempotent(method));
    let retry = retry(policies, api);
    let retry_of_unsafe = retry.as_ref().and_then(Retry::for_unsafe_methods);
    if retry == retry_of_unsafe || (unsafe_.is_empty() && !methods.is_empty()) {
        return vec![(methods, retry)];
    }
    match (methods.is_empty(), safe.is_empty()) {
        (true, _) => vec![(IDEMPOTENT_METHODS.to_vec(), retry), (Vec::new(), retry_of_unsafe)],
        (false, true) => vec![(methods, retry_of_unsafe)],
        (false, false) => vec![(safe, retry), (unsafe_, retry_of_unsafe)],
    }
}

/// The retry policy. Where some addresses of the service may be dead, a request that met one goes on to another:
/// nobody has seen it yet.
fn retry(policies: &PolicySet, api: &Api) -> Option<Retry> {
    let service = policies.services.get(api.service.as_str());
    match service.is_some_and(|service| service.discovery.may_have_dead_addresses()) {
        true => Some(api.retry.clone().unwrap_or_else(Retry::of_connections).with_connections()),
        false => api.retry.clone(),
    }
}

fn route_match(api: &Api, methods: &[&str]) -> RouteMatch {
    let method = match methods {
        [] => None,
        [method] => Some(MatchPattern::Exact((*method).to_owned())),
        several => Some(MatchPattern::SafeRegex(pb::regex(&several.join("|")))),
    };
    let method = method.map(|pattern| HeaderMatcher {
        name: ":method".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(pb::string_match(pattern))),
        ..Default::default()
    });
    RouteMatch {
        path_specifier: Some(path_specifier(&api.matches.path)),
        headers: method.into_iter().chain(api.matches.headers.iter().map(header_matcher)).collect(),
        query_parameters: api.matches.query.iter().map(query_matcher).collect(),
        ..Default::default()
    }
}

fn preflight_match(api: &Api) -> RouteMatch {
    let conditions = api.matches.headers_of_preflight().map(header_matcher);
    RouteMatch {
        headers: cors::preflight_headers(api).into_iter().chain(conditions).collect(),
        ..route_match(api, &[])
    }
}

fn path_specifier(path: &PathMatch) -> PathSpecifier {
    if let Some(regex) = path.escapes_regex() {
        return PathSpecifier::SafeRegex(pb::regex(&regex));
    }
    match path {
        PathMatch::Exact(path) => PathSpecifier::Path(path.clone()),
        PathMatch::Prefix(prefix) if prefix.is_empty() => PathSpecifier::Prefix("/".to_owned()),
        PathMatch::Prefix(prefix) => PathSpecifier::PathSeparatedPrefix(prefix.clone()),
        PathMatch::Regex(regex) => PathSpecifier::SafeRegex(pb::regex(regex)),
        PathMatch::Template(segments) => {
            let segment = |(index, segment): (usize, &TemplateSegment)| match segment {
                TemplateSegment::Literal(literal) => format!("/{literal}"),
                TemplateSegment::Variable => format!("/{{v{index}}}"),
            };
            let path_template = segments.iter().enumerate().map(segment).collect();
            PathSpecifier::PathMatchPolicy(TypedExtensionConfig {
                name: "envoy.path.match.uri_template.uri_template_matcher".to_owned(),
                typed_config: Some(any(&UriTemplateMatchConfig { path_template })),
            })
        }
    }
}

fn upgrade_config(upgrade: Upgrade) -> UpgradeConfig {
    let upgrade_type = match upgrade {
        Upgrade::Websocket => "websocket",
    };
    UpgradeConfig { upgrade_type: upgrade_type.to_owned(), ..Default::default() }
}

fn header_matcher((name, condition): (&String, &Condition)) -> HeaderMatcher {
    let host_regex = (name == "host").then(|| condition.host_regex()).flatten();
    let pattern = host_regex.map_or_else(|| pattern(condition), |regex| Ok(MatchPattern::SafeRegex(pb::regex(&regex))));
    let specifier = match pattern {
        Ok(pattern) => HeaderMatchSpecifier::StringMatch(pb::string_match(pattern)),
        Err(is_present) => HeaderMatchSpecifier::PresentMatch(is_present),
    };
    HeaderMatcher { name: name.clone(), header_match_specifier: Some(specifier), ..Default::default() }
}

fn query_matcher((name, condition): (&String, &Condition)) -> QueryParameterMatcher {
    let specifier = match pattern(condition) {
        Ok(pattern) => QueryParameterMatchSpecifier::StringMatch(pb::string_match(pattern)),
        Err(is_present) => QueryParameterMatchSpecifier::PresentMatch(is_present),
    };
    QueryParameterMatcher { name: name.clone(), query_parameter_match_specifier: Some(specifier) }
}

/// The pattern of a condition on the value, or whether there has to be one.
fn pattern(condition: &Condition) -> Result<MatchPattern, bool> {
    Ok(match condition {
        Condition::Exact(text) => MatchPattern::Exact(text.clone()),
        Condition::Prefix(text) => MatchPattern::Prefix(text.clone()),
        Condition::Suffix(text) => MatchPattern::Suffix(text.clone()),
        Condition::Contains(text) => MatchPattern::Contains(text.clone()),
        Condition::Regex(regex) => MatchPattern::SafeRegex(pb::regex(regex)),
        Condition::Present(is_present) => return Err(*is_present),
    })
}

fn retry_policy(retry: &Retry) -> RetryPolicy {
    let by_status = (!retry.statuses.is_empty()).then_some("retriable-status-codes");
    RetryPolicy {
        retry_on: retry.conditions.iter().copied().chain(by_status).collect::<Vec<_>>().join(","),
        retriable_status_codes: retry.statuses.clone(),
        num_retries: pb::uint32(retry.attempts),
        per_try_timeout: retry.per_try_timeout.and_then(pb::duration),
        // Another instance than the one that failed, where there is one.
        retry_host_predicate: vec![RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(ConfigType::TypedConfig(any(&PreviousHostsPredicate {}))),
        }],
        host_selection_retry_max_attempts: HOST_SELECTION_ATTEMPTS,
        ..Default::default()
    }
}
