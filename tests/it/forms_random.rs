//! What limits count by, names, hosts and services change at random while requests come. Whatever mixture of old and new
//! routes Envoy has at a moment: every request is counted by the limits that its answer names, no counter lets more pass than
//! its limit, and whoever is denied is denied by a counter that is full.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::harness::{Setup, World, eventually};
use crate::kit::client::{Answer, Client};
use crate::kit::upstream::Upstream;
use crate::seed::Seed;

/// Changes before a document is held, and after that.
const CHANGES: [usize; 2] = [200, 60];
/// The longest time between two changes. A folder is read when it was quiet for 50 ms, so some are read together.
const DISTANCE_MAX: u64 = 90;
const CLIENTS: u64 = 4;
/// Each client asks once in so many milliseconds.
const TICK: u64 = 4;
/// Paths, each with an Api of a changing name.
const PATHS: usize = 3;
/// What limits of Apis, of tenants and of lists may count by.
const HEADERS: [&str; 3] = ["x-a", "x-b", "x-c"];
const LIMIT: usize = 3;
const HOSTS: [&str; 3] = ["", ", hosts: [shop.example]", ", hosts: ['*.example']"];

/// What the file says, and the dice.
struct Policies {
    random: fastrand::Rng,
    apis: Vec<Api>,
    of_tenants: &'static str,
    of_list: &'static str,
    upstreams: Vec<std::net::SocketAddr>,
}

struct Api {
    name: char,
    by: &'static str,
    hosts: &'static str,
    /// A service is new each time, so that routes have to wait for its cluster.
    service: usize,
}

impl Policies {
    fn new(seed: u64, upstreams: Vec<std::net::SocketAddr>) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut by = || random.choice(HEADERS).unwrap();
        let apis = (0..PATHS).map(|path| Api { name: 'a', by: by(), hosts: "", service: path }).collect();
        let (of_tenants, of_list) = (by(), by());
        Self { random, apis, of_tenants, of_list, upstreams }
    }

    fn change(&mut self, number: usize) {
        let random = &mut self.random;
        let by = random.choice(HEADERS).unwrap();
        let api = &mut self.apis[random.usize(..PATHS)];
        match random.usize(..8) {
            0 => self.of_tenants = by,
            1 => self.of_list = by,
            2 => api.name = random.choice(['a', 'b', 'c']).unwrap(),
            3 => api.hosts = random.choice(HOSTS).unwrap(),
            4 => api.service = PATHS + number,
            _ => api.by = by,
        }
    }

    fn text(&mut self) -> String {
        let mut text = format!(
            "kind: Plan
name: standard
limits: [{{ name: tenant.{by}, rate: {LIMIT}/h, by: [{{ header: {by} }}] }}]
---
rate_limits:
- actions: [{{ request_headers: {{ header_name: {list}, descriptor_key: {list} }} }}]
  limit: {{ unit: HOUR, requests_per_unit: {LIMIT} }}
",
            by = self.of_tenants,
            list = self.of_list,
        );
        for (path, Api { name, by, hosts, service }) in self.apis.iter().enumerate() {
            let upstream = self.upstreams[service % self.upstreams.len()];
            text += &format!(
                "---
kind: Api
name: {name}{path}
gateway: edge
match: {{ path: /{path}{hosts} }}
service: service-{path}-{service}
limits: [{{ name: {name}{path}.{by}, rate: {LIMIT}/h, by: [{{ header: {by} }}] }}]
---
kind: Service
name: service-{path}-{service}
endpoints: [{upstream}]
"
            );
        }
        text
    }
}

/// What a counter is told apart by: the limit's name and the value that it counts by.
type Counter = (String, String);

/// Of all clients: what passed each counter, and the counters that denied somebody.
#[derive(Debug, Default)]
struct Log {
    passed: BTreeMap<Counter, usize>,
    denied: BTreeMap<Counter, usize>,
    requests: usize,
    strange: Vec<String>,
}

impl Log {
    fn add(&mut self, values: &BTreeMap<&str, String>, answer: &Answer) {
        self.requests += 1;
        let named = answer.header("x-ratelimit-limit").unwrap_or_default();
        let names: Vec<&str> = named.split("name=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let counter = |name: &str| {
            // `a0.x-a`, `tenant.x-a` or `rate_limits-hour-by-x-a`: at its end stands what it counts by.
            let by = HEADERS.into_iter().find(|by| name.ends_with(by)).unwrap();
            (name.to_owned(), values[by].clone())
        };
        match answer.status.as_u16() {
            // The API's, the tenant's and the list's.
            200 if names.len() >= 3 => {
                names.iter().for_each(|name| *self.passed.entry(counter(name)).or_default() += 1);
            }
            429 => {
                let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
                *self.denied.entry(counter(body["limit"].as_str().unwrap())).or_default() += 1;
            }
            _ => self.strange.push(format!("{} {named:?} {values:?}", answer.status)),
        }
    }

