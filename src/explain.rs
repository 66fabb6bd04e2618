//! Why a request is treated as it is: which API takes it, and which limits it meets. The same matcher answers
//! that the rate limit service asks; only what Envoy would do with the request is done here instead.

mod list;

use std::net::IpAddr;

use serde::Serialize;

use crate::limiter::matcher::{Applied, Asked, Described, Matcher, TenantDenial};
use crate::limiter::older::OlderForms;
use crate::names::{Name, descriptor};
use crate::policy::api::Api;
use crate::policy::form::Form;
use crate::policy::gateway::{Gateway, TenantSource};
use crate::policy::limit::{Algorithm, Dimension, Mode};
use crate::policy::matches::{HostMatch, Match};
use crate::policy::set::PolicySet;

/// A request as a client would send it.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// With the query.
    pub path: String,
    pub host: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub client_ip: IpAddr,
}

/// What one gateway does with the request.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    pub gateway: String,
    /// `None`: the gateway answers with 404.
    pub api: Option<String>,
    pub service: Option<String>,
    /// As the request names it.
    pub tenant: Option<String>,
    /// Why the tenant is denied whatever the counters say.
    pub denied: Option<&'static str>,
    pub limits: Vec<ExplainedLimit>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ExplainedLimit {
    pub tier: &'static str,
    pub name: String,
    pub rate: String,
    /// What splits the counter, with this request's values.
    pub by: Vec<String>,
    pub algorithm: &'static str,
    pub mode: &'static str,
    pub status: u16,
    /// The hits that this request costs.
    pub cost: u32,
}

pub fn explain(policies: &PolicySet, matcher: &Matcher, gateway: &Gateway, request: &Request) -> Explanation {
    let request = &Request { path: normalized(&request.path), ..request.clone() };
    let api = find_api(policies, &gateway.name, request);
    let tenant = gateway.tenant.as_ref().and_then(|rule| tenant_of(&rule.from, request));
    let mut explanation = Explanation {
        gateway: gateway.name.to_string(),
        api: api.map(|api| api.name.to_string()),
        service: api.map(|api| api.service.to_string()),
        tenant: tenant.clone(),
        denied: None,
        limits: Vec::new(),
    };
    let Some(api) = api else { return explanation };
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

/// The API that Envoy's routes would choose.
fn find_api<'a>(policies: &'a PolicySet, gateway: &'a Name, request: &Request) -> Option<&'a Api> {
    let host = HostMatch::of_header(&request.host);
    let taking = policies.apis_of(gateway).filter(|api| takes(&api.matches, &host, request));
    let order = |a: &&&std::sync::Arc<Api>, b: &&&std::sync::Arc<Api>| {
        a.matches.precedence(Some(&host)).cmp(&b.matches.precedence(Some(&host))).then_with(|| a.name.cmp(&b.name))
    };
    taking.collect::<Vec<_>>().iter().min_by(order).map(|api| &***api)
}

/// The path as Envoy's routes see it: without dot segments (RFC 3986, section 5.2.4) and doubled slashes.
fn normalized(path_and_query: &str) -> String {
    let (path, query) = path_and_query.split_at(path_and_query.find('?').unwrap_or(path_and_query.len()));
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let is_folder = !segments.is_empty() && ["/", "/.", "/.."].iter().any(|end| path.ends_with(end));
    format!("/{}{}{query}", segments.join("/"), if is_folder { "/" } else { "" })
}

fn takes(matches: &Match, host: &HostMatch, request: &Request) -> bool {
    let (path, _) = request.path.split_once('?').unwrap_or((&request.path, ""));
    (matches.hosts.is_empty() || matches.hosts.iter().any(|own| own.covers(host)))
        && (matches.methods.is_empty() || matches.methods.contains(&request.method))
        && matches.path.matches(path)
        && matches.headers.iter().all(|(name, condition)| match name.as_str() {
            "host" => condition.holds_for_host(&request.host),
            name => condition.holds(header(request, name)),
        })
        && matches.query.iter().all(|(name, condition)| condition.holds(query(request, name)))
}

fn tenant_of(source: &TenantSource, request: &Request) -> Option<String> {
    match source {
        TenantSource::Header(name) => header(request, name).map(str::to_owned),
        TenantSource::Query(name) => query(request, name).map(str::to_owned),
        TenantSource::Cookie(name) => cookie(request, name).map(str::to_owned),
        // Tokens are Envoy's to read.
        TenantSource::JwtClaim(_) => None,
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
    entries.extend(query_pairs(request).map(|pair| keyed(Dimension::Query, pair)));
    entries.extend(cookie_pairs(request).map(|pair| keyed(Dimension::Cookie, pair)));
    entries
}

fn explained(applied: &Applied<'_>, descriptors: &[&[(&str, &str)]]) -> ExplainedLimit {
    let limit = applied.limit;
    let value = |dimension: &Dimension| {
        let key = dimension.descriptor_key();
        let entry = descriptors.iter().copied().flatten().find(|(own, _)| *own == key);
        format!("{dimension}={}", entry.map_or("", |(_, value)| *value))
    };
    ExplainedLimit {
        tier: applied.tier.as_str(),
        name: limit.name.to_string(),
        rate: limit.rate.to_string(),
        by: limit.by.iter().map(value).collect(),
        algorithm: match limit.algorithm {
            Algorithm::SlidingWindow => "sliding_window",
            Algorithm::TokenBucket { .. } => "token_bucket",
            Algorithm::FixedWindow => "fixed_window",
        },
        mode: match limit.mode {
            Mode::Enforce => "enforce",
            Mode::Shadow => "shadow",
        },
        status: limit.status,
        cost: applied.charge.hits,
    }
}

fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    if name == "host" {
        return Some(request.host.as_str()).filter(|host| !host.is_empty());
    }
    request.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
}

fn query<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    query_pairs(request).find(|(own, _)| *own == name).map(|(_, value)| value)
}

fn query_pairs(request: &Request) -> impl Iterator<Item = (&str, &str)> {
    let (_, query) = request.path.split_once('?').unwrap_or_default();
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn cookie<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    cookie_pairs(request).find(|(own, _)| *own == name).map(|(_, value)| value)
}

fn cookie_pairs(request: &Request) -> impl Iterator<Item = (&str, &str)> {
    let cookies = header(request, "cookie").unwrap_or_default();
    cookies.split(';').filter_map(|pair| pair.trim().split_once('='))
}
