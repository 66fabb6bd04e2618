use std::sync::Arc;

use super::format::{Format, Unread};
use super::report::{LimitTally, Tally};
use super::*;
use crate::document::split;
use crate::limiter::key::KeyHasher;
use crate::policy::parse::parse;

const SHOP: &str = "\
{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1', client_ip: {trusted_hops: TRUSTED},
 tenant: {from: {header: x-tenant-id}, default_plan: deny}}
---
{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}
---
{kind: Api, name: create, gateway: shop, match: {path: /create}, service: order,
 limits: [{name: all, rate: 5/m}, {name: trial, rate: 2/m, by: [client_ip], mode: shadow}]}
---
{kind: Api, name: read, gateway: shop, match: {path: /read, headers: {x-kind: book}}, service: order,
 limits: [{name: each, rate: 2/m, by: [{header: x-session}]}]}
---
{kind: Plan, name: standard, limits: [{name: plan, rate: 3/m}]}
---
{kind: Tenant, name: acme, plan: standard}
---
{kind: Tenant, name: globex, plan: standard}
---
{kind: Tenant, name: bad, plan: standard, status: suspended}
---
name: list
rate_limits:
- actions: [{request_headers: {header_name: x-agent, descriptor_key: agent}}, {request_headers: {header_name: ':path', descriptor_key: at}}]
  limit: {unit: HOUR, requests_per_unit: 1000}
";

fn set(trusted_hops: u32) -> (PolicySet, Matcher) {
    let text = SHOP.replace("TRUSTED", &trusted_hops.to_string());
    let documents = split(&"p.yaml".into(), text.as_bytes()).into_iter().map(Arc::new);
    let parsed = documents.map(|document| Arc::new(parse(&document).unwrap()));
    let (policies, ids) = PolicySet::of_all(parsed).unwrap();
    let affected = policies.gateways.keys().cloned().collect();
    let matcher = Matcher::empty(KeyHasher::seeded([3; 16])).next(&policies, &ids, &affected);
    (policies, matcher)
}

/// Plays lines of JSON with the second, the path and the tenant of each; and what else is in it.
fn play(lines: &[(u64, &str, &str, &str)]) -> (Report, Vec<String>) {
    let (policies, matcher) = set(0);
    let gateway = policies.gateways.get("shop").unwrap();
    let mut replay = Replay::new(&policies, &matcher, gateway);
    for (second, path, tenant, more) in lines {
        let line = format!(
            r#"{{"time": "{}", "method": "GET", "path": "{path}", "authority": "h", "x-tenant-id": "{tenant}"{more}}}"#,
            1_800_000_000 + second
        );
        let entry = Entry::of(Format::default().read(&line).unwrap(), gateway).unwrap().unwrap();
        replay.play(&entry);
    }
    let unseen = replay.unseen().map(str::to_owned).collect();
    (replay.finish().0, unseen)
}

fn over(report: &Report, limit: &str) -> LimitTally {
    *report.limits.iter().find(|(name, _)| name.limit == limit).unwrap().1
}

#[test]
fn a_request_is_charged_to_all_of_its_limits_or_to_none_at_the_time_of_the_log() {
    let lines: Vec<_> = (0..6).map(|second| (second, "/create", "acme", "")).collect();
    let (report, _) = play(&lines);
    assert_eq!((report.total.requests, report.total.denied), (6, 3));
    assert_eq!(over(&report, "plan"), LimitTally { requests: 6, over_limit: 3 });
    assert_eq!(over(&report, "all"), LimitTally { requests: 6, over_limit: 0 }, "3 are charged");
    let (report, _) = play(&[&lines[..], &[(62, "/create", "acme", ""), (63, "/create", "globex", "")]].concat());
    assert_eq!((report.total.requests, report.total.denied), (8, 3), "a minute later there is room again");
    assert_eq!(report.tenants.known["acme"].denied, 3);
    assert_eq!(report.minutes.known.len(), 2);
}

#[test]
fn a_limit_in_shadow_denies_nothing_and_is_told() {
    let from = r#", "downstream_remote_address": "10.0.0.7:1""#;
    let lines = [(0, "/create", "acme", from), (1, "/create", "acme", from), (2, "/create", "globex", from)];
    let (report, _) = play(&lines);
    assert_eq!(report.total, Tally { requests: 3, denied: 0, over_in_shadow: 1, denied_in_log: 0 });
    assert_eq!(over(&report, "trial").over_limit, 1);
    assert_eq!(report.without_client, 0);
}

