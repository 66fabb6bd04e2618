//! What a running server says of a request beforehand, and what then becomes of it.

use std::collections::BTreeMap;

use fastrand::Rng;
use serde_json::{Value, json};

use crate::harness::{Setup, World, eventually, printed};
use crate::seed::Seed;

const TENANT: &str = "tenant: { from: { header: x-tenant-id }, default_plan: standard }";
const SETS: usize = 5;
const REQUESTS_OF_SET: usize = 200;

/// A limit of few hits, of which none comes back while the test runs.
fn limit(dice: &mut Rng, name: &str, by: &[&str]) -> String {
    let by: Vec<&str> = by.iter().copied().filter(|_| dice.bool()).collect();
    let by = if by.is_empty() { String::new() } else { format!(", by: [{}]", by.join(", ")) };
    let rate = match dice.u8(..4) {
        0 => format!("{}/year, algorithm: fixed_window", dice.u8(1..40)),
        1 => format!("1/day, algorithm: token_bucket, burst: {}", dice.u8(1..30)),
        _ => format!("{}/day", dice.u8(1..40)),
    };
    let mode = if dice.u8(..5) == 0 { ", mode: shadow" } else { "" };
    let cost = if dice.u8(..4) == 0 { ", cost: { header: x-cost }" } else { "" };
    format!("{{name: {name}, rate: {rate}{by}{mode}{cost}}}")
}

fn policies(dice: &mut Rng, set: usize) -> String {
    let by = ["client_ip", "path", "method", "{header: x-user}", "{query: q}"];
    let mut limits = |count: usize| {
        let limits: Vec<String> = (0..count).map(|number| limit(dice, &format!("l{number}"), &by)).collect();
        if limits.is_empty() { String::new() } else { format!(", limits: [{}]", limits.join(", ")) }
    };
    let (first, second, plan, own) = (limits(2), limits(1), limits(2), limits(1));
    format!(
        "---
{{kind: Api, name: first-{set}, gateway: edge, service: upstream, match: {{path_prefix: /first}}{first}}}
---
{{kind: Api, name: second-{set}, gateway: edge, service: upstream, match: {{path_template: '/second/{{id}}', methods: [GET]}}{second}}}
---
{{kind: Plan, name: standard{plan}}}
---
{{kind: Tenant, name: own, plan: standard{own}}}
---
{{kind: Tenant, name: gone, plan: standard, status: suspended}}
---
name: list
rate_limits:
- actions: [{{ request_headers: {{ header_name: x-user, descriptor_key: user }} }}]
  limit: {{ unit: YEAR, requests_per_unit: {} }}
",
        15 + set
    )
}

struct Asked {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
}

fn request(dice: &mut Rng) -> Asked {
    let path = match dice.u8(..8) {
        0..4 => format!("/first/{}?q={}", dice.u8(..3), dice.u8(..2)),
        4..7 => format!("/second/{}?q=%{}1", dice.u8(..3), dice.u8(3..5)),
        _ => "/none".to_owned(),
    };
    let mut headers = Vec::new();
    if dice.u8(..6) > 0 {
        headers.push(("x-tenant-id", ["own", "acme", "globex", "gone"][dice.usize(..4)].to_owned()));
    }
    if dice.bool() {
        headers.push(("x-user", dice.u8(..3).to_string()));
    }
    if dice.u8(..3) == 0 {
        headers.push(("x-cost", ["0", "2", "3", "x"][dice.usize(..4)].to_owned()));
    }
    Asked { method: ["GET", "POST"][usize::from(dice.u8(..4) == 0)], path, headers }
}

