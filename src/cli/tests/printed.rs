//! What verbs print that do what was asked for, and what they ask a server for.

use serde_json::{Value, json};

use super::*;
use crate::cli::stand_in::Asked;

const SHOP: &str = "\
{kind: Gateway, name: edge, nodes: {clusters: [edge]}, listen: '127.0.0.1:10000',
 tenant: {from: {header: x-tenant-id}, missing: reject, default_plan: standard}, cors: {allow_origins: ['https://shop.example']}}
---
{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}
---
{kind: Api, name: create, gateway: edge, match: {path: /create, methods: [POST]}, service: order,
 limits: [{rate: 10/m, by: [client_ip], exact: true}, {rate: 9/h, mode: shadow, cost: 3}]}
---
{kind: Api, name: host, gateway: edge, match: {path: /host, hosts: [shop.example]}, service: order}
---
{kind: Plan, name: standard, limits: [{rate: 100/h}]}
";

/// Standard output of a verb that succeeds.
fn printed(line: &str) -> String {
    let Ended { result, out, err } = run(line);
    assert_eq!((result, &*err), (Ok(()), ""), "{line}");
    out
}

/// The same, of a verb that asks a server which gives these answers.
fn printed_of(line: &str, answers: &[Value]) -> (String, Vec<Asked>) {
    let texts: Vec<String> = answers.iter().map(Value::to_string).collect();
    let answers: Vec<(u16, &str)> = texts.iter().map(|text| (200, text.as_str())).collect();
    let server = StandIn::answering(&answers);
    let printed = printed(&format!("{line} --server={}", server.url()));
    (printed, server.asked())
}

fn path_of(folder: &tempfile::TempDir) -> &str {
    folder.path().to_str().unwrap()
}

#[test]
fn check_counts_what_there_is_in_the_singular_and_the_plural() {
    let shop = folder(SHOP);
    assert_eq!(
        printed(&format!("check {}", path_of(&shop))),
        "ok: 1 gateway, 1 service, 2 APIs, 1 plan, 0 tenants, 0 lists of rate limits\n"
    );
    let more = folder("{kind: Plan, name: gold, limits: [{rate: 1/m}]}");
    let together = printed(&format!("check {} {}", path_of(&shop), path_of(&more)));
    assert!(together.contains("2 plans"), "{together}");
}

#[test]
fn a_compiled_gateway_is_the_same_in_both_forms_and_asks_the_limiters_that_are_named() {
    let shop = folder(SHOP);
    let compile = |flags: &str| printed(&format!("compile {} {flags}", path_of(&shop)));
    let yaml: Value = serde_yaml::from_str(&compile("")).unwrap();
    let json: Value = serde_json::from_str(&compile("--output=json")).unwrap();
    assert_eq!(yaml, json);
    assert_eq!(compile("--gateway=edge"), compile(""));
    let named = compile("--rls-advertise=10.0.0.7:8081,10.0.0.8:8082");
    for address in ["10.0.0.7", "10.0.0.8", "port_value: 8082"] {
        assert!(named.contains(address), "{address}");
    }
}

#[test]
fn a_bootstrap_names_the_server_and_the_node() {
    let shop = folder(SHOP);
    let flags = format!("--policies={} --server=tierflow.internal:18000 --node-id=edge-7", path_of(&shop));
    let bootstrap: Value = serde_yaml::from_str(&printed(&format!("bootstrap --gateway=edge {flags}"))).unwrap();
    assert_eq!(bootstrap["node"]["id"], "edge-7");
    assert_eq!(bootstrap["node"]["cluster"], "edge");
    let text = bootstrap["static_resources"].to_string();
    assert!(text.contains("tierflow.internal") && text.contains("18000"), "{text}");
}

