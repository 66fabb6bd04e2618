//! Decisions without a store of counters. With one they are tested through gRPC and through Envoy.

use std::time::Duration;

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use prost::Message as _;
use prost::bytes::Bytes;

use super::*;
use crate::compile::RateLimitService;
use crate::counters::memory::{Memory, MemoryLimits};
use crate::document::{Documents, split};
use crate::limiter::Usage;
use crate::limiter::key::KeyHasher;
use crate::live::Settings;
use crate::names::{Name, Revision};

/// Apis with enforced limits, with a limit in shadow, and with none; a tenant that is suspended.
fn policies(on_error: &str) -> String {
    format!(
        "\
{{kind: Gateway, name: edge, nodes: {{clusters: [edge]}}, listen: '127.0.0.1:1', limiter: {{on_error: {on_error}}},
 tenant: {{from: {{header: x-tenant-id}}, default_plan: free}}}}
---
{{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}}
---
{{kind: Api, name: pay, gateway: edge, match: {{path: /pay}}, service: order, limits: [{{rate: 5/m}}, {{rate: 9/h, name: all}}]}}
---
{{kind: Api, name: look, gateway: edge, match: {{path: /look}}, service: order, limits: [{{rate: 5/m, mode: shadow}}]}}
---
{{kind: Api, name: open, gateway: edge, match: {{path: /open}}, service: order}}
---
{{kind: Plan, name: free, apis: {{pay: [{{rate: 5/h}}]}}}}
---
{{kind: Tenant, name: gone, status: suspended}}
"
    )
}

