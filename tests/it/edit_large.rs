//! Changes of more documents than etcd takes in a transaction: they count together all the same.

use std::collections::BTreeSet;

use serde_json::json;
use tierflow::bulk::{Change, pack};
use tierflow::names::{DocumentId, Kind};

use crate::harness::{Tierflow, any_addresses, eventually};
use crate::store::{Store, document, key, rate, serves_rate};

const TENANTS: usize = 1000;
/// More than etcd takes in a transaction.
pub(crate) const LARGE: usize = 150;

pub(crate) fn plan(rate: u32) -> String {
    document("Plan", "standard", &format!("{{limits: [{{rate: {rate}/h}}]}}"))
}

/// A plan and so many tenants.
pub(crate) fn set(tenants: usize) -> String {
    let tenant = |n| document("Tenant", &format!("t{n}"), "{plan: standard, limits: [{rate: 7/h}]}");
    (0..tenants).map(tenant).chain([plan(2)]).collect::<Vec<_>>().join("\n---\n")
}

pub(crate) async fn keys(store: &Store, below: &str) -> usize {
    let options = etcd_client::GetOptions::new().with_prefix().with_count_only();
    let response = store.client.clone().get(format!("/tierflow/{below}"), Some(options)).await.unwrap();
    usize::try_from(response.count()).unwrap()
}

pub(crate) async fn is_in_place(store: &Store, documents: usize) {
    eventually("everything is in place", async || {
        let left = keys(store, "manifest").await + keys(store, "blobs/").await;
        (left == 0 && keys(store, "policies/").await == documents).then_some(())
    })
    .await;
}

/// The sets that a replica serves while the future runs, as documents and rate.
async fn seen_while<T>(tierflow: &Tierflow, future: impl Future<Output = T>) -> (T, BTreeSet<(u64, u32)>) {
    let mut seen = BTreeSet::new();
    tokio::pin!(future);
    loop {
        let look = async {
            // Documents and rate are two questions, so only what stays the same in between counts.
            let before = tierflow.status().await;
            let rate = rate(tierflow).await.unwrap();
            let after = tierflow.status().await;
            (before["generation"] == after["generation"]).then(|| (after["documents"].as_u64().unwrap(), rate))
        };
        tokio::select! {
            biased;
            done = &mut future => return (done, seen),
            look = look => seen.extend(look),
        }
    }
}

#[tokio::test]
async fn a_thousand_documents_count_together() {
    let store = Store::start_shop().await;
    let replica = async |log: &str| Tierflow::serve(&store.path(log), store.endpoint(), &[], any_addresses()).await;
    let (tierflow, other) = (replica("a.log").await, replica("b.log").await);
    serves_rate(&other, 1).await;
    eventually("both may write", async || {
        (tierflow.status().await["replicas"].as_array().unwrap().len() == 2).then_some(())
    })
    .await;
    let base = store.put("/elsewhere", "x").await.to_string();
    let headers = [("x-config-base-version", base.as_str()), ("idempotency-key", "large")];
    let body = set(TENANTS);
    let (answer, seen) = seen_while(&other, async {
        let answer = tierflow.send("POST", "/v1/apply", &headers, &body).await;
        serves_rate(&other, 2).await;
        answer
    })
    .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let all = 4 + TENANTS as u64;
    assert!(seen.is_subset(&BTreeSet::from([(4, 1), (all, 2)])), "{seen:?}");
    for replica in [&tierflow, &other] {
        // Each of them hears of it by its own watch.
        serves_rate(replica, 2).await;
        let status = replica.status().await;
        assert_eq!((&status["documents"], &status["refused"]), (&json!(all), &json!([])));
    }
    is_in_place(&store, 4 + TENANTS).await;
    let again = tierflow.send("POST", "/v1/apply", &headers, &body).await;
    assert!(again.status == 200 && again.text().contains("\"replayed\":true"), "{again:?}");
    let stale = tierflow.send("POST", "/v1/apply", &headers[..1], &body).await;
    assert_eq!(stale.status, 412, "{stale:?}");
    // Single changes go on.
    let newest = store.put("/elsewhere", "x").await.to_string();
    let headers = [("x-config-base-version", newest.as_str())];
    assert_eq!(tierflow.send("PUT", "/v1/policies/Plan/standard", &headers, &plan(3)).await.status, 200);
    serves_rate(&other, 3).await;
}

