//! Rules of delta.

use super::talk::{SILENCE, Talk, owned};
use crate::snapshot::resource::ResourceType;
use crate::xds::delta::Request;
use crate::xds::session::Answer;

#[test]
fn xds_rule_33_one_request_can_acknowledge_subscribe_and_unsubscribe() {
    let mut talk = Talk::delta(&["route:r=1", "route:s=1"]);
    talk.subscribe("route", &["r"]);
    let request = Request {
        nonce: talk.nonce("route"),
        subscribe: owned(&["s"]),
        unsubscribe: owned(&["r"]),
        ..Default::default()
    };
    assert_eq!(talk.say("route", request), ["route s"]);
    assert_eq!(talk.answer, Some(Answer::Acknowledged));
    talk.ack("route");
    assert_eq!(talk.change(&["route:r=2", "route:s=1"]), SILENCE);
}

#[test]
fn xds_rule_33_a_request_without_a_nonce_acknowledges_nothing() {
    let mut talk = Talk::delta(&["route:r=1", "route:s=1"]);
    talk.subscribe("route", &["r"]);
    talk.subscribe("route", &["s"]);
    assert_eq!((&talk.answer, talk.is_stale), (&None, false));
    assert!(talk.session.get(ResourceType::Route).unwrap().is_pending());
    assert_eq!(talk.ack("route"), ["route s"]);
}

#[test]
fn xds_rule_34_a_stale_nonce_still_changes_what_is_wanted() {
    let mut talk = Talk::delta(&["endpoint:a=1", "endpoint:b=1"]);
    talk.has(&[("endpoint", &["a"])]);
    let stale = Request { nonce: "0".to_owned(), subscribe: owned(&["b"]), ..Default::default() };
    assert_eq!(talk.say("endpoint", stale), ["endpoint b"]);
    assert_eq!((&talk.answer, talk.is_stale), (&None, true));
    assert!(talk.session.get(ResourceType::Endpoint).unwrap().is_pending(), "it acknowledges nothing");
    talk.say("endpoint", Request { nonce: "0".to_owned(), ..Default::default() });
    assert_eq!((&talk.answer, talk.is_stale), (&None, true));
}

#[test]
fn xds_rule_35_empty_lists_change_nothing() {
    let mut talk = Talk::delta(&["cluster:a=1", "cluster:b=1"]);
    talk.has(&[("cluster", &["a"])]);
    assert_eq!(talk.subscribe("cluster", &[]), SILENCE);
    assert_eq!(talk.change(&["cluster:a=1", "cluster:b=2"]), SILENCE);
    assert_eq!(talk.change(&["cluster:a=2", "cluster:b=2"]), ["cluster a"]);
}

#[test]
fn xds_rule_36_every_name_that_is_asked_for_is_answered_even_if_it_is_known() {
    let mut talk = Talk::delta(&["endpoint:a=1", "cluster:c=1"]);
    talk.has(&[("endpoint", &["a"]), ("cluster", &[])]);
    assert_eq!(talk.subscribe("endpoint", &["a"]), ["endpoint a"]);
    assert_eq!(talk.subscribe("cluster", &["c"]), ["cluster c"], "also beside a wildcard");
}

#[test]
fn xds_rule_37_a_name_that_does_not_exist_is_removed_at_once() {
    let mut talk = Talk::delta(&[]);
    assert_eq!(talk.subscribe("route", &["r"]), ["route -r"]);
    talk.ack("route");
    assert_eq!(talk.subscribe("route", &["s"]), ["route -s"]);
    for special in ["secret", "extension", "runtime"] {
        assert_eq!(talk.subscribe(special, &["x"]), [format!("{special} -x")]);
    }
}

#[test]
fn xds_rule_38_and_stays_subscribed_to() {
    let mut talk = Talk::delta(&[]);
    talk.has(&[("endpoint", &["a"])]);
    assert_eq!(talk.change(&["endpoint:a=1"]), ["endpoint a"]);
}

#[test]
fn xds_rule_39_to_unsubscribe_needs_no_answer() {
    let mut talk = Talk::delta(&["route:r=1"]);
    talk.has(&[("route", &["r"])]);
    assert_eq!(talk.unsubscribe("route", &["r", "never-asked-for"]), SILENCE);
    assert_eq!(talk.change(&["route:r=2"]), SILENCE);
}

#[test]
fn xds_rule_40_a_name_that_is_unsubscribed_beside_a_wildcard_is_answered() {
    let mut talk = Talk::delta(&["cluster:a=1"]);
    talk.has(&[("cluster", &["*", "a", "x"])]);
    assert_eq!(talk.unsubscribe("cluster", &["a", "x"]), ["cluster a -x"]);
}

#[test]
fn xds_rule_41_without_the_wildcard_only_names_are_left() {
    let mut talk = Talk::delta(&["cluster:a=1", "cluster:b=1"]);
    talk.has(&[("cluster", &["*", "a"])]);
    assert_eq!(talk.unsubscribe("cluster", &["*"]), SILENCE);
    assert_eq!(talk.change(&["cluster:a=2", "cluster:b=2"]), ["cluster a"]);
}

