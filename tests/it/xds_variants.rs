//! Both variants of the protocol bring a real Envoy to the same behaviour.

use crate::harness::{Setup, World, eventually, free_address};
use crate::kit::client::Client;

const TWO_TIERS: &str = "
kind: Api
name: pay
gateway: edge
match: { path: /pay }
service: upstream
limits: [{ rate: 3/h }]
---
kind: Plan
name: standard
limits: [{ rate: 2/h }]
";

const BY_HEADER: &str = "tenant: { from: { header: x-tenant-id }, default_plan: standard }";

/// Two of three for the first tenant, then its own limit; the third for the second, then the API's limit.
async fn both_tiers_are_counted_at_the_edge(xds: &str) {
    let world = World::start(Setup { policies: TWO_TIERS, gateway: BY_HEADER, xds, ..Default::default() }).await;
    let pay = async |tenant: &str| {
        let answer = world.edge.send("POST", "/pay", &[("x-tenant-id", tenant)]).await;
        let body = serde_json::from_slice(&answer.body).unwrap_or(serde_json::Value::Null);
        (answer.status.as_u16(), body["tier"].as_str().unwrap_or_default().to_owned())
    };
    let mut answers = Vec::new();
    for tenant in ["acme", "acme", "acme", "globex", "globex"] {
        answers.push(pay(tenant).await);
    }
    let expected = [(200, ""), (200, ""), (429, "tenant"), (200, ""), (429, "api")];
    assert_eq!(answers, expected.map(|(status, tier)| (status, tier.to_owned())));
    assert_eq!(world.upstream.requests(), 3);
    assert_eq!(world.tierflow.json("/v1/nodes").await["nodes"][0]["protocol"], xds);
}

#[tokio::test]
async fn both_tiers_are_counted_at_the_edge_with_delta() {
    both_tiers_are_counted_at_the_edge("delta").await;
}

#[tokio::test]
async fn both_tiers_are_counted_at_the_edge_with_state_of_the_world() {
    both_tiers_are_counted_at_the_edge("sotw").await;
}

/// The second gateway comes and goes while the first serves.
async fn an_envoy_listens_for_every_gateway_that_selects_it(xds: &str) {
    let world = World::start(Setup { policies: TWO_TIERS, gateway: BY_HEADER, xds, ..Default::default() }).await;
    let inner = free_address();
    let documents = format!(
        "kind: Gateway
name: inner
nodes: {{ ids: [edge-*] }}
listen: {inner}
---
kind: Api
name: inner-pay
gateway: inner
match: {{ path: /pay }}
service: upstream
"
    );
    world.save("inner.yaml", &documents);
    let client = Client::default();
    let url = format!("http://{inner}/pay");
    eventually("the second gateway is served", async || client.get(&url).await.ok().filter(|a| a.status == 200)).await;
    assert_eq!(world.tierflow.json("/v1/nodes").await["nodes"][0]["groups"], serde_json::json!(["edge", "inner"]));
    assert_eq!(world.edge.get("/pay").await.status, 200);

    std::fs::remove_file(world.path("inner.yaml")).unwrap();
    let stopped = "listener_manager.listener_removed";
    eventually("the second gateway is gone", async || (world.edge.stats([stopped]).await == [1]).then_some(())).await;
    assert_eq!(world.edge.get("/pay").await.status, 200);
}

#[tokio::test]
async fn an_envoy_listens_for_every_gateway_that_selects_it_with_delta() {
    an_envoy_listens_for_every_gateway_that_selects_it("delta").await;
}

#[tokio::test]
async fn an_envoy_listens_for_every_gateway_that_selects_it_with_state_of_the_world() {
    an_envoy_listens_for_every_gateway_that_selects_it("sotw").await;
}
