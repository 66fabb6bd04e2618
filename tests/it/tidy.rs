//! Layers, kept by a test: which module may name which. The table is that of docs/architecture.md.
//! Where it stops fitting, change the table in the same commit and say why.

use std::path::{Path, PathBuf};

/// Each module of the crate, and the modules that it may name.
const LAYERS: [(&str, &[&str]); 28] = [
    ("shared_map", &[]),
    ("names", &[]),
    ("bulk", &["names"]),
    ("document", &["names", "shared_map"]),
    ("clock", &[]),
    ("pem", &[]),
    ("metrics", &[]),
    ("policy", &["names", "document", "shared_map"]),
    ("snapshot", &["names"]),
    ("compile", &["policy", "snapshot", "names", "document"]),
    ("limiter", &["policy", "names", "clock", "shared_map"]),
    ("explain", &["policy", "limiter", "names"]),
    ("counters", &["limiter", "clock"]),
    ("etcd", &[]),
    ("source", &["bulk", "document", "etcd", "names", "metrics", "clock", "shared_map"]),
    ("last_good", &["document", "names"]),
    ("live", &["document", "policy", "compile", "snapshot", "limiter", "names", "clock", "shared_map"]),
    ("audit", &["clock"]),
    ("editor", &["bulk", "live", "etcd", "document", "policy", "names"]),
    ("nodes", &["names", "snapshot", "clock"]),
    ("rollout", &["live", "snapshot", "names", "clock"]),
    ("frames", &[]),
    ("xds", &["frames", "live", "rollout", "snapshot", "nodes", "names", "metrics", "clock"]),
    ("rls", &["live", "limiter", "counters", "clock", "metrics", "names"]),
    (
        "admin",
        &[
            "document", "editor", "audit", "live", "policy", "rollout", "snapshot", "nodes", "counters", "source",
            "metrics", "names", "clock",
        ],
    ),
    ("bootstrap", &["policy", "compile", "snapshot"]),
    ("config", &["compile", "etcd", "xds"]),
    ("telemetry", &[]),
];

/// `serve`, `cli` and `main` put everything together.
const SHELL: [&str; 4] = ["serve", "cli", "main", "lib"];

/// Crates that a module must not know: what is pure stays pure, and protobuf stays at the edges.
const CRATES_BANNED: [(&str, &[&str]); 9] = [
    ("policy", &["tokio", "tonic", "envoy_types", "prost", "std::fs", "tracing"]),
    ("snapshot", &["tokio", "tonic", "tracing"]),
    ("compile", &["tokio", "tonic", "tracing"]),
    ("limiter", &["tokio", "tonic", "envoy_types", "prost", "std::fs", "tracing"]),
    ("counters", &["tonic", "envoy_types"]),
    ("live", &["tonic", "axum", "envoy_types", "tracing"]),
    ("rollout", &["tonic", "axum", "envoy_types"]),
    ("nodes", &["tonic", "axum", "envoy_types"]),
    ("admin", &["tonic", "envoy_types"]),
];

#[test]
fn modules_name_only_what_their_layer_allows() {
    let mut violations = Vec::new();
    for file in sources() {
        let module = module_of(&file);
        if SHELL.contains(&module.as_str()) {
            continue;
        }
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
            violations.push(format!("{}: module {module} is in no layer", file.display()));
            continue;
        };
        let banned = CRATES_BANNED.iter().find(|(name, _)| *name == module).map_or(&[][..], |(_, crates)| crates);
        for (number, line) in production_lines(&file) {
            for named in modules_named(&line) {
                if named != module && !allowed.contains(&named.as_str()) {
                    violations.push(format!("{}:{number}: {module} must not name {named}", file.display()));
                }
            }
            for name in banned.iter().filter(|name| names_crate(&line, name)) {
                violations.push(format!("{}:{number}: {module} must not use {name}", file.display()));
            }
        }
    }
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn a_violation_would_be_found() {
    assert_eq!(modules_named("use crate::live::{Live, Writer};"), ["live"]);
    assert_eq!(modules_named("    let x = crate::xds::y(crate::rls::z);"), ["xds", "rls"]);
    assert!(names_crate("use tokio::sync::watch;", "tokio"));
    assert!(!names_crate("use tokio_stream::wrappers;", "tokio"));
    assert!(!names_crate("/// as tokio::sync does", "tokio"));
}

fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    assert!(files.len() > 50);
    files.sort();
    files
}

/// The first part of the path below `src`: `policy` for `src/policy.rs` and all of `src/policy/`.
fn module_of(file: &Path) -> String {
    let relative = file.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The numbered lines of a file up to its tests. A file of tests has none.
fn production_lines(file: &Path) -> Vec<(usize, String)> {
    if file.ends_with("tests.rs") {
        return Vec::new();
    }
    let text = std::fs::read_to_string(file).unwrap();
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]");
    lines.enumerate().map(|(index, line)| (index + 1, line.to_owned())).collect()
}

fn modules_named(line: &str) -> Vec<String> {
    let after = line.split("crate::").skip(1);
    after.map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()).collect()
}

fn names_crate(line: &str, name: &str) -> bool {
    !line.trim_start().starts_with("//") && line.contains(&format!("{name}::"))
}
