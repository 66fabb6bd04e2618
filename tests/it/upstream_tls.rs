//! Upstreams that speak TLS: whom Envoy trusts, what it shows, and what is spoken then.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::harness::{Load, Setup, World, eventually};
use crate::tls::{certificate, install};

/// An upstream with a certificate of `tests/tls`, which says in its answers what a connection is like.
async fn secure(name: &str, client_ca: Option<&str>, protocols: &[&str]) -> SocketAddr {
    async fn serve(acceptor: TlsAcceptor, connection: TcpStream) {
        let Ok(stream) = acceptor.accept(connection).await else { return };
        let (_, tls) = stream.get_ref();
        let is_http2 = tls.alpn_protocol() == Some(b"h2");
        let host = tls.server_name().unwrap_or("nobody").to_owned();
        let client = if tls.peer_certificates().is_some() { "known" } else { "unknown" };
        let app = Router::new().fallback(move |request: Request| {
            let answer = format!("{:?} for {host} from a client that is {client}", request.version());
            async move { answer }
        });
        let builder = Builder::new(TokioExecutor::new());
        // What the handshake found out, and nothing else.
        let builder = if is_http2 { builder.http2_only() } else { builder.http1_only() };
        let _ = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app)).await;
    }
    let certificates = |file: &str| CertificateDer::pem_file_iter(certificate(file)).unwrap().map(Result::unwrap);
    let key = PrivateKeyDer::from_pem_file(certificate(&format!("{name}.key"))).unwrap();
    let config = ServerConfig::builder();
    let config = match client_ca {
        None => config.with_no_client_auth(),
        Some(file) => {
            let mut authorities = RootCertStore::empty();
            certificates(file).for_each(|authority| authorities.add(authority).unwrap());
            config.with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(authorities)).build().unwrap())
        }
    };
    let mut config = config.with_single_cert(certificates(&format!("{name}.crt")).collect(), key).unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(serve(acceptor.clone(), connection));
        }
    });
    address
}

const BOTH: [&str; 2] = ["h2", "http/1.1"];

/// A service and an Api at `/name`.
fn service(name: &str, address: SocketAddr, fields: &str) -> String {
    format!(
        "---
kind: Service
name: {name}
endpoints: [{address}]
{fields}
---
kind: Api
name: {name}
gateway: edge
match: {{ path: /{name} }}
service: {name}
"
    )
}

async fn world(services: &[String]) -> World {
    World::start(Setup { policies: &services.concat(), ..Default::default() }).await
}

