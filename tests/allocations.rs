//! What a decision puts on the heap, counted by an allocator of this program's own: so a copy that slips into the path of
//! every request is found by a test, and not by a benchmark that somebody has to run.

// Tests may be blunt: a failed unwrap is a failed test, in a helper as much as in a test.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use http::{HeaderMap, Response};
use prost::Message;
use tierflow::clock::{Clock, Timestamp};
use tierflow::compile::RateLimitService;
use tierflow::counters::memory::{Memory, MemoryLimits};
use tierflow::counters::{Counters, OnError};
use tierflow::denials::Denials;
use tierflow::document::{Documents, split};
use tierflow::limiter::key::KeyHasher;
use tierflow::limiter::matcher::{Asked, Described};
use tierflow::live::{Live, Settings};
use tierflow::metrics::Metrics;
use tierflow::names::certificate::{ClientCertificate, San};
use tierflow::names::{Name, Revision};
use tierflow::rls::{Decision, Failures, Followers, RateLimitServer, Rls};
use tierflow::top::notes::{self, Counter, Notes};
use tierflow::top::{self, Top};

/// Apis by what their requests meet. The tenant has one limit, the Api the others.
const POLICIES: &str = "\
{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1',
 tenant: {from: {header: x-tenant-id}, default_plan: standard}}
---
{kind: Gateway, name: hosts, nodes: {clusters: [hosts]}, listen: '127.0.0.1:2',
 identities: [edge.shop, 'spiffe://shop/edge'],
 tenant: {from: {header: host}, default_plan: standard}}
---
{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}
---
{kind: Api, name: one, gateway: shop, match: {path: /1}, service: order}
---
{kind: Api, name: two, gateway: shop, match: {path: /2}, service: order, limits: [{rate: 1000000/m}]}
---
{kind: Api, name: four, gateway: shop, match: {path: /4}, service: order,
 limits: [{rate: 1000000/s}, {rate: 1000000/m, algorithm: fixed_window}, {rate: 1000000/h, algorithm: token_bucket}]}
---
{kind: Api, name: split, gateway: shop, match: {path: /split}, service: order,
 limits: [{rate: 1000000/s, by: [path, host]}, {rate: 1000000/m, by: [client_ip/24, {header: x-a}]}]}
---
{kind: Api, name: shut, gateway: shop, match: {path: /shut}, service: order, limits: [{rate: 1/d}]}
---
{kind: Api, name: hosted, gateway: hosts, match: {path: /}, service: order, limits: [{rate: 1000000/m}]}
---
{kind: Plan, name: standard, limits: [{rate: 1000000/m}]}
---
{kind: Tenant, name: acme, plan: standard, limits: [{rate: 2000000/m}]}
";

/// A request: its gateway, its Api, and what else its route reports.
type Asks = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const REPORTED: [(&str, &str); 4] =
    [("path", "/split/x?q=1"), ("host", "shop.example:443"), ("remote_address", "10.1.2.3"), ("header:x-a", "a")];
const SPLIT: &[(&str, &str)] = &[("tenant", "acme"), REPORTED[0], REPORTED[1], REPORTED[2], REPORTED[3]];

/// What is asked, by how many limits.
const REQUESTS: [(Asks, usize); 8] = [
    (("shop", "one", &[("tenant", "acme")]), 1),
    (("shop", "one", &[("tenant", "a-stranger-with-quite-a-long-name")]), 1),
    (("shop", "two", &[("tenant", "acme")]), 2),
    (("shop", "two", &[("tenant", "stranger")]), 2),
    (("shop", "four", &[("tenant", "acme")]), 4),
    (("shop", "four", &[("tenant", "stranger")]), 4),
    (("shop", "split", SPLIT), 3),
    (("hosts", "hosted", &[("tenant", "shop.example:8080")]), 2),
];
const DENIED: Asks = ("shop", "shut", &[("tenant", "acme")]);