#[test]
fn an_explanation_tells_the_way_of_a_request_and_its_counters() {
    let shop = folder(SHOP);
    let explain = |flags: &str| printed(&format!("explain {} {flags}", path_of(&shop)));
    let told = explain("--method=POST --path=/create?a=b --header=X-Tenant-Id=acme --client-ip=10.0.0.9");
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(
        lines,
        [
            "gateway  edge",
            "path     /create?a=b",
            "api      create -> service order",
            "tenant   acme",
            "limits   TIER    LIMIT                    RATE       COUNTED BY          ALGORITHM       MODE            COST",
            "limits   api     api-minute-by-client_ip  10/minute  client_ip=10.0.0.9  sliding_window  enforce, exact  1",
            "limits   api     api-hour-shadow          9/hour     -                   sliding_window  shadow          3",
            "limits   tenant  tenant-hour              100/hour   -                   sliding_window  enforce         1",
        ]
    );
    let other_method = "gateway  edge\npath     /create\napi      none: 404\nnot      api create: takes POST only\n";
    assert_eq!(explain("--path=/create"), other_method);
    let refused = explain("--path=/%2e%2e/a --method=BREW");
    assert_eq!(refused, "gateway  edge\nanswer   400: Envoy takes no such method over HTTP/1.1\n");
    let denied = explain("--method=POST --path=/create");
    assert!(denied.contains("\ndenied   ") && !denied.contains("limits"), "{denied}");
    let asked = "--method=OPTIONS --header=origin=https://shop.example --header=access-control-request-method=POST";
    let preflight = explain(&format!("--path=/create {asked}"));
    assert!(preflight.ends_with("answer   by Envoy, to a preflight: nothing is counted\n"), "{preflight}");
    // A host is one, whichever way it is told.
    let by_flag = explain("--path=/host --host=shop.example --header=x-tenant-id=acme");
    assert!(by_flag.contains("api      host -> service order\n"), "{by_flag}");
    assert_eq!(explain("--path=/host --header=Host=shop.example --header=x-tenant-id=acme"), by_flag);
}

#[test]
fn policies_are_explained_with_what_a_server_has_left_of_their_limits() {
    let shop = folder(SHOP);
    let asked = "--method=POST --path=/create?a=b --header=X-Tenant-Id=acme --client-ip=10.0.0.9";
    let explain = format!("explain {} {asked}", path_of(&shop));
    let here: Value = serde_json::from_str(&printed(&format!("{explain} --output=json"))).unwrap();
    let with = |used: [u32; 3]| {
        let mut served = here[0].clone();
        for (limit, used) in served["limits"].as_array_mut().unwrap().iter_mut().zip(used) {
            let left = limit["capacity"].as_u64().unwrap() - u64::from(used);
            let live = json!({"used": used, "remaining": left, "frees_after_seconds": 2.5, "allows": left > 0});
            limit.as_object_mut().unwrap().extend(live.as_object().unwrap().clone());
        }
        served
    };
    let (told, sent) = printed_of(&format!("{explain} --gateway=edge"), &[json!({"explanations": [with([3, 0, 7])]})]);
    let sent: Value = serde_json::from_str(&sent[0].body).unwrap();
    assert_eq!((&sent["gateway"], &sent["path"]), (&json!(null), &json!("/create?a=b")));
    let rows: Vec<Vec<&str>> = told.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[4][9..], ["USED", "LEFT", "MORE", "IN"], "{told}");
    assert_eq!(
        (rows[5][9..].to_vec(), rows[7][8..].to_vec()),
        (vec!["3", "7", "2.5", "s"], vec!["7", "93", "2.5", "s"])
    );
    assert!(told.ends_with("now      such a request would be admitted\n"), "{told}");
    let (told, _) = printed_of(&explain, &[json!({"explanations": [with([10, 9, 0])]})]);
    assert!(told.ends_with("would be denied by api-minute-by-client_ip\n"), "the one in shadow denies nothing: {told}");
    let mut other = with([10, 0, 7]);
    other["limits"][2]["rate"] = json!("90/hour");
    let (told, _) = printed_of(&explain, &[json!({"explanations": [other]})]);
    assert!(told.contains("enforce         1     -     -     -\n"), "{told}");
    let (told, _) = printed_of(&explain, &[json!({"explanations": []})]);
    let unknown = "api-minute-by-client_ip and api-hour-shadow and tenant-hour";
    assert!(told.ends_with(&format!("not known: the server does not have {unknown} as it is here\n")), "{told}");
}

