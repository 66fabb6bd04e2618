//! The Api that a gateway's routes would choose.

use std::sync::Arc;

use super::{PassedOver, Request};
use crate::policy::api::Api;
use crate::policy::gateway::Gateway;
use crate::policy::matches::{Condition, HostMatch, Match};
use crate::policy::set::PolicySet;

/// The most Apis that are told to have been passed over.
const OTHERS_MAX: usize = 10;

/// Why an Api does not take a request, the nearest miss first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Miss {
    /// It would, if another one did not go first.
    Precedence,
    Parameter(String),
    Header(String),
    Method,
    Host,
    Path,
}

/// The Apis that nearly took the request instead of the one that did: those at its path and host. Where none does, those that
/// missed it by the least.
pub(super) fn others(
    policies: &PolicySet,
    gateway: &Gateway,
    request: &Request,
    chosen: Option<&Api>,
) -> Vec<PassedOver> {
    let apis = policies.apis.of_gateway(&gateway.name).filter(|api| chosen.is_none_or(|own| own.name != api.name));
    let mut misses: Vec<(Miss, &Api)> = apis.map(|api| (miss(api, request), &**api)).collect();
    let is_any_near = misses.iter().any(|(miss, _)| *miss < Miss::Path);
    misses.retain(|(miss, _)| match chosen {
        Some(_) => *miss < Miss::Host,
        None => *miss < Miss::Path || !is_any_near,
    });
    misses.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| x.name.cmp(&y.name)));
    misses.into_iter().take(OTHERS_MAX).map(|(miss, api)| PassedOver::api(&api.name, miss.told(api))).collect()
}

fn miss(api: &Api, request: &Request) -> Miss {
    let (host, (path, _)) = (HostMatch::of_header(&request.host), request.path_and_query());
    let Match { path: own, hosts, headers, query, .. } = &api.matches;
    let header = || headers.iter().find(|(name, condition)| !holds(name, condition, request));
    let parameter = || query.iter().find(|(name, condition)| !condition.holds(request.raw_query(name)));
    match () {
        () if !own.matches(path) => Miss::Path,
        () if !hosts.is_empty() && !hosts.iter().any(|own| own.covers(&host)) => Miss::Host,
        () if !takes_method(&api.matches, &request.method) => Miss::Method,
        () => match (header(), parameter()) {
            (Some((name, _)), _) => Miss::Header(name.clone()),
            (None, Some((name, _))) => Miss::Parameter(name.clone()),
            (None, None) => Miss::Precedence,
        },
    }
}

impl Miss {
    fn told(&self, api: &Api) -> String {
        match self {
            Self::Precedence => "takes such requests too, but another Api says more precisely which".to_owned(),
            Self::Parameter(name) => format!("wants another value of the parameter {name}"),
            Self::Header(name) => format!("wants another value of the header {name}"),
            Self::Method => format!("takes {} only", api.matches.methods.join(", ")),
            Self::Host => "is for other hosts".to_owned(),
            Self::Path => "is for other paths".to_owned(),
        }
    }
}

/// For a request as it arrives.
pub(super) fn find_api<'a>(policies: &'a PolicySet, gateway: &'a Gateway, request: &Request) -> Option<&'a Api> {
    let host = HostMatch::of_header(&request.host);
    let is_taken = |api: &Api| takes(&api.matches, request) || is_preflight(api, gateway, request);
    let taking = policies.apis.of_gateway(&gateway.name).filter(|api| is_taken(api));
    let order = |a: &&&Arc<Api>, b: &&&Arc<Api>| {
        a.matches.precedence(Some(&host)).cmp(&b.matches.precedence(Some(&host))).then_with(|| a.name.cmp(&b.name))
    };
    taking.collect::<Vec<_>>().iter().min_by(order).map(|api| &***api)
}

/// True where the request asks if a page of another origin may send one of the API (CORS, Fetch standard). The route
/// for that stands in front of the API's own.
pub(super) fn is_preflight(api: &Api, gateway: &Gateway, request: &Request) -> bool {
    let value = |name| request.first_header(name).filter(|value| !value.is_empty());
    api.cors(gateway).is_some()
        && request.method == "OPTIONS"
        && value("origin").is_some()
        && value("access-control-request-method").is_some_and(|method| takes_method(&api.matches, method))
        && takes_place(&api.matches, request)
        && api.matches.headers_of_preflight().all(|(name, condition)| holds(name, condition, request))
}

fn takes(matches: &Match, request: &Request) -> bool {
    takes_method(matches, &request.method)
        && takes_place(matches, request)
        && matches.headers.iter().all(|(name, condition)| holds(name, condition, request))
}

fn takes_method(matches: &Match, method: &str) -> bool {
    matches.methods.is_empty() || matches.methods.iter().any(|own| own == method)
}

fn holds(name: &str, condition: &Condition, request: &Request) -> bool {
    match name {
        "host" => condition.holds_for_host(&request.host),
        name => match request.header_values(name).as_slice() {
            [] => condition.holds(None),
            values => values.iter().any(|value| condition.holds(Some(value))),
        },
    }
}

/// True where host, path and query are the API's.
fn takes_place(matches: &Match, request: &Request) -> bool {
    let (host, (path, _)) = (HostMatch::of_header(&request.host), request.path_and_query());
    (matches.hosts.is_empty() || matches.hosts.iter().any(|own| own.covers(&host)))
        && matches.path.matches(path)
        && matches.query.iter().all(|(name, condition)| condition.holds(request.raw_query(name)))
}
