//! Tells the program which commit it is built of: `TIERFLOW_COMMIT` where that is set, as it is for a build without git, else
//! what git says of this folder, else `unknown`. A build for debugging does not ask git, because every commit would make
//! another program of it, to be linked anew for each test.

#![allow(clippy::print_stdout, reason = "it is how a build script tells Cargo")]

#[path = "build/commit.rs"]
mod commit;

use std::path::Path;

const COMMIT: &str = "TIERFLOW_COMMIT";

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-env-changed={COMMIT}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    let said = std::env::var(COMMIT).ok().filter(|said| !said.is_empty());
    let commit = said.or_else(of_git).unwrap_or_else(|| "unknown".to_owned());
    let is_well_formed =
        commit.len() <= 100 && commit.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if !is_well_formed {
        return Err(format!("{COMMIT} is {commit:?}: expected up to 100 of a-z, A-Z, 0-9, -, . and _"));
    }
    println!("cargo::rustc-env={COMMIT}={commit}");
    Ok(())
}

fn of_git() -> Option<String> {
    let is_for_debugging = std::env::var("PROFILE").is_ok_and(|profile| profile == "debug");
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").filter(|_| !is_for_debugging)?;
    let folder = Path::new(&folder);
    let commit = commit::of_checkout(folder)?;
    for path in commit::BUILT_OF {
        println!("cargo::rerun-if-changed={path}");
    }
    if let Some(log) = commit::log_of_checkouts(folder) {
        println!("cargo::rerun-if-changed={log}");
    }
    Some(commit)
}
