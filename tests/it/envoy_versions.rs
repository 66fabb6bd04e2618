//! What older Envoys do not know, by the table of `compile::features`; with the oldest Envoy that is supported. That it
//! knows everything else is shown by `random_policies`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tierflow::compile::features::{FEATURES, NEWEST, OLDEST, Row};
use tierflow::snapshot::feature::{EnvoyVersion, Feature, Older};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Edge, Setup, Tierflow, eventually, free_address, gateway, printed, save, tierflow};
use crate::kit::envoy::validate_with;
use crate::kit::tools;
use crate::kit::upstream::Upstream;

/// For each feature of the table a policy that leads to it.
const USES: [(&str, &str); 4] = [
    (
        "jwt_claim",
        "kind: Api\nname: uses\ngateway: edge\nmatch: { path: /uses }\nservice: upstream\nlimits: [{ rate: 5/h, by: [{ jwt_claim: sub }] }]",
    ),
    (
        "remote_address_match",
        "name: uses\nrate_limits: [{ actions: [{ remote_address_match: { descriptor_value: v, address_matcher: { ranges: [{ address_prefix: 10.0.0.0, prefix_len: 8 }] } } }], limit: { unit: HOUR, requests_per_unit: 5 } }]",
    ),
    (
        "metadata of CLUSTER_ENTRY",
        "name: uses\nrate_limits: [{ actions: [{ metadata: { descriptor_key: v, default_value: d, source: CLUSTER_ENTRY, metadata_key: { key: k, path: [{ key: p }] } } }], limit: { unit: HOUR, requests_per_unit: 5 } }]",
    ),
    (
        "default_value beside descriptor_value",
        "name: uses\nrate_limits: [{ actions: [{ generic_key: { descriptor_value: v, default_value: d } }], limit: { unit: HOUR, requests_per_unit: 5 } }]",
    ),
];

const API: &str = "kind: Api
name: a
gateway: edge
match: { path: / }
service: upstream
";

/// Whether an Envoy knows what a gateway with these policies gets. In a bootstrap a field that it does not know is an
/// error, also where it would be ignored in a resource.
fn knows(envoy: &Path, policies: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let policies = [&gateway(&Setup::default(), address, address), API, policies].join("---\n");
    std::fs::write(folder.path().join("policies.yaml"), policies).unwrap();
    validate_with(envoy, folder.path(), &printed(&["compile", folder.path().to_str().unwrap()]))
}

pub(crate) fn version_of(envoy: &Path) -> EnvoyVersion {
    let output = Command::new(envoy).arg("--version").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let (_, build) = said.split_once("version: ").unwrap();
    EnvoyVersion::parse(build.split('/').nth(1).unwrap()).unwrap()
}

#[test]
fn the_oldest_envoy_is_the_one_that_the_table_speaks_of() {
    assert_eq!(version_of(tools::oldest_envoy().unwrap()), OLDEST);
    assert!((OLDEST..=NEWEST).contains(&version_of(tools::envoy().unwrap())));
}

#[test]
fn the_docs_have_the_same_table() {
    let docs = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operating.md")).unwrap();
    let (_, table) = docs.split_once("| needed by policies | Envoy since | an older one |\n|---|---|---|\n").unwrap();
    let rows: Vec<&str> = table.lines().take_while(|line| line.starts_with('|')).collect();
    let row = |row: &Row| {
        let Feature { name, since, older } = &row.feature;
        format!("| `{name}` | {since} | {} |", older.as_str())
    };
    assert_eq!(rows, FEATURES.each_ref().map(row));
    assert!(docs.contains(&format!("| Envoy | {OLDEST} to {NEWEST} |")));
}

#[test]
fn the_oldest_envoy_does_not_know_what_is_in_the_table() {
    assert_eq!(USES.map(|(name, _)| name), FEATURES.each_ref().map(|row| row.feature.name));
    for (name, policies) in USES {
        assert!(knows(tools::oldest_envoy().unwrap(), policies).is_err(), "{name}");
    }
}

#[test]
fn the_newest_envoy_knows_what_is_in_the_table_since_envoy_1_40() {
    for (name, policies) in USES {
        knows(tools::envoy().unwrap(), policies).unwrap_or_else(|said| panic!("{name}: {said}"));
    }
}

