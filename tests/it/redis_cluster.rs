//! Counters in a real Redis Cluster: all or nothing across its nodes, while slots move and nodes die.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tierflow::counters::redis::{Redis, RedisSettings, RedisTls, keys};
use tierflow::counters::{Admission, Outcome};
use tierflow::limiter::Charge;
use tierflow::limiter::key::{CounterKey, KeyHasher};
use tierflow::policy::limit::{Algorithm, Mode};
use tierflow::policy::rate::Rate;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::harness::{eventually, free_address};
use crate::redis_sentinel::replicated;
use crate::redis_store::{Server, opening, settings};
use crate::tls::certificate;

/// Nodes with a third of the slots each, and a replica where it is asked for.
struct Cluster {
    masters: Vec<Server>,
    replicas: Vec<Server>,
}

const MASTERS: u16 = 3;
const SLOTS: u16 = 16384;

impl Cluster {
    async fn start(flags: &[&str]) -> Self {
        let node = || {
            let bus = free_address().port().to_string();
            let own = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", &bus];
            (Server::start(&[own.as_slice(), flags].concat()), bus)
        };
        let nodes: Vec<_> = (0..MASTERS).map(|_| node()).collect();
        let (first, first_bus) = &nodes[0];
        let port = first.redis.address.port().to_string();
        for ((server, _), number) in nodes.iter().zip(0..) {
            let [from, to] = [number, number + 1].map(|number: u32| number * u32::from(SLOTS) / u32::from(MASTERS));
            server.say(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &(to - 1).to_string()]).await;
            server.say(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]).await;
            server.say(&["CLUSTER", "MEET", "127.0.0.1", &port, first_bus]).await;
        }
        let cluster = Self { masters: nodes.into_iter().map(|(server, _)| server).collect(), replicas: Vec::new() };
        for server in &cluster.masters {
            is_well(server).await;
        }
        cluster
    }

    /// Gives one of the masters a replica.
    async fn add_replica(&mut self, of: usize, flags: &[&str]) {
        let bus = free_address().port().to_string();
        let own = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", &bus];
        let replica = Server::start(&[own.as_slice(), flags].concat());
        let master = &self.masters[of];
        let port = replica.redis.address.port().to_string();
        replica.connection().await;
        master.say(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await;
        let id = id(master).await;
        eventually("it knows its master", async || {
            let mut replicate = redis::cmd("CLUSTER");
            replicate.arg("REPLICATE").arg(&id);
            replicate.query_async::<()>(&mut replica.connection().await).await.ok()
        })
        .await;
        self.replicas.push(replica);
    }

    fn settings(&self) -> RedisSettings {
        // Two are enough to know all of them.
        let seeds: Vec<_> = self.masters.iter().take(2).map(|server| server.redis.address.to_string()).collect();
        RedisSettings { deadline: Duration::from_secs(5), ..settings(&format!("redis+cluster://{}", seeds.join(","))) }
    }

    /// A store that has connections to all of them.
    async fn store(&self) -> Arc<Redis> {
        let store = opening(self.settings());
        all_are_there(&store).await;
        store
    }

    /// A limit of 100 a day whose counter is at a node.
    async fn charge_at(&self, number: usize) -> Charge {
        for home in 0.. {
            let charge = charge(&format!("home{home}"), 100, 0);
            let slot = slot(&self.masters[number], charge.key).await;
            if self.owner(slot).redis.address == self.masters[number].redis.address {
                return charge;
            }
        }
        unreachable!("some of so many homes are there")
    }

    /// The node that has a slot.
    fn owner(&self, slot: u16) -> &Server {
        let number = (0..MASTERS)
            .rev()
            .find(|number| u32::from(slot) >= u32::from(*number) * u32::from(SLOTS) / u32::from(MASTERS));
        &self.masters[usize::from(number.unwrap())]
    }
}

