//! The fields of a limit, each through a real Envoy.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::http::StatusCode;

use crate::harness::{Edge, Setup, World};

/// An API at `/name` with these fields.
fn api(name: &str, fields: &str) -> String {
    format!(
        "---\nkind: Api\nname: {name}\ngateway: edge\nmatch: {{ path_prefix: /{name} }}\nservice: upstream\n{fields}\n"
    )
}

async fn statuses<const N: usize>(edge: &Edge, path: &str) -> [u16; N] {
    let mut statuses = [0; N];
    for status in &mut statuses {
        *status = edge.get(path).await.status.as_u16();
    }
    statuses
}

/// Method, path below the API's, headers, and the status expected.
type Step = (&'static str, &'static str, &'static [(&'static str, &'static str)], u16);

/// What a limit of one request an hour counts by, and requests that show it.
const BY: [(&str, &str, &[Step]); 10] = [
    ("nothing", "", &[("GET", "", &[], 200), ("POST", "/other", &[], 429)]),
    (
        "header",
        "by: [{ header: X-Session }]",
        &[
            ("GET", "", &[("x-session", "a")], 200),
            ("GET", "", &[("x-session", "a")], 429),
            ("GET", "", &[("x-session", "b")], 200),
            ("GET", "", &[], 200),
            ("GET", "", &[], 429),
        ],
    ),
    (
        "query",
        "by: [{ query: key }]",
        &[
            ("GET", "?key=a", &[], 200),
            ("GET", "?x=1&key=a", &[], 429),
            ("GET", "?key=b", &[], 200),
            ("GET", "?x=1", &[], 200),
            ("GET", "", &[], 429),
        ],
    ),
    (
        "cookie",
        "by: [{ cookie: sid }]",
        &[
            ("GET", "", &[("cookie", "sid=a")], 200),
            ("GET", "", &[("cookie", "theme=dark; sid=a")], 429),
            ("GET", "", &[("cookie", "sid=b")], 200),
            ("GET", "", &[("cookie", "theme=dark")], 200),
            ("GET", "", &[], 429),
        ],
    ),
    (
        "path",
        "by: [path]",
        &[
            ("GET", "/a", &[], 200),
            ("GET", "/a?x=1", &[], 429),
            ("GET", "/./a", &[], 429),
            ("GET", "//a", &[], 429),
            ("GET", "/b", &[], 200),
        ],
    ),
    ("method", "by: [method]", &[("GET", "", &[], 200), ("GET", "", &[], 429), ("POST", "", &[], 200)]),
    (
        "host",
        "by: [host]",
        &[
            ("GET", "", &[("host", "a.test")], 200),
            ("GET", "", &[("host", "a.test:8080")], 429),
            ("GET", "", &[("host", "A.TEST")], 429),
            ("GET", "", &[("host", "b.test")], 200),
        ],
    ),
    // One proxy is trusted: the last address is what it saw, and those before are what clients claim.
    (
        "client",
        "by: [client_ip]",
        &[
            ("GET", "", &[("x-forwarded-for", "10.0.0.1")], 200),
            ("GET", "", &[("x-forwarded-for", "10.9.9.9, 10.0.0.1")], 429),
            ("GET", "", &[("x-forwarded-for", "10.0.0.2")], 200),
        ],
    ),
    (
        "network",
        "by: [client_ip/24]",
        &[
            ("GET", "", &[("x-forwarded-for", "10.0.0.1")], 200),
            ("GET", "", &[("x-forwarded-for", "10.0.0.2")], 429),
            ("GET", "", &[("x-forwarded-for", "10.0.1.1")], 200),
            ("GET", "", &[("x-forwarded-for", "2001:db8::1")], 200),
            ("GET", "", &[("x-forwarded-for", "2001:db8::2")], 429),
            ("GET", "", &[("x-forwarded-for", "2001:db8:0:1::1")], 200),
        ],
    ),
    (
        "both",
        "by: [method, { header: x-session }]",
        &[
            ("GET", "", &[("x-session", "a")], 200),
            ("POST", "", &[("x-session", "a")], 200),
            ("GET", "", &[("x-session", "b")], 200),
            ("GET", "", &[("x-session", "b")], 429),
        ],
    ),
];

#[tokio::test]
async fn a_counter_is_split_by_what_the_limit_says_and_by_nothing_else() {
    counters_are_split(&BY).await;
}

/// Tests whose names end with a version of Envoy are left out of the run with the oldest.
#[tokio::test]
async fn a_counter_is_split_by_a_claim_of_a_token_since_envoy_1_40() {
    let steps: [Step; 5] = [
        ("GET", "", &[("authorization", "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln")], 200),
        ("GET", "", &[("authorization", "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln")], 429),
        ("GET", "", &[("authorization", "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJiIn0.c2ln")], 200),
        ("GET", "", &[("authorization", "Bearer nonsense")], 200),
        ("GET", "", &[], 429),
    ];
    counters_are_split(&[("claim", "by: [{ jwt_claim: sub }]", &steps)]).await;
}

async fn counters_are_split(by: &[(&str, &str, &[Step])]) {
    let limit = |by: &str| format!("limits: [{{ rate: 1/h, {by} }}]").replace(", }", " }");
    let policies: String = by.iter().map(|(name, by, _)| api(name, &limit(by))).collect();
    let gateway = "client_ip: { trusted_hops: 1 }";
    let world = World::start(Setup { policies: &policies, gateway, ..Default::default() }).await;
    for (name, _, steps) in by {
        for (number, (method, path, headers, expected)) in steps.iter().enumerate() {
            let answer = world.edge.send(method, &format!("/{name}{path}"), headers).await;
            assert_eq!(answer.status, *expected, "step {number} of {name}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn without_a_trusted_proxy_a_client_cannot_choose_its_address() {
    let policies = api("client", "limits: [{ rate: 1/h, by: [client_ip] }]");
    let world = World::start(Setup { policies: &policies, ..Default::default() }).await;
    let from = async |claimed| world.edge.send("GET", "/client", &[("x-forwarded-for", claimed)]).await.status;
    assert_eq!(from("10.0.0.1").await, 200);
    assert_eq!(from("10.0.0.2").await, 429);
}

#[tokio::test]
async fn every_algorithm_stops_at_its_limit() {
    let policies = [
        api("sliding", "limits: [{ rate: 2/h }]"),
        api("bucket", "limits: [{ rate: 1/h, algorithm: token_bucket, burst: 3 }]"),
        api("fixed", "limits: [{ rate: 1/year, algorithm: fixed_window }]"),
    ];
    let world = World::start(Setup { policies: &policies.concat(), ..Default::default() }).await;
    assert_eq!(statuses(&world.edge, "/sliding").await, [200, 200, 429]);
    assert_eq!(statuses(&world.edge, "/bucket").await, [200, 200, 200, 429]);
    assert_eq!(statuses(&world.edge, "/fixed").await, [200, 429]);
}

#[tokio::test]
async fn a_shadow_counts_and_reports_and_never_denies() {
    let policies = api("pay", "limits: [{ name: trial, rate: 1/h, mode: shadow }, { name: real, rate: 3/h }]");
    let world = World::start(Setup { policies: &policies, ..Default::default() }).await;
    assert_eq!(statuses(&world.edge, "/pay").await, [200, 200, 200, 429]);
    let metrics = world.tierflow.ask("/metrics").await.text();
    let reported = r#"limit="trial",result="shadow_over_limit"} 3"#;
    assert!(metrics.contains(reported), "{metrics}");
    let denied = world.edge.get("/pay").await;
    assert!(denied.text().contains(r#""limit":"real""#), "{}", denied.text());
    assert_eq!(denied.header("x-ratelimit-limit"), Some("3, 3;w=3600;name=\"real\""));
}

#[tokio::test]
async fn a_request_costs_what_it_says_or_what_the_limit_says() {
    let policies = [
        api("bulk", "limits: [{ rate: 10/h, cost: { header: x-items } }]"),
        api("dear", "limits: [{ rate: 10/h, cost: 5 }]"),
    ];
    let world = World::start(Setup { policies: &policies.concat(), ..Default::default() }).await;
    let bulk = async |items| world.edge.send("GET", "/bulk", &[("x-items", items)]).await.status.as_u16();
    assert_eq!(bulk("4").await, 200);
    // More than is left, and so nothing is taken.
    assert_eq!(bulk("7").await, 429);
    assert_eq!(bulk("5").await, 200);
    // What is no number costs one.
    assert_eq!(bulk("-3").await, 200);
    assert_eq!(world.edge.get("/bulk").await.status, 429);
    assert_eq!(statuses(&world.edge, "/dear").await, [200, 200, 429]);
}

/// An upstream that answers 503 the first time, and 200 from then on.
async fn stumbling_upstream() -> (std::net::SocketAddr, Arc<AtomicU32>) {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let tries = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&tries);
    let app = axum::Router::new().fallback(move || async move {
        match counted.fetch_add(1, Ordering::Relaxed) {
            0 => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::OK,
        }
    });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (address, tries)
}

#[tokio::test]
async fn a_request_that_is_tried_again_counts_once() {
    let (address, tries) = stumbling_upstream().await;
    let policies = format!("kind: Service\nname: stumbling\nendpoints: [{address}]\n")
        + &api("pay", "retry: { on: [503], attempts: 2 }\nlimits: [{ rate: 5/h }]")
            .replace("service: upstream", "service: stumbling");
    let world = World::start(Setup { policies: &policies, ..Default::default() }).await;
    let answer = world.edge.get("/pay").await;
    assert_eq!((answer.status.as_u16(), answer.header("x-ratelimit-remaining")), (200, Some("4")));
    assert_eq!(tries.load(Ordering::Relaxed), 2);
    // A POST is not repeated: it is let through once, and fails once.
    tries.store(0, Ordering::Relaxed);
    let answer = world.edge.send("POST", "/pay", &[]).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-ratelimit-remaining")), (503, Some("3")));
}

/// The list is what people have already, in a file of its own.
#[tokio::test]
async fn a_list_of_envoys_actions_is_taken_as_it_is() {
    let list = r#"
---
rate_limits:
- actions:
  - request_headers: { header_name: ":path", descriptor_key: api_path }
  - remote_address: {}
  limit: { unit: HOUR, requests_per_unit: 2 }
"#;
    let policies = api("a", "") + &api("b", "") + list;
    let world = World::start(Setup { policies: &policies, ..Default::default() }).await;
    assert_eq!(statuses(&world.edge, "/a").await, [200]);
    assert_eq!(statuses(&world.edge, "/a?x=1").await, [200]);
    assert_eq!(statuses(&world.edge, "/a?x=2").await, [429]);
    assert_eq!(statuses(&world.edge, "/b").await, [200, 200, 429]);
    let denied = world.edge.get("/b").await;
    assert!(denied.text().contains(r#""tier":"rate_limits""#), "{}", denied.text());
}
