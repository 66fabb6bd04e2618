//! Layers, kept by a test: which module may name which. The table is that of docs/architecture.md.
//! Where it stops fitting, change the table in the same commit and say why.

mod paths;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use paths::{ModulePath, NamedPath};

/// Each module of the crate, and the modules that it may name.
const LAYERS: [(&str, &[&str]); 46] = [
    ("shared_map", &[]),
    ("regular_file", &[]),
    ("rotation", &["regular_file"]),
    ("shown", &[]),
    ("trouble", &[]),
    ("names", &["shown"]),
    ("bulk", &["names"]),
    ("document", &["names", "shared_map", "shown"]),
    ("clock", &[]),
    ("version", &[]),
    ("x509", &["names"]),
    ("pem", &["regular_file", "shown", "x509"]),
    ("certificates", &["pem", "metrics", "shown", "x509"]),
    ("metrics", &["names", "version"]),
    ("traces", &["clock", "metrics", "pem", "shown", "version"]),
    ("denial_log", &["clock", "metrics", "rotation", "shown", "trouble"]),
    ("traffic", &["metrics", "clock"]),
    ("top", &["names", "clock", "shown"]),
    ("events", &["clock"]),
    ("denials", &["names", "metrics", "clock", "shown"]),
    ("crowding", &["metrics", "clock"]),
    ("policy", &["names", "document", "shared_map", "shown"]),
    ("snapshot", &["names", "shared_map"]),
    ("compile", &["policy", "snapshot", "names", "document"]),
    ("limiter", &["policy", "names", "clock", "shared_map"]),
    ("explain", &["policy", "limiter", "names", "shown"]),
    ("diff", &["policy", "snapshot", "names"]),
    ("access", &["policy", "document", "names", "clock", "shown"]),
    ("counters", &["limiter", "clock", "metrics", "regular_file", "shown"]),
    ("etcd", &["regular_file", "shown"]),
    ("source", &["bulk", "document", "etcd", "names", "metrics", "clock", "regular_file", "shared_map", "shown"]),
    ("last_good", &["clock", "document", "names", "regular_file", "shown"]),
    ("live", &["document", "policy", "compile", "diff", "snapshot", "limiter", "names", "clock", "shared_map"]),
    ("audit", &["clock", "metrics", "regular_file", "rotation", "shown"]),
    ("editor", &["bulk", "live", "etcd", "document", "policy", "names", "shown"]),
    ("nodes", &["names", "snapshot", "clock"]),
    ("rollout", &["live", "policy", "snapshot", "names", "clock", "shared_map"]),
    ("budget", &["metrics"]),
    ("frames", &["budget"]),
    ("xds", &["budget", "denials", "frames", "live", "rollout", "snapshot", "nodes", "names", "metrics", "clock"]),
    (
        "rls",
        &[
            "budget",
            "denial_log",
            "denials",
            "live",
            "limiter",
            "counters",
            "clock",
            "metrics",
            "names",
            "shown",
            "top",
            "traces",
        ],
    ),
    (
        "admin",
        &[
            "access",
            "budget",
            "diff",
            "document",
            "editor",
            "audit",
            "last_good",
            "live",
            "explain",
            "policy",
            "rollout",
            "snapshot",
            "nodes",
            "counters",
            "crowding",
            "certificates",
            "denial_log",
            "denials",
            "source",
            "metrics",
            "events",
            "top",
            "traces",
            "traffic",
            "trouble",
            "names",
            "clock",
            "shown",
            "version",
        ],
    ),
    ("replay", &["policy", "limiter", "explain", "counters", "clock"]),
    ("bootstrap", &["policy", "compile", "snapshot"]),
    ("config", &["access", "audit", "compile", "counters", "denial_log", "etcd", "traces", "xds"]),
    ("telemetry", &["shown"]),
];

/// `serve`, `cli` and `main` put everything together.
const SHELL: [&str; 4] = ["serve", "cli", "main", "lib"];