    fn join(&mut self, other: Self) {
        other.passed.into_iter().for_each(|(counter, count)| *self.passed.entry(counter).or_default() += count);
        other.denied.into_iter().for_each(|(counter, count)| *self.denied.entry(counter).or_default() += count);
        self.requests += other.requests;
        self.strange.extend(other.strange);
    }
}

/// Asks until it is told to stop. Values move on with the changes, so that there are always new ones and used ones.
async fn ask(world: String, stop: CancellationToken, mut random: fastrand::Rng, step: Arc<AtomicU64>) -> Log {
    let client = Client::default();
    let mut log = Log::default();
    while !stop.is_cancelled() {
        let value = |random: &mut fastrand::Rng| format!("v{}", step.load(Ordering::Relaxed) * 2 + random.u64(..24));
        let values: BTreeMap<&str, String> = HEADERS.into_iter().map(|by| (by, value(&mut random))).collect();
        let headers: Vec<(&str, &str)> = values.iter().map(|(by, value)| (*by, value.as_str())).collect();
        let headers =
            [headers.as_slice(), &[("host", "shop.example"), ("x-tenant-id", "acme"), ("cookie", "tenant=acme")]]
                .concat();
        let answer = client.send("GET", &format!("{world}{}", random.usize(..PATHS)), &headers).await;
        match answer {
            Ok(answer) => log.add(&values, &answer),
            Err(error) => log.strange.push(error),
        }
        tokio::time::sleep(Duration::from_millis(TICK)).await;
    }
    log
}

#[tokio::test]
async fn every_request_is_counted_by_limits_that_fit_its_route() {
    let seed = Seed::of("FORMS_RANDOM_SEED");
    let mut upstreams = Vec::new();
    for name in ["one", "two"] {
        upstreams.push(Upstream::start(name, "127.0.0.1:0".parse().unwrap()).await.unwrap());
    }
    let mut policies = Policies::new(seed.number, upstreams.iter().map(|upstream| upstream.address).collect());
    let text = policies.text();
    let gateway = "tenant: { from: { header: x-tenant-id }, default_plan: standard }";
    let world = World::start(Setup { policies: &text, gateway, ..Default::default() }).await;
    let (stop, step) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let random = policies.random.fork();
        clients.spawn(ask(world.edge.url("/"), stop.clone(), random, Arc::clone(&step)));
    }
    let number = AtomicUsize::new(0);
    let change = async |policies: &mut Policies| {
        policies.change(number.fetch_add(1, Ordering::Relaxed));
        world.save("policies.yaml", &policies.text());
        step.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(policies.random.u64(..DISTANCE_MAX))).await;
    };
    for _ in 0..CHANGES[0] {
        change(&mut policies).await;
    }
    // From here on the gateway is held: Envoy cannot listen where it is told to, nor tell tenants as it is told to.
    let gateway = std::fs::read_to_string(world.path("gateway.yaml")).unwrap();
    let elsewhere = gateway.replace("listen: 127.0.0.1:", "listen: 192.0.2.1:");
    world.save("gateway.yaml", &elsewhere.replace("header: x-tenant-id", "cookie: tenant"));
    let held = async || (world.tierflow.status().await["held"].as_array().unwrap().len() == 1).then_some(());
    eventually("the gateway is held", held).await;
    for _ in 0..CHANGES[1] {
        change(&mut policies).await;
    }
    stop.cancel();
    let mut log = Log::default();
    while let Some(of_client) = clients.join_next().await {
        log.join(of_client.unwrap());
    }
    assert_eq!(log.strange, Vec::<String>::new(), "of {} requests", log.requests);
    let over: Vec<_> = log.passed.iter().filter(|(_, passed)| **passed > LIMIT).collect();
    assert!(over.is_empty(), "more than {LIMIT} passed: {over:?}");
    let not_full = |counter: &&Counter| log.passed.get(counter).copied().unwrap_or_default() < LIMIT;
    let wronged: Vec<_> = log.denied.keys().filter(not_full).collect();
    assert!(wronged.is_empty(), "denied by counters that are not full: {wronged:?}");
    // The test has seen what it is about.
    let metrics = world.tierflow.ask("/metrics").await.text();
    assert!(metrics.contains("tierflow_decision_forms_total{form=\"older\"}"), "{metrics}");
    assert!(log.requests > 1000 && !log.denied.is_empty() && log.passed.len() > 100, "{}", log.requests);
}