#[test]
fn without_a_gateway_that_is_named_a_request_is_explained_for_each() {
    let two = folder(&[gateway("shop", 1), gateway("edge", 2)].concat());
    let explain = |flags: &str| printed(&format!("explain {} --path=/ {flags}", path_of(&two)));
    let of = |gateway: &str| format!("gateway  {gateway}\npath     /\napi      none: 404\n");
    assert_eq!(explain(""), format!("{}\n{}", of("edge"), of("shop")));
    assert_eq!(explain("--gateway=shop"), of("shop"));
    let json: Value = serde_json::from_str(&explain("--output=json")).unwrap();
    let yaml: Value = serde_yaml::from_str(&explain("--output=yaml")).unwrap();
    assert_eq!((json.as_array().map(Vec::len), &json), (Some(2), &yaml));
}

#[test]
fn documents_are_listed_by_kind_and_one_is_shown_as_it_is_written() {
    let row = |kind: &str, name: &str, refused: Value| json!({"kind": kind, "name": name, "revision": 7, "origin": "o", "served": true, "refused": refused});
    let answer = json!({"documents": [row("Plan", "gold", json!(null)), row("Tenant", "acme", json!([])), {"origin": "p.yaml:1", "served": false}]});
    let (all, asked) = printed_of("get", std::slice::from_ref(&answer));
    assert_eq!(asked[0].line, "GET /v1/policies?limit=1000");
    assert_eq!(all.lines().count(), 4);
    assert!(all.ends_with("-       -     -         refused                                   p.yaml:1\n"), "{all}");
    let plan = json!({"generation": 3, "documents": [row("Plan", "gold", json!(null))]});
    let (plans, asked) = printed_of("get plan", std::slice::from_ref(&plan));
    assert_eq!(plans, "KIND  NAME  REVISION  STATE   ORIGIN\nPlan  gold  7         served  o\n");
    assert_eq!(asked[0].line, "GET /v1/policies?limit=1000&kind=Plan");
    let (json, _) = printed_of("get plan --output=json", std::slice::from_ref(&plan));
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), plan, "the whole answer");
    let one = json!({"kind": "Tenant", "name": "a/b", "revision": 7, "origin": "o", "served": true, "text": "x: 1"});
    let (text, asked) = printed_of("get tenant a/b", std::slice::from_ref(&one));
    assert_eq!((&*text, &*asked[0].line), ("# base version 7\nx: 1\n", "GET /v1/policies/Tenant/a%2Fb"));
    let (yaml, _) = printed_of("get tenant a/b --output=yaml", std::slice::from_ref(&one));
    assert_eq!(serde_yaml::from_str::<Value>(&yaml).unwrap(), one);
}

#[test]
fn a_list_in_pages_is_asked_for_to_its_end() {
    let page = |name: &str, next: Value| {
        let row = json!({"kind": "Plan", "name": name, "revision": 7, "origin": "o", "served": true});
        json!({"generation": 3, "documents": [row], "next": next})
    };
    let (table, asked) = printed_of("get", &[page("a", json!("x=")), page("b", json!("y")), page("c", json!(null))]);
    assert_eq!(table.lines().skip(1).map(|line| &line[6..7]).collect::<String>(), "abc");
    let lines: Vec<&str> = asked.iter().map(|asked| asked.line.as_str()).collect();
    let first = "GET /v1/policies?limit=1000";
    assert_eq!(lines, [first.to_owned(), format!("{first}&after=x%3D"), format!("{first}&after=y")]);
    let (json, asked) = printed_of("get --output=json", &[page("a", json!("x")), page("b", json!("x"))]);
    let all: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((all["documents"].as_array().map(Vec::len), asked.len()), (Some(2), 2), "a page that leads to itself");
    assert_eq!((&all["generation"], all.get("next")), (&json!(3), None));
}