/// What leads outside, and the modules that may use it: so what is pure stays pure, and protobuf stays at the edges.
const OUTSIDE: [(&str, &[&str]); 15] = [
    ("axum", &["admin"]),
    ("envoy_types", &["compile", "rls", "xds"]),
    ("etcd_client", &["etcd"]),
    ("opentelemetry", &["traces"]),
    ("opentelemetry_otlp", &["traces"]),
    ("opentelemetry_sdk", &["traces"]),
    ("prost", &["compile", "frames", "rls", "snapshot", "xds"]),
    (
        "std::fs",
        &["admin", "audit", "counters", "denial_log", "etcd", "last_good", "regular_file", "rotation", "source"],
    ),
    ("redis", &["counters"]),
    (
        "tokio",
        &[
            "access",
            "admin",
            "audit",
            "counters",
            "denial_log",
            "editor",
            "etcd",
            "events",
            "frames",
            "live",
            "rollout",
            "source",
            "traces",
            "xds",
        ],
    ),
    ("tonic", &["etcd", "frames", "rls", "xds"]),
    (
        "tracing",
        &[
            "admin",
            "audit",
            "certificates",
            "counters",
            "crowding",
            "denial_log",
            "denials",
            "editor",
            "etcd",
            "rls",
            "source",
            "telemetry",
            "traces",
            "xds",
        ],
    ),
    ("utoipa", &["access", "admin", "audit", "counters", "diff", "document", "explain", "names", "nodes", "source"]),
    ("utoipa_axum", &["admin"]),
    ("x509_cert", &["x509"]),
];

#[test]
fn modules_name_only_what_their_layer_allows() {
    let violations: Vec<String> = production_files().iter().flat_map(violations).collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn a_violation_would_be_found() {
    let found = |text: &str| {
        let named = paths::named(text, module_path("limiter/key.rs"));
        violations(&File { path: "key.rs".into(), module: "limiter".to_owned(), paths: named.paths })
    };
    let live = "key.rs:1: limiter must not name live";
    assert_eq!(found("use crate::live::{self as served};"), [live]);
    assert_eq!(found("use crate::{names::Name, live};"), [live]);
    assert_eq!(found("use super::super::live;"), [live]);
    assert_eq!(found("fn f() { g!(\"{}\", crate::live::h()) }"), [live]);
    assert_eq!(found("#[cfg(test)] mod tests { use crate::xds; } fn f() { crate::live::g() }"), [live]);
    assert_eq!(found("impl T { #[cfg(test)] fn f() { crate::xds::g() } fn h() { crate::live::i() } }"), [live]);
    assert_eq!(found("enum E { #[cfg(test)] A(crate::xds::B), C(crate::live::D) }"), [live]);
    assert_eq!(found("struct S { #[cfg(test)] a: crate::xds::A, b: crate::live::B }"), [live]);
    assert_eq!(found("fn f() { #[cfg(test)] crate::xds::g(); crate::live::h() }"), [live]);
    assert_eq!(found("use crate::*;"), ["key.rs:1: limiter must not name *"]);
    assert_eq!(found("\nuse tokio::sync::watch;"), ["key.rs:2: limiter must not use tokio"]);
    assert_eq!(found("use std::{fs, io};"), ["key.rs:1: limiter must not use std::fs"]);
    let allowed = "/// As crate::live and tokio::sync do.\nuse super::matcher; use tokio_stream::wrappers;";
    assert_eq!(found(allowed), [""; 0]);
}

/// What no module names any more is no part of the architecture.
#[test]
fn what_a_layer_allows_is_named() {
    let files = production_files();
    let is_named = |module: &str, other: &str| {
        let mut paths = files.iter().filter(|file| file.module == module).flat_map(|file| &file.paths);
        paths.any(|path| path.module() == Some(other))
    };
    let allowed = LAYERS.iter().flat_map(|(module, allowed)| allowed.iter().map(move |other| (*module, *other)));
    let unused: Vec<_> = allowed.filter(|(module, other)| !is_named(module, other)).collect();
    assert_eq!(unused, []);
}

/// A name of a file may hold line breaks and escape sequences, which `Path::display` hands on.
#[test]
fn paths_are_shown_by_one_function() {
    let shows = |path: &PathBuf| std::fs::read_to_string(path).unwrap().contains(".display()");
    let violations: Vec<PathBuf> = sources().into_iter().filter(shows).collect();
    assert!(violations.is_empty(), "use shown::path in {violations:?}");
}

#[test]
fn the_documentation_has_the_same_table() {
    let text = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let rows = text.lines().skip_while(|line| *line != "## Modules").filter(|line| line.starts_with("| `"));
    let mut documented = BTreeMap::new();
    for row in rows.take_while(|row| !row.ends_with("| all |")) {
        let cells: Vec<&str> = row.split('|').collect();
        let [_, modules, _, allowed, _] = cells[..] else { panic!("a row of three cells: {row}") };
        documented.extend(words(modules).into_iter().map(|module| (module, words(allowed))));
    }
    let layers = LAYERS.iter().map(|(module, allowed)| (*module, allowed.iter().copied().collect()));
    assert_eq!(documented, layers.collect::<BTreeMap<&str, BTreeSet<&str>>>());
}

/// What stands in backticks.
fn words(cell: &str) -> BTreeSet<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// What a source file names outside of tests.
struct File {
    path: PathBuf,
    /// The module of the crate that it is part of.
    module: String,
    paths: Vec<NamedPath>,
}

fn violations(file: &File) -> Vec<String> {
    let (path, module) = (file.path.display(), file.module.as_str());
    if SHELL.contains(&module) {
        return Vec::new();
    }
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
        return vec![format!("{path}: module {module} is in no layer")];
    };
    let mut violations = Vec::new();
    for named in &file.paths {
        if let Some(other) = named.module().filter(|other| *other != module && !allowed.contains(other)) {
            violations.push(format!("{path}:{}: {module} must not name {other}", named.line));
        }
        let outside = OUTSIDE.iter().find(|(outside, modules)| named.is_below(outside) && !modules.contains(&module));
        if let Some((outside, _)) = outside {
            violations.push(format!("{path}:{}: {module} must not use {outside}", named.line));
        }
    }
    violations
}

