//! Why a request is treated as it is: which API takes it, and which limits it meets. The same matcher answers
//! that the rate limit service asks; only what Envoy would do with the request is done here instead.

mod arrival;
pub mod counters;
pub mod limits;
mod list;
mod request;
mod route;
mod token;

use std::borrow::Cow;

use serde::Serialize;
use utoipa::ToSchema;

use crate::limiter::Charge;
use crate::limiter::matcher::{Applied, Asked, Described, Matcher, TenantDenial};
use crate::limiter::older::OlderForms;
use crate::names::{Name, descriptor};
use crate::policy::form::Form;
use crate::policy::gateway::{Gateway, TenantSource};
use crate::policy::limit::Dimension;
use crate::policy::matches::host_name;
use crate::policy::set::PolicySet;

use arrival::arrive;
use route::{find_api, is_preflight};

pub use arrival::{Answer, check_header};
pub use request::Request;

/// One gateway's way with the request.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Explanation {
    pub gateway: String,
    /// The certificates whose Envoys may have the gateway; empty: any that Tierflow's ports take.
    pub identities: Vec<String>,
    /// The gateway's answer before it looks for an Api.
    pub answer: Option<Answer>,
    /// Path and query as Apis, limits and the service see them.
    pub path: Option<String>,
    /// `None` without an answer: the gateway answers with 404.
    pub api: Option<String>,
    pub service: Option<String>,
    /// True for a preflight (CORS), which Envoy answers itself. Nobody is asked for a tenant then, and nothing
    /// counted.
    pub preflight: bool,
    /// As the request names it.
    pub tenant: Option<String>,
    /// Why the tenant is denied whatever the counters say.
    pub denied: Option<&'static str>,
    pub limits: Vec<ExplainedLimit>,
    /// The Apis and the limits that might have been expected here, some of them. Only [`explain_with_others`] tells.
    pub passed_over: Vec<PassedOver>,
}

/// What has no part in the request, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PassedOver {
    /// `api` or `limit`.
    pub what: &'static str,
    pub name: String,
    pub reason: String,
}

impl PassedOver {
    fn api(name: &Name, reason: String) -> Self {
        Self { what: "api", name: name.to_string(), reason }
    }

    fn limit(name: &Name, reason: String) -> Self {
        Self { what: "limit", name: name.to_string(), reason }
    }
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ExplainedLimit {
    pub tier: &'static str,
    pub name: String,
    pub rate: String,
    /// The dimensions that split the counter, with this request's values.
    pub by: Vec<String>,
    pub algorithm: &'static str,
    pub mode: &'static str,
    pub status: u16,
    /// The hits that this request costs.
    pub cost: u32,
    /// The hits that it admits at once when nothing is used: the number of the rate, or the burst.
    pub capacity: u32,
    /// Where replicas share the counters, the store is asked about each request.
    pub exact: bool,
    /// What is asked of its counter.
    #[serde(skip)]
    pub charge: Charge,
}

pub fn explain(policies: &PolicySet, matcher: &Matcher, gateway: &Gateway, request: &Request) -> Explanation {
    let name = gateway.name.to_string();
    let identities: Vec<String> = gateway.identities.iter().map(ToString::to_string).collect();
    let request = &match arrive(gateway, request) {
        Ok(request) => request,
        Err(answer) => {
            return Explanation { gateway: name, identities, answer: Some(answer), ..Default::default() };
        }
    };
    let api = find_api(policies, gateway, request);
    let preflight = api.is_some_and(|api| is_preflight(api, gateway, request));
    let tenant = gateway.tenant.as_ref().and_then(|rule| tenant_of(&rule.from, request));
    let mut explanation = Explanation {
        gateway: name,
        identities,
        answer: None,
        path: Some(request.path.clone()),
        api: api.map(|api| api.name.to_string()),
        service: api.map(|api| api.service.to_string()),
        preflight,
        tenant: tenant.clone(),
        denied: None,
        limits: Vec::new(),
        passed_over: Vec::new(),
    };
    let Some(api) = api.filter(|_| !preflight) else { return explanation };
    let form = Form::of(policies, gateway, api).id();
    let own = own_entries(descriptor::api_id(&api.name, &form), tenant, request);
    let descriptors: Vec<Vec<(String, String)>> =
        std::iter::once(own).chain(list::descriptors(policies, gateway, api, request)).collect();
    let borrowed: Vec<Vec<(&str, &str)>> =
        descriptors.iter().map(|d| d.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()).collect();
    let borrowed: Vec<&[(&str, &str)]> = borrowed.iter().map(Vec::as_slice).collect();
    let entries: Vec<Vec<_>> =
        descriptors.iter().map(|d| d.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())).collect()).collect();
    let described: Vec<_> = entries.iter().map(|entries| Described { entries, hits: 1 }).collect();
    let older = OlderForms::default();
    let found = matcher.find(&Asked { gateway: gateway.name.as_str(), descriptors: &described }, &older);
    match found.map(|found| found.limits) {
        Some(Ok(limits)) => explanation.limits = limits.iter().map(|limit| explained(limit, &borrowed)).collect(),
        Some(Err(TenantDenial::Missing)) => explanation.denied = Some("400: the request names no tenant"),
        Some(Err(TenantDenial::Unknown)) => explanation.denied = Some("403: no such tenant"),
        Some(Err(TenantDenial::Suspended)) => explanation.denied = Some("403: the tenant is suspended"),
        None => {}
    }
    explanation
}

