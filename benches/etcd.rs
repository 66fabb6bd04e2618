//! How long a change in etcd takes until it is effective: a rate until requests are decided by it, a route until a real
//! Envoy has acknowledged it; and what a set of a hundred thousand tenants costs. The floor is a plain watch of the same
//! etcd: the time from the same call of `put` until its event is there.
//!
//! `cargo bench --bench etcd`

#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::indexing_slicing, clippy::unwrap_used)]
#![allow(clippy::panic, reason = "a benchmark prints times, and ends where something is missing")]

#[path = "../examples/envoy/kit.rs"]
mod kit;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp};
use tierflow::bootstrap::{Bootstrap, DOWNSTREAM_CONNECTIONS_MAX, XdsVariant};
use tierflow::compile::HostPort;
use tierflow::config::{Config, CountersConfig, SourceConfig};
use tierflow::etcd::EtcdSettings;
use tierflow::live::Live;
use tierflow::names::Name;
use tierflow::serve::{self, Running};
use tierflow::snapshot::resource::ResourceType;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CHANGES: u32 = 200;
const INSTANCES: u32 = 10;
const TENANTS: u32 = 100_000;
/// etcd takes 128 operations in a transaction.
const OPERATIONS: usize = 128;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let etcd = kit::etcd::Etcd::start(folder.path(), free_address(), free_address(), &[]).unwrap();
    let store = Store { client: runtime.block_on(connect(etcd.address)), address: etcd.address };
    runtime.block_on(store.put_shop());

    println!("{:<44} {:>9} {:>9} {:>9} {:>9}", "from `put` until", "min", "p50", "p99", "max");
    let tierflow = store.serve(folder.path());
    runtime.block_on(async {
        until(|| tierflow.live.generation().is_some()).await;
        row("the event of a plain watch", store.floor().await);
        row("requests are decided by a changed rate", store.rates(&tierflow).await);
        let envoy = start_envoy(folder.path(), &tierflow);
        until(|| tierflow.nodes.all().iter().any(|node| has_routes(node, 1))).await;
        row("an Envoy acknowledged a changed route", store.routes(&tierflow).await);
        store.put("Service", "order", "registry: order, when_empty: empty").await;
        until(|| tierflow.live.generation().is_some_and(|generation| !generation.registered.is_empty())).await;
        let (joined, left) = store.instances(&tierflow).await;
        println!("\n{:<44} {:>9} {:>9} {:>9} {:>9}", "an Envoy acknowledged, after", "min", "p50", "p99", "max");
        row("the start of `tierflow register`", joined);
        row("its kill -9, with a lease of 2 s", left);
        println!("\n{:<44} {:>9} {:>9} {:>9} {:>9}", "from `put` until", "min", "p50", "p99", "max");
        store.put("Service", "order", "endpoints: ['127.0.0.1:9101']").await;
        drop(envoy);
    });
    tierflow.stop();

    let before = runtime.block_on(async {
        store.put_tenants().await;
        rss()
    });
    let started = Instant::now();
    let tierflow = store.serve(folder.path());
    runtime.block_on(until(|| tierflow.live.generation().is_some()));
    let from_etcd = started.elapsed();
    let growth = rss().saturating_sub(before) / u64::from(TENANTS);
    runtime.block_on(async {
        row(&format!("a tenant of {TENANTS} has another rate"), store.tenant_rates(&tierflow).await);
    });
    let resident = rss();
    tierflow.stop();
    drop(etcd);
    let started = Instant::now();
    let tierflow = store.serve(folder.path());
    runtime.block_on(until(|| tierflow.live.generation().is_some()));
    let from_disk = started.elapsed();
    tierflow.stop();
    println!("\n{TENANTS} tenants: served {from_etcd:.2?} after the start from etcd, and {from_disk:.2?} after it");
    println!("from the last good set, {:?} of which etcd is waited for", Duration::from_millis(500));
    println!("{growth} bytes a tenant in memory, {} MiB in all", resident >> 20);
}

struct Store {
    client: Client,
    address: SocketAddr,
}

impl Store {
    fn serve(&self, folder: &Path) -> Running {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        serve::start(&Config {
            source: SourceConfig::Etcd(EtcdSettings {
                endpoints: vec![format!("http://{}", self.address)],
                prefix: "/tierflow".to_owned(),
                user: None,
                tls: None,
            }),
            state_dir: Some(folder.join("state")),
            xds_listen: any,
            xds_limits: Default::default(),
            rls_listen: any,
            admin_listen: any,
            tls: None,
            rls_advertise: Vec::new(),
            replica_id: None,
            admin_access: Default::default(),
            admin_metrics_open: false,
            audit_log: None,
            denial_log: None,
            traces: None,
            counters: CountersConfig::Memory { keys_max: 100_000 },
            allow_empty: false,
        })
        .unwrap()
    }