#[test]
fn a_change_tells_its_revision_and_what_is_not_served_yet() {
    let done = |change: Value| {
        let mut answer = json!({"revision": 9, "replayed": false, "shown": true, "waiting": []});
        answer.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        printed_of("delete Plan gold --base=1", &[answer]).0
    };
    assert_eq!(done(json!({})), "done at revision 9\n");
    assert_eq!(done(json!({"replayed": true})), "was done before, at revision 9\n");
    assert_eq!(done(json!({"shown": false})), "done at revision 9, which this replica does not show yet\n");
    let problem = |message: &str| json!({"location": "l", "path": "p", "message": message, "help": null});
    let waiting = json!([
        {"kind": "Api", "name": "a", "served": false, "problems": [problem("no Service"), problem("no Gateway")]},
        {"kind": "Api", "name": "b", "served": true, "problems": [problem("no Service")]},
    ]);
    assert_eq!(
        done(json!({"waiting": waiting})),
        "done at revision 9\n\
         Api a waits, and is not served until then: no Service; no Gateway\n\
         Api b waits, and its version before is served until then: no Service\n"
    );
}

fn status(change: Value) -> Value {
    let mut status = json!({
        "at": "2026-11-29T07:00:00.000Z", "generation": 41, "revision": 812, "documents": 12, "refused": [], "held": [],
        "counters": {"store": "memory"},
        "source": {"place": "etcd", "lag_seconds": 0.4, "trouble": null, "serves_last_good_of_earlier_run": false},
        "nodes": {
            "states": {"SYNCED": 2}, "connected": 2, "live": 2, "refusing": 0, "late": 0,
            "selected_by_no_gateway": 0, "behind": [], "too_old": [],
        },
    });
    status.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    status
}

/// The exit code alone tells, after what was printed.
fn unwell(change: Value) -> String {
    let answer = status(change).to_string();
    let server = StandIn::answering(&[(200, &answer)]);
    let Ended { result, out, err } = run(&format!("status --server={}", server.url()));
    server.asked();
    assert_eq!((result, &*err), (Err(String::new()), ""), "{out}");
    out.split_once('\n').unwrap().1.to_owned()
}

#[test]
fn a_status_that_is_well_is_a_success_in_any_form() {
    let (table, _) = printed_of("status", &[status(json!({}))]);
    let expected = "generation 41 (revision 812) is live on 2 of 2 Envoys\n12 documents from etcd, heard 0.4 s ago\n";
    assert_eq!(table, expected);
    let (json, _) = printed_of("status --output=json", &[status(json!({}))]);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), status(json!({})));
    let (yaml, _) = printed_of("status --output=yaml", &[status(json!({}))]);
    assert_eq!(serde_yaml::from_str::<Value>(&yaml).unwrap(), status(json!({})));
}

#[test]
fn a_status_says_what_is_refused_held_or_behind_and_why() {
    let refused = json!([
        {"kind": "Api", "name": "a", "origin": "p.yaml:3", "problems": [{"location": "p.yaml:3:7", "message": "no Service"}]},
        {"kind": "Plan", "name": "b", "deleted": true},
    ]);
    assert_eq!(
        unwell(json!({"refused": refused})),
        "12 documents from etcd, heard 0.4 s ago\n\n\
         refused document: Api a (p.yaml:3)\n  p.yaml:3:7: no Service\n\n\
         refused document: Plan b (deleted)\n"
    );
    let reason = json!({"node": "edge-1", "type": "routes", "resources": ["edge", "side"], "message": "bad\u{1b}[2J", "since": "10:00"});
    let held = json!([
        {"gateway": "edge", "documents": [{"kind": "Api", "name": "a"}], "reasons": [reason]},
        {"gateway": "side", "documents": [], "reasons": []},
    ]);
    let told = unwell(json!({"held": held}));
    assert!(
        told.contains("\nheld for gateway edge: Api a\n  edge-1 refused routes edge, side at 10:00: bad"),
        "{told}"
    );
    assert!(told.contains("\nheld for gateway side: everything\n"), "{told}");
    assert!(!told.contains('\u{1b}'), "an Envoy's words do not reach the terminal as they are");
    let behind = json!([{
        "id": "edge-1", "groups": ["edge", "side"], "state": "REFUSED", "reason": "routes: bad\u{1b}[2J",
        "since": "2026-11-29T06:59:00.000Z", "generation": 40,
    }]);
    let nodes = json!({
        "states": {"REFUSED": 1}, "connected": 2, "live": 0, "refusing": 1, "late": 1, "selected_by_no_gateway": 1,
        "behind": behind, "too_old": [],
    });
    let told = unwell(json!({"nodes": nodes}));
    assert!(told.contains("STATE    FOR  NODE    HAS            GATEWAYS   REASON\n"), "{told}");
    assert!(told.contains("REFUSED  1m   edge-1  generation 40  edge,side  routes: bad"), "{told}");
    assert!(!told.contains('\u{1b}'), "neither an Envoy's words nor a colour where nobody sees one");
    let source = json!({
        "place": null, "lag_seconds": null, "trouble": "timed out", "serves_last_good_of_earlier_run": true,
    });
    assert_eq!(
        unwell(json!({"source": source})),
        "12 documents from the source, not heard yet; what is served is the last good set of an earlier run; timed out\n"
    );
}