#[test]
fn xds_rule_41_with_the_wildcard_again_everything_is_sent_again() {
    let mut talk = Talk::delta(&["cluster:a=1", "cluster:b=1"]);
    talk.has(&[("cluster", &["*", "a"])]);
    talk.unsubscribe("cluster", &["*"]);
    assert_eq!(talk.subscribe("cluster", &["*"]), ["cluster b"], "a was kept all the time");
}

#[test]
fn xds_rule_42_only_what_was_there_or_asked_for_is_removed() {
    let mut talk = Talk::delta(&["route:r=1", "route:s=1"]);
    talk.has(&[("route", &["r"])]);
    assert_eq!(talk.change(&[]), ["route -r"]);
    assert_eq!(talk.ack("route"), SILENCE);
    assert_eq!(talk.change(&[]), SILENCE);
}

#[test]
fn xds_rule_43_a_resource_has_the_version_of_its_content() {
    let [one, other] = [&["secret:s=1", "secret:t=1"][..], &["secret:s=1", "secret:t=2"][..]].map(|resources| {
        let world = super::talk::world(resources);
        let secrets = world.of_type(ResourceType::Secret);
        ["s", "t"].map(|name| secrets.by_name[name].version)
    });
    assert_eq!(one[0], other[0]);
    assert_ne!(one[1], other[1]);
}

#[test]
fn xds_rule_44_only_what_changed_is_sent() {
    let mut talk = Talk::delta(&["cluster:a=1", "cluster:b=1"]);
    talk.has(&[("cluster", &[])]);
    assert_eq!(talk.change(&["cluster:a=1", "cluster:b=2", "cluster:c=1"]), ["cluster b c"]);
}

#[test]
fn xds_rule_45_what_was_deleted_is_sent_again_once_it_is_back() {
    let mut talk = Talk::delta(&["route:r=1"]);
    talk.has(&[("route", &["r"])]);
    assert_eq!(talk.change(&[]), ["route -r"]);
    talk.ack("route");
    assert_eq!(talk.change(&["route:r=1"]), ["route r"]);
}

#[test]
fn xds_rule_46_a_reconnecting_envoy_is_sent_what_differs_and_loses_what_is_gone() {
    let mut talk = Talk::delta(&["listener:a=1", "listener:b=2"]);
    assert_eq!(talk.reconnect("listener", &[], &["a=1", "b=1", "c=1"]), ["listener b -c"]);
    let mut talk = Talk::delta(&["cluster:a=1", "cluster:b=2"]);
    assert_eq!(talk.reconnect("cluster", &[], &["a=1", "b=1", "c=1"]), ["cluster b"]);
    talk.ack("cluster");
    assert_eq!(talk.wait(5), ["cluster -c"], "clusters go last");
}

#[test]
fn xds_rule_46_an_envoy_that_has_everything_is_sent_nothing() {
    let mut talk = Talk::delta(&["cluster:a=1", "listener:l=1", "route:r=1"]);
    assert_eq!(talk.reconnect("cluster", &[], &["a=1"]), SILENCE);
    assert_eq!(talk.reconnect("listener", &["*"], &["l=1"]), SILENCE);
    assert_eq!(talk.reconnect("route", &["r"], &["r=1"]), SILENCE);
    assert!(talk.session.has_all(ResourceType::Route, talk.world.of_type(ResourceType::Route)));
    assert_eq!(talk.change(&["cluster:a=1", "listener:l=2", "route:r=1"]), ["listener l"]);
}

#[test]
fn xds_rule_47_initial_versions_count_in_a_first_request_only() {
    let mut talk = Talk::delta(&["route:r=1", "route:s=1"]);
    talk.has(&[("route", &["r"])]);
    assert_eq!(talk.reconnect("route", &["s"], &["s=1"]), ["route s"]);
}

#[test]
fn xds_rule_48_a_known_name_in_the_first_request_is_not_sent_again() {
    let mut talk = Talk::delta(&["route:r=1", "route:s=1"]);
    assert_eq!(talk.reconnect("route", &["r", "s"], &["r=1"]), ["route s"]);
}

#[test]
fn xds_rule_52_after_the_first_clusters_of_a_stream_their_endpoints_are_sent_again() {
    let mut talk = Talk::delta(&["cluster:a=2", "endpoint:a=1"]);
    assert_eq!(talk.reconnect("endpoint", &["a"], &["a=1"]), SILENCE);
    assert_eq!(talk.reconnect("cluster", &[], &["a=1"]), ["cluster a", "endpoint a"]);
    let mut talk = Talk::sotw(&["cluster:a=1", "endpoint:a=1"]);
    talk.has(&[("endpoint", &["a"])]);
    assert_eq!(talk.ask("cluster", &[]), ["cluster a", "endpoint a"]);
}

#[test]
fn xds_rule_53_extensions_and_runtime_layers_are_never_taken_away() {
    let mut talk = Talk::delta(&["extension:e=1", "runtime:r=1", "secret:s=1"]);
    talk.has(&[("extension", &["e"]), ("runtime", &["r"]), ("secret", &["s"])]);
    assert_eq!(talk.change(&[]), SILENCE);
    assert_eq!(talk.wait(5), ["secret -s"]);
    talk.ack("secret");
    assert_eq!(talk.wait(60), SILENCE);
    assert_eq!(talk.change(&["extension:e=2", "runtime:r=2"]), ["extension e", "runtime r"]);
}
