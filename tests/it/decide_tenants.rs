//! Tier 2: whose request it is, and what becomes of it when nobody knows.

use std::net::Ipv4Addr;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use tierflow::compile::RateLimitService;
use tierflow::document::Documents;
use tierflow::explain::{Request, explain};
use tierflow::limiter::key::KeyHasher;
use tierflow::live::{Generation, Settings};
use tierflow::names::Revision;

use crate::harness::{Setup, World, eventually};
use crate::raw_http::{send, start_echo};

const API: &str = "
kind: Api
name: pay
gateway: edge
match: { path: /pay }
service: upstream
---
kind: Plan
name: standard
limits: [{ rate: 1/h }]
";

/// `request` says a tenant in the way of the gateway's source, or none.
async fn tenants_are_told_apart_by(source: &str, request: impl Fn(Option<&str>) -> (String, Vec<(String, String)>)) {
    let gateway = format!("tenant: {{ from: {source}, default_plan: standard }}");
    let world = World::start(Setup { policies: API, gateway: &gateway, ..Default::default() }).await;
    let mut answers = Vec::new();
    for tenant in [Some("acme"), Some("acme"), Some("globex"), None, None, Some("anonymous")] {
        let (path, headers) = request(tenant);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        answers.push((tenant, world.edge.send("GET", &path, &headers).await.status.as_u16()));
    }
    let expected = [
        (Some("acme"), 200),
        (Some("acme"), 429),
        (Some("globex"), 200),
        // Who says nothing shares one tenant's limit, and whoever takes its name shares it too.
        (None, 200),
        (None, 429),
        (Some("anonymous"), 429),
    ];
    assert_eq!(answers, expected, "{source}");
}

fn with_header(name: &str, value: Option<String>) -> (String, Vec<(String, String)>) {
    ("/pay".to_owned(), value.into_iter().map(|value| (name.to_owned(), value)).collect())
}

#[tokio::test]
async fn a_tenant_is_named_by_a_header() {
    tenants_are_told_apart_by("{ header: X-Tenant-Id }", |tenant| {
        with_header("x-tenant-id", tenant.map(str::to_owned))
    })
    .await;
}

#[tokio::test]
async fn a_tenant_is_named_by_the_query() {
    tenants_are_told_apart_by("{ query: tenant }", |tenant| {
        let path = tenant.map_or("/pay?x=1".to_owned(), |tenant| format!("/pay?x=1&tenant={tenant}"));
        (path, Vec::new())
    })
    .await;
}

#[tokio::test]
async fn a_tenant_is_named_by_a_cookie() {
    tenants_are_told_apart_by("{ cookie: tenant }", |tenant| {
        with_header("cookie", tenant.map(|tenant| format!("theme=dark; tenant={tenant}")))
    })
    .await;
}

#[tokio::test]
async fn a_tenant_is_named_by_a_claim_of_a_token_since_envoy_1_40() {
    tenants_are_told_apart_by("{ jwt_claim: sub }", |tenant| {
        let claims = tenant.map(|tenant| match tenant {
            "acme" => "eyJzdWIiOiJhY21lIn0",
            "globex" => "eyJzdWIiOiJnbG9iZXgifQ",
            _ => "eyJzdWIiOiJhbm9ueW1vdXMifQ",
        });
        let token = |claims| format!("Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.{claims}.c2lnbmF0dXJl");
        with_header("authorization", claims.map(token))
    })
    .await;
}

