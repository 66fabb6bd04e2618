//! A gateway with TLS: the certificate comes by SDS and is followed when its files change.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::harness::{Setup, World, eventually};

const API: &str = "
kind: Api
name: pay
gateway: edge
match: { path: /pay }
service: upstream
limits: [{ rate: 1000/h }]
";

/// Puts one of the two certificates for `edge.test` where the gateway looks for it. They signed themselves, are
/// good for a hundred years, and guard nothing.
fn install(certificate: &str, folder: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
    for ending in ["key", "crt"] {
        std::fs::copy(source.join(certificate).with_extension(ending), folder.join("new")).unwrap();
        std::fs::rename(folder.join("new"), folder.join("tls").with_extension(ending)).unwrap();
    }
}

/// Python is there wherever Envoy was fetched, and knows TLS.
const CLIENT: &str = "
import socket, ssl, sys
host, port, certificate = sys.argv[1:]
context = ssl.create_default_context(cafile=certificate)
with context.wrap_socket(socket.create_connection((host, int(port))), server_hostname='edge.test') as connection:
    connection.sendall(b'GET /pay HTTP/1.1\\r\\nhost: edge.test\\r\\nconnection: close\\r\\n\\r\\n')
    while data := connection.recv(65536):
        sys.stdout.buffer.write(data)
";

/// What is answered to a GET of `/pay`, if the certificate is the one that lies in the folder.
fn get_over_tls(folder: &Path, listen: SocketAddr) -> Option<String> {
    let output = Command::new("python3")
        .args(["-c", CLIENT, &listen.ip().to_string(), &listen.port().to_string()])
        .arg(folder.join("tls.crt"))
        .output()
        .unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_served_and_followed_when_its_files_change() {
    let certificates = tempfile::tempdir().unwrap();
    let folder = certificates.path();
    install("first", folder);
    let gateway = format!("tls: {{ certificate_chain: {0}/tls.crt, private_key: {0}/tls.key }}", folder.display());
    let world = World::start(Setup { policies: API, gateway: &gateway, ..Default::default() }).await;
    let answer = get_over_tls(folder, world.edge.listen).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("x-ratelimit-limit: 1000"), "{answer}");
    let secrets = world.tierflow.json("/v1/nodes").await["nodes"][0]["types"]["secret"].clone();
    assert_eq!(secrets["acknowledged"]["generation"], 1);

    install("second", folder);
    eventually("Envoy has the new certificate", async || get_over_tls(folder, world.edge.listen)).await;
}
