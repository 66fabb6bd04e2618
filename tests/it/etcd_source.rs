//! Policies from a real etcd: what is changed there is served, whatever happens to etcd and on the way to it.

use std::time::Duration;

use etcd_client::{CompactionOptions, Compare, CompareOp, Txn, TxnOp};
use serde_json::Value;

use crate::forgetful::{Front, Manner};
use crate::harness::{DEADLINE, Edge, Load, Tierflow, eventually, eventually_within, free_address, send_signal};
use crate::kit::etcd::Etcd;
use crate::kit::upstream::Upstream;
use crate::proxy::{Fault, Proxy};
use crate::store::{Store, check, document, key, nowhere, rate, resyncs, serves_rate, source};

#[tokio::test]
async fn what_is_put_and_deleted_is_served() {
    let store = Store::start_shop().await;
    let tierflow = store.tierflow().await;
    serves_rate(&tierflow, 1).await;
    let revision = store.put_rate(2).await;
    serves_rate(&tierflow, 2).await;
    let status = tierflow.status().await;
    // etcd's revision rises with every key, also with what this Tierflow writes of itself.
    assert!(status["revision"].as_u64() >= u64::try_from(revision).ok(), "{status}");
    assert_eq!(status["documents"], 4);
    let document = tierflow.json("/v1/policies/Plan/standard").await;
    assert_eq!(document["origin"], "/tierflow/policies/Plan/standard");
    assert_eq!(document["revision"], revision);

    store.put(&key("Tenant", "acme inc/7"), &crate::store::document("Tenant", "acme inc/7", "{plan: standard}")).await;
    eventually("a tenant is there", async || (tierflow.status().await["documents"] == 5).then_some(())).await;
    store.delete(&key("Tenant", "acme inc/7")).await;
    eventually("the tenant is gone", async || (tierflow.status().await["documents"] == 4).then_some(())).await;
}

#[tokio::test]
async fn keys_that_change_together_are_one_generation() {
    let store = Store::start_shop().await;
    let tierflow = store.tierflow().await;
    serves_rate(&tierflow, 1).await;
    let generation = tierflow.generation().await;
    // Neither could come without the other.
    store
        .put_all(&[
            (key("Api", "new"), document("Api", "new", "{gateway: edge, match: {path: /new}, service: fresh}")),
            (key("Service", "fresh"), document("Service", "fresh", "{endpoints: ['127.0.0.1:9102']}")),
            (key("Plan", "standard"), document("Plan", "standard", "{limits: [{rate: 2/h}]}")),
        ])
        .await;
    serves_rate(&tierflow, 2).await;
    let status = tierflow.status().await;
    assert_eq!((&status["generation"], &status["refused"]), (&Value::from(generation + 1), &Value::Array(vec![])));
}

#[tokio::test]
async fn a_key_with_a_mistake_keeps_its_last_good_version_also_in_another_run() {
    let store = Store::start_shop().await;
    let tierflow = store.tierflow_at(store.endpoint(), &store.state_dir()).await;
    serves_rate(&tierflow, 1).await;
    let revision =
        store.put(&key("Plan", "standard"), "kind: Plan\nname: standard\nlimits: [{rate: 5/fortnight}]\n").await;
    store.put(&key("Tenant", "acme"), &document("Tenant", "acme", "{plan: standard}")).await;
    store.put(&key("Thing", "x"), "kind: Thing\n").await;
    let refused = async |tierflow: &crate::harness::Tierflow| {
        eventually("everything else moves on", async || {
            let status = tierflow.status().await;
            let has_come = status["documents"] == 5 && status["refused"].as_array().unwrap().len() == 2;
            has_come.then(|| status["refused"].clone())
        })
        .await
    };
    let told = refused(&tierflow).await;
    let plan = told.as_array().unwrap().iter().find(|refusal| refusal["kind"] == "Plan").unwrap();
    assert_eq!((&plan["served"], &plan["revision"]), (&Value::from(true), &Value::from(revision)));
    assert_eq!(plan["problems"][0]["location"], "/tierflow/policies/Plan/standard:3:17");
    assert_eq!(plan["problems"][0]["path"], "limits[0].rate");
    assert_eq!(rate(&tierflow).await, Some(1));
    let strange = told.as_array().unwrap().iter().find(|refusal| refusal["kind"].is_null()).unwrap();
    let message = strange["problems"][0]["message"].as_str().unwrap();
    assert_eq!(message, "is no key of a document: expected /tierflow/policies/<Kind>/<name>");

    tierflow.signal("TERM");
    assert!(tierflow.ended().await.success(), "with what it served on the disk");
    let tierflow = store.tierflow_at(store.endpoint(), &store.state_dir()).await;
    refused(&tierflow).await;
    assert_eq!(rate(&tierflow).await, Some(1), "from the last good set");
    store.put_rate(3).await;
    serves_rate(&tierflow, 3).await;
}