#[test]
fn a_status_says_what_its_lists_leave_out() {
    let refused = json!([{"kind": "Plan", "name": "b", "deleted": true}]);
    let told = unwell(json!({"refused": refused, "refused_more": 9}));
    assert!(told.ends_with("\nand 9 more refused documents, which `tierflow get` lists\n"), "{told}");
    let held =
        json!([{"gateway": "edge", "documents": [{"kind": "Api", "name": "a"}], "documents_more": 3, "reasons": []}]);
    let told = unwell(json!({"held": held, "held_more": 2}));
    assert!(told.contains("held for gateway edge: Api a and 3 more\n\nand 2 more gateways that are held\n"), "{told}");
}

#[test]
fn names_that_somebody_wrote_into_etcd_do_not_reach_the_terminal_as_they_are() {
    let document = json!({"kind": "Tenant", "name": "a\u{1b}[2J", "origin": "/t/a\u{1b}[2J", "problems": [
        {"location": "/t/a\u{1b}[2J:1:1", "message": "is called a\u{1b}[2J"},
    ]});
    let held = json!([{"gateway": "edge", "documents": [document], "reasons": []}]);
    for change in [json!({"refused": [document]}), json!({"held": held})] {
        let told = unwell(change);
        assert!(!told.contains('\u{1b}'), "{told:?}");
    }
}

#[test]
fn an_envoy_that_is_too_old_is_told_with_what_it_does_not_know() {
    let need = json!({
        "feature": "f", "since": "1.40", "older": "ignores", "documents": ["Api a", "Api b"], "others": 3,
    });
    let too_old = json!([{"id": "edge-1", "envoy": "1.36.4", "too_old_for": [need]}]);
    let nodes = json!({
        "states": {"SYNCED": 1}, "connected": 1, "live": 1, "refusing": 0, "late": 0, "selected_by_no_gateway": 0,
        "behind": [], "too_old": too_old,
    });
    let (told, _) = printed_of("status", &[status(json!({"nodes": nodes}))]);
    let expected = "\ntoo old: edge-1, which is Envoy 1.36.4\n  \
                    ignores f, which Envoy has since 1.40: Api a, Api b and 3 more\n";
    assert!(told.ends_with(expected), "{told}");
}

fn counter(change: Value) -> Value {
    let mut counter = json!({
        "gateway": "edge", "api": "create", "tenant": null, "tier": "api", "limit": "l", "rate": "10/minute",
        "mode": "enforce", "by": [], "missing": [], "used": 3, "remaining": 7, "frees_after_seconds": 0.0,
    });
    counter.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    counter
}