fn caller(shown: Shown<'_>, now: Timestamp) -> Caller<'_> {
    Caller { shown, now, trace: None, span: None }
}

struct Decider {
    rls: Arc<Rls>,
}

impl Decider {
    fn away(on_error: &str) -> Self {
        Self::new(on_error, Counters::Away)
    }

    fn with_memory() -> Self {
        Self::new("allow", Counters::Memory(Arc::new(Memory::new(MemoryLimits::default()))))
    }

    fn new(on_error: &str, counters: Counters) -> Self {
        Self::of(&policies(on_error), counters)
    }

    fn of(policies: &str, counters: Counters) -> Self {
        let rate_limit_service = RateLimitService::default();
        let (live, mut writer) =
            Live::new(Settings { rate_limit_service, counter_keys: KeyHasher::seeded([7; 16]), allow_empty: false });
        let clock = Clock::start();
        let documents = split(&"test.yaml".into(), policies.as_bytes());
        writer.adopt(&Documents::new(Revision::default(), documents), clock.now());
        assert!(live.refused().is_empty(), "{:?}", live.refused());
        let metrics = Arc::new(Metrics::default());
        let failures = Failures::new(Arc::clone(&metrics), clock);
        let denials = Arc::new(Denials::new(Arc::clone(&metrics), clock));
        Self {
            rls: Arc::new(Rls {
                live,
                counters,
                metrics,
                top: Arc::default(),
                clock,
                failures,
                denials,
                followers: Followers::default(),
            }),
        }
    }

    async fn ask(&self, api: &str, tenant: &str) -> RateLimitResponse {
        let answer = self.rls.decide(&self.request(api, tenant), caller(None, self.rls.clock.now())).await.unwrap();
        answer::fixture::decode(answer)
    }

    fn request(&self, api: &str, tenant: &str) -> Vec<u8> {
        let generation = self.rls.live.generation().unwrap();
        let forms = generation.matcher.forms(&Name::parse("edge").unwrap()).unwrap();
        let id = forms.ids().find(|id| id.split('/').next() == Some(api)).unwrap();
        let entry = |key: &str, value: &str| Entry { key: key.to_owned(), value: value.to_owned() };
        let entries = vec![entry("api", id), entry("tenant", tenant)];
        let descriptors = vec![RateLimitDescriptor { entries, ..Default::default() }];
        RateLimitRequest { domain: "tierflow/edge".into(), descriptors, hits_addend: 0 }.encode_to_vec()
    }

    /// The charge of the first limit that a request meets.
    fn charge(&self, message: &[u8]) -> Charge {
        let (served, older) = (self.rls.live.served(), self.rls.live.forms.older());
        let mut request = wire::RateLimitRequest::default();
        read(&mut request, message).unwrap();
        let descriptors = request.described();
        let asked = caller(None, Timestamp::default());
        let found = self.rls.find(&request, &descriptors, generation(&served).unwrap(), &older, asked);
        let (_, found) = found.unwrap().unwrap();
        limits(&found)[0].charge
    }

    /// What is counted of a charge, and when the moment is that this is said of.
    async fn look(&self, charge: Charge) -> (Option<Usage>, Timestamp) {
        let now = self.rls.clock.now();
        (self.rls.counters.look(&[charge], now).await.unwrap()[0], now)
    }

    fn counted(&self, result: &str) -> u64 {
        let text = self.rls.metrics.render();
        let lines = text.lines().filter(|line| line.starts_with("tierflow_decisions_total"));
        let of_result = lines.filter(|line| line.contains(&format!("result=\"{result}\"")));
        of_result.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }
}

fn is_passed(response: &RateLimitResponse) -> bool {
    assert_eq!(response.statuses, [], "nothing is known of any limit");
    response.overall_code == 1
}

/// Whatever the domain says, and however the counters are kept: the certificate is what a gateway is for.
#[tokio::test]
async fn only_who_shows_an_identity_of_the_gateway_gets_decisions_and_is_counted() {
    let identified = policies("allow").replacen("listen:", "identities: ['spiffe://shop/edge', edge.shop], listen:", 1);
    for counters in [Counters::Memory(Arc::new(Memory::new(MemoryLimits::default()))), Counters::Away] {
        let decider = Decider::of(&identified, counters);
        let message = decider.request("pay", "acme");
        let now = decider.rls.clock.now();
        let shown = |name: &str| {
            let sans = vec![crate::names::certificate::San::parse(name).unwrap()];
            Arc::new(ClientCertificate { sans, not_after: None })
        };
        for denied in [None, Some(shown("spiffe://shop/edge2")), Some(shown("shop"))] {
            let both = [
                decider.rls.decide_now(&message, caller(denied.as_ref(), now)).map(drop),
                decider.rls.decide(&message, caller(denied.as_ref(), now)).await.map(drop),
            ];
            // Where nothing is decided at once, the first has no answer yet.
            let codes = both.map(|answer| answer.err().map(|status| status.code()));
            let denied = Some(tonic::Code::PermissionDenied);
            assert!(codes[1] == denied && (codes[0] == denied || !decider.rls.counters.never_waits()), "{codes:?}");
        }
        assert_eq!(decider.counted("ok") + decider.counted("store_away"), 0, "nothing is counted");
        for allowed in ["spiffe://shop/edge", "EDGE.shop"] {
            decider.rls.decide(&message, caller(Some(&shown(allowed)), now)).await.unwrap();
        }
        assert_eq!(decider.counted("ok") + decider.counted("store_away"), 2);
        let reasons: Vec<_> = decider.rls.denials.last().iter().map(|denial| denial.reason()).collect();
        assert!(reasons[0].ends_with("not for the certificate of shop") && reasons.len() == 3, "{reasons:?}");
    }
}

#[tokio::test]
async fn without_the_store_a_gateway_that_allows_lets_requests_pass() {
    let decider = Decider::away("allow");
    for _ in 0..10 {
        assert!(is_passed(&decider.ask("pay", "acme").await));
    }
    assert_eq!((decider.counted("store_away"), decider.counted("ok")), (10, 0));
}

#[tokio::test]
async fn without_the_store_a_gateway_that_denies_answers_503() {
    let decider = Decider::away("deny");
    let response = decider.ask("pay", "acme").await;
    assert!(!is_passed(&response));
    let body = String::from_utf8(response.raw_body.clone()).unwrap();
    assert!(body.contains("urn:tierflow:problem:store-away") && body.contains("\"status\":503"), "{body}");
    assert_eq!((decider.counted("store_away"), decider.counted("ok")), (1, 0));
}

#[tokio::test]
async fn a_store_that_is_away_denies_nothing_that_no_limit_could_deny() {
    let decider = Decider::away("deny");
    assert!(is_passed(&decider.ask("look", "acme").await), "a limit in shadow never denies");
    assert!(is_passed(&decider.ask("open", "acme").await), "no limit, no counter");
    assert_eq!((decider.counted("store_away"), decider.counted("ok")), (1, 1));
}

#[tokio::test]
async fn a_tenant_that_is_not_served_needs_no_store() {
    let decider = Decider::away("allow");
    assert!(!is_passed(&decider.ask("pay", "gone").await));
    assert_eq!((decider.counted("tenant_suspended"), decider.counted("store_away")), (1, 0));
}

/// As gRPC frames a message.
fn framed(message: &[u8]) -> Bytes {
    [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat().into()
}

#[tokio::test]
async fn a_request_counts_from_when_all_of_it_came() {
    let decider = Decider::with_memory();
    let message = decider.request("pay", "acme");
    let charge = decider.charge(&message);
    let service = RateLimitServer(Arc::clone(&decider.rls));
    let mut call = service.begin(&http::HeaderMap::new()).ok().unwrap();
    let before = decider.rls.clock.now();
    service.receive(&mut call, framed(&message)).ok().unwrap();
    assert!(matches!(service.decide(call, None), Decision::Made(_)), "memory never waits");
    let (usage, now) = decider.look(charge).await;
    let usage = usage.unwrap();
    // A minute after the hit there is room for another.
    assert_eq!(usage.used, 1);
    assert!(now + usage.frees_after >= before + Duration::from_secs(60));
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_any_more_is_charged_nothing() {
    let decider = Decider::with_memory();
    let message = decider.request("pay", "acme");
    let charge = decider.charge(&message);
    for (timeout, status, used) in [("1n", Some("4"), None), ("1H", None, Some(1))] {
        let service = RateLimitServer(Arc::clone(&decider.rls));
        let headers = http::HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), timeout.parse().unwrap())]);
        let mut call = service.begin(&headers).ok().unwrap();
        service.receive(&mut call, framed(&message)).ok().unwrap();
        let Decision::Made(reply) = service.decide(call, None) else { panic!("memory never waits") };
        let (head, _) = reply.into_parts();
        let told = head.headers().get("grpc-status").map(|status| status.to_str().unwrap());
        assert_eq!((told, decider.look(charge).await.0.map(|usage| usage.used)), (status, used), "{timeout}");
    }
}

