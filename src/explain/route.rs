//! The Api that a gateway's routes would choose.

use std::sync::Arc;

use super::Request;
use crate::names::Name;
use crate::policy::api::Api;
use crate::policy::matches::{HostMatch, Match};
use crate::policy::set::PolicySet;

/// For a request as it arrives.
pub(super) fn find_api<'a>(policies: &'a PolicySet, gateway: &'a Name, request: &Request) -> Option<&'a Api> {
    let host = HostMatch::of_header(&request.host);
    let taking = policies.apis_of(gateway).filter(|api| takes(&api.matches, &host, request));
    let order = |a: &&&Arc<Api>, b: &&&Arc<Api>| {
        a.matches.precedence(Some(&host)).cmp(&b.matches.precedence(Some(&host))).then_with(|| a.name.cmp(&b.name))
    };
    taking.collect::<Vec<_>>().iter().min_by(order).map(|api| &***api)
}

fn takes(matches: &Match, host: &HostMatch, request: &Request) -> bool {
    let (path, _) = request.path_and_query();
    (matches.hosts.is_empty() || matches.hosts.iter().any(|own| own.covers(host)))
        && (matches.methods.is_empty() || matches.methods.contains(&request.method))
        && matches.path.matches(path)
        && matches.headers.iter().all(|(name, condition)| match name.as_str() {
            "host" => condition.holds_for_host(&request.host),
            name => condition.holds(request.header(name).as_deref()),
        })
        && matches.query.iter().all(|(name, condition)| condition.holds(request.raw_query(name)))
}