#[test]
fn a_decision_from_memory_puts_nothing_on_the_heap() {
    let world = World::new();
    for (asks, limits) in REQUESTS {
        let entries = world.entries(asks);
        // The counters are there from the first request on.
        assert_eq!(world.decide(asks.0, &entries), (limits, true), "{asks:?}");
        // Enough for a sliding window to have left its exact log.
        for call in 0..100 {
            let mut decided = None;
            let counted = allocation_counter::measure(|| decided = Some(world.decide(asks.0, &entries)));
            assert_eq!((decided, counted.count_total), (Some((limits, true)), 0), "{asks:?}, call {call}");
        }
    }
}

#[test]
fn a_denial_from_memory_puts_nothing_on_the_heap() {
    let world = World::new();
    let entries = world.entries(DENIED);
    assert_eq!(world.decide("shop", &entries), (2, true));
    let mut decided = None;
    let counted = allocation_counter::measure(|| decided = Some(world.decide("shop", &entries)));
    assert_eq!((decided, counted.count_total), (Some((2, false)), 0));
}

/// Of the rest of a call, the answer's bytes are one piece of memory, and each of its two maps of headers has two. What a
/// request's own bytes take is the transport's doing, and not counted.
#[test]
fn a_call_puts_no_more_on_the_heap_than_its_answer_has_parts() {
    const ALLOCATIONS_MAX: u64 = 5;
    let world = World::new();
    let requests = REQUESTS.map(|(asks, _)| asks).into_iter().chain([DENIED]);
    for asks in requests {
        let message = world.message(asks);
        // Counters and what metrics keep of labels are there from the second call on, when the last Api denies.
        (0..2).for_each(|_| drop(world.call(&message)));
        let counted = allocation_counter::measure(|| drop(world.call(&message)));
        assert!(counted.count_total <= ALLOCATIONS_MAX, "{asks:?}: {counted:?}");
    }
}

/// More tenants than there is room for, all of them strangers: they take what was set aside for counters and no more, and a
/// tenant that has used up its limit does not get it back.
#[test]
fn a_flood_of_tenants_takes_no_more_memory_than_is_set_aside_for_counters() {
    const KEYS_MAX: usize = 20_000;
    const BYTES_PER_KEY_MAX: u64 = 192;
    let world = World::new();
    let victim = world.entries(DENIED);
    let mut stranger = world.entries(("shop", "one", &[("tenant", "")]));
    let counted = allocation_counter::measure(|| {
        let memory = Memory::new(MemoryLimits { keys_max: KEYS_MAX });
        let decide = |entries: &[(String, String)]| world.decide_by(&memory, "shop", entries).1;
        assert!(decide(&victim));
        for number in 0..10 * KEYS_MAX {
            stranger[1].1 = format!("stranger-{number}");
            assert!(decide(&stranger), "{number}");
            assert!(number % 100 != 0 || !decide(&victim), "given back after {number} strangers");
        }
        assert!((KEYS_MAX * 9 / 10..=KEYS_MAX).contains(&memory.len()), "{}", memory.len());
    });
    let bytes_max = KEYS_MAX as u64 * BYTES_PER_KEY_MAX;
    assert!(counted.bytes_max <= bytes_max, "{} bytes of {bytes_max}", counted.bytes_max);
}

/// Tenants and counters without end, with names as long as clients can make them.
#[test]
fn the_busiest_and_the_most_denied_take_no_more_memory_than_is_set_aside_for_them() {
    let gateway = Name::parse("shop").unwrap();
    let note = |notes: &mut Notes, number: u64| {
        let long = format!("{number:0>1000}");
        // What is cut off is the end.
        let tenant = long.bytes().rev().collect::<Vec<u8>>();
        notes.decision(&gateway, Some(&tenant), true);
        for counter in 0..20 {
            let key = u128::from(number) << 64 | counter;
            let (api, limit) = (Some(&gateway), &gateway);
            let counter =
                Counter { key, api, tier: "tenant", limit, is_of_tenant: true, has_no_room: true, is_shadow: false };
            notes.counter(counter, |tell| (0..20).for_each(|_| tell(&[b"key=", &tenant])));
        }
    };
    let counted = allocation_counter::measure(|| {
        let top = Top::default();
        for second in 0..70_u64 {
            for number in 0..300 {
                let now = Timestamp::from_nanos(second * 1_000_000_000 + number * 1_000_000);
                top.take(now, |notes| note(notes, second * 1_000 + number));
            }
            top.collect(Timestamp::from_nanos(second * 1_000_000_000));
        }
    });
    // The notes of the thread, those that are collected, and the text of this test.
    let bytes_max = top::BYTES_MAX + 2 * notes::BYTES_MAX + 200_000;
    assert!(counted.bytes_max <= bytes_max as u64, "{} bytes of {bytes_max}", counted.bytes_max);
}

