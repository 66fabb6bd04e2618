//! Rules of state of the world, and of nonces and versions.

use std::sync::Arc;

use super::talk::{SILENCE, Talk, type_of};
use crate::nodes::Standing;
use crate::snapshot::resource::ResourceType;
use crate::xds::session::Answer;

#[test]
fn xds_rule_8_an_acknowledgement_of_one_type_says_nothing_of_another() {
    for mut talk in Talk::both(&["secret:s=1", "runtime:r=1"]) {
        talk.ask("secret", &["s"]);
        talk.ask("runtime", &["r"]);
        talk.ack("secret");
        assert!(talk.session.get(ResourceType::Runtime).unwrap().is_pending());
        assert_eq!(talk.session.standing(), Standing::Pending);
        talk.ack("runtime");
        assert_eq!(talk.session.standing(), Standing::Live);
    }
}

#[test]
fn xds_rule_10_a_nonce_of_an_earlier_stream_makes_a_first_request_no_stale_one() {
    let mut talk = Talk::sotw(&[]);
    assert_eq!(talk.list("route", &["r"], "17", None), SILENCE);
    talk.change(&["route:s=1"]);
    assert_eq!(talk.list("route", &["r", "s"], "17", None), ["route s"]);
    assert_eq!((talk.answer, talk.is_stale), (None, false));
    let mut talk = Talk::delta(&["route:r=1"]);
    let first =
        crate::xds::delta::Request { subscribe: vec!["r".to_owned()], nonce: "17".to_owned(), ..Default::default() };
    assert_eq!(talk.say("route", first), ["route r"]);
    assert_eq!((talk.answer, talk.is_stale), (None, false));
}

#[test]
fn xds_rule_11_nonces_are_unique_within_a_stream() {
    let mut talk = Talk::sotw(&["cluster:a=1", "listener:l=1", "secret:s=1"]);
    let mut nonces = std::collections::BTreeSet::new();
    for content in 0..10 {
        talk.change(&[
            &format!("cluster:a={content}"),
            &format!("listener:l={content}"),
            &format!("secret:s={content}"),
        ]);
        talk.has(&[("cluster", &[]), ("listener", &[]), ("secret", &["s"])]);
        nonces.extend(talk.nonces.values().cloned());
    }
    assert_eq!(nonces.len(), 30);
}

#[test]
fn xds_rule_12_no_name_is_twice_in_a_response() {
    for mut talk in Talk::both(&["cluster:a=1", "cluster:b=1"]) {
        assert_eq!(talk.ask("cluster", &["*", "a", "a", "b"]), ["cluster a b"]);
    }
}

#[test]
fn xds_rule_14_a_first_request_is_answered_at_once_or_when_there_is_something() {
    let mut talk = Talk::sotw(&["cluster:a=1"]);
    assert_eq!(talk.ask("cluster", &[]), ["cluster a"]);
    assert_eq!(talk.ask("route", &["r"]), SILENCE);
    talk.ack("cluster");
    assert_eq!(talk.change(&["cluster:a=1", "route:r=1"]), ["route r"]);
}

#[test]
fn xds_rule_14_whoever_wants_all_and_gets_none_is_told_so() {
    for mut talk in Talk::both(&[]) {
        assert_eq!(talk.ask("cluster", &[]), ["cluster"]);
        assert_eq!(talk.ack("cluster"), SILENCE);
        assert_eq!(talk.ask("listener", &[]), ["listener"]);
    }
}

#[test]
fn xds_rule_21_what_was_deleted_while_nobody_served_is_absent_from_the_first_response() {
    let mut talk = Talk::sotw(&[]);
    assert_eq!(talk.ask("listener", &["l"]), ["listener"]);
    assert_eq!(talk.ack("listener"), SILENCE);
    assert_eq!(talk.change(&["listener:l=1"]), ["listener l"]);
}

#[test]
fn xds_rule_15_an_acknowledgement_is_noted_and_not_answered() {
    for mut talk in Talk::both(&["cluster:a=1"]) {
        talk.ask("cluster", &[]);
        assert_eq!(talk.ack("cluster"), SILENCE);
        assert_eq!(talk.answer, Some(Answer::Acknowledged));
    }
}

#[test]
fn xds_rule_16_a_refusal_is_noted_and_not_answered() {
    for mut talk in Talk::both(&["cluster:a=1"]) {
        talk.ask("cluster", &[]);
        assert_eq!(talk.nack("cluster"), SILENCE);
        assert_eq!(talk.answer, Some(Answer::Refused("bad".to_owned())));
        assert_eq!(talk.session.standing(), Standing::Refusing);
    }
}

