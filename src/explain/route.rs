//! The Api that a gateway's routes would choose.

use std::sync::Arc;

use super::Request;
use crate::policy::api::Api;
use crate::policy::gateway::Gateway;
use crate::policy::matches::{Condition, HostMatch, Match};
use crate::policy::set::PolicySet;

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
