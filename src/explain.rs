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
use crate::limiter::matcher::{Applied, Asked, Described, Matcher, TenantDenial, ToldCounter};
use crate::limiter::older::OlderForms;
use crate::names::{Name, descriptor, spelling};
use crate::policy::form::Form;
use crate::policy::gateway::{Gateway, TenantSource};
use crate::policy::limit::Dimension;
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
    /// The tenant that the request is counted for, as [`Matcher::shown_tenant`] tells it.
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
    /// What splits the counter, with the values of this request's; those of credentials as their hashes.
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
    let named_tenant = gateway.tenant.as_ref().and_then(|rule| tenant_of(&rule.from, request));
    let id = api.map(|api| descriptor::api_id(&api.name, &Form::of(policies, gateway, api).id()));
    let own = own_entries(id.unwrap_or_default(), named_tenant, request);
    let lists = api.into_iter().flat_map(|api| list::descriptors(policies, gateway, api, request));
    let descriptors: Vec<Vec<(String, String)>> = std::iter::once(own).chain(lists).collect();
    let entries: Vec<Vec<_>> =
        descriptors.iter().map(|d| d.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())).collect()).collect();
    let described: Vec<_> = entries.iter().map(|entries| Described { entries, hits: 1 }).collect();
    let asked = Asked { gateway: gateway.name.as_str(), descriptors: &described };
    let tenant = matcher.shown_tenant(&asked).filter(|_| !preflight);
    let mut explanation = Explanation {
        gateway: name,
        identities,
        answer: None,
        path: Some(request.path.clone()),
        api: api.map(|api| api.name.to_string()),
        service: api.map(|api| api.service.to_string()),
        preflight,
        tenant: tenant.map(|tenant| spelling::spelled(&tenant).into_owned()),
        denied: None,
        limits: Vec::new(),
        passed_over: Vec::new(),
    };
    if api.is_none() || preflight {
        return explanation;
    }
    let older = OlderForms::default();
    let Some(found) = matcher.find(&asked, &older) else { return explanation };
    let tenant = matcher.tenant(&asked);
    let counter = |applied| matcher.counter(&asked, tenant.as_deref(), &found, applied);
    match &found.limits {
        Ok(limits) => explanation.limits = limits.iter().map(|limit| explained(limit, &counter(limit))).collect(),
        Err(TenantDenial::Missing) => explanation.denied = Some("400: the request names no tenant"),
        Err(TenantDenial::Unknown) => explanation.denied = Some("403: no such tenant"),
        Err(TenantDenial::Suspended) => explanation.denied = Some("403: the tenant is suspended"),
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

fn explained(applied: &Applied<'_>, counter: &ToldCounter<'_>) -> ExplainedLimit {
    let limit = applied.limit;
    let mut by = Vec::new();
    counter.tell_values(|parts| {
        let value = spelling::spelled(&parts.concat()).into_owned();
        by.push(match limit.by.get(by.len()) {
            Some(dimension) => format!("{dimension}={value}"),
            // What a list reports says itself what it is.
            None => value,
        });
    });
    ExplainedLimit {
        tier: applied.tier.as_str(),
        name: limit.name.to_string(),
        rate: limit.rate.to_string(),
        by,
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
