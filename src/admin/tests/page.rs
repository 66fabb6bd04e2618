//! What the page stands on: its files, and what it asks before it offers to change something.

use axum::http::header;
use serde_json::{Value, json};

use super::{SHOP, World};

#[tokio::test]
async fn the_page_and_its_parts_come_with_a_policy_that_lets_nothing_else_in() {
    let world = World::shop();
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/assets/app.js", "text/javascript; charset=utf-8"),
        ("/assets/style/base.css", "text/css; charset=utf-8"),
        ("/assets/icon.svg", "image/svg+xml"),
        ("/assets/vendor/LICENSES.txt", "text/plain; charset=utf-8"),
    ] {
        let answer = world.get(path).await;
        assert_eq!((answer.status, answer.content_type()), (200, content_type), "{path}");
        let policy = answer.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.headers[header::REFERRER_POLICY], "no-referrer");
        let etag = answer.headers[header::ETAG].to_str().unwrap().to_owned();
        let again = world.send("GET", path, &[("if-none-match", &etag)], "").await;
        assert_eq!((again.status, &*again.text), (304, ""), "{path}");
    }
    assert_eq!(world.get("/assets/..%2Fweb.rs").await.status, 404);
    assert_eq!(world.get("/assets/nothing.js").await.content_type(), "application/problem+json");
}

#[tokio::test]
async fn no_answer_is_taken_for_what_it_does_not_say_it_is() {
    let world = World::shop();
    for path in ["/", "/v1/status", "/metrics", "/nothing", "/v1/policies/Plan/none"] {
        assert_eq!(world.get(path).await.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
    }
}

#[tokio::test]
async fn documents_are_checked_and_compared_in_the_places_of_those_that_are_served() {
    let world = World::shop();
    let post = async |path: &str, body: &str| world.send("POST", path, &[], body.to_owned()).await;
    let tenant = "{kind: Tenant, name: globex, plan: standard}";
    assert_eq!(post("/v1/check", tenant).await.status, 422, "alone it is no set");
    let checked = post("/v1/check?merge=true", tenant).await;
    assert_eq!((checked.status, checked.json()), (200, json!({ "documents": 6 })));
    let told = post("/v1/diff?merge=true", tenant).await.json();
    assert_eq!(told["documents"], json!([{ "kind": "Tenant", "name": "globex", "change": "added" }]));
    let told = post("/v1/diff?delete=Tenant/acme%20inc/7", "").await.json();
    assert_eq!(told["documents"], json!([{ "kind": "Tenant", "name": "acme inc/7", "change": "removed" }]));

    let refused = post("/v1/check?merge=true", "kind: Tenant\nname: globex\nplan: standart\n").await;
    let problem = refused.json()["problems"][0].clone();
    assert_eq!((refused.status, &problem["location"]), (422, &json!("body:3:7")));
    assert_eq!(problem["place"], json!({ "line": 3, "column": 7, "width": 8 }));
    assert_eq!(post("/v1/diff?delete=Plan/standard", "").await.status, 422, "others need it");
    assert_eq!(post("/v1/diff?delete=Plan", "").await.status, 400);
    assert_eq!(post("/v1/diff?delete=Thing/a", "").await.status, 404);
    assert_eq!(world.json("/v1/policies").await["documents"].as_array().unwrap().len(), 5, "nothing is changed");
}

#[tokio::test]
async fn whoever_asks_is_told_what_it_may_do() {
    let world = World::shop();
    let expected =
        json!({ "who": "loopback", "kind": "loopback", "role": "admin", "takes_tokens": false, "policies": "files" });
    assert_eq!(world.json("/v1/access").await, expected);
    let world = world.with_editor().with_token_of_ann();
    let expected =
        json!({ "who": "loopback", "kind": "loopback", "role": "viewer", "takes_tokens": true, "policies": "etcd" });
    assert_eq!(world.json("/v1/access").await, expected);
    let ann = world.send("GET", "/v1/access", &[("authorization", "Bearer 0123456789abcdef")], "").await.json();
    assert_eq!((&ann["who"], &ann["kind"], &ann["role"]), (&json!("token ann"), &json!("token"), &json!("admin")));
}

/// A problem's line is that of the file; its place is in the document.
#[tokio::test]
async fn a_refused_document_is_told_with_its_own_text_and_the_places_in_it() {
    let mut world = World::shop();
    world.load(&format!("{SHOP}---\nkind: Plan\nname: bad\nlimits: [{{rate: often}}]\n"));
    let told = world.json("/v1/policies/Plan/bad").await;
    assert_eq!(
        (&told["text"], &told["refused_text"]),
        (&Value::Null, &json!("kind: Plan\nname: bad\nlimits: [{rate: often}]\n"))
    );
    assert_eq!(told["problems"][0]["place"], json!({ "line": 3, "column": 17, "width": 5 }));
    assert_eq!(told["problems"][0]["location"], "p.yaml:14:17");
    let served = world.json("/v1/policies/Plan/standard").await;
    assert_eq!(served["refused_text"], Value::Null);
}