#[test]
fn what_no_limit_decides_is_told_with_the_answer() {
    let (report, _) = play(&[
        (0, "/nowhere", "acme", ""),
        (0, "/create", "bad", ""),
        (0, "/create", "unknown", ""),
        (0, "/create%2Fb", "acme", ""),
        (0, "/create", "acme", r#", "response_flags": "RL""#),
    ]);
    let answers: Vec<_> = report.answers.iter().map(|(answer, count)| (answer.as_str(), *count)).collect();
    let expected = [
        ("307: the path has an escaped slash", 1),
        ("403: no such tenant", 1),
        ("403: the tenant is suspended", 1),
        ("404: no Api takes the request", 1),
    ];
    assert_eq!(answers, expected);
    assert_eq!(report.total, Tally { requests: 5, denied: 2, over_in_shadow: 0, denied_in_log: 1 });
}

#[test]
fn headers_that_policies_look_at_and_no_request_has_are_told() {
    let (_, unseen) = play(&[(0, "/read", "acme", r#", "x-kind": "book""#)]);
    assert_eq!(unseen, ["x-agent", "x-session"]);
    let (report, unseen) = play(&[(0, "/read", "acme", r#", "x-kind": "book", "x_session": "7", "x-agent": "a""#)]);
    assert!(unseen.is_empty() && report.apis["read"].requests == 1);
}

#[test]
fn headers_that_lists_look_at_are_told_and_what_cannot_be_counted_is() {
    let (policies, matcher) = set(0);
    let gateway = policies.gateways.get("shop").unwrap();
    let mut replay = Replay::new(&policies, &matcher, gateway);
    assert!(replay.unseen().any(|name| name == "x-agent") && replay.unseen().all(|name| !name.starts_with(':')));
    replay.counters = Memory::new(MemoryLimits { keys_max: 0 });
    let line = r#"{"time": "1", "method": "GET", "path": "/create", "x-tenant-id": "acme"}"#;
    replay.play(&Entry::of(Format::default().read(line).unwrap(), gateway).unwrap().unwrap());
    assert_eq!(replay.finish().0.uncounted, 1);
}

#[test]
fn the_client_is_who_the_gateway_would_take_for_it() {
    let client = |trusted_hops: u32, fields: &str| {
        let (policies, _) = set(trusted_hops);
        let line = format!(r#"{{"time": "1", "method": "GET", "path": "/", {fields}}}"#);
        let record = Format::default().read(&line).unwrap();
        let entry = Entry::of(record, policies.gateways.get("shop").unwrap()).unwrap().unwrap();
        entry.is_client_known.then(|| entry.request.client_ip.to_string())
    };
    let known = |address: &str| Some(address.to_owned());
    let forwarded = r#""x-forwarded-for": "192.0.2.1, 192.0.2.2,192.0.2.3""#;
    assert_eq!(client(0, forwarded), known("192.0.2.3"), "the connection's, which Envoy adds");
    assert_eq!(client(1, forwarded), known("192.0.2.2"));
    assert_eq!(client(3, forwarded), known("192.0.2.3"), "as Envoy does where the list is too short");
    let remote = r#""x-forwarded-for": "192.0.2.1", "downstream_remote_address": "REMOTE""#;
    for (text, address) in [("10.0.0.7:1", "10.0.0.7"), ("[::1]:80", "::1"), ("::1", "::1"), ("10.0.0.8", "10.0.0.8")] {
        assert_eq!(client(0, &remote.replace("REMOTE", text)), known(address));
    }
    assert_eq!(client(0, r#""x-forwarded-for": "somebody""#), None);
    assert_eq!(client(0, r#""a": "b""#), None);
}

#[test]
fn a_line_about_no_request_is_none_and_one_without_a_time_is_told() {
    let (policies, _) = set(0);
    let read = |line: &str| Entry::of(Format::default().read(line).unwrap(), policies.gateways.get("shop").unwrap());
    let line = r#"[2026-11-29T03:15:00.250Z] "- - HTTP/1.1" 400 DPE 0 11 0 - "-" "-" "-" "-" "-""#;
    assert!(read(line).unwrap().is_none());
    assert_eq!(read(r#"{"method": "GET", "path": "/"}"#).unwrap_err(), Unread::NoTime);
}

#[test]
fn busy_counters_are_told_for_limits_that_there_are_and_could_be() {
    let (policies, matcher) = set(0);
    let gateway = policies.gateways.get("shop").unwrap();
    let mut replay = Replay::new(&policies, &matcher, gateway).with_peaks();
    for second in 0..12 {
        let tenant = if second % 4 == 0 { "globex" } else { "acme" };
        let line = format!(
            r#"{{"time": "{second}", "method": "GET", "path": "/create", "x-tenant-id": "{tenant}", "client_ip": "10.0.0.{}"}}"#,
            second % 3
        );
        replay.play(&Entry::of(Format::default().read(&line).unwrap(), gateway).unwrap().unwrap());
    }
    let peaks = replay.finish().1.unwrap();
    let told: Vec<_> = peaks
        .summaries()
        .map(|summary| {
            let name = match &summary.limit {
                peaks::Limit::Existing(name) => name.limit.clone(),
                peaks::Limit::Possible { by, .. } => format!("by {by}"),
            };
            (name, summary.counters, summary.p50, summary.most)
        })
        .collect();
    let expected = [
        ("all", 1, 12, 12),
        ("trial", 3, 4, 4),
        ("plan", 2, 3, 9),
        ("by ", 1, 12, 12),
        ("by client_ip", 3, 4, 4),
        ("by tenant", 2, 3, 9),
    ];
    assert_eq!(told, expected.map(|(name, counters, p50, most)| (name.to_owned(), counters, p50, most)));
}
