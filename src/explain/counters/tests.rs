use std::sync::Arc;

use super::*;
use crate::document::split;
use crate::limiter::key::KeyHasher;
use crate::limiter::matcher::Asked;
use crate::limiter::older::OlderForms;
use crate::policy::form::Form;
use crate::policy::parse::parse;

const SHOP: &str = "\
{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1',
 tenant: {from: {header: x-tenant-id}, default_plan: standard}}
---
{kind: Gateway, name: side, nodes: {clusters: [side]}, listen: '127.0.0.1:2',
 tenant: {from: {header: host}, default_plan: deny}}
---
{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}
---
{kind: Api, name: create, gateway: shop, match: {path: /create}, service: order,
 limits: [{name: all, rate: 10/s}, {name: client, rate: 5/s, by: [client_ip/24, {header: x-a}]}, {name: place, rate: 6/s, by: [path, host]}]}
---
{kind: Api, name: read, gateway: shop, match: {path: /read}, service: order, limits: [{name: all, rate: 11/s}]}
---
{kind: Api, name: closed, gateway: side, match: {path: /closed}, service: order}
---
{kind: Plan, name: standard, limits: [{name: plan, rate: 600/m}], apis: {create: [{name: at-create, rate: 100/m, by: [{cookie: c}]}]}}
---
{kind: Tenant, name: acme, plan: standard}
---
{kind: Tenant, name: shop.example, plan: standard}
---
{kind: Tenant, name: bad, plan: standard, status: suspended}
---
{name: list, gateway: shop, rate_limits: [{actions: [{generic_key: {descriptor_value: all}}, {request_headers: {header_name: ':path', descriptor_key: at}}, {masked_remote_address: {v4_prefix_mask_len: 24}}], limit: {unit: MINUTE, requests_per_unit: 3}}]}
";

fn set() -> (PolicySet, Matcher) {
    let documents = split(&"p.yaml".into(), SHOP.as_bytes()).into_iter().map(Arc::new);
    let parsed = documents.map(|document| Arc::new(parse(&document).unwrap()));
    let (policies, ids) = PolicySet::of_all(parsed).unwrap();
    let affected = policies.gateways.keys().cloned().collect();
    let matcher = Matcher::empty(KeyHasher::seeded([3; 16])).next(&policies, &ids, &affected);
    (policies, matcher)
}

fn select(pairs: &[(&str, &str)]) -> Result<Vec<NamedCounter>, SelectionError> {
    let (policies, matcher) = set();
    counters(&policies, &matcher, &Selection::parse(pairs.iter().copied())?)
}

/// As `tier limit api tenant`, and what is missing.
fn named(pairs: &[(&str, &str)]) -> Vec<String> {
    let or_dash = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
    let told = |counter: &NamedCounter| {
        assert_eq!(counter.charge.is_some(), counter.missing.is_empty());
        let missing =
            if counter.missing.is_empty() { String::new() } else { format!(" ?{}", counter.missing.join(",")) };
        format!("{} {} {} {}{missing}", counter.tier, counter.limit, or_dash(&counter.api), or_dash(&counter.tenant))
    };
    select(pairs).unwrap().iter().map(told).collect()
}

#[test]
fn everything_that_is_given_has_a_part_in_what_is_named() {
    let of_create = ["api all create -", "api client create - ?client_ip,header.x-a", "api place create - ?path,host"];
    let at_create = "tenant at-create create - ?tenant,cookie.c";
    assert_eq!(named(&[("api", "create")]), [&of_create[..], &[at_create]].concat());
    let read = "api all read -";
    let rest = [
        "tenant plan - - ?tenant",
        at_create,
        "rate_limits rate_limits-minute-by-generic_key-at-masked_remote_address - - ?path,client_ip",
    ];
    assert_eq!(named(&[("gateway", "shop")]), [&of_create[..], &[read], &rest].concat());
    assert_eq!(named(&[("limit", "all")]), [of_create[0], read]);
    let of_acme = ["tenant plan - acme", "tenant at-create create acme ?cookie.c"];
    assert_eq!(named(&[("tenant", "acme"), ("gateway", "shop")]), of_acme);
    assert_eq!(named(&[("tenant", "acme")]), [&of_acme[..], &of_acme[..1]].concat(), "on each gateway");
    let at_read = [("tenant", "acme"), ("api", "read")];
    assert_eq!(named(&at_read), ["tenant plan - acme"], "its requests to the Api are counted there");
    let client = [("client_ip", "10.0.0.7"), ("api", "create")];
    assert_eq!(named(&client), ["api client create - ?header.x-a"]);
    assert_eq!(named(&[client[0], client[1], ("header.X-A", "")]), ["api client create -"]);
    assert_eq!(named(&[("tenant", "acme"), ("cookie:c", "1")]), ["tenant at-create create acme"]);
    assert_eq!(named(&[("tier", "tenant"), ("api", "create")]), [at_create]);
    assert_eq!(named(&[("tenant", "shop.example:80"), ("gateway", "side")]), ["tenant plan - shop.example"]);
}

