//! What a decision costs without the transport, in nanoseconds of one thread: finding a request's limits and one step over
//! their counters; and with reading the request and writing the answer.
//!
//! `cargo bench --bench decide`; for a look, with fewer rounds in TIERFLOW_BENCH_ROUNDS=1. On a busy machine instructions
//! say more than times: `valgrind --tool=callgrind --toggle-collect='*timed*'` counts those of what is timed.

#![allow(clippy::print_stdout, clippy::unwrap_used)]
#![allow(clippy::panic, reason = "a benchmark prints times, and ends where something is missing")]

use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use http::HeaderMap;
use prost::Message;
use rustix::time::{ClockId, clock_gettime};
use tierflow::clock::Clock;
use tierflow::compile::RateLimitService;
use tierflow::counters::memory::{Memory, MemoryLimits};
use tierflow::counters::{Counters, OnError};
use tierflow::denials::Denials;
use tierflow::document::{Documents, split};
use tierflow::limiter::key::KeyHasher;
use tierflow::limiter::matcher::{Asked, Described, Matcher};
use tierflow::limiter::older::OlderForms;
use tierflow::live::{Live, Settings};
use tierflow::metrics::Metrics;
use tierflow::names::{Name, Revision};
use tierflow::rls::{Decision, Failures, Followers, RateLimitServer, Rls};

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CALLS: usize = 500_000;
/// Between two decisions of the pure core, which is told the time.
const STEP_NANOS: u64 = 500;

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

const APIS: [(&str, &str); 4] =
    [("1 limit", "one"), ("2 limits", "two"), ("4 limits", "four"), ("2 limits, one denies", "shut")];
const TENANTS: [usize; 2] = [1_000, 1_000_000];

fn main() {
    print("ns a decision", pure);
    print("ns a call without HTTP/2", whole);
}

fn print(title: &str, nanos: fn(&str, usize) -> f64) {
    println!("{title:<26} {:>14} {:>18}", "1 000 tenants", "1 000 000 tenants");
    for (name, api) in APIS {
        let [hot, many] = TENANTS.map(|tenants| nanos(api, tenants));
        println!("{name:<26} {hot:>14.0} {many:>18.0}");
    }
}

/// The limits of a request, and one step over their counters.
fn pure(api: &str, tenants: usize) -> f64 {
    let world = World::new(api);
    let (served, older) = (world.live.generation().unwrap(), world.live.forms.older());
    let names: Vec<[u8; 16]> = callers(tenants).map(name).collect();
    let mut now = world.clock.now();
    let mut decide = |call: usize| {
        let Some(name) = names.get(call) else { return };
        now = now.plus_nanos(STEP_NANOS);
        let entries = [(&b"api"[..], world.id.as_bytes()), (&b"tenant"[..], &name[..])];
        let admitted = admit(&served.matcher, &older, &world.memory, &entries, now);
        assert!(admitted || api == "shut");
    };
    nanos(tenants, &mut decide)
}

fn admit(
    matcher: &Matcher,
    older: &OlderForms,
    memory: &Memory,
    entries: &[(&[u8], &[u8])],
    now: tierflow::clock::Timestamp,
) -> bool {
    let descriptors = [Described { entries, hits: 1 }];
    let found = matcher.find(&Asked { gateway: "shop", descriptors: &descriptors }, older).unwrap();
    black_box(memory.admit(found.limits.as_ref().unwrap(), now, OnError::Deny)).admitted
}

/// From the bytes of a request to those of its answer.
fn whole(api: &str, tenants: usize) -> f64 {
    let world = World::new(api);
    let messages: Vec<Bytes> = callers(tenants).map(|tenant| message(&world.id, &name(tenant))).collect();
    let headers = HeaderMap::new();
    let mut call = |call: usize| {
        let Some(message) = messages.get(call) else { return };
        let mut call = world.service.begin(&headers).ok().unwrap();
        world.service.receive(&mut call, message.clone()).ok().unwrap();
        let Decision::Made(reply) = world.service.decide(call, None) else { panic!("memory never waits") };
        black_box(reply.into_parts());
    };
    nanos(tenants, &mut call)
}

/// Who calls, call by call: each tenant once, so that its counters are there, and then those of the calls that are timed, each
/// far from the one before, as requests of many tenants are. What a call brings lies in this order, too: one that comes from
/// a socket is in a cache.
fn callers(tenants: usize) -> impl Iterator<Item = usize> {
    (0..tenants).chain((0..CALLS).map(move |call| call.wrapping_mul(7_368_787) % tenants))
}

/// The median of the rounds.
fn nanos(tenants: usize, decide: &mut impl FnMut(usize)) -> f64 {
    (0..tenants).for_each(&mut *decide);
    let rounds = std::env::var("TIERFLOW_BENCH_ROUNDS").map_or(7, |rounds| rounds.parse().unwrap());
    let mut rounds: Vec<Duration> = (0..rounds).map(|_| timed(tenants..tenants + CALLS, decide)).collect();
    rounds.sort_unstable();
    rounds.get(rounds.len() / 2).unwrap().as_nanos() as f64 / CALLS as f64
}

/// What the thread itself took.
#[inline(never)]
fn timed(calls: Range<usize>, decide: &mut impl FnMut(usize)) -> Duration {
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
    };
    let began = now();
    calls.for_each(decide);
    now() - began
}

struct World {
    live: Arc<Live>,
    memory: Arc<Memory>,
    clock: Clock,
    service: RateLimitServer,
    /// What routes report of the Api.
    id: String,
}

impl World {
    fn new(api: &str) -> Self {
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
        let memory = Arc::new(Memory::new(MemoryLimits { keys_max: 4_000_000 }));
        let forms = live.generation().unwrap().matcher.forms(&Name::parse("shop").unwrap()).unwrap();
        let id = forms.ids().find(|id| id.split('/').next() == Some(api)).unwrap().to_owned();
        let metrics = Arc::new(Metrics::default());
        let failures = Failures::new(Arc::clone(&metrics), clock);
        let denials = Arc::new(Denials::new(Arc::clone(&metrics), clock));
        let counters = Counters::Memory(Arc::clone(&memory));
        let followers = Followers::default();
        let service = Rls {
            live: Arc::clone(&live),
            counters,
            metrics,
            top: Arc::default(),
            clock,
            failures,
            denials,
            followers,
        }
        .into_service();
        Self { live, memory, clock, service, id }
    }
}

fn name(tenant: usize) -> [u8; 16] {
    let mut name = *b"tenant-000000000";
    let digits = format!("{tenant:09}");
    if let Some(place) = name.get_mut(7..) {
        place.copy_from_slice(digits.as_bytes());
    }
    name
}

/// As gRPC frames it.
fn message(api: &str, tenant: &[u8]) -> Bytes {
    let entry = |key: &str, value: &str| Entry { key: key.to_owned(), value: value.to_owned() };
    let entries = vec![entry("api", api), entry("tenant", std::str::from_utf8(tenant).unwrap())];
    let descriptors = vec![RateLimitDescriptor { entries, ..Default::default() }];
    let request = RateLimitRequest { domain: "tierflow/shop".to_owned(), descriptors, hits_addend: 0 };
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(request.encoded_len()).unwrap());
    request.encode(&mut message).unwrap();
    message.freeze()
}
