//! The table of wildcards.

use super::talk::{SILENCE, Talk};

const WORLD: [&str; 2] = ["cluster:a=1", "cluster:b=1"];
const CHANGED: [&str; 2] = ["cluster:a=2", "cluster:b=2"];

#[test]
fn xds_rule_56_a_first_request_without_names_is_for_all() {
    for mut talk in Talk::both(&WORLD) {
        assert_eq!(talk.ask("cluster", &[]), ["cluster a b"]);
    }
}

#[test]
fn xds_rule_57_names_are_added_to_the_wildcard() {
    let mut talk = Talk::sotw(&WORLD);
    talk.has(&[("cluster", &[])]);
    assert_eq!(talk.ask("cluster", &["*", "a"]), SILENCE);
    assert_eq!(talk.change(&CHANGED), ["cluster a b"]);
    let mut talk = Talk::delta(&WORLD);
    talk.has(&[("cluster", &[])]);
    assert_eq!(talk.subscribe("cluster", &["a"]), ["cluster a"]);
    talk.ack("cluster");
    assert_eq!(talk.change(&CHANGED), ["cluster a b"], "delta keeps a wildcard that was never named");
}

#[test]
fn xds_rule_58_without_the_wildcard_the_names_stay() {
    let mut talk = Talk::sotw(&WORLD);
    talk.has(&[("cluster", &["*", "a"])]);
    assert_eq!(talk.ask("cluster", &["a"]), SILENCE);
    assert_eq!(talk.change(&CHANGED), ["cluster a"]);
    let mut talk = Talk::delta(&WORLD);
    talk.has(&[("cluster", &[])]);
    talk.subscribe("cluster", &["a"]);
    talk.ack("cluster");
    assert_eq!(talk.unsubscribe("cluster", &["*"]), SILENCE);
    assert_eq!(talk.change(&CHANGED), ["cluster a"]);
}

#[test]
fn xds_rule_59_an_empty_list_after_that_is_nothing() {
    let mut talk = Talk::sotw(&WORLD);
    talk.has(&[("cluster", &["a"])]);
    assert_eq!(talk.ask("cluster", &[]), SILENCE);
    assert_eq!(talk.change(&CHANGED), SILENCE);
    let mut talk = Talk::delta(&WORLD);
    talk.has(&[("cluster", &["a"])]);
    assert_eq!(talk.unsubscribe("cluster", &["a"]), SILENCE);
    assert_eq!(talk.change(&CHANGED), SILENCE);
}

#[test]
fn xds_rule_60_no_other_type_has_a_wildcard() {
    for type_name in ["endpoint", "secret", "extension", "runtime", "route"] {
        for mut talk in Talk::both(&[&format!("{type_name}:a=1")]) {
            for names in [&[][..], &["*"]] {
                assert_eq!(talk.ask(type_name, names), SILENCE, "{type_name}");
            }
        }
    }
}
