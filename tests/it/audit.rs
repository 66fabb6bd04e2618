//! The audit log as those meet it who keep it: its chain over runs and files, a disk that is full, clients that leave.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::{Tierflow, any_addresses, eventually, tierflow as run};
use crate::kit::client::Answer;
use crate::store::{Store, document, rate, serves_rate};

/// A shop that is served and can be changed.
async fn serving(store: &Store, flags: &[&str]) -> Tierflow {
    serving_with_env(store, flags, &[]).await
}

async fn serving_with_env(store: &Store, flags: &[&str], env: &[(&str, &Path)]) -> Tierflow {
    let audit = format!("--audit-log={}", audit_of(store).display());
    let flags: Vec<String> = std::iter::once(audit).chain(flags.iter().map(|flag| (*flag).to_owned())).collect();
    let log = store.path("tierflow.log");
    let tierflow = Tierflow::serve_with_env(env, &log, store.endpoint(), &flags, any_addresses()).await;
    eventually("it may write", async || {
        let replicas = tierflow.status().await["replicas"].as_array().unwrap().len();
        (replicas == 1 && rate(&tierflow).await.is_some()).then_some(())
    })
    .await;
    tierflow
}

fn audit_of(store: &Store) -> PathBuf {
    store.path("audit.jsonl")
}

fn plan(rate: u32) -> String {
    document("Plan", "standard", &format!("{{limits: [{{rate: {rate}/h}}]}}"))
}

async fn put(tierflow: &Tierflow, rate: u32) -> Answer {
    let base = tierflow.status().await["source"]["revision"].to_string();
    let headers = [("x-config-base-version", base.as_str())];
    tierflow.send("PUT", "/v1/policies/Plan/standard", &headers, &plan(rate)).await
}

async fn last_hash(tierflow: &Tierflow) -> String {
    tierflow.status().await["audit"]["last_hash"].as_str().unwrap().to_owned()
}

/// What `tierflow audit verify` says, and whether it found nothing.
fn verify(flags: &[&str], files: &[&Path]) -> (bool, String) {
    let files = files.iter().map(|file| file.to_str().unwrap());
    let output = run(&["audit", "verify"].into_iter().chain(flags.iter().copied()).chain(files).collect::<Vec<_>>());
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.success(), text)
}

#[tokio::test]
async fn a_log_of_several_runs_and_files_is_verified_and_what_somebody_changed_is_found() {
    let store = Store::start_shop().await;
    let [audit, moved, by_others] = ["audit.jsonl", "audit.jsonl.1", "audit-of-november"].map(|name| store.path(name));
    let mut tierflow = serving(&store, &[]).await;
    assert_eq!(put(&tierflow, 2).await.status, 200);
    tierflow.kill();
    let mut tierflow = serving(&store, &[]).await;
    assert_eq!(put(&tierflow, 3).await.status, 200);
    std::fs::rename(&audit, &by_others).unwrap();
    assert_eq!(put(&tierflow, 4).await.status, 200);
    tierflow.kill();
    let tierflow = serving(&store, &["--audit-log-bytes-max=1", "--log=error,tierflow::serve=info"]).await;
    assert_eq!(tierflow.send("DELETE", "/v1/counters?api=pay&tier=api", &[], "").await.status, 200);
    let last = last_hash(&tierflow).await;
    assert!(store.log().contains(&last), "it is in the log whatever that is to tell");

    let all = [&*by_others, &*store.path("audit.jsonl.2"), &*moved, &*audit];
    let (is_well, told) = verify(&[&format!("--expect={last}")], &all);
    assert!(is_well, "{told}");
    for words in
        ["8 lines follow each other, from ", "audit-of-november line 1 on\n", &format!("the last hash is {last}\n")]
    {
        assert!(told.contains(words), "{told}");
    }
    let piped = Command::new(env!("CARGO_BIN_EXE_tierflow"))
        .args(["audit", "verify", "-"])
        .stdin(std::fs::File::open(&by_others).unwrap())
        .output();
    let told = String::from_utf8(piped.unwrap().stdout).unwrap();
    assert!(told.contains("follow each other, from standard input line 1 on\n"), "{told}");
    let (is_well, told) = verify(&[], &[&by_others, &audit]);
    assert!(!is_well && told.contains("audit.jsonl line 1: it does not follow"), "{told}");
    std::fs::write(&audit, "").unwrap();
    assert!(verify(&[], &all).0, "nothing in the files tells that the end is gone");
    let (is_well, told) = verify(&["--expect", &last], &all);
    assert!(!is_well && told.contains("the end was taken away"), "{told}");
    let text = std::fs::read_to_string(&by_others).unwrap();
    std::fs::write(&by_others, text.replacen("loopback", "nobody", 1)).unwrap();
    let (is_well, told) = verify(&[], &[&by_others]);
    assert!(!is_well && told.contains("audit-of-november line 2: it does not follow"), "{told}");
    let (is_well, told) = verify(&["--expect=7"], &[&audit]);
    assert!(!is_well && told.contains("expected the 64 hexadecimal digits"), "{told}");
}

