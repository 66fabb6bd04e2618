//! The rate limit service as anybody can call it, not only an Envoy with routes of ours.

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use envoy_types::pb::google::protobuf::UInt64Value;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as Legacy;
use hyper_util::rt::TokioExecutor;
use tonic::Status;
use tonic::transport::Channel;

use crate::harness::{Tierflow, eventually};

const POLICIES: &str = "
kind: Gateway
name: edge
nodes: { clusters: [edge] }
listen: 127.0.0.1:10000
---
kind: Service
name: upstream
endpoints: [127.0.0.1:9101]
---
kind: Api
name: pay
gateway: edge
match: { path: /pay }
service: upstream
limits: [{ name: fair, rate: 10/h }, { name: even, rate: 10/year, algorithm: fixed_window }]
";

/// 365 days: fixed windows are aligned to UTC.
const YEAR: i64 = 365 * 86_400;

struct Server {
    tierflow: Tierflow,
    client: RateLimitServiceClient<Channel>,
    folder: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let policies = folder.path().join("policies");
        std::fs::create_dir(&policies).unwrap();
        std::fs::write(policies.join("policies.yaml"), POLICIES).unwrap();
        let tierflow = Tierflow::start(&policies).await;
        let client = RateLimitServiceClient::connect(format!("http://{}", tierflow.rls)).await.unwrap();
        Self { tierflow, client, folder }
    }

    async fn ask(
        &self,
        domain: &str,
        hits_addend: u32,
        descriptors: Vec<RateLimitDescriptor>,
    ) -> Result<RateLimitResponse, Status> {
        let request = RateLimitRequest { domain: domain.to_owned(), descriptors, hits_addend };
        Ok(self.client.clone().should_rate_limit(request).await?.into_inner())
    }

    /// What is left of the limits after a request of so many hits.
    async fn left(&self, request_hits: u32, descriptor_hits: Option<u64>) -> Vec<u32> {
        let descriptor =
            RateLimitDescriptor { hits_addend: descriptor_hits.map(|value| UInt64Value { value }), ..pay() };
        let response = self.ask("tierflow/edge", request_hits, vec![descriptor]).await.unwrap();
        response.statuses.iter().map(|status| status.limit_remaining).collect()
    }

    async fn errors(&self, code: &str) -> u64 {
        let metrics = self.tierflow.ask("/metrics").await.text();
        let name = format!("tierflow_decision_errors_total{{code=\"{code}\"}} ");
        metrics
            .lines()
            .find_map(|line| line.strip_prefix(&name))
            .unwrap_or_else(|| panic!("{metrics}"))
            .parse()
            .unwrap()
    }
}

/// As a route reports it that counts by nothing.
fn pay() -> RateLimitDescriptor {
    let entry = Entry { key: "api".to_owned(), value: "pay/".to_owned() };
    RateLimitDescriptor { entries: vec![entry], ..Default::default() }
}

#[tokio::test]
async fn a_descriptors_own_hits_go_before_the_requests() {
    let server = Server::start().await;
    assert_eq!(server.left(0, None).await, [9, 9], "one where nothing is said");
    assert_eq!(server.left(2, None).await, [7, 7]);
    assert_eq!(server.left(2, Some(3)).await, [4, 4]);
    assert_eq!(server.left(2, Some(0)).await, [4, 4], "a look");
    let descriptor = RateLimitDescriptor { hits_addend: Some(UInt64Value { value: 1 << 32 }), ..pay() };
    let response = server.ask("tierflow/edge", 0, vec![descriptor]).await.unwrap();
    assert_eq!(response.overall_code, Code::OverLimit as i32, "more than fits into 32 bits is more than any limit");
    assert_eq!(server.left(0, None).await, [3, 3]);
}

#[tokio::test]
async fn the_reset_is_when_more_is_left_than_now() {
    let server = Server::start().await;
    let year_ends = || YEAR - std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64 % YEAR;
    let asked = year_ends();
    let response = server.ask("tierflow/edge", 0, vec![pay()]).await.unwrap();
    let answered = year_ends();
    let resets: Vec<i64> = response.statuses.iter().map(|s| s.duration_until_reset.unwrap().seconds).collect();
    assert_eq!(resets[0], 3600, "the hit leaves the sliding window in an hour");
    assert!((answered..=asked).contains(&resets[1]), "{resets:?}, the year ended in {asked} and then in {answered}");
}

#[tokio::test]
async fn an_unknown_domain_gets_a_status_for_each_descriptor() {
    let server = Server::start().await;
    for domain in ["other", "tierflow/nowhere", "\u{fffd}"] {
        let response = server.ask(domain, 0, vec![pay(), pay(), pay()]).await.unwrap();
        let codes: Vec<_> =
            response.statuses.iter().map(|status| (status.code, status.current_limit.is_some())).collect();
        assert_eq!(codes, [(Code::Ok as i32, false); 3], "{domain}");
    }
}

#[tokio::test]
async fn a_request_that_is_not_decided_is_counted_and_logged() {
    let server = Server::start().await;
    assert_eq!(server.errors("INTERNAL").await, 0);
    assert!(server.ask("", 0, vec![pay()]).await.is_err());
    assert!(server.ask("tierflow/edge", 0, vec![]).await.is_err());
    assert_eq!(server.errors("INVALID_ARGUMENT").await, 2);
    // A message of two bytes that is none.
    let client = Legacy::builder(TokioExecutor::new()).http2_only(true).build_http::<Full<Bytes>>();
    let request = hyper::Request::post(format!(
        "http://{}/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
        server.tierflow.rls
    ))
    .header("content-type", "application/grpc")
    .body(Full::from(&b"\0\0\0\0\x02\xff\xff"[..]))
    .unwrap();
    let answer = client.request(request).await.unwrap();
    assert_ne!(answer.headers().get("grpc-status").map(|status| status.as_bytes().to_vec()), Some(b"0".to_vec()));
    let _ = answer.into_body().collect().await;
    assert_eq!(server.errors("INTERNAL").await, 1);
    let log = std::fs::read_to_string(server.folder.path().join("policies.log")).unwrap();
    assert_eq!(log.matches("was not decided").count(), 1, "{log}");
    eventually("requests are decided all the same", async || server.ask("tierflow/edge", 0, vec![pay()]).await.ok())
        .await;
}
