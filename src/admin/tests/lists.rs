//! What was changed, what was decided, and the limits: each in pages, and never more than so much.

use std::time::Duration;

use super::*;
use crate::audit::{Entry, Outcome};
use crate::counters::OnError;
use crate::explain::counters::{Selection, counters};
use crate::limiter::Charge;
use crate::metrics::Decided;

/// All rows of a list, page by page; and how many there were of each.
async fn pages(world: &World, path: &str, list: &str, parameter: &str) -> (Vec<Value>, Vec<usize>) {
    let (mut rows, mut sizes, mut next) = (Vec::new(), Vec::new(), String::new());
    loop {
        let mut page = world.json(&format!("{path}{next}")).await;
        let Value::Array(own) = page[list].take() else { panic!("{page}") };
        sizes.push(own.len());
        rows.extend(own);
        match page.get("next") {
            Some(cursor) => next = format!("&{parameter}={}", cursor.as_str().unwrap()),
            None => return (rows, sizes),
        }
    }
}

#[tokio::test]
async fn questions_for_pages_that_make_no_sense_say_what_was_expected() {
    let world = World::shop();
    for (path, words) in [
        ("/v1/audit?limit=0", "limit: found 0, expected 1 to 1000"),
        ("/v1/audit?limit=1001", "limit: found 1001, expected 1 to 1000"),
        ("/v1/audit?limit=many", "limit: found \"many\", expected a whole number of 1 to 1000"),
        ("/v1/audit?before=yesterday", "before: found \"yesterday\", expected the `next` of the page before"),
        ("/v1/audit?since=1", "unknown parameter \"since\"; expected limit, before"),
        ("/v1/limits?limit=0", "limit: found 0, expected 1 to 1000"),
        ("/v1/limits?after=WzFd", "after: found \"WzFd\", expected the `next` of the page before"),
        // Well formed, and of no limit: ["a","b","c","d"].
        ("/v1/limits?after=WyJhIiwiYiIsImMiLCJkIl0", "after: found"),
        ("/v1/limits?tenant=a", "unknown parameter \"tenant\"; expected gateway, api, "),
    ] {
        let (status, detail) = problem(&world.get(path).await);
        assert_eq!(status, 400, "{path}: {detail}");
        assert!(detail.contains(words), "{path}: {detail}");
    }
    assert_eq!(problem(&World::new().get("/v1/limits").await).0, 503);
}

