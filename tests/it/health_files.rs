//! The rows about files that are written and read while Tierflow runs: each is brought to not ok on the real program and back,
//! says why to whoever may read it, and nobody is served any worse meanwhile.

use std::path::{Path, PathBuf};

use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::floods::{self, question};
use crate::harness::{Tierflow, any_addresses, eventually, tierflow as run};
use crate::store::{Store, document, serves_rate};
use crate::tls;
use crate::web::Visit;

/// So much may pass.
fn policies(rate: &str) -> String {
    floods::POLICIES.replace("1000000/h", rate)
}

struct World {
    tierflow: Tierflow,
    /// How verbs reach it.
    server: Vec<String>,
    folder: TempDir,
}

impl World {
    async fn start(flags: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("policies")).unwrap();
        std::fs::write(folder.path().join("policies/policies.yaml"), policies("1/h")).unwrap();
        let source = vec![format!("--policies={}", folder.path().join("policies").display())];
        let flags = flags(folder.path());
        let tierflow = Tierflow::serve(&folder.path().join("tierflow.log"), source, &flags, any_addresses()).await;
        let server = vec![format!("--server=http://{}", tierflow.admin())];
        Self { tierflow, server, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What `tierflow status` prints, and whether all is well.
    fn status(&self, output: &str) -> (bool, String) {
        status(&self.server, output)
    }

    fn row(&self, name: &str) -> Value {
        row(&self.server, name)
    }
}

fn status(server: &[String], output: &str) -> (bool, String) {
    let args: Vec<&str> = ["status", "-o", output].into_iter().chain(server.iter().map(String::as_str)).collect();
    let ended = run(&args);
    (ended.status.success(), String::from_utf8(ended.stdout).unwrap())
}

fn row(server: &[String], name: &str) -> Value {
    let status: Value = serde_json::from_str(&status(server, "json").1).unwrap();
    let checks = status["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{status}")).clone()
}

/// Waits until the row is not ok for a reason with these words, and the verb says so. Returns the reason.
async fn unwell(world: &World, name: &str, words: &str) -> String {
    eventually(&format!("{name} is not ok: {words}"), async || {
        let row = world.row(name);
        let reason = row["reason"].as_str().filter(|reason| row["ok"] == false && reason.contains(words))?;
        let (is_well, told) = world.status("table");
        (!is_well && told.contains(&format!("\n{name}: {reason}\n"))).then(|| reason.to_owned())
    })
    .await
}

async fn well(world: &World, name: &str) {
    eventually(&format!("{name} is ok"), async || {
        let row = world.row(name);
        let (is_well, told) = world.status("table");
        (row["ok"] == true && row.get("reason").is_none() && is_well && !told.contains("NOT OK")).then_some(())
    })
    .await;
}

/// What `/readyz` says to everybody, and `/metrics` to Prometheus.
async fn assert_shown(tierflow: &Tierflow, name: &str, is_ok: bool) {
    let ready = tierflow.ask("/readyz").await;
    assert_eq!(ready.status, 200, "degraded is not dead");
    let checks: Value = serde_json::from_slice(&ready.body).unwrap();
    let row = checks["checks"].as_array().unwrap().iter().find(|row| row["name"] == name).unwrap().clone();
    assert_eq!((&row["ok"], row.get("reason")), (&json!(is_ok), None), "{row}");
    let metrics = tierflow.ask("/metrics").await.text();
    let series = format!("tierflow_check_ok{{check=\"{name}\"}} {}\n", u8::from(is_ok));
    assert!(metrics.contains(&series), "{series}: {metrics}");
}

async fn is_admitted(tierflow: &Tierflow) -> bool {
    let mut client = RateLimitServiceClient::connect(format!("http://{}", tierflow.rls)).await.unwrap();
    client.should_rate_limit(question()).await.unwrap().into_inner().overall_code == Code::Ok as i32
}

