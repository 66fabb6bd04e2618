//! A gateway with TLS: the certificate comes by SDS and is followed when its files change.

use crate::harness::{Setup, World, eventually};
use crate::tls::{get, install};

const API: &str = "
kind: Api
name: pay
gateway: edge
match: { path: /pay }
service: upstream
limits: [{ rate: 1000/h }]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_served_and_followed_when_its_files_change() {
    let certificates = tempfile::tempdir().unwrap();
    let folder = certificates.path();
    install("first", folder);
    let gateway = format!("tls: {{ certificate_chain: {0}/tls.crt, private_key: {0}/tls.key }}", folder.display());
    let world = World::start(Setup { policies: API, gateway: &gateway, ..Default::default() }).await;
    let answer = get(folder, world.edge.listen, "/pay").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("x-ratelimit-limit: 1000"), "{answer}");
    let secrets = world.tierflow.json("/v1/nodes").await["nodes"][0]["types"]["secret"].clone();
    assert_eq!(secrets["acknowledged"]["generation"], 1);

    install("second", folder);
    eventually("Envoy has the new certificate", async || get(folder, world.edge.listen, "/pay")).await;
}
