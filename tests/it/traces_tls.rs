//! Spans over TLS: to a collector whose certificate a private authority signed, and to no other.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::floods;
use crate::harness::{Tierflow, any_addresses, eventually, tierflow as run};
use crate::tls::{Authority, in_days};
use crate::traces::Collector;

struct World {
    folder: TempDir,
    policies: PathBuf,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let policies = folder.path().join("policies");
        std::fs::create_dir(&policies).unwrap();
        std::fs::write(policies.join("policies.yaml"), floods::POLICIES).unwrap();
        Self { folder, policies }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A Tierflow that makes a span of each decision.
    async fn start(&self, collector: &str, ca: &Path) -> Tierflow {
        let source = vec![format!("--policies={}", self.policies.display())];
        let flags = [
            format!("--traces-otlp={collector}"),
            format!("--traces-otlp-ca={}", ca.display()),
            "--traces-sample-per-10000=10000".to_owned(),
        ];
        Tierflow::serve(&self.path("tierflow.log"), source, &flags, any_addresses()).await
    }

    fn save(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }
}

/// How many spans came to this end.
async fn spans(tierflow: &Tierflow, result: &str) -> u64 {
    let metrics = tierflow.ask("/metrics").await.text();
    let series = format!("tierflow_trace_spans_total{{result=\"{result}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_go_to_a_collector_whose_certificate_is_of_the_named_authority_and_to_no_other() {
    let world = World::new();
    let [authority, other] = [Authority::new(), Authority::new()];
    let collector = Collector::start_tls(&authority.issue(&["localhost", "127.0.0.1"], in_days(10))).await;
    let ca = world.save("ca.crt", &authority.pem());
    let port = collector.address.port();
    for url in [format!("https://127.0.0.1:{port}"), format!("https://localhost:{port}")] {
        let tierflow = world.start(&url, &ca).await;
        let before = collector.all().len();
        floods::assert_answers(&tierflow, 1, "spans are exported").await;
        eventually("a span arrives", async || (collector.all().len() > before).then_some(())).await;
        eventually("it is counted", async || (spans(&tierflow, "exported").await == 1).then_some(())).await;
    }

    let foreign = world.save("other.crt", &other.pem());
    let elsewhere = Collector::start_tls(&authority.issue(&["collector.internal"], in_days(10))).await;
    for (url, ca, expected) in [
        (format!("https://127.0.0.1:{port}"), &foreign, "invalid peer certificate: "),
        (format!("https://{}", elsewhere.address), &ca, "not valid for name"),
    ] {
        let tierflow = world.start(&url, ca).await;
        let before = collector.all().len();
        floods::assert_answers(&tierflow, 1, "spans are lost").await;
        eventually("it is counted", async || (spans(&tierflow, "failed").await == 1).then_some(())).await;
        let log = std::fs::read_to_string(world.path("tierflow.log")).unwrap();
        let told = log.lines().find(|line| line.contains("spans are lost")).unwrap();
        assert!(told.contains(expected), "{told}");
        assert_eq!((collector.all().len(), elsewhere.all().len()), (before, 0));
    }
}

#[test]
fn an_authority_that_cannot_be_used_is_told_at_the_start() {
    let world = World::new();
    let policies = format!("--policies={}", world.policies.display());
    for (ca, expected) in [
        (world.path("nowhere.crt"), "nowhere.crt: No such file"),
        (world.save("text.crt", "no certificate"), "text.crt: expected a CERTIFICATE in PEM"),
    ] {
        let ca = format!("--traces-otlp-ca={}", ca.display());
        let ports = ["xds", "rls", "admin"].map(|port| format!("--{port}-listen=127.0.0.1:0"));
        let flags = ["serve", &policies, "--traces-otlp=https://127.0.0.1:4317", &ca];
        let output = run(&flags.into_iter().chain(ports.iter().map(String::as_str)).collect::<Vec<_>>());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(1) && said.contains("--traces-otlp-ca ") && said.contains(expected),
            "{said}"
        );
    }
}
