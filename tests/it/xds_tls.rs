//! A gateway with TLS: the certificate comes by SDS and is followed when its files change.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Setup, World, eventually};

const API: &str = "
kind: Api
name: pay
gateway: edge
match: { path: /pay }
service: upstream
limits: [{ rate: 1000/h }]
";

/// A certificate for `edge.test` that signed itself, and its key.
fn make_certificate(folder: &Path) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=edge.test", "-addext", "subjectAltName=DNS:edge.test"])
        .args(["-keyout", "new.key", "-out", "new.crt"])
        .current_dir(folder)
        .output()
        .expect("openssl makes the certificate and is the client of this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(folder.join("new.key"), folder.join("tls.key")).unwrap();
    std::fs::rename(folder.join("new.crt"), folder.join("tls.crt")).unwrap();
}

/// What is answered to a GET of `/pay`, if the certificate is the one that lies in the folder.
fn get_over_tls(folder: &Path, listen: SocketAddr) -> Option<String> {
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-verify_hostname", "edge.test", "-CAfile"])
        .arg(folder.join("tls.crt"))
        .args(["-servername", "edge.test", "-connect", &listen.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let request = b"GET /pay HTTP/1.1\r\nhost: edge.test\r\nconnection: close\r\n\r\n";
    // A client that did not like the certificate no longer reads.
    let _ = client.stdin.as_mut().unwrap().write_all(request);
    let output = client.wait_with_output().unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_served_and_followed_when_its_files_change() {
    let certificates = tempfile::tempdir().unwrap();
    let folder = certificates.path();
    make_certificate(folder);
    let gateway = format!("tls: {{ certificate_chain: {0}/tls.crt, private_key: {0}/tls.key }}", folder.display());
    let world = World::start(Setup { policies: API, gateway: &gateway, ..Default::default() }).await;
    let answer = get_over_tls(folder, world.edge.listen).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("x-ratelimit-limit: 1000"), "{answer}");
    let secrets = world.tierflow.json("/v1/nodes").await["nodes"][0]["types"]["secret"].clone();
    assert_eq!(secrets["acknowledged"]["generation"], 1);

    make_certificate(folder);
    eventually("Envoy has the new certificate", async || get_over_tls(folder, world.edge.listen)).await;
}
