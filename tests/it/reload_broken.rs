//! A document that is broken while it is served: the last good version stays, the rest goes on, and the refusal is
//! told until it is mended.

use serde_json::{Value, json};

use crate::harness::{Setup, World, eventually};

const GOOD: &str = "
kind: Api
name: pay
gateway: edge
match: { path: /pay }
service: upstream
limits: [{ rate: 1000/h }]
";

const OTHER: &str = "
kind: Api
name: read
gateway: edge
match: { path: /read }
service: upstream
";

/// The refusal on /v1/status, once there is one.
async fn refusal(world: &World) -> Value {
    eventually("the document is refused", async || {
        let refused = world.tierflow.status().await["refused"].as_array().unwrap().clone();
        refused.into_iter().next()
    })
    .await
}

/// Breaks the document, sees that it is served as before and that a neighbour can change, and mends it.
async fn the_last_good_version_is_served(broken: &str, place: &str, message: &str) {
    let world = World::start(Setup { policies: GOOD, ..Default::default() }).await;
    world.save("policies.yaml", broken);
    let refusal = refusal(&world).await;
    let problem = &refusal["problems"][0];
    assert!(problem["message"].as_str().unwrap().contains(message), "{refusal:#}");
    assert!(problem["location"].as_str().unwrap().ends_with(place), "{refusal:#}");
    assert_eq!((&refusal["served"], &refusal["name"]), (&json!(true), &json!("pay")));
    assert_eq!(world.edge.get("/pay").await.status, 200);

    // The neighbour's change is taken while the document is broken.
    world.save("other.yaml", OTHER);
    eventually("the neighbour is served", async || (world.edge.get("/read").await.status == 200).then_some(())).await;
    assert_eq!(world.edge.get("/pay").await.status, 200);

    world.save("policies.yaml", &GOOD.replace("1000/h", "2000/h"));
    eventually("it is mended", async || {
        let status = world.tierflow.status().await;
        (status["refused"] == json!([])).then_some(())
    })
    .await;
    let answer = world.edge.get("/pay").await;
    assert_eq!(answer.header("x-ratelimit-limit"), Some("2000, 2000;w=3600;name=\"api-hour\""));
}

#[tokio::test]
async fn after_a_typo_the_last_good_version_is_served() {
    the_last_good_version_is_served(&GOOD.replace("limits:", "limit:"), "policies.yaml:7:1", "unknown field `limit`")
        .await;
}

#[tokio::test]
async fn without_its_service_the_last_good_version_is_served() {
    the_last_good_version_is_served(&GOOD.replace("upstream", "upstraem"), "policies.yaml:6:10", "upstraem").await;
}

#[tokio::test]
async fn half_written_the_last_good_version_is_served() {
    let half = GOOD.split_once(" }").unwrap().0;
    the_last_good_version_is_served(half, "policies.yaml:5:8", "unclosed").await;
}

#[tokio::test]
async fn for_an_alias_bomb_the_last_good_version_is_served() {
    let bomb = "kind: Api
name: pay
a: &a [x, x]
b: &b [*a, *a]
c: [*b, *b]
";
    the_last_good_version_is_served(bomb, "policies.yaml:3:7", "alias").await;
}

/// A file that is gone is a document that was deleted, unless somebody needs it.
#[tokio::test]
async fn a_service_that_is_still_needed_is_kept() {
    let service = "kind: Service\nname: needed\nendpoints: [127.0.0.1:9]\n";
    let policies = format!("{service}---{}", GOOD.replace("service: upstream", "service: needed"));
    let world = World::start(Setup { policies: &policies, ..Default::default() }).await;
    world.save("policies.yaml", &GOOD.replace("service: upstream", "service: needed"));
    let refusal = refusal(&world).await;
    assert_eq!((&refusal["kind"], &refusal["served"]), (&json!("Service"), &json!(true)), "{refusal:#}");
    // It is routed as before; that nothing listens there is another matter.
    assert_eq!(world.edge.get("/pay").await.status, 503);
}

/// A folder that is emptied is more often an accident than a wish.
#[tokio::test]
async fn an_emptied_folder_changes_nothing() {
    let world = World::start(Setup { policies: GOOD, ..Default::default() }).await;
    for file in ["policies.yaml", "gateway.yaml"] {
        std::fs::remove_file(world.path(file)).unwrap();
    }
    eventually("the empty folder is seen", async || {
        let metrics = world.tierflow.ask("/metrics").await.text();
        metrics.contains(r#"tierflow_reload_total{result="empty"}"#).then_some(())
    })
    .await;
    assert_eq!(world.edge.get("/pay").await.status, 200);
}
