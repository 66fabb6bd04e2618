//! Policies change while Envoys serve: what is sent for it, and what is left alone.

use std::net::Ipv4Addr;

use crate::harness::{Edge, Load, Setup, World, eventually};
use crate::kit::upstream::Upstream;

fn api(path: &str, rate: &str) -> String {
    format!(
        "kind: Api
name: pay
gateway: edge
match: {{ path: {path} }}
service: upstream
limits: [{{ rate: {rate} }}]
"
    )
}

/// How often Envoy took a listener, clusters or routes, and how often that meant a new listener or cluster.
async fn updates(edge: &Edge) -> [u64; 5] {
    let names = [
        "listener_manager.lds.update_success",
        "cluster_manager.cds.update_success",
        "listener_manager.listener_modified",
        "cluster_manager.cluster_modified",
        "http.edge.rds.edge.update_success",
    ];
    edge.stats(names).await
}

#[tokio::test]
async fn a_rate_counts_and_nothing_is_sent_for_it() {
    let world = World::start(Setup { policies: &api("/pay", "1/h"), ..Default::default() }).await;
    let status = async || world.edge.get("/pay").await.status.as_u16();
    assert_eq!((status().await, status().await), (200, 429));
    let (pushes, taken) = (world.tierflow.pushes().await, updates(&world.edge).await);
    // One more each time: what was counted goes on counting.
    for rate in ["2/h", "3/h", "4/h"] {
        world.save("policies.yaml", &api("/pay", rate));
        eventually("one more passes", async || (status().await == 200).then_some(())).await;
        assert_eq!(status().await, 429);
    }
    assert_eq!(world.tierflow.generation().await, 4);
    assert_eq!(world.tierflow.pushes().await, pushes);
    assert_eq!(updates(&world.edge).await, taken);
}

async fn a_changed_match_is_a_push_of_that_route_configuration(xds: &str) {
    let world = World::start(Setup { policies: &api("/pay", "9/h"), xds, ..Default::default() }).await;
    let [clusters, endpoints, secrets, listeners, routes] = world.tierflow.pushes().await;
    let [lds, cds, listeners_modified, clusters_modified, rds] = updates(&world.edge).await;
    world.save("policies.yaml", &api("/charge", "9/h"));
    eventually("the new path is served", async || (world.edge.get("/charge").await.status == 200).then_some(())).await;
    assert_eq!(world.edge.get("/pay").await.status, 404);
    assert_eq!(world.tierflow.pushes().await, [clusters, endpoints, secrets, listeners, routes + 1]);
    assert_eq!(updates(&world.edge).await, [lds, cds, listeners_modified, clusters_modified, rds + 1]);
}

#[tokio::test]
async fn a_changed_match_is_a_push_of_that_route_configuration_with_delta() {
    a_changed_match_is_a_push_of_that_route_configuration("delta").await;
}

#[tokio::test]
async fn a_changed_match_is_a_push_of_that_route_configuration_with_state_of_the_world() {
    a_changed_match_is_a_push_of_that_route_configuration("sotw").await;
}

/// New clusters go before the routes that need them, and old ones go last. Otherwise some requests of the load would
/// meet a route without its cluster, or a cluster without endpoints.
async fn a_service_is_replaced_without_a_failed_request(xds: &str) {
    let start = async |name| Upstream::start(name, (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let services = [("one", start("one").await), ("two", start("two").await)];
    let document = |(name, upstream): &(&str, Upstream)| {
        let service = format!("kind: Service\nname: {name}\nendpoints: [{}]\n---\n", upstream.address);
        service + &api("/pay", "1000000/h").replace("service: upstream", &format!("service: {name}"))
    };
    let world = World::start(Setup { policies: &document(&services[0]), xds, ..Default::default() }).await;
    let load = Load::start(world.edge.url("/pay"));
    for service in services.iter().cycle().skip(1).take(5) {
        world.save("policies.yaml", &document(service));
        eventually("the other service answers", async || {
            world.edge.get("/pay").await.text().starts_with(service.0).then_some(())
        })
        .await;
    }
    eventually("the old service is taken away", async || {
        let clusters = world.edge.admin("/clusters").await;
        let has = |name| clusters.lines().any(|line| line.starts_with(name));
        (has("two::") && !has("one::")).then_some(())
    })
    .await;
    assert_eq!(load.stop().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_service_is_replaced_without_a_failed_request_with_delta() {
    a_service_is_replaced_without_a_failed_request("delta").await;
}

#[tokio::test]
async fn a_service_is_replaced_without_a_failed_request_with_state_of_the_world() {
    a_service_is_replaced_without_a_failed_request("sotw").await;
}