/// What was noted, as `limit of api of tenant [values] decisions/denied`.
fn top(decider: &Decider) -> (Vec<String>, Vec<String>) {
    let now = decider.rls.clock.now();
    decider.rls.top.collect(now);
    let question = crate::top::Question {
        gateway: None,
        tenant: None,
        search: None,
        api: None,
        by: crate::top::Measure::Decisions,
        limit: 10,
    };
    let report = decider.rls.top.report(&question, now);
    let tenants = report
        .tenants
        .iter()
        .map(|(id, counts)| format!("{} of {} {}/{}", id.tenant, id.gateway, counts.decisions, counts.denied));
    let counters = report.counters.iter().map(|(name, counts)| {
        let api = name.api.as_ref().map_or("*", |api| api.as_str());
        let tenant = name.tenant.as_deref().unwrap_or("*");
        format!("{} of {api} of {tenant} {:?} {}/{}", name.limit, name.values, counts.decisions, counts.denied)
    });
    (tenants.collect(), counters.collect())
}

#[tokio::test]
async fn the_busiest_and_the_most_denied_are_known_by_the_names_of_policies() {
    let decider = Decider::with_memory();
    for _ in 0..7 {
        decider.ask("pay", "acme").await;
    }
    decider.ask("pay", "bolt").await;
    decider.ask("look", "bolt").await;
    for _ in 0..3 {
        assert_eq!(2, decider.ask("pay", "gone").await.overall_code);
    }
    let (tenants, counters) = top(&decider);
    // Five pass; the suspended tenant meets no counter.
    assert_eq!(tenants, ["acme of edge 7/2", "gone of edge 3/3", "bolt of edge 2/1"]);
    let expected = [
        "api-minute of pay of * [] 8/3",
        "all of pay of * [] 8/0",
        "tenant-api-hour of pay of acme [] 7/2",
        "api-minute-shadow of look of * [] 1/0",
        "tenant-api-hour of pay of bolt [] 1/0",
    ];
    assert_eq!(counters, expected);
}

#[tokio::test]
async fn without_the_store_tenants_are_known_and_nobody_is_said_to_be_denied() {
    let decider = Decider::away("deny");
    decider.ask("pay", "acme").await;
    assert_eq!(top(&decider), (vec!["acme of edge 1/0".to_owned()], Vec::new()));
}

#[tokio::test]
async fn a_request_that_several_limits_deny_is_denied_once() {
    let decider = Decider::with_memory();
    for _ in 0..7 {
        decider.ask("pay", "acme").await;
    }
    assert_eq!((decider.counted("ok"), decider.counted("denied"), decider.counted("over_limit")), (5, 2, 4));
}