#[test]
fn counters_are_asked_for_page_by_page_and_shown_in_one_table() {
    let by = json!([{"dimension": "client_ip", "value": "10.0.0.7"}, {"dimension": "header.x", "value": null}]);
    let pages = [
        json!({"counters": [counter(json!({}))], "next_offset": 1}),
        json!({"counters": [counter(json!({"mode": "shadow", "frees_after_seconds": 2.25, "api": null}))], "next_offset": 2}),
        json!({"counters": [counter(json!({
            "by": by, "missing": ["header.x"], "used": null, "remaining": null, "frees_after_seconds": null,
        }))], "next_offset": null}),
    ];
    let flags = "--gateway=edge --api=create --tenant=a&b --limit=l --tier=api --key=client_ip=10.0.0.7 --key=query.q=";
    let (table, asked) = printed_of(&format!("counters {flags}"), &pages);
    let lines: Vec<&str> = asked.iter().map(|asked| asked.line.as_str()).collect();
    let first = "GET /v1/counters?gateway=edge&api=create&tenant=a%26b&limit=l&tier=api&client_ip=10.0.0.7&query.q=";
    assert_eq!(lines, [first.to_owned(), format!("{first}&offset=1"), format!("{first}&offset=2")]);
    assert_eq!(
        table.lines().collect::<Vec<_>>(),
        [
            "GATEWAY  TIER  API     TENANT  LIMIT       RATE       COUNTED BY                     USED  LEFT  MORE IN",
            "edge     api   create  -       l           10/minute  -                              3     7     -",
            "edge     api   -       -       l (shadow)  10/minute  -                              3     7     2.2 s",
            "edge     api   create  -       l           10/minute  client_ip=10.0.0.7 header.x=?  -     -     needs header.x",
        ]
    );
    // Pages that do not go on are the last, whatever the server says.
    let page = |next: u64| json!({"counters": [counter(json!({}))], "next_offset": next});
    for (pages, asked) in [(vec![page(0)], 1), (vec![page(1), page(1)], 2)] {
        let (json, lines) = printed_of("counters --output=json", &pages);
        let seen = serde_json::from_str::<Value>(&json).unwrap();
        assert_eq!((seen.as_array().map(Vec::len), lines.len()), (Some(asked), asked));
    }
}

#[test]
fn counters_are_reset_only_by_whoever_says_so() {
    let done = json!({"counters": [1, 2, 3], "reset": 2});
    let (told, asked) = printed_of("counters reset --yes --tenant=acme", std::slice::from_ref(&done));
    assert_eq!(told, "3 counters are at zero now, 2 of which had counted something\n");
    assert_eq!(asked[0].line, "DELETE /v1/counters?tenant=acme");
    let (json, _) = printed_of("counters reset -y --output=json", std::slice::from_ref(&done));
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), done);

    let nobody = "standard input is no terminal, so that nobody can be asked: say --yes";
    assert_eq!(failure("counters reset --tenant=acme --server=127.0.0.1:1"), nobody);

    let meant = json!({"counters": [counter(json!({})), counter(json!({"missing": ["header.x"]}))]}).to_string();
    let done = done.to_string();
    for (answer, is_done) in
        [("y\n", true), (" YES \n", true), ("\n", false), ("", false), ("no\n", false), ("yess\n", false)]
    {
        let answers = [(200, meant.as_str()), (200, done.as_str())];
        let server = StandIn::answering(&answers[..1 + usize::from(is_done)]);
        let ended = run_asked(&format!("counters reset --tenant=acme --server={}", server.url()), Some(answer));
        let expected = if is_done { Ok(()) } else { Err("nothing was reset".to_owned()) };
        assert_eq!(ended.result, expected, "{answer:?}");
        assert!(ended.err.ends_with("Forget what these 1 counters have counted? [y/N]\n"), "{}", ended.err);
        assert_eq!(server.asked().len(), 1 + usize::from(is_done));
    }
}

#[test]
fn the_schema_knows_every_kind_and_is_the_same_in_both_forms() {
    let json: Value = serde_json::from_str(&printed("schema")).unwrap();
    let yaml: Value = serde_yaml::from_str(&printed("schema --output=yaml")).unwrap();
    assert_eq!(json, yaml);
    for kind in crate::names::Kind::ALL {
        assert!(json.to_string().contains(kind.as_str()), "{kind}");
    }
}