#[tokio::test]
async fn a_document_under_the_key_of_another_is_refused() {
    let store = Store::start_shop().await;
    let tierflow = store.tierflow().await;
    serves_rate(&tierflow, 1).await;
    store.put(&key("Plan", "standard"), "kind: Plan\nname: gold\nlimits: [{rate: 5/h}]\n").await;
    let problem = eventually("it is refused", async || {
        let status = tierflow.status().await;
        status["refused"][0]["problems"][0]["message"].as_str().map(str::to_owned)
    });
    assert_eq!(problem.await, "makes this Plan gold, but the key is that of Plan standard");
    assert_eq!(rate(&tierflow).await, Some(1));
}

#[tokio::test]
async fn an_emptied_prefix_deletes_nothing_by_itself() {
    let store = Store::start_shop().await;
    let tierflow = store.tierflow().await;
    serves_rate(&tierflow, 1).await;
    let prefix = Some(etcd_client::DeleteOptions::new().with_prefix());
    store.client.clone().delete("/tierflow/", prefix).await.unwrap();
    eventually("it is noticed", async || store.log().contains("the source holds no document").then_some(())).await;
    assert_eq!(rate(&tierflow).await, Some(1));
    assert_eq!(tierflow.status().await["documents"], 4);
}

#[tokio::test]
async fn without_etcd_and_without_a_last_good_set_nothing_is_served_until_etcd_is_there() {
    let mut store = Store::start_shop().await;
    store.etcd.kill();
    let tierflow = store.tierflow().await;
    eventually("etcd is missed", async || tierflow.status().await["source"]["trouble"].is_string().then_some(())).await;
    assert_eq!(tierflow.ask("/readyz").await.status, 503);
    assert_eq!(tierflow.ask("/healthz").await.status, 200);
    assert!(tierflow.status().await["generation"].is_null());
    store.etcd.restart().unwrap();
    serves_rate(&tierflow, 1).await;
    assert_eq!(tierflow.ask("/readyz").await.status, 200);
}

#[tokio::test]
async fn without_etcd_the_last_good_set_is_served() {
    let mut store = Store::start_shop().await;
    let tierflow = store.tierflow_at(store.endpoint(), &store.state_dir()).await;
    serves_rate(&tierflow, 1).await;
    store.put_rate(2).await;
    serves_rate(&tierflow, 2).await;
    tierflow.signal("TERM");
    assert!(tierflow.ended().await.success());
    store.etcd.kill();

    let tierflow = store.tierflow_at(store.endpoint(), &store.state_dir()).await;
    serves_rate(&tierflow, 2).await;
    let status = tierflow.status().await;
    assert_eq!(status["source"]["serves_last_good_of_earlier_run"], true);
    assert_eq!(tierflow.ask("/readyz").await.status, 200, "degraded is not dead");
    assert_eq!(check(&tierflow, "source").await["ok"], false);

    store.etcd.restart().unwrap();
    store.answers().await;
    store.put_rate(3).await;
    serves_rate(&tierflow, 3).await;
    let is_told = async || {
        let status = tierflow.status().await;
        (status["source"]["serves_last_good_of_earlier_run"] == false).then_some(())
    };
    eventually("the source is served again", is_told).await;
}

#[tokio::test]
async fn an_etcd_that_is_killed_and_comes_back_is_followed_again() {
    let mut store = Store::start_shop().await;
    let tierflow = store.tierflow().await;
    serves_rate(&tierflow, 1).await;
    for expected in 2..5 {
        store.etcd.kill();
        eventually("it is missed", async || tierflow.status().await["source"]["trouble"].is_string().then_some(()))
            .await;
        assert_eq!(tierflow.ask("/readyz").await.status, 200);
        store.etcd.restart().unwrap();
        store.answers().await;
        store.put_rate(expected).await;
        serves_rate(&tierflow, expected).await;
        assert_eq!(check(&tierflow, "source").await["ok"], true);
    }
}