async fn is_well(server: &Server) {
    eventually("the Cluster is well", async || {
        let mut info = redis::cmd("CLUSTER");
        let info: String = info.arg("INFO").query_async(&mut server.connection().await).await.unwrap();
        (info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")).then_some(())
    })
    .await;
}

async fn id(server: &Server) -> String {
    let mut id = redis::cmd("CLUSTER");
    id.arg("MYID").query_async(&mut server.connection().await).await.unwrap()
}

async fn all_are_there(store: &Redis) {
    eventually("all nodes are there", async || {
        let report = store.report();
        let slots: usize = report.nodes.iter().filter_map(|node| node.slots).sum();
        (report.nodes.len() == 3 && slots == usize::from(SLOTS) && report.connections_open == 6).then_some(())
    })
    .await;
}

async fn slot(server: &Server, key: CounterKey) -> u16 {
    let mut command = redis::cmd("CLUSTER");
    command.arg("KEYSLOT").arg(format!("{{{:04x}}}", key.home()));
    command.query_async(&mut server.connection().await).await.unwrap()
}

/// A limit a day of an API or of a tenant, all of whose limits have one home. What drains of it during a test is nothing.
fn charge(home: &str, limit: u32, algorithm: usize) -> Charge {
    let burst = NonZeroU32::new(limit).unwrap();
    let algorithms = [Algorithm::SlidingWindow, Algorithm::FixedWindow, Algorithm::TokenBucket { burst }];
    let key =
        KeyHasher::shared().part(home.as_bytes()).home().part(&limit.to_le_bytes()).part(&[algorithm as u8]).finish();
    let rate = Rate::parse(&format!("{limit}/d")).unwrap();
    Charge { key, rate, algorithm: algorithms[algorithm], mode: Mode::Enforce, hits: 1, is_exact: false }
}

fn remaining(admission: &Admission) -> Vec<u32> {
    let remaining = |outcome: &Outcome| match outcome {
        Outcome::Judged(verdict) => verdict.remaining,
        Outcome::NoRoom => panic!("no room"),
    };
    admission.outcomes.iter().map(remaining).collect()
}

async fn left(store: &Redis, charge: Charge) -> u32 {
    let look = [Charge { hits: 0, ..charge }];
    let told = eventually("the store decides", async || store.admit(&look).await.ok()).await;
    remaining(&told)[0]
}

async fn spend(store: &Redis, charge: Charge) -> u32 {
    remaining(&store.admit(&[charge]).await.unwrap())[0]
}

async fn settles_at(store: &Redis, charge: Charge, expected: u32) {
    let mut seen = 0;
    let settled = async || {
        seen = left(store, charge).await;
        (seen == expected).then_some(())
    };
    let settled = tokio::time::timeout(Duration::from_secs(20), eventually("what is left settles", settled)).await;
    assert!(settled.is_ok(), "{seen} are left, and not {expected}");
}

#[tokio::test]
async fn a_request_is_charged_to_all_its_counters_on_all_nodes_or_to_none() {
    let cluster = Cluster::start(&[]).await;
    let store = cluster.store().await;
    for algorithm in 0..3 {
        let in_shadow = |charge| Charge { mode: Mode::Shadow, ..charge };
        let of = |home: &str, limit| charge(&format!("{home}{algorithm}"), limit, algorithm);
        let lefts = async |charges: &[Charge]| {
            let mut lefts = Vec::new();
            for charge in charges {
                lefts.push(left(&store, *charge).await);
            }
            lefts
        };
        let request = [of("api", 5), of("api", 90), of("acme", 60), in_shadow(of("acme", 70))];
        for admitted in 1..=5 {
            let told = store.admit(&request).await.unwrap();
            assert!(told.admitted, "{told:?}");
            assert_eq!(remaining(&told), [5, 90, 60, 70].map(|limit| limit - admitted));
        }
        let told = store.admit(&request).await.unwrap();
        assert!(!told.admitted);
        assert_eq!(remaining(&told), [0, 85, 55, 64], "the API denies, and the tenant is told what it will have again");
        settles_at(&store, request[2], 55).await;
        assert_eq!(lefts(&request).await, [0, 85, 55, 64], "a limit in shadow stands alone");

        let request = [of("api", 90), in_shadow(of("api", 80)), of("bolt", 3)];
        for admitted in [true, true, true, false] {
            assert_eq!(store.admit(&request).await.unwrap().admitted, admitted);
        }
        assert_eq!(lefts(&request).await, [82, 76, 0], "the tenant denies");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_storm_each_tier_is_charged_what_was_admitted() {
    const TENANTS: usize = 5;
    let cluster = Cluster::start(&[]).await;
    let replicas = [cluster.store().await, cluster.store().await];
    for algorithm in 0..3 {
        // Tenants 0 and 1 use up their own limit, and all together that of the API.
        let api = charge("sale", 300, algorithm);
        let tenant = |number: usize| charge(&format!("tenant{number}"), [20, 40, 900, 901, 902][number], algorithm);
        let mut clients = JoinSet::new();
        for client in 0..20 {
            let (store, tenant) = (Arc::clone(&replicas[client % 2]), tenant(client % TENANTS));
            clients.spawn(async move {
                let mut admitted = 0;
                for _ in 0..50 {
                    admitted += u32::from(store.admit(&[api, tenant]).await.unwrap().admitted);
                }
                (client % TENANTS, admitted)
            });
        }
        let mut admitted = [0; TENANTS];
        clients.join_all().await.into_iter().for_each(|(tenant, count)| admitted[tenant] += count);
        let total: u32 = admitted.iter().sum();
        assert!(total <= 300 && total > 200, "{admitted:?}");
        for (number, admitted) in admitted.into_iter().enumerate() {
            let tenant = tenant(number);
            settles_at(&replicas[0], tenant, tenant.rate.limit - admitted).await;
        }
        assert_eq!(left(&replicas[0], api).await, 300 - total);
    }
}

#[tokio::test]
async fn what_was_charged_is_given_back_where_the_next_node_hangs_or_who_asked_has_gone() {
    let cluster = Cluster::start(&["--cluster-require-full-coverage", "no"]).await;
    let (store, second) = (cluster.store().await, cluster.store().await);
    let hasty = opening(RedisSettings { deadline: Duration::from_millis(250), ..cluster.settings() });
    all_are_there(&hasty).await;
    let (api, tenant) = (cluster.charge_at(0).await, cluster.charge_at(1).await);
    cluster.masters[0].signal("STOP");
    let asked = tokio::spawn(async move { store.admit(&[api, tenant]).await });
    settles_at(&second, tenant, 99).await;
    assert!(hasty.admit(&[api, tenant]).await.is_err());
    settles_at(&second, tenant, 99).await;
    asked.abort();
    settles_at(&second, tenant, 100).await;
    cluster.masters[0].signal("CONT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_under_load_loses_no_hit_and_doubles_none() {
    let cluster = Cluster::start(&[]).await;
    let store = cluster.store().await;
    let (api, tenant) = (charge("sale", 9000, 0), charge("acme", 8000, 0));
    let slot = slot(&cluster.masters[0], api.key).await;
    let source = cluster.owner(slot);
    let target = cluster.masters.iter().find(|server| server.redis.address != source.redis.address).unwrap();
    // Other counters of the slot that are there before, so that keys are moved for a while.
    for limit in 1..200 {
        store.admit(&[charge("sale", 100_000 + limit, 0)]).await.unwrap();
    }
    let stop = CancellationToken::new();
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let (store, stop) = (Arc::clone(&store), stop.clone());
        clients.spawn(async move {
            let mut admitted = 0;
            while !stop.is_cancelled() {
                admitted += store.admit(&[api, tenant]).await.map_or(0, |told| u32::from(told.admitted));
            }
            admitted
        });
    }
    move_slot(slot, source, target).await;
    move_slot(slot, target, source).await;
    move_slot(slot, source, target).await;
    // Some more, at the new place.
    let before = left(&store, api).await;
    eventually("it is counted there", async || (left(&store, api).await < before).then_some(())).await;
    stop.cancel();
    let admitted: u32 = clients.join_all().await.into_iter().sum();
    settles_at(&store, tenant, 8000 - admitted).await;
    assert_eq!(left(&store, api).await, 9000 - admitted);
}

#[tokio::test]
async fn a_question_is_sent_on_to_where_its_slot_has_gone() {
    let cluster = Cluster::start(&[]).await;
    let store = cluster.store().await;
    // More hits than a log has, so that it has both of its keys.
    let counter = Charge { hits: 20, ..charge("sale", 1000, 0) };
    let slot = slot(&cluster.masters[0], counter.key).await;
    let source = cluster.owner(slot);
    let target = cluster.masters.iter().find(|server| server.redis.address != source.redis.address).unwrap();
    assert_eq!(spend(&store, counter).await, 980);
    begin_move(slot, source, target).await;
    assert_eq!(spend(&store, counter).await, 960);
    move_keys(slot, source, target).await;
    assert_eq!(spend(&store, counter).await, 940, "its keys are there, and the slot is not");
    end_move(slot, source, target).await;
    assert_eq!(spend(&store, counter).await, 920);
}

/// As `redis-cli --cluster reshard` does it.
async fn move_slot(slot: u16, from: &Server, to: &Server) {
    begin_move(slot, from, to).await;
    move_keys(slot, from, to).await;
    end_move(slot, from, to).await;
}

async fn begin_move(slot: u16, from: &Server, to: &Server) {
    let slot = slot.to_string();
    to.say(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from).await]).await;
    from.say(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to).await]).await;
}

