//! What a decision costs over gRPC, against the transport's own ceiling: a server of the same kind that answers OK
//! at once. Both run in this process, on a thread each, take turns, and are asked by the same generator; so the
//! ratio means something on a machine where the figures by themselves do not.
//!
//! `cargo bench --bench decide`

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use tierflow::clock::Clock;
use tierflow::compile::RateLimitService as Addresses;
use tierflow::counters::Counters;
use tierflow::counters::memory::{Memory, MemoryLimits};
use tierflow::document::{Documents, split};
use tierflow::limiter::key::KeyHasher;
use tierflow::live::{Live, Settings};
use tierflow::metrics::Metrics;
use tierflow::names::{Name, Revision};
use tierflow::rls::{Failures, RateLimitServer, Rls};
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 7;
const CALLS: usize = 20_000;

/// Four limits: two of the API, two of the tenant; none is ever reached.
const POLICIES: &str = "\
{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1',
 tenant: {from: {header: x-tenant-id}, default_plan: standard}}
---
{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}
---
{kind: Api, name: create, gateway: shop, match: {path: /create}, service: order,
 limits: [{rate: 1000000000/m}, {rate: 1000000000/m, by: [client_ip]}]}
---
{kind: Plan, name: standard, limits: [{rate: 1000000000/m}], apis: {create: [{rate: 1000000000/m}]}}
";

struct AnswersOk;

#[tonic::async_trait]
impl RateLimitService for AnswersOk {
    async fn should_rate_limit(&self, _: Request<RateLimitRequest>) -> Result<Response<RateLimitResponse>, Status> {
        Ok(Response::new(RateLimitResponse { overall_code: Code::Ok as i32, ..Default::default() }))
    }
}

fn main() {
    let ceiling = serve(Routes::new(RateLimitServiceServer::new(AnswersOk)));
    let (tierflow, api) = tierflow_service();
    let tierflow = serve(Routes::new(tierflow));
    let generator = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    println!("{:<28} {:>14} {:>14} {:>8}", "load", "answers OK", "tierflow", "ratio");
    for (name, connections, in_flight) in [("one call at a time", 1, 1), ("4 connections x 32 in flight", 4, 32)] {
        let mut rounds: Vec<(f64, f64)> = Vec::new();
        for _ in 0..ROUNDS {
            let calls = if in_flight == 1 { CALLS / 10 } else { CALLS };
            let of = |address| generator.block_on(calls_per_second(address, &api, connections, in_flight, calls));
            rounds.push((of(ceiling), of(tierflow)));
        }
        let median = |of: fn(&(f64, f64)) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values.get(ROUNDS / 2).copied().unwrap_or_default()
        };
        let ratio = median(|(ceiling, tierflow)| ceiling / tierflow);
        println!("{name:<28} {:>10.0}/s {:>12.0}/s {ratio:>8.2}", median(|round| round.0), median(|round| round.1));
    }
}

/// And what its routes report of the only Api.
fn tierflow_service() -> (RateLimitServer, String) {
    let settings = Settings {
        rate_limit_service: Addresses::default(),
        counter_keys: KeyHasher::seeded([7; 16]),
        allow_empty: false,
    };
    let (live, mut writer) = Live::new(settings);
    let clock = Clock::start();
    let documents = Documents::new(Revision::default(), split(&"bench.yaml".into(), POLICIES.as_bytes()));
    writer.adopt(&documents, clock.now());
    assert!(live.refused().is_empty());
    let counters = Counters::Memory(Arc::new(Memory::new(MemoryLimits::default())));
    let shop = Name::parse("shop").expect("a name");
    let forms = live.generation().and_then(|served| served.matcher.forms(&shop)).expect("the gateway is served");
    let api = forms.ids().next().expect("it has an Api").to_owned();
    let metrics = Arc::new(Metrics::default());
    let failures = Failures::new(Arc::clone(&metrics), clock);
    (Rls { live, counters, metrics, clock, failures }.into_service(), api)
}

fn serve(routes: Routes) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket that does not block");
    let address = listener.local_addr().expect("a bound port");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            Server::builder().add_routes(routes).serve_with_incoming(incoming).await
        })
    });
    address
}

async fn calls_per_second(address: SocketAddr, api: &str, connections: usize, in_flight: usize, calls: usize) -> f64 {
    let mut tasks = tokio::task::JoinSet::new();
    let each = calls / (connections * in_flight);
    let mut channels = Vec::new();
    for _ in 0..connections {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address").tcp_nodelay(true);
        channels.push(endpoint.connect().await.expect("a connection"));
    }
    let started = now();
    for channel in channels {
        for worker in 0..in_flight {
            tasks.spawn(ask(channel.clone(), api.to_owned(), worker, each));
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("every call is answered");
    }
    (each * connections * in_flight) as f64 / started.elapsed().as_secs_f64()
}

async fn ask(channel: Channel, api: String, worker: usize, calls: usize) {
    let mut client = RateLimitServiceClient::new(channel);
    for call in 0..calls {
        let answer = client.should_rate_limit(request(&api, worker, call)).await.expect("an answer");
        assert_eq!(answer.get_ref().overall_code, Code::Ok as i32);
    }
}

fn request(api: &str, worker: usize, call: usize) -> RateLimitRequest {
    let entry = |key: &str, value: String| Entry { key: key.to_owned(), value };
    let entries = vec![
        entry("api", api.to_owned()),
        entry("tenant", format!("tenant-{}", call % 1000)),
        entry("remote_address", format!("10.0.{worker}.{}", call % 250)),
    ];
    RateLimitRequest {
        domain: "tierflow/shop".to_owned(),
        descriptors: vec![RateLimitDescriptor { entries, ..Default::default() }],
        hits_addend: 0,
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn now() -> Instant {
    Instant::now()
}