#[tokio::test]
async fn an_etcd_that_hangs_is_noticed_and_followed_again() {
    let store = Store::start_shop().await;
    let tierflow = store.tierflow().await;
    serves_rate(&tierflow, 1).await;
    send_signal(store.etcd.id(), "STOP");
    let trouble =
        eventually("it is missed", async || tierflow.status().await["source"]["trouble"].as_str().map(str::to_owned));
    assert!(trouble.await.contains("no answer within 1s"));
    assert_eq!(rate(&tierflow).await, Some(1));
    send_signal(store.etcd.id(), "CONT");
    store.put_rate(2).await;
    serves_rate(&tierflow, 2).await;
}

#[tokio::test]
async fn a_compaction_while_cut_off_leaves_no_gap() {
    let store = Store::start_shop().await;
    store.put(&key("Tenant", "old"), &document("Tenant", "old", "{plan: standard}")).await;
    let proxy = Proxy::start(store.etcd.address).await;
    let tierflow = store.tierflow_at(source(&[proxy.address]), &[]).await;
    serves_rate(&tierflow, 1).await;
    for fault in [Fault::Cut, Fault::Blackhole] {
        proxy.set(fault);
        eventually("it is missed", async || tierflow.status().await["source"]["trouble"].is_string().then_some(()))
            .await;
        store.delete(&key("Tenant", "old")).await;
        let revision = store.put_rate(2).await;
        let physical = Some(CompactionOptions::new().with_physical());
        store.client.clone().compact(revision, physical).await.unwrap();
        proxy.set(Fault::None);
        serves_rate(&tierflow, 2).await;
        assert_eq!(tierflow.status().await["documents"], 4, "the deletion is found by absence");

        store.put(&key("Tenant", "old"), &document("Tenant", "old", "{plan: standard}")).await;
        store.put_rate(1).await;
        serves_rate(&tierflow, 1).await;
    }
}

#[tokio::test]
async fn a_watch_that_begins_behind_a_compaction_is_noticed() {
    let store = Store::start_shop().await;
    let front = Front::start(store.etcd.address).await;
    let tierflow = store.tierflow_at(source(&[front.address]), &[]).await;
    serves_rate(&tierflow, 1).await;
    let mut client = store.client.clone();
    let mut rate = 1;
    // The listing is made, and its watch comes late: a second at most, or it is given up.
    while resyncs(&tierflow, "compacted").await == 0 {
        let waiting = front.waiting();
        front.open(false);
        eventually("a watch waits", async || (front.waiting() > waiting).then_some(())).await;
        rate += 1;
        store.put_rate(rate).await;
        let revision = store.put(&key("Tenant", "new"), &document("Tenant", "new", "{plan: standard}")).await;
        client.compact(revision, Some(CompactionOptions::new().with_physical())).await.unwrap();
        front.open(true);
        serves_rate(&tierflow, rate).await;
        assert!(rate < 50, "never met");
    }
    assert_eq!(tierflow.status().await["documents"], 5);
}

#[tokio::test]
async fn a_store_that_begins_anew_is_believed_after_a_while() {
    let mut store = Store::start_shop().await;
    let tierflow = store.tierflow().await;
    serves_rate(&tierflow, 1).await;
    for rate in 2..50 {
        store.put_rate(rate).await;
    }
    serves_rate(&tierflow, 49).await;
    store.etcd.kill();
    std::fs::remove_dir_all(store.path("etcd")).unwrap();
    store.etcd.restart().unwrap();
    store.answers().await;
    let documents = crate::store::SHOP.map(|(kind, name, fields)| (key(kind, name), document(kind, name, fields)));
    store.put_all(&documents).await;
    store.put_rate(7).await;
    eventually("it is not believed at first", async || {
        tierflow.status().await["source"]["trouble"].as_str()?.contains("was known before").then_some(())
    })
    .await;
    assert_eq!(rate(&tierflow).await, Some(49));
    serves_rate(&tierflow, 7).await;
}

/// As where a balancer stands in front of members that are none of one cluster.
#[tokio::test]
async fn answers_of_another_cluster_are_not_mixed_with_what_is_known() {
    let (store, other) = (Store::start_shop().await, Store::start_shop().await);
    other.put_rate(2).await;
    let front = Front::start(store.etcd.address).await;
    let tierflow = store.tierflow_at(source(&[front.address]), &[]).await;
    serves_rate(&tierflow, 1).await;
    front.lead_to(other.etcd.address);
    eventually("it is noticed", async || (resyncs(&tierflow, "other_cluster").await > 0).then_some(())).await;
    serves_rate(&tierflow, 2).await;
}

