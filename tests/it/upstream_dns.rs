//! Upstreams that are found by a name, which may have addresses that nobody listens on.

use crate::harness::{Setup, Tierflow, World, any_addresses, eventually, free_address, gateway, printed};
use crate::kit::client::Client;
use crate::kit::envoy::Envoy;
use crate::kit::upstream::Upstream;
use crate::name_server::NameServer;

async fn world(names: &NameServer, dns: &str) -> World {
    let policies = format!(
        "kind: Service
name: named
dns: {dns}
---
kind: Api
name: named
gateway: edge
match: {{ path: / }}
service: named
"
    );
    World::start(Setup { policies: &policies, bootstrap: &names.bootstrap(), ..Default::default() }).await
}

/// The statuses other than 200 of so many requests.
async fn failures(world: &World, requests: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for request in 0..requests {
        let method = ["GET", "POST"][request % 2];
        statuses.push(world.edge.send(method, "/", &[]).await.status.as_u16());
    }
    statuses.retain(|status| *status != 200);
    statuses
}

#[tokio::test]
async fn an_upstream_on_one_family_is_reached_by_a_name_that_has_addresses_of_both() {
    let upstream = Upstream::start("named", free_address()).await.unwrap();
    let names = NameServer::start("dual.test", &["::1", "127.0.0.1"]).await;
    let world = world(&names, &format!("dual.test:{}", upstream.address.port())).await;
    assert_eq!(failures(&world, 50).await, [0; 0]);
    assert_eq!(upstream.requests(), 50);
}

/// From the first request on, and although most of the instances are unwell.
#[tokio::test]
async fn addresses_that_nobody_listens_on_are_passed_over() {
    let upstream = Upstream::start("named", free_address()).await.unwrap();
    let names = NameServer::start("many.test", &["::1", "127.0.0.2", "127.0.0.3", "127.0.0.1"]).await;
    let world = world(&names, &format!("many.test:{}", upstream.address.port())).await;
    assert_eq!(failures(&world, 100).await, [0; 0]);
    let [panics] = world.edge.stats(["cluster.named.lb_healthy_panic"]).await;
    assert_eq!(panics, 0);
}

#[tokio::test]
async fn a_name_with_a_dot_at_its_end_is_resolved() {
    let upstream = Upstream::start("named", free_address()).await.unwrap();
    let names = NameServer::start("whole.test", &["127.0.0.1"]).await;
    let world = world(&names, &format!("whole.test.:{}", upstream.address.port())).await;
    assert_eq!(world.edge.get("/").await.status, 200);
}

#[tokio::test]
async fn a_name_server_that_fails_takes_no_address_away() {
    let upstream = Upstream::start("named", free_address()).await.unwrap();
    let names = NameServer::start("kept.test", &["127.0.0.1"]).await;
    let world = world(&names, &format!("kept.test:{}", upstream.address.port())).await;
    names.addresses.send_replace(None);
    eventually("the name server fails", async || {
        let [failures] = world.edge.stats(["cluster.named.update_failure"]).await;
        (failures > 0).then_some(())
    })
    .await;
    assert_eq!(failures(&world, 10).await, [0; 0]);
}

/// Its ports listen on IPv4, and the name has an address of IPv6 too.
#[tokio::test]
async fn a_tierflow_that_is_given_by_a_name_is_found_and_decides() {
    let names = NameServer::start("control.test", &["::1", "127.0.0.1"]).await;
    let upstream = Upstream::start("upstream", free_address()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    let listen = free_address();
    let api =
        "---\nkind: Api\nname: all\ngateway: edge\nmatch: { path: / }\nservice: upstream\nlimits: [{ rate: 100/h }]\n";
    let documents = gateway(&Setup::default(), listen, upstream.address) + api;
    std::fs::write(policies.join("policies.yaml"), documents).unwrap();
    let [xds, _, admin] = any_addresses();
    let rls = free_address();
    let (source, flags) =
        (format!("--policies={}", policies.display()), [format!("--rls-advertise=control.test:{}", rls.port())]);
    let tierflow = Tierflow::serve(&folder.path().join("log"), vec![source.clone()], &flags, [xds, rls, admin]).await;
    let server = format!("--server=control.test:{}", tierflow.xds.port());
    let bootstrap = printed(&["bootstrap", "--gateway=edge", &server, &source]) + &names.bootstrap();
    let _envoy = Envoy::start(folder.path(), "edge-1", &bootstrap).unwrap();
    let client = Client::default();
    eventually("a request is decided and passes", async || {
        let answer = client.get(&format!("http://{listen}/")).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
}
