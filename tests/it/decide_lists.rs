//! Lists of Envoy actions, each form through a real Envoy. Every entry has a limit of its own name, and the answer's
//! headers name the limits that the request met. `tierflow explain` has to think the same.

use std::collections::BTreeSet;

use crate::harness::{Setup, World, printed};

const API: &str = "
---
kind: Api
name: all
gateway: edge
match: { path_prefix: / }
service: upstream
";

/// What a request is called, its path and its headers.
type Sent<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

/// What an entry is called, its action, and the requests that it applies to.
type Case<'a> = (&'a str, &'a str, &'a [&'a str]);

/// Lists of 16 entries, which is the most that one may have.
fn lists(cases: &[Case<'_>]) -> String {
    let entry = |(name, action, _): &Case<'_>| {
        format!(
            "- actions: [{{ generic_key: {{ descriptor_key: {name}, descriptor_value: case }} }}, {action}]
  limit: {{ unit: HOUR, requests_per_unit: 1000 }}
"
        )
    };
    let list = |(number, cases): (usize, &[Case<'_>])| {
        format!("---\nname: list-{number}\nrate_limits:\n{}", cases.iter().map(entry).collect::<String>())
    };
    cases.chunks(16).enumerate().map(list).collect()
}

/// The entries whose limits a request met, by the names of these.
fn met<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let case = |name: &str| Some(name.strip_prefix("rate_limits-hour-by-")?.split('-').next()?.to_owned());
    names.filter_map(case).collect()
}

fn explained(world: &World, path: &str, headers: &[(&str, &str)]) -> BTreeSet<String> {
    let policies = world.path("");
    let mut args = vec!["explain".to_owned(), policies.to_str().unwrap().to_owned(), "-ojson".to_owned()];
    args.push(format!("--path={path}"));
    args.extend(headers.iter().map(|(name, value)| match *name {
        "host" => format!("--host={value}"),
        name => format!("--header={name}={value}"),
    }));
    let printed = printed(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let explained: serde_json::Value = serde_json::from_str(&printed).unwrap();
    met(explained[0]["limits"].as_array().unwrap().iter().map(|limit| limit["name"].as_str().unwrap()))
}

async fn entries_apply(requests: &[Sent<'_>], cases: &[Case<'_>]) {
    entries_apply_at("", requests, cases).await;
}

/// With further fields of the gateway.
async fn entries_apply_at(gateway: &str, requests: &[Sent<'_>], cases: &[Case<'_>]) {
    let policies = API.to_owned() + &lists(cases);
    let world = World::start(Setup { policies: &policies, gateway, ..Default::default() }).await;
    for (request, path, headers) in requests {
        let applies = cases.iter().filter(|(_, _, requests)| requests.contains(request));
        let expected: BTreeSet<String> = applies.map(|(name, ..)| (*name).to_owned()).collect();
        let answer = world.edge.send("GET", path, headers).await;
        assert_eq!(answer.status, 200);
        let limits = answer.header("x-ratelimit-limit").unwrap_or_default();
        assert_eq!(met(limits.split('"').skip(1).step_by(2)), expected, "{request}: what Envoy reports");
        assert_eq!(explained(&world, path, headers), expected, "{request}: what explain thinks");
    }
}

/// What Envoy itself says of a request is there to be matched, and a client is not believed.
#[tokio::test]
async fn the_scheme_of_a_request_can_be_matched() {
    let requests: [Sent<'_>; 3] = [
        ("none", "/", &[]),
        ("https", "/", &[("x-forwarded-proto", "https")]),
        ("other", "/", &[("x-forwarded-proto", "ws")]),
    ];
    let action = |name: &str, value: &str| {
        format!(
            "{{ header_value_match: {{ descriptor_value: x, headers: [{{ name: '{name}', exact_match: {value} }}] }} }}"
        )
    };
    let [scheme_http, scheme_https] = ["http", "https"].map(|value| action(":scheme", value));
    let [proto_http, proto_https, proto_ws] = ["http", "https", "ws"].map(|value| action("x-forwarded-proto", value));
    let all = ["none", "https", "other"];
    entries_apply(
        &requests,
        &[
            ("schemehttp", &scheme_http, &all),
            ("schemehttps", &scheme_https, &[]),
            ("protohttp", &proto_http, &all),
            ("protohttps", &proto_https, &[]),
        ],
    )
    .await;
    for gateway in ["client_ip: { trusted_hops: 1 }", "client_ip: { header: x-real-ip }"] {
        entries_apply_at(
            gateway,
            &requests,
            &[
                ("schemehttp", &scheme_http, &["none", "other"]),
                ("schemehttps", &scheme_https, &["https"]),
                ("protohttp", &proto_http, &["none"]),
                ("protohttps", &proto_https, &["https"]),
                ("protows", &proto_ws, &["other"]),
            ],
        )
        .await;
    }
}

#[tokio::test]
async fn every_matcher_of_headers_is_taken() {
    let requests: [Sent<'_>; 11] = [
        ("none", "/", &[]),
        ("empty", "/", &[("x-v", "")]),
        ("abc", "/", &[("x-v", "abc")]),
        ("xabcx", "/", &[("x-v", "xabcx")]),
        ("ABC", "/", &[("x-v", "ABC")]),
        ("5", "/", &[("x-v", "5")]),
        ("+5", "/", &[("x-v", "+5")]),
        ("-5", "/", &[("x-v", "-5")]),
        ("10", "/", &[("x-v", "10")]),
        // Several values are one, with commas.
        ("ab,bc", "/", &[("x-v", "ab"), ("x-v", "bc")]),
        ("premium", "/api/premium/7?a=1", &[("host", "shop.test"), ("x-v", "premium")]),
    ];
    let all = ["empty", "abc", "xabcx", "ABC", "5", "+5", "-5", "10", "ab,bc", "premium"];
    let all_and_none = [["none"].as_slice(), &all].concat();
    let all_but = |but: &[&'static str]| all.into_iter().filter(|name| !but.contains(name)).collect::<Vec<_>>();
    let header = |matcher: &str| format!("header_value_match: {{ descriptor_value: v, headers: [{{ {matcher} }}] }}");
    let x_v = |matcher: &str| header(&format!("name: x-v, {matcher}"));
    let cases: Vec<(&str, String, Vec<&str>)> = vec![
        ("name", header("name: x-v"), all.to_vec()),
        ("present", x_v("present_match: true"), all.to_vec()),
        ("absent", x_v("present_match: false"), vec!["none"]),
        ("not_present", x_v("present_match: true, invert_match: true"), vec!["none"]),
        ("present_or_empty", x_v("present_match: true, treat_missing_header_as_empty: true"), all_and_none),
        ("exact", x_v("exact_match: abc"), vec!["abc"]),
        // What is missing does not match, inverted or not.
        ("not_exact", x_v("exact_match: abc, invert_match: true"), all_but(&["abc"])),
        (
            "not_exact_or_empty",
            x_v("exact_match: abc, invert_match: true, treat_missing_header_as_empty: true"),
            [["none"].as_slice(), &all_but(&["abc"])].concat(),
        ),
        ("prefix", x_v("prefix_match: ab"), vec!["abc", "ab,bc"]),
        ("suffix", x_v("suffix_match: bc"), vec!["abc", "ab,bc"]),
        ("contains", x_v("contains_match: b"), vec!["abc", "xabcx", "ab,bc"]),
        ("regex", x_v("safe_regex_match: { google_re2: {}, regex: 'a.c' }"), vec!["abc"]),
        ("string_exact", x_v("string_match: { exact: abc }"), vec!["abc"]),
        ("string_empty", x_v("string_match: { exact: '' }"), vec!["empty"]),
        (
            "string_empty_or_none",
            x_v("string_match: { exact: '' }, treat_missing_header_as_empty: true"),
            vec!["none", "empty"],
        ),
        ("string_prefix", x_v("string_match: { prefix: ab }"), vec!["abc", "ab,bc"]),
        ("string_suffix", x_v("string_match: { suffix: bc }"), vec!["abc", "ab,bc"]),
        ("string_contains", x_v("string_match: { contains: b }"), vec!["abc", "xabcx", "ab,bc"]),
        ("string_regex", x_v("string_match: { safe_regex: { regex: '(?i)a.c' } }"), vec!["abc", "ABC"]),
        ("any_case_exact", x_v("string_match: { exact: AbC, ignore_case: true }"), vec!["abc", "ABC"]),
        ("any_case_prefix", x_v("string_match: { prefix: AB, ignore_case: true }"), vec!["abc", "ABC", "ab,bc"]),
        ("any_case_suffix", x_v("string_match: { suffix: BC, ignore_case: true }"), vec!["abc", "ABC", "ab,bc"]),
        (
            "any_case_contains",
            x_v("string_match: { contains: B, ignore_case: true }"),
            vec!["abc", "xabcx", "ABC", "ab,bc"],
        ),
        ("range", x_v("range_match: { start: -5, end: '10' }"), vec!["5", "+5", "-5"]),
        ("not_range", x_v("range_match: { start: -5, end: 10 }, invert_match: true"), all_but(&["5", "+5", "-5"])),
        ("path", header("name: ':path', prefix_match: /api/premium/"), vec!["premium"]),
        ("host", header("name: ':authority', exact_match: shop.test"), vec!["premium"]),
        (
            "both",
            "header_value_match: { descriptor_value: v, headers: [{ name: x-v, prefix_match: p }, { name: ':method', exact_match: GET }] }".to_owned(),
            vec!["premium"],
        ),
        (
            "neither",
            "header_value_match: { descriptor_value: v, expect_match: false, headers: [{ name: x-v }] }".to_owned(),
            vec!["none"],
        ),
        (
            "protojson",
            "headerValueMatch: { descriptorValue: v, expectMatch: false, headers: [{ name: X-V, stringMatch: { prefix: AB, ignoreCase: true }, treatMissingHeaderAsEmpty: true }] }".to_owned(),
            [["none"].as_slice(), &all_but(&["abc", "ABC", "ab,bc"])].concat(),
        ),
    ];
    let cases: Vec<Case<'_>> = cases.iter().map(|(name, action, applies)| (*name, &**action, &**applies)).collect();
    entries_apply(&requests, &cases).await;
}

#[tokio::test]
async fn every_action_is_taken() {
    let requests: [Sent<'_>; 7] = [
        ("plain", "/", &[]),
        ("header", "/", &[("x-user", "ann")]),
        ("gold", "/?tier=gold", &[]),
        ("GOLD", "/?tier=GOLD&tier=silver", &[]),
        ("encoded", "/?ti%65r=g%6Fld", &[]),
        ("flag", "/?a&tier", &[]),
        ("plus", "/?tier=gold+1", &[]),
    ];
    let every: Vec<&str> = requests.iter().map(|(name, ..)| *name).collect();
    let tiers = ["gold", "GOLD", "encoded", "flag", "plus"];
    let metadata =
        "descriptor_key: sub, metadata_key: { key: envoy.filters.http.jwt_authn, path: [{ key: jwt }, { key: sub }] }";
    let metadata = |action: &str, more: &str| format!("{action}: {{ {metadata}{more} }}");
    let query = |matcher: &str| {
        format!("query_parameter_value_match: {{ descriptor_value: v, query_parameters: [{{ name: tier{matcher} }}] }}")
    };
    let cases: Vec<(&str, String, &[&str])> = vec![
        ("request_headers", "request_headers: { header_name: X-User, descriptor_key: user }".to_owned(), &["header"]),
        (
            "skipped_header",
            "request_headers: { header_name: x-user, descriptor_key: user, skip_if_absent: true }".to_owned(),
            &every,
        ),
        (
            "query_parameters",
            "query_parameters: { query_parameter_name: tier, descriptor_key: tier }".to_owned(),
            &tiers,
        ),
        (
            "skipped_parameter",
            "query_parameters: { query_parameter_name: tier, descriptor_key: tier, skip_if_absent: true }".to_owned(),
            &every,
        ),
        ("remote_address", "remote_address: {}".to_owned(), &every),
        ("masked", "masked_remote_address: { v4_prefix_mask_len: 8, v6_prefix_mask_len: 64 }".to_owned(), &every),
        ("generic_key", "generic_key: { descriptor_value: '%REQ(x)%', descriptor_key: kind, default_value: d }".to_owned(), &every),
        ("source_cluster", "source_cluster: {}".to_owned(), &every),
        ("destination_cluster", "destination_cluster: {}".to_owned(), &every),
        ("parameter", query(""), &tiers),
        ("no_parameter", query(", present_match: false"), &["plain", "header"]),
        ("parameter_exact", query(", string_match: { exact: gold }"), &["gold", "encoded"]),
        ("parameter_any_case", query(", string_match: { prefix: go, ignore_case: true }"), &["gold", "GOLD", "encoded", "plus"]),
        ("parameter_empty", query(", string_match: { exact: '' }"), &["flag"]),
        (
            "not_the_parameter",
            "query_parameter_value_match: { descriptor_value: v, expect_match: false, query_parameters: [{ name: tier }] }".to_owned(),
            &["plain", "header"],
        ),
        // Nothing on a gateway writes metadata.
        ("metadata", metadata("metadata", ""), &[]),
        ("metadata_default", metadata("metadata", ", default_value: none, source: ROUTE_ENTRY"), &every),
        ("metadata_skipped", metadata("metadata", ", skip_if_absent: true"), &every),
        ("dynamic_metadata", metadata("dynamic_metadata", ", default_value: none"), &every),
        ("protojson", "requestHeaders: { headerName: x-user, descriptorKey: user, skipIfAbsent: false }".to_owned(), &["header"]),
    ];
    let cases: Vec<Case<'_>> = cases.iter().map(|(name, action, applies)| (*name, &**action, *applies)).collect();
    entries_apply(&requests, &cases).await;
}

/// What an entry says beside its actions. The header of its name makes it apply, and splits its counter.
const COUNTED: &str = "
---
rate_limits:
- actions: [{ request_headers: { header_name: x-number, descriptor_key: number } }]
  limit: { unit: HOUR, requests_per_unit: 10 }
  hits_addend: { number: 4 }
  stage: 0
- actions: [{ request_headers: { header_name: x-format, descriptor_key: format } }]
  limit: { unit: HOUR, requests_per_unit: 10 }
  hits_addend: { format: '%REQ(X-Items)%' }
- actions: [{ request_headers: { header_name: x-unlimited, descriptor_key: unlimited } }]
  limit: { unlimited: true }
- actions: [{ request_headers: { header_name: x-most, descriptor_key: most } }]
  limit: { unit: year, requests_per_unit: 4294967295 }
- actions: [{ request_headers: { header_name: x-closed, descriptor_key: closed } }]
  limit: { unit: HOUR, requestsPerUnit: 0 }
  disableKey: closed
- actions: [{ request_headers: { header_name: x-path, descriptor_key: path } }, { masked_remote_address: {} }]
  limit: { unit: HOUR, requests_per_unit: 1 }
";

#[tokio::test]
async fn an_entry_counts_what_it_says() {
    let world = World::start(Setup { policies: &(API.to_owned() + COUNTED), ..Default::default() }).await;
    let answer = async |headers: &[(&str, &str)]| {
        let answer = world.edge.send("GET", "/", headers).await;
        let remaining = answer.header("x-ratelimit-remaining").map(|remaining| remaining.parse::<u32>().unwrap());
        (answer.status.as_u16(), remaining)
    };
    assert_eq!(answer(&[("x-number", "a")]).await, (200, Some(6)));
    assert_eq!(answer(&[("x-number", "a")]).await, (200, Some(2)));
    assert_eq!(answer(&[("x-number", "a")]).await, (429, Some(2)));
    assert_eq!(answer(&[("x-number", "b")]).await, (200, Some(6)), "each value has a counter of its own");
    // What a request costs does not split the counter.
    assert_eq!(answer(&[("x-format", "a"), ("x-items", "7")]).await, (200, Some(3)));
    assert_eq!(answer(&[("x-format", "a"), ("x-items", "4")]).await, (429, Some(3)));
    assert_eq!(answer(&[("x-format", "a"), ("x-items", "2")]).await, (200, Some(1)));
    assert_eq!(answer(&[("x-format", "a")]).await, (200, Some(0)));
    assert_eq!(answer(&[("x-unlimited", "a")]).await, (200, None));
    assert_eq!(answer(&[("x-most", "a")]).await, (200, Some(4_294_967_294)));
    // A key that Tierflow reports too, but in another descriptor.
    assert_eq!(answer(&[("x-path", "/a")]).await, (200, Some(0)));
    assert_eq!(answer(&[("x-path", "/b")]).await, (200, Some(0)));
    assert_eq!(answer(&[("x-path", "/b")]).await, (429, Some(0)));

    assert_eq!(answer(&[("x-closed", "a")]).await, (429, Some(0)));
    world.edge.set_runtime("ratelimit.closed.http_filter_enabled", "0").await;
    assert_eq!(answer(&[("x-closed", "a")]).await, (200, None), "Envoy does not ask any more");
}

#[tokio::test]
async fn an_entry_may_be_for_the_clients_of_some_networks_since_envoy_1_38() {
    let matching =
        |ranges: &str| format!("remote_address_match: {{ descriptor_value: v, address_matcher: {{ {ranges} }} }}");
    let cases = [
        (
            "within",
            matching(
                "ranges: [{ address_prefix: 10.0.0.0, prefix_len: 8 }, { address_prefix: 127.0.0.0, prefix_len: 8 }]",
            ),
        ),
        ("others", matching("ranges: [{ address_prefix: 10.0.0.0, prefix_len: 8 }], invert_match: true")),
        (
            "elsewhere",
            matching("ranges: [{ address_prefix: 10.0.0.0, prefix_len: 8 }, { address_prefix: '::', prefix_len: 0 }]"),
        ),
        ("every", matching("ranges: [{ address_prefix: 0.0.0.0 }]")),
    ];
    let applies = |name: &str| if name == "elsewhere" { [].as_slice() } else { &["any"] };
    let cases: Vec<Case<'_>> = cases.iter().map(|(name, action)| (*name, &**action, applies(name))).collect();
    entries_apply(&[("any", "/", &[])], &cases).await;
}
