//! What clients are told whose requests are denied.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{Setup, World, eventually};

const LIMITED: &str = "
kind: Api
name: pay
gateway: edge
match: { path: /pay }
service: upstream
limits: [{ name: fair, rate: 1/h }]
---
kind: Api
name: trial
gateway: edge
match: { path: /trial }
service: upstream
limits: [{ rate: 1/h, status: 402 }]
---
kind: Api
name: closed
gateway: edge
match: { path: /closed }
service: upstream
limits: [{ rate: 0/m, status: 503 }]
---
kind: Api
name: both
gateway: edge
match: { path: /both }
service: upstream
limits: [{ rate: 1/m }, { rate: 1/d }, { name: dear, rate: 9/h, cost: 9 }]
---
kind: Api
name: shut
gateway: edge
match: { path: /shut }
service: upstream
limits: [{ rate: 1/d, status: 402 }]
";

async fn limited() -> World {
    World::start(Setup { policies: LIMITED, ..Default::default() }).await
}

/// Envoy adds its own to what is there, and a client would have to guess whose `x-ratelimit-remaining` it reads.
#[tokio::test]
async fn what_a_service_says_of_its_limits_gives_way_where_there_are_limits() {
    let own = [("x-ratelimit-limit", "7"), ("X-RateLimit-Remaining", "3"), ("x-ratelimit-reset", "9")];
    let app = axum::Router::new().fallback(async move || axum::response::AppendHeaders(own));
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let service = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let policies = format!(
        "{{kind: Service, name: own, endpoints: ['{service}']}}
---
{{kind: Api, name: limited, gateway: edge, match: {{path: /limited}}, service: own, limits: [{{rate: 2/h}}]}}
---
{{kind: Api, name: unlimited, gateway: edge, match: {{path: /unlimited}}, service: own}}
"
    );
    let world = World::start(Setup { policies: &policies, ..Default::default() }).await;
    let remaining = async |path: &str| {
        let answer = world.edge.get(path).await;
        let values = answer.headers.get_all("x-ratelimit-remaining").iter();
        (answer.status.as_u16(), values.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(remaining("/limited").await, (200, vec!["1".to_owned()]));
    assert_eq!(remaining("/limited").await, (200, vec!["0".to_owned()]));
    assert_eq!(remaining("/limited").await, (429, vec!["0".to_owned()]));
    assert_eq!(remaining("/unlimited").await, (200, vec!["3".to_owned()]));
}

#[tokio::test]
async fn an_answer_says_what_is_left_and_a_denial_when_to_come_back() {
    let world = limited().await;
    let passed = world.edge.get("/pay").await;
    assert_eq!(passed.status, 200);
    assert_eq!(passed.header("x-ratelimit-limit"), Some("1, 1;w=3600;name=\"fair\""));
    assert_eq!(passed.header("x-ratelimit-remaining"), Some("0"));
    assert_eq!(passed.header("retry-after"), None);

    let denied = world.edge.get("/pay").await;
    let seconds: u64 = denied.header("retry-after").unwrap().parse().unwrap();
    assert!((3500..=3600).contains(&seconds), "{seconds}");
    assert_eq!(denied.header("x-ratelimit-reset"), denied.header("retry-after"));
    assert_eq!(denied.status, 429);
    assert_eq!(denied.header("content-type"), Some("application/problem+json"));
    let body: Value = serde_json::from_slice(&denied.body).unwrap();
    let expected = json!({
        "type": "urn:tierflow:problem:over-limit",
        "title": "Over limit",
        "status": 429,
        "detail": "the api limit fair of 1/hour is used up",
        "tier": "api",
        "limit": "fair",
        "rate": "1/hour",
        "retry_after": seconds,
    });
    assert_eq!(body, expected);
    assert_eq!(world.upstream.requests(), 1);
}

#[tokio::test]
async fn a_limit_may_have_a_status_of_its_own() {
    let world = limited().await;
    assert_eq!(world.edge.get("/trial").await.status, 200);
    let denied = world.edge.get("/trial").await;
    assert_eq!(denied.status, 402);
    assert_eq!(denied.header("content-type"), Some("application/problem+json"));
    assert!(denied.text().contains(r#""status":402"#), "{}", denied.text());
}

#[tokio::test]
async fn a_limit_of_nothing_denies_everything() {
    let world = limited().await;
    let denied = world.edge.get("/closed").await;
    assert_eq!(denied.status, 503);
    assert!(denied.text().contains("lets nothing pass"), "{}", denied.text());
    assert_eq!(denied.header("retry-after"), None);
}

/// Envoy makes its headers of the limit with the least left, whichever denies for the longest.
#[tokio::test]
async fn of_several_limits_that_deny_all_headers_tell_the_time_of_the_longest() {
    let world = limited().await;
    assert_eq!(world.edge.get("/both").await.status, 200);
    let denied = world.edge.get("/both").await;
    let seconds: u64 = denied.header("retry-after").unwrap().parse().unwrap();
    assert!((86_000..=86_400).contains(&seconds), "{seconds}");
    assert_eq!(denied.header("x-ratelimit-reset"), denied.header("retry-after"));
}

/// Nobody passes by coming back when the other limit has room.
#[tokio::test]
async fn a_limit_of_nothing_is_the_longest_of_all_and_has_no_time_to_come_back() {
    let world = limited().await;
    assert_eq!(world.edge.get("/shut").await.status, 200);
    assert_eq!(world.edge.get("/shut").await.status, 402);
    world.save(
        "policies.yaml",
        &LIMITED.replace("{ rate: 1/d, status: 402 }", "{ rate: 1/d, status: 402 }, { rate: 0/h }"),
    );
    let denied = eventually("the limit of nothing decides", async || {
        let denied = world.edge.get("/shut").await;
        (denied.status == 429).then_some(denied)
    })
    .await;
    assert_eq!(denied.header("retry-after"), None, "{denied:?}");
    assert!(denied.text().contains("lets nothing pass") && denied.text().contains(r#""retry_after":null"#));
    assert_eq!(denied.header("x-ratelimit-reset"), Some("3600"), "its window");
}

#[tokio::test]
async fn what_belongs_to_no_api_is_not_found() {
    let world = limited().await;
    assert_eq!(world.edge.get("/").await.status, 404);
    assert_eq!(world.upstream.requests(), 0);
}

/// The upstream is a gRPC server, and so is what Envoy pretends to be.
#[tokio::test]
async fn a_grpc_client_is_told_that_a_resource_is_exhausted() {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(Server::builder().add_service(health).serve_with_incoming(TcpIncoming::from(listener)));
    let policies = format!(
        "kind: Service
name: grpc
endpoints: [{address}]
protocol: http2
---
kind: Api
name: health
gateway: edge
match: {{ path_prefix: /grpc.health.v1.Health }}
service: grpc
limits: [{{ rate: 1/h }}]
"
    );
    let world = World::start(Setup { policies: &policies, ..Default::default() }).await;
    let channel = Endpoint::from_shared(world.edge.url("")).unwrap().connect().await.unwrap();
    let mut client = HealthClient::new(channel);
    let mut check = async || client.check(HealthCheckRequest::default()).await;
    check().await.unwrap();
    assert_eq!(check().await.unwrap_err().code(), Code::ResourceExhausted);
}

/// The status is among the headers, and at the end as trailers are: a frame of bytes, or of text for who asked in text.
#[tokio::test]
async fn a_grpc_web_client_is_told_that_a_resource_is_exhausted() {
    let world = limited().await;
    assert_eq!(world.edge.get("/pay").await.status, 200);
    let binary: &[u8] = b"\x80\0\0\0\x0fgrpc-status:8\r\n";
    let text: &[u8] = b"gAAAAA9ncnBjLXN0YXR1czo4DQo=";
    let rows = [
        ("application/grpc-web", "application/grpc-web+proto", binary),
        ("application/grpc-web+proto", "application/grpc-web+proto", binary),
        ("application/grpc-web-text", "application/grpc-web-text+proto", text),
    ];
    for (asked_in, answered_in, trailers) in rows {
        let denied = world.edge.send("GET", "/pay", &[("content-type", asked_in)]).await;
        assert_eq!((denied.status.as_u16(), denied.header("grpc-status")), (200, Some("8")), "{asked_in}");
        assert_eq!(denied.header("content-type"), Some(answered_in));
        assert_eq!(denied.body, trailers);
        assert!(denied.header("retry-after").is_some());
    }
    assert_eq!(world.edge.get("/pay").await.status, 429);
}
