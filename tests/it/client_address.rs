//! The address of a client behind a proxy: who says it, who is believed, and that it is one however it is written.

use crate::harness::{Setup, World, eventually, free_address};
use crate::kit::client::Client;
use crate::raw_http::{RawAnswer, send, start_echo};

const POLICIES: &str = "---
{kind: Api, name: word, gateway: edge, service: echo, match: {path: /word}, limits: [{rate: 1/h, by: [client_ip]}]}
---
{kind: Api, name: network, gateway: edge, service: echo, match: {path: /network}, limits: [{rate: 1/h, by: [client_ip/32]}]}
---
{kind: Api, name: list, gateway: edge, service: echo, match: {path: /list}}
---
{kind: Api, name: free, gateway: edge, service: echo, match: {path: /free}}
---
name: of-list
rate_limits:
- actions:
  - remote_address: {}
  - header_value_match: { descriptor_value: list, headers: [{ name: ':path', string_match: { exact: /list } }] }
  limit: { unit: HOUR, requests_per_unit: 1 }
";

/// What is counted by the client's address.
const PATHS: [&str; 3] = ["/word", "/network", "/list"];

async fn start(gateway: &str) -> World {
    let echo = start_echo().await;
    let policies = format!("---\n{{kind: Service, name: echo, endpoints: ['{echo}']}}\n{POLICIES}");
    World::start(Setup { policies: &policies, gateway, ..Default::default() }).await
}

async fn ask(world: &World, path: &str, lines: &[&str]) -> RawAnswer {
    let lines: Vec<&[u8]> = ["host: x"].iter().chain(lines).map(|line| line.as_bytes()).collect();
    send(world.edge.listen, "GET", path.as_bytes(), &lines).await
}

async fn count(gateway: &str, steps: &[(&[&str], u16)]) {
    let world = start(gateway).await;
    for path in PATHS {
        for (lines, expected) in steps {
            assert_eq!(ask(&world, path, lines).await.status, *expected, "{path} {lines:?}");
        }
    }
}

/// Envoy by itself takes `[::]` for the addresses of IPv6 alone.
#[tokio::test]
async fn a_gateway_on_all_addresses_is_reached_by_both_families_and_tells_clients_apart() {
    let port = free_address().port();
    let policies = format!(
        "{{kind: Gateway, name: dual, nodes: {{clusters: [edge]}}, listen: '[::]:{port}', limiter: {{timeout: 5s, on_error: deny}}}}
---
{{kind: Api, name: of-dual, gateway: dual, match: {{path: /dual}}, service: upstream, limits: [{{rate: 1/h, by: [client_ip/32]}}]}}
"
    );
    let world = World::start(Setup { policies: &policies, ..Default::default() }).await;
    eventually("both gateways listen", async || {
        (world.edge.stats(["listener_manager.total_listeners_active"]).await == [2]).then_some(())
    })
    .await;
    for (host, expected) in [("127.0.0.1", 200), ("[::1]", 200), ("127.0.0.1", 429), ("[::1]", 429)] {
        let answer = Client::default().get(&format!("http://{host}:{port}/dual")).await.unwrap();
        assert_eq!(answer.status, expected, "{host}");
    }
}

#[tokio::test]
async fn a_header_of_a_trusted_proxy_says_the_clients_address() {
    count(
        "client_ip: { header: X-Real-IP }",
        &[
            (&["x-real-ip: 1.1.1.1"], 200),
            (&["x-real-ip: 1.1.1.1"], 429),
            (&["x-real-ip: ::ffff:1.1.1.1"], 429),
            (&["x-real-ip: 2001:db8::1"], 200),
            (&["x-real-ip: 2001:DB8:0::1"], 429),
            // Of several the first counts.
            (&["x-real-ip: 1.1.1.1", "x-real-ip: 2.2.2.2"], 429),
            (&["x-real-ip: 2.2.2.2", "x-real-ip: 1.1.1.1"], 200),
            // What clients write a part of says nothing.
            (&["x-real-ip: 1.1.1.1", "x-forwarded-for: 3.3.3.3"], 429),
            // Whatever is no address is the connection's.
            (&["x-forwarded-for: 4.4.4.4"], 200),
            (&[], 429),
            (&["x-real-ip: nobody"], 429),
            (&["x-real-ip:"], 429),
            (&["x-real-ip: 5.5.5.5:5555"], 429),
            (&["x-real-ip: 6.6.6.6, 7.7.7.7"], 429),
            (&["x-real-ip: 127.0.0.1"], 429),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_header_is_not_believed_unless_the_operator_says_so() {
    for gateway in ["", "client_ip: { trusted_hops: 1 }"] {
        count(gateway, &[(&["x-real-ip: 1.1.1.1"], 200), (&["x-real-ip: 2.2.2.2"], 429)]).await;
    }
}

#[tokio::test]
async fn an_address_in_a_header_opens_none_of_envoys_own_headers() {
    let world = start("client_ip: { header: x-real-ip }").await;
    let own = ["x-envoy-upstream-rq-timeout-ms: 1", "x-envoy-internal: true", "x-envoy-max-retries: 9"];
    for address in ["10.0.0.1", "127.0.0.1", "1.1.1.1"] {
        let address = format!("x-real-ip: {address}");
        let answer = ask(&world, "/free", &[&[address.as_str()], &own[..]].concat()).await;
        assert_eq!(answer.status, 200);
        for line in own {
            assert!(!answer.body.contains(line.split(':').next().unwrap()), "{line}\n{}", answer.body);
        }
    }
}

#[tokio::test]
async fn an_address_that_a_proxy_saw_is_one_however_it_is_written() {
    count(
        "client_ip: { trusted_hops: 1 }",
        &[
            (&["x-forwarded-for: 1.1.1.1"], 200),
            (&["x-forwarded-for: ::ffff:1.1.1.1"], 429),
            (&["x-forwarded-for: 2.2.2.2, ::ffff:101:101"], 429),
            // Envoy reads no ports here: the client is the proxy then.
            (&["x-forwarded-for: 3.3.3.3:5555"], 200),
            (&["x-forwarded-for: 4.4.4.4:5555"], 429),
            (&["x-forwarded-for: 127.0.0.1"], 429),
        ],
    )
    .await;
}