fn production_files() -> Vec<File> {
    let mut files = Vec::new();
    let mut test_modules = Vec::new();
    for path in sources() {
        let module = module_path(path.strip_prefix(root().join("src")).unwrap().to_str().unwrap());
        let named = paths::named(&std::fs::read_to_string(&path).unwrap(), module.clone());
        test_modules.extend(named.test_modules);
        files.push((module, path, named.paths));
    }
    files.retain(|(module, ..)| !test_modules.iter().any(|test| module.starts_with(test)));
    files.into_iter().map(|(module, path, paths)| File { path, module: module[0].clone(), paths }).collect()
}

/// Of a file below `src`: `["policy", "raw"]` for `policy/raw.rs`.
fn module_path(file: &str) -> ModulePath {
    file.trim_end_matches(".rs").split('/').map(str::to_owned).collect()
}

fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 50);
    files.sort();
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// So is what somebody can reach at worst.
#[test]
fn what_is_said_to_be_safe_is_held_by_a_test() {
    let text = std::fs::read_to_string(root().join("docs/security.md")).unwrap();
    let (_, table) = text.split_once("\n## Who may send what to which port\n").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    let tests = std::fs::read_dir(root().join("tests/it")).unwrap().map(|entry| entry.unwrap().path());
    let files = sources().into_iter().chain(tests.filter(|path| path.extension().is_some_and(|end| end == "rs")));
    let files = files.chain([root().join("tests/allocations.rs")]);
    let texts: Vec<String> = files.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    for row in &rows {
        let held_by = words(row.rsplit('|').nth(1).unwrap());
        assert!(!held_by.is_empty(), "{row}");
        for test in held_by {
            assert!(texts.iter().any(|text| text.contains(&format!("fn {test}()"))), "{test}");
        }
    }
    assert!(rows.len() > 8);
}

/// A bound that no test holds is a wish.
#[test]
fn every_bound_that_is_documented_is_held_by_a_test() {
    let text = std::fs::read_to_string(root().join("docs/operating.md")).unwrap();
    let (_, table) = text.split_once("\n### What is bounded\n").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    let tests = ["tests/allocations.rs", "tests/it/audit.rs", "tests/it/refused.rs", "tests/it/reload_broken.rs"]
        .map(|path| root().join(path));
    let texts: Vec<String> =
        sources().iter().chain(&tests).map(|path| std::fs::read_to_string(path).unwrap()).collect();
    for row in &rows {
        let held_by = words(row.rsplit('|').nth(1).unwrap());
        assert!(!held_by.is_empty(), "{row}");
        for test in held_by {
            assert!(texts.iter().any(|text| text.contains(&format!("fn {test}()"))), "{test}");
        }
    }
    assert!(rows.len() > 10);
}
