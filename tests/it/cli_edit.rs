//! Documents of a running server from the command line.

use std::process::Output;

use crate::harness::{Tierflow, eventually};
use crate::store::{Store, document, serves_rate};

/// Verbs wait for the server, which is another process, so no runtime is held up but the test's own.
fn run(tierflow: &Tierflow, args: &[&str]) -> Output {
    let server = format!("--server=http://{}", tierflow.admin());
    crate::harness::tierflow(&[args, &[&server]].concat())
}

fn printed(tierflow: &Tierflow, args: &[&str]) -> String {
    let output = run(tierflow, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(tierflow: &Tierflow, args: &[&str]) -> String {
    let output = run(tierflow, args);
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn documents_are_shown_changed_and_deleted() {
    let store = Store::start_shop().await;
    let tierflow = store.tierflow().await;
    serves_rate(&tierflow, 1).await;
    eventually("it may write", async || {
        (tierflow.status().await["replicas"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    let table = printed(&tierflow, &["get"]);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["KIND", "NAME", "REVISION", "STATE", "ORIGIN"]);
    assert_eq!(rows.len(), 5);
    assert_eq!((rows[4][0], rows[4][1], rows[4][3]), ("Plan", "standard", "served"));
    assert_eq!(printed(&tierflow, &["get", "plan"]).lines().count(), 2);
    assert!(printed(&tierflow, &["get", "-o", "json"]).contains("\"documents\""));

    // What is shown can be edited and applied: it says what it was made from.
    let file = store.path("plan.yaml");
    let path = file.to_str().unwrap();
    let shown = printed(&tierflow, &["get", "Plan", "standard"]);
    assert!(shown.starts_with("# base version "), "{shown}");
    std::fs::write(&file, shown.replace("1/h", "2/h")).unwrap();
    let dry = printed(&tierflow, &["apply", "-f", path, "--dry-run"]);
    assert!(dry.contains("rate 1/hour -> 2/hour") && dry.contains("Nothing is sent to any Envoy."), "{dry}");
    assert!(printed(&tierflow, &["apply", "-f", path]).starts_with("done at revision "));
    serves_rate(&tierflow, 2).await;
    assert!(refused(&tierflow, &["apply", "-f", path]).contains("changed after base version"));
    std::fs::write(&file, document("Plan", "standard", "{limits: [{rate: 3/h}]}")).unwrap();
    let named = ["apply", "-f", path, "--idempotency-key=one"];
    printed(&tierflow, &named);
    serves_rate(&tierflow, 3).await;

    std::fs::write(&file, "kind: Plan\nname: standard\nlimits: [{rate: often}]\n").unwrap();
    let told = refused(&tierflow, &["apply", "-f", path]);
    assert!(told.contains("body:3:17: limits[0].rate: found \"often\""), "{told}");
    std::fs::write(&file, document("Plan", "standard", "{limits: [{rate: 1/h}]}")).unwrap();
    assert!(refused(&tierflow, &["apply", "-f", path]).contains("less than half"));
    printed(&tierflow, &["apply", "-f", path, "--force=a slow day"]);
    serves_rate(&tierflow, 1).await;

    std::fs::write(&file, document("Tenant", "acme inc/7", "{plan: standard}")).unwrap();
    printed(&tierflow, &["apply", "-f", path]);
    eventually("the tenant is there", async || (tierflow.status().await["documents"] == 5).then_some(())).await;
    assert!(printed(&tierflow, &["get", "tenant", "acme inc/7"]).contains("acme inc/7"));
    let dry = printed(&tierflow, &["delete", "tenant", "acme inc/7", "--dry-run"]);
    assert!(dry.lines().any(|line| line.starts_with("removed") && line.contains("acme inc/7")), "{dry}");
    assert!(refused(&tierflow, &["delete", "Plan", "standard", "--dry-run"]).contains("is called \"standard\""));
    assert!(refused(&tierflow, &["delete", "Plan", "standard"]).contains("no Plan is called \"standard\""));
    printed(&tierflow, &["delete", "tenant", "acme inc/7"]);
    eventually("the tenant is gone", async || (tierflow.status().await["documents"] == 4).then_some(())).await;
    assert!(refused(&tierflow, &["get", "Tenant", "acme inc/7"]).contains("(404)"));
}

#[test]
fn a_server_that_is_not_there_is_told() {
    let output = crate::harness::tierflow(&["get", "--server=http://127.0.0.1:1"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && told.contains("http://127.0.0.1:1: cannot be reached: "), "{told}");
}
