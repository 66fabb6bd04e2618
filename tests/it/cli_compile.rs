//! `tierflow compile`: what Envoys would get, which a real Envoy accepts.

use std::path::Path;
use std::process::Command;

use crate::golden::assert_golden;
use crate::harness::{printed, tierflow};
use crate::kit::envoy::validate;

const POLICIES: &str = "policies";

/// As people who lack `--gateway` are told them.
fn gateways() -> Vec<String> {
    let output = tierflow(&["compile", POLICIES]);
    let said = String::from_utf8(output.stderr).unwrap();
    let (_, names) = said.trim_end().rsplit_once(": ").unwrap();
    names.split(", ").map(str::to_owned).collect()
}

#[test]
fn every_gateway_of_the_examples_is_accepted_by_envoy_and_is_what_was_reviewed() {
    let gateways = gateways();
    assert_eq!(gateways, ["inventory-sidecar", "shop"]);
    for gateway in gateways {
        let compiled = printed(&["compile", POLICIES, "--gateway", &gateway]);
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/compiled");
        assert_golden(&golden.join(format!("{gateway}.yaml")), &compiled);
        validate(tempfile::tempdir().unwrap().path(), &compiled).unwrap_or_else(|said| panic!("{gateway}: {said}"));
    }
}

#[test]
fn the_same_policies_give_the_same_bytes() {
    let compiled = || printed(&["compile", POLICIES, "--gateway", "shop", "-o", "json"]);
    assert_eq!(compiled(), compiled());
}

#[test]
fn a_bootstrap_is_accepted_by_envoy_in_both_variants() {
    for xds in ["sotw", "delta"] {
        let bootstrap = printed(&["bootstrap", "--gateway=shop", "--policies", POLICIES, "--xds", xds]);
        validate(tempfile::tempdir().unwrap().path(), &bootstrap).unwrap_or_else(|said| panic!("{xds}: {said}"));
    }
}

#[test]
fn tls_to_the_rate_limit_service_is_shown_as_it_is_offered_and_accepted_by_envoy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let flags = [("ca", "authority.crt"), ("cert", "client.crt"), ("key", "client.key")];
    let flags = flags.map(|(flag, file)| format!("--server-{flag}={}", crate::tls::certificate(file)));
    let [ca, cert, key] = flags.each_ref().map(String::as_str);
    let edge = "{kind: Gateway, name: edge, nodes: {clusters: [edge]}, listen: '127.0.0.1:10000'";
    let policies = path.join("edge.yaml");
    // What stands by itself has its secrets in itself.
    for fields in ["", ", sds_dir: /etc/envoy/sds"] {
        std::fs::write(&policies, format!("{edge}{fields}, identities: [edge.shop]}}")).unwrap();
        let policies = policies.to_str().unwrap();
        let compiled = printed(&["compile", policies, ca, cert, key]);
        validate(path, &compiled).unwrap_or_else(|said| panic!("{said}\n{compiled}"));
        let names = ["tierflow:ca", "tierflow:identity"].map(|name| compiled.matches(name).count());
        assert_eq!(names, [2; 2], "{compiled}");
        let plain = printed(&["compile", policies]);
        assert!(!plain.contains("tierflow:ca"), "{plain}");
        let said = tierflow(&["compile", policies]).stderr;
        let expected = "Gateway edge is for Envoys with a certificate of edge.shop only\n";
        assert_eq!(String::from_utf8_lossy(&said), expected);
    }
}

#[test]
fn wrong_usage_is_told_from_wrong_policies_by_the_exit_code() {
    let code = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_tierflow")).args(args).output().unwrap().status.code();
    assert_eq!(code(&["compile"]), Some(2));
    assert_eq!(code(&["compile", POLICIES, "--gateway", "nowhere"]), Some(1));
    assert_eq!(code(&["check", POLICIES]), Some(0));
}
