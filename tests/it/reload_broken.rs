//! A document that is broken while it is served: the last good version stays, the rest goes on, and the refusal is
//! told until it is mended.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Setup, Tierflow, World, eventually, tierflow};

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
    the_last_good_version_is_served(half, "policies.yaml:5:8", "found { without its end").await;
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

/// A link that leads out is refused, be it to a file or to a folder, and what was read by it is served until it is mended
/// or gone.
#[tokio::test]
async fn what_was_behind_a_link_that_leads_out_now_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let (folder, outside) = (root.path().join("policies"), root.path().join("outside"));
    let plan = |name: &str| format!("kind: Plan\nname: {name}\nlimits: [{{ rate: 1/h }}]\n");
    for (folder, plans) in [(&folder, ["root", "file"]), (&folder.join(".in/deep"), ["inner", "innermost"])] {
        std::fs::create_dir_all(folder).unwrap();
        plans.iter().for_each(|name| std::fs::write(folder.join(format!("{name}.yaml")), plan(name)).unwrap());
    }
    std::fs::create_dir_all(outside.join("deep")).unwrap();
    std::fs::write(outside.join("deep/inner.yaml"), plan("other")).unwrap();
    let link = |target: &Path, name: &str| {
        let (link, new) = (folder.join(name), folder.join(".new"));
        symlink(target, &new).unwrap();
        std::fs::rename(new, link).unwrap();
    };
    link(&folder.join(".in"), "linked");
    let tierflow = Tierflow::start(&folder).await;
    let is_served = async |name: &str| tierflow.ask(&format!("/v1/policies/Plan/{name}")).await.status == 200;
    assert!(is_served("inner").await && is_served("innermost").await);

    std::fs::copy(folder.join("file.yaml"), outside.join("file.yaml")).unwrap();
    link(&outside.join("file.yaml"), "file.yaml");
    link(&outside, "linked");
    let told = eventually("both links are refused", async || {
        let refused = tierflow.status().await["refused"].as_array().unwrap().clone();
        (refused.len() == 2).then_some(refused)
    })
    .await;
    for (refusal, place) in told.iter().zip(["/file.yaml:1", "/linked:1"]) {
        assert!(refusal["origin"].as_str().unwrap().ends_with(place), "{refusal:#}");
        assert_eq!(refusal["problems"][0]["message"], "is a link that leads out of the policy folder");
    }
    for name in ["root", "file", "inner", "innermost"] {
        assert!(is_served(name).await, "{name}");
    }
    assert!(!is_served("other").await);

    // Without the link they are gone.
    std::fs::remove_file(folder.join("linked")).unwrap();
    eventually("they are gone", async || (!is_served("inner").await && !is_served("innermost").await).then_some(()))
        .await;
    assert!(is_served("root").await && is_served("file").await);
}

/// A folder that is emptied is more often an accident than a wish: it changes nothing, and is told until it holds something.
#[tokio::test]
async fn an_emptied_folder_changes_nothing_and_is_trouble() {
    let world = World::start(Setup { policies: GOOD, ..Default::default() }).await;
    world.save("broken.yaml", "{kind: Api, name: broken}");
    refusal(&world).await;
    let [api, gateway] =
        ["policies.yaml", "gateway.yaml"].map(|file| std::fs::read_to_string(world.path(file)).unwrap());
    // Should it be read between two of these, the Api keeps its gateway.
    let files = ["broken.yaml", "gateway.yaml", "policies.yaml"];
    files.iter().for_each(|file| std::fs::remove_file(world.path(file)).unwrap());
    let trouble = eventually("the empty folder is told of", async || {
        let status = world.tierflow.status().await;
        status["source"]["trouble"].as_str().map(str::to_owned)
    });
    assert!(trouble.await.starts_with("the source holds no document, and nothing is taken away"));
    let status = world.tierflow.status().await;
    assert_eq!(
        (&status["refused"], &status["ready"]),
        (&json!([]), &json!(true)),
        "what is gone is not refused: {status:#}"
    );
    let documents = async || {
        let ready = world.tierflow.json("/readyz").await;
        ready["checks"].as_array().unwrap().iter().find(|row| row["name"] == "documents").unwrap().clone()
    };
    let row = documents().await;
    assert_eq!((&row["ok"], &row["value"]), (&json!(false), &json!(0)));
    let server = format!("--server=http://{}", world.tierflow.admin());
    let is_well = || tierflow(&["status", &server]).status.success();
    assert!(!is_well());
    assert_eq!(world.edge.get("/pay").await.status, 200);

    // One file is back: what it needs goes on, and is named as missing; what was refused is gone for good.
    world.save("policies.yaml", &api);
    let named = eventually("the gateway is missed", async || {
        let status = world.tierflow.status().await;
        let problem = status["refused"][0]["problems"][0]["message"].as_str()?.to_owned();
        status["source"]["trouble"].is_null().then_some((status["refused"].as_array().unwrap().len(), problem))
    })
    .await;
    let missing = "is gone from the source, but Api pay still refers to it; its last version stays";
    assert_eq!(named, (2, missing.to_owned()), "the gateway and the service");
    assert!(documents().await["ok"] == true && !is_well());
    assert_eq!(world.edge.get("/pay").await.status, 200);

    world.save("gateway.yaml", &gateway);
    eventually("it is as it was", async || is_well().then_some(())).await;
    assert_eq!(world.edge.get("/pay").await.status, 200);
}

/// Whoever puts a log where the policies belong fills no disk with what is said about it.
#[tokio::test]
async fn a_save_that_breaks_much_is_logged_in_so_many_lines_of_a_bounded_length() {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    let long = "n".repeat(250_000);
    let names: String = (0..5).map(|n| format!("---\n{{kind: Tenant, name: {n}{long}, plan: a}}\n")).collect();
    let rates: String =
        (0..200).map(|n| format!("---\n{{kind: Plan, name: p{n}, limits: [{{rate: often}}]}}\n")).collect();
    std::fs::write(policies.join("a.yaml"), names).unwrap();
    std::fs::write(policies.join("b.yaml"), rates).unwrap();
    let _tierflow = Tierflow::start(&policies).await;
    let log = std::fs::read_to_string(policies.with_extension("log")).unwrap();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("document refused: ")).collect();
    assert_eq!(told.len(), 100);
    assert!(told[0].contains("a.yaml:2") && told.iter().all(|line| line.len() < 4096), "{}", told[0]);
    assert!(log.contains("105 more problems of refused documents"), "{log}");
}
