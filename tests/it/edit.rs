//! Changes through the admin API, into a real etcd: compared and set, checked, guarded, noted.

use etcd_client::CompactionOptions;
use serde_json::{Value, json};
use tierflow::etcd::EtcdSettings;
use tierflow::etcd::connection::Connection;
use tierflow::etcd::keys::Commit;
use tokio::task::JoinSet;

use crate::forgetful::{Front, Part};
use crate::harness::{Tierflow, any_addresses, eventually};
use crate::kit::client::{Answer, Client};
use crate::store::{Store, document, key, rate, serves_rate, source};

fn plan(rate: u32) -> String {
    document("Plan", "standard", &format!("{{limits: [{{rate: {rate}/h}}]}}"))
}

const PLAN: &str = "/v1/policies/Plan/standard";

async fn put(tierflow: &Tierflow, path: &str, base: &str, body: &str) -> Answer {
    tierflow.send("PUT", path, &[("x-config-base-version", base)], body).await
}

pub(crate) fn json_of(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{}", answer.text()))
}

fn etag(answer: &Answer) -> String {
    answer.header("etag").unwrap().trim_matches('"').to_owned()
}

/// A shop that is served, as it can be changed.
async fn serving(store: &Store, flags: &[String]) -> Tierflow {
    let tierflow = store.tierflow_at(store.endpoint(), flags).await;
    serves_rate(&tierflow, 1).await;
    eventually("it may write", async || {
        let replicas = tierflow.status().await["replicas"].as_array().unwrap().len();
        (replicas == 1).then_some(())
    })
    .await;
    tierflow
}

#[tokio::test]
async fn a_change_names_what_it_was_made_from() {
    let store = Store::start_shop().await;
    let tierflow = serving(&store, &[]).await;
    let read = tierflow.ask(PLAN).await;
    let base = etag(&read);
    assert_eq!(tierflow.send("PUT", PLAN, &[], &plan(2)).await.status, 428);
    assert_eq!(put(&tierflow, PLAN, "soon", &plan(2)).await.status, 400);
    let future = put(&tierflow, PLAN, "999999", &plan(2)).await;
    assert!(future.status == 400 && future.text().contains("is not known yet"), "{future:?}");

    let first = put(&tierflow, PLAN, &base, &plan(2)).await;
    assert_eq!(first.status, 200, "{first:?}");
    serves_rate(&tierflow, 2).await;
    assert_eq!(etag(&tierflow.ask(PLAN).await), etag(&first), "the version is the server's");
    let stale = put(&tierflow, PLAN, &base, &plan(3)).await;
    assert_eq!(stale.status, 412);
    let current = json!([{ "kind": "Plan", "name": "standard", "revision": etag(&first).parse::<u64>().unwrap() }]);
    assert_eq!(json_of(&stale)["current"], current);
    let again = tierflow.send("PUT", PLAN, &[("if-match", first.header("etag").unwrap())], &plan(3)).await;
    assert_eq!(again.status, 200, "{again:?}");

    // What is new is made from nothing, and what is gone is no longer what it was.
    let tenant = "/v1/policies/Tenant/acme%20inc%2F7";
    let text = document("Tenant", "acme inc/7", "{plan: standard}");
    let made = put(&tierflow, tenant, "0", &text).await;
    assert_eq!(made.status, 200, "{made:?}");
    assert_eq!(put(&tierflow, tenant, "0", &text).await.status, 412);
    let delete = async |base: &str| tierflow.send("DELETE", tenant, &[("x-config-base-version", base)], "").await;
    assert_eq!(delete(&etag(&made)).await.status, 200);
    let gone = put(&tierflow, tenant, &etag(&made), &text).await;
    assert_eq!((gone.status.as_u16(), &json_of(&gone)["current"][0]["revision"]), (412, &json!(0)));
    eventually("it is gone", async || (tierflow.ask(tenant).await.status == 404).then_some(())).await;
    // Neither then nor now.
    assert_eq!(delete(&etag(&again)).await.status, 404);

    // Made from something so old that nobody knows what there was: nobody's deletion is undone.
    let revision = store.put_rate(5).await;
    let physical = Some(CompactionOptions::new().with_physical());
    store.client.clone().compact(revision, physical).await.unwrap();
    let gone = put(&tierflow, tenant, &etag(&made), &text).await;
    assert_eq!((gone.status.as_u16(), &json_of(&gone)["current"][0]["revision"]), (412, &json!(0)));
    assert_eq!(put(&tierflow, tenant, &revision.to_string(), &text).await.status, 200);
}