#[test]
fn what_names_nothing_is_told_with_what_could_be_meant() {
    let told = |pairs: &[(&str, &str)]| match select(pairs) {
        Err(SelectionError::Unknown(why)) => format!("404 {why}"),
        Err(SelectionError::Unfit(why)) => format!("400 {why}"),
        Ok(named) => panic!("{named:?}"),
    };
    assert_eq!(told(&[("api", "craete")]), "404 no Api is called \"craete\"; did you mean \"create\"?");
    assert_eq!(told(&[("gateway", "shp")]), "404 no Gateway is called \"shp\"; did you mean \"shop\"?");
    assert_eq!(told(&[("api", "create"), ("gateway", "side")]), "400 the Api \"create\" is one of Gateway shop");
    let of_side = [("gateway", "side"), ("tenant", "acem")];
    assert_eq!(told(&of_side), "404 no Tenant is called \"acem\"; did you mean \"acme\"?");
    assert_eq!(told(&[("tenant", "bad")]), "404 the tenant \"bad\" is suspended: nothing is counted for it");
    let limit = told(&[("api", "create"), ("limit", "clients")]);
    assert_eq!(limit, "404 no limit of this selection is called \"clients\"; did you mean \"client\"?");
    let part = told(&[("api", "create"), ("header.x-b", "1")]);
    assert!(
        part.starts_with("400 no limit of this selection counts by header.x-b; did you mean \"header.x-a\"?; "),
        "{part}"
    );
    let parameter = told(&[("tenat", "acme")]);
    assert!(
        parameter.starts_with("400 unknown parameter \"tenat\"; did you mean \"tenant\"?; expected gateway, "),
        "{parameter}"
    );
    assert_eq!(told(&[("api", "a"), ("api", "b")]), "400 api stands twice");
    assert_eq!(told(&[("tenant", "")]), "400 tenant: expected a name");
    assert!(told(&[("client_ip", "here")]).contains("expected an IP address"));
    assert!(told(&[("tier", "plan")]).contains("expected api or tenant or rate_limits"));
}

/// What is looked at is what requests are counted in.
#[test]
fn a_counter_has_the_key_that_requests_have() {
    let (policies, matcher) = set();
    let gateway = policies.gateways.get("shop").unwrap();
    let api = policies.apis.get("create").unwrap();
    let id = descriptor::api_id(&api.name, &Form::of(&policies, gateway, api).id());
    let list = policies.rate_limits["list"].entries[0].id.clone();
    let own = [
        ("api", id.as_str()),
        ("tenant", "acme"),
        ("remote_address", "10.1.2.3"),
        ("header:x-a", "1"),
        ("path", "/a?b"),
        ("host", "shop:80"),
        ("cookie:c", "2"),
    ];
    let of_list = [
        ("rate_limits", list.as_str()),
        ("generic_key", "all"),
        ("at", "/a?b"),
        ("masked_remote_address", "10.1.2.0/24"),
    ];
    let bytes = |entries: &[(&'static str, &str)]| -> Vec<(Vec<u8>, Vec<u8>)> {
        entries.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
    };
    let owned = [bytes(&own), bytes(&of_list)];
    let entries: Vec<Vec<_>> = owned.iter().map(|e| e.iter().map(|(k, v)| (&k[..], &v[..])).collect()).collect();
    let described: Vec<_> = entries.iter().map(|entries| Described { entries, hits: 1 }).collect();
    let older = OlderForms::default();
    let found = matcher.find(&Asked { gateway: "shop", descriptors: &described }, &older).unwrap();
    let mut met: Vec<u128> = found.limits.unwrap().iter().map(|applied| applied.charge.key.as_u128()).collect();

    let parts = [("client_ip", "10.1.2.9"), ("header.x-a", "1"), ("path", "/a"), ("host", "SHOP"), ("cookie.c", "2")];
    let mut looked_at = BTreeSet::new();
    for whose in [&[("api", "create")][..], &[("tenant", "acme"), ("api", "create")], &[("tier", "rate_limits")]] {
        for count in 0..1 << parts.len() {
            let given = parts.iter().enumerate().filter(|(index, _)| count & (1 << index) != 0).map(|(_, part)| *part);
            let pairs: Vec<_> = whose.iter().copied().chain(given).collect();
            let named = select(&pairs).unwrap_or_default();
            looked_at.extend(named.iter().filter_map(|counter| Some(counter.charge?.key.as_u128())));
        }
    }
    met.sort_unstable();
    assert_eq!(met.len(), 6);
    assert_eq!(looked_at.into_iter().collect::<Vec<_>>(), met);
}
