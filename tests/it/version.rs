//! Which Tierflow it is, said everywhere in the same way.

use std::path::Path;
use std::process::Command;

use crate::harness::{Tierflow, printed};

#[path = "../../build/commit.rs"]
mod commit;

#[tokio::test]
async fn the_version_and_the_commit_are_the_same_wherever_they_are_said() {
    let told = printed(&["--version"]);
    let (version, commit) = told.trim().strip_prefix("tierflow ").unwrap().split_once(" (commit ").unwrap();
    let commit = commit.strip_suffix(')').unwrap();
    assert_eq!((version, commit), (tierflow::version::VERSION, tierflow::version::COMMIT));
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    let tierflow = Tierflow::start(&policies).await;
    let status = tierflow.status().await;
    assert_eq!((&status["version"], &status["commit"]), (&version.into(), &commit.into()));
    let series = format!("\ntierflow_build_info{{version=\"{version}\",commit=\"{commit}\"}} 1\n");
    let metrics = tierflow.ask("/metrics").await.text();
    assert!(metrics.contains(&series), "{series} is not in {metrics}");
}

fn git(folder: &Path, args: &[&str]) -> String {
    let who = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"];
    let output = Command::new("git").args(who).args(args).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_checkout_knows_its_commit_and_a_source_archive_within_another_checkout_knows_none() {
    let folder = tempfile::tempdir().unwrap();
    let checkout = folder.path();
    std::fs::create_dir(checkout.join("src")).unwrap();
    std::fs::write(checkout.join("src/main.rs"), "fn main() {}\n").unwrap();
    git(checkout, &["init", "--quiet"]);
    git(checkout, &["add", "."]);
    git(checkout, &["commit", "--quiet", "--message", "first"]);
    let head = git(checkout, &["rev-parse", "HEAD"]);
    assert_eq!((commit::of_checkout(checkout), head.len()), (Some(head.clone()), 40));
    let log = commit::log_of_checkouts(checkout).unwrap();
    assert!(checkout.join(&log).is_file(), "{log}");

    // What is not built makes no other program...
    std::fs::write(checkout.join("notes.txt"), "x").unwrap();
    assert_eq!(commit::of_checkout(checkout), Some(head.clone()));
    let archive = checkout.join("tierflow-0.1.0");
    std::fs::create_dir(&archive).unwrap();
    assert_eq!(commit::of_checkout(&archive), None);
    assert_eq!(commit::log_of_checkouts(&archive), None);
    // ...and what is, does, be it changed or new.
    std::fs::write(checkout.join("src/more.rs"), "").unwrap();
    assert_eq!(commit::of_checkout(checkout), Some(format!("{head}-dirty")));
    std::fs::remove_file(checkout.join("src/more.rs")).unwrap();
    std::fs::write(checkout.join("src/main.rs"), "fn main() { loop {} }\n").unwrap();
    assert_eq!(commit::of_checkout(checkout), Some(format!("{head}-dirty")));
}