/// A token of the tenant, which nobody signed.
fn token_of(tenant: &str) -> String {
    let part = |json: String| BASE64_URL_SAFE_NO_PAD.encode(json);
    let [header, payload] = [r#"{"alg":"RS256"}"#.to_owned(), format!(r#"{{"sub":"{tenant}"}}"#)].map(part);
    format!("{header}.{payload}.c2lnbmF0dXJl")
}

/// All 64 of them.
fn spellings_of_bearer() -> impl Iterator<Item = String> {
    (0_u32..64).map(|capitals| {
        let letter = |(at, letter): (usize, char)| match capitals >> at & 1 {
            0 => letter,
            _ => letter.to_ascii_uppercase(),
        };
        "bearer".chars().enumerate().map(letter).collect()
    })
}

/// RFC 9110, section 11.1: the scheme is the same in capitals or not, and spaces follow it.
#[tokio::test]
async fn no_spelling_of_authorization_hides_whose_token_it_is_since_envoy_1_40() {
    let echo = start_echo().await;
    let policies = format!(
        "{}---\n{{kind: Service, name: echo, endpoints: ['{echo}']}}",
        API.replace("service: upstream", "service: echo").replace("1/h", "1000/h")
    );
    let gateway = "tenant: { from: { jwt_claim: sub }, default_plan: standard }";
    let world = World::start(Setup { policies: &policies, gateway, ..Default::default() }).await;
    let (acme, globex) = (token_of("acme"), token_of("globex"));
    let mut of_acme: Vec<Vec<String>> =
        spellings_of_bearer().map(|scheme| vec![format!("authorization: {scheme} {acme}")]).collect();
    of_acme.push(vec![format!("authorization: bearer   {acme}")]);
    of_acme.push(vec![format!("Authorization: Bearer {acme}"), format!("authorization: Bearer {globex}")]);
    for other in ["Basic dXNlcjpwYXNz", "Digest realm=a, nonce=\"b c\"", "Basic", "Bearer", "Bearer  "] {
        of_acme.push(vec![format!("authorization: {other}"), format!("authorization: bearer {acme}")]);
        of_acme.push(vec![format!("authorization: {other},\tBearer  {acme}, Bearer {globex}")]);
    }
    of_acme.push(vec![format!("x-tierflow-bearer: {globex}"), format!("authorization: BEARER {acme}")]);
    let of_nobody = [
        vec![format!("authorization: Basic {acme}")],
        vec![format!("authorization: {acme}")],
        vec![format!("authorization: bearer-{acme}")],
        vec![format!("x-tierflow-bearer: {acme}")],
        vec![format!("authorization: Bearer {}", token_of(&"a".repeat(8192)))],
    ];
    for (tenant, requests) in [("acme", of_acme.as_slice()), ("anonymous", &of_nobody)] {
        for (before, lines) in requests.iter().enumerate() {
            assert_eq!(explained_tenant(&world, lines).as_deref(), Some(tenant), "what explain thinks of {lines:?}");
            let bytes = std::iter::once("host: x").chain(lines.iter().map(String::as_str)).map(str::as_bytes);
            let answer = send(world.edge.listen, "GET", b"/pay", &bytes.collect::<Vec<_>>()).await;
            let remaining = answer.header("x-ratelimit-remaining").map(str::to_owned);
            assert_eq!(remaining, Some((999 - before).to_string()), "{lines:?}");
            // The service gets what the client sent.
            assert_eq!(answer.echoed("x-tierflow-bearer"), None);
            let sent = lines.iter().find_map(|line| line.strip_prefix("authorization: "));
            if lines.len() == 1 {
                assert_eq!(answer.echoed("authorization"), sent);
            }
        }
    }
}

/// Whose request `tierflow explain` thinks it is.
fn explained_tenant(world: &World, lines: &[String]) -> Option<String> {
    let documents = tierflow::source::dir::read(&world.path("")).unwrap().documents;
    let settings = Settings {
        rate_limit_service: RateLimitService::default(),
        counter_keys: KeyHasher::seeded([1; 16]),
        allow_empty: false,
    };
    let generation = Generation::build(&Documents::new(Revision::default(), documents), &settings).unwrap();
    let header = |line: &String| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_ascii_lowercase(), value.to_owned())
    };
    let request = Request {
        method: "GET".to_owned(),
        path: "/pay".to_owned(),
        host: "x".to_owned(),
        headers: lines.iter().map(header).collect(),
        client_ip: Ipv4Addr::LOCALHOST.into(),
    };
    let gateway = generation.policies.gateways.get("edge").unwrap();
    explain(&generation.policies, &generation.matcher, gateway, &request).tenant
}