#[tokio::test]
async fn changes_are_told_newest_first_with_what_came_of_them() {
    let world = World::shop();
    assert_eq!(world.json("/v1/audit").await, json!({ "entries": [] }));
    for change in 0..25 {
        let entry = Entry {
            change: format!("c{change}"),
            who: "ann".to_owned(),
            what: vec!["put Api pay".to_owned()],
            base: Some(7),
            force: None,
            result: None,
        };
        let at = Timestamp::from_nanos(1_500_000_000 + change);
        world.admin.audit.note(&entry, at).await.unwrap();
        if change < 24 {
            world.admin.audit.note(&Entry { result: Some(Outcome::Revision(8)), ..entry }, at).await.unwrap();
        }
    }
    let (entries, sizes) = pages(&world, "/v1/audit?limit=10", "entries", "before").await;
    assert_eq!(sizes, [10, 10, 5]);
    let names: Vec<_> = entries.iter().map(|entry| entry["change"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, (0..25).rev().map(|change| format!("c{change}")).collect::<Vec<_>>());
    assert_eq!(entries[0]["result"], json!(null), "it is under way");
    let expected = json!({
        "at": "1970-01-01T00:00:01.500Z", "change": "c23", "who": "ann", "what": ["put Api pay"], "what_more": 0, "base": 7,
        "force": null, "result": { "revision": 8 },
    });
    assert_eq!(entries[1], expected);
}

/// With policies from files too: what was forgotten of counters is a change.
#[tokio::test]
async fn counters_that_were_reset_are_among_the_changes() {
    let world = World::shop();
    assert_eq!(world.send("DELETE", "/v1/counters?api=create&tier=api", &[], "").await.status, 200);
    let entry = &world.json("/v1/audit").await["entries"][0];
    assert_eq!((&entry["who"], &entry["result"]), (&json!("loopback"), &json!({ "reset": 0 })));
    assert_eq!(entry["what"], json!(["reset api limit api-minute of Gateway edge, Api create"]));
}

/// More people read what is noted than may have what a client shows.
#[tokio::test]
async fn what_is_noted_of_a_counter_has_no_credentials_in_it() {
    let by = "{name: one, rate: 10/m, by: [{header: authorization}, {cookie: session}, {header: x-user}]}";
    let mut world = World::shop();
    world.load(&SHOP.replace("{rate: 10/m}", by));
    let query = "api=create&limit=one&header.authorization=s3cret-a&cookie.session=s3cret-b&header.x-user=ann";
    let answer = world.send("DELETE", &format!("/v1/counters?{query}"), &[], "").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let what = world.json("/v1/audit").await["entries"][0]["what"][0].to_string();
    let hash = crate::names::credential::Concealed::of(b"s3cret-a").unwrap();
    assert!(what.contains(hash.as_str()) && what.contains("=ann") && !what.contains("s3cret"), "{what}");
    assert!(!answer.text.contains("s3cret"), "{}", answer.text);
}

fn count(metrics: &Metrics, api: &str, limit: Option<(&'static str, &str)>, result: &'static str) {
    let [gateway, api] = ["edge", api].map(Name::parse);
    let name = limit.and_then(|(_, limit)| Name::parse(limit));
    let tier = limit.map_or("", |(tier, _)| tier);
    metrics.decisions.count(&Decided {
        gateway: gateway.as_ref(),
        api: api.as_ref(),
        tier,
        limit: name.as_ref(),
        result,
    });
}

#[tokio::test]
async fn traffic_is_told_second_by_second() {
    let world = World::shop();
    let Admin { metrics, traffic, .. } = &world.admin;
    let take = |seconds: u64| traffic.take(metrics.totals(), Timestamp::from_nanos(seconds * 1_000_000_000));
    take(10);
    assert_eq!(world.json("/v1/traffic").await, json!({ "seconds": [] }));
    count(metrics, "create", None, "ok");
    count(metrics, "create", None, "denied");
    metrics.decision_seconds.observe(Duration::from_micros(100));
    take(11);
    take(12);
    let expected = json!({ "seconds": [
        { "at": "1970-01-01T00:00:10.000Z", "decisions": 2, "denied": 1, "failed": 0, "p99_us": 128 },
        { "at": "1970-01-01T00:00:11.000Z", "decisions": 0, "denied": 0, "failed": 0 },
    ]});
    assert_eq!(world.json("/v1/traffic").await, expected);
}

#[tokio::test]
async fn every_limit_is_told_with_what_it_denied() {
    let world = World::shop();
    let metrics = &world.admin.metrics;
    let (of_api, of_tenant) = (Some(("api", "api-minute")), Some(("tenant", "tenant-hour-by-client_ip")));
    for (limit, result) in [(of_api, "over_limit"), (of_tenant, "over_limit"), (None, "denied"), (None, "ok")] {
        count(metrics, "create", limit, result);
    }
    count(metrics, "gone", of_tenant, "over_limit");
    count(metrics, "gone", None, "denied");
    let all = world.json("/v1/limits").await;
    let expected = json!([
        {
            "gateway": "edge", "api": null, "tier": "tenant", "limit": "tenant-hour-by-client_ip", "rate": "100/hour",
            "algorithm": "sliding_window", "mode": "enforce", "documents_more": 0, "counter": null,
            "documents": [{
                "kind": "Plan", "name": "standard", "rate": "100/hour", "algorithm": "sliding_window", "mode": "enforce",
            }],
            "over_limit": 2, "shadow_over_limit": 0, "decisions": 3,
        },
        {
            "gateway": "edge", "api": "create", "tier": "api", "limit": "api-minute", "rate": "10/minute",
            "algorithm": "sliding_window", "mode": "enforce", "documents_more": 0,
            "counter": { "missing": [], "used": 0, "remaining": 10, "frees_after_seconds": 0.0 },
            "documents": [{
                "kind": "Api", "name": "create", "rate": "10/minute", "algorithm": "sliding_window", "mode": "enforce",
            }],
            "over_limit": 1, "shadow_over_limit": 0, "decisions": 2,
        },
    ]);
    assert_eq!((&all["limits"], all.get("next")), (&expected, None));
    for (query, count) in [
        ("gateway=edge", 2),
        ("api=create", 1),
        ("search=CREATE", 1),
        ("search=minute", 1),
        ("search=client_", 1),
        ("search=-&gateway=edge&api=create", 1),
        ("search=nothing", 0),
    ] {
        let found = world.json(&format!("/v1/limits?{query}")).await["limits"].as_array().unwrap().len();
        assert_eq!(found, count, "{query}");
    }
}

#[tokio::test]
async fn limits_come_in_pages_that_policies_do_not_move() {
    let mut world = World::shop();
    let api = |n: usize| {
        format!(
            "---\n{{kind: Api, name: a{n:04}, gateway: edge, match: {{path: /{n}}}, service: order, limits: [{{rate: 1/m}}]}}\n"
        )
    };
    let many = |numbers: std::ops::Range<usize>| format!("{SHOP}{}", numbers.map(api).collect::<String>());
    world.load(&many(0..1200));
    let names = |rows: &[Value]| -> Vec<Option<String>> {
        rows.iter().map(|row| row["api"].as_str().map(str::to_owned)).collect()
    };
    let (rows, sizes) = pages(&world, "/v1/limits?limit=1000", "limits", "after").await;
    assert_eq!(sizes, [1000, 202]);
    let names_of_all = names(&rows);
    assert!(names_of_all.is_sorted(), "and each comes once");
    let (found, sizes) = pages(&world, "/v1/limits?limit=5&search=a119", "limits", "after").await;
    assert_eq!((sizes, found.len()), (vec![5, 5], 10), "no page after the last row");
    // The row that a page ended with is gone, and others came before it.
    let page = world.json("/v1/limits?limit=100&search=a0").await;
    assert_eq!(names(page["limits"].as_array().unwrap()).last(), Some(&Some("a0099".to_owned())));
    world.load(&many(100..1200));
    let next = page["next"].as_str().unwrap();
    let page = world.json(&format!("/v1/limits?limit=100&search=a0&after={next}")).await;
    assert_eq!(names(page["limits"].as_array().unwrap()).first(), Some(&Some("a0100".to_owned())));
}

#[tokio::test]
async fn a_limit_of_an_api_is_told_with_what_is_left_of_its_counter() {
    let mut world = World::shop();
    world.load(&format!(
        "{SHOP}---\n{{kind: Api, name: pay, gateway: edge, match: {{path: /pay}}, service: order, \
         limits: [{{name: all, rate: 5/h}}, {{name: each, rate: 2/h, by: [client_ip, path]}}]}}\n"
    ));
    let generation = world.admin.generation().unwrap();
    let selection = Selection::parse([("api", "pay"), ("limit", "all")].into_iter()).unwrap();
    let named = counters(&generation.policies, &generation.matcher, &selection).unwrap();
    let charge = named[0].charge.unwrap();
    let charges = [Charge { hits: 3, ..charge }];
    world.admin.counters.admit(&charges, world.admin.clock.now(), OnError::Deny).await.unwrap();
    let rows = world.json("/v1/limits?api=pay").await["limits"].clone();
    let [all, each] = [&rows[0]["counter"], &rows[1]["counter"]];
    assert_eq!((&all["used"], &all["remaining"], &all["missing"]), (&json!(3), &json!(2), &json!([])));
    assert!(all["frees_after_seconds"].as_f64().unwrap() > 0.0, "{all}");
    let unknown =
        json!({ "missing": ["client_ip", "path"], "used": null, "remaining": null, "frees_after_seconds": null });
    assert_eq!(each, &unknown);
    // Without the store all else is told.
    world.admin.counters = Counters::Away;
    let rows = world.json("/v1/limits?api=pay").await["limits"].clone();
    assert_eq!((&rows[0]["rate"], &rows[0]["counter"]["used"]), (&json!("5/hour"), &json!(null)));
}

#[tokio::test]
async fn a_status_tells_of_so_many_refused_documents_and_the_number_of_the_others() {
    let mut world = World::shop();
    let broken: String =
        (0..150).map(|n| format!("---\n{{kind: Plan, name: p{n:03}, limits: [{{rate: often}}]}}\n")).collect();
    world.load(&format!("{SHOP}{broken}"));
    let status = world.json("/v1/status").await;
    assert_eq!((status["refused"].as_array().unwrap().len(), &status["refused_more"]), (100, &json!(50)));
    assert_eq!((&status["held"], &status["held_more"]), (&json!([]), &json!(0)));
    let (all, _) = pages(&world, "/v1/policies?refused=true&limit=100", "documents", "after").await;
    assert_eq!(all.len(), 150, "all of them are told there");
}

/// A hundred documents of the largest size that are refused for what is long in them.
#[tokio::test]
async fn texts_of_refused_documents_have_a_bound() {
    let mut world = World::shop();
    let name = |n: usize| format!("{n}{}", "n".repeat(250_000));
    let broken: String = (0..100).map(|n| format!("---\n{{kind: Tenant, name: {}, plan: {n}}}\n", name(n))).collect();
    world.load(&format!("{SHOP}{broken}"));
    for path in ["/v1/status", "/v1/policies?refused=true"] {
        let answer = world.json(path);
        assert!(answer.await.to_string().len() < 400_000, "{path}");
    }
    let page = world.json("/v1/policies?refused=true&limit=1").await;
    let shown = page["documents"][0]["name"].as_str().unwrap();
    assert!(shown.len() <= 512 && shown.ends_with(" bytes more)"), "{shown}");
    assert!(page["next"].as_str().unwrap().len() < 2048, "it goes into an address");
    let path = format!("/v1/policies/Tenant/{}", shown.replace(' ', "%20").replace('…', "%E2%80%A6"));
    assert_eq!(world.json(&path).await["name"], shown, "by the name that is shown it is found");
}

#[tokio::test]
async fn a_list_tells_the_first_problems_of_a_document_and_the_document_all() {
    let mut world = World::shop();
    let limits = "{rate: often}, ".repeat(40);
    world.load(&format!("{SHOP}---\n{{kind: Plan, name: gold, limits: [{limits}]}}\n"));
    for list in [
        world.json("/v1/status").await["refused"].take(),
        world.json("/v1/policies?refused=true").await["documents"].take(),
    ] {
        assert_eq!((list[0]["problems"].as_array().unwrap().len(), &list[0]["problems_more"]), (5, &json!(35)));
    }
    let one = world.json("/v1/policies/Plan/gold").await;
    assert_eq!((one["problems"].as_array().unwrap().len(), &one["problems_more"]), (40, &json!(0)));
}
