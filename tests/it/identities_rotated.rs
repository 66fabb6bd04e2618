//! Certificates that end: the server tells of its own, and Envoys take new ones without a restart.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{
    Edge, Setup, Tierflow, any_addresses, eventually, free_address, gateway, printed, tierflow as run,
};
use crate::kit::upstream::Upstream;
use crate::tls::{Authority, in_days};

const API: &str = "
---
kind: Api
name: pay
gateway: edge
match: { path: /pay }
service: upstream
limits: [{ rate: 1000/h }]
";

fn flag(flag: &str, path: &Path) -> String {
    format!("--{flag}={}", path.display())
}

async fn serve(folder: &Path, addresses: [SocketAddr; 3]) -> Tierflow {
    let tls = [("tls-cert", "server.crt"), ("tls-key", "server.key"), ("tls-client-ca", "ca.crt")];
    let tls = tls.map(|(name, file)| flag(name, &folder.join(file)));
    let source = vec![flag("policies", &folder.join("policies"))];
    Tierflow::serve(&folder.join("tierflow.log"), source, &tls, addresses).await
}

/// An Envoy whose certificate is for `old`, and then for `new`, which is all that the gateway takes in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_takes_a_new_certificate_for_its_next_connection_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let authority = Authority::new();
    std::fs::write(path.join("ca.crt"), authority.pem()).unwrap();
    authority.issue(&["127.0.0.1"], in_days(100)).write(path, "server");
    for place in ["policies", "pki", "sds"] {
        std::fs::create_dir(path.join(place)).unwrap();
    }
    authority.issue(&["spiffe://shop/old"], in_days(100)).write(&path.join("pki"), "envoy");
    authority.issue(&["spiffe://shop/admin"], in_days(100)).write(path, "me");
    let upstream = Upstream::start("upstream", (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let listen = free_address();
    let fields = |identities: &str| format!("identities: [{identities}]\nsds_dir: {}", path.join("sds").display());
    let save = |identities: &str| {
        let fields = fields(identities);
        let setup = Setup { gateway: &fields, ..Setup::default() };
        let text = format!("{}{API}", gateway(&setup, listen, upstream.address));
        crate::harness::save(&path.join("policies"), "shop.yaml", &text);
    };
    save("spiffe://shop/old, spiffe://shop/new");
    let tierflow = serve(path, any_addresses()).await;
    let flags = [
        flag("server-ca", &path.join("ca.crt")),
        flag("server-cert", &path.join("pki/envoy.crt")),
        flag("server-key", &path.join("pki/envoy.key")),
        flag("sds-dir", &path.join("sds")),
    ];
    let mut tierflow = tierflow.with_verb_flags(&flags);
    let edge = Edge::start(path, &tierflow, "edge-1", "delta", listen);
    edge.ready().await;
    assert_eq!(edge.get("/pay").await.status, 200);
    authority.issue(&["spiffe://shop/new"], in_days(100)).write(&path.join("pki"), "envoy");
    eventually("Envoy has read the new one", async || {
        edge.admin("/certs").await.contains("spiffe://shop/new").then_some(())
    })
    .await;
    // Its connections are those of the old one. The next ones are to a server that takes the new one only.
    let addresses = tierflow.addresses();
    tierflow.kill();
    save("spiffe://shop/new");
    let tierflow = serve(path, addresses).await;
    eventually("it is connected and asks with the new one", async || {
        let [connected] = edge.stats(["control_plane.connected_state"]).await;
        (connected == 1 && edge.get("/pay").await.status == 200).then_some(())
    })
    .await;
    let server = format!("--server=https://{}", tierflow.admin());
    let mine = [("server-ca", "ca.crt"), ("server-cert", "me.crt"), ("server-key", "me.key")];
    let mine = mine.map(|(name, file)| flag(name, &path.join(file)));
    let args = ["status", &server, "--output=json"].into_iter().chain(mine.iter().map(String::as_str));
    let status: Value = serde_json::from_slice(&run(&args.collect::<Vec<_>>()).stdout).unwrap();
    assert_eq!((&status["nodes"]["connected"], &status["denied"]), (&json!(1), &json!([])), "{status}");
}

#[test]
fn the_files_of_secrets_are_written_and_what_is_missing_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let policies = path.join("policies");
    std::fs::create_dir(&policies).unwrap();
    let text = gateway(&Setup::default(), free_address(), free_address());
    std::fs::write(policies.join("shop.yaml"), text).unwrap();
    let (policies, sds) = (flag("policies", &policies), flag("sds-dir", &path.join("etc/sds")));
    let args = ["bootstrap", "--gateway=edge", &policies, &sds];
    let refused = run(&args);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--server-ca <FILE>"), "{refused:?}");
    let args =
        [&args[..], &["--server-ca=/pki/ca.crt", "--server-cert=/pki/e.crt", "--server-key=/pki/e.key"]].concat();
    let output = run(&args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("Gateway edge needs sds_dir"), "{output:?}");
    let bootstrap = printed(&args);
    for (name, content) in [("tierflow_ca.yaml", "/pki/ca.crt"), ("tierflow_identity.yaml", "/pki/e.key")] {
        let file = path.join("etc/sds").join(name);
        assert!(std::fs::read_to_string(&file).unwrap().contains(content));
        assert!(bootstrap.contains(file.to_str().unwrap()), "{bootstrap}");
    }
    assert_eq!(std::fs::read_dir(path.join("etc/sds")).unwrap().count(), 2, "nothing else is left there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ends_of_the_servers_certificates_are_told_wherever_somebody_looks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let authority = Authority::new();
    std::fs::write(path.join("ca.crt"), authority.pem()).unwrap();
    authority.issue(&["127.0.0.1"], in_days(12)).write(path, "server");
    authority.issue(&["spiffe://shop/admin"], in_days(100)).write(path, "me");
    std::fs::create_dir(path.join("policies")).unwrap();
    let text = gateway(&Setup::default(), free_address(), free_address());
    std::fs::write(path.join("policies/shop.yaml"), text).unwrap();
    let tierflow = serve(path, any_addresses()).await;
    let server = format!("--server=https://{}", tierflow.admin());
    let mine = [("server-ca", "ca.crt"), ("server-cert", "me.crt"), ("server-key", "me.key")];
    let mine = mine.map(|(name, file)| flag(name, &path.join(file)));
    let status = |output: &str| {
        let args = ["status", &server, output].into_iter().chain(mine.iter().map(String::as_str));
        let output = run(&args.collect::<Vec<_>>());
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let expected = format!("--tls-cert {}: the certificate ends in 11days 23h", path.join("server.crt").display());
    eventually("a warning is no failure", async || {
        let (is_well, table) = status("--output=table");
        (is_well && table.contains(&expected)).then_some(())
    })
    .await;
    let certificates = || {
        let status: Value = serde_json::from_str(&status("--output=json").1).unwrap();
        let told = |of: &Value| (of["flag"].clone(), of["validity"].clone());
        status["certificates"].as_array().unwrap().iter().map(told).collect::<Vec<_>>()
    };
    let both = |server: &str| [(json!("--tls-cert"), json!(server)), (json!("--tls-client-ca"), json!("valid"))];
    assert_eq!(certificates(), both("expiring"));
    eventually("the log tells of it", async || {
        let log = std::fs::read_to_string(path.join("tierflow.log")).unwrap();
        log.contains("the certificate is valid until").then_some(())
    })
    .await;
    authority.issue(&["127.0.0.1"], in_days(60)).write(path, "server");
    eventually("a new one is told of", async || (certificates() == both("valid")).then_some(())).await;
}