    async fn put(&self, kind: &str, name: &str, fields: &str) -> Duration {
        let started = Instant::now();
        let value = format!("{{kind: {kind}, name: {name}, {fields}}}");
        self.client.clone().put(key(kind, name), value, None).await.unwrap();
        started.elapsed()
    }

    async fn put_shop(&self) {
        let tenant = "tenant: {from: {header: x-tenant-id}, default_plan: standard}";
        let listen = free_address();
        self.put("Gateway", "shop", &format!("nodes: {{clusters: [edge]}}, listen: '{listen}', {tenant}")).await;
        self.put("Service", "order", "endpoints: ['127.0.0.1:9101']").await;
        self.put("Api", "create", &api(0)).await;
        self.put("Plan", "standard", "limits: [{rate: 1/h}]").await;
    }

    async fn floor(&self) -> Vec<Duration> {
        let mut watch = self.client.clone().watch("/floor", None).await.unwrap();
        watch.message().await.unwrap();
        let mut times = Vec::new();
        for n in 0..CHANGES {
            let started = Instant::now();
            let mut client = self.client.clone();
            let put = tokio::spawn(async move { client.put("/floor", n.to_string(), None).await });
            watch.message().await.unwrap();
            times.push(started.elapsed());
            put.await.unwrap().unwrap();
        }
        times
    }

    async fn rates(&self, tierflow: &Running) -> Vec<Duration> {
        let mut limiter = Limiter::connect(tierflow).await;
        self.timed(
            |n| ("Plan", "standard".to_owned(), format!("limits: [{{rate: {}/h}}]", 1000 + n)),
            async |n| {
                limiter.until_limit("anybody", 1000 + n).await;
            },
        )
        .await
    }

    async fn tenant_rates(&self, tierflow: &Running) -> Vec<Duration> {
        let mut limiter = Limiter::connect(tierflow).await;
        let name = |n: u32| format!("t{}", n * 499 % TENANTS);
        let change = |n| ("Tenant", name(n), format!("plan: standard, limits: [{{rate: {}/h}}]", 200_000 + n));
        self.timed(change, async |n| limiter.until_limit(&name(n), 200_000 + n).await).await
    }

    async fn routes(&self, tierflow: &Running) -> Vec<Duration> {
        let number = || tierflow.live.generation().map_or(0, |generation| generation.number);
        let before = number();
        self.timed(
            |n| ("Api", "create".to_owned(), api(n + 1)),
            async |n| {
                until(|| tierflow.nodes.all().iter().any(|node| has_routes(node, before + u64::from(n) + 1))).await;
            },
        )
        .await
    }

    /// How long an instance takes to come, from the start of its process, and to go, from its end.
    async fn instances(&self, tierflow: &Running) -> (Vec<Duration>, Vec<Duration>) {
        let is_known = |count: usize| {
            let generation = tierflow.live.generation();
            let registered = generation.iter().flat_map(|g| g.registered.values()).map(|instances| instances.len());
            let number = generation.iter().map(|generation| generation.number).max().unwrap_or(0);
            registered.sum::<usize>() == count && tierflow.nodes.all().iter().any(|node| has_endpoints(node, number))
        };
        let (mut joined, mut left) = (Vec::new(), Vec::new());
        for n in 0..INSTANCES {
            let started = Instant::now();
            let mut instance = Command::new(env!("CARGO_BIN_EXE_tierflow"))
                .args(["register", "--service=order", "--address=127.0.0.1:9101", "--ttl=2"])
                // One that came and went so often under one name would be held back.
                .arg(format!("--instance={n}"))
                .arg(format!("--etcd=http://{}", self.address))
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            until(|| is_known(1)).await;
            joined.push(started.elapsed());
            // Some of its lease's time has passed, as at any moment of its life.
            tokio::time::sleep(Duration::from_millis(700)).await;
            instance.kill().unwrap();
            let killed = Instant::now();
            instance.wait().unwrap();
            until(|| is_known(0)).await;
            left.push(killed.elapsed());
        }
        (joined, left)
    }