async fn move_keys(slot: u16, from: &Server, to: &Server) {
    let mut connection: MultiplexedConnection = from.connection().await;
    let port = to.redis.address.port();
    loop {
        let mut of_slot = redis::cmd("CLUSTER");
        of_slot.arg("GETKEYSINSLOT").arg(slot).arg(5);
        let keys: Vec<String> = of_slot.query_async(&mut connection).await.unwrap();
        if keys.is_empty() {
            break;
        }
        let mut migrate = redis::cmd("MIGRATE");
        migrate.arg("127.0.0.1").arg(port).arg("").arg(0).arg(5000).arg("KEYS").arg(keys);
        let _: redis::Value = migrate.query_async(&mut connection).await.unwrap();
    }
}

async fn end_move(slot: u16, from: &Server, to: &Server) {
    let (slot, id) = (slot.to_string(), id(to).await);
    for server in [to, from] {
        server.say(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]).await;
    }
}

#[tokio::test]
async fn a_node_that_dies_takes_its_slots_along_until_its_replica_takes_over() {
    let flags = ["--cluster-require-full-coverage", "no"];
    let mut cluster = Cluster::start(&flags).await;
    cluster.add_replica(0, &flags).await;
    let store = cluster.store().await;
    let (lost, kept) = (cluster.charge_at(0).await, cluster.charge_at(1).await);
    assert!(store.admit(&[Charge { hits: 10, ..lost }, Charge { hits: 10, ..kept }]).await.unwrap().admitted);
    replicated(&cluster.masters[0], &keys::head("mark", lost.key)).await;
    cluster.masters[0].redis.kill();
    let look = [Charge { hits: 0, ..lost }];
    eventually("its counters are away", async || store.admit(&look).await.err()).await;
    assert!(store.admit(&[kept]).await.is_ok(), "the others are not");
    let both = u32::from(store.admit(&[lost, kept]).await.is_ok());
    eventually("the replica takes over", async || store.admit(&look).await.ok()).await;
    assert_eq!(left(&store, lost).await, 90 - both, "what was replicated is not lost");
    settles_at(&store, kept, 89 - both).await;
    assert_eq!(spend(&store, lost).await, 89 - both);
}

/// A node that is alone has not heard its own address from another.
#[tokio::test]
async fn a_cluster_is_reached_over_tls_by_a_node_that_does_not_know_its_own_address() {
    let [tls, bus] = [free_address(), free_address()];
    let (port, bus) = (tls.port().to_string(), bus.port().to_string());
    let [cert, key, authority] = ["server.crt", "server.key", "authority.crt"].map(certificate);
    let server = Server::start(
        &[
            &["--cluster-enabled", "yes", "--cluster-port", &bus, "--tls-cluster", "yes", "--tls-port", &port],
            &["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &authority][..],
        ]
        .concat(),
    );
    server.say(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    let store = opening(RedisSettings {
        tls: RedisTls {
            ca: Some(authority.into()),
            identity: Some((certificate("client.crt").into(), certificate("client.key").into())),
        },
        deadline: Duration::from_secs(5),
        ..settings(&format!("rediss+cluster://{tls}"))
    });
    let request = [charge("sale", 90, 0), charge("acme", 60, 0)];
    let told = eventually("the store decides", async || store.admit(&request).await.ok()).await;
    assert_eq!(remaining(&told), [89, 59]);
    assert_eq!(store.report().nodes[0].address, Some(tls.to_string()));
}
