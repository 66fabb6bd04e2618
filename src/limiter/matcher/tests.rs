use std::collections::BTreeSet;

use super::*;
use crate::document::split;
use crate::limiter::older::OlderForms;
use crate::names::{DocumentId, Kind};
use crate::policy::parse::parse;
use crate::policy::set::PolicySet;

const SHOP: &str = "\
{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1',
 tenant: {from: {header: x-tenant-id}, missing: anonymous, default_plan: standard}}
---
{kind: Gateway, name: strict, nodes: {clusters: [strict]}, listen: '127.0.0.1:2', limiter: {on_error: deny},
 tenant: {from: {header: x-tenant-id}, missing: reject, default_plan: deny}}
---
{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}
---
{kind: Api, name: create, gateway: shop, match: {path: /create}, service: order,
 limits: [{rate: 10/s}, {name: client, rate: 5/s, by: [client_ip/24, {header: x-a}]}, {name: bulk, rate: 9/m, cost: {header: x-items}}]}
---
{kind: Api, name: closed, gateway: strict, match: {path: /closed}, service: order}
---
{kind: Plan, name: standard, limits: [{rate: 600/m}], apis: {create: [{rate: 100/m}]}}
---
{kind: Tenant, name: acme, plan: standard, apis: {create: [{rate: 800/m}]}}
---
{kind: Tenant, name: solo, limits: [{rate: 7/m}]}
---
{kind: Tenant, name: bad, plan: standard, status: suspended}
---
{name: list, gateway: shop, rate_limits: [{actions: [{request_headers: {header_name: ':path', descriptor_key: api_path}}], limit: {unit: MINUTE, requests_per_unit: 3}}]}
";

fn set(text: &str) -> (PolicySet, Matcher) {
    let documents = split(&"p.yaml".into(), text.as_bytes()).into_iter().map(Arc::new);
    let parsed = documents.map(|document| Arc::new(parse(&document).unwrap()));
    let (policies, ids) = PolicySet::of_all(parsed).unwrap();
    let matcher = Matcher::empty(KeyHasher::seeded([3; 16])).next(&policies, &ids, &gateways(&[&policies]));
    (policies, matcher)
}

fn ids(text: &str) -> impl Iterator<Item = DocumentId> {
    split(&"p.yaml".into(), text.as_bytes()).into_iter().map(|document| parse(&Arc::new(document)).unwrap().id.clone())
}

fn matcher(text: &str) -> Matcher {
    set(text).1
}

/// The id that the newest routes report for the Api.
fn id(matcher: &Matcher, gateway: &str, api: &str) -> String {
    let gateway = matcher.gateways.get(gateway);
    gateway.and_then(|gateway| gateway.ids_by_name.get(api)).cloned().unwrap_or_else(|| format!("{api}/"))
}

/// The id that the newest routes report for the only entry of all lists.
fn list_id(matcher: &Matcher, gateway: &str) -> String {
    matcher.gateways.get(gateway).unwrap().rate_limits.keys().next().unwrap().clone()
}

/// The limits that a request meets, as `tier:name=rate`, and the keys of their counters.
type Met = Result<Vec<(String, Charge)>, String>;

/// A request whose descriptors are these, as they came.
fn ask_raw(matcher: &Matcher, older: &OlderForms, gateway: &str, descriptors: &[&[(&str, &str)]]) -> Met {
    let bytes = |entries: &&[(&str, &str)]| -> Vec<_> {
        entries.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
    };
    let owned: Vec<Vec<(Vec<u8>, Vec<u8>)>> = descriptors.iter().map(bytes).collect();
    let entries: Vec<Vec<_>> =
        owned.iter().map(|e| e.iter().map(|(k, v)| (k.as_slice(), v.as_slice())).collect()).collect();
    let described: Vec<_> = entries.iter().map(|entries| Described { entries, hits: 1 }).collect();
    let found = matcher.find(&Asked { gateway, descriptors: &described }, older).ok_or("nothing")?;
    let limits = found.limits.map_err(|denial| format!("{denial:?}"))?;
    if found.is_uncountable {
        return Err("uncountable".to_owned());
    }
    let shown = |applied: &Applied<'_>| {
        (format!("{}:{}={}", applied.tier.as_str(), applied.limit.name, applied.limit.rate), applied.charge)
    };
    Ok(limits.iter().map(shown).collect())
}