#[test]
fn xds_rule_17_a_stale_request_is_dropped_with_all_that_it_says() {
    let mut talk = Talk::sotw(&["route:r=1", "route:s=1"]);
    talk.ask("route", &["r"]);
    let stale = talk.nonce("route");
    talk.ack("route");
    talk.change(&["route:r=2", "route:s=1"]);
    assert_eq!(talk.list("route", &["r", "s"], &stale, None), SILENCE);
    assert_eq!((&talk.answer, talk.is_stale), (&None, true));
    assert_eq!(talk.ask("route", &["r", "s"]), ["route s"]);
    assert_eq!((&talk.answer, talk.is_stale), (&Some(Answer::Acknowledged), false));
}

#[test]
fn xds_rule_18_an_acknowledgement_can_ask_for_more() {
    let mut talk = Talk::sotw(&["route:r=1", "route:s=1"]);
    talk.ask("route", &["r"]);
    assert_eq!(talk.ask("route", &["r", "s"]), ["route s"]);
    assert_eq!(talk.answer, Some(Answer::Acknowledged));
}

#[test]
fn xds_rule_19_names_that_are_added_are_sent_although_no_version_changed() {
    let mut talk = Talk::sotw(&["endpoint:a=1", "endpoint:b=1"]);
    assert_eq!(talk.ask("endpoint", &["a"]), ["endpoint a"]);
    let version = talk.versions[&type_of("endpoint")].clone();
    assert_eq!(talk.ack("endpoint"), SILENCE);
    assert_eq!(talk.ask("endpoint", &["a", "b"]), ["endpoint b"]);
    assert_eq!(talk.versions[&type_of("endpoint")], version);
}

#[test]
fn xds_rule_20_a_name_that_is_asked_for_again_is_sent_again() {
    let mut talk = Talk::sotw(&["endpoint:a=1", "endpoint:b=1"]);
    talk.ask("endpoint", &["a", "b"]);
    assert_eq!(talk.ask("endpoint", &["a"]), SILENCE);
    assert_eq!(talk.ask("endpoint", &["a", "b"]), ["endpoint b"]);
    let mut talk = Talk::sotw(&["cluster:a=1", "cluster:b=1"]);
    talk.ask("cluster", &["*"]);
    assert_eq!(talk.ask("cluster", &["a"]), SILENCE);
    assert_eq!(talk.ask("cluster", &["*", "a"]), ["cluster a b"], "b was forgotten");
}

#[test]
fn xds_rule_21_clusters_and_listeners_are_sent_whole() {
    let mut talk = Talk::sotw(&["cluster:a=1", "cluster:b=1", "listener:k=1", "listener:l=1"]);
    talk.has(&[("cluster", &[]), ("listener", &[])]);
    let changed = ["cluster:a=1", "cluster:b=2", "listener:l=1"];
    assert_eq!(talk.change(&changed), ["cluster a b"]);
    assert_eq!(talk.ack("cluster"), ["listener l"]);
}

#[test]
fn xds_rule_23_other_types_are_sent_in_part_and_absence_deletes_nothing() {
    let mut talk = Talk::sotw(&["route:r=1", "route:s=1", "secret:x=1"]);
    talk.has(&[("route", &["r", "s"]), ("secret", &["x"])]);
    assert_eq!(talk.change(&["route:r=2"]), ["route r"]);
    assert_eq!(talk.ack("route"), SILENCE);
    assert_eq!(talk.wait(60), SILENCE);
}

#[test]
fn xds_rule_23_a_layer_of_runtime_keys_is_never_sent_empty() {
    let mut talk = Talk::sotw(&["runtime:r=1"]);
    talk.has(&[("runtime", &["r"])]);
    assert_eq!(talk.change(&[]), SILENCE);
    assert_eq!(talk.change(&["runtime:r=2"]), ["runtime r"]);
}

#[test]
fn xds_rule_24_nothing_is_said_when_nothing_changed() {
    for mut talk in Talk::both(&["cluster:a=1", "route:r=1"]) {
        talk.has(&[("cluster", &[]), ("route", &["r", "missing"])]);
        if talk.session.protocol == crate::nodes::Protocol::StateOfTheWorld {
            for _ in 0..3 {
                assert_eq!(talk.ask("route", &["r", "missing"]), SILENCE);
            }
        }
        assert_eq!(talk.change(&["cluster:a=1", "route:r=1"]), SILENCE);
        assert_eq!(talk.wait(60), SILENCE);
    }
}

