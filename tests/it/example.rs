//! `examples/envoy`, as far as it can be read instead of run: `cargo run --example envoy -- --check` does the rest.

use std::path::Path;
use std::process::Command;

use crate::golden::assert_golden;

#[test]
fn the_examples_bootstrap_is_what_the_verb_prints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tierflow = Command::new(env!("CARGO_BIN_EXE_tierflow"));
    // Flags have environment variables too, which say nothing here.
    let output = tierflow.args(["bootstrap", "--gateway", "shop"]).current_dir(root).env_clear().output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_golden(&root.join("examples/envoy/bootstrap.yaml"), std::str::from_utf8(&output.stdout).unwrap());
}
