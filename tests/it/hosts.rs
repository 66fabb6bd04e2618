//! The host of a request: forwarded as it came, matched and counted as what it names.

use crate::harness::{Setup, World};
use crate::raw_http::{RawAnswer, send, start_echo};

/// One host in some of its spellings, of which two say that the name is whole. The last is no port at all, and Envoy still takes it for one.
const SPELLINGS: [&str; 6] =
    ["shop.example", "shop.example:8443", "SHOP.example:1", "shop.example.", "Shop.example.:80", "shop.example:x"];

async fn start(policies: &str, gateway: &str) -> World {
    let echo = start_echo().await;
    let policies = format!("---\n{{kind: Service, name: echo, endpoints: ['{echo}']}}\n{policies}");
    World::start(Setup { policies: &policies, gateway, ..Default::default() }).await
}

async fn ask(world: &World, path: &str, host: &str) -> RawAnswer {
    send(world.edge.listen, "GET", path.as_bytes(), &[format!("host: {host}").as_bytes()]).await
}

#[tokio::test]
async fn a_host_is_matched_without_its_port_and_forwarded_as_it_came() {
    let policies = "---
{kind: Api, name: hosts, gateway: edge, service: echo, match: {path: /h, hosts: [shop.example]}}
---
{kind: Api, name: exact, gateway: edge, service: echo, match: {path: /exact, headers: {Host: shop.example}}}
---
{kind: Api, name: prefix, gateway: edge, service: echo, match: {path: /prefix, headers: {host: {prefix: shop.}}}}
---
{kind: Api, name: suffix, gateway: edge, service: echo, match: {path: /suffix, headers: {host: {suffix: .example}}}}
---
{kind: Api, name: contains, gateway: edge, service: echo, match: {path: /contains, headers: {host: {contains: p.e}}}}
---
{kind: Api, name: regex, gateway: edge, service: echo, match: {path: /regex, headers: {host: {regex: '[a-z]+.example'}}}}
";
    let world = start(policies, "").await;
    for path in ["/h", "/exact", "/prefix", "/suffix", "/contains", "/regex"] {
        for host in SPELLINGS {
            let answer = ask(&world, path, host).await;
            assert_eq!((answer.status, answer.echoed("host")), (200, Some(host)), "{path}");
        }
        for host in ["other.test", "other.test:8443", "other.test:shop.example", "[::1]:80", "shop", ":shop.example"] {
            assert_eq!(ask(&world, path, host).await.status, 404, "{path} {host}");
        }
    }
}

#[tokio::test]
async fn a_port_and_a_dot_are_no_way_round_a_limit_by_host() {
    let policies = "---
{kind: Api, name: word, gateway: edge, service: echo, match: {path: /word}, limits: [{rate: 6/h, by: [host]}]}
---
{kind: Api, name: header, gateway: edge, service: echo, match: {path: /header}, limits: [{rate: 6/h, by: [{header: Host}]}]}
---
{kind: Api, name: tenant, gateway: edge, service: echo, match: {path: /tenant}}
---
{kind: Api, name: list, gateway: edge, service: echo, match: {path: /list}}
---
{kind: Plan, name: each, apis: {tenant: [{rate: 6/h}]}}
---
name: of-list
rate_limits:
- actions:
  - request_headers: { header_name: ':authority', descriptor_key: asked }
  - header_value_match: { descriptor_value: list, headers: [{ name: ':path', string_match: { exact: /list } }] }
  limit: { unit: HOUR, requests_per_unit: 6 }
";
    let tenant = "tenant: {from: {header: host}, default_plan: each}";
    let world = start(policies, tenant).await;
    for path in ["/word", "/header", "/tenant", "/list"] {
        for host in SPELLINGS {
            assert_eq!(ask(&world, path, host).await.status, 200, "{path} {host}");
        }
        for host in SPELLINGS.into_iter().chain(["shop.example:9"]) {
            assert_eq!(ask(&world, path, host).await.status, 429, "{path} {host}");
        }
        assert_eq!(ask(&world, path, "other.example").await.status, 200, "{path}");
    }
}