#[test]
fn xds_rule_25_a_name_that_does_not_exist_is_sent_once_it_does() {
    let mut talk = Talk::sotw(&["route:r=1"]);
    talk.has(&[("route", &["r", "s"])]);
    assert_eq!(talk.change(&["route:r=1", "route:s=1"]), ["route s"]);
}

#[test]
fn xds_rule_26_several_requests_before_a_response_are_answered_once() {
    let mut talk = Talk::sotw(&[]);
    talk.ask("route", &["r"]);
    talk.ask("route", &["r", "s"]);
    talk.ask("route", &["s"]);
    assert_eq!(talk.change(&["route:r=1", "route:s=1"]), ["route s"]);
}

#[test]
fn xds_rule_27_what_nobody_asked_for_is_not_sent() {
    for mut talk in Talk::both(&["route:r=1", "route:s=1"]) {
        assert_eq!(talk.ask("route", &["r"]), ["route r"]);
        talk.ack("route");
        assert_eq!(talk.change(&["route:r=1", "route:s=2"]), SILENCE);
    }
}

#[test]
fn xds_rule_28_a_missing_name_keeps_nobody_from_the_others() {
    for mut talk in Talk::both(&["endpoint:a=1", "endpoint:b=1"]) {
        let answer = talk.ask("endpoint", &["a", "missing"]);
        assert!(answer[0].starts_with("endpoint a"), "{answer:?}");
    }
}

#[test]
fn xds_rule_29_a_version_changes_with_the_content_and_only_with_it() {
    for mut talk in Talk::both(&["cluster:a=1"]) {
        let mut version_of = |content: &str| {
            talk.change(&[&format!("cluster:a={content}")]);
            talk.has(&[("cluster", &[])]);
            talk.versions[&ResourceType::Cluster].clone()
        };
        let versions = ["1", "2", "1"].map(&mut version_of);
        assert_eq!(versions[0], versions[2]);
        assert_ne!(versions[0], versions[1]);
    }
}

#[test]
fn xds_rule_29_a_response_that_keeps_what_is_to_go_has_a_version_of_its_own() {
    let mut talk = Talk::sotw(&["cluster:a=1", "cluster:b=1"]);
    talk.has(&[("cluster", &[])]);
    assert_eq!(talk.change(&["cluster:a=2"]), ["cluster a b"]);
    let with_b = talk.versions[&ResourceType::Cluster].clone();
    talk.ack("cluster");
    assert_eq!(talk.wait(5), ["cluster a"]);
    assert_ne!(talk.versions[&ResourceType::Cluster], with_b);
}

#[test]
fn xds_rule_31_every_stream_is_sent_everything_once() {
    let mut talk = Talk::sotw(&["cluster:a=1", "route:r=1"]);
    assert_eq!(talk.list("cluster", &[], "9", None), ["cluster a"]);
    talk.ack("cluster");
    assert_eq!(talk.list("route", &["r"], "9", None), ["route r"]);
}

#[test]
fn xds_rule_32_equal_contents_have_equal_versions_on_every_replica() {
    let [one, other] = [["cluster:a=1", "cluster:b=1"], ["cluster:b=1", "cluster:a=1"]].map(|resources| {
        let mut talk = Talk::sotw(&resources);
        talk.ask("cluster", &[]);
        talk.versions[&ResourceType::Cluster].clone()
    });
    assert_eq!(one, other);
}

#[test]
fn xds_rule_88_one_response_is_under_way_and_the_newest_state_follows() {
    for mut talk in Talk::both(&["listener:l=1"]) {
        talk.ask("listener", &[]);
        for content in 2..1000 {
            assert_eq!(talk.change(&[&format!("listener:l={content}")]), SILENCE);
        }
        assert_eq!(talk.ack("listener"), ["listener l"]);
        assert_eq!(talk.ack("listener"), SILENCE);
    }
}

#[test]
fn xds_rule_92_what_was_made_anew_with_equal_content_is_not_there_twice() {
    for mut talk in Talk::both(&["route:r=1"]) {
        talk.has(&[("route", &["r"])]);
        let before = Arc::downgrade(talk.world.of_type(ResourceType::Route));
        assert_eq!(talk.change(&["route:r=1"]), SILENCE);
        assert!(before.upgrade().is_none(), "the stream has what is served now");
    }
}

#[test]
fn xds_rule_92_equal_content_is_no_change() {
    for mut talk in Talk::both(&["listener:l=1", "route:r=1"]) {
        talk.has(&[("listener", &[]), ("route", &["r"])]);
        for _ in 0..10 {
            assert_eq!(talk.change(&["route:r=1", "listener:l=1"]), SILENCE);
        }
    }
}
