//! Several Tierflows that share one etcd know each other.

use std::collections::BTreeSet;

use crate::harness::{Edge, Tierflow, any_addresses, eventually, free_address};
use crate::store::{Store, document, key, serves_rate};

async fn replica(store: &Store, log: &str, id: &str) -> Tierflow {
    let flags = [format!("--replica-id={id}")];
    Tierflow::serve(&store.path(log), store.endpoint(), &flags, any_addresses()).await
}

async fn knows(tierflow: &Tierflow, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|id| (*id).to_owned()).collect();
    eventually("the replicas are known", async || {
        let replicas = tierflow.status().await["replicas"].as_array().unwrap().clone();
        let ids: BTreeSet<String> = replicas.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect();
        (ids == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn replicas_are_known_to_each_other_with_what_they_serve() {
    let store = Store::start_shop().await;
    let a = replica(&store, "a.log", "a").await;
    let b = replica(&store, "b.log", "b").await;
    knows(&a, &["a", "b"]).await;
    knows(&b, &["a", "b"]).await;
    let revision = store.put_rate(2).await;
    serves_rate(&a, 2).await;
    eventually("both tell the new revision", async || {
        let replicas = a.status().await["replicas"].as_array().unwrap().clone();
        replicas.iter().all(|one| one["revision"] == revision).then_some(())
    })
    .await;
    let rls = a.status().await["replicas"][0]["rls"][0].clone();
    assert_eq!(rls, format!("127.0.0.1:{}", a.rls.port()));
    b.signal("TERM");
    assert!(b.ended().await.success());
    knows(&a, &["a"]).await;
}

#[tokio::test]
async fn of_two_with_one_name_the_second_waits() {
    let store = Store::start_shop().await;
    let first = replica(&store, "a.log", "same").await;
    knows(&first, &["same"]).await;
    let second = replica(&store, "b.log", "same").await;
    let log = async || std::fs::read_to_string(store.path("b.log")).unwrap();
    eventually("it says so", async || log().await.contains("somebody else holds the key").then_some(())).await;
    knows(&second, &["same"]).await;
    let rls = second.status().await["replicas"][0]["rls"][0].clone();
    assert_eq!(rls, format!("127.0.0.1:{}", first.rls.port()));
    first.signal("TERM");
    assert!(first.ended().await.success());
    eventually("the second is registered", async || log().await.contains("held in etcd").then_some(())).await;
}

/// An Envoy of one replica asks all of them for decisions: each has to remember what its routes report.
#[tokio::test]
async fn a_replica_tells_which_older_routes_its_envoys_have() {
    let store = Store::start().await;
    let listen = free_address();
    let api = |header: &str, service: &str| {
        let by = format!("limits: [{{rate: 5/h, by: [{{header: {header}}}]}}]");
        (
            key("Api", "x"),
            document("Api", "x", &format!("{{gateway: edge, match: {{path: /x}}, service: {service}, {by}}}")),
        )
    };
    let gateway = format!("{{nodes: {{clusters: [edge]}}, listen: '{listen}'}}");
    let upstream = "{endpoints: ['127.0.0.1:9101']}";
    store
        .put_all(&[
            (key("Gateway", "edge"), document("Gateway", "edge", &gateway)),
            (key("Service", "upstream"), document("Service", "upstream", upstream)),
            api("x-a", "upstream"),
        ])
        .await;
    let tierflow = replica(&store, "a.log", "a").await;
    knows(&tierflow, &["a"]).await;
    let edge = Edge::start(store.folder.path(), &tierflow, "edge-1", "delta", listen);
    edge.ready().await;
    // Routes wait for a service that takes connections and never says that it is well.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service = format!(
        "{{endpoints: ['{}'], health_check: {{http: /, timeout: 60s, interval: 60s}}}}",
        silent.local_addr().unwrap()
    );
    store.put_all(&[(key("Service", "silent"), document("Service", "silent", &service)), api("x-b", "silent")]).await;
    let forms = async || {
        let told = store.client.clone().get("/tierflow/servers/a", None).await.unwrap();
        let told: serde_json::Value = serde_json::from_slice(told.kvs()[0].value()).unwrap();
        Some(told["forms"].as_array()?.iter().map(|form| form.as_str().unwrap().to_owned()).collect::<Vec<_>>())
    };
    let forms = eventually("its forms are told", forms).await;
    assert!(matches!(&forms[..], [form] if form.starts_with("edge/x/")), "{forms:?}");
}
