//! The rows about what waits: each is brought to not ok on the real program, by somebody who does not take what it has for them,
/// and back.
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tierflow::snapshot::resource::ResourceType;
use tokio_stream::StreamExt as _;
use tonic::transport::{Channel, Endpoint};

use crate::ads::first;
use crate::floods::{self, question};
use crate::harness::{DEADLINE, Program, Tierflow, any_addresses, eventually, eventually_within, free_address};
use crate::kit::client::Client;
use crate::traces::Collector;

/// Requests that are asked for at once, again and again, until too much waits.
const AT_ONCE: usize = 500;

async fn row(admin: SocketAddr, name: &str) -> Value {
    let answer = Client::default().get(&format!("http://{admin}/readyz")).await.unwrap();
    assert_eq!(answer.status, 200, "degraded is not dead");
    let ready: Value = serde_json::from_slice(&answer.body).unwrap();
    ready["checks"].as_array().unwrap().iter().find(|row| row["name"] == name).unwrap().clone()
}

/// Asks for decisions until the row is not ok.
async fn ask_until_unwell(rls: SocketAddr, admin: SocketAddr, name: &str) -> Value {
    let client = RateLimitServiceClient::connect(format!("http://{rls}")).await.unwrap();
    let ask = async || client.clone().should_rate_limit(question()).await.unwrap();
    eventually_within(4 * DEADLINE, "too much waits", async || {
        join_all((0..AT_ONCE).map(|_| ask())).await;
        Some(row(admin, name).await).filter(|row| row["ok"] == false)
    })
    .await
}

fn policies(folder: &Path, text: &str) -> String {
    let policies = folder.join("policies");
    std::fs::create_dir(&policies).unwrap();
    std::fs::write(policies.join("policies.yaml"), text).unwrap();
    format!("--policies={}", policies.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_that_a_collector_does_not_take_are_seen_while_they_wait() {
    let folder = tempfile::tempdir().unwrap();
    let collector = Collector::start().await;
    collector.hangs(true);
    let source = vec![policies(folder.path(), floods::POLICIES)];
    let flags = [format!("--traces-otlp=http://{}", collector.address), "--traces-sample-per-10000=10000".to_owned()];
    let tierflow = Tierflow::serve(&folder.path().join("log"), source, &flags, any_addresses()).await;
    assert_eq!(row(tierflow.admin(), "spans").await["ok"], true);
    let full = ask_until_unwell(tierflow.rls, tierflow.admin(), "spans").await;
    assert_eq!(full, json!({ "name": "spans", "ok": false, "value": 4096, "threshold": 4096, "unit": "spans" }));
    collector.hangs(false);
    eventually("all are taken", async || {
        let row = row(tierflow.admin(), "spans").await;
        (row["ok"] == true && row["value"] == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denials_that_nobody_reads_are_seen_while_they_wait() {
    let folder = tempfile::tempdir().unwrap();
    let ports = [free_address(), free_address(), free_address()];
    let [xds, rls, admin] = ports;
    let child = Command::new(env!("CARGO_BIN_EXE_tierflow"))
        .args(["serve", &policies(folder.path(), &floods::POLICIES.replace("1000000/h", "1/h"))])
        .args(["--denials-log=-", "--denials-log-per-second=100000"])
        .args([format!("--xds-listen={xds}"), format!("--rls-listen={rls}"), format!("--admin-listen={admin}")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(folder.path().join("log")).unwrap())
        .spawn();
    let mut program = Program(child.unwrap());
    let ready = format!("http://{admin}/readyz");
    eventually("it is ready", async || {
        let answer = Client::default().get(&ready).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    assert_eq!(row(admin, "denials_log").await["ok"], true);
    let full = ask_until_unwell(rls, admin, "denials_log").await;
    assert_eq!(full, json!({ "name": "denials_log", "ok": false, "value": 4096, "threshold": 4096, "unit": "lines" }));
    let mut output = program.0.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).map(|_| text)
    });
    eventually("all are read", async || {
        let row = row(admin, "denials_log").await;
        (row["ok"] == true && row["value"] == 0).then_some(())
    })
    .await;
    program.signal("TERM");
    let text = reader.join().unwrap().unwrap();
    assert!(text.lines().count() > 4096, "{}", text.lines().count());
}

/// Less than all endpoints of the service take, and more than what is sent at once.
const UNREAD_BYTES_MAX: u64 = 50_000;
const ENDPOINTS: usize = 4000;

fn many_endpoints() -> String {
    let endpoints = (0..ENDPOINTS).map(|number| format!("10.0.{}.{}:80", number / 256, number % 256));
    let endpoints = endpoints.collect::<Vec<_>>().join(", ");
    floods::POLICIES.replace("127.0.0.1:9101", &endpoints)
}

/// Somebody who asks for the endpoints and reads next to nothing of them, until the connection is closed.
async fn do_not_read(xds: SocketAddr) {
    const WINDOW: u32 = 1024;
    let endpoint = Endpoint::from_shared(format!("http://{xds}")).unwrap();
    let endpoint = endpoint.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let channel: Channel = endpoint.connect().await.unwrap();
    let requests = tokio_stream::once(first("slow", ResourceType::Endpoint, &["order"])).chain(tokio_stream::pending());
    let stream = AggregatedDiscoveryServiceClient::new(channel).stream_aggregated_resources(requests).await;
    let _stream = stream.unwrap();
    std::future::pending::<()>().await;
}

/// How many connections were closed because too much was unread.
async fn closed(tierflow: &Tierflow) -> u64 {
    let metrics = tierflow.ask("/metrics").await.text();
    let series = "tierflow_xds_unread_closed_total{reason=\"full\"} ";
    metrics.lines().find_map(|line| line.strip_prefix(series)).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_envoy_does_not_read_is_seen_until_its_connection_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let source = vec![policies(folder.path(), &many_endpoints())];
    let flags = [format!("--xds-unread-bytes-max={UNREAD_BYTES_MAX}")];
    let tierflow = Tierflow::serve(&folder.path().join("log"), source, &flags, any_addresses()).await;
    assert_eq!(tierflow.status().await["refused"], json!([]));
    assert_eq!(row(tierflow.admin(), "xds_unread").await["ok"], true);
    // It is closed after 2 s; on a machine that is busy nobody may have looked by then.
    let full = eventually("too much is unread", async || {
        let (_slow, before) = (tokio::spawn(do_not_read(tierflow.xds)), closed(&tierflow).await);
        let mut full = None;
        while full.is_none() && closed(&tierflow).await == before {
            full = Some(row(tierflow.admin(), "xds_unread").await).filter(|row| row["ok"] == false);
        }
        full
    })
    .await;
    assert_eq!((&full["threshold"], &full["unit"]), (&json!(UNREAD_BYTES_MAX), &json!("bytes")));
    assert!(full["value"].as_u64().unwrap() > UNREAD_BYTES_MAX, "{full}");
    eventually("nothing is unread", async || {
        let row = row(tierflow.admin(), "xds_unread").await;
        (row["ok"] == true && row["value"] == 0).then_some(())
    })
    .await;
    assert!(closed(&tierflow).await > 0);
}
