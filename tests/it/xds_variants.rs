//! Both variants of the protocol bring a real Envoy to the same behaviour.

use crate::harness::{Setup, World};

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
