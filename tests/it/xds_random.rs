//! Policies change at random while requests pass: none of them fails, and in the end the Envoy has what was compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::harness::{Setup, World, eventually, free_address};
use crate::kit::client::Client;
use crate::seed::Seed;

const CHANGES: usize = 200;
/// After so many changes it is waited until the Envoy has them.
const BURST: usize = 20;
/// The longest time between two changes. A folder is read when it was quiet for 50 ms, so some are read together.
const DISTANCE_MAX: u64 = 80;
/// Each of the clients asks once in so many milliseconds.
const CLIENTS: u64 = 8;
const TICK: u64 = 16;
const HEALTH_DELAY: Duration = Duration::from_millis(100);
/// The paths that are always served.
const PATHS: usize = 6;
/// What services may be called. They are few, so that names come back while their old clusters drain.
const NAMES: [&str; 7] = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu"];
const SERVICES: usize = 4;
const BY: [&str; 5] =
    ["", ", by: [client_ip]", ", by: [path, method]", ", by: [header: x-lane]", ", by: [cookie: lane]"];
const BALANCING: [&str; 3] = ["least_request", "round_robin", "random"];

#[derive(Clone, PartialEq)]
struct Service {
    discovery: String,
    balancing: &'static str,
    connect_seconds: usize,
    max_requests: usize,
    is_checked: bool,
}

#[derive(Clone, PartialEq)]
struct Api {
    gateway: &'static str,
    matches: String,
    service: &'static str,
    by: &'static str,
    rate: usize,
}

/// What the file says, and the dice.
struct Policies {
    random: fastrand::Rng,
    /// Where services can be: all of it answers.
    discoveries: Vec<String>,
    inner: SocketAddr,
    has_inner: bool,
    services: BTreeMap<&'static str, Service>,
    apis: BTreeMap<String, Api>,
}

impl Policies {
    fn new(seed: u64, [one, two]: [SocketAddr; 2], have_names: bool) -> Self {
        let endpoints = [format!("{one}"), format!("{two}"), format!("{one}, {two}")];
        let hosts = [one, two].map(|upstream| format!("dns: localhost:{}", upstream.port()));
        let hosts = hosts.into_iter().filter(|_| have_names);
        let discoveries = endpoints.map(|addresses| format!("endpoints: [{addresses}]")).into_iter().chain(hosts);
        let mut policies = Self {
            random: fastrand::Rng::with_seed(seed),
            discoveries: discoveries.collect(),
            inner: free_address(),
            has_inner: false,
            services: BTreeMap::new(),
            apis: BTreeMap::new(),
        };
        for name in NAMES.into_iter().take(SERVICES) {
            let service = policies.any_service();
            policies.services.insert(name, service);
        }
        for index in 0..PATHS {
            policies.add_api(format!("api-{index}"), "edge", format!("path: {}", path(index)));
        }
        policies.add_api("inner".to_owned(), "inner", "path_prefix: /".to_owned());
        policies
    }

    fn any_service(&mut self) -> Service {
        Service {
            discovery: self.random.choice(&self.discoveries).unwrap().clone(),
            balancing: self.random.choice(BALANCING).unwrap(),
            connect_seconds: self.random.usize(5..9),
            max_requests: self.random.usize(1000..2000),
            is_checked: self.random.bool(),
        }
    }

    fn add_api(&mut self, name: String, gateway: &'static str, matches: String) {
        let service = self.used_name();
        let (by, rate) = (self.random.choice(BY).unwrap(), self.random.usize(1_000_000..2_000_000));
        self.apis.insert(name, Api { gateway, matches, service, by, rate });
    }

