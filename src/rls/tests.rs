//! Decisions without a store of counters. With one they are tested through gRPC and through Envoy.

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use prost::Message as _;

use super::*;
use crate::compile::RateLimitService;
use crate::document::{Documents, split};
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

struct Decider {
    rls: Rls,
}

impl Decider {
    fn away(on_error: &str) -> Self {
        let rate_limit_service = RateLimitService::default();
        let (live, mut writer) =
            Live::new(Settings { rate_limit_service, counter_keys: KeyHasher::seeded([7; 16]), allow_empty: false });
        let clock = Clock::start();
        let documents = split(&"test.yaml".into(), policies(on_error).as_bytes());
        writer.adopt(&Documents::new(Revision::default(), documents), clock.now());
        assert!(live.refused().is_empty(), "{:?}", live.refused());
        let metrics = Arc::new(Metrics::default());
        let failures = Failures::new(Arc::clone(&metrics), clock);
        Self { rls: Rls { live, counters: Counters::Away, metrics, clock, failures } }
    }

    async fn ask(&self, api: &str, tenant: &str) -> RateLimitResponse {
        let generation = self.rls.live.generation().unwrap();
        let forms = generation.matcher.forms(&Name::parse("edge").unwrap()).unwrap();
        let id = forms.ids().find(|id| id.split('/').next() == Some(api)).unwrap();
        let entry = |key: &str, value: &str| Entry { key: key.to_owned(), value: value.to_owned() };
        let entries = vec![entry("api", id), entry("tenant", tenant)];
        let descriptors = vec![RateLimitDescriptor { entries, ..Default::default() }];
        let request = RateLimitRequest { domain: "tierflow/edge".into(), descriptors, hits_addend: 0 };
        let answer = self.rls.decide(&request.encode_to_vec(), self.rls.clock.now()).await.unwrap();
        answer::fixture::decode(answer)
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
