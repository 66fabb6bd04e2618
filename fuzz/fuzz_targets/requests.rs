//! Whatever comes as a rate limit request: it is answered, without a panic; and what an Envoy can send, with any bytes as
//! values, is decided.

#![no_main]

use std::sync::{Arc, LazyLock};

use http_body_util::Full;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use prost::bytes::{BufMut as _, Bytes, BytesMut};
use tierflow::limiter::key::KeyHasher;
use tierflow::clock::Clock;
use tierflow::compile::RateLimitService;
use tierflow::counters::Counters;
use tierflow::counters::memory::{Memory, MemoryLimits};
use tierflow::document::{Documents, split};
use tierflow::live::{Live, Settings};
use tierflow::metrics::Metrics;
use tierflow::names::{Name, Revision};
use tierflow::rls::{Failures, RateLimitServer, Rls};
use tokio::runtime::{Builder, Runtime};
use tonic::Code;
use tonic::body::Body;
use tower_service::Service as _;

/// Each kind of limit, dimension and tenant rule, and a list.
const POLICIES: &str = "\
{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1',
 tenant: {from: {header: x-tenant-id}, default_plan: standard}}
---
{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}
---
{kind: Api, name: create, gateway: shop, match: {path: /create}, service: order,
 limits: [{rate: 10/s, cost: {header: x-cost}}, {rate: 5/m, by: [client_ip], algorithm: token_bucket},
          {rate: 5/m, by: [client_ip/24, path, host, method, {header: x}, {query: x}, {cookie: x}, {jwt_claim: x}], algorithm: fixed_window}]}
---
{kind: Plan, name: standard, limits: [{rate: 600/m}], apis: {create: [{rate: 100/m, mode: shadow}]}}
---
{name: list, rate_limits: [{actions: [{remote_address: {}}], limit: {unit: MINUTE, requests_per_unit: 3}}]}
";

/// What routes report first: of the Api, of the list, and of routes that nobody remembers.
struct Server {
    service: RateLimitServer,
    ids: Vec<(&'static str, String)>,
    runtime: Runtime,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let rate_limit_service = RateLimitService::default();
    let (live, mut writer) = Live::new(Settings { rate_limit_service, counter_keys: KeyHasher::seeded([0; 16]), allow_empty: false });
    let clock = Clock::start();
    writer.adopt(&Documents::new(Revision::default(), split(&"p.yaml".into(), POLICIES.as_bytes())), clock.now());
    assert!(live.refused().is_empty());
    let forms = live.latest().matcher.forms(&Name::parse("shop").unwrap()).unwrap();
    let key = |id: &str| if id.starts_with("create/") { "api" } else { "rate_limits" };
    let known = forms.ids().map(|id| (key(id), id.to_owned()));
    let unknown =
        [("api", "create/00000000".to_owned()), ("api", "gone/".to_owned()), ("rate_limits", "list/0/0".to_owned())];
    let metrics = Arc::new(Metrics::default());
    let failures = Failures::new(Arc::clone(&metrics), clock);
    let counters = Counters::Memory(Arc::new(Memory::new(MemoryLimits { keys_max: 10_000 })));
    Server {
        ids: known.chain(unknown).collect(),
        service: Rls { live, counters, metrics, top: Arc::default(), clock, failures }.into_service(),
        runtime: Builder::new_current_thread().build().unwrap(),
    }
});

/// The fields of Envoy's request that clients have a say in, with bytes for text.
#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(bytes = "bytes", tag = "1")]
    domain: Bytes,
    #[prost(message, repeated, tag = "2")]
    descriptors: Vec<Descriptor>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Descriptor {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

const KEYS: [&str; 11] = [
    "tenant",
    "remote_address",
    "path",
    "host",
    "method",
    "header:x",
    "header:x-cost",
    "query:x",
    "cookie:x",
    "jwt_claim:x",
    "api",
];

/// The first byte chooses what the route is, each further one of a piece the key.
fn request(bytes: &[u8]) -> Request {
    let (route, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let (key, id) = &SERVER.ids[usize::from(*route) % SERVER.ids.len()];
    let first = Entry { key: Bytes::from_static(key.as_bytes()), value: Bytes::from(id.clone()) };
    let entry = |piece: &[u8]| {
        let (key, value) = piece.split_first().unwrap_or((&0, &[]));
        let key = KEYS[usize::from(*key) % KEYS.len()];
        Entry { key: Bytes::from_static(key.as_bytes()), value: Bytes::copy_from_slice(value) }
    };
    let entries = std::iter::once(first).chain(rest.split(|b| *b == b'\n').map(entry)).collect();
    Request { domain: Bytes::from_static(b"tierflow/shop"), descriptors: vec![Descriptor { entries }] }
}

/// The status of the answer.
fn ask(message: &[u8]) -> Code {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put_slice(message);
    let request = http::Request::post("/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit")
        .header("content-type", "application/grpc")
        .body(Body::new(Full::new(frame.freeze())))
        .unwrap();
    let answer = SERVER.runtime.block_on(SERVER.service.clone().call(request)).unwrap();
    tonic::Status::from_header_map(answer.headers()).map_or(Code::Ok, |status| status.code())
}

fuzz_target!(|bytes: &[u8]| {
    ask(bytes);
    assert_eq!(ask(&request(bytes).encode_to_vec()), Code::Ok);
});
