//! Large changes, whatever ends while they are made: one that was acknowledged counts for good, one that was not leaves
//! nothing, and one that nobody can read is told, and is not in the way for ever.

use std::time::Duration;

use etcd_client::GetOptions;
use serde_json::Value;
use tierflow::bulk::{Change, pack};
use tierflow::etcd::EtcdSettings;
use tierflow::etcd::connection::Connection;
use tierflow::etcd::keys::Commit;
use tierflow::names::{DocumentId, Kind};
use tokio::sync::oneshot;

use crate::edit::json_of;
use crate::edit_large::{LARGE, is_in_place, keys, plan, set};
use crate::forgetful::{Front, Manner, Part};
use crate::harness::{Tierflow, eventually};
use crate::kit::client::Answer;
use crate::store::{Store, document, key, rate, resyncs, serves_rate, source};

const PLAN: &str = "/v1/policies/Plan/standard";
/// What only the commit of a large change puts: a member of the manifest.
const COMMIT: &str = "xxh3_128";

async fn serving(store: &Store, front: &Front) -> Tierflow {
    let tierflow = store.tierflow_at(source(&[front.address]), &[]).await;
    serves_rate(&tierflow, 1).await;
    may_write(&tierflow).await;
    tierflow
}

async fn may_write(tierflow: &Tierflow) {
    eventually("it may write", async || {
        (tierflow.status().await["replicas"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
}

/// Sends a change that is made from the newest revision.
async fn send(store: &Store, tierflow: &Tierflow, method: &str, path: &str, body: &str) -> Answer {
    let base = store.put("/elsewhere", "x").await.to_string();
    tierflow.send(method, path, &[("x-config-base-version", &base)], body).await
}

/// As time does that is longer than any lease.
async fn end_all_leases(store: &Store) {
    let mut client = store.client.clone();
    for lease in client.leases().await.unwrap().leases() {
        store.client.clone().lease_revoke(lease.id()).await.unwrap();
    }
}

#[tokio::test]
async fn what_was_acknowledged_counts_although_every_replica_and_every_lease_ends() {
    let store = Store::start_shop().await;
    let front = Front::start(store.etcd.address).await;
    let mut tierflow = serving(&store, &front).await;
    // Nothing is put in place after the commit.
    front.lose(COMMIT, Part::Following);
    // More than one blob holds.
    let body = set(LARGE).replace("\n---\n", &format!("\n# {}\n---\n", "x".repeat(28_000)));
    let answer = send(&store, &tierflow, "POST", "/v1/apply", &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    tierflow.kill();
    assert!(keys(&store, "blobs/").await > 2);
    assert_eq!((keys(&store, "manifest").await, keys(&store, "policies/").await), (1, 4));
    end_all_leases(&store).await;

    let tierflow = store.tierflow().await;
    serves_rate(&tierflow, 2).await;
    assert_eq!(tierflow.status().await["documents"], 4 + LARGE);
    is_in_place(&store, 4 + LARGE).await;
    // Whoever put it in place, the acknowledged revision is a base.
    may_write(&tierflow).await;
    let base = answer.header("etag").unwrap();
    let next = tierflow.send("PUT", PLAN, &[("if-match", base)], &plan(3)).await;
    assert_eq!(next.status, 200, "{next:?}");
}

#[tokio::test]
async fn a_lost_race_leaves_nothing() {
    let store = Store::start_shop().await;
    let front = Front::start(store.etcd.address).await;
    let tierflow = serving(&store, &front).await;
    let put = |key: String, value: String| {
        let mut client = store.client.clone();
        async move { drop(client.put(key, value, None).await.unwrap()) }
    };
    // Somebody else's document comes between the look and the commit. The next attempt takes the blobs that are there.
    let (mut client, other) =
        (store.client.clone(), put(key("Tenant", "other"), document("Tenant", "other", "{plan: standard}")));
    let (staged, leases) = oneshot::channel();
    front.before(COMMIT, async move {
        let blobs = client.get("/tierflow/blobs/", Some(GetOptions::new().with_prefix())).await.unwrap();
        staged.send(blobs.kvs().iter().map(etcd_client::KeyValue::lease).collect::<Vec<_>>()).unwrap();
        other.await;
    });
    let answer = send(&store, &tierflow, "POST", "/v1/apply", &set(LARGE)).await;
    assert_eq!((answer.status.as_u16(), front.is_before_done()), (200, true), "{answer:?}");
    assert_eq!(front.seen("blobs/"), 1, "how often a blob was put");
    let leases = leases.await.unwrap();
    assert!(leases.len() == 1 && !leases.contains(&0), "who dies now leaves nothing for ever: {leases:?}");
    is_in_place(&store, 5 + LARGE).await;
    serves_rate(&tierflow, 2).await;
    // One of its own does, and there is no next attempt.
    front.before(COMMIT, put(key("Plan", "standard"), plan(3)));
    let answer = send(&store, &tierflow, "POST", "/v1/apply", &set(LARGE)).await;
    assert_eq!((answer.status.as_u16(), front.is_before_done()), (412, true), "{answer:?}");
    assert_eq!((keys(&store, "blobs/").await, keys(&store, "manifest").await), (0, 0));
}

#[tokio::test]
async fn a_large_change_that_nobody_can_read_is_told_and_can_be_given_up() {
    let store = Store::start_shop().await;
    let tierflow = store.tierflow().await;
    serves_rate(&tierflow, 1).await;
    may_write(&tierflow).await;
    let change = Change { id: DocumentId::new(Kind::Plan, "standard"), content: Some(plan(9).into_bytes().into()) };
    let (blobs, manifest) = pack(&[change], "left");
    let nameless = serde_json::to_string(&manifest).unwrap();
    let values = [("nonsense", "the manifest is none"), (&nameless, "blobs/left/0000 is not there")];
    let unreadable = async || tierflow.status().await["source"]["unreadable_change"].as_str().map(str::to_owned);
    for ((value, why), rate_now) in values.into_iter().zip(1..) {
        store.put("/tierflow/manifest", value).await;
        let told = eventually("it is told", unreadable).await;
        assert!(told.starts_with("/tierflow/manifest, revision ") && told.contains(why), "{told}");
        let refused = send(&store, &tierflow, "PUT", PLAN, &plan(rate_now + 1)).await;
        assert_eq!(refused.status, 409, "{refused:?}");
        let text = refused.text();
        assert!(text.contains("(/tierflow/manifest) cannot be read") && text.contains(why), "{text}");
        assert_eq!(rate(&tierflow).await, Some(rate_now));

        let forced = format!("{PLAN}?force=it%20was%20lost");
        let forced = send(&store, &tierflow, "PUT", &forced, &plan(rate_now + 1)).await;
        assert_eq!(forced.status, 200, "{forced:?}");
        serves_rate(&tierflow, rate_now + 1).await;
        assert_eq!((keys(&store, "manifest").await, unreadable().await), (0, None));
    }
    assert_eq!(send(&store, &tierflow, "PUT", PLAN, &plan(4)).await.status, 200);
    // Blobs that no manifest names are swept away.
    store.put(&format!("/tierflow/{}", blobs[0].0), "x").await;
    eventually("nothing is left", async || (keys(&store, "blobs/").await == 0).then_some(())).await;
    assert_eq!((resyncs(&tierflow, "diverged").await, resyncs(&tierflow, "torn").await), (0, 0));
}

#[tokio::test]
async fn blobs_that_are_being_staged_are_not_swept_away() {
    let store = Store::start().await;
    let settings = EtcdSettings { endpoints: Vec::new(), prefix: "/tierflow".to_owned(), user: None, tls: None };
    let connection = Connection::open(&settings, &format!("http://{}", store.etcd.address)).await.unwrap();
    let lease = connection.grant(Duration::from_secs(60)).await.unwrap();
    let put = |key: &str, lease| Commit {
        puts: vec![(format!("/tierflow/blobs/{key}"), b"x".to_vec(), lease)],
        ..Default::default()
    };
    connection.commit(&put("1/0000", 0)).await.unwrap().unwrap();
    connection.commit(&put("2/0000", lease)).await.unwrap().unwrap();
    let sweep = Commit {
        unleased: Some("/tierflow/blobs/".to_owned()),
        delete_all: Some("/tierflow/blobs/".to_owned()),
        ..Default::default()
    };
    assert_eq!(connection.commit(&sweep).await, Ok(None));
    assert_eq!(keys(&store, "blobs/").await, 2);
    connection.revoke(lease).await.unwrap();
    assert!(connection.commit(&sweep).await.unwrap().is_some());
    assert_eq!(keys(&store, "blobs/").await, 0);
}

#[tokio::test]
async fn a_change_is_made_although_the_lease_of_records_is_gone() {
    let store = Store::start_shop().await;
    let tierflow = store.tierflow_at(store.endpoint(), &["--replica-id=a".to_owned()]).await;
    serves_rate(&tierflow, 1).await;
    may_write(&tierflow).await;
    assert_eq!(send(&store, &tierflow, "PUT", PLAN, &plan(2)).await.status, 200);
    let mut client = store.client.clone();
    let own = client.get("/tierflow/servers/a", None).await.unwrap().kvs()[0].lease();
    let leases = client.leases().await.unwrap();
    let others: Vec<i64> = leases.leases().iter().map(|lease| lease.id()).filter(|lease| *lease != own).collect();
    assert!(!others.is_empty());
    for lease in others {
        client.lease_revoke(lease).await.unwrap();
    }
    let answer = send(&store, &tierflow, "PUT", PLAN, &plan(3)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    serves_rate(&tierflow, 3).await;
}

/// Each time etcd is asked too late, and the answer that nothing was changed has to stay true.
#[tokio::test]
async fn a_request_that_was_made_impossible_may_be_lost_again() {
    let store = Store::start_shop().await;
    let front = Front::start(store.etcd.address).await;
    let tierflow = serving(&store, &front).await;
    let base = store.put("/elsewhere", "x").await.to_string();
    let headers = [("x-config-base-version", base.as_str()), ("idempotency-key", "one")];
    for _ in 0..2 {
        front.lose("rate: 2/h", Part::Question);
        let undone = tierflow.send("PUT", PLAN, &headers, &plan(2)).await;
        assert_eq!(undone.status, 503, "{undone:?}");
        assert_eq!(front.ask_lost().await, 1);
        let response = store.client.clone().get(key("Plan", "standard"), None).await.unwrap();
        assert_eq!(response.kvs()[0].version(), 1, "nothing was changed");
    }
    assert_eq!(tierflow.send("PUT", PLAN, &headers, &plan(2)).await.status, 200);
    serves_rate(&tierflow, 2).await;
}

/// As `apply` and `get` follow each other in a script.
#[tokio::test]
async fn an_acknowledged_change_is_shown_to_whoever_reads_next() {
    let store = Store::start_shop().await;
    let front = Front::start(store.etcd.address).await;
    let tierflow = serving(&store, &front).await;
    front.set(Manner::Hold, "Plan/standard");
    let base = store.put("/elsewhere", "x").await.to_string();
    let headers = [("x-config-base-version", base.as_str())];
    let body = plan(2);
    let change = tierflow.send("PUT", PLAN, &headers, &body);
    tokio::pin!(change);
    let shown_nowhere = async {
        eventually("the replica is not told", async || front.is_holding().then_some(())).await;
        assert_eq!(rate(&tierflow).await, Some(1));
    };
    tokio::select! {
        biased;
        answer = &mut change => panic!("acknowledged before it is shown: {answer:?}"),
        () = shown_nowhere => {}
    }
    front.behave();
    let answer = change.await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!((json_of(&answer)["shown"].as_bool(), rate(&tierflow).await), (Some(true), Some(2)));

    // It is done all the same where the replica is told of nothing.
    front.set(Manner::Hold, "Plan/standard");
    let answer = send(&store, &tierflow, "PUT", PLAN, &plan(3)).await;
    assert_eq!((answer.status.as_u16(), json_of(&answer)["shown"].as_bool()), (200, Some(false)), "{answer:?}");
    front.behave();
    serves_rate(&tierflow, 3).await;
}

#[tokio::test]
async fn documents_of_an_apply_may_require_keys() {
    let store = Store::start_shop().await;
    let tierflow = store.tierflow().await;
    serves_rate(&tierflow, 1).await;
    may_write(&tierflow).await;
    let service = tierflow.json("/v1/policies/Service/upstream").await["revision"].clone();
    let requires = format!("requires: [{{key: policies/Service/upstream, revision: {service}}}]");
    let plan = document("Plan", "standard", &format!("{{limits: [{{rate: 2/h}}], {requires}}}"));
    let answer = send(&store, &tierflow, "POST", "/v1/apply", &plan).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    serves_rate(&tierflow, 2).await;
    assert_eq!(tierflow.status().await["refused"], Value::Array(vec![]));
}