#[tokio::test]
async fn an_acknowledged_large_change_is_a_base_for_the_next_one() {
    let store = Store::start_shop().await;
    let tierflow = store.tierflow().await;
    serves_rate(&tierflow, 1).await;
    eventually("it may write", async || {
        (tierflow.status().await["replicas"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    let send = async |method: &str, path: &str, base: &str, body: &str| {
        let answer = tierflow.send(method, path, &[("x-config-base-version", base)], body).await;
        let etag = answer.header("etag").map(|etag| etag.trim_matches('"').to_owned());
        etag.ok_or_else(|| (answer.status.as_u16(), answer.text()))
    };
    const PLAN: &str = "/v1/policies/Plan/standard";
    let mut base = store.put("/elsewhere", "x").await.to_string();
    for n in 0..3 {
        // Nobody waits in between, and nobody else writes: large after large, small after large, and a deletion.
        base = send("POST", "/v1/apply", &base, &set(TENANTS).replace("rate: 7/h", &format!("rate: {}/h", 7 + n)))
            .await
            .unwrap();
        assert_eq!(rate(&tierflow).await, Some(2), "what was acknowledged is shown");
        let large = base;
        send("PUT", PLAN, &large, &plan(3)).await.unwrap();
        assert_eq!(rate(&tierflow).await, Some(3));
        let tenant = format!("/v1/policies/Tenant/t{n}");
        send("DELETE", &tenant, &large, "").await.unwrap();
        assert_eq!(tierflow.ask(&tenant).await.status, 404);
        // What changed after the large change did change.
        let stale = send("PUT", PLAN, &large, &plan(4)).await.unwrap_err();
        assert_eq!(stale.0, 412, "{stale:?}");
        let stale = send("PUT", &tenant, &large, &document("Tenant", &format!("t{n}"), "{plan: standard}")).await;
        assert_eq!(stale.unwrap_err().0, 412);
        // To the same bytes, too: it was somebody's decision.
        let t9 = document("Tenant", "t9", &format!("{{plan: standard, limits: [{{rate: {}/h}}]}}", 7 + n));
        store.put(&key("Tenant", "t9"), &t9).await;
        let stale = send("PUT", "/v1/policies/Tenant/t9", &large, &t9).await;
        assert_eq!(stale.unwrap_err().0, 412);
        base = store.put("/elsewhere", "x").await.to_string();
    }
}

/// As a replica leaves it that ends after the manifest, before anything is in place.
#[tokio::test]
async fn what_a_replica_leaves_unfinished_counts_and_another_one_finishes_it() {
    let store = Store::start_shop().await;
    store.put(&key("Tenant", "gone"), &document("Tenant", "gone", "{plan: standard}")).await;
    let tierflow = store.tierflow().await;
    serves_rate(&tierflow, 1).await;
    let put = |kind, name: &str, text: String| Change {
        id: DocumentId::new(kind, name),
        content: Some(text.into_bytes().into()),
    };
    let mut changes: Vec<Change> = (0..300)
        .map(|n| format!("t{n}"))
        .map(|name| put(Kind::Tenant, &name, document("Tenant", &name, "{plan: standard}")))
        .collect();
    changes.push(put(Kind::Plan, "standard", plan(2)));
    changes.push(Change { id: DocumentId::new(Kind::Tenant, "gone"), content: None });
    let (blobs, manifest) = pack(&changes, "left");
    for (key, blob) in blobs {
        store.put(&format!("/tierflow/{key}"), &String::from_utf8(blob).unwrap()).await;
    }
    store.put("/tierflow/manifest", &serde_json::to_string(&manifest).unwrap()).await;
    serves_rate(&tierflow, 2).await;
    assert_eq!(tierflow.status().await["documents"], 304);
    // What comes after the manifest counts more.
    store.put_rate(3).await;
    serves_rate(&tierflow, 3).await;
    // One that starts now sees the same.
    let other = Tierflow::serve(&store.path("b.log"), store.endpoint(), &[], any_addresses()).await;
    serves_rate(&other, 3).await;
    assert_eq!(other.status().await["documents"], 304);
    is_in_place(&store, 304).await;
    for replica in [&tierflow, &other] {
        assert_eq!((rate(replica).await, replica.status().await["documents"].as_u64()), (Some(3), Some(304)));
        assert_eq!(crate::store::resyncs(replica, "torn").await, 0);
    }
}

#[tokio::test]
async fn a_large_change_that_is_taken_away_is_undone() {
    let store = Store::start_shop().await;
    let tierflow = store.tierflow().await;
    serves_rate(&tierflow, 1).await;
    let change = Change { id: DocumentId::new(Kind::Plan, "standard"), content: Some(plan(2).into_bytes().into()) };
    let (blobs, manifest) = pack(&[change], "left");
    for (key, blob) in blobs {
        store.put(&format!("/tierflow/{key}"), &String::from_utf8(blob).unwrap()).await;
    }
    store.put("/tierflow/manifest", &serde_json::to_string(&manifest).unwrap()).await;
    serves_rate(&tierflow, 2).await;
    store.delete("/tierflow/manifest").await;
    serves_rate(&tierflow, 1).await;
    assert_eq!(crate::store::resyncs(&tierflow, "torn").await, 1);
}