/// The same, and what might have been expected to have a part in it and has none.
pub fn explain_with_others(
    policies: &PolicySet,
    matcher: &Matcher,
    gateway: &Gateway,
    request: &Request,
) -> Explanation {
    let mut explanation = explain(policies, matcher, gateway, request);
    let Ok(request) = arrive(gateway, request) else { return explanation };
    let api = find_api(policies, gateway, &request);
    explanation.passed_over = route::others(policies, gateway, &request, api);
    if let Some(api) = api.filter(|_| !explanation.preflight) {
        explanation.passed_over.extend(list::others(policies, gateway, api, &request));
    }
    explanation
}

fn tenant_of(source: &TenantSource, request: &Request) -> Option<String> {
    match source {
        TenantSource::Header(name) => request.first_header(name).map(str::to_owned),
        TenantSource::Query(name) => request.query(name).map(Cow::into_owned),
        TenantSource::Cookie(name) => request.cookie(name).map(str::to_owned),
        TenantSource::JwtClaim(name) => {
            token::claims(request).into_iter().find(|(own, _)| own == name).map(|(_, value)| value)
        }
    }
}

/// The entries of the route's own descriptor: all that any limit could ask for.
fn own_entries(id: String, tenant: Option<String>, request: &Request) -> Vec<(String, String)> {
    let mut entries = vec![
        (descriptor::API.to_owned(), id),
        (descriptor::CLIENT_IP.to_owned(), request.client_ip.to_string()),
        (descriptor::PATH.to_owned(), request.path.clone()),
        (descriptor::METHOD.to_owned(), request.method.clone()),
        (descriptor::HOST.to_owned(), request.host.clone()),
    ];
    entries.extend(tenant.map(|tenant| (descriptor::TENANT.to_owned(), tenant)));
    let keyed = |dimension: fn(String) -> Dimension, (name, value): (&str, &str)| {
        (dimension(name.to_owned()).descriptor_key(), value.to_owned())
    };
    entries.extend(request.headers.iter().map(|(name, value)| keyed(Dimension::Header, (name, value))));
    entries.extend(request.decoded_query_pairs().map(|(name, value)| keyed(Dimension::Query, (&name, &value))));
    entries.extend(request.cookie_pairs().map(|pair| keyed(Dimension::Cookie, pair)));
    entries.extend(token::claims(request).iter().map(|(name, value)| keyed(Dimension::JwtClaim, (name, value))));
    entries
}

fn explained(applied: &Applied<'_>, descriptors: &[&[(&str, &str)]]) -> ExplainedLimit {
    let limit = applied.limit;
    let value = |dimension: &Dimension| {
        let key = dimension.descriptor_key();
        let entry = descriptors.iter().copied().flatten().find(|(own, _)| *own == key);
        let value = entry.map_or("", |(_, value)| *value);
        let counted = match dimension {
            Dimension::Path => value.split('?').next(),
            Dimension::Host => value.get(..host_name(value.as_bytes()).len()),
            _ => None,
        };
        format!("{dimension}={}", counted.unwrap_or(value))
    };
    ExplainedLimit {
        tier: applied.tier.as_str(),
        name: limit.name.to_string(),
        rate: limit.rate.to_string(),
        by: limit.by.iter().map(value).collect(),
        algorithm: limit.algorithm.as_str(),
        mode: limit.mode.as_str(),
        status: limit.status,
        cost: applied.charge.hits,
        capacity: applied.charge.capacity(),
        exact: limit.is_exact,
        charge: applied.charge,
    }
}

#[cfg(test)]
mod tests;