/// A request by the newest routes: the Api is told by its name alone.
fn ask(matcher: &Matcher, gateway: &str, entries: &[(&str, &str)]) -> Met {
    let id = id(matcher, gateway, entries[0].1);
    let entries = [&[("api", id.as_str())], &entries[1..]].concat();
    ask_raw(matcher, &OlderForms::default(), gateway, &[&entries])
}

fn names_of(met: Met) -> Result<Vec<String>, String> {
    met.map(|limits| limits.into_iter().map(|(name, _)| name).collect())
}

fn names(matcher: &Matcher, gateway: &str, entries: &[(&str, &str)]) -> Result<Vec<String>, String> {
    names_of(ask(matcher, gateway, entries))
}

fn keys_of(met: Met) -> Vec<u128> {
    met.unwrap().into_iter().map(|(_, charge)| charge.key.as_u128()).collect()
}

fn keys(matcher: &Matcher, entries: &[(&str, &str)]) -> Vec<u128> {
    keys_of(ask(matcher, "shop", entries))
}

const API: [&str; 3] = ["api:api-second=10/second", "api:client=5/second", "api:bulk=9/minute"];

#[test]
fn a_tenant_meets_its_own_limits_where_it_has_them_and_its_plans_where_not() {
    let matcher = matcher(SHOP);
    let of_tenant = |tenant| names(&matcher, "shop", &[("api", "create"), ("tenant", tenant)]).unwrap();
    let with = |tenant: [&'static str; 2]| API.into_iter().chain(tenant).collect::<Vec<_>>();
    assert_eq!(of_tenant("acme"), with(["tenant:tenant-minute=600/minute", "tenant:tenant-api-minute=800/minute"]));
    assert_eq!(of_tenant("solo"), with(["tenant:tenant-minute=7/minute", "tenant:tenant-api-minute=100/minute"]));
    assert_eq!(of_tenant("new"), with(["tenant:tenant-minute=600/minute", "tenant:tenant-api-minute=100/minute"]));
}

#[test]
fn a_request_without_a_tenant_is_all_anonymous() {
    let matcher = matcher(SHOP);
    let missing = keys(&matcher, &[("api", "create")]);
    assert_eq!(missing, keys(&matcher, &[("api", "create"), ("tenant", "")]));
    assert_eq!(missing, keys(&matcher, &[("api", "create"), ("tenant", "anonymous")]));
    assert_ne!(missing, keys(&matcher, &[("api", "create"), ("tenant", "other")]));
}

#[test]
fn tenants_that_are_not_served_are_denied() {
    let matcher = matcher(SHOP);
    assert_eq!(names(&matcher, "shop", &[("api", "create"), ("tenant", "bad")]), Err("Suspended".to_owned()));
    assert_eq!(names(&matcher, "strict", &[("api", "closed")]), Err("Missing".to_owned()));
    assert_eq!(names(&matcher, "strict", &[("api", "closed"), ("tenant", "new")]), Err("Unknown".to_owned()));
    assert!(names(&matcher, "strict", &[("api", "closed"), ("tenant", "acme")]).is_ok());
}

/// Replicas that share a store have to name its counters alike, whatever each of them served before; and so has every
/// version of Tierflow: who changes these keys empties the counters of everybody who updates.
#[test]
fn the_key_of_a_counter_depends_on_the_seed_and_the_policies_alone() {
    let requests: [&[(&str, &str)]; 2] = [
        &[("api", "create"), ("tenant", "acme"), ("remote_address", "10.0.0.7"), ("header:x-a", "v")],
        &[("api", "create")],
    ];
    let (policies, first) = set(SHOP);
    let text_before = SHOP.replace("600/m", "1/d").replace("name: acme", "name: zenith");
    let (before, elsewhere) = set(&text_before);
    let all = ids(SHOP).chain(ids(&text_before)).collect();
    let affected = gateways(&[&before, &policies]);
    let second = elsewhere.next(&policies, &all, &affected);
    for request in requests {
        assert_eq!(keys(&first, request), keys(&second, request));
    }
    let other_seed = Matcher::empty(KeyHasher::seeded([4; 16])).next(&policies, &all, &affected);
    assert!(keys(&first, requests[0]).iter().all(|key| !keys(&other_seed, requests[0]).contains(key)));
    let shared = Matcher::empty(KeyHasher::shared()).next(&policies, &all, &affected);
    let expected = [
        "fa940f77b6cb1553b23f96fcbaf534d6",
        "fa941e682898303e7bd842ca6832532e",
        "fa94b9159aa5dd2cfab6128176c7989f",
        "1e432aaac583dec5f7116190a7a20f55",
        "1e430666b91e4c43d8e0067c66cbc5f6",
    ];
    let keys: Vec<String> = keys(&shared, requests[0]).iter().map(|key| format!("{key:032x}")).collect();
    assert_eq!(keys, expected);
}

#[test]
fn what_is_not_known_is_nothing() {
    let matcher = matcher(SHOP);
    assert_eq!(names(&matcher, "nowhere", &[("api", "create")]), Err("nothing".to_owned()));
    let nothing: [&[(&str, &str)]; 4] =
        [&[], &[("api", "create")], &[("other", "x"), ("api", "create/")], &[("api", "\0")]];
    for entries in nothing {
        let met = names_of(ask_raw(&matcher, &OlderForms::default(), "shop", &[entries]));
        assert_eq!(met, Err("nothing".to_owned()), "{entries:?}");
    }
}

#[test]
fn a_network_shares_a_counter_and_what_is_missing_is_one_value() {
    let matcher = matcher(SHOP);
    let client = |entries: &[(&str, &str)]| keys(&matcher, &[&[("api", "create")], entries].concat())[1];
    let ip = |address| ("remote_address", address);
    assert_eq!(client(&[ip("10.0.0.7")]), client(&[ip("10.0.0.200")]));
    assert_eq!(client(&[ip("10.0.0.7")]), client(&[ip("::ffff:10.0.0.9")]));
    assert_ne!(client(&[ip("10.0.0.7")]), client(&[ip("10.0.1.7")]));
    assert_eq!(client(&[ip("2001:db8::1")]), client(&[ip("2001:db8::2:1")]));
    assert_ne!(client(&[ip("2001:db8::1")]), client(&[ip("2001:db8:0:1::1")]));
    assert_eq!(client(&[ip("10.0.0.7")]), client(&[ip("10.0.0.7"), ("header:x-a", "")]));
    assert_ne!(client(&[ip("10.0.0.7")]), client(&[ip("10.0.0.7"), ("header:x-a", "1")]));
}

#[test]
fn a_request_says_its_cost_and_costs_one_where_it_says_nonsense() {
    let matcher = matcher(SHOP);
    let cost = |items: &str| ask(&matcher, "shop", &[("api", "create"), ("header:x-items", items)]).unwrap()[2].1.hits;
    assert_eq!((cost("5"), cost("nonsense"), cost("4294967296")), (5, 1, u32::MAX));
}

#[test]
fn an_entry_of_a_list_counts_by_what_was_reported_and_a_path_without_its_query() {
    let matcher = matcher(SHOP);
    let id = list_id(&matcher, "shop");
    let key = |path| {
        let entries = [("rate_limits", id.as_str()), ("api_path", path)];
        keys_of(ask_raw(&matcher, &OlderForms::default(), "shop", &[&entries]))
    };
    assert_eq!(key("/a"), key("/a?x=1"));
    assert_ne!(key("/a"), key("/b"));
}

#[test]
fn a_changed_rate_keeps_its_counter_and_a_changed_window_starts_a_new_one() {
    let before = keys(&matcher(SHOP), &[("api", "create")]);
    let rate = keys(&matcher(&SHOP.replace("rate: 10/s", "rate: 20/s")), &[("api", "create")]);
    assert_eq!(before, rate);
    let window = keys(&matcher(&SHOP.replace("{rate: 10/s}", "{name: api-second, rate: 10/m}")), &[("api", "create")]);
    assert_ne!(before[0], window[0]);
    let algorithm = SHOP.replace("{rate: 10/s}", "{rate: 10/s, algorithm: fixed_window}");
    assert_ne!(before[0], keys(&matcher(&algorithm), &[("api", "create")])[0]);
}

/// Newest policies after older ones, whose forms are remembered.
struct Change {
    before: Matcher,
    now: Matcher,
    older: OlderForms,
}

impl Change {
    fn of(before: &str, now: &str) -> Self {
        let ((policies, before), (next_policies, _)) = (set(before), set(now));
        let ids = set_ids(&policies).chain(set_ids(&next_policies)).collect();
        let now = before.next(&next_policies, &ids, &gateways(&[&policies, &next_policies]));
        let mut older = OlderForms::default();
        for (gateway, limits) in before.gateways.iter() {
            limits.ids().for_each(|id| older.remember(&before, gateway, id));
        }
        Self { before, now, older }
    }

    /// A request by a route of before.
    fn ask(&self, gateway: &str, entries: &[(&str, &str)]) -> Met {
        self.ask_with(&self.older, gateway, entries)
    }

    /// The same where nobody remembers what was before.
    fn ask_a_stranger(&self, gateway: &str, entries: &[(&str, &str)]) -> Met {
        self.ask_with(&OlderForms::default(), gateway, entries)
    }

    fn ask_with(&self, older: &OlderForms, gateway: &str, entries: &[(&str, &str)]) -> Met {
        let id = id(&self.before, gateway, entries[0].1);
        ask_raw(&self.now, older, gateway, &[&[&[("api", id.as_str())], &entries[1..]].concat()])
    }
}

fn set_ids(policies: &PolicySet) -> impl Iterator<Item = DocumentId> {
    let tenants: Vec<_> = policies.tenants.keys().map(|name| DocumentId::new(Kind::Tenant, name.as_str())).collect();
    let apis = policies.apis.names().map(|name| DocumentId::new(Kind::Api, name.as_str()));
    let plans = policies.plans.keys().map(|name| DocumentId::new(Kind::Plan, name.as_str()));
    tenants.into_iter().chain(apis).chain(plans)
}

fn gateways(sets: &[&PolicySet]) -> BTreeSet<Name> {
    sets.iter().flat_map(|policies| policies.gateways.keys()).cloned().collect()
}

const TENANT: [&str; 2] = ["tenant:tenant-minute=600/minute", "tenant:tenant-api-minute=100/minute"];

#[test]
fn an_older_route_is_counted_by_the_last_limits_of_its_form_where_the_newest_need_more() {
    let change = Change::of(SHOP, &SHOP.replace("{header: x-a}", "{header: x-b}").replace("10/s", "20/s"));
    let request = [("api", "create"), ("header:x-a", "1"), ("remote_address", "10.0.0.1")];
    let met = change.ask("shop", &request);
    let rates = ["api:api-second=20/second", "api:bulk=9/minute", "api:client=5/second"];
    assert_eq!(names_of(met.clone()).unwrap(), rates.into_iter().chain(TENANT).collect::<Vec<_>>());
    // In the counters that it had.
    let before = ask(&change.before, "shop", &request).unwrap();
    let client = |limits: &[(String, Charge)]| limits.iter().find(|(name, _)| name.contains("client")).unwrap().1.key;
    assert_eq!(client(&met.unwrap()), client(&before));
}

#[test]
fn a_limit_follows_the_newest_policies_and_goes_with_the_routes_that_it_was_for() {
    let without_client = SHOP.replace("{name: client, rate: 5/s, by: [client_ip/24, {header: x-a}]}, ", "");
    let change = Change::of(SHOP, &without_client.replace("600/m", "6/m"));
    let request = [("api", "create")];
    let rest = ["api:api-second=10/second", "api:bulk=9/minute"];
    let tenant = ["tenant:tenant-minute=6/minute", TENANT[1]];
    let older = [&rest[..], &["api:client=5/second"], &tenant].concat();
    assert_eq!(names_of(change.ask("shop", &request)).unwrap(), older);
    assert_eq!(names(&change.now, "shop", &request).unwrap(), [rest, tenant].concat());
}

#[test]
fn a_removed_api_keeps_its_last_limits_for_those_who_still_have_its_route() {
    let text: Vec<_> = SHOP.split("---\n").filter(|document| !document.contains("name: create")).collect();
    let text = text.join("---\n").replace(", apis: {create: [{rate: 100/m}]}", "");
    let change = Change::of(SHOP, &text.replace(", apis: {create: [{rate: 800/m}]}", ""));
    let met = names_of(change.ask("shop", &[("api", "create"), ("tenant", "acme")])).unwrap();
    assert_eq!(met, API.into_iter().chain([TENANT[0], "tenant:tenant-api-minute=800/minute"]).collect::<Vec<_>>());
    // Where nobody remembers them, what is left is the tenant's over all Apis.
    assert_eq!(names_of(change.ask_a_stranger("shop", &[("api", "create")])).unwrap(), [TENANT[0]]);
}

#[test]
fn a_removed_gateway_keeps_its_last_limits_too() {
    let text: Vec<_> = SHOP.split("---\n").filter(|document| !document.contains("shop")).collect();
    let change = Change::of(
        SHOP,
        &text
            .join("---\n")
            .replace(", apis: {create: [{rate: 100/m}]}", "")
            .replace(", apis: {create: [{rate: 800/m}]}", ""),
    );
    let met = names_of(change.ask("shop", &[("api", "create")])).unwrap();
    assert_eq!(met, API.into_iter().chain(TENANT).collect::<Vec<_>>());
    assert_eq!(names_of(change.ask_a_stranger("shop", &[("api", "create")])), Err("nothing".to_owned()));
}

#[test]
fn what_nobody_remembers_is_counted_by_the_newest_limits_that_fit_and_never_simply_passes() {
    let change = Change::of(SHOP, &SHOP.replace("{header: x-a}", "{header: x-b}"));
    let met = names_of(change.ask_a_stranger("shop", &[("api", "create"), ("header:x-a", "1")])).unwrap();
    assert_eq!(met, [API[0], API[2], TENANT[0], TENANT[1]]);
    let only = |header: &str| {
        format!(
            "{{kind: Gateway, name: shop, nodes: {{clusters: [edge]}}, listen: '127.0.0.1:1'}}
---
{{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}}
---
{{kind: Api, name: create, gateway: shop, match: {{path: /}}, service: order, limits: [{{rate: 5/h, by: [{{header: {header}}}]}}]}}
"
        )
    };
    let change = Change::of(&only("x-a"), &only("x-b"));
    assert_eq!(names_of(change.ask_a_stranger("shop", &[("api", "create")])), Err("uncountable".to_owned()));
    assert_eq!(names_of(change.ask("shop", &[("api", "create")])).unwrap(), ["api:api-hour-by-header-x-a=5/hour"]);
}

#[test]
fn whether_a_tenant_is_served_is_for_the_newest_policies_to_say() {
    let suspended =
        SHOP.replace("name: solo,", "name: solo, status: suspended,").replace("{header: x-a}", "{header: x-b}");
    let change = Change::of(SHOP, &suspended);
    let of = |tenant| names_of(change.ask("shop", &[("api", "create"), ("tenant", tenant)]));
    assert_eq!(of("solo"), Err("Suspended".to_owned()));
    assert!(of("acme").is_ok());
}

#[test]
fn a_route_that_reports_no_tenant_is_not_asked_for_one() {
    let without = SHOP.replace(
        "tenant: {from: {header: x-tenant-id}, missing: reject, default_plan: deny}",
        "tls: {certificate_chain: /a, private_key: /b}",
    );
    let closed = [("api", "closed")];
    let change = Change::of(&without, SHOP);
    assert_eq!(names_of(change.ask("strict", &closed)), Ok(vec![]));
    let back = Change::of(SHOP, &without);
    assert_eq!(names_of(back.ask("strict", &closed)), Err("Missing".to_owned()), "its routes still ask for one");
    assert_eq!(names_of(back.ask_a_stranger("strict", &closed)), Ok(vec![]));
}

#[test]
fn a_list_entry_is_known_by_its_actions_wherever_it_stands() {
    let entry = "{actions: [{request_headers: {header_name: ':path', descriptor_key: api_path}}], limit: {unit: MINUTE, requests_per_unit: 3}}";
    let other = "{actions: [{remote_address: {}}], limit: {unit: HOUR, requests_per_unit: 7}}";
    let change = Change::of(SHOP, &SHOP.replace(entry, &format!("{other}, {}", entry.replace('3', "4"))));
    let before = list_id(&change.before, "shop");
    let met = ask_raw(&change.now, &change.older, "shop", &[&[("rate_limits", &before), ("api_path", "/a")]]);
    assert_eq!(names_of(met).unwrap(), ["rate_limits:rate_limits-minute-by-api_path=4/minute"]);
    let change = Change::of(SHOP, &SHOP.replace(entry, other));
    let entries = [("rate_limits", before.as_str()), ("api_path", "/a")];
    let met = ask_raw(&change.now, &change.older, "shop", &[&entries]);
    assert_eq!(names_of(met).unwrap(), ["rate_limits:rate_limits-minute-by-api_path=3/minute"]);
    let met = ask_raw(&change.now, &OlderForms::default(), "shop", &[&entries]);
    assert_eq!(names_of(met), Err("uncountable".to_owned()));
}

#[test]
fn only_the_first_entry_says_whose_a_descriptor_is_and_a_denial_stands() {
    let matcher = matcher(SHOP);
    let [create, list] = [id(&matcher, "shop", "create"), list_id(&matcher, "shop")];
    let ask =
        |descriptors: &[&[(&str, &str)]]| names_of(ask_raw(&matcher, &OlderForms::default(), "shop", descriptors));
    let posing = [("rate_limits", list.as_str()), ("api", &create), ("tenant", "acme")];
    assert_eq!(ask(&[&posing]).unwrap(), ["rate_limits:rate_limits-minute-by-api_path=3/minute"]);
    let suspended = [("api", create.as_str()), ("tenant", "bad")];
    let other = [("api", create.as_str()), ("tenant", "acme")];
    assert_eq!(ask(&[&suspended, &other]), Err("Suspended".to_owned()));
    assert_eq!(ask(&[&other, &suspended]), Err("Suspended".to_owned()));
}

#[test]
fn values_are_bytes() {
    let matcher = matcher(SHOP);
    let id = id(&matcher, "shop", "create");
    let key = |tenant: &[u8]| {
        let entries = [(&b"api"[..], id.as_bytes()), (b"tenant", tenant)];
        let older = OlderForms::default();
        let asked = Asked { gateway: "shop", descriptors: &[Described { entries: &entries, hits: 1 }] };
        matcher.find(&asked, &older).unwrap().limits.unwrap()[3].charge.key
    };
    assert_eq!(key(b"\xff"), key(b"\xff"));
    assert_ne!(key(b"\xff"), key(b"\xfe"));
    assert_ne!(key(b"\xff"), key("\u{fffd}".as_bytes()));
}
