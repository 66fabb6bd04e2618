//! `tierflow check`: where a document is wrong and why, and an exit code for machines.

use std::fs;

use crate::harness::tierflow;

/// What is said of a document, which has to be refused.
fn refused(document: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("api.yaml"), document).unwrap();
    let output = tierflow(&["check", folder.path().to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty());
    said
}

#[test]
fn a_typo_is_shown_with_its_place_and_what_was_meant() {
    let said = refused("kind: Plan\nname: standard\nlimits: [{ rat: 5/h }]\n");
    for part in ["api.yaml:3:12", "limits: [{ rat: 5/h }]", "`rate`"] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
}

#[test]
fn a_missing_service_is_named() {
    let said = refused(
        "kind: Gateway\nname: edge\nnodes: { ids: [e] }\nlisten: 127.0.0.1:1\n---\nkind: Api\nname: pay\ngateway: edge\nmatch: { path: / }\nservice: nowhere\n",
    );
    for part in ["api.yaml:10:10", "nowhere"] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
}

#[test]
fn a_half_written_document_is_shown_where_it_ends() {
    let said = refused("kind: Plan\nname: standard\nlimits: [{ rate: 5/h");
    assert!(said.contains("api.yaml:3:"), "{said}");
}

#[test]
fn an_alias_bomb_is_refused_where_it_begins() {
    let lines: Vec<String> = ('b'..='z').map(|c| format!("{c}: &{c} [*{0}, *{0}]", (c as u8 - 1) as char)).collect();
    let said = refused(&format!("kind: Plan\nname: bomb\na: &a [x, x]\n{}\n", lines.join("\n")));
    assert!(said.contains("api.yaml:3:") && said.contains("alias"), "{said}");
}

#[test]
fn all_problems_are_told_at_once() {
    let said =
        refused("kind: Plan\nname: A\nlimits: [{ rate: 5 }]\n---\nkind: Plan\nname: b\nlimits: [{ rate: /h }]\n");
    assert!(said.trim_end().ends_with("3 problems"), "{said}");
}

#[test]
fn a_file_that_is_not_read_for_its_ending_is_told_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("plan.yaml"), "kind: Plan\nname: standard\nlimits: [{ rate: 5/h }]\n").unwrap();
    fs::write(folder.path().join("Tenant.YAML"), "kind: Tenant\nname: acme\nplan: nowhere\n").unwrap();
    let output = tierflow(&["check", folder.path().to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("warning: ") && said.contains("Tenant.YAML is not read"), "{said}");
}

#[test]
fn nothing_to_check_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let output = tierflow(&["check", folder.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
}