fn limit_file_size(tierflow: &Tierflow, bytes: Option<u64>) {
    let process = Pid::from_raw(i32::try_from(tierflow.process()).unwrap());
    let unlimited = prlimit(process, Resource::Fsize, Rlimit { current: None, maximum: None }).unwrap();
    prlimit(process, Resource::Fsize, Rlimit { current: bytes, maximum: unlimited.maximum }).unwrap();
}

async fn is_kept(state: &Path) {
    eventually("a set is kept", async || {
        let files = std::fs::read_dir(state).ok()?;
        files.flatten().any(|file| file.file_name().to_string_lossy().ends_with(".set.jsonl")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_last_good_set_that_cannot_be_kept_is_told_until_it_is_kept_again() {
    let world = World::start(|folder| vec![format!("--state-dir={}", folder.join("state").display())]).await;
    let (tierflow, state) = (&world.tierflow, world.path("state"));
    is_kept(&state).await;
    well(&world, "last_good_set").await;
    let expected = json!({ "name": "last_good_set", "ok": true, "value": 0.0, "threshold": 10, "unit": "seconds" });
    assert_eq!(world.row("last_good_set"), expected);
    assert_shown(tierflow, "last_good_set", true).await;

    // Nothing has changed since it was kept.
    std::fs::remove_dir_all(&state).unwrap();
    unwell(&world, "last_good_set", &format!("not on disk for the next start: {}: No such file", state.display()))
        .await;
    assert_shown(tierflow, "last_good_set", false).await;
    let visit = Visit::start(world.folder.path(), tierflow).await;
    visit.sees("Last good set on disk: what is served is not on disk for the next start: ").await;
    std::fs::write(&state, "a file in its place").unwrap();
    unwell(&world, "last_good_set", "Not a directory").await;
    std::fs::remove_file(&state).unwrap();
    std::fs::create_dir(&state).unwrap();
    well(&world, "last_good_set").await;
    is_kept(&state).await;

    // As on a full disk. What changes meanwhile is served.
    limit_file_size(tierflow, Some(16));
    let generation = tierflow.generation().await;
    std::fs::write(world.path("policies/policies.yaml"), policies("2/h")).unwrap();
    unwell(&world, "last_good_set", "File too large").await;
    eventually("it is served", async || (tierflow.generation().await > generation).then_some(())).await;
    limit_file_size(tierflow, None);
    well(&world, "last_good_set").await;
    let kept = std::fs::read_dir(&state).unwrap().flatten().map(|file| std::fs::read_to_string(file.path()).unwrap());
    assert!(kept.into_iter().any(|text| text.contains("2/h")), "the newest is kept without another change");
}

#[tokio::test]
async fn a_log_of_denials_that_cannot_be_written_is_told_until_it_is_written_again() {
    let world = World::start(|folder| vec![format!("--denials-log={}", folder.join("denials.jsonl").display())]).await;
    let (tierflow, file) = (&world.tierflow, world.path("denials.jsonl"));
    well(&world, "denials_log").await;
    let denied = async || while is_admitted(tierflow).await {};
    denied().await;
    eventually("it is noted", async || (std::fs::metadata(&file).unwrap().len() > 0).then_some(())).await;
    std::fs::rename(&file, world.path("moved.jsonl")).unwrap();
    std::fs::create_dir(&file).unwrap();
    denied().await;
    unwell(&world, "denials_log", "denials are missing in it: ").await;
    assert_shown(tierflow, "denials_log", false).await;
    let lost = "tierflow_denials_logged_total{result=\"failed\"} 1\n";
    let metrics = tierflow.ask("/metrics").await.text();
    assert!(metrics.contains(lost), "{metrics}");

    std::fs::remove_dir(&file).unwrap();
    well(&world, "denials_log").await;
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("\"left_out\":1"), "what is missing is told where it is missing: {text}");
}

#[tokio::test]
async fn an_audit_log_that_cannot_be_moved_away_is_written_on_and_told() {
    let store = Store::start_shop().await;
    let file = store.path("audit.jsonl");
    let flags = [
        format!("--audit-log={}", file.display()),
        "--audit-log-bytes-max=1".to_owned(),
        "--audit-log-files-max=1".to_owned(),
    ];
    let tierflow = store.tierflow_at(store.endpoint(), &flags).await;
    let put = async |rate: u32| {
        let plan = document("Plan", "standard", &format!("{{limits: [{{rate: {rate}/h}}]}}"));
        let base = tierflow.status().await["source"]["revision"].to_string();
        let headers = [("x-config-base-version", base.as_str())];
        tierflow.send("PUT", "/v1/policies/Plan/standard", &headers, &plan).await.status
    };
    eventually("it may write", async || (put(2).await == 200).then_some(())).await;
    serves_rate(&tierflow, 2).await;
    assert_shown(&tierflow, "audit_log", true).await;
    let moved = store.path("audit.jsonl.1");
    std::fs::remove_file(&moved).unwrap();
    std::fs::create_dir(&moved).unwrap();
    assert_eq!(put(3).await, 200, "what can be noted is changed");
    serves_rate(&tierflow, 3).await;
    let server = [format!("--server=http://{}", tierflow.admin())];
    let told = row(&server, "audit_log");
    let why = told["reason"].as_str().unwrap();
    assert!(told["ok"] == false && why.contains("and grows, for it cannot be moved away: Is a directory"), "{told}");
    let audit = tierflow.status().await["audit"].take();
    assert!(audit["trouble"].is_null() && audit["unmoved"].is_string(), "{audit}");
    assert_shown(&tierflow, "audit_log", false).await;
    let (is_well, table) = status(&server, "table");
    assert!(!is_well && table.contains(&format!("audit_log: {why}\n")), "{table}");

    std::fs::remove_dir(&moved).unwrap();
    assert_eq!(put(4).await, 200);
    serves_rate(&tierflow, 4).await;
    assert_eq!(row(&server, "audit_log")["ok"], true);
    assert!(moved.is_file());
}

#[tokio::test]
async fn a_certificate_that_cannot_be_taken_is_told_without_its_secrets() {
    let of_tests = |name: &str| std::fs::read_to_string(tls::certificate(name)).unwrap();
    let mut world = World::start(|folder| {
        for ending in ["crt", "key"] {
            std::fs::write(folder.join("tls").with_extension(ending), of_tests(&format!("server.{ending}"))).unwrap();
        }
        [("cert", "tls.crt"), ("key", "tls.key")]
            .map(|(flag, file)| format!("--tls-{flag}={}", folder.join(file).display()))
            .to_vec()
    })
    .await;
    let admin = world.tierflow.admin();
    world.server =
        vec![format!("--server=https://{admin}"), format!("--server-ca={}", tls::certificate("authority.crt"))];
    well(&world, "refused_files").await;
    let key = world.path("tls.key");
    for (content, expected) in [
        (Some("no key".to_owned()), "tls.key: expected a PRIVATE KEY in PEM"),
        (Some(of_tests("client.key")), "tls.crt: cannot be used with the key"),
        (None, "tls.key: No such file"),
    ] {
        match &content {
            Some(content) => std::fs::write(&key, content).unwrap(),
            None => std::fs::remove_file(&key).unwrap(),
        }
        let why = unwell(&world, "refused_files", expected).await;
        assert!(why.starts_with("the certificate of before is shown: --tls-"), "{why}");
        let is_secret = |line: &&str| line.len() > 20 && !line.starts_with("-----") && why.contains(*line);
        assert_eq!(content.iter().flat_map(|key| key.lines()).find(is_secret), None);
        assert_eq!(world.row("refused_files")["value"], 1);
    }
    std::fs::write(&key, of_tests("server.key")).unwrap();
    well(&world, "refused_files").await;
}