    /// Changes one after the other, each timed from the call of `put`.
    async fn timed(
        &self,
        change: impl Fn(u32) -> (&'static str, String, String),
        mut effective: impl AsyncFnMut(u32),
    ) -> Vec<Duration> {
        let mut times = Vec::new();
        for n in 0..CHANGES {
            let (kind, name, fields) = change(n);
            let value = format!("{{kind: {kind}, name: {name}, {fields}}}");
            let mut client = self.client.clone();
            let started = Instant::now();
            let put = tokio::spawn(async move { client.put(key(kind, &name), value, None).await });
            effective(n).await;
            times.push(started.elapsed());
            put.await.unwrap().unwrap();
        }
        times
    }

    async fn put_tenants(&self) {
        let always = [Compare::version("never", CompareOp::Equal, 0)];
        let names: Vec<u32> = (0..TENANTS).collect();
        for some in names.chunks(OPERATIONS) {
            let put = |n: &u32| {
                let value = format!("kind: Tenant\nname: t{n}\nplan: standard\nlimits: [{{ rate: {}/h }}]\n", n + 1);
                TxnOp::put(key("Tenant", &format!("t{n}")), value, None)
            };
            let puts: Vec<_> = some.iter().map(put).collect();
            self.client.clone().txn(Txn::new().when(always.clone()).and_then(puts)).await.unwrap();
        }
    }
}

/// Asks for decisions.
struct Limiter {
    client: RateLimitServiceClient<Channel>,
    live: Arc<Live>,
}

impl Limiter {
    async fn connect(tierflow: &Running) -> Self {
        let client = RateLimitServiceClient::connect(format!("http://{}", tierflow.listeners.rls)).await.unwrap();
        Self { client, live: Arc::clone(&tierflow.live) }
    }

    /// What the newest routes report of the Api.
    fn api(&self) -> String {
        let shop = Name::parse("shop").unwrap();
        let forms = self.live.latest().matcher.forms(&shop);
        let id = forms.iter().flat_map(|forms| forms.ids()).find(|id| id.starts_with("create/"));
        id.unwrap_or_default().to_owned()
    }

    async fn until_limit(&mut self, tenant: &str, limit: u32) {
        loop {
            let entry = |key: &str, value: &str| Entry { key: key.to_owned(), value: value.to_owned() };
            let entries = vec![entry("api", &self.api()), entry("tenant", tenant)];
            let request = RateLimitRequest {
                domain: "tierflow/shop".to_owned(),
                descriptors: vec![RateLimitDescriptor { entries, ..Default::default() }],
                hits_addend: 0,
            };
            let answer = self.client.should_rate_limit(request).await.unwrap().into_inner();
            let limits = answer.statuses.iter().filter_map(|status| status.current_limit.as_ref());
            if limits.into_iter().any(|current| current.requests_per_unit == limit) {
                return;
            }
        }
    }
}

fn api(n: u32) -> String {
    format!("gateway: shop, match: {{path: /create/{n}}}, service: order, limits: [{{rate: 1000000000/m}}]")
}

fn has_routes(node: &tierflow::nodes::Node, generation: u64) -> bool {
    let acknowledged = node.types.get(&ResourceType::Route).and_then(|status| status.acknowledged);
    acknowledged.is_some_and(|sent| sent.generation >= generation)
}

fn has_endpoints(node: &tierflow::nodes::Node, generation: u64) -> bool {
    let acknowledged = node.types.get(&ResourceType::Endpoint).and_then(|status| status.acknowledged);
    acknowledged.is_some_and(|sent| sent.generation >= generation)
}

fn start_envoy(folder: &Path, tierflow: &Running) -> kit::envoy::Envoy {
    let generation = tierflow.live.generation().unwrap();
    let bootstrap = Bootstrap {
        gateway: generation.policies.gateways.get("shop").unwrap(),
        node_id: None,
        server: &HostPort { host: "127.0.0.1".to_owned(), port: tierflow.listeners.xds.port() },
        tls: None,
        sds_dir: None,
        envoy_admin: None,
        xds: XdsVariant::Delta,
        downstream_connections_max: DOWNSTREAM_CONNECTIONS_MAX,
    };
    kit::envoy::Envoy::start(folder, "edge", &bootstrap.to_json().unwrap().to_string()).unwrap()
}

async fn connect(address: SocketAddr) -> Client {
    let client = Client::connect([format!("http://{address}")], None).await.unwrap();
    while client.clone().get("x", None).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    client
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

fn row(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| format!("{:.2?}", times[((times.len() - 1) as f64 * share) as usize]);
    println!("{name:<44} {:>9} {:>9} {:>9} {:>9}", at(0.0), at(0.5), at(0.99), at(1.0));
}

fn key(kind: &str, name: &str) -> String {
    format!("/tierflow/policies/{kind}/{name}")
}

fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// Of this process, in bytes.
fn rss() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}
