//! What is true between two states: an Envoy still has routes of older policies, and its requests are limited by what fits
//! these routes, neither by what they do not report nor by nothing.

use std::collections::BTreeMap;

use tokio::net::TcpListener;

use crate::harness::{Setup, World, eventually};

/// One Api of the name, with a limit of five an hour.
fn api(name: &str, by: &str, service: &str) -> String {
    format!(
        "
kind: Api
name: {name}
gateway: edge
match: {{ path: /x }}
service: {service}
limits: [{{ rate: 5/h{by} }}]
"
    )
}

/// A service that takes connections and never answers: Envoy waits for its health, and routes wait for it.
async fn silent_service() -> (TcpListener, String) {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let service = format!(
        "---
kind: Service
name: silent
endpoints: [{address}]
health_check: {{ http: /, timeout: 60s, interval: 60s }}
"
    );
    (silent, service)
}

async fn is_adopted(world: &World, generation: u64) {
    eventually("the new policies decide", async || (world.tierflow.generation().await == generation).then_some(()))
        .await;
}

/// The statuses of thirty requests, each from a client of its own.
async fn thirty_clients(world: &World) -> BTreeMap<u16, usize> {
    let mut statuses = BTreeMap::new();
    for client in 0..30 {
        let (a, b) = (format!("a{client}"), format!("b{client}"));
        let answer = world.edge.send("GET", "/x", &[("x-a", &a), ("x-b", &b)]).await;
        *statuses.entry(answer.status.as_u16()).or_default() += 1;
    }
    statuses
}

/// How many requests came by routes of older policies, and are known or not.
async fn by_older_routes(world: &World) -> [u64; 2] {
    let metrics = world.tierflow.ask("/metrics").await.text();
    ["older", "unknown"].map(|form| {
        let name = format!("tierflow_decision_forms_total{{form=\"{form}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
    })
}

#[tokio::test]
async fn a_client_is_told_by_what_its_route_reports() {
    let by = |header| format!(", by: [{{ header: {header} }}]");
    let before = api("x", &by("x-a"), "upstream");
    let world = World::start(Setup { policies: &before, ..Default::default() }).await;
    assert_eq!(world.edge.send("GET", "/x", &[("x-a", "a0")]).await.status, 200);
    let (_silent, service) = silent_service().await;
    world.save("policies.yaml", &(api("x", &by("x-b"), "silent") + &service));
    is_adopted(&world, 2).await;
    assert_eq!(thirty_clients(&world).await, BTreeMap::from([(200, 30)]));
    assert_eq!(by_older_routes(&world).await, [30, 0]);
    // In the counters that it had: one was used before the change.
    for left in (0..3).rev() {
        let answer = world.edge.send("GET", "/x", &[("x-a", "a0")]).await;
        assert_eq!(answer.header("x-ratelimit-remaining"), Some(left.to_string().as_str()));
    }
    assert_eq!(world.edge.send("GET", "/x", &[("x-a", "a0")]).await.status, 429);
}

#[tokio::test]
async fn an_api_that_is_gone_keeps_its_limits_while_its_route_lives() {
    let world = World::start(Setup { policies: &api("x", "", "upstream"), ..Default::default() }).await;
    let (_silent, service) = silent_service().await;
    world.save("policies.yaml", &(api("y", "", "silent") + &service));
    is_adopted(&world, 2).await;
    assert_eq!(thirty_clients(&world).await, BTreeMap::from([(200, 5), (429, 25)]));
    assert_eq!(by_older_routes(&world).await, [30, 0]);
}

/// The gateway is held, for Envoy cannot listen where it is told to; what its routes report of it is held with it.
#[tokio::test]
async fn a_group_that_is_held_is_limited_by_what_its_routes_report() {
    let tenant = "tenant: { from: { header: x-a }, default_plan: standard }";
    let plan = "---\nkind: Plan\nname: standard\nlimits: [{ name: of-tenant, rate: 5/h, by: [{ header: x-b }] }]\n";
    let policies = api("x", ", name: of-api, by: [path]", "upstream").replace("5/h", "1000/h") + plan;
    let world = World::start(Setup { policies: &policies, gateway: tenant, ..Default::default() }).await;
    let gateway = std::fs::read_to_string(world.path("gateway.yaml")).unwrap();
    world.save("gateway.yaml", &gateway.replace("listen: 127.0.0.1:", "listen: 192.0.2.1:").replace(tenant, ""));
    let held = async || (world.tierflow.status().await["held"].as_array().unwrap().len() == 1).then_some(());
    eventually("the gateway is held", held).await;
    // A form that no generation ever had: the gateway as it was, the Api as it is.
    world.save("policies.yaml", &policies.replace("by: [path]", "by: [method]"));
    let request = [("x-a", "acme"), ("x-b", "1")];
    let limits = async || {
        let answer = world.edge.send("GET", "/x", &[("x-a", "other"), ("x-b", "1")]).await;
        let named = answer.header("x-ratelimit-limit").unwrap_or_default().to_owned();
        let is_new = world.tierflow.json("/v1/policies/Api/x").await["text"].as_str()?.contains("method");
        (is_new && named.contains("of-tenant") && named.contains("of-api")).then_some(())
    };
    eventually("both limits are met", limits).await;
    for left in (0..5).rev() {
        let answer = world.edge.send("GET", "/x", &request).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("x-ratelimit-remaining")),
            (200, Some(left.to_string().as_str()))
        );
    }
    assert_eq!(world.edge.send("GET", "/x", &request).await.status, 429);
    assert_eq!(world.edge.send("GET", "/x", &[("x-a", "acme"), ("x-b", "2")]).await.status, 200);
    let [older, unknown] = by_older_routes(&world).await;
    assert!(older > 6 && unknown == 0, "{older} {unknown}");
}
