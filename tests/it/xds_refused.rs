//! What Envoy refuses and nobody else could know: it is seen, it harms nothing that is served, and it heals.

use serde_json::{Value, json};

use crate::harness::{Setup, World, eventually};

const API: &str = "
kind: Api
name: pay
gateway: edge
match: { path: /pay }
service: upstream
";

async fn listeners_of(world: &World) -> Value {
    world.tierflow.json("/v1/nodes/edge-1").await["nodes"][0]["types"]["listener"].clone()
}

/// The address is of a network that is kept for documentation, so no machine has it.
async fn a_refusal_is_on_record_until_it_is_mended(xds: &str) {
    let world = World::start(Setup { policies: API, xds, ..Default::default() }).await;
    let gateway = std::fs::read_to_string(world.path("gateway.yaml")).unwrap();
    let elsewhere = gateway.replace("listen: 127.0.0.1:", "listen: 192.0.2.1:");
    world.save("gateway.yaml", &elsewhere);
    let refused = eventually("Envoy refuses the listener", async || {
        let refused = listeners_of(&world).await["refused"].clone();
        (!refused.is_null()).then_some(refused)
    })
    .await;
    assert!(refused["message"].as_str().unwrap().contains("192.0.2.1"), "{refused}");
    assert!(refused["since"].as_str().unwrap().ends_with('Z'), "{refused}");
    assert_eq!(refused["sent"]["generation"], 2);
    assert_eq!(listeners_of(&world).await["acknowledged"]["generation"], 1);
    assert_eq!(world.tierflow.status().await["nodes"], json!({ "connected": 1, "refusing": 1 }));
    assert!(world.tierflow.ask("/metrics").await.text().contains("tierflow_xds_nack_total{type=\"listener\"} 1"));
    // Envoy goes on with what it had, and other changes still reach it.
    assert_eq!(world.edge.get("/pay").await.status, 200);
    world.save("policies.yaml", &API.replace("/pay", "/charge"));
    eventually("routes still change", async || (world.edge.get("/charge").await.status == 200).then_some(())).await;

    world.save("gateway.yaml", &gateway);
    eventually("the refusal is over", async || {
        let listeners = listeners_of(&world).await;
        (listeners["refused"].is_null() && listeners["acknowledged"]["generation"] == 4).then_some(())
    })
    .await;
    assert_eq!(world.edge.get("/charge").await.status, 200);
}

#[tokio::test]
async fn a_refusal_is_on_record_until_it_is_mended_with_delta() {
    a_refusal_is_on_record_until_it_is_mended("delta").await;
}

#[tokio::test]
async fn a_refusal_is_on_record_until_it_is_mended_with_state_of_the_world() {
    a_refusal_is_on_record_until_it_is_mended("sotw").await;
}
