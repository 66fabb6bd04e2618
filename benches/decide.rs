//! What a decision costs without the transport: reading the request, finding its limits, one step over their counters,
//! and writing the answer; in nanoseconds of one thread.
//!
//! `cargo bench --bench decide`

#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::unwrap_used)]
#![allow(clippy::panic, reason = "a benchmark prints times, and ends where something is missing")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use futures_util::FutureExt;
use http::Request;
use http_body_util::Full;
use prost::Message;
use tierflow::clock::Clock;
use tierflow::compile::RateLimitService;
use tierflow::counters::Counters;
use tierflow::counters::memory::{Memory, MemoryLimits};
use tierflow::document::{Documents, split};
use tierflow::limiter::key::KeyHasher;
use tierflow::live::{Live, Settings};
use tierflow::metrics::Metrics;
use tierflow::names::{Name, Revision};
use tierflow::rls::{Failures, RateLimitServer, Rls};

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 7;
const CALLS: usize = 500_000;

/// Apis by how many limits their requests meet: the tenant has one, the Api the others. None is ever reached, but that of
/// `shut`, by its first request.
const POLICIES: &str = "\
{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1',
 tenant: {from: {header: x-tenant-id}, default_plan: standard}}
---
{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}
---
{kind: Api, name: one, gateway: shop, match: {path: /1}, service: order}
---
{kind: Api, name: two, gateway: shop, match: {path: /2}, service: order, limits: [{rate: 1000000000/m}]}
---
{kind: Api, name: four, gateway: shop, match: {path: /4}, service: order,
 limits: [{rate: 1000000000/s}, {rate: 1000000000/m}, {rate: 1000000000/h}]}
---
{kind: Api, name: shut, gateway: shop, match: {path: /shut}, service: order, limits: [{rate: 1/d}]}
---
{kind: Plan, name: standard, limits: [{rate: 1000000000/m}]}
";

fn main() {
    println!("{:<22} {:>14} {:>18}", "ns a decision", "1 000 tenants", "1 000 000 tenants");
    for (name, api) in [("1 limit", "one"), ("2 limits", "two"), ("4 limits", "four"), ("2 limits, one denies", "shut")]
    {
        let [hot, many] = [1_000, 1_000_000].map(|tenants| nanos(api, tenants));
        println!("{name:<22} {hot:>14.0} {many:>18.0}");
    }
}

/// The median of the rounds.
fn nanos(api: &str, tenants: usize) -> f64 {
    let (service, id) = service(api);
    let messages: Vec<Bytes> = (0..tenants).map(|tenant| message(&id, tenant)).collect();
    // All counters are there before time is taken.
    messages.iter().for_each(|message| decide(&service, message));
    // Far from the one before, as requests of many tenants are.
    let order: Vec<usize> = (0..CALLS).map(|call| call.wrapping_mul(7_368_787) % tenants).collect();
    let mut rounds: Vec<Duration> = (0..ROUNDS).map(|_| time(&service, &messages, &order)).collect();
    rounds.sort_unstable();
    rounds.get(ROUNDS / 2).unwrap().as_nanos() as f64 / CALLS as f64
}

fn time(service: &RateLimitServer, messages: &[Bytes], order: &[usize]) -> Duration {
    let started = Instant::now();
    order.iter().filter_map(|place| messages.get(*place)).for_each(|message| decide(service, message));
    started.elapsed()
}

fn decide(service: &RateLimitServer, message: &Bytes) {
    let request = Request::new(Full::new(message.clone()));
    std::hint::black_box(service.call(request).now_or_never().expect("memory never waits"));
}

/// And what its routes report of the Api.
fn service(api: &str) -> (RateLimitServer, String) {
    let settings = Settings {
        rate_limit_service: RateLimitService::default(),
        counter_keys: KeyHasher::seeded([7; 16]),
        allow_empty: false,
    };
    let (live, mut writer) = Live::new(settings);
    let clock = Clock::start();
    let documents = Documents::new(Revision::default(), split(&"bench.yaml".into(), POLICIES.as_bytes()));
    writer.adopt(&documents, clock.now());
    assert!(live.refused().is_empty());
    let counters = Counters::Memory(Arc::new(Memory::new(MemoryLimits { keys_max: 4_000_000 })));
    let shop = Name::parse("shop").unwrap();
    let forms = live.generation().unwrap().matcher.forms(&shop).unwrap();
    let id = forms.ids().find(|id| id.split('/').next() == Some(api)).unwrap().to_owned();
    let metrics = Arc::new(Metrics::default());
    let failures = Failures::new(Arc::clone(&metrics), clock);
    (Rls { live, counters, metrics, clock, failures }.into_service(), id)
}

/// As gRPC frames it.
fn message(api: &str, tenant: usize) -> Bytes {
    let entry = |key: &str, value: &str| Entry { key: key.to_owned(), value: value.to_owned() };
    let entries = vec![entry("api", api), entry("tenant", &format!("tenant-{tenant}"))];
    let descriptors = vec![RateLimitDescriptor { entries, ..Default::default() }];
    let request = RateLimitRequest { domain: "tierflow/shop".to_owned(), descriptors, hits_addend: 0 };
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(request.encoded_len()).unwrap());
    request.encode(&mut message).unwrap();
    message.freeze()
}