#[tokio::test]
async fn a_gateway_may_want_every_request_to_be_a_known_tenants() {
    let tenants = "
---
kind: Tenant
name: acme
plan: standard
---
kind: Tenant
name: initech
plan: standard
status: suspended
";
    let gateway = "tenant: { from: { header: x-tenant-id }, missing: reject, default_plan: deny }";
    let world = World::start(Setup { policies: &(API.to_owned() + tenants), gateway, ..Default::default() }).await;
    let pay = async |headers: &[(&str, &str)]| {
        let answer = world.edge.send("GET", "/pay", headers).await;
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let is_problem = answer.header("content-type") == Some("application/problem+json");
        assert_eq!(is_problem, answer.status != 200);
        (answer.status.as_u16(), body["title"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(pay(&[]).await, (400, "Tenant missing".to_owned()));
    assert_eq!(pay(&[("x-tenant-id", "")]).await, (400, "Tenant missing".to_owned()));
    assert_eq!(pay(&[("x-tenant-id", "nobody")]).await, (403, "Tenant unknown".to_owned()));
    assert_eq!(pay(&[("x-tenant-id", "initech")]).await, (403, "Tenant suspended".to_owned()));
    assert_eq!(pay(&[("x-tenant-id", "acme")]).await, (200, String::new()));
    assert_eq!(pay(&[("x-tenant-id", "acme")]).await, (429, "Over limit".to_owned()));
}

#[tokio::test]
async fn what_a_tenant_has_of_its_own_replaces_its_plans() {
    let policies = "
kind: Api
name: pay
gateway: edge
match: { path: /pay }
service: upstream
---
kind: Api
name: read
gateway: edge
match: { path: /read }
service: upstream
---
kind: Plan
name: standard
limits: [{ name: all, rate: 3/h }]
apis: { pay: [{ name: paying, rate: 1/h }] }
---
kind: Tenant
name: acme
plan: standard
limits: [{ name: all, rate: 5/h }]
---
kind: Tenant
name: globex
plan: standard
apis: { pay: [{ name: paying, rate: 2/h }] }
";
    let gateway = "tenant: { from: { header: x-tenant-id }, default_plan: standard }";
    let world = World::start(Setup { policies, gateway, ..Default::default() }).await;
    // Pays until it is denied, then reads until it is denied.
    let passed = async |tenant: &str| {
        let mut denials = Vec::new();
        for path in ["/pay", "/read"] {
            let mut passed = 0;
            let denied = loop {
                let answer = world.edge.send("GET", path, &[("x-tenant-id", tenant)]).await;
                match answer.status.as_u16() {
                    200 => passed += 1,
                    _ => break serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap(),
                }
            };
            denials.push((passed, denied["limit"].as_str().unwrap().to_owned()));
        }
        denials
    };
    let said = |paid, read| vec![(paid, "paying".to_owned()), (read, "all".to_owned())];
    assert_eq!(passed("initech").await, said(1, 2));
    assert_eq!(passed("acme").await, said(1, 4));
    assert_eq!(passed("globex").await, said(2, 1));
}

#[tokio::test]
async fn no_list_makes_a_request_another_apis_or_tenants() {
    let policies = "
kind: Api
name: x
gateway: edge
match: { path: /x }
service: upstream
limits: [{ rate: 5/h }]
---
kind: Api
name: other
gateway: edge
match: { path: /other }
service: upstream
---
kind: Plan
name: standard
limits: [{ rate: 1000/h }]
---
kind: Tenant
name: initech
plan: standard
status: suspended
---
rate_limits:
- actions: [{ request_headers: { header_name: x-mine, descriptor_key: mine } }]
  limit: { unit: HOUR, requests_per_unit: 100000 }
";
    let gateway = "tenant: { from: { header: x-tenant-id }, default_plan: standard }";
    let world = World::start(Setup { policies, gateway, ..Default::default() }).await;
    for key in ["api", "tenant", "rate_limits", "header:x-a"] {
        let list = policies.split("---").last().unwrap().replace("key: mine", &format!("key: '{key}'"));
        world.save("posing.yaml", &list);
        let refused = eventually("the list is refused", async || {
            let refused = world.tierflow.status().await["refused"].clone();
            refused.to_string().contains(&format!(r#"\"{key}\""#)).then_some(refused)
        });
        assert_eq!(refused.await.as_array().unwrap().len(), 1);
    }
    // Whatever a header says, a request is its route's and its tenant's.
    for value in ["x", "x/", "initech"] {
        for _ in 0..7 {
            assert_eq!(world.edge.send("GET", "/other", &[("x-mine", value)]).await.status, 200);
        }
    }
    let suspended = [("x-tenant-id", "initech"), ("x-mine", "acme")];
    assert_eq!(world.edge.send("GET", "/x", &suspended).await.status, 403);
    let answer = world.edge.send("GET", "/x", &[("x-tenant-id", "acme")]).await;
    assert_eq!(answer.header("x-ratelimit-remaining"), Some("4"));
}