/// A file that may not grow any more is a full disk: a part of a line still fits in.
#[tokio::test]
async fn on_a_full_disk_nothing_is_changed_and_the_chain_stays_whole() {
    let store = Store::start_shop().await;
    let tierflow = serving(&store, &[]).await;
    assert_eq!(put(&tierflow, 2).await.status, 200);
    serves_rate(&tierflow, 2).await;
    let size = || std::fs::metadata(audit_of(&store)).unwrap().len();
    let (before, hash) = (size(), last_hash(&tierflow).await);
    let limit = |bytes: Option<u64>| {
        let process = Pid::from_raw(i32::try_from(tierflow.process()).unwrap());
        let unlimited = prlimit(process, Resource::Fsize, Rlimit { current: None, maximum: None }).unwrap();
        prlimit(process, Resource::Fsize, Rlimit { current: bytes, maximum: unlimited.maximum }).unwrap();
    };
    limit(Some(before + 100));
    let refused = put(&tierflow, 3).await;
    assert!(refused.status == 507 && refused.text().contains("nothing is changed"), "{refused:?}");
    let reset = tierflow.send("DELETE", "/v1/counters?api=pay&tier=api", &[], "").await;
    assert_eq!(reset.status, 507, "{reset:?}");
    assert_eq!((size(), last_hash(&tierflow).await), (before, hash), "half a line is taken back");
    assert!(tierflow.status().await["audit"]["trouble"].as_str().unwrap().contains("large"));
    assert_eq!(rate(&tierflow).await, Some(2));

    limit(None);
    assert_eq!(put(&tierflow, 4).await.status, 200);
    assert_eq!(tierflow.status().await["audit"]["trouble"], Value::Null);
    let (is_well, told) = verify(&[], &[&audit_of(&store)]);
    assert!(is_well && told.contains("4 lines follow each other"), "{told}");
}

/// What hangs whoever syncs data while the file stands that HUNG_DISK names.
pub(crate) fn build_hung_disk(library: &Path) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/hung_disk.c");
    let cc = Command::new("cc").args(["-shared", "-fPIC", "-O1", source, "-ldl", "-o"]).arg(library).status();
    assert!(cc.unwrap().success());
}

/// As one of a network does, or one that somebody froze.
#[tokio::test]
async fn on_a_disk_that_hangs_nobody_waits_for_ever_and_nothing_is_changed() {
    let store = Store::start_shop().await;
    let [library, hung, hangs] = ["hung_disk.so", "hung", "hung.hangs"].map(|name| store.path(name));
    build_hung_disk(&library);
    let tierflow = serving_with_env(&store, &[], &[("LD_PRELOAD", &library), ("HUNG_DISK", &hung)]).await;
    assert_eq!(put(&tierflow, 2).await.status, 200);
    serves_rate(&tierflow, 2).await;

    std::fs::write(&hung, "").unwrap();
    let later = async {
        eventually("a line is being written", async || hangs.exists().then_some(())).await;
        put(&tierflow, 4).await
    };
    for refused in <[Answer; 2]>::from(tokio::join!(put(&tierflow, 3), later)) {
        assert_eq!(refused.status, 507, "{refused:?}");
        assert!(refused.text().contains("not written in time, so nothing is changed"), "{refused:?}");
    }
    let trouble = tierflow.status().await["audit"]["trouble"].as_str().unwrap().to_owned();
    assert!(trouble.contains("the oldest line has been waiting for"), "{trouble}");
    let ready = tierflow.json("/readyz").await;
    let row = ready["checks"].as_array().unwrap().iter().find(|row| row["name"] == "audit_log").unwrap();
    assert_eq!(row["ok"], false, "{ready}");
    let metrics = tierflow.ask("/metrics").await.text();
    assert!(metrics.contains("tierflow_audit_lines_unnoted_total{reason=\"late\"} 2"), "{metrics}");

    std::fs::remove_file(&hung).unwrap();
    eventually("it is well again", async || tierflow.status().await["audit"]["trouble"].is_null().then_some(())).await;
    assert_eq!(rate(&tierflow).await, Some(2));
    assert_eq!(put(&tierflow, 5).await.status, 200);
    let text = std::fs::read_to_string(audit_of(&store)).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let results: Vec<String> = lines.iter().map(|line| line["result"].to_string()).collect();
    assert_eq!(lines.len(), 6, "the line that waited was not written: {text}");
    assert!(lines[2]["change"] == lines[3]["change"] && results[3].contains("nothing is changed"), "{text}");
    assert!(verify(&[], &[&audit_of(&store)]).0);
}

/// A change whose client has gone is made all the same, and what came of it is known.
#[tokio::test]
async fn what_came_of_a_change_is_noted_also_where_its_client_left() {
    const CHANGES: usize = 30;
    let store = Store::start_shop().await;
    let tierflow = serving(&store, &[]).await;
    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(audit_of(&store)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    for change in 1..=CHANGES {
        let mut client = TcpStream::connect(tierflow.admin()).await.unwrap();
        let body = plan(1);
        let head = format!(
            "PUT /v1/policies/Plan/standard HTTP/1.1\r\nhost: localhost\r\nx-config-base-version: 999\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        client.write_all((head + &body).as_bytes()).await.unwrap();
        // It leaves as soon as it is noted what it asked for.
        eventually("it is asked for", async || {
            let asked = lines().iter().filter(|line| line["result"].is_null()).count();
            (asked == change).then_some(())
        })
        .await;
        drop(client);
    }
    eventually("all of them have ended", async || {
        let ended = lines().iter().filter(|line| !line["result"].is_null()).count();
        (ended == CHANGES).then_some(())
    })
    .await;
}
