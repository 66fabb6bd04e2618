//! Clients send what they like: bytes that are no text are values like any other, and nobody gets round a limit by them.

use std::fmt::Display;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Edge, Setup, World, eventually};

/// A request as these bytes, and the status of its answer.
async fn status_of(edge: &Edge, request: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(edge.listen).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    answer.split(' ').nth(1).unwrap_or_else(|| panic!("{answer}")).parse().unwrap()
}

fn get(path: &str, header: &[u8]) -> Vec<u8> {
    [format!("GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n").as_bytes(), header, b"\r\n\r\n"].concat()
}

/// The second of two equal requests is denied by a limit of one an hour.
async fn is_counted(edge: &Edge, what: impl Display, request: &[u8]) {
    let statuses = [status_of(edge, request).await, status_of(edge, request).await];
    assert_eq!(statuses, [200, 429], "{what}");
}

fn api(name: &str, path: &str, by: &str) -> String {
    format!(
        "---
kind: Api
name: {name}
gateway: edge
match: {{ path: {path} }}
service: upstream
limits: [{{ rate: 1/h, by: [{by}] }}]
"
    )
}

#[tokio::test]
async fn a_dimension_that_is_no_text_is_counted() {
    let policies = [
        api("header", "/header", "{ header: x-key }"),
        api("query", "/query", "{ query: key }"),
        api("cookie", "/cookie", "{ cookie: key }"),
        api("path", "/path", "path"),
        "---
rate_limits:
- actions: [{ query_parameters: { query_parameter_name: k, descriptor_key: k } }]
  limit: { unit: HOUR, requests_per_unit: 1 }
"
        .to_owned(),
    ];
    let world = World::start(Setup { policies: &policies.concat(), ..Default::default() }).await;
    let edge = &world.edge;
    for bytes in [&b"\xff"[..], b"\xc0\xaf", b"\xed\xa0\x80"] {
        is_counted(edge, format!("header {bytes:?}"), &get("/header", &[b"x-key: ", bytes].concat())).await;
        is_counted(edge, format!("cookie {bytes:?}"), &get("/cookie", &[b"cookie: key=", bytes].concat())).await;
        let escaped: String = bytes.iter().map(|b| format!("%{b:02x}")).collect();
        is_counted(edge, format!("query {escaped}"), &get(&format!("/query?key={escaped}"), b"x: y")).await;
        is_counted(edge, format!("list {escaped}"), &get(&format!("/query?key=list{escaped}&k={escaped}"), b"x: y"))
            .await;
    }
    is_counted(edge, "path", &get("/path?%ff", b"x-other: \xff")).await;
    assert_eq!(errors(&world).await, 0);
}

/// An Api for everybody, and the limit of whoever has no plan.
fn strangers(limit: &str) -> String {
    format!(
        "{{kind: Api, name: pay, gateway: edge, match: {{path: /pay}}, service: upstream}}\n---\n\
         {{kind: Plan, name: standard, limits: [{limit}]}}\n"
    )
}

#[tokio::test]
async fn a_tenant_that_is_no_text_is_a_stranger_with_the_default_plan() {
    for (source, request) in [
        ("{ header: x-tenant-id }", get("/pay", b"x-tenant-id: \xff")),
        ("{ query: t }", get("/pay?t=%ff", b"x: y")),
        ("{ cookie: t }", get("/pay", b"cookie: t=\xfe\xff")),
    ] {
        let policies = &strangers("{ rate: 1/h }");
        let gateway = format!("tenant: {{ from: {source}, default_plan: standard }}");
        let world = World::start(Setup { policies, gateway: &gateway, ..Default::default() }).await;
        is_counted(&world.edge, source, &request).await;
        // It is nobody else.
        assert_eq!(world.edge.get("/pay").await.status, 200);
    }
}

/// They are looked at and reset by what is shown of them, and no two are shown alike.
#[tokio::test]
async fn tenants_that_are_no_text_have_names_of_their_own() {
    let policies = &strangers("{ rate: 1/h, by: [{ header: x-key }] }");
    let gateway = "tenant: { from: { header: x-tenant-id }, default_plan: standard }";
    let world = World::start(Setup { policies, gateway, ..Default::default() }).await;
    let tierflow = &world.tierflow;
    let shown = [r"\xfe", r"\xff", r"\x5cxff"];
    for tenant in [&b"\xfe"[..], b"\xff", br"\xff"] {
        let header = [b"x-tenant-id: ", tenant, b"\r\nx-key: k\xff"].concat();
        is_counted(&world.edge, format!("{tenant:?}"), &get("/pay", &header)).await;
    }
    let names = eventually("the busiest are told", async || {
        let top: Value = serde_json::from_slice(&tierflow.ask("/v1/top").await.body).unwrap();
        let rows = top["tenants"].as_array().unwrap();
        let mut names: Vec<_> = rows.iter().map(|row| row["tenant"].as_str().unwrap().to_owned()).collect();
        names.sort();
        (names.len() == 3).then_some(names)
    });
    assert_eq!(names.await, [r"\x5cxff", r"\xfe", r"\xff"]);
    for tenant in shown {
        let counter = format!("/v1/counters?tenant={}&header.x-key=k%5Cxff", tenant.replace('\\', "%5C"));
        let seen: Value = serde_json::from_slice(&tierflow.ask(&counter).await.body).unwrap();
        let counter_of = &seen["counters"][0];
        assert_eq!((&counter_of["tenant"], &counter_of["used"]), (&json!(tenant), &json!(1)), "{seen}");
        assert_eq!(counter_of["by"][0]["value"], json!(r"k\xff"), "{seen}");
        let reset: Value = serde_json::from_slice(&tierflow.send("DELETE", &counter, &[], "").await.body).unwrap();
        assert_eq!(reset["reset"], 1, "{tenant}: {reset}");
    }
}

/// As long as Envoy takes it, and reported as often as lists may.
#[tokio::test]
async fn a_long_value_is_no_way_round_a_limit() {
    let entry = "- actions: [{ request_headers: { header_name: x-long, descriptor_key: a } }, \
                 { request_headers: { header_name: x-long, descriptor_key: b } }]\n  limit: { unit: SECOND, requests_per_unit: 1000 }\n";
    let lists: String = (0..8).map(|n| format!("---\nname: list-{n}\nrate_limits:\n{}", entry.repeat(16))).collect();
    let policies = api("long", "/long", "method") + &lists;
    let world = World::start(Setup { policies: &policies, ..Default::default() }).await;
    let value = [b"x-long: ", "v".repeat(59 * 1024).as_bytes()].concat();
    is_counted(&world.edge, "59 KiB", &get("/long", &value)).await;
    assert_eq!(errors(&world).await, 0);
    world.save("more.yaml", &format!("---\nname: one-more\nrate_limits:\n{entry}"));
    eventually("there may be no more", async || {
        let refused = world.tierflow.status().await["refused"].to_string();
        refused.contains("258 actions in all").then_some(())
    })
    .await;
}

/// How many requests were not decided.
async fn errors(world: &World) -> u64 {
    let metrics = world.tierflow.ask("/metrics").await.text();
    let counts = metrics.lines().filter_map(|line| line.strip_prefix("tierflow_decision_errors_total{"));
    counts.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}
