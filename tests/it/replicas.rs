//! Several Tierflows that share one etcd know each other.

use std::collections::BTreeSet;

use crate::harness::{Tierflow, any_addresses, eventually};
use crate::store::{Store, serves_rate};

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
        replicas.iter().all(|one| one["revision"] == revision && one["generation"] == 2).then_some(())
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