    fn used_name(&mut self) -> &'static str {
        self.random.choice(self.services.keys().copied()).unwrap()
    }

    /// Throws the dice until something is different. Gives what it is.
    fn change(&mut self) -> String {
        let before = self.text();
        loop {
            let change = self.try_change();
            if self.text() != before {
                return change;
            }
        }
    }

    fn try_change(&mut self) -> String {
        match self.random.usize(..10) {
            0 => self.toggle_extra_api(),
            1 => self.toggle_inner_gateway(),
            2 | 9 => self.rename_service(),
            kind @ 3..6 => self.change_api(kind),
            kind => self.change_service(kind),
        }
    }

    fn rename_service(&mut self) -> String {
        let old = self.used_name();
        let free: Vec<_> = NAMES.into_iter().filter(|name| !self.services.contains_key(name)).collect();
        let new = self.random.choice(free).unwrap();
        let service = self.services.remove(old).unwrap();
        self.services.insert(new, service);
        for api in self.apis.values_mut().filter(|api| api.service == old) {
            api.service = new;
        }
        format!("service {old} renamed to {new}")
    }

    /// Each has a host of its own, and so brings and takes a virtual host.
    fn toggle_extra_api(&mut self) -> String {
        let index = self.random.usize(..4);
        let name = format!("extra-{index}");
        if self.apis.remove(&name).is_none() {
            self.add_api(name.clone(), "edge", format!("path_prefix: /, hosts: [{index}.example]"));
        }
        format!("api {name} there: {}", self.apis.contains_key(&name))
    }

    fn toggle_inner_gateway(&mut self) -> String {
        self.has_inner = !self.has_inner;
        format!("gateway inner there: {}", self.has_inner)
    }

    fn change_api(&mut self, kind: usize) -> String {
        let service = self.used_name();
        let name = self.random.choice(self.apis.keys().cloned()).unwrap();
        let api = self.apis.get_mut(&name).unwrap();
        match kind {
            3 => api.service = service,
            4 => api.by = self.random.choice(BY).unwrap(),
            _ => api.rate = self.random.usize(1_000_000..2_000_000),
        }
        format!("api {name} by {:?} at {} with {}", api.by, api.rate, api.service)
    }

    fn change_service(&mut self, kind: usize) -> String {
        let (other, name) = (self.any_service(), self.used_name());
        let service = self.services.get_mut(name).unwrap();
        match kind {
            6 => service.discovery = other.discovery,
            7 => service.is_checked = other.is_checked,
            _ => *service = Service { discovery: service.discovery.clone(), is_checked: service.is_checked, ..other },
        }
        format!("service {name} at {}, checked: {}", service.discovery, service.is_checked)
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (name, service) in &self.services {
            let Service { discovery, balancing, connect_seconds, max_requests, is_checked } = service;
            let check = if *is_checked { "health_check: { http: /healthz, timeout: 5s }\n" } else { "" };
            write!(
                text,
                "---\nkind: Service\nname: {name}\n{discovery}\nload_balancing: {balancing}\n{check}\
                connect_timeout: {connect_seconds}s\ncircuit_breaker: {{ max_requests: {max_requests} }}\n"
            )
            .unwrap();
        }
        for (name, api) in self.apis.iter().filter(|(_, api)| self.has_inner || api.gateway != "inner") {
            let Api { gateway, matches, service, by, rate } = api;
            write!(
                text,
                "---\nkind: Api\nname: {name}\ngateway: {gateway}\nservice: {service}\nmatch: {{ {matches} }}\n\
                limits: [{{ rate: {rate}/m{by} }}]\n"
            )
            .unwrap();
        }
        if self.has_inner {
            let inner = self.inner;
            write!(text, "---\nkind: Gateway\nname: inner\nnodes: {{ ids: [edge-*] }}\nlisten: {inner}\n").unwrap();
        }
        text
    }

    /// The text, and a last document that says which change it is.
    fn marked(&self, change: usize) -> String {
        format!("{}---\nkind: Plan\nname: marker\nlimits: [{{ rate: {change}/h }}]\n", self.text())
    }
}

fn path(index: usize) -> String {
    format!("/api/{index}")
}

/// Clients that ask in a steady pace, each on a connection of its own.
struct Clients {
    stop: CancellationToken,
    asking: JoinSet<Vec<String>>,
    /// How many changes there were, for what is told of a failure.
    change: Arc<AtomicUsize>,
}

impl Clients {
    fn start(urls: &[String]) -> Self {
        let (stop, change) = (CancellationToken::new(), Arc::default());
        let asking = (0..CLIENTS).map(|_| ask(urls.to_vec(), stop.clone(), Arc::clone(&change))).collect();
        Self { stop, asking, change }
    }