/// Envoy closes a connection that is one too many before it reads from it.
async fn is_taken(listen: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(listen).await.ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.ok()?;
    let read = stream.read(&mut [0; 1024]).await.ok()?;
    (read > 0).then_some(stream)
}

#[tokio::test]
async fn an_envoy_takes_no_more_connections_than_its_bootstrap_says() {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    let upstream = Upstream::start("upstream", (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    for (id, start) in
        [("new-1", Edge::start_newest as fn(&Path, &Tierflow, &str, SocketAddr) -> Edge), ("old-1", Edge::start_oldest)]
    {
        let listen = free_address();
        save(&policies, "gateway.yaml", &(gateway(&Setup::default(), listen, upstream.address) + "---\n" + API));
        let tierflow = Tierflow::start(&policies).await;
        let tierflow = tierflow.with_verb_flags(&["--downstream-connections-max=2".to_owned()]);
        let edge = start(folder.path(), &tierflow, id, listen);
        edge.ready().await;
        let first = is_taken(listen).await;
        let second = is_taken(listen).await;
        assert!(first.is_some() && second.is_some(), "{id}: two are taken");
        assert!(is_taken(listen).await.is_none(), "{id}: a third is not");
        drop(first);
        eventually("there is room again", async || is_taken(listen).await).await;
    }
}

/// An Envoy of the oldest version that is offered one feature after the other.
#[tokio::test]
async fn the_operator_is_told_what_an_envoy_is_too_old_for() {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    let upstream = Upstream::start("upstream", (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let listen = free_address();
    save(&policies, "gateway.yaml", &(gateway(&Setup::default(), listen, upstream.address) + "---\n" + API));
    let tierflow_server = Tierflow::start(&policies).await;
    let edge = Edge::start_oldest(folder.path(), &tierflow_server, "old-1", listen);
    edge.ready().await;
    assert_eq!(tierflow_server.status().await["nodes"]["too_old"], Value::Array(Vec::new()));

    for (row, (name, uses)) in FEATURES.iter().zip(USES) {
        save(&policies, "uses.yaml", uses);
        let expected = if row.feature.older == Older::Refuses { "refusing" } else { "live" };
        let node = eventually(name, async || {
            let node = tierflow_server.json("/v1/nodes/old-1").await["nodes"][0].take();
            let is_told = node["too_old_for"][0]["feature"] == name;
            let has_answered = node["standing"] == expected && node["generation"] == tierflow_server.generation().await;
            (is_told && (has_answered || node["standing"] == "refusing")).then_some(node)
        })
        .await;
        assert_eq!(node["standing"], expected, "{name}: {node}");
        let told = &node["too_old_for"];
        assert_eq!(told.as_array().unwrap().len(), 1, "{name}: {told}");
        assert_eq!(told[0]["since"], row.feature.since.to_string());
        assert_eq!(told[0]["older"], row.feature.older.as_str());
        let document = if uses.contains("kind: Api") { "Api uses" } else { "RateLimits uses" };
        assert_eq!(told[0]["documents"][0], document);

        let status = tierflow(&["status", &format!("--server=http://{}", tierflow_server.admin())]);
        let status = String::from_utf8(status.stdout).unwrap();
        let line =
            format!("{} {name}, which Envoy has since {}: {document}", row.feature.older.as_str(), row.feature.since);
        assert!(status.contains("too old: old-1, which is Envoy 1.36.4") && status.contains(&line), "{status}");
        assert_eq!(edge.get("/").await.status, 200, "it goes on with what it had");
    }
    // It was told before Envoy said anything.
    let log = std::fs::read_to_string(policies.with_extension("log")).unwrap();
    let told = log.find("Envoy is too old: it refuses").unwrap();
    assert!(told < log.find("Envoy refused a response").unwrap(), "{log}");

    save(&policies, "uses.yaml", "");
    eventually("nothing is left that it is too old for", async || {
        let status = tierflow_server.status().await;
        (status["nodes"]["too_old"] == Value::Array(Vec::new())).then_some(())
    })
    .await;
}