#[test]
fn every_verb_has_a_manual_page_that_tells_of_its_flags() {
    let folder = tempfile::tempdir().unwrap();
    printed(&format!("man {}", path_of(&folder)));
    let page = |name: &str| std::fs::read_to_string(folder.path().join(format!("{name}.1"))).unwrap();
    assert!(page("tierflow").contains("tierflow\\-serve(1)"));
    for verb in Cli::command().get_subcommands() {
        let page = page(&format!("tierflow-{}", verb.get_name()));
        for flag in verb.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(page.contains(&format!("\\-\\-{}", flag.replace('-', "\\-"))), "{} --{flag}", verb.get_name());
        }
    }
    let missing = format!("{}/share/man", path_of(&folder));
    assert_eq!(run(&format!("man {missing}")).result, Ok(()));
    let in_a_file = format!("{missing}/tierflow.1");
    assert!(std::fs::metadata(&in_a_file).unwrap().is_file());
    assert!(failure(&format!("man {in_a_file}")).starts_with(&in_a_file));
}

#[test]
fn every_shell_is_told_how_to_ask_for_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = printed(&format!("completions {shell}"));
        assert!(script.contains("TIERFLOW_COMPLETE") && script.contains("tierflow"), "{shell}: {script}");
    }
}

#[test]
fn fmt_writes_what_has_another_form_and_check_says_which_that_is() {
    let shop = folder("{kind: Plan,   name: a, limits: [{rate: 1/m}]}\n");
    let file = |name: &str| shop.path().join(name);
    std::fs::write(file("good.yml"), "# Good.\nkind: Tenant\nname: acme\nplan: a\n").unwrap();
    std::fs::write(file("x.json"), "{\"kind\":   \"Tenant\", \"name\": \"b\", \"plan\": \"a\"}").unwrap();
    let others = format!("{}\n", file("p.yaml").to_str().unwrap());
    let check = || run(&format!("fmt --check {}", path_of(&shop)));
    let ended = check();
    assert_eq!((ended.result, ended.out), (Err("1 text not in the form of `tierflow fmt`".to_owned()), others.clone()));
    assert_eq!(printed(&format!("fmt {}", path_of(&shop))), others);
    assert_eq!(std::fs::read_to_string(file("p.yaml")).unwrap(), "{ kind: Plan, name: a, limits: [{ rate: 1/m }] }\n");
    assert_eq!((check().result, check().out), (Ok(()), String::new()));
    assert_eq!(std::fs::read_dir(shop.path()).unwrap().count(), 3, "nothing is left beside them");

    std::fs::write(file("broken.yaml"), "kind: [").unwrap();
    let ended = run(&format!("fmt {}", path_of(&shop)));
    assert_eq!(ended.result, Err("1 text cannot be formatted, and not changed".to_owned()));
    let place = format!("--> {}:1:7\n", file("broken.yaml").to_str().unwrap());
    assert!(ended.err.contains(&place), "{}", ended.err);
    assert_eq!(std::fs::read_to_string(file("broken.yaml")).unwrap(), "kind: [");
    assert!(failure("fmt /nonexistent/policies").contains("/nonexistent/policies"));
}

#[test]
fn a_warning_about_a_file_is_told_and_is_no_failure() {
    let shop = folder(SHOP);
    std::fs::write(shop.path().join("notes.txt"), "x").unwrap();
    let Ended { result, out, err } = run(&format!("check {}", path_of(&shop)));
    assert!(result.is_ok() && out.starts_with("ok: "), "{err}");
    for line in err.lines() {
        assert!(line.starts_with("warning: "), "{line}");
    }
}

/// Clears the screen, colours what follows, turns its direction and rings the bell.
const HOSTILE: &str = "x\u{1b}[2J\u{9b}31m\u{202e}\u{7}";

