//! Envoys ask all live replicas for decisions: one that comes is asked, one that goes or hangs is not, and nothing else of
//! an Envoy changes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use crate::harness::{Edge, Tierflow, any_addresses, eventually, free_address};
use crate::kit::upstream::Upstream;
use crate::store::{Store, document, key};

async fn replica(store: &Store, id: &str) -> Tierflow {
    let flags = [format!("--replica-id={id}")];
    Tierflow::serve(&store.path(&format!("{id}.log")), store.endpoint(), &flags, any_addresses()).await
}

/// The addresses that Envoy asks for decisions, and what it says of their health.
async fn limiters(edge: &Edge) -> BTreeMap<String, String> {
    let clusters = edge.admin("/clusters").await;
    let flags = clusters.lines().filter_map(|line| {
        let (address, flags) = line.strip_prefix("tierflow:rls::")?.split_once("::health_flags::")?;
        Some((address.to_owned(), flags.to_owned()))
    });
    flags.collect()
}

async fn asks(edge: &Edge, replicas: &[&SocketAddr]) {
    eventually(&format!("{replicas:?} are asked, and well"), async || {
        let limiters = limiters(edge).await;
        let is_well =
            |address: &&SocketAddr| limiters.get(&address.to_string()).is_some_and(|flags| flags == "healthy");
        (limiters.len() == replicas.len() && replicas.iter().all(is_well)).then_some(())
    })
    .await;
}

/// Until nothing that was in doubt is asked any more.
async fn decides(edge: &Edge) {
    eventually("requests are decided", async || {
        for _ in 0..30 {
            if edge.get("/sale").await.status != 200 {
                return None;
            }
        }
        Some(())
    })
    .await;
}

#[tokio::test]
async fn envoys_ask_the_replicas_that_live() {
    let store = Store::start().await;
    let upstream = Upstream::start("upstream", (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let listen = free_address();
    let gateway =
        format!("{{nodes: {{clusters: [edge]}}, listen: '{listen}', limiter: {{timeout: 500ms, on_error: deny}}}}");
    let api = "{gateway: edge, match: {path: /sale}, service: upstream, limits: [{rate: 100000/h}]}";
    let service = format!("{{endpoints: ['{}']}}", upstream.address);
    let documents = [("Gateway", "edge", gateway.as_str()), ("Service", "upstream", &service), ("Api", "sale", api)];
    store.put_all(&documents.map(|(kind, name, fields)| (key(kind, name), document(kind, name, fields)))).await;
    let a = replica(&store, "a").await;
    let edge = Edge::start(store.folder.path(), &a, "edge-1", "delta", listen);
    edge.ready().await;
    asks(&edge, &[&a.rls]).await;
    decides(&edge).await;
    let [clusters, endpoints, others @ ..] = a.pushes().await;
    let changed =
        ["cluster_manager.cluster_modified", "cluster_manager.cluster_added", "listener_manager.lds.update_success"];
    let before = edge.stats(changed).await;

    let (b, mut c) = (replica(&store, "b").await, replica(&store, "c").await);
    asks(&edge, &[&a.rls, &b.rls, &c.rls]).await;
    let told = a.status().await["rate_limit_service"].as_array().unwrap().len();
    assert_eq!(told, 3);

    // One that hangs is known not to be well, and nobody waits for it.
    b.signal("STOP");
    eventually("it is unwell", async || {
        limiters(&edge).await.get(&b.rls.to_string()).is_some_and(|flags| flags.contains("failed")).then_some(())
    })
    .await;
    decides(&edge).await;
    b.signal("CONT");
    c.kill();
    decides(&edge).await;
    asks(&edge, &[&a.rls, &b.rls]).await;
    b.signal("TERM");
    assert!(b.ended().await.success());
    asks(&edge, &[&a.rls]).await;
    decides(&edge).await;

    let [clusters_after, endpoints_after, others_after @ ..] = a.pushes().await;
    assert_eq!((clusters_after, others_after), (clusters, others), "its endpoints are pushed alone");
    assert!(endpoints_after >= endpoints + 3);
    assert_eq!(edge.stats(changed).await, before, "no cluster is made anew, so no connection is lost");
}

#[tokio::test]
async fn while_etcd_is_away_the_replicas_are_asked_that_were_there() {
    let mut store = Store::start_shop().await;
    let (a, b) = (replica(&store, "a").await, replica(&store, "b").await);
    let told = async || a.status().await["rate_limit_service"].clone();
    let both = eventually("both are told", async || {
        let told = told().await;
        (told.as_array()?.len() == 2).then_some(told)
    })
    .await;
    store.etcd.kill();
    eventually("etcd is missed", async || a.status().await["source"]["trouble"].as_str().map(|_| ())).await;
    drop(b);
    assert_eq!(told().await, both);
    // Nor is one forgotten whose lease has ended since, as everybody's has.
    let log = || std::fs::read_to_string(store.path("a.log")).unwrap();
    eventually("its own lease has ended", async || log().contains("not held in etcd").then_some(())).await;
    assert_eq!(told().await, both);
    drop(store);
}
