//! Documents that were made with other keys: they count only as long as both agree.

use serde_json::Value;

use crate::edit::json_of;
use crate::harness::{Tierflow, eventually};
use crate::store::{SHOP, Store, document, key, rate, serves_rate};

/// A plan that requires something.
fn plan(rate: u32, requires: &str) -> String {
    document("Plan", "standard", &format!("{{limits: [{{rate: {rate}/h}}], requires: [{requires}]}}"))
}

async fn refused(tierflow: &Tierflow) -> String {
    eventually("it is refused", async || {
        let status = tierflow.status().await;
        let refusal = status["refused"].as_array()?.first()?.clone();
        assert_eq!((&refusal["name"], &refusal["served"]), (&Value::from("standard"), &Value::from(true)));
        Some(refusal["problems"][0]["message"].as_str()?.to_owned())
    })
    .await
}

async fn is_mended(tierflow: &Tierflow) {
    eventually("nothing is refused", async || tierflow.status().await["refused"].as_array()?.is_empty().then_some(()))
        .await;
}

#[tokio::test]
async fn a_document_counts_only_with_the_version_it_was_made_for() {
    let store = Store::start_shop().await;
    let tierflow = store.tierflow_at(store.endpoint(), &store.state_dir()).await;
    serves_rate(&tierflow, 1).await;
    let service = key("Service", "upstream");
    let of = |revision: i64| format!("{{key: policies/Service/upstream, revision: {revision}}}");
    let upstream = async |port: i64| {
        let endpoints = format!("{{endpoints: ['127.0.0.1:{port}']}}");
        store.put(&service, &document("Service", "upstream", &endpoints)).await
    };
    // Others write too, so which revision comes next is met by trying.
    let mut revision = upstream(9000).await;
    loop {
        // Torn: what it was made for is not there yet.
        let wanted = store.put("/elsewhere", "x").await + 20;
        store.put(&key("Plan", "standard"), &plan(2, &of(wanted))).await;
        let expected =
            format!("requires policies/Service/upstream at revision {wanted}, and it is at revision {revision}");
        eventually("it is refused for that", async || (refused(&tierflow).await == expected).then_some(())).await;
        assert_eq!(rate(&tierflow).await, Some(1));
        while store.put("/elsewhere", "x").await < wanted - 1 {}
        revision = upstream(9000 + wanted).await;
        if revision == wanted {
            break;
        }
    }
    // Now it is, and nothing else has to happen.
    serves_rate(&tierflow, 2).await;
    is_mended(&tierflow).await;
    // And torn again: it stays, for it is the last good one, also in another run.
    let gone = upstream(9001).await;
    assert!(refused(&tierflow).await.ends_with(&format!("and it is at revision {gone}")));
    assert_eq!(rate(&tierflow).await, Some(2));
    tierflow.signal("TERM");
    assert!(tierflow.ended().await.success());
    let tierflow = store.tierflow_at(store.endpoint(), &store.state_dir()).await;
    refused(&tierflow).await;
    assert_eq!(rate(&tierflow).await, Some(2));
    store.put(&key("Plan", "standard"), &plan(3, &of(gone))).await;
    serves_rate(&tierflow, 3).await;
    is_mended(&tierflow).await;
}

#[tokio::test]
async fn keys_are_found_below_any_prefix() {
    for prefix in ["/my-policies", "/policies/", "/policies/policies"] {
        let root = format!("{}/", prefix.trim_end_matches('/'));
        let store = Store::start().await;
        let key = |kind: &str, name: &str| format!("{root}policies/{kind}/{name}");
        let shop = SHOP.map(|(kind, name, fields)| (key(kind, name), document(kind, name, fields)));
        store.put_all(&shop).await;
        let source = [store.endpoint(), vec![format!("--etcd-prefix={prefix}")]].concat();
        let tierflow = store.tierflow_at(source, &[]).await;
        serves_rate(&tierflow, 1).await;
        let service = key("Service", "upstream");
        let revision = store.put(&service, &document("Service", "upstream", "{endpoints: ['127.0.0.1:9000']}")).await;
        let of = |revision| format!("{{key: policies/Service/upstream, revision: {revision}}}");
        store.put(&key("Plan", "standard"), &plan(2, &of(revision))).await;
        serves_rate(&tierflow, 2).await;
        store.put(&service, &document("Service", "upstream", "{endpoints: ['127.0.0.1:9001']}")).await;
        let expected = format!("requires policies/Service/upstream at revision {revision}, and it is at revision ");
        assert!(refused(&tierflow).await.starts_with(&expected), "{prefix}");
    }
}

