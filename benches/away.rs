//! How long decisions take while the store of counters hangs: 2000 requests a second over the rate limit port of a
//! `tierflow serve`, half of which ask for an Api with a limit and half for one without, which asks no store and tells what
//! the machine is worth at the time. Redis is stopped (SIGSTOP) for some seconds, and goes on.
//!
//! `cargo bench --bench away`

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use parking_lot::Mutex;
use tierflow::clock::Clock;
use tierflow::compile::RateLimitService;
use tierflow::document::{Documents, split};
use tierflow::limiter::key::KeyHasher;
use tierflow::live::{Live, Settings};
use tierflow::names::{Name, Revision};
use tonic::transport::{Channel, Endpoint};

#[path = "../examples/envoy/kit.rs"]
mod kit;

const POLICIES: &str = "\
{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1', limiter: {on_error: local}}
---
{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}
---
{kind: Api, name: limited, gateway: shop, match: {path: /limited}, service: order, limits: [{rate: 500/s}]}
---
{kind: Api, name: open, gateway: shop, match: {path: /open}, service: order}
";

/// Odd, so that each is asked for both Apis.
const CONNECTIONS: usize = 5;
const PER_SECOND: u32 = 2000;
const ROUNDS: usize = 3;
const THERE: Duration = Duration::from_secs(4);
const STOPPED: Duration = Duration::from_secs(6);
const BACK: Duration = Duration::from_secs(4);
/// What the first decisions without an answer may take until the breaker is open.
const OPENING: Duration = Duration::from_millis(100);

/// When it was sent, whether a limit was asked for, and how long it took.
type Sample = (Instant, bool, Duration);

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let redis = kit::redis::Redis::start(&folder.path().join("redis"), free_address(), &[]).expect("a Redis");
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).expect("a folder");
    std::fs::write(policies.join("policies.yaml"), POLICIES).expect("a file");
    let [rls, admin] = [free_address(), free_address()];
    let server = Command::new(env!("CARGO_BIN_EXE_tierflow"))
        .args([
            "serve",
            &format!("--policies={}", policies.display()),
            &format!("--counters=redis://{}", redis.address),
        ])
        .args([&format!("--rls-listen={rls}"), &format!("--admin-listen={admin}"), "--xds-listen=127.0.0.1:0"])
        .stderr(Stdio::null())
        .spawn();
    let _server = Program(server.expect("tierflow"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    println!("{:<28} {:>9} {:>22} {:>22}", "", "requests", "with a limit, p99/max", "without, p99/max");
    runtime.block_on(async {
        let mut channels = Vec::new();
        for _ in 0..CONNECTIONS {
            let endpoint = Endpoint::from_shared(format!("http://{rls}")).expect("an address").tcp_nodelay(true);
            channels.push(eventually(async || endpoint.connect().await.ok()).await);
        }
        for _ in 0..ROUNDS {
            round(&channels, &redis, admin).await;
        }
    });
}

async fn round(channels: &[Channel], redis: &kit::redis::Redis, admin: SocketAddr) {
    eventually(async || (!counts_alone(admin).await).then_some(())).await;
    let samples = Arc::new(Mutex::new(Vec::<Sample>::new()));
    let generator = tokio::spawn(generate(channels.to_vec(), Arc::clone(&samples)));
    tokio::time::sleep(THERE).await;
    signal(redis.id(), "STOP");
    let stopped = now();
    tokio::time::sleep(STOPPED).await;
    signal(redis.id(), "CONT");
    let went_on = now();
    eventually(async || (!counts_alone(admin).await).then_some(())).await;
    let shared_after = went_on.elapsed();
    tokio::time::sleep(BACK).await;
    generator.abort();
    let samples = samples.lock();
    print("the store is there", &samples, stopped - THERE / 2, stopped);
    print("it is stopped: first 0.1 s", &samples, stopped, stopped + OPENING);
    print("  then", &samples, stopped + OPENING, went_on);
    print("it goes on", &samples, went_on, went_on + BACK);
    println!("counted together again {:.2} s after it went on", shared_after.as_secs_f64());
}

fn print(phase: &str, samples: &[Sample], from: Instant, to: Instant) {
    let figures = |is_limited: bool| {
        let of_phase = samples.iter().filter(|(at, limited, _)| (from..to).contains(at) && *limited == is_limited);
        let mut took: Vec<_> = of_phase.map(|(_, _, took)| took.as_secs_f64() * 1000.0).collect();
        took.sort_by(f64::total_cmp);
        let at =
            |share: f64| took.get((took.len() as f64 * share) as usize).or(took.last()).copied().unwrap_or_default();
        (took.len(), format!("{:.1} ms / {:.1} ms", at(0.99), at(1.0)))
    };
    let ((limited, with), (open, without)) = (figures(true), figures(false));
    println!("{phase:<28} {:>9} {with:>22} {without:>22}", limited + open);
}

/// Sends on time, whatever becomes of what was sent before.
async fn generate(channels: Vec<Channel>, samples: Arc<Mutex<Vec<Sample>>>) {
    let mut apis = ids().into_iter().cycle();
    let mut channels = channels.into_iter().cycle();
    let mut is_limited = false;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / PER_SECOND);
    loop {
        ticks.tick().await;
        is_limited = !is_limited;
        let (Some(api), Some(channel)) = (apis.next(), channels.next()) else { return };
        let request = request(&api);
        let mut client = RateLimitServiceClient::new(channel);
        let samples = Arc::clone(&samples);
        tokio::spawn(async move {
            let sent = now();
            if client.should_rate_limit(request).await.is_ok() {
                let took = sent.elapsed();
                samples.lock().push((sent, is_limited, took));
            }
        });
    }
}

/// What routes report of the Api with a limit and of the one without.
fn ids() -> [String; 2] {
    let settings = Settings {
        rate_limit_service: RateLimitService::default(),
        counter_keys: KeyHasher::shared(),
        allow_empty: false,
    };
    let (live, mut writer) = Live::new(settings);
    let documents = Documents::new(Revision::default(), split(&"bench.yaml".into(), POLICIES.as_bytes()));
    writer.adopt(&documents, Clock::start().now());
    let shop = Name::parse("shop").expect("a name");
    let forms = live.generation().and_then(|served| served.matcher.forms(&shop)).expect("the gateway is served");
    ["limited", "open"].map(|api| forms.ids().find(|id| id.starts_with(api)).expect("it has the Api").to_owned())
}

fn request(api: &str) -> RateLimitRequest {
    let entries = vec![Entry { key: "api".to_owned(), value: api.to_owned() }];
    RateLimitRequest {
        domain: "tierflow/shop".to_owned(),
        descriptors: vec![RateLimitDescriptor { entries, ..Default::default() }],
        hits_addend: 0,
    }
}

async fn counts_alone(admin: SocketAddr) -> bool {
    let answer = kit::client::Client::default().get(&format!("http://{admin}/v1/status")).await;
    let status = answer.ok().and_then(|answer| serde_json::from_slice::<serde_json::Value>(&answer.body).ok());
    status.is_none_or(|status| status.pointer("/counters/redis/counts_alone") != Some(&false.into()))
}

async fn eventually<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    loop {
        match ask().await {
            Some(answer) => return answer,
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

fn signal(process: u32, signal: &str) {
    let status = Command::new("kill").args(["-s", signal, &process.to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill");
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound port")
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn now() -> Instant {
    Instant::now()
}
