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
fn wrong_usage_is_told_from_wrong_policies_by_the_exit_code() {
    let code = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_tierflow")).args(args).output().unwrap().status.code();
    assert_eq!(code(&["compile"]), Some(2));
    assert_eq!(code(&["compile", POLICIES, "--gateway", "nowhere"]), Some(1));
    assert_eq!(code(&["check", POLICIES]), Some(0));
}