#[tokio::test]
async fn what_makes_no_sense_is_not_written() {
    let store = Store::start_shop().await;
    let tierflow = serving(&store, &[]).await;
    let revision = store.put("/elsewhere", "x").await;
    let base = revision.to_string();
    let refused = async |method: &str, path: &str, body: &str| {
        let answer = tierflow.send(method, path, &[("x-config-base-version", &base)], body).await;
        assert_eq!(answer.status, 422, "{answer:?}");
        let problem = json_of(&answer)["problems"][0].clone();
        (problem["location"].as_str().unwrap().to_owned(), problem["message"].as_str().unwrap().to_owned())
    };
    let (place, message) = refused("PUT", PLAN, "kind: Plan\nname: standard\nlimits: [{rate: often}]\n").await;
    assert_eq!(place, "/tierflow/policies/Plan/standard:3:17");
    assert!(message.contains("found \"often\""), "{message}");
    let (_, message) = refused("PUT", "/v1/policies/Plan/gold", &plan(2)).await;
    assert_eq!(message, "makes this Plan standard, but the key is that of Plan gold");
    let (_, message) = refused("DELETE", "/v1/policies/Service/upstream", "").await;
    assert_eq!(message, "no Service is called \"upstream\"");
    let (_, message) = refused("POST", "/v1/apply", "kind: Api\nname: x\nmatch: {}\n").await;
    assert!(message.contains("missing field"), "{message}");
    assert_eq!(put(&tierflow, "/v1/policies/Thing/x", &base, "").await.status, 404);
    let large = format!("{}# {}\n", plan(2), "x".repeat(256 * 1024));
    assert_eq!(put(&tierflow, PLAN, &base, &large).await.status, 413);
    assert_eq!(put(&tierflow, PLAN, &base, &"x".repeat(3 << 20)).await.status, 413);
    let response = store.client.clone().get(key("Plan", "standard"), None).await.unwrap();
    assert_eq!(response.kvs()[0].version(), 1, "nothing was written");
}

#[tokio::test]
async fn several_documents_are_changed_as_a_whole_or_not_at_all() {
    let store = Store::start_shop().await;
    let tierflow = serving(&store, &[]).await;
    let set = |service: &str| {
        format!(
            "{}\n---\n{}\n---\n{}\n",
            document("Api", "new", &format!("{{gateway: edge, match: {{path: /new}}, service: {service}}}")),
            document("Service", "fresh", "{endpoints: ['127.0.0.1:9102']}"),
            plan(2),
        )
    };
    let apply = async |base: u64, body: &str| {
        tierflow.send("POST", "/v1/apply", &[("x-config-base-version", &base.to_string())], body).await
    };
    let base = tierflow.status().await["revision"].as_u64().unwrap();
    assert_eq!(apply(base, &set("frsh")).await.status, 422);
    let generation = tierflow.generation().await;
    assert_eq!(rate(&tierflow).await, Some(1));
    let applied = apply(base, &set("fresh")).await;
    assert_eq!(applied.status, 200, "{applied:?}");
    serves_rate(&tierflow, 2).await;
    let status = tierflow.status().await;
    assert_eq!((&status["generation"], &status["documents"]), (&json!(generation + 1), &json!(6)));
    assert_eq!(apply(base, &set("fresh")).await.status, 412);
    let twice = apply(base, &format!("{}\n---\n{}", plan(2), plan(3))).await;
    assert!(twice.status == 400 && twice.text().contains("stands twice"), "{twice:?}");
    assert_eq!(apply(base, "# nothing\n").await.status, 400);
    let many: Vec<String> = (0..20_001).map(|n| document("Tenant", &format!("t{n}"), "{plan: standard}")).collect();
    assert_eq!(apply(base, &many.join("\n---\n")).await.status, 413);
}