#[tokio::test]
async fn a_slow_network_delays_and_loses_nothing() {
    let store = Store::start_shop().await;
    let proxy = Proxy::start(store.etcd.address).await;
    let tierflow = store.tierflow_at(source(&[proxy.address]), &[]).await;
    serves_rate(&tierflow, 1).await;
    for (rate, fault) in [(2, Fault::Delay(Duration::from_millis(200))), (3, Fault::Trickle), (4, Fault::None)] {
        proxy.set(fault);
        store.put_rate(rate).await;
        serves_rate(&tierflow, rate).await;
    }
    assert_eq!(resyncs(&tierflow, "unreachable").await, 0);
}

#[tokio::test]
async fn events_that_are_never_told_are_found_by_listing() {
    let store = Store::start_shop().await;
    store.put(&key("Tenant", "old"), &document("Tenant", "old", "{plan: standard}")).await;
    let front = Front::start(store.etcd.address).await;
    let tierflow = store.tierflow_at(source(&[front.address]), &[]).await;
    serves_rate(&tierflow, 1).await;
    front.set(Manner::Forget, "/");
    store.put_rate(2).await;
    store.delete(&key("Tenant", "old")).await;
    eventually("both are forgotten", async || (front.forgotten() == 2).then_some(())).await;
    // The next event comes, so nothing looks amiss.
    front.behave();
    store.put(&key("Tenant", "new"), &document("Tenant", "new", "{plan: standard}")).await;
    eventually("the event after it", async || {
        (tierflow.ask("/v1/policies/Tenant/new").await.status == 200).then_some(())
    })
    .await;
    assert_eq!((rate(&tierflow).await, tierflow.status().await["documents"].as_u64()), (Some(1), Some(6)));
    // The listing comes within 30 s; what a slow machine needs comes on top of it.
    let is_served = async || (rate(&tierflow).await == Some(2)).then_some(());
    eventually_within(DEADLINE * 2, "the rate is served", is_served).await;
    assert_eq!(tierflow.status().await["documents"], 5, "the deletion is found too");
    assert_eq!(resyncs(&tierflow, "diverged").await, 1);
}