    /// What was answered other than 200.
    async fn stop(self) -> Vec<String> {
        self.stop.cancel();
        self.asking.join_all().await.concat()
    }
}

async fn ask(urls: Vec<String>, stop: CancellationToken, change: Arc<AtomicUsize>) -> Vec<String> {
    let client = Client::default();
    let mut failures = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(TICK));
    // On a busy machine there are fewer requests, not crowds of them.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for url in urls.iter().cycle() {
        if stop.run_until_cancelled(ticks.tick()).await.is_none() {
            break;
        }
        match client.get(url).await {
            Ok(answer) if answer.status == 200 => {}
            failure => failures.push(format!("after change {}: {url}: {failure:?}", change.load(Ordering::Relaxed))),
        }
    }
    failures
}

/// An upstream that answers at once, but takes its time to say that it is well. So clusters take theirs to get ready,
/// and a route that does not wait for them is found out. `None` where the machine has no such address.
async fn start_upstream(address: impl Into<SocketAddr>) -> Option<SocketAddr> {
    let listener = TcpListener::bind(address.into()).await.ok()?;
    let address = listener.local_addr().unwrap();
    let healthz = get(async || tokio::time::sleep(HEALTH_DELAY).await);
    let app = Router::new().route("/healthz", healthz).fallback(async || "answered");
    tokio::spawn(async { axum::serve(listener, app).await });
    Some(address)
}

/// Both under a name, too, if the machine has IPv6: `localhost` is an address of IPv6 first.
async fn start_upstreams() -> ([SocketAddr; 2], bool) {
    let (mut addresses, mut have_names) = ([(Ipv4Addr::LOCALHOST, 0).into(); 2], true);
    for address in &mut addresses {
        *address = start_upstream(*address).await.unwrap();
        have_names &= start_upstream((Ipv6Addr::LOCALHOST, address.port())).await.is_some();
    }
    (addresses, have_names)
}

/// Waits until the Envoy has acknowledged everything up to that change.
async fn is_live(world: &World, change: usize) {
    eventually("the Envoy has the newest generation", async || {
        let marker = world.tierflow.json("/v1/policies/Plan/marker").await;
        let (status, nodes) = (world.tierflow.status().await, world.tierflow.json("/v1/nodes").await);
        let (node, is_read) = (&nodes["nodes"][0], marker["text"].as_str()?.contains(&format!(" {change}/h")));
        assert_eq!((&status["refused"], &status["held"]), (&Value::Array(Vec::new()), &Value::Array(Vec::new())));
        (is_read && node["standing"] == "live" && node["generation"] == status["generation"]).then_some(())
    })
    .await;
}

/// By type and name.
type Resources = BTreeMap<(String, String), Value>;

/// What the Envoys of these gateways are to have.
async fn compiled(world: &World, gateways: &[&str]) -> Resources {
    let mut resources = Resources::new();
    for gateway in gateways {
        let dump = world.tierflow.json(&format!("/v1/config_dump?gateway={gateway}")).await;
        for resource in dump["resources"].as_array().unwrap() {
            add(&mut resources, resource["resource"].clone());
        }
    }
    resources
}

/// What the Envoy has. `None` while something is still on its way in or out.
async fn taken(world: &World) -> Option<Resources> {
    let dump: Value = serde_json::from_str(&world.edge.admin("/config_dump?include_eds").await).unwrap();
    let list = |name: &str| -> Vec<Value> {
        let configs = dump["configs"].as_array().unwrap().iter();
        configs.filter_map(|config| config[name].as_array()).flatten().cloned().collect()
    };
    let is_moving =
        |listener: &Value| ["warming_state", "draining_state"].iter().any(|state| listener.get(state).is_some());
    if !list("dynamic_warming_clusters").is_empty() || list("dynamic_listeners").iter().any(is_moving) {
        return None;
    }
    let mut resources = Resources::new();
    list("dynamic_active_clusters").into_iter().for_each(|entry| add(&mut resources, entry["cluster"].clone()));
    // Envoy shows also the endpoints of clusters that bring their own.
    let clusters = list("dynamic_active_clusters").into_iter().filter(|entry| entry["cluster"]["type"] == "EDS");
    let by_ads: Vec<_> = clusters.map(|entry| entry["cluster"]["name"].clone()).collect();
    let endpoints = list("dynamic_endpoint_configs").into_iter().map(|entry| entry["endpoint_config"].clone());
    endpoints.filter(|one| by_ads.contains(&one["cluster_name"])).for_each(|one| add(&mut resources, one));
    list("dynamic_route_configs").into_iter().for_each(|entry| add(&mut resources, entry["route_config"].clone()));
    for listener in list("dynamic_listeners") {
        add(&mut resources, listener["active_state"]["listener"].clone());
    }
    Some(resources)
}