/// Of what comes from a server; a name or a value in a file is refused or shown by the same functions.
#[test]
fn nothing_that_a_server_says_does_anything_to_a_terminal() {
    let limit = json!({
        "tier": HOSTILE, "name": HOSTILE, "rate": HOSTILE, "by": [HOSTILE], "algorithm": HOSTILE, "mode": HOSTILE, "cost": 1,
        "exact": false, "used": 1, "remaining": 0, "frees_after_seconds": 1.0,
    });
    let explained = |answer: Value, path: &str| {
        json!({"explanations": [{
            "gateway": HOSTILE, "identities": [HOSTILE], "answer": answer, "path": path, "api": HOSTILE, "service": HOSTILE,
            "preflight": false, "tenant": HOSTILE, "denied": null, "denied_by": [HOSTILE], "limits": [limit],
            "passed_over": [{"what": HOSTILE, "name": HOSTILE, "reason": HOSTILE}],
        }]})
    };
    let refused = json!({"status": 400, "reason": HOSTILE, "location": HOSTILE});
    let document = json!({
        "kind": HOSTILE, "name": HOSTILE, "revision": 7, "origin": HOSTILE, "served": true, "refused": null, "text": HOSTILE,
    });
    let source =
        json!({"place": HOSTILE, "lag_seconds": 0.4, "trouble": null, "serves_last_good_of_earlier_run": false});
    let nodes = json!({
        "states": {}, "connected": 0, "live": 0, "refusing": 0, "late": 0, "selected_by_no_gateway": 0, "behind": [],
        "too_old": [{"id": HOSTILE, "envoy": HOSTILE, "too_old_for": [
            {"feature": HOSTILE, "since": HOSTILE, "older": HOSTILE, "documents": [HOSTILE], "others": 0},
        ]}],
    });
    let busy = json!({
        "since": HOSTILE, "exact": true, "tenants": [{"gateway": HOSTILE, "tenant": HOSTILE, "decisions": 1, "denied": 0}],
        "keys": [{"gateway": HOSTILE, "api": HOSTILE, "tier": HOSTILE, "limit": HOSTILE, "tenant": HOSTILE,
                  "key": [HOSTILE], "shadow": false, "decisions": 1, "denied": 0}],
    });
    let waiting = json!([{"kind": HOSTILE, "name": HOSTILE, "served": false, "problems": [
        {"location": HOSTILE, "path": HOSTILE, "message": HOSTILE, "help": null},
    ]}]);
    let cases = [
        ("explain --path=/", explained(json!(null), HOSTILE)),
        ("explain --path=/", explained(json!(null), "/\ngateway  other")),
        ("explain --path=/", explained(refused, "/")),
        ("get", json!({"documents": [document]})),
        ("get tenant x", document.clone()),
        ("status", status(json!({"source": source, "nodes": nodes}))),
        ("top", busy),
        ("counters", json!({"counters": [counter(json!({"tenant": HOSTILE, "limit": HOSTILE}))], "next_offset": null})),
    ];
    let is_harmless = |c: char| c == '\n' || !(c.is_control() || c == '\u{202e}');
    for (verb, answer) in &cases {
        for form in ["table", "json"] {
            let (told, _) = printed_of(&format!("{verb} --output={form}"), std::slice::from_ref(answer));
            assert!(told.contains("x") && told.chars().all(is_harmless), "{verb} --output={form}: {told:?}");
            assert!(!told.contains("\ngateway  other"), "a value is no line: {told}");
        }
        let (json, _) = printed_of(&format!("{verb} --output=json"), std::slice::from_ref(answer));
        let meant: Value = serde_json::from_str(&json).unwrap();
        let whole =
            [&answer["explanations"], &answer["counters"]].into_iter().any(|part| *part == meant) || meant == *answer;
        assert!(whole, "{verb}: {json}");
    }
    let done = json!({"revision": 9, "replayed": false, "shown": true, "waiting": waiting});
    let (told, _) = printed_of("delete Plan gold --base=1", &[done]);
    assert!(told.chars().all(is_harmless), "{told:?}");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let colours = Colours::default();
    Streams { answers: None, out: &mut out, err: &mut err, is_watched: false, colours }.complain(HOSTILE);
    assert!(String::from_utf8(err).unwrap().chars().all(is_harmless), "what is wrong is told the same way");
}
