use super::*;
use crate::compile::RateLimitService;
use crate::compile::compile;
use crate::document::{Registered, split};
use crate::policy::parse::parse;

const BEFORE: &str = "\
{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1', tenant: {from: {header: x-t}, default_plan: standard}}
---
{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}
---
{kind: Api, name: create, gateway: shop, match: {path: /create}, service: order,
 limits: [{name: all, rate: 100/m}, {name: client, rate: 5/s, by: [client_ip]}]}
---
{kind: Plan, name: standard, limits: [{name: plan, rate: 600/m, algorithm: token_bucket, burst: 10}], apis: {create: [{name: at, rate: 9/m}]}}
---
{kind: Tenant, name: acme, plan: standard, limits: [{name: own, rate: 7/m}]}
";

struct Set {
    documents: ParsedById,
    policies: PolicySet,
    snapshot: Snapshot,
}

impl Set {
    fn side(&self) -> Side<'_> {
        Side { documents: &self.documents, policies: &self.policies, snapshot: &self.snapshot }
    }
}

fn set(text: &str) -> Set {
    let documents = split(&"p.yaml".into(), text.as_bytes()).into_iter().map(Arc::new);
    let parsed: Vec<_> = documents.map(|document| Arc::new(parse(&document).unwrap())).collect();
    let documents = parsed.iter().map(|parsed| (parsed.id.clone(), Arc::clone(parsed))).collect();
    let (policies, _) = PolicySet::of_all(parsed).unwrap();
    let gateways = policies.gateways.keys().cloned().collect();
    let service = RateLimitService::default();
    let snapshot = compile(&policies, &Registered::default(), &service, &Snapshot::default(), &gateways);
    Set { documents, policies, snapshot }
}

fn difference(after: &str) -> Difference {
    Difference::between(set(BEFORE).side(), set(after).side())
}

/// As `of limit: field from->to; counters`.
fn limits(difference: &Difference) -> Vec<String> {
    let told = |change: &LimitChange| {
        let fields = change.fields.iter().map(|FieldChange { field, from, to }| format!("{field} {from}->{to}"));
        format!("{} {}: {}; {:?}", change.of, change.limit, fields.collect::<Vec<_>>().join(", "), change.counters)
    };
    difference.limits.iter().map(told).collect()
}

#[test]
fn sets_that_mean_the_same_differ_in_nothing() {
    assert!(difference(BEFORE).is_empty());
    assert!(
        difference(&BEFORE.replace("---", "# the next\n---").replace("rate: 100/m", "rate: 100/minute")).is_empty()
    );
}

#[test]
fn a_raised_limit_keeps_its_counters_and_is_sent_to_nobody() {
    let difference = difference(&BEFORE.replace("rate: 100/m", "rate: 200/m"));
    assert_eq!(limits(&difference), ["Api create all: rate 100/minute->200/minute; Kept"]);
    assert_eq!(difference.pushes, []);
    let changed = DocumentChange { kind: Kind::Api, name: "create".to_owned(), change: Change::Changed };
    assert_eq!(difference.documents, [changed]);
}

#[test]
fn another_window_algorithm_or_division_is_a_new_counter() {
    let of = |from: &str, to: &str| limits(&difference(&BEFORE.replace(from, to)));
    assert_eq!(of("rate: 9/m", "rate: 9/h"), ["Plan standard, Api create at: rate 9/minute->9/hour; New"]);
    assert_eq!(of("burst: 10", "burst: 20"), ["Plan standard plan: burst 10->20; Kept"]);
    assert_eq!(
        of("algorithm: token_bucket, burst: 10", "algorithm: fixed_window"),
        ["Plan standard plan: algorithm token_bucket->fixed_window, burst 10->; New"]
    );
    assert_eq!(
        of("by: [client_ip]", "by: [path], mode: shadow"),
        ["Api create client: by client_ip->path, mode enforce->shadow; New"]
    );
    assert_eq!(
        of("name: own, rate: 7/m", "name: mine, rate: 7/m"),
        ["Tenant acme mine: rate ->7/minute; New", "Tenant acme own: rate 7/minute->; Dropped"]
    );
}

#[test]
fn entries_of_a_list_whose_limits_share_a_name_are_told_apart() {
    let entry = |value: &str, count: u32| {
        format!(
            "  - {{actions: [{{generic_key: {{descriptor_value: {value}}}}}], limit: {{unit: MINUTE, requests_per_unit: {count}}}}}\n"
        )
    };
    let with = |first: u32| format!("{BEFORE}---\nname: list\nrate_limits:\n{}{}", entry("a", first), entry("b", 3));
    let (before, after) = (with(3), with(5));
    let difference = Difference::between(set(&before).side(), set(&after).side());
    let told = limits(&difference);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("RateLimits list ") && told[0].ends_with("rate 3/minute->5/minute; Kept"), "{told:?}");
}

#[test]
fn what_envoys_would_be_sent_is_told_by_gateway_and_type() {
    let more = "---\n{kind: Service, name: pay, endpoints: ['127.0.0.1:9102']}\n---\n{kind: Api, name: pay, gateway: shop, match: {path: /pay}, service: pay}\n";
    let difference = difference(&format!("{}{more}", BEFORE.replace("127.0.0.1:9101", "127.0.0.1:9109")));
    let told: Vec<_> = difference
        .pushes
        .iter()
        .map(|push| {
            format!("{} {} +{:?} ~{:?} -{:?}", push.gateway, push.resource_type, push.added, push.changed, push.removed)
        })
        .collect();
    assert_eq!(
        told,
        [
            r#"shop cluster +["pay"] ~[] -[]"#,
            r#"shop endpoint +["pay"] ~["order"] -[]"#,
            r#"shop route +[] ~["shop"] -[]"#
        ]
    );
}

#[test]
fn a_gateway_that_goes_takes_all_its_resources_along() {
    let empty = difference("{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}");
    assert!(
        empty.pushes.iter().all(|push| push.added.is_empty() && push.changed.is_empty() && !push.removed.is_empty())
    );
    assert_eq!(empty.documents.len(), 4);
    assert!(empty.documents.iter().all(|document| document.change == Change::Removed));
    assert!(empty.limits.iter().all(|limit| limit.counters == CounterChange::Dropped));
}
