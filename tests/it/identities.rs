//! Who may have a gateway: `node.id` is a claim, and a certificate bears it out or does not.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use serde_json::{Value, json};
use tempfile::TempDir;
use tierflow::snapshot::resource::ResourceType;
use tonic::Code;

use crate::ads::{Delta, Sotw, first, first_delta};
use crate::harness::{
    Edge, Setup, Tierflow, any_addresses, eventually, free_address, gateway, printed, save, tierflow as run,
};
use crate::kit::client::Client;
use crate::kit::envoy::Envoy;
use crate::kit::tools;
use crate::kit::upstream::Upstream;
use crate::tls::{Authority, TlsClient, in_days};

const API: &str = "
---
kind: Api
name: pay
gateway: edge
match: { path: /pay }
service: upstream
limits: [{ rate: 1000/h }]
";
const OF_EDGE: &str = "identities: [spiffe://shop/edge, edge.shop]";
const OF_OTHERS: &str = "identities: [spiffe://shop/others]";

/// A server that asks for certificates, and the certificates of two Envoys.
struct World {
    folder: TempDir,
    authority: Authority,
    tierflow: Tierflow,
    upstream: Upstream,
    listen: SocketAddr,
}

impl World {
    async fn start(identities: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let authority = Authority::new();
        std::fs::write(path.join("ca.crt"), authority.pem()).unwrap();
        authority.issue(&["127.0.0.1"], in_days(100)).write(path, "server");
        authority.issue(&["spiffe://shop/edge"], in_days(100)).write(path, "edge");
        authority.issue(&["spiffe://shop/thief"], in_days(100)).write(path, "thief");
        let upstream = Upstream::start("upstream", (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let listen = free_address();
        std::fs::create_dir(path.join("policies")).unwrap();
        save_policies(path, identities, listen, upstream.address);
        let tls = [("cert", "server.crt"), ("key", "server.key"), ("client-ca", "ca.crt")];
        let tls = tls.map(|(flag, file)| format!("--tls-{flag}={}", path.join(file).display()));
        let source = vec![format!("--policies={}", path.join("policies").display())];
        let tierflow = Tierflow::serve(&path.join("tierflow.log"), source, &tls, any_addresses()).await;
        Self { folder, authority, tierflow, upstream, listen }
    }

    fn save(&self, identities: &str) {
        save_policies(self.folder.path(), identities, self.listen, self.upstream.address);
    }

    /// The flags of a verb for somebody with this certificate.
    fn flags(&self, who: &str) -> Vec<String> {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        let (ca, crt, key) = (file("ca.crt"), file(&format!("{who}.crt")), file(&format!("{who}.key")));
        vec![format!("--server-ca={ca}"), format!("--server-cert={crt}"), format!("--server-key={key}")]
    }

    /// An Envoy that says that it is `edge-1`, with the certificate of somebody.
    fn envoy(self, who: &str, xds: &str) -> (Self, Edge) {
        let folder = self.folder.path().join(format!("envoy-{who}"));
        std::fs::create_dir(&folder).unwrap();
        let policies = format!("--policies={}", self.folder.path().join("policies").display());
        let flags = [vec![policies], self.flags(who)].concat();
        let tierflow = self.tierflow.with_only_verb_flags(flags);
        let edge = Edge::start(&folder, &tierflow, "edge-1", xds, self.listen);
        (Self { tierflow, ..self }, edge)
    }

    fn client(&self, names: &[&str]) -> TlsClient {
        TlsClient::new(&self.authority, &self.authority.issue(names, in_days(100)))
    }

    fn status(&self) -> Value {
        let server = format!("--server=https://{}", self.tierflow.admin());
        let flags = self.flags("edge");
        let flags = ["status", &server, "--output=json"].into_iter().chain(flags.iter().map(String::as_str));
        let output = run(&flags.collect::<Vec<_>>());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    }

    /// Whom the server has denied, as port, node and reason.
    fn denied(&self) -> Vec<(String, Value, String)> {
        let status = self.status();
        let told = |denied: &Value| {
            let text = |field: &str| denied[field].as_str().unwrap().to_owned();
            (text("port"), denied["node"].clone(), text("reason"))
        };
        status["denied"].as_array().unwrap().iter().map(told).collect()
    }

    /// How the rate limit service answers a request of the gateway.
    async fn ask(&self, client: &TlsClient) -> Code {
        let entry = Entry { key: "api".to_owned(), value: "pay/".to_owned() };
        let descriptors = vec![RateLimitDescriptor { entries: vec![entry], ..Default::default() }];
        let request = RateLimitRequest { domain: "tierflow/edge".to_owned(), descriptors, hits_addend: 0 };
        let answer =
            RateLimitServiceClient::new(client.connect(self.tierflow.rls).await).should_rate_limit(request).await;
        answer.map_or_else(|status| status.code(), |_| Code::Ok)
    }
}

fn save_policies(folder: &Path, identities: &str, listen: SocketAddr, upstream: SocketAddr) {
    let setup = Setup { gateway: identities, ..Setup::default() };
    save(&folder.join("policies"), "shop.yaml", &format!("{}{API}", gateway(&setup, listen, upstream)));
}

const REASON: &str = "gateway edge is not for the certificate of spiffe://shop/thief";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_with_the_certificate_of_another_gateway_gets_nothing_of_this_one() {
    let (world, honest) = World::start(OF_EDGE).await.envoy("edge", "delta");
    honest.ready().await;
    assert_eq!(honest.get("/pay").await.status, 200);
    let (world, thief) = world.envoy("thief", "sotw");
    thief.starts().await;
    let is_told = |denied: &(String, Value, String)| denied.1 == json!("edge-1") && denied.2 == REASON;
    eventually("the server tells of it", async || world.denied().iter().any(is_told).then_some(())).await;
    eventually("Envoy was answered", async || {
        let [streams] = thief.stats(["cluster.tierflow_xds.upstream_rq_total"]).await;
        (streams > 2).then_some(())
    })
    .await;
    let taken =
        ["cluster_manager.cds.update_success", "listener_manager.lds.update_success", "cluster_manager.cluster_added"];
    // Of its clusters one is its own.
    assert_eq!(thief.stats(taken).await, [0, 0, 1]);
    // Envoy writes it as it came, in percent encoding.
    assert!(thief.log().contains("closed: 7, gateway%20edge%20is%20not%20for"), "{}", thief.log());
    let log = std::fs::read_to_string(world.folder.path().join("tierflow.log")).unwrap();
    assert!(log.contains(&format!("denied: {REASON}")), "{log}");

    // Nobody else has less because of it.
    world.save(&format!("{OF_EDGE}\npath: {{ escaped_slashes: keep }}"));
    eventually("the honest one has what is new", async || {
        let [updates] = honest.stats(["listener_manager.lds.update_success"]).await;
        (updates > 1).then_some(())
    })
    .await;
    assert_eq!(honest.get("/pay").await.status, 200);
    drop((honest, thief));
}

/// Its routes and all the rest it has from somewhere; its certificate it cannot have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_with_the_certificate_of_another_gateway_gets_no_decision_for_this_one() {
    let world = World::start(OF_EDGE).await;
    let (client, rls) = (Client::default(), format!("--rls-advertise={}", world.tierflow.rls));
    for (who, expected) in [("edge", 200), ("thief", 503)] {
        let folder = world.folder.path().join(format!("static-{who}"));
        std::fs::create_dir_all(folder.join("policies")).unwrap();
        let listen = free_address();
        save_policies(&folder, OF_EDGE, listen, world.upstream.address);
        let (policies, flags) = (folder.join("policies").display().to_string(), world.flags(who));
        let args = ["compile", &policies, &rls].into_iter().chain(flags.iter().map(String::as_str));
        let compiled = printed(&args.collect::<Vec<_>>());
        let envoy = Envoy::start_program(tools::envoy().unwrap(), &folder, who, &compiled).unwrap();
        eventually("the Envoy answers as its certificate lets it", async || {
            let answer = client.get(&format!("http://{listen}/pay")).await.ok()?;
            (answer.status == expected).then_some(())
        })
        .await;
        drop(envoy);
    }
    let is_told = |denied: &(String, Value, String)| denied == &("rls".to_owned(), Value::Null, REASON.to_owned());
    assert!(world.denied().iter().any(is_told), "{:?}", world.denied());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_node_says_of_itself_its_certificate_decides() {
    let world = World::start(OF_EDGE).await;
    let xds = world.tierflow.xds;
    let others: [&[&str]; 4] = [&["spiffe://shop/thief"], &["10.0.0.7"], &["*.shop", "shop"], &["spiffe://shop/edge2"]];
    for names in others {
        let client = world.client(names);
        let mut sotw = Sotw::open_as(&client, xds).await;
        sotw.say(first("edge-1", ResourceType::Cluster, &[])).await;
        assert_eq!(sotw.hear().await.unwrap_err().code(), Code::PermissionDenied, "{names:?}");
        let mut delta = Delta::open_as(&client, xds).await;
        delta.say(first_delta("edge-1", ResourceType::Listener, &["*"])).await;
        assert_eq!(delta.hear().await.unwrap_err().code(), Code::PermissionDenied, "{names:?}");
        assert_eq!(world.ask(&client).await, Code::PermissionDenied, "{names:?}");
    }
    for name in ["spiffe://shop/edge", "EDGE.shop"] {
        let client = world.client(&["other.shop", name]);
        let mut sotw = Sotw::open_as(&client, xds).await;
        sotw.say(first("edge-1", ResourceType::Cluster, &[])).await;
        assert!(!sotw.hear().await.unwrap().resources.is_empty(), "{name}");
        let mut delta = Delta::open_as(&client, xds).await;
        delta.say(first_delta("edge-2", ResourceType::Listener, &["*"])).await;
        assert_eq!(delta.hear().await.unwrap().resources.len(), 1, "{name}");
        assert_eq!(world.ask(&client).await, Code::Ok, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_whose_identity_is_taken_away_gets_nothing_more_and_keeps_what_it_has() {
    let (world, edge) = World::start("").await.envoy("edge", "delta");
    edge.ready().await;
    let xds = world.tierflow.xds;
    let client = world.client(&["spiffe://shop/edge"]);
    let mut sotw = Sotw::open_as(&client, xds).await;
    sotw.say(first("edge-2", ResourceType::Listener, &[])).await;
    sotw.hear().await.unwrap();
    let mut delta = Delta::open_as(&client, xds).await;
    delta.say(first_delta("edge-3", ResourceType::Listener, &["*"])).await;
    delta.hear().await.unwrap();
    assert_eq!(world.ask(&client).await, Code::Ok, "a gateway without identities takes any certificate");

    // With something new in the same change: nobody gets that who may not.
    world.save(&format!("{OF_OTHERS}\npath: {{ escaped_slashes: keep }}"));
    assert_eq!(sotw.hear().await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(delta.hear().await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(world.ask(&client).await, Code::PermissionDenied);
    eventually("the Envoy's stream ended", async || {
        let [connected] = edge.stats(["control_plane.connected_state"]).await;
        (connected == 0).then_some(())
    })
    .await;
    let [updates] = edge.stats(["listener_manager.lds.update_success"]).await;
    assert_eq!(updates, 1, "nothing new");
    assert_eq!(edge.get("/pay").await.status, 503, "its listener goes on, and the gateway's on_error decides");

    world.save(OF_EDGE);
    eventually("it is back with decisions", async || (edge.get("/pay").await.status == 200).then_some(())).await;
    eventually("and with its stream", async || {
        let [connected] = edge.stats(["control_plane.connected_state"]).await;
        (connected == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_is_asked_for_a_certificate_nobody_gets_what_is_for_some() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("policies")).unwrap();
    save_policies(folder.path(), OF_EDGE, free_address(), free_address());
    let tierflow = Tierflow::start(&folder.path().join("policies")).await;
    let mut sotw = Sotw::open(&tierflow).await;
    sotw.say(first("edge-1", ResourceType::Cluster, &[])).await;
    let status = sotw.hear().await.unwrap_err();
    assert!(status.code() == Code::PermissionDenied && status.message().contains("--tls-client-ca"), "{status:?}");
    let status = tierflow.status().await;
    assert_eq!(status["gateways_without_envoys"], json!(["edge"]));
    let ready = tierflow.ask("/readyz").await;
    assert_eq!(ready.status, 200);
    let checks: Value = serde_json::from_str(&ready.text()).unwrap();
    let is_row = |check: &&Value| check["name"] == "identities";
    let row = checks["checks"].as_array().unwrap().iter().find(is_row).unwrap();
    assert_eq!(row, &json!({ "name": "identities", "ok": false, "value": 1, "threshold": 0, "unit": "gateways" }));
    let server = format!("--server=http://{}", tierflow.admin());
    let output = run(&["status", &server]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && said.contains("no Envoy can have edge"), "{said}");
    let metrics = tierflow.ask("/metrics").await.text();
    assert!(metrics.contains("tierflow_identity_denials_total{port=\"xds\"} 1"), "{metrics}");
}
