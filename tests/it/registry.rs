//! Instances that register themselves: a real Envoy sends them requests from when they come until they go.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use etcd_client::GetOptions;
use serde_json::{Value, json};

use crate::harness::{Edge, Program, Tierflow, eventually, free_address};
use crate::kit::upstream::Upstream;
use crate::proxy::{Fault, Proxy};
use crate::store::{Store, document, key, source};

/// How long a lease lives without its holder, in seconds.
const TTL: u64 = 2;

/// A running `tierflow register`.
fn register(etcd: SocketAddr, address: SocketAddr, flags: &[&str]) -> Program {
    register_with(etcd, address, flags, Stdio::null())
}

/// With a place for what it logs.
fn register_with(etcd: SocketAddr, address: SocketAddr, flags: &[&str], log: Stdio) -> Program {
    let child = Command::new(env!("CARGO_BIN_EXE_tierflow"))
        .args(["register", "--service=order", &format!("--address={address}"), &format!("--etcd=http://{etcd}")])
        .args(flags)
        // A flag goes before it.
        .env("TIERFLOW_TTL", TTL.to_string())
        .stdin(Stdio::null())
        .stderr(log)
        .spawn();
    Program(child.unwrap())
}

struct World {
    edge: Edge,
    tierflow: Tierflow,
    store: Store,
}

impl World {
    /// With a service whose instances register, seen through a proxy by Tierflow. The proxy runs beside verbs that wait
    /// for it, so it needs a thread of its own.
    async fn start(when_empty: &str) -> (Self, Proxy) {
        let store = Store::start().await;
        let listen = free_address();
        for (kind, name, fields) in [
            ("Gateway", "edge", format!("{{nodes: {{clusters: [edge]}}, listen: {listen}, limiter: {{timeout: 5s}}}}")),
            ("Service", "upstream", format!("{{registry: order, when_empty: {when_empty}}}")),
            ("Api", "any", "{gateway: edge, match: {path_prefix: /}, service: upstream}".to_owned()),
        ] {
            store.put(&key(kind, name), &document(kind, name, &fields)).await;
        }
        let proxy = Proxy::start(store.etcd.address).await;
        let tierflow = store.tierflow_at(source(&[proxy.address]), &[]).await;
        eventually("a set is served", async || tierflow.status().await["ready"].as_bool().filter(|ready| *ready)).await;
        let edge = Edge::start(store.folder.path(), &tierflow, "edge-1", "delta", listen);
        edge.ready().await;
        (Self { edge, tierflow, store }, proxy)
    }

    /// The upstreams that answer a few requests; empty where there is none to ask.
    async fn answering(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for _ in 0..8 {
            let answer = self.edge.get("/").await;
            if answer.status == 200 {
                names.insert(answer.text().split(' ').next().unwrap().to_owned());
            } else {
                assert_eq!(answer.status, 503, "{answer:?}");
            }
        }
        names
    }

    async fn answered_by(&self, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
        eventually("the right upstreams answer", async || (self.answering().await == expected).then_some(())).await;
    }

    /// So many instances are there, and every request is answered by one of them.
    async fn has_lost_nobody(&self, instances: usize) {
        assert_eq!(self.registered().await.as_array().map(Vec::len), Some(instances));
        for _ in 0..8 {
            assert_eq!(self.edge.get("/").await.status, 200);
        }
    }

    /// The instances whose keys are in etcd.
    async fn keys(&self) -> usize {
        let prefix = Some(GetOptions::new().with_prefix().with_keys_only());
        self.store.client.clone().get("/tierflow/services/order/", prefix).await.unwrap().kvs().len()
    }

    async fn registered(&self) -> Value {
        self.tierflow.status().await["registered"]["upstream"].clone()
    }
}