struct World {
    live: Arc<Live>,
    memory: Arc<Memory>,
    clock: Clock,
    service: RateLimitServer,
    /// That of the connection.
    certificate: Arc<ClientCertificate>,
}

impl World {
    fn new() -> Self {
        let settings = Settings {
            rate_limit_service: RateLimitService::default(),
            counter_keys: KeyHasher::seeded([7; 16]),
            allow_empty: false,
        };
        let (live, mut writer) = Live::new(settings);
        let clock = Clock::start();
        let documents = Documents::new(Revision::default(), split(&"policies.yaml".into(), POLICIES.as_bytes()));
        writer.adopt(&documents, clock.now());
        assert!(live.refused().is_empty(), "{:?}", live.refused());
        let memory = Arc::new(Memory::new(MemoryLimits::default()));
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
        let sans = vec![San::Dns("other.shop".to_owned()), San::Uri("spiffe://shop/edge".to_owned())];
        let certificate = Arc::new(ClientCertificate { sans, not_after: None });
        Self { live, memory, clock, service, certificate }
    }

    /// The entries of a request's only descriptor.
    fn entries(&self, (gateway, api, reported): Asks) -> Vec<(String, String)> {
        let forms = self.live.generation().unwrap().matcher.forms(&Name::parse(gateway).unwrap()).unwrap();
        let id = forms.ids().find(|id| id.split('/').next() == Some(api)).unwrap().to_owned();
        let reported = reported.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        [("api".to_owned(), id)].into_iter().chain(reported).collect()
    }

    /// How many limits the request meets, and whether it is admitted.
    fn decide(&self, gateway: &str, entries: &[(String, String)]) -> (usize, bool) {
        self.decide_by(&self.memory, gateway, entries)
    }

    fn decide_by(&self, memory: &Memory, gateway: &str, entries: &[(String, String)]) -> (usize, bool) {
        let served = self.live.load();
        let older = self.live.forms.older();
        let mut borrowed = [(&[][..], &[][..]); 8];
        let entries = entries.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes()));
        let count = borrowed.iter_mut().zip(entries).map(|(place, entry)| *place = entry).count();
        let descriptors = [Described { entries: &borrowed[..count], hits: 1 }];
        let matcher = &served.generation.as_ref().unwrap().matcher;
        let asked = Asked { gateway, descriptors: &descriptors };
        let found = matcher.find_for(Some(&self.certificate), &asked, &older).unwrap().unwrap();
        let limits = found.limits.as_ref().unwrap();
        let admission = memory.admit(limits, self.clock.now(), OnError::Deny);
        (limits.len(), admission.admitted)
    }

    /// As gRPC frames it.
    fn message(&self, asks: Asks) -> Bytes {
        let entries = self.entries(asks).into_iter().map(|(key, value)| Entry { key, value }).collect();
        let descriptors = vec![RateLimitDescriptor { entries, ..Default::default() }];
        let request = RateLimitRequest { domain: format!("tierflow/{}", asks.0), descriptors, hits_addend: 0 };
        let mut message = BytesMut::new();
        message.put_u8(0);
        message.put_u32(u32::try_from(request.encoded_len()).unwrap());
        request.encode(&mut message).unwrap();
        message.freeze()
    }

    /// The whole of a call, to the trailers of its answer.
    fn call(&self, message: &Bytes) -> (Response<()>, Option<(Bytes, HeaderMap)>) {
        let mut call = self.service.begin(&HeaderMap::new()).ok().unwrap();
        self.service.receive(&mut call, message.clone()).ok().unwrap();
        match self.service.decide(call, Some(&self.certificate)) {
            Decision::Made(reply) => reply.into_parts(),
            Decision::Asked(_) => panic!("memory never waits"),
        }
    }
}
