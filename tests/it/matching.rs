//! Which API a request belongs to. Every API has a limit of its own name, and the answer's headers name the limit
//! that the request met: so what is seen is what Envoy's routes and the rate limit service both thought.
//! `tierflow explain` has to think the same.

use crate::harness::{Setup, World, printed};

fn api(name: &str, matches: &str) -> String {
    format!(
        "---
kind: Api
name: {name}
gateway: edge
match: {{ {matches} }}
service: upstream
limits: [{{ name: {name}, rate: 1000/h }}]
"
    )
}

/// Method, path, headers, and the API expected; none for 404.
type Row<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], Option<&'a str>);

async fn requests_belong(apis: &[(&str, &str)], rows: &[Row<'_>]) {
    let policies: String = apis.iter().map(|(name, matches)| api(name, matches)).collect();
    let world = World::start(Setup { policies: &policies, ..Default::default() }).await;
    for (method, path, headers, expected) in rows {
        let answer = world.edge.send(method, path, headers).await;
        let met = answer.header("x-ratelimit-limit").and_then(|limits| limits.split('"').nth(1));
        assert_eq!(met, *expected, "{method} {path} {headers:?}: {} {}", answer.status, answer.text());
        assert_eq!(answer.status, if expected.is_some() { 200 } else { 404 });
        assert_eq!(explained(&world, method, path, headers).as_deref(), *expected, "{method} {path} {headers:?}");
    }
}

fn explained(world: &World, method: &str, path: &str, headers: &[(&str, &str)]) -> Option<String> {
    let policies = world.path("");
    let mut args = vec!["explain".to_owned(), policies.to_str().unwrap().to_owned(), "-ojson".to_owned()];
    args.extend([format!("--method={method}"), format!("--path={path}")]);
    args.extend(headers.iter().map(|(name, value)| match *name {
        "host" => format!("--host={value}"),
        name => format!("--header={name}={value}"),
    }));
    let printed = printed(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let explained: serde_json::Value = serde_json::from_str(&printed).unwrap();
    explained[0]["api"].as_str().map(str::to_owned)
}

#[tokio::test]
async fn by_path_the_more_exact_api_comes_first() {
    let apis = [
        ("everything-of-order", "path_prefix: /order"),
        ("regex", "path_regex: '/[a-z]+/create'"),
        ("items", "path_template: '/order/{id}/items'"),
        ("one", "path_template: '/order/{id}'"),
        ("archive", "path_prefix: /order/archive/"),
        ("create", "path: /order/create"),
        // What Envoy by itself takes for too large, and the most that it takes of a template.
        ("large-regex", "path_regex: '/name/[a-z]{1,200}'"),
        ("large-template", "path_template: '/v=1;x,y/{a}/{b}/{c}/{d}/{e}'"),
    ];
    let rows: [Row<'_>; 18] = [
        ("GET", "/order/create", &[], Some("create")),
        ("GET", "/order/create?dry=1", &[], Some("create")),
        ("GET", "/order/7", &[], Some("one")),
        ("GET", "/order/7/items", &[], Some("items")),
        ("GET", "/order/7/items/1", &[], Some("everything-of-order")),
        ("GET", "/order", &[], Some("everything-of-order")),
        ("GET", "/order/", &[], Some("everything-of-order")),
        ("GET", "/order/archive/2025/7", &[], Some("archive")),
        // A template is more exact than a prefix, however long.
        ("GET", "/order/archive", &[], Some("one")),
        ("GET", "/payment/create", &[], Some("regex")),
        ("GET", "/payment/create/now", &[], None),
        ("GET", "/name/a", &[], Some("large-regex")),
        ("GET", "/name/7", &[], None),
        ("GET", "/v=1;x,y/1/2/3/4/5", &[], Some("large-template")),
        ("GET", "/orders", &[], None),
        ("GET", "/", &[], None),
        // Other spellings of a path are the path.
        ("GET", "/order/x/../create", &[], Some("create")),
        ("GET", "//order//create", &[], Some("create")),
    ];
    requests_belong(&apis, &rows).await;
}

#[tokio::test]
async fn by_method_and_host() {
    let apis = [
        ("read", "path: /order, methods: [GET, HEAD]"),
        ("write", "path: /order, methods: [POST]"),
        ("exact-host", "path: /, hosts: [shop.test]"),
        ("longer-suffix", "path: /, hosts: ['*.eu.shop.test']"),
        ("suffix", "path: /, hosts: ['*.shop.test']"),
        ("any-host", "path: /"),
    ];
    let rows: [Row<'_>; 10] = [
        ("GET", "/order", &[], Some("read")),
        ("POST", "/order", &[], Some("write")),
        ("DELETE", "/order", &[], None),
        ("GET", "/", &[("host", "shop.test")], Some("exact-host")),
        ("GET", "/", &[("host", "SHOP.test:8443")], Some("exact-host")),
        ("GET", "/", &[("host", "a.shop.test")], Some("suffix")),
        ("GET", "/", &[("host", "a.b.shop.test")], Some("suffix")),
        ("GET", "/", &[("host", "a.eu.shop.test")], Some("longer-suffix")),
        ("GET", "/", &[("host", "other.test")], Some("any-host")),
        // An API without hosts is there whatever the host.
        ("GET", "/order", &[("host", "a.shop.test")], Some("read")),
    ];
    requests_belong(&apis, &rows).await;
}

#[tokio::test]
async fn an_api_with_methods_comes_before_the_same_without() {
    // An API whose methods differ in what may be retried is two routes.
    let apis = [
        ("any", "path: /a }\nretry: { on: [503, connect-failure]"),
        ("preflight", "path: /a, methods: [OPTIONS]"),
        ("all", "path_prefix: /b"),
        ("write", "path_prefix: /b, methods: [PUT, POST] }\nretry: { on: [503, connect-failure]"),
        ("with-header", "path: /a, headers: { x-kind: { present: true } }"),
    ];
    let rows: [Row<'_>; 8] = [
        ("OPTIONS", "/a", &[], Some("preflight")),
        ("GET", "/a", &[], Some("any")),
        ("POST", "/a", &[], Some("any")),
        ("OPTIONS", "/a", &[("x-kind", "1")], Some("with-header")),
        ("PUT", "/b/1", &[], Some("write")),
        ("POST", "/b/1", &[], Some("write")),
        ("GET", "/b/1", &[], Some("all")),
        ("DELETE", "/b/1", &[], Some("all")),
    ];
    requests_belong(&apis, &rows).await;
}

#[tokio::test]
async fn by_header() {
    let apis = [
        ("exact", "path: /, headers: { x-kind: exact }"),
        ("prefix", "path: /, headers: { x-kind: { prefix: pre- } }"),
        ("suffix", "path: /, headers: { x-kind: { suffix: -suf } }"),
        ("contains", "path: /, headers: { x-kind: { contains: -mid- } }"),
        ("regex", "path: /, headers: { x-kind: { regex: '[0-9]+' } }"),
        ("two", "path: /, headers: { x-kind: exact, x-more: { present: true } }"),
        ("present", "path: /there, headers: { x-kind: { present: true } }"),
        ("absent", "path: /there, headers: { x-kind: { present: false } }"),
        ("host", "path: /host, headers: { Host: { suffix: .Shop.test } }"),
        ("word", "path: /word, headers: { x-kind: { regex: '\\w+' } }"),
        ("no-word", "path: /word, headers: { x-kind: { regex: '\\W+' } }"),
    ];
    let rows: [Row<'_>; 16] = [
        ("GET", "/host", &[("host", "a.shop.test")], Some("host")),
        ("GET", "/host", &[("host", "A.shop.test:8443")], Some("host")),
        ("GET", "/host", &[("host", "shop.test")], None),
        ("GET", "/", &[("x-kind", "exact")], Some("exact")),
        ("GET", "/", &[("x-kind", "exact"), ("x-more", "1")], Some("two")),
        ("GET", "/", &[("x-kind", "pre-1")], Some("prefix")),
        ("GET", "/", &[("x-kind", "1-suf")], Some("suffix")),
        ("GET", "/", &[("x-kind", "1-mid-1")], Some("contains")),
        ("GET", "/", &[("x-kind", "42")], Some("regex")),
        ("GET", "/", &[("x-kind", "42a")], None),
        ("GET", "/", &[], None),
        ("GET", "/there", &[("x-kind", "1")], Some("present")),
        ("GET", "/there", &[("x-kind", "")], Some("present")),
        ("GET", "/there", &[], Some("absent")),
        ("GET", "/word", &[("x-kind", "cafe")], Some("word")),
        // Letters of words are those of ASCII.
        ("GET", "/word", &[("x-kind", "é")], Some("no-word")),
    ];
    requests_belong(&apis, &rows).await;
}

#[tokio::test]
async fn by_query() {
    let apis = [
        ("exact", "path: /, query: { kind: exact }"),
        ("prefix", "path: /, query: { kind: { prefix: pre- } }"),
        ("suffix", "path: /, query: { kind: { suffix: -suf } }"),
        ("contains", "path: /, query: { kind: { contains: -mid- } }"),
        ("regex", "path: /, query: { kind: { regex: '[0-9]+' } }"),
        ("two", "path: /, query: { kind: exact, more: { present: true } }"),
        ("present", "path: /there, query: { kind: { present: true } }"),
        ("absent", "path: /there, query: { kind: { present: false } }"),
    ];
    let rows: [Row<'_>; 12] = [
        ("GET", "/?kind=exact", &[], Some("exact")),
        ("GET", "/?kind=exact&more", &[], Some("two")),
        ("GET", "/?x=1&kind=pre-1", &[], Some("prefix")),
        ("GET", "/?kind=1-suf", &[], Some("suffix")),
        ("GET", "/?kind=1-mid-1", &[], Some("contains")),
        ("GET", "/?kind=42", &[], Some("regex")),
        ("GET", "/?kind=42a", &[], None),
        ("GET", "/", &[], None),
        ("GET", "/there?kind=1", &[], Some("present")),
        ("GET", "/there?kind", &[], Some("present")),
        ("GET", "/there", &[], Some("absent")),
        ("GET", "/there?kinds=1", &[], Some("absent")),
    ];
    requests_belong(&apis, &rows).await;
}

#[tokio::test]
async fn a_header_that_stands_several_times_matches_by_any_of_its_values_since_envoy_1_40() {
    let policies = "
kind: Api
name: free
gateway: edge
match: { path: /x, headers: { x-plan: free } }
service: upstream
limits: [{ name: of-free, rate: 1000/h }]
---
kind: Api
name: any
gateway: edge
match: { path: /x }
service: upstream
limits: [{ name: of-any, rate: 1000/h }]
---
name: list
rate_limits:
- actions:
  - header_value_match: { descriptor_value: paid, headers: [{ name: x-plan, string_match: { exact: free }, invert_match: true }] }
  limit: { unit: HOUR, requests_per_unit: 1000 }
";
    let world = World::start(Setup { policies, ..Default::default() }).await;
    let sets: [&[&str]; 8] = [
        &[],
        &["free"],
        &["paid"],
        &["free", "free"],
        &["free", "paid"],
        &["paid", "free"],
        &["paid", "paid"],
        &["free,free"],
    ];
    for values in sets {
        let headers: Vec<(&str, &str)> = values.iter().map(|value| ("x-plan", *value)).collect();
        let answer = world.edge.send("GET", "/x", &headers).await;
        let named = answer.header("x-ratelimit-limit").unwrap().to_owned();
        let flags: Vec<String> = values.iter().map(|value| format!("--header=x-plan={value}")).collect();
        let folder = world.path("");
        let args = [
            &["explain", folder.to_str().unwrap(), "--path=/x", "--output=json"][..],
            &flags.iter().map(String::as_str).collect::<Vec<_>>(),
        ]
        .concat();
        let explained: serde_json::Value = serde_json::from_str(&printed(&args)).unwrap();
        let limits: Vec<String> = explained[0]["limits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|limit| limit["name"].as_str().unwrap().to_owned())
            .collect();
        let met: Vec<String> =
            named.split("name=\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect();
        assert_eq!(limits, met, "{values:?}");
    }
}