async fn explained(world: &World, asked: &Asked) -> Value {
    let headers: Vec<Value> =
        asked.headers.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    let body =
        json!({ "gateway": "edge", "method": asked.method, "path": asked.path, "host": "h", "headers": headers });
    let sent = [("content-type", "application/json")];
    let answer = world.tierflow.send("POST", "/v1/explain", &sent, &body.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer: Value = serde_json::from_slice(&answer.body).unwrap();
    answer["explanations"][0].clone()
}

/// The status that an explanation leads one to expect.
fn expected(explained: &Value) -> u16 {
    match (&explained["api"], &explained["denied"]) {
        (Value::Null, _) => 404,
        (_, Value::String(denied)) => denied.split(':').next().unwrap().parse().unwrap(),
        _ if explained["denied_by"].as_array().unwrap().is_empty() => 200,
        _ => 429,
    }
}

fn used(explained: &Value) -> BTreeMap<String, u64> {
    let limits = explained["limits"].as_array().unwrap();
    let used = |limit: &Value| (format!("{}/{}", limit["tier"], limit["name"]), limit["used"].as_u64().unwrap());
    limits.iter().map(used).collect()
}

#[tokio::test]
async fn what_a_server_says_of_a_request_is_what_becomes_of_it() {
    let seed = Seed::of("EXPLAIN_SEED");
    let mut dice = Rng::with_seed(seed.number);
    let first = policies(&mut dice, 0);
    let world = World::start(Setup { policies: &first, gateway: TENANT, ..Default::default() }).await;
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    for set in 0..SETS {
        if set > 0 {
            world.save("policies.yaml", &policies(&mut dice, set));
            eventually("the Envoy has the new routes", async || {
                let asked = Asked { method: "GET", path: "/first/x".to_owned(), headers: Vec::new() };
                let is_known = explained(&world, &asked).await["api"] == format!("first-{set}");
                let routes = world.edge.admin("/config_dump?resource=dynamic_route_configs").await;
                (is_known && routes.contains(&format!("second-{set}/"))).then_some(())
            })
            .await;
        }
        for step in 0..REQUESTS_OF_SET {
            let asked = request(&mut dice);
            let before = explained(&world, &asked).await;
            let headers: Vec<_> = asked.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let answer = world.edge.send(asked.method, &asked.path, &headers).await;
            let status = answer.status.as_u16();
            let place = format!("set {set}, step {step}: {} {} {headers:?}: {before:#}", asked.method, asked.path);
            assert_eq!(status, expected(&before), "{place}\n{}", answer.text());
            *statuses.entry(status).or_default() += 1;
            let after = used(&explained(&world, &asked).await);
            for limit in before["limits"].as_array().unwrap() {
                let [used, cost, remaining] = ["used", "cost", "remaining"].map(|field| limit[field].as_u64().unwrap());
                let is_charged = match limit["mode"] == "shadow" {
                    true => status != 404 && limit["allows"] == true,
                    false => status == 200,
                };
                let now = after[&format!("{}/{}", limit["tier"], limit["name"])];
                assert_eq!(now, used + if is_charged { cost } else { 0 }, "{place}\n{limit}");
                assert!(remaining >= cost.max(1) || limit["allows"] == false, "{place}");
            }
        }
    }
    assert!([200, 403, 404, 429].iter().all(|status| statuses[status] > 30), "{statuses:?}");
}

#[tokio::test]
async fn explain_without_policies_asks_the_server() {
    let policies = "{kind: Api, name: pay, gateway: edge, service: upstream, match: {path: /pay}, limits: [{name: all, rate: 1/d}]}";
    let world = World::start(Setup { policies, ..Default::default() }).await;
    let server = format!("--server=http://{}", world.tierflow.admin());
    let explain = |more: &[&str]| printed(&[&["explain", "--path=/pay", &server], more].concat());
    assert!(explain(&[]).contains("such a request would be admitted"));
    assert_eq!(world.edge.send("GET", "/pay", &[]).await.status, 200);
    let told = explain(&["--gateway=edge"]);
    assert!(told.contains("would be denied by all") && told.contains("USED  LEFT  MORE IN"), "{told}");
    let told: Value = serde_json::from_str(&explain(&["--output=json"])).unwrap();
    assert_eq!((&told[0]["limits"][0]["used"], &told[0]["limits"][0]["remaining"]), (&json!(1), &json!(0)));
    for (body, expected) in [
        ("{}", "missing field `path`"),
        (r#"{"path": "/", "client_ip": "me"}"#, "client_ip"),
        (r#"{"path": "/", "gateway": "shop"}"#, "no Gateway is called \\\"shop\\\""),
        (r#"{"path": "/", "pth": "/"}"#, "unknown field `pth`"),
    ] {
        let answer = world.tierflow.send("POST", "/v1/explain", &[("content-type", "application/json")], body).await;
        assert!(answer.status.is_client_error() && answer.text().contains(expected), "{body}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
}
