//! Tierflow's own ports with TLS: who gets in, what Envoy checks, and a certificate that changes.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::harness::{Edge, Setup, Tierflow, any_addresses, eventually, free_address, gateway, tierflow as run};
use crate::kit::upstream::Upstream;
use crate::tls::{certificate, get, install};

const API: &str = "
---
kind: Api
name: pay
gateway: edge
match: { path: /pay }
service: upstream
limits: [{ rate: 2/h }]
";

fn save_policies(folder: &Path, listen: SocketAddr, upstream: SocketAddr) {
    std::fs::create_dir(folder.join("policies")).unwrap();
    let policies = format!("{}{API}", gateway(&Setup::default(), listen, upstream));
    std::fs::write(folder.join("policies/shop.yaml"), policies).unwrap();
}

async fn serve(folder: &Path, tls: &[String]) -> Tierflow {
    let source = vec![format!("--policies={}", folder.join("policies").display())];
    Tierflow::serve(&folder.join("tierflow.log"), source, tls, any_addresses()).await
}

fn shown_in(folder: &Path) -> [String; 2] {
    [format!("--tls-cert={}/tls.crt", folder.display()), format!("--tls-key={}/tls.key", folder.display())]
}

/// What a verb says of the server at this port, and whether it succeeded.
fn status(scheme: &str, address: SocketAddr, flags: &[String]) -> (bool, String) {
    let server = format!("--server={scheme}://{address}");
    let flags: Vec<&str> = ["status", &server].into_iter().chain(flags.iter().map(String::as_str)).collect();
    let output = run(&flags);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_is_said_goes_over_tls_with_certificates_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let upstream = Upstream::start("upstream", (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let listen = free_address();
    save_policies(folder, listen, upstream.address);
    let flags = [("cert", "server.crt"), ("key", "server.key"), ("client-ca", "authority.crt")];
    let tierflow = serve(folder, &flags.map(|(flag, file)| format!("--tls-{flag}={}", certificate(file)))).await;
    let flags = [("ca", "authority.crt"), ("cert", "client.crt"), ("key", "client.key")];
    let flags = flags.map(|(flag, file)| format!("--server-{flag}={}", certificate(file)));
    let admin = tierflow.admin();

    let tierflow = tierflow.with_verb_flags(&flags);
    let edge = Edge::start(folder, &tierflow, "edge-1", "delta", listen);
    edge.ready().await;
    let answers = [edge.get("/pay").await, edge.get("/pay").await, edge.get("/pay").await];
    assert_eq!(answers.map(|answer| answer.status), [200, 200, 429], "Envoy asks over TLS as well");
    let handshakes = ["cluster.tierflow_xds.ssl.handshake", "cluster.tierflow_rls.ssl.handshake"];
    assert!(edge.stats(handshakes).await.iter().all(|handshakes| *handshakes > 0));
    eventually("a verb asks over TLS", async || {
        let (is_well, said) = status("https", admin, &flags);
        (is_well && said.contains("live on 1 of 1")).then_some(())
    })
    .await;

    let [ca, ..] = &flags;
    for (scheme, flags, expected) in [
        ("https", std::slice::from_ref(ca), "received fatal alert: certificaterequired"),
        ("https", &[], "--server with https needs --server-ca"),
        ("http", &[], "cannot be reached"),
    ] {
        let (is_well, said) = status(scheme, admin, flags);
        assert!(!is_well && said.to_lowercase().contains(expected), "{said}");
    }
    let log = std::fs::read_to_string(folder.join("tierflow.log")).unwrap();
    assert!(log.contains("no TLS with this client"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_takes_nothing_from_a_server_with_another_name() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    install("first", folder);
    let listen = free_address();
    save_policies(folder, listen, free_address());
    let tierflow = serve(folder, &shown_in(folder)).await;
    let trusted = format!("--server-ca={}/tls.crt", folder.display());
    let tierflow = tierflow.with_verb_flags(&[trusted]);
    let edge = Edge::start(folder, &tierflow, "edge-1", "delta", listen);
    edge.starts().await;
    let refusals = ["cluster.tierflow_xds.ssl.fail_verify_san", "cluster.tierflow_xds.ssl.handshake"];
    eventually("Envoy refuses the name", async || {
        let [refused, handshakes] = edge.stats(refusals).await;
        (refused > 0 && handshakes == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_certificate_is_shown_and_a_broken_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    install("first", folder);
    save_policies(folder, free_address(), free_address());
    let tierflow = serve(folder, &shown_in(folder)).await;
    let [.., admin] = tierflow.addresses();
    assert!(get(folder, admin, "/healthz").unwrap().starts_with("HTTP/1.1 200"));

    install("second", folder);
    eventually("the new certificate is shown", async || get(folder, admin, "/healthz")).await;
    std::fs::write(folder.join("tls.key"), "no key").unwrap();
    let refused = "tierflow_tls_reload_total{result=\"refused\"} 1";
    let told = async || get(folder, admin, "/metrics")?.contains(refused).then_some(());
    eventually("the broken key is counted, and TLS goes on", told).await;
    let log = std::fs::read_to_string(folder.join("tierflow.log")).unwrap();
    assert!(log.contains("tls.key: expected a PRIVATE KEY in PEM"), "{log}");
    install("first", folder);
    eventually("the mended one is shown", async || get(folder, admin, "/healthz")).await;
}

#[test]
fn files_that_cannot_be_used_are_told_at_the_start() {
    let of = certificate;
    for (cert, key, ca, expected) in [
        ("/nowhere.crt".to_owned(), of("server.key"), of("authority.crt"), "--tls-cert /nowhere.crt: No such file"),
        (of("server.key"), of("server.key"), of("authority.crt"), "server.key: expected a CERTIFICATE in PEM"),
        (of("server.crt"), of("server.crt"), of("authority.crt"), "server.crt: expected a PRIVATE KEY in PEM"),
        (of("server.crt"), of("client.key"), of("authority.crt"), "server.crt: cannot be used with the key"),
        (of("server.crt"), of("server.key"), of("client.key"), "client.key: expected a CERTIFICATE in PEM"),
    ] {
        let flags = [format!("--tls-cert={cert}"), format!("--tls-key={key}"), format!("--tls-client-ca={ca}")];
        let ports = ["xds", "rls", "admin"].map(|port| format!("--{port}-listen=127.0.0.1:0"));
        let flags = ["serve"].into_iter().chain(flags.iter().chain(&ports).map(String::as_str));
        let output = run(&flags.collect::<Vec<_>>());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(expected), "{said}");
    }
    let output = run(&["serve", "--tls-cert=x"]);
    assert!(output.status.code() == Some(2) && String::from_utf8_lossy(&output.stderr).contains("--tls-key <FILE>"));
}
