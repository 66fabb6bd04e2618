//! What is said of a change beforehand, and what then becomes of it.

use serde_json::{Value, json};

use crate::harness::{Setup, World, eventually, printed, tierflow};

const POLICIES: &str = "
{kind: Api, name: pay, gateway: edge, service: upstream, match: {path: /pay}, limits: [{name: all, rate: 3/h}]}
---
{kind: Api, name: list, gateway: edge, service: upstream, match: {path: /list}, limits: [{name: each, rate: 2/h}]}
";

fn diff(world: &World, folder: &std::path::Path) -> Value {
    let server = format!("--server=http://{}", world.tierflow.admin());
    serde_json::from_str(&printed(&["diff", folder.to_str().unwrap(), &server, "--output=json"])).unwrap()
}

#[tokio::test]
async fn what_a_diff_with_a_server_says_is_what_the_change_does() {
    let world = World::start(Setup { policies: POLICIES, ..Default::default() }).await;
    let wanted = tempfile::tempdir().unwrap();
    let gateway = std::fs::read_to_string(world.path("gateway.yaml")).unwrap();
    std::fs::write(wanted.path().join("gateway.yaml"), gateway).unwrap();
    let want = |policies: &str| std::fs::write(wanted.path().join("policies.yaml"), policies).unwrap();
    want(POLICIES);
    let same = diff(&world, wanted.path());
    assert_eq!(["documents", "limits", "pushes"].map(|part| same[part].as_array().unwrap().len()), [0, 0, 0]);
    for _ in 0..3 {
        assert_eq!(world.edge.send("GET", "/pay", &[]).await.status, 200);
        world.edge.send("GET", "/list", &[]).await;
    }

    // A raised limit goes on counting and is sent to nobody; another window begins anew; another match is other routes.
    let raised = POLICIES.replace("3/h", "4/h").replace("2/h", "2/d");
    want(&raised);
    let told = diff(&world, wanted.path());
    let counters: Vec<_> = told["limits"].as_array().unwrap().iter().map(|limit| &limit["counters"]).collect();
    assert_eq!((counters, &told["pushes"]), (vec![&json!("new"), &json!("kept")], &json!([])), "{told:#}");
    let (pushes, generation) = (world.tierflow.pushes().await, world.tierflow.generation().await);
    world.save("policies.yaml", &raised);
    eventually("it is served", async || (world.tierflow.generation().await > generation).then_some(())).await;
    let answers = async |path: &str| {
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(world.edge.send("GET", path, &[]).await.status.as_u16());
        }
        statuses
    };
    assert_eq!(answers("/pay").await, [200, 429, 429], "3 of 4 were used");
    assert_eq!(answers("/list").await, [200, 200, 429], "what was used is of another counter");
    assert_eq!(world.tierflow.pushes().await, pushes);

    let moved = raised.replace("path: /list", "path: /lists");
    want(&moved);
    let told = diff(&world, wanted.path());
    assert_eq!(told["limits"], json!([]));
    let expected = json!([{ "gateway": "edge", "type": "route", "added": [], "changed": ["edge"], "removed": [] }]);
    assert_eq!(told["pushes"], expected);
    world.save("policies.yaml", &moved);
    let [clusters, endpoints, secrets, listeners, routes] = pushes;
    eventually("the routes are sent", async || {
        (world.tierflow.pushes().await == [clusters, endpoints, secrets, listeners, routes + 1]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn documents_that_are_no_set_are_told_with_their_problems() {
    let world = World::start(Setup { policies: POLICIES, ..Default::default() }).await;
    for call in ["/v1/diff", "/v1/check"] {
        let documents = "{kind: Api, name: a, gateway: nowhere, service: none, match: {path: /a}}";
        let answer = world.tierflow.send("POST", call, &[], documents).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (422, Some("application/problem+json")));
        let told: Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(told["problems"].as_array().unwrap().len() > 1, "{told:#}");
    }
    let checked = world.tierflow.send("POST", "/v1/check", &[], "{kind: Plan, name: a, limits: [{rate: 1/m}]}").await;
    assert_eq!((checked.status.as_u16(), checked.text().as_str()), (200, "{\"documents\":1}"));
    let empty = world.tierflow.send("POST", "/v1/diff", &[], "").await;
    let told: Value = serde_json::from_slice(&empty.body).unwrap();
    let changes = told["documents"].as_array().unwrap();
    assert!(changes.len() >= 4 && changes.iter().all(|document| document["change"] == "removed"), "{told:#}");
}

#[test]
fn two_folders_are_compared_without_a_server() {
    let folders = [POLICIES.to_owned(), POLICIES.replace("3/h", "30/h")].map(|policies| {
        let folder = tempfile::tempdir().unwrap();
        let gateway = "{kind: Gateway, name: edge, nodes: {clusters: [edge]}, listen: '127.0.0.1:1'}\n---\n{kind: Service, name: upstream, endpoints: ['127.0.0.1:2']}\n---\n";
        std::fs::write(folder.path().join("p.yaml"), format!("{gateway}{policies}")).unwrap();
        folder
    });
    let [first, second] = folders.each_ref().map(|folder| folder.path().to_str().unwrap());
    let told = printed(&["diff", first, second]);
    assert!(told.contains("rate 3/hour -> 30/hour") && told.contains("go on counting"), "{told}");
    assert!(told.ends_with("Nothing is sent to any Envoy.\n"), "{told}");
    assert_eq!(printed(&["diff", first, first]), "Nothing changes.\n");
    assert_eq!(tierflow(&["diff"]).status.code(), Some(2));
}