#[tokio::test]
async fn a_document_counts_only_while_its_writer_holds_the_lease() {
    let store = Store::start_shop().await;
    let tierflow = store.tierflow().await;
    serves_rate(&tierflow, 1).await;
    let mut client = store.client.clone();
    let mut hold = async || {
        let lease = client.lease_grant(60, None).await.unwrap().id();
        let options = etcd_client::PutOptions::new().with_lease(lease);
        client.put("/tierflow/leaders/deployer", "me", Some(options)).await.unwrap();
        let held = client.get("/tierflow/leaders/deployer", None).await.unwrap();
        (lease, held.kvs()[0].create_revision())
    };
    let of = |revision: i64| format!("{{key: leaders/deployer, create_revision: {revision}}}");
    let (first, created) = hold().await;
    store.put(&key("Plan", "standard"), &plan(2, &of(created))).await;
    serves_rate(&tierflow, 2).await;
    // The lease is lost, and somebody else gets it. What was served stays, and it is said.
    store.client.clone().lease_revoke(first).await.unwrap();
    assert!(refused(&tierflow).await.ends_with("and it is not there"));
    let (_, other) = hold().await;
    // One that does not know yet writes once more.
    store.put(&key("Plan", "standard"), &plan(3, &of(created))).await;
    eventually("it is refused", async || {
        refused(&tierflow).await.ends_with(&format!("created at revision {other}")).then_some(())
    })
    .await;
    assert_eq!(rate(&tierflow).await, Some(2));
    store.put(&key("Plan", "standard"), &plan(4, &of(other))).await;
    serves_rate(&tierflow, 4).await;
    is_mended(&tierflow).await;
}

#[tokio::test]
async fn a_change_that_waits_for_keys_says_so() {
    let store = Store::start_shop().await;
    let tierflow = store.tierflow().await;
    serves_rate(&tierflow, 1).await;
    eventually("it may write", async || {
        (tierflow.status().await["replicas"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    let send = async |path: &str, body: &str| {
        let base = store.put("/elsewhere", "x").await.to_string();
        let answer = tierflow.send("PUT", path, &[("x-config-base-version", &base)], body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        json_of(&answer)
    };
    let requires = "{key: leaders/deployer, create_revision: 7}, {key: policies/Service/new, revision: 8}";
    let why = "requires leaders/deployer created at revision 7, and it is not there; \
               requires policies/Service/new at revision 8, and it is not there";
    let told = send("/v1/policies/Plan/standard", &plan(2, requires)).await;
    let waiting = &told["waiting"][0];
    assert_eq!((&waiting["name"], &waiting["served"]), (&Value::from("standard"), &Value::from(true)), "{told}");
    assert_eq!(waiting["problems"][0]["message"], why);
    assert_eq!(rate(&tierflow).await, Some(1));
    assert_eq!(send("/v1/policies/Plan/standard", &plan(3, requires)).await["waiting"].as_array().unwrap().len(), 1);

    // The verb says it in words.
    let file = store.path("plans.yaml");
    let gold = document("Plan", "gold", &format!("{{limits: [{{rate: 2/h}}], requires: [{requires}]}}"));
    std::fs::write(&file, format!("{gold}\n---\n{}", plan(4, requires))).unwrap();
    let server = format!("--server=http://{}", tierflow.admin());
    let printed = crate::harness::printed(&["apply", "-f", file.to_str().unwrap(), &server]);
    let mut lines = printed.lines();
    assert!(lines.next().unwrap().starts_with("done at revision "), "{printed}");
    let waits = [
        format!("Plan gold waits, and is not served until then: {why}"),
        format!("Plan standard waits, and its version before is served until then: {why}"),
    ];
    assert_eq!(lines.collect::<Vec<_>>(), waits);

    // What waits for nothing says nothing of it.
    let told = send("/v1/policies/Service/new", &document("Service", "new", "{endpoints: ['127.0.0.1:9000']}")).await;
    assert_eq!(told["waiting"], Value::Array(vec![]));
}

#[tokio::test]
async fn a_key_that_can_never_be_there_is_a_mistake() {
    let store = Store::start_shop().await;
    let tierflow = store.tierflow().await;
    serves_rate(&tierflow, 1).await;
    let base = store.put("/elsewhere", "x").await.to_string();
    let keys =
        ["../x", "a b", "a//b", "policies/Service/Not a name", "policies/Servce/order", "policies/Plan/standard"];
    for wrong in keys {
        let body = plan(2, &format!("{{key: {wrong}, revision: 3}}"));
        let answer =
            tierflow.send("PUT", "/v1/policies/Plan/standard", &[("x-config-base-version", &base)], &body).await;
        assert_eq!(answer.status, 422, "{wrong}: {answer:?}");
        let problem = &json_of(&answer)["problems"][0];
        assert_eq!(problem["path"], "requires[0].key", "{problem}");
        assert!(problem["message"].as_str().unwrap().starts_with(&format!("found {wrong:?}, expected ")), "{problem}");
    }
}