async fn upstream(name: &str) -> Upstream {
    Upstream::start(name, (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_take_requests_from_when_they_come_until_they_go() {
    let (world, _proxy) = World::start("empty").await;
    let (a, b) = (upstream("a").await, upstream("b").await);
    world.answered_by(&[]).await;
    let mut first = register(world.store.etcd.address, a.address, &[]);
    world.answered_by(&["a"]).await;
    let second = register(world.store.etcd.address, b.address, &["--weight=2"]);
    world.answered_by(&["a", "b"]).await;
    let weights: BTreeSet<u64> =
        world.registered().await.as_array().unwrap().iter().map(|i| i["weight"].as_u64().unwrap()).collect();
    assert_eq!(weights, BTreeSet::from([1, 2]));
    // One is killed, and gone when its lease is; the other gives its key back.
    first.kill();
    world.answered_by(&["b"]).await;
    second.signal("TERM");
    world.answered_by(&[]).await;
    assert_eq!(world.registered().await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_instances_stay_where_they_are_to_be_kept() {
    let (world, _proxy) = World::start("keep").await;
    let a = upstream("a").await;
    let instance = register(world.store.etcd.address, a.address, &[]);
    world.answered_by(&["a"]).await;
    let its_key = format!("/tierflow/services/order/{}", a.address);
    drop(instance);
    let is_gone = async || world.store.client.clone().get(&*its_key, None).await.unwrap().kvs().is_empty();
    eventually("its lease runs out", async || is_gone().await.then_some(())).await;
    // Whatever Tierflow is told after that, it was told of the end before.
    world.store.put(&key("Plan", "new"), &document("Plan", "new", "{limits: [{rate: 1/h}]}")).await;
    eventually("it is told", async || (world.tierflow.status().await["documents"] == 4).then_some(())).await;
    assert_eq!(world.answering().await, BTreeSet::from(["a".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_is_cut_off_loses_no_instance() {
    let (world, proxy) = World::start("empty").await;
    let (a, b) = (upstream("a").await, upstream("b").await);
    // Instances reach etcd by the same way.
    let _first = register(proxy.address, a.address, &[]);
    let _second = register(proxy.address, b.address, &[]);
    world.answered_by(&["a", "b"]).await;
    proxy.set(Fault::Blackhole);
    let are_there = async |instances: usize| {
        world.has_lost_nobody(2).await;
        (world.keys().await == instances).then_some(())
    };
    eventually("their leases run out", async || are_there(0).await).await;
    world.store.outlast_lease(TTL, async || world.has_lost_nobody(2).await).await;
    proxy.set(Fault::None);
    eventually("they are registered anew", async || are_there(2).await).await;
    // Whatever Tierflow is told after that, it was told of them before.
    world.store.put(&key("Plan", "new"), &document("Plan", "new", "{limits: [{rate: 1/h}]}")).await;
    eventually("it is told", async || {
        world.has_lost_nobody(2).await;
        (world.tierflow.status().await["documents"] == 4).then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_that_was_taken_for_dead_takes_nothing_back() {
    let store = Store::start().await;
    let address = free_address();
    let holder = async || {
        let key = format!("/tierflow/services/order/{address}");
        let response = store.client.clone().get(key, None).await.unwrap();
        response.kvs().first().map(|kv| (kv.value_str().unwrap().to_owned(), kv.lease()))
    };
    let held_with_weight = async |weight: u32| {
        let mark = format!("\"weight\":{weight}");
        eventually("the key is held", async || holder().await.filter(|(value, _)| value.contains(&mark))).await
    };
    let log = store.path("first.log");
    let logged = Stdio::from(std::fs::File::create(&log).unwrap());
    let first = register_with(store.etcd.address, address, &["--weight=1"], logged);
    held_with_weight(1).await;
    // Etcd knows it a moment earlier than the process.
    eventually("it knows that it holds the key", async || {
        std::fs::read_to_string(&log).unwrap().contains("held in etcd").then_some(())
    })
    .await;
    first.signal("STOP");
    // It does not lose its lease on a busy machine.
    let second = register(store.etcd.address, address, &["--weight=2", "--ttl=60"]);
    let held = held_with_weight(2).await;
    first.signal("CONT");
    eventually("it has tried to register anew", async || {
        assert_eq!(holder().await.as_ref(), Some(&held));
        std::fs::read_to_string(&log).unwrap().contains("somebody else holds the key").then_some(())
    })
    .await;
    store.outlast_lease(TTL, async || assert_eq!(holder().await.as_ref(), Some(&held))).await;
    // When the other one goes, the key is free.
    second.signal("TERM");
    held_with_weight(1).await;
}

#[tokio::test]
async fn a_slow_way_to_etcd_and_a_short_outage_lose_no_instance() {
    let store = Store::start().await;
    let proxy = Proxy::start(store.etcd.address).await;
    let address = free_address();
    let _instance = register(proxy.address, address, &[]);
    let key = format!("/tierflow/services/order/{address}");
    let life = async || {
        let response = store.client.clone().get(&*key, None).await.unwrap();
        // A slow machine may need a second lease, but the key never goes.
        response.kvs().first().map(|kv| kv.create_revision())
    };
    let first = eventually("it is registered", life).await;
    let lives_on = async || assert_eq!(life().await, Some(first));
    proxy.set(Fault::Delay(Duration::from_millis(150)));
    store.outlast_lease(TTL * 2, lives_on).await;
    for outage in [Fault::Blackhole, Fault::Cut] {
        proxy.set_until_met(outage).await;
        store.outlast_lease(TTL * 2, lives_on).await;
    }
}

#[tokio::test]
async fn a_lease_that_is_revoked_is_replaced() {
    let store = Store::start().await;
    let address = free_address();
    let _instance = register(store.etcd.address, address, &[]);
    let key = format!("/tierflow/services/order/{address}");
    let lease = async || store.client.clone().get(&*key, None).await.unwrap().kvs().first().map(|kv| kv.lease());
    let first = eventually("it is registered", lease).await;
    store.client.clone().lease_revoke(first).await.unwrap();
    eventually("it is registered anew", async || lease().await.filter(|lease| *lease != first)).await;
}

#[tokio::test]
async fn a_folder_of_policies_has_no_registry() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("policies");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("a.yaml"), "kind: Service\nname: order\nregistry: order\n").unwrap();
    std::fs::write(folder.join("b.yaml"), "kind: Plan\nname: p\nlimits: [{ rate: 1/s }]\n").unwrap();
    let tierflow = Tierflow::start(&folder).await;
    let refused = tierflow.status().await["refused"][0].clone();
    let message = "needs policies in etcd, which is where instances register";
    assert_eq!((&refused["name"], &refused["problems"][0]["message"]), (&json!("order"), &json!(message)));
    assert!(refused["problems"][0]["location"].as_str().unwrap().ends_with("a.yaml:3:11"));
}