async fn assert_answers(world: &World, expected: &[(&str, u16, &str)]) {
    for (path, status, text) in expected {
        let answer = world.edge.get(path).await;
        assert_eq!(answer.status, *status, "{path}: {}", answer.text());
        assert!(answer.text().contains(text), "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn an_upstream_is_spoken_to_only_if_its_certificate_is_what_it_has_to_be() {
    let named = secure("first", None, &BOTH).await;
    let addressed = secure("server", None, &BOTH).await;
    let [first, second, authority] = ["first.crt", "second.crt", "authority.crt"].map(certificate);
    let world = world(&[
        service("good", named, &format!("tls: {{ ca: {first}, sni: edge.test }}")),
        service("other-name", named, &format!("tls: {{ ca: {first}, sni: other.test }}")),
        service(
            "name-apart",
            named,
            &format!("tls: {{ ca: {first}, sni: other.test, verify_san: [x.test, edge.test] }}"),
        ),
        service("other-authority", named, &format!("tls: {{ ca: {second}, sni: edge.test }}")),
        service("address", addressed, &format!("tls: {{ ca: {authority}, verify_san: [127.0.0.1] }}")),
        service("other-address", addressed, &format!("tls: {{ ca: {authority}, verify_san: [127.0.0.2] }}")),
    ])
    .await;
    let expected = [
        ("/good", 200, "for edge.test"),
        ("/other-name", 503, ""),
        ("/name-apart", 200, "for other.test"),
        ("/other-authority", 503, ""),
        ("/address", 200, "for nobody"),
        ("/other-address", 503, ""),
    ];
    assert_answers(&world, &expected).await;
    let reasons = [
        "other-name.ssl.fail_verify_san",
        "other-authority.ssl.fail_verify_error",
        "other-address.ssl.fail_verify_san",
    ];
    let failures =
        world.edge.stats(reasons.map(|reason| format!("cluster.{reason}")).each_ref().map(String::as_str)).await;
    assert!(failures.iter().all(|failures| *failures > 0), "{failures:?}");
}

#[tokio::test]
async fn an_upstream_may_ask_for_a_certificate_of_its_clients() {
    let upstream = secure("server", Some("authority.crt"), &BOTH).await;
    let [authority, chain, key] = ["authority.crt", "client.crt", "client.key"].map(certificate);
    let trust = format!("ca: {authority}, verify_san: [127.0.0.1]");
    let shown = format!("tls: {{ {trust}, certificate_chain: {chain}, private_key: {key} }}");
    let world =
        world(&[service("known", upstream, &shown), service("unknown", upstream, &format!("tls: {{ {trust} }}"))])
            .await;
    assert_answers(&world, &[("/known", 200, "that is known"), ("/unknown", 503, "")]).await;
}

/// The check of each service has to find its only instance well.
#[tokio::test]
async fn the_handshake_finds_out_what_is_spoken_and_health_checks_go_over_tls_too() {
    let (both, old, new) = (
        secure("first", None, &BOTH).await,
        secure("first", None, &BOTH[1..]).await,
        secure("first", None, &BOTH[..1]).await,
    );
    let first = certificate("first.crt");
    let fields = |protocol: &str| {
        format!("tls: {{ ca: {first}, sni: edge.test }}\nhealth_check: {{ http: /healthz, interval: 1s }}\n{protocol}")
    };
    let services = [
        ("default", both, "", "HTTP/1.1"),
        ("auto-both", both, "protocol: auto", "HTTP/2.0"),
        ("auto-old", old, "protocol: auto", "HTTP/1.1"),
        ("http2", new, "protocol: http2", "HTTP/2.0"),
    ];
    let world = world(&services.map(|(name, address, protocol, _)| service(name, address, &fields(protocol)))).await;
    for (name, _, _, version) in services {
        let stats = [format!("cluster.{name}.health_check.success"), format!("cluster.{name}.membership_healthy")];
        eventually("the instance is well", async || {
            let [checks, well] = world.edge.stats([&stats[0], &stats[1]]).await;
            (checks > 0 && well == 1).then_some(())
        })
        .await;
        assert_answers(&world, &[(&format!("/{name}"), 200, version)]).await;
    }
}

#[tokio::test]
async fn authorities_are_followed_when_their_file_changes() {
    let upstream = secure("first", None, &BOTH).await;
    let folder = tempfile::tempdir().unwrap();
    install("second", folder.path());
    let ca = folder.path().join("tls.crt");
    let world = world(&[service("good", upstream, &format!("tls: {{ ca: {}, sni: edge.test }}", ca.display()))]).await;
    assert_answers(&world, &[("/good", 503, "")]).await;
    install("first", folder.path());
    eventually("the new authority is trusted", async || (world.edge.get("/good").await.status == 200).then_some(()))
        .await;
}

/// Routes lead to a new service once it has its certificates, and the old one keeps its own until nothing leads to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_with_tls_is_replaced_by_another_without_a_failure() {
    let upstream = secure("first", None, &BOTH).await;
    let tls = format!("tls: {{ ca: {}, sni: edge.test }}", certificate("first.crt"));
    for xds in ["sotw", "delta"] {
        let policies = |name: &str| service(name, upstream, &tls).replace(&format!("path: /{name}"), "path: /");
        let world = World::start(Setup { policies: &policies("a"), xds, ..Default::default() }).await;
        let load = Load::start(world.edge.url("/"));
        for name in ["b", "a", "b"] {
            world.save("policies.yaml", &policies(name));
            let requests = format!("cluster.{name}.upstream_rq_total");
            let [before] = world.edge.stats([&requests]).await;
            eventually("the other service is asked", async || {
                let [requests] = world.edge.stats([&requests]).await;
                (requests > before).then_some(())
            })
            .await;
        }
        assert_eq!(load.stop().await, [""; 0], "{xds}");
    }
}

/// No document tells that a file is there now. A service that is new, and one that was there before with another file.
async fn a_hold_ends_once_the_file_that_was_missing_is_there(xds: &str) {
    let upstream = secure("first", None, &BOTH).await;
    let folder = tempfile::tempdir().unwrap();
    let tls = |ca: &str| format!("tls: {{ ca: {ca}, sni: edge.test }}");
    let [there, missing] = [certificate("first.crt"), folder.path().join("tls.crt").display().to_string()];
    let policies = service("old", upstream, &tls(&there));
    let world = World::start(Setup { policies: &policies, xds, ..Default::default() }).await;
    let is_live = async || {
        let status = world.tierflow.status().await;
        (status["held"] == json!([]) && status["nodes"]["live"] == 1).then_some(())
    };
    eventually("all of it is live", is_live).await;
    let [old, new] = ["old", "new"].map(|name| service(name, upstream, &tls(&missing)));
    world.save("policies.yaml", &(old + &new));
    let refusals = async || {
        let metrics = world.tierflow.ask("/metrics").await.text();
        let count = |line: &str| line.strip_prefix("tierflow_xds_nack_total{type=\"secret\"} ")?.parse::<u64>().ok();
        metrics.lines().find_map(count)
    };
    eventually("it is held", async || world.tierflow.status().await["held"].get(0).cloned()).await;
    assert_answers(&world, &[("/old", 200, "edge.test")]).await;
    let before = refusals().await;
    eventually("it is tried again in vain", async || (refusals().await > before).then_some(())).await;
    install("first", folder.path());
    eventually("all of it is live at last", is_live).await;
    let is_read = async || {
        let answers = [world.edge.get("/old").await, world.edge.get("/new").await];
        answers.iter().all(|answer| answer.status == 200).then_some(())
    };
    eventually("the file is read", is_read).await;
}

#[tokio::test]
async fn a_hold_ends_once_the_file_that_was_missing_is_there_with_delta_since_envoy_1_40() {
    a_hold_ends_once_the_file_that_was_missing_is_there("delta").await;
}

#[tokio::test]
async fn a_hold_ends_once_the_file_that_was_missing_is_there_with_state_of_the_world_since_envoy_1_40() {
    a_hold_ends_once_the_file_that_was_missing_is_there("sotw").await;
}

/// Envoy refuses a response as a whole: an authority that makes no sense must not take those of others along, neither on an
/// Envoy that starts nor on one that runs.
async fn one_authority_that_makes_no_sense_is_nobody_elses(xds: &str) {
    let upstream = secure("first", None, &BOTH).await;
    let folder = tempfile::tempdir().unwrap();
    let junk = folder.path().join("junk.crt");
    std::fs::write(&junk, "no certificate").unwrap();
    let good = format!("tls: {{ ca: {}, sni: edge.test }}", certificate("first.crt"));
    let bad = format!("tls: {{ ca: {}, sni: edge.test }}", junk.display());
    // Enough that some of them are asked for together, and the bad ones are among those.
    let is_bad = |number: usize| number % 8 == 1;
    let of = |number| service(&format!("s{number}"), upstream, if is_bad(number) { &bad } else { &good });
    let policies: String = (0..32).map(of).collect();
    let world = World::start(Setup { policies: &policies, xds, ..Default::default() }).await;
    let answers = async |services: usize| {
        eventually("all others are spoken to", async || {
            for number in 0..services {
                let status = world.edge.get(&format!("/s{number}")).await.status;
                if status != if is_bad(number) { 503 } else { 200 } {
                    return None;
                }
            }
            Some(())
        })
        .await;
    };
    answers(32).await;
    // One more, on the Envoy that runs.
    world.save("policies.yaml", &(policies + &of(32)));
    answers(33).await;
}

#[tokio::test]
async fn one_authority_that_makes_no_sense_is_nobody_elses_with_delta() {
    one_authority_that_makes_no_sense_is_nobody_elses("delta").await;
}

#[tokio::test]
async fn one_authority_that_makes_no_sense_is_nobody_elses_with_state_of_the_world() {
    one_authority_that_makes_no_sense_is_nobody_elses("sotw").await;
}
