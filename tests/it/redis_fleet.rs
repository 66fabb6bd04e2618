//! Three replicas, each with an Envoy of its own, that share counters in one Redis.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::{Edge, Setup, Tierflow, any_addresses, eventually, free_address, gateway};
use crate::kit::client::Client;
use crate::kit::upstream::Upstream;
use crate::redis_store::Server;

struct Fleet {
    replicas: Vec<(Edge, Tierflow)>,
    server: Server,
    _upstream: Upstream,
    _folders: Vec<TempDir>,
}

impl Fleet {
    /// Each replica has a policy folder of its own, because its Envoy listens elsewhere; all else is the same.
    async fn start(replicas: usize, setup: Setup<'_>) -> Self {
        let server = Server::start(&[]);
        server.connection().await;
        let upstream = Upstream::start("upstream", (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let mut fleet = Self { replicas: Vec::new(), server, _upstream: upstream, _folders: Vec::new() };
        for _ in 0..replicas {
            let folder = tempfile::tempdir().unwrap();
            let policies = folder.path().join("policies");
            let listen = free_address();
            std::fs::create_dir(&policies).unwrap();
            std::fs::write(policies.join("gateway.yaml"), gateway(&setup, listen, fleet._upstream.address)).unwrap();
            std::fs::write(policies.join("policies.yaml"), setup.policies).unwrap();
            let source = vec![format!("--policies={}", policies.display())];
            let store = [format!("--counters={}", fleet.server.url()), "--counters-timeout=1s".to_owned()];
            let log = folder.path().join("tierflow.log");
            let tierflow = Tierflow::serve(&log, source, &store, any_addresses()).await;
            eventually("the store is there", async || {
                (counters(&tierflow).await["connections_open"] == 4).then_some(())
            })
            .await;
            let edge = Edge::start(folder.path(), &tierflow, "edge-1", "delta", listen);
            edge.ready().await;
            fleet.replicas.push((edge, tierflow));
            fleet._folders.push(folder);
        }
        fleet
    }

    fn url(&self, number: usize) -> String {
        self.replicas[number % self.replicas.len()].0.url("/sale")
    }
}

async fn counters(tierflow: &Tierflow) -> Value {
    tierflow.status().await["counters"]["redis"].clone()
}

fn api(rate: &str) -> String {
    format!(
        "kind: Api\nname: sale\ngateway: edge\nmatch: {{ path: /sale }}\nservice: upstream\nlimits: [{{ rate: {rate} }}]\n"
    )
}

fn plan(rate: &str) -> String {
    format!("---\nkind: Plan\nname: standard\nlimits: [{{ rate: {rate} }}]\n")
}

const TENANT: &str = "tenant: { from: { header: x-tenant-id }, default_plan: standard }";

/// So many requests by many clients to all replicas at once; gives how many got 200. No other answer than 429 is taken.
async fn storm(fleet: &Fleet, requests: usize, tenant: &'static str) -> usize {
    const CLIENTS: usize = 64;
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let url = fleet.url(number);
        let share = requests / CLIENTS + usize::from(number < requests % CLIENTS);
        clients.spawn(async move {
            let client = Client::default();
            let mut admitted = 0;
            for _ in 0..share {
                let answer = client.send("GET", &url, &[("x-tenant-id", tenant)]).await.unwrap();
                assert!(matches!(answer.status.as_u16(), 200 | 429), "{}: {}", answer.status, answer.text());
                admitted += usize::from(answer.status == 200);
            }
            admitted
        });
    }
    clients.join_all().await.into_iter().sum()
}

/// The leases that all replicas have taken.
async fn leases(fleet: &Fleet) -> u64 {
    let mut sum = 0;
    for (_, tierflow) in &fleet.replicas {
        let metrics = tierflow.ask("/metrics").await.text();
        let line = metrics.lines().find_map(|line| line.strip_prefix("tierflow_counter_leases_total "));
        sum += line.unwrap().parse::<u64>().unwrap();
    }
    sum
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_share_a_store_admit_an_exact_limit_and_no_more() {
    let fleet = Fleet::start(3, Setup { policies: &api("100/h, exact: true"), ..Default::default() }).await;
    assert_eq!(storm(&fleet, 640, "").await, 100);
    assert_eq!(leases(&fleet).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_lease_admit_no_more_than_the_limit_and_all_of_it_in_the_end() {
    let fleet = Fleet::start(3, Setup { policies: &api("300/h"), ..Default::default() }).await;
    let mut admitted = 0;
    eventually("what was leased and not used is admitted", async || {
        admitted += storm(&fleet, 400, "").await;
        assert!(admitted <= 300, "{admitted} are too many");
        (admitted == 300).then_some(())
    })
    .await;
    assert_eq!(storm(&fleet, 100, "").await, 0);
    assert!(leases(&fleet).await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_one_tier_denies_charges_the_other_nothing_on_any_replica() {
    let policies = format!("{}{}", api("50/h, exact: true"), plan("20/h, exact: true"));
    let fleet = Fleet::start(2, Setup { policies: &policies, gateway: TENANT, ..Default::default() }).await;
    assert_eq!(storm(&fleet, 200, "noisy").await, 20);
    assert_eq!(storm(&fleet, 200, "second").await, 20);
    assert_eq!(storm(&fleet, 200, "third").await, 10, "what the tenants before were denied is not charged to the API");
    assert_eq!(storm(&fleet, 50, "fourth").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_one_tier_denies_takes_nothing_from_the_others_lease() {
    let policies = format!("{}{}", api("500/h"), plan("200/h"));
    let fleet = Fleet::start(2, Setup { policies: &policies, gateway: TENANT, ..Default::default() }).await;
    for (tenant, expected) in [("noisy", 200), ("second", 200), ("third", 100), ("fourth", 0)] {
        let mut admitted = 0;
        eventually("all is admitted that others left", async || {
            admitted += storm(&fleet, 250, tenant).await;
            assert!(admitted <= expected, "{admitted} of {tenant} are too many");
            (admitted == expected).then_some(())
        })
        .await;
    }
    assert!(leases(&fleet).await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_interval_of_the_windows_length_holds_more_than_the_limit_of_a_fleet() {
    attack(20, 1, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_interval_of_the_windows_length_holds_more_than_the_limit_of_a_fleet_that_leases() {
    assert!(attack(200, 3, 6).await > 0, "nothing was leased");
}

/// The attack on the window's edge, on all replicas at once. Gives the leases that were taken.
async fn attack(limit: usize, window_secs: u64, bursts: usize) -> u64 {
    let window = Duration::from_secs(window_secs);
    let rate = format!("{limit}/{window_secs}s");
    let fleet = Fleet::start(3, Setup { policies: &api(&rate), ..Default::default() }).await;
    let client = Client::default();
    let mut times = tokio::time::interval(window * 7 / 10);
    let mut admitted: Vec<(Instant, Instant)> = Vec::new();
    for _ in 0..bursts {
        times.tick().await;
        let mut requests = JoinSet::new();
        for number in 0..3 * limit {
            let (url, client) = (fleet.url(number), client.clone());
            requests.spawn(async move {
                let sent = Instant::now();
                let status = client.get(&url).await.unwrap().status;
                (status == 200).then_some((sent, Instant::now()))
            });
        }
        admitted.extend(requests.join_all().await.into_iter().flatten());
    }
    // Only what was certainly decided within the interval counts: this cannot accuse wrongly.
    let within_window_of = |(first, _): &(Instant, Instant)| {
        admitted.iter().filter(|(sent, answered)| sent >= first && *answered < *first + window).count()
    };
    let most = admitted.iter().map(within_window_of).max();
    assert!(most <= Some(limit), "{most:?} passed within one window");
    let windows = bursts * 7 / 10;
    assert!(admitted.len() >= windows * limit / 2, "only {} passed in {windows} windows", admitted.len());
    leases(&fleet).await
}

#[tokio::test]
async fn while_the_store_is_away_the_gateway_decides_and_status_says_so() {
    let mut fleet = Fleet::start(1, Setup { policies: &api("100/h"), ..Default::default() }).await;
    fleet.server.redis.kill();
    let (edge, tierflow) = &fleet.replicas[0];
    eventually("the gateway denies", async || {
        let answer = edge.get("/sale").await;
        (answer.status == 503 && answer.text().contains("store-away")).then_some(())
    })
    .await;
    let store = eventually("status says so", async || {
        let store = counters(tierflow).await;
        (store["connections_open"] == 0 && store["trouble"].is_string()).then_some(store)
    })
    .await;
    assert!(store["address"].as_str().unwrap().starts_with("redis://127.0.0.1:"));
    let ready = tierflow.json("/readyz").await;
    assert_eq!(ready["ready"], true, "degraded is not dead");
    let row = ready["checks"].as_array().unwrap().iter().find(|row| row["name"] == "counter_store").unwrap().clone();
    assert_eq!(row["ok"], false);
    fleet.server.redis.restart().unwrap();
    eventually("requests pass again", async || (edge.get("/sale").await.status == 200).then_some(())).await;
    let metrics = tierflow.ask("/metrics").await.text();
    assert!(metrics.contains("tierflow_counter_store_errors_total{reason="), "{metrics}");
}

/// A tenant that is denied tells a replica what is left of the Api's limit, and takes nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_admits_the_limit_and_no_more_while_the_store_goes_and_comes() {
    let policies = format!("{}{}", api("60/h, exact: true"), plan("20/h, exact: true"));
    let setup = Setup { policies: &policies, gateway: TENANT, on_error: "local", ..Default::default() };
    let fleet = Fleet::start(3, setup).await;
    let told = async |number: usize| counters(&fleet.replicas[number].1).await;
    for number in 0..3 {
        eventually("the replicas know each other", async || (told(number).await["replicas"] == 3).then_some(())).await;
    }
    assert_eq!(storm(&fleet, 192, "noisy").await, 20);
    for (edge, _) in &fleet.replicas {
        assert_eq!(edge.send("GET", "/sale", &[("x-tenant-id", "noisy")]).await.status, 429);
    }

    fleet.server.signal("STOP");
    assert_eq!(storm(&fleet, 192, "second").await, 20, "a tenant that nobody knows yet has its whole limit");
    assert_eq!(storm(&fleet, 192, "noisy").await, 0, "one that has used it up has nothing");
    // Of the last hit of the Api's limit a replica has the part that has used up the tenant's.
    let third = storm(&fleet, 192, "third").await;
    assert_eq!((third, storm(&fleet, 192, "fourth").await), (19, 1), "the Api's limit is used up");
    assert_eq!(storm(&fleet, 192, "fifth").await, 0);
    for (number, (_, tierflow)) in fleet.replicas.iter().enumerate() {
        assert_eq!((&told(number).await["counts_alone"], &told(number).await["replicas"]), (&true.into(), &3.into()));
        let ready = tierflow.json("/readyz").await;
        assert_eq!(ready["ready"], true);
        let row = ready["checks"].as_array().unwrap().iter().find(|row| row["name"] == "counter_store").unwrap();
        assert_eq!((&row["ok"], &row["counts_alone"]), (&false.into(), &true.into()));
        let status = crate::harness::tierflow(&["status", &format!("--server=http://{}", tierflow.admin())]);
        let table = String::from_utf8(status.stdout).unwrap();
        assert!(!status.status.success() && table.contains("on_error local: limit / 3, of 3 replicas"), "{table}");
    }

    fleet.server.signal("CONT");
    eventually("all ask the store again", async || {
        assert_eq!(storm(&fleet, 64, "fifth").await, 0);
        for number in 0..3 {
            if told(number).await["counts_alone"] == true {
                return None;
            }
        }
        Some(())
    })
    .await;
    assert_eq!(storm(&fleet, 192, "sixth").await, 0);
}