fn add(resources: &mut Resources, resource: Value) {
    let text = |field: &str| resource[field].as_str().map(str::to_owned);
    let (resource_type, name) = (text("@type").unwrap(), text("name").or_else(|| text("cluster_name")).unwrap());
    resources.insert((resource_type, name), resource);
}

/// The same for the same meaning: Envoy also tells of each endpoint how it feels, and writes 20.0 as 20.
fn meaning(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().into(),
        Value::Array(items) => items.iter().map(meaning).collect(),
        Value::Object(fields) => match fields.get("endpoints") {
            Some(localities) => addresses(localities).into_iter().collect(),
            None => fields.iter().map(|(name, value)| (name.clone(), meaning(value))).collect(),
        },
        other => other.clone(),
    }
}

fn addresses(localities: &Value) -> BTreeSet<String> {
    let localities = localities.as_array().unwrap().iter();
    let endpoints = localities.flat_map(|locality| locality["lb_endpoints"].as_array().unwrap());
    endpoints.map(|endpoint| endpoint["endpoint"]["address"]["socket_address"].to_string()).collect()
}

/// Throws the dice, and saves what they say.
async fn change_at_random(world: &World, policies: &mut Policies, clients: &Clients) -> String {
    let mut history = String::new();
    for change in 1..=CHANGES {
        writeln!(history, "{change}: {}", policies.change()).unwrap();
        world.save("policies.yaml", &policies.marked(change));
        clients.change.store(change, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(policies.random.u64(..=DISTANCE_MAX))).await;
        if change % BURST == 0 {
            is_live(world, change).await;
        }
    }
    history
}

async fn the_envoy_has_what_was_compiled(world: &World, policies: &Policies) {
    let gateways: &[&str] = if policies.has_inner { &["edge", "inner"] } else { &["edge"] };
    let compiled = compiled(world, gateways).await;
    let taken = eventually("the Envoy has all that is new, and nothing that is old", async || {
        taken(world).await.filter(|taken| taken.keys().eq(compiled.keys()))
    })
    .await;
    for (key, resource) in &compiled {
        assert_eq!(meaning(&taken[key]), meaning(resource), "{key:?}");
    }
}

async fn requests_pass_whatever_changes(xds: &str) {
    let seed = Seed::of("XDS_RANDOM_SEED");
    let world = World::start(Setup { xds, ..Default::default() }).await;
    let (upstreams, have_names) = start_upstreams().await;
    let mut policies = Policies::new(seed.number, upstreams, have_names);
    world.save("policies.yaml", &policies.marked(0));
    is_live(&world, 0).await;

    let urls: Vec<_> = (0..PATHS).map(|index| world.edge.url(&path(index))).collect();
    let clients = Clients::start(&urls);
    let history = change_at_random(&world, &mut policies, &clients).await;
    the_envoy_has_what_was_compiled(&world, &policies).await;
    let failures = clients.stop().await;
    assert!(failures.is_empty(), "{history}\n{} failures:\n{}", failures.len(), failures.join("\n"));
    let disturbances = [
        "listener_manager.listener_modified",
        "http.edge.downstream_cx_drain_close",
        "http.edge.downstream_rq_tx_reset",
        "listener_manager.lds.update_rejected",
        "cluster_manager.cds.update_rejected",
        "http.edge.rds.edge.update_rejected",
    ];
    assert_eq!(world.edge.stats(disturbances).await, [0; 6]);
}

#[tokio::test]
async fn requests_pass_whatever_changes_with_delta() {
    requests_pass_whatever_changes("delta").await;
}

#[tokio::test]
async fn requests_pass_whatever_changes_with_state_of_the_world() {
    requests_pass_whatever_changes("sotw").await;
}