#[tokio::test]
async fn an_empty_etcd_is_filled_through_the_api() {
    let store = Store::start().await;
    let tierflow = store.tierflow().await;
    eventually("it may write", async || {
        (tierflow.status().await["replicas"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    assert_eq!(tierflow.ask("/readyz").await.status, 503);
    let shop = crate::store::SHOP.map(|(kind, name, fields)| document(kind, name, fields)).join("\n---\n");
    let answer = tierflow.send("POST", "/v1/apply", &[("x-config-base-version", "0")], &shop).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    serves_rate(&tierflow, 1).await;
    assert_eq!(tierflow.status().await["documents"], 4);
}

#[tokio::test]
async fn a_request_that_comes_again_gets_the_first_answer() {
    let store = Store::start_shop().await;
    let tierflow = serving(&store, &[]).await;
    let base = etag(&tierflow.ask(PLAN).await);
    let send = async |request: &str, rate: u32| {
        let headers = [("x-config-base-version", base.as_str()), ("idempotency-key", request)];
        tierflow.send("PUT", PLAN, &headers, &plan(rate)).await
    };
    let first = send("one", 2).await;
    assert_eq!((first.status.as_u16(), &json_of(&first)["replayed"]), (200, &json!(false)));
    let again = send("one", 2).await;
    assert_eq!((again.status.as_u16(), &json_of(&again)["replayed"]), (200, &json!(true)));
    assert_eq!(etag(&first), etag(&again));
    assert_eq!(send("one", 3).await.status, 422);
    assert_eq!(send("two", 2).await.status, 412);
    assert_eq!(send(&"x".repeat(257), 2).await.status, 400);
    serves_rate(&tierflow, 2).await;
}

#[tokio::test]
async fn what_takes_away_much_needs_a_reason_and_is_noted() {
    let store = Store::start_shop().await;
    let audit = store.path("audit.jsonl");
    let tierflow = serving(&store, &[format!("--audit-log={}", audit.display())]).await;
    let newest = async || tierflow.status().await["source"]["revision"].to_string();
    let put = async |path: &str, body: &str| put(&tierflow, path, &newest().await, body).await;
    assert_eq!(put(PLAN, &plan(100)).await.status, 200);
    serves_rate(&tierflow, 100).await;
    for (rate, why) in [(49, "less than half"), (0, "denies everything")] {
        let answer = put(PLAN, &plan(rate)).await;
        assert!(answer.status == 409 && answer.text().contains(why), "{answer:?}");
    }
    assert_eq!(put(PLAN, &plan(50)).await.status, 200, "half is not less than half");
    serves_rate(&tierflow, 50).await;
    let half = document("Plan", "standard", "{limits: [{name: tenant-hour, rate: 24/m}]}");
    assert_eq!(put(PLAN, &half).await.status, 200, "more, in another window");
    assert_eq!(put(&format!("{PLAN}?force=%20"), &plan(0)).await.status, 400);
    let forced = put(&format!("{PLAN}?force=the%20shop%20is%20closed"), &plan(0)).await;
    assert_eq!(forced.status, 200, "{forced:?}");

    let text = std::fs::read_to_string(&audit).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.last().unwrap();
    assert_eq!((&last["who"], &last["what"]), (&json!("loopback"), &json!(["put Plan standard"])));
    assert_eq!(
        (&last["force"], &last["result"]["revision"]),
        (&json!("the shop is closed"), &json_of(&forced)["revision"])
    );
    let asked = lines.iter().filter(|line| line["result"].is_null()).count();
    assert_eq!((asked, lines.len()), (6, 12), "{text}");
}

/// A refusal of ten thousand documents is read by a person all the same.
#[tokio::test]
async fn an_error_about_many_documents_names_a_few_and_the_number_of_the_rest() {
    const TENANTS: usize = 60;
    let store = Store::start_shop().await;
    let tierflow = serving(&store, &[]).await;
    let tenants = |rate: &str| {
        let tenant = |n| document("Tenant", &format!("t{n:02}"), &format!("{{limits: [{{rate: {rate}}}]}}"));
        (0..TENANTS).map(tenant).collect::<Vec<_>>().join("\n---\n")
    };
    let apply = async |base: &str, body: &str| {
        tierflow.send("POST", "/v1/apply", &[("x-config-base-version", base)], body).await
    };
    let made = apply("0", &tenants("100/h")).await;
    assert_eq!(made.status, 200, "{made:?}");

    let guarded = apply(&etag(&made), &tenants("0/h")).await;
    let (status, told) = (guarded.status.as_u16(), json_of(&guarded));
    assert_eq!((status, told["guarded"].as_array().unwrap().len(), &told["guarded_more"]), (409, 20, &json!(40)));
    let detail = told["detail"].as_str().unwrap();
    assert!(detail.contains("Tenant t02") && !detail.contains("Tenant t03"), "{detail}");
    assert!(detail.contains("; and 57 more; say why"), "{detail}");

    let stale = json_of(&apply("0", &tenants("100/h")).await);
    assert_eq!((stale["current"].as_array().unwrap().len(), &stale["current_more"]), (20, &json!(40)));
    let invalid = json_of(&apply(&etag(&made), &tenants("often")).await);
    assert_eq!((invalid["problems"].as_array().unwrap().len(), &invalid["problems_more"]), (20, &json!(40)));
    let few =
        json_of(&put(&tierflow, PLAN, &etag(&made), &document("Plan", "standard", "{limits: [{rate: often}]}")).await);
    assert_eq!((few["problems"].as_array().unwrap().len(), &few["problems_more"]), (1, &Value::Null));

    // The verb says so too.
    let file = store.path("tenants.yaml");
    std::fs::write(&file, tenants("often")).unwrap();
    let server = format!("--server=http://{}", tierflow.admin());
    let output = crate::harness::tierflow(&["apply", "-f", file.to_str().unwrap(), "--base=0", &server]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.lines().count() < 30 && told.trim_end().ends_with("and 40 more"), "{told}");
}

#[tokio::test]
async fn changes_need_a_token_where_there_are_tokens() {
    let store = Store::start_shop().await;
    let tokens = store.path("tokens");
    std::fs::write(&tokens, "ann:a token of some length\n").unwrap();
    let tierflow = serving(&store, &[format!("--admin-token-file={}", tokens.display())]).await;
    let base = etag(&tierflow.ask(PLAN).await);
    let send = async |token: &str| {
        let headers = [("x-config-base-version", base.as_str()), ("authorization", token)];
        tierflow.send("PUT", PLAN, &headers, &plan(2)).await.status.as_u16()
    };
    let nothing = tierflow.send("PUT", PLAN, &[("x-config-base-version", base.as_str())], &plan(2)).await;
    assert!(nothing.status == 403 && nothing.text().contains("needs the role operator"), "{nothing:?}");
    assert_eq!(send("").await, 401);
    assert_eq!(send("Bearer another token of some length").await, 401);
    assert_eq!(send("Bearer a token of some length").await, 200);
    let log = store.log();
    assert!(log.contains(r#"\"who\":\"token ann\""#) && !log.contains("a token of some length"));
}

#[tokio::test]
async fn a_page_in_somebodys_browser_changes_nothing() {
    let store = Store::start_shop().await;
    let tierflow = serving(&store, &[]).await;
    let headers = [("x-config-base-version", "1"), ("host", "shop.example:8080")];
    assert_eq!(tierflow.send("PUT", PLAN, &headers, &plan(2)).await.status, 421);
}

#[tokio::test]
async fn files_are_the_truth_where_there_are_files() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("policies");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("plan.yaml"), plan(1)).unwrap();
    let tierflow = Tierflow::start(&folder).await;
    let answer = put(&tierflow, PLAN, "0", &plan(2)).await;
    assert!(answer.status == 409 && answer.text().contains("files are the truth"), "{answer:?}");
}

/// Each writer reads, adds one, and writes with what it read as the base, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_writers_none_loses_an_update() {
    const WRITERS: u32 = 8;
    const CHANGES: u32 = 2_000;
    let store = Store::start_shop().await;
    let replicas = [
        Tierflow::serve(&store.path("a.log"), store.endpoint(), &[], any_addresses()).await,
        Tierflow::serve(&store.path("b.log"), store.endpoint(), &[], any_addresses()).await,
    ];
    eventually("both may write", async || {
        (replicas[0].status().await["replicas"].as_array().unwrap().len() == 2).then_some(())
    })
    .await;
    for replica in &replicas {
        serves_rate(replica, 1).await;
    }
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let url = format!("http://{}{PLAN}", replicas[writer as usize % 2].admin());
        writers.spawn(write(url, CHANGES / WRITERS));
    }
    let (written, lost): (Vec<u32>, Vec<u32>) = writers.join_all().await.into_iter().unzip();
    let (written, lost): (u32, u32) = (written.iter().sum(), lost.iter().sum());
    assert_eq!(written + lost, CHANGES);
    assert!(lost > 0, "nobody met anybody");
    let response = store.client.clone().get(key("Plan", "standard"), None).await.unwrap();
    assert_eq!(response.kvs()[0].value_str().unwrap(), plan(1 + written), "{written} written, {lost} lost");
    assert_eq!(response.kvs()[0].version(), i64::from(1 + written));
}

/// How often it wrote, and how often somebody else was faster.
async fn write(url: String, changes: u32) -> (u32, u32) {
    let client = Client::default();
    let (mut written, mut lost) = (0, 0);
    for _ in 0..changes {
        let read = client.get(&url).await.unwrap();
        let (base, text) = (etag(&read), json_of(&read)["text"].as_str().unwrap().to_owned());
        let rate: u32 = text.split("rate: ").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
        let answer = client.send_body("PUT", &url, &[("x-config-base-version", &base)], &plan(rate + 1)).await.unwrap();
        match answer.status.as_u16() {
            200 => written += 1,
            412 => {
                let current = json_of(&answer)["current"][0]["revision"].as_u64().unwrap();
                assert!(current > base.parse().unwrap());
                lost += 1;
            }
            other => panic!("{other}: {}", answer.text()),
        }
    }
    (written, lost)
}

#[tokio::test]
async fn a_replica_that_was_taken_for_dead_cannot_write() {
    let store = Store::start_shop().await;
    let replica = async |log: &str| {
        Tierflow::serve(&store.path(log), store.endpoint(), &["--replica-id=same".to_owned()], any_addresses()).await
    };
    let first = replica("a.log").await;
    serves_rate(&first, 1).await;
    assert_eq!(put(&first, PLAN, &etag(&first.ask(PLAN).await), &plan(2)).await.status, 200);
    first.signal("STOP");
    let second = replica("b.log").await;
    serves_rate(&second, 2).await;
    let takes = async || {
        let answer = put(&second, PLAN, &etag(&second.ask(PLAN).await), &plan(3)).await;
        (answer.status == 200).then_some(())
    };
    eventually("the second writes when the first one's lease has run out", takes).await;
    first.signal("CONT");
    let cannot_write = async || {
        let newest = store.put("/elsewhere", "x").await.to_string();
        let answer = put(&first, PLAN, &newest, &plan(4)).await;
        assert!(answer.status == 503 && answer.text().contains("does not hold its lease"), "{answer:?}");
        assert_eq!(answer.header("retry-after"), Some("1"));
    };
    // Neither before it knows of the second, nor after.
    cannot_write().await;
    eventually("it hears that the second holds the key", async || {
        cannot_write().await;
        std::fs::read_to_string(store.path("a.log")).unwrap().contains("somebody else holds the key").then_some(())
    })
    .await;
    cannot_write().await;
    serves_rate(&first, 3).await;
}

#[tokio::test]
async fn a_commit_proves_that_its_writer_holds_its_lease() {
    let store = Store::start_shop().await;
    let front = Front::start(store.etcd.address).await;
    let tierflow = store.tierflow_at(source(&[front.address]), &["--replica-id=a".to_owned()]).await;
    serves_rate(&tierflow, 1).await;
    let first = put(&tierflow, PLAN, &etag(&tierflow.ask(PLAN).await), &plan(2)).await;
    assert_eq!(first.status, 200, "{first:?}");
    let server = "/tierflow/servers/a";
    let created = store.client.clone().get(server, None).await.unwrap().kvs()[0].create_revision();
    assert!(front.fences().contains(&vec![(server.to_owned(), created)]), "{:?}", front.fences());

    // And etcd holds to it.
    let settings = EtcdSettings { endpoints: Vec::new(), prefix: "/tierflow".to_owned(), user: None, tls: None };
    let connection = Connection::open(&settings, &format!("http://{}", store.etcd.address)).await.unwrap();
    let commit = |fence| Commit {
        fence: Some((server.to_owned(), fence)),
        puts: vec![("/x".to_owned(), b"x".to_vec(), 0)],
        ..Default::default()
    };
    assert_eq!(connection.commit(&commit(created + 1)).await, Ok(None));
    assert!(connection.commit(&commit(created)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_commit_that_etcd_did_not_answer_is_found_out_about() {
    let store = Store::start_shop().await;
    let front = Front::start(store.etcd.address).await;
    let tierflow = store.tierflow_at(source(&[front.address]), &[]).await;
    serves_rate(&tierflow, 1).await;
    let first = put(&tierflow, PLAN, &etag(&tierflow.ask(PLAN).await), &plan(2)).await;
    assert_eq!(first.status, 200, "{first:?}");

    front.lose("rate: 3/h", Part::Answer);
    let done = put(&tierflow, PLAN, &etag(&first), &plan(3)).await;
    assert_eq!(done.status, 200, "{done:?}");
    serves_rate(&tierflow, 3).await;
    assert_eq!(etag(&done), etag(&tierflow.ask(PLAN).await));

    front.lose("rate: 4/h", Part::Question);
    let undone = put(&tierflow, PLAN, &etag(&done), &plan(4)).await;
    assert_eq!(undone.status, 503, "{undone:?}");
    // It reaches etcd when nobody waits for it any more, and comes too late.
    assert_eq!(front.ask_lost().await, 1);
    assert_eq!(rate(&tierflow).await, Some(3));
    let response = store.client.clone().get(key("Plan", "standard"), None).await.unwrap();
    assert_eq!((response.kvs()[0].value_str().unwrap(), response.kvs()[0].version()), (plan(3).as_str(), 3));
    assert_eq!(put(&tierflow, PLAN, &etag(&done), &plan(5)).await.status, 200);
}

#[tokio::test]
async fn without_etcd_nothing_is_changed_and_reading_goes_on() {
    let mut store = Store::start_shop().await;
    let tierflow = serving(&store, &[]).await;
    let base = etag(&tierflow.ask(PLAN).await);
    store.etcd.kill();
    let answer = put(&tierflow, PLAN, &base, &plan(2)).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(tierflow.ask(PLAN).await.status, 200);
}