#[tokio::test]
async fn events_that_come_twice_and_late_change_nothing() {
    let store = Store::start_shop().await;
    let front = Front::start(store.etcd.address).await;
    let tierflow = store.tierflow_at(source(&[front.address]), &[]).await;
    serves_rate(&tierflow, 1).await;
    front.set(Manner::Repeat, "/Plan/standard");
    let mut generation = tierflow.generation().await;
    for expected in 2..6 {
        store.put_rate(expected).await;
        serves_rate(&tierflow, expected).await;
        generation += 1;
        assert_eq!(tierflow.generation().await, generation);
    }
    // What comes a second time comes a moment later.
    eventually("the events that came twice are counted", async || {
        let metrics = tierflow.ask("/metrics").await.text();
        let old = metrics.lines().find_map(|line| line.strip_prefix("tierflow_source_old_events_total ")).unwrap();
        (old.parse::<u32>().unwrap() >= 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_left_for_the_next() {
    let store = Store::start_shop().await;
    let proxy = Proxy::start(store.etcd.address).await;
    let tierflow = store.tierflow_at(source(&[nowhere(), proxy.address, nowhere()]), &[]).await;
    serves_rate(&tierflow, 1).await;
    let second = Proxy::start(store.etcd.address).await;
    let tierflow = store.tierflow_at(source(&[proxy.address, second.address]), &[]).await;
    serves_rate(&tierflow, 1).await;
    for (expected, gone) in [(2, &proxy), (3, &second)] {
        proxy.set(Fault::None);
        second.set(Fault::None);
        gone.set(Fault::Cut);
        store.put_rate(expected).await;
        serves_rate(&tierflow, expected).await;
    }
}

/// Envoy's requests, while everything happens to etcd that can.
#[tokio::test(flavor = "multi_thread")]
async fn traffic_goes_on_whatever_happens_to_etcd() {
    let mut store = Store::start().await;
    let upstream = Upstream::start("upstream", (std::net::Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let listen = free_address();
    let gateway = "nodes: {clusters: [edge]}, limiter: {timeout: 5s, on_error: deny}, \
                   tenant: {from: {header: x-tenant-id}, default_plan: standard}";
    for (kind, name, fields) in [
        ("Plan", "standard", "{limits: [{rate: 1000000/s}]}".to_owned()),
        ("Gateway", "edge", format!("{{listen: {listen}, {gateway}}}")),
        ("Service", "upstream", format!("{{endpoints: ['{}']}}", upstream.address)),
        ("Api", "any", "{gateway: edge, match: {path_prefix: /}, service: upstream}".to_owned()),
    ] {
        store.put(&key(kind, name), &document(kind, name, &fields)).await;
    }
    let proxy = Proxy::start(store.etcd.address).await;
    let tierflow = store.tierflow_at(source(&[proxy.address]), &store.state_dir()).await;
    eventually("it is served", async || tierflow.status().await["ready"].as_bool().filter(|ready| *ready)).await;
    let edge = Edge::start(store.folder.path(), &tierflow, "edge-1", "delta", listen);
    edge.ready().await;
    let load = Load::start(edge.url("/"));
    let is_missed = async || {
        eventually("it is missed", async || tierflow.status().await["source"]["trouble"].is_string().then_some(()))
            .await
    };

    store.etcd.kill();
    is_missed().await;
    store.etcd.restart().unwrap();
    store.answers().await;
    send_signal(store.etcd.id(), "STOP");
    is_missed().await;
    send_signal(store.etcd.id(), "CONT");
    for fault in [Fault::Cut, Fault::Blackhole] {
        proxy.set(fault);
        is_missed().await;
        let revision = store.put_rate(1_000_001).await;
        let physical = Some(CompactionOptions::new().with_physical());
        store.client.clone().compact(revision, physical).await.unwrap();
        proxy.set(Fault::None);
        serves_rate(&tierflow, 1_000_001).await;
        store.put_rate(1_000_000).await;
        serves_rate(&tierflow, 1_000_000).await;
    }
    assert_eq!(load.stop().await, [""; 0]);
    assert!(upstream.requests() > 100);
}

/// A member that hangs, wherever Tierflow is connected; and the only one left of three, which must not be believed.
#[tokio::test]
async fn of_three_members_a_majority_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let peers: Vec<_> = ["a", "b", "c"].into_iter().map(|name| (name, free_address())).collect();
    let cluster: Vec<String> = peers.iter().map(|(name, peer)| format!("{name}=http://{peer}")).collect();
    let members: Vec<Etcd> = peers
        .iter()
        .map(|(name, peer)| {
            let own = folder.path().join(name);
            std::fs::create_dir(&own).unwrap();
            let flags = [format!("--name={name}"), format!("--initial-cluster={}", cluster.join(","))];
            Etcd::start(&own, free_address(), *peer, &flags).unwrap()
        })
        .collect();
    let addresses: Vec<_> = members.iter().map(|member| member.address).collect();
    let client = async |member: usize| {
        etcd_client::Client::connect([format!("http://{}", addresses[member])], None).await.unwrap()
    };
    let put = async |member: usize, rate: u32| {
        let mut client = client(member).await;
        let text = document("Plan", "standard", &format!("{{limits: [{{rate: {rate}/h}}]}}"));
        // What was given up may be done late. So each attempt counts only while nothing else was done.
        eventually("a majority writes", async || {
            let attempt = async {
                let known = client.get(key("Plan", "standard"), None).await.ok()?;
                let revision = known.kvs().first().map_or(0, |kv| kv.mod_revision());
                let is_same = Compare::mod_revision(key("Plan", "standard"), CompareOp::Equal, revision);
                let put = TxnOp::put(key("Plan", "standard"), text.clone(), None);
                let done = client.txn(Txn::new().when([is_same]).and_then([put])).await.ok()?;
                done.succeeded().then_some(())
            };
            tokio::time::timeout(Duration::from_secs(2), attempt).await.ok()?
        })
        .await;
    };
    put(0, 1).await;
    let log = folder.path().join("tierflow.log");
    let tierflow = Tierflow::serve(&log, source(&addresses), &[], crate::harness::any_addresses()).await;
    serves_rate(&tierflow, 1).await;
    for (hanging, (member, rate)) in members.iter().zip(2..).enumerate() {
        send_signal(member.id(), "STOP");
        put((hanging + 1) % 3, rate).await;
        serves_rate(&tierflow, rate).await;
        send_signal(member.id(), "CONT");
    }
    put(0, 5).await;
    serves_rate(&tierflow, 5).await;
    // Two of three hang: the one that is left cannot know what the others know.
    send_signal(members[1].id(), "STOP");
    send_signal(members[2].id(), "STOP");
    eventually("it is missed", async || tierflow.status().await["source"]["trouble"].is_string().then_some(())).await;
    assert_eq!((rate(&tierflow).await, tierflow.ask("/readyz").await.status.as_u16()), (Some(5), 200));
    send_signal(members[1].id(), "CONT");
    put(1, 6).await;
    serves_rate(&tierflow, 6).await;
    send_signal(members[2].id(), "CONT");
}
