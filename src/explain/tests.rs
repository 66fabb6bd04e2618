use std::net::Ipv4Addr;
use std::sync::Arc;

use super::*;
use crate::document::split;
use crate::limiter::key::KeyHasher;
use crate::policy::parse::parse;

const SHOP: &str = "\
{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1'}
---
{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}
---
{kind: Api, name: exact, gateway: shop, match: {path: /order/7}, service: order}
---
{kind: Api, name: any, gateway: shop, match: {path_template: '/order/{id}'}, service: order}
---
{kind: Api, name: posted, gateway: shop, match: {path: /order/7, methods: [POST, PUT]}, service: order}
---
{kind: Api, name: beta, gateway: shop, match: {path: /order/7, headers: {x-beta: '1'}}, service: order}
---
{kind: Api, name: paged, gateway: shop, match: {path: /order/7, query: {page: '1'}}, service: order}
---
{kind: Api, name: hosted, gateway: shop, match: {path: /order/7, hosts: [other.example]}, service: order}
---
{kind: Api, name: elsewhere, gateway: shop, match: {path_prefix: /shop}, service: order}
---
name: list
gateway: shop
rate_limits:
- actions: [{request_headers: {header_name: x-agent, descriptor_key: agent}}]
  limit: {unit: MINUTE, requests_per_unit: 3}
- actions: [{query_parameters: {query_parameter_name: q, descriptor_key: q}}]
  limit: {unit: HOUR, requests_per_unit: 3}
- actions: [{header_value_match: {descriptor_value: v, headers: [{name: x-a, string_match: {exact: b}}]}}]
  limit: {unit: DAY, requests_per_unit: 3}
";

/// As `what name: reason`.
fn passed_over(method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<String> {
    let told = |PassedOver { what, name, reason }: &PassedOver| format!("{what} {name}: {reason}");
    explained_of(SHOP, method, path, headers).passed_over.iter().map(told).collect()
}

fn explained_of(policies: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> Explanation {
    let documents = split(&"p.yaml".into(), policies.as_bytes()).into_iter().map(Arc::new);
    let parsed = documents.map(|document| Arc::new(parse(&document).unwrap()));
    let (policies, ids) = PolicySet::of_all(parsed).unwrap();
    let affected = policies.gateways.keys().cloned().collect();
    let matcher = Matcher::empty(KeyHasher::seeded([3; 16])).next(&policies, &ids, &affected);
    let request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        host: "Shop.example:80".to_owned(),
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        client_ip: Ipv4Addr::new(10, 1, 2, 3).into(),
    };
    let gateway = policies.gateways.get("shop").unwrap();
    explain_with_others(&policies, &matcher, gateway, &request)
}

#[test]
fn apis_at_the_path_of_a_request_say_why_they_do_not_take_it() {
    let told = passed_over("GET", "/order/7", &[("x-agent", "a"), ("x-a", "b")]);
    let apis: Vec<_> = told.iter().filter(|told| told.starts_with("api")).map(String::as_str).collect();
    assert_eq!(
        apis,
        [
            "api any: takes such requests too, but another Api says more precisely which",
            "api paged: wants another value of the parameter page",
            "api beta: wants another value of the header x-beta",
            "api posted: takes POST, PUT only",
        ]
    );
}

#[test]
fn where_no_api_takes_a_request_the_nearest_are_told_first() {
    let told = passed_over("GET", "/none", &[]);
    assert!(told.iter().all(|told| told.ends_with("is for other paths")), "{told:?}");
    assert_eq!(told.len(), 7);
}

#[test]
fn limits_of_lists_say_what_they_found_nothing_in() {
    let told = passed_over("GET", "/order/7?page=2", &[("x-a", "c")]);
    let reasons: Vec<_> =
        told.iter().filter(|told| told.starts_with("limit")).map(|told| told.split_once(": ").unwrap().1).collect();
    assert_eq!(
        reasons,
        ["the request has no header x-agent", "the request has no parameter q", "the request's headers do not match"]
    );
    let told = passed_over("GET", "/order/7?q=1", &[("x-a", "b"), ("x-agent", "a")]);
    assert!(told.iter().all(|told| told.starts_with("api")), "{told:?}");
}

const COUNTED: &str = "\
{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1', tenant: {from: {header: x-api-key}, default_plan: free}}
---
{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}
---
{kind: Plan, name: free, limits: [{rate: 9/m}]}
---
{kind: Tenant, name: known, plan: free}
---
kind: Api
name: create
gateway: shop
match: {path: /create}
service: order
limits: [{name: place, rate: 10/m, by: [client_ip/24, host, path]}, {name: caller, rate: 10/m, by: [{header: authorization}, {header: x-user}]}]
---
name: list
rate_limits:
- actions: [{request_headers: {header_name: authorization, descriptor_key: auth}}, {generic_key: {descriptor_value: x}}]
  limit: {unit: MINUTE, requests_per_unit: 3}
";

#[test]
fn a_limit_is_explained_with_the_values_that_its_counter_has() {
    let headers = [("authorization", "abc"), ("x-user", "ann")];
    let told = explained_of(COUNTED, "GET", "/create?x", &headers);
    let by: Vec<&[String]> = told.limits.iter().map(|limit| &limit.by[..]).collect();
    let place = ["client_ip/24=10.1.2.0/24", "host=shop.example", "path=/create"].map(str::to_owned);
    let caller = ["header:authorization=sha256:ba7816bf8f01", "header:x-user=ann"].map(str::to_owned);
    let list = ["auth=sha256:ba7816bf8f01", "generic_key=x"].map(str::to_owned);
    assert_eq!(by, [&place[..], &caller, &[], &list]);
}

#[test]
fn a_tenant_is_explained_as_it_is_counted_and_a_credential_that_no_document_names_as_its_hash() {
    let tenant = |headers: &[(&str, &str)]| explained_of(COUNTED, "GET", "/create", headers).tenant;
    assert_eq!(tenant(&[]).as_deref(), Some("anonymous"));
    assert_eq!(tenant(&[("x-api-key", "known")]).as_deref(), Some("known"));
    assert_eq!(tenant(&[("x-api-key", "abc")]).as_deref(), Some("sha256:ba7816bf8f01"));
}
