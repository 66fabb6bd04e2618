//! What Envoy refuses and nobody else could know: it is seen, it harms nothing that is served, and it heals.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::{Edge, Setup, Tierflow, World, eventually, free_address};

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
    let is_counted = async || {
        let nodes = world.tierflow.status().await["nodes"].clone();
        let counts = [&nodes["connected"], &nodes["refusing"], &nodes["live"]];
        (counts == [&json!(1), &json!(1), &json!(0)]).then_some(())
    };
    eventually("it is counted as refusing", is_counted).await;
    assert!(world.tierflow.ask("/metrics").await.text().contains("tierflow_xds_nack_total{type=\"listener\"} 1"));
    // Envoy goes on with what it had, and other changes still reach it.
    assert_eq!(world.edge.get("/pay").await.status, 200);
    world.save("policies.yaml", &API.replace("/pay", "/charge"));
    eventually("routes still change", async || (world.edge.get("/charge").await.status == 200).then_some(())).await;

    world.save("gateway.yaml", &gateway);
    eventually("the refusal is over", async || {
        let node = world.tierflow.json("/v1/nodes/edge-1").await["nodes"][0].clone();
        let is_refused = !node["types"]["listener"]["refused"].is_null();
        (!is_refused && node["standing"] == "live" && node["generation"] == 4).then_some(())
    })
    .await;
    assert_eq!(world.tierflow.status().await["held"], json!([]));
    assert_eq!(world.edge.get("/charge").await.status, 200);
}

#[tokio::test]
async fn xds_rule_65_a_refusal_is_on_record_until_it_is_mended_with_delta() {
    a_refusal_is_on_record_until_it_is_mended("delta").await;
}

#[tokio::test]
async fn xds_rule_65_a_refusal_is_on_record_until_it_is_mended_with_state_of_the_world() {
    a_refusal_is_on_record_until_it_is_mended("sotw").await;
}

/// A second gateway with an Envoy of its own.
fn side(listen: SocketAddr, path: &str) -> String {
    format!(
        "kind: Gateway
name: side
nodes: {{ ids: [side-*] }}
listen: {listen}
---
kind: Api
name: side-pay
gateway: side
match: {{ path: {path} }}
service: upstream
"
    )
}

async fn held(tierflow: &Tierflow) -> Value {
    eventually("something is held", async || tierflow.status().await["held"].get(0).cloned()).await
}

async fn a_refusal_goes_no_further(xds: &str) {
    let mut world = World::start(Setup { policies: API, xds, ..Default::default() }).await;
    let listen = free_address();
    world.save("side.yaml", &side(listen, "/side"));
    let beside = Edge::start_for("side", world.folder.path(), &world.tierflow, "side-1", xds, listen);
    beside.ready().await;

    let gateway = std::fs::read_to_string(world.path("gateway.yaml")).unwrap();
    world.save("gateway.yaml", &gateway.replace("listen: 127.0.0.1:", "listen: 192.0.2.1:"));
    let hold = held(&world.tierflow).await;
    assert_eq!((&hold["gateway"], &hold["whole"]), (&json!("edge"), &json!(false)));
    let document = &hold["documents"][0];
    assert_eq!((&document["kind"], &document["name"]), (&json!("Gateway"), &json!("edge")));
    assert!(document["origin"].as_str().unwrap().ends_with("gateway.yaml:1"), "{document}");
    let reason = &hold["reasons"][0];
    let told = [&reason["node"], &reason["type"], &reason["resources"]];
    assert_eq!(told, [&json!("edge-1"), &json!("listener"), &json!(["edge"])]);
    assert!(reason["message"].as_str().unwrap().contains("192.0.2.1"), "{reason}");

    // The other group goes on, and so does what else changes in this one.
    world.save("side.yaml", &side(listen, "/changed"));
    eventually("the other gateway changes", async || (beside.get("/changed").await.status == 200).then_some(())).await;
    world.save("policies.yaml", &API.replace("/pay", "/charge"));
    eventually("this one changes", async || (world.edge.get("/charge").await.status == 200).then_some(())).await;

    // An Envoy that starts now gets what works.
    let address = world.edge.listen;
    world.edge = Edge::start_for("edge", world.folder.path(), &world.tierflow, "edge-2", xds, address);
    world.edge.ready().await;
    eventually("the other one is gone", async || {
        let nodes = world.tierflow.json("/v1/nodes").await["nodes"].clone();
        nodes.as_array().unwrap().iter().any(|node| node["id"] == "edge-1" && node["state"] == "GONE").then_some(())
    })
    .await;
    assert_eq!(world.edge.get("/charge").await.status, 200);
    let status = world.tierflow.status().await;
    assert_eq!([&status["nodes"]["live"], &status["nodes"]["held"]], [&json!(1), &json!(1)], "{status}");

    world.save("gateway.yaml", &gateway);
    eventually("all have the newest", async || {
        let status = world.tierflow.status().await;
        (status["held"] == json!([]) && status["nodes"]["live"] == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn xds_rule_67_a_refusal_goes_no_further_with_delta() {
    a_refusal_goes_no_further("delta").await;
}

#[tokio::test]
async fn xds_rule_67_a_refusal_goes_no_further_with_state_of_the_world() {
    a_refusal_goes_no_further("sotw").await;
}
