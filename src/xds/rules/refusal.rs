//! Rules of refusals.

use super::talk::{SILENCE, Talk};
use crate::nodes::Standing;
use crate::xds::session::Answer;

#[test]
fn xds_rule_49_after_a_refusal_an_envoy_has_what_it_had() {
    for mut talk in Talk::both(&["listener:l=1"]) {
        talk.has(&[("listener", &[])]);
        talk.change(&["listener:l=bad"]);
        talk.nack("listener");
        assert_eq!(talk.change(&["listener:l=1"]), SILENCE, "it still has that");
        assert_eq!(talk.session.standing(), Standing::Live);
        assert_eq!(talk.change(&["listener:l=2"]), ["listener l"]);
    }
}

#[test]
fn xds_rule_49_what_was_refused_alone_is_not_sent_along_with_others() {
    let mut talk = Talk::delta(&["listener:l=1", "listener:m=1"]);
    talk.has(&[("listener", &[])]);
    talk.change(&["listener:l=bad", "listener:m=1"]);
    talk.nack("listener");
    assert_eq!(talk.change(&["listener:l=bad", "listener:m=2"]), ["listener m"]);
}

#[test]
fn xds_rule_49_a_whole_response_has_what_the_envoy_has_instead_of_what_it_refused() {
    let mut talk = Talk::sotw(&["listener:l=1", "listener:m=1"]);
    talk.has(&[("listener", &[])]);
    talk.change(&["listener:l=bad", "listener:m=1"]);
    talk.nack("listener");
    assert_eq!(talk.change(&["listener:l=bad", "listener:m=2"]), ["listener l m"]);
    assert_eq!(talk.ack("listener"), SILENCE);
    assert_eq!(talk.session.standing(), Standing::Refusing, "the refused one is still not there");
    assert_eq!(talk.change(&["listener:l=1", "listener:m=2"]), SILENCE);
    assert_eq!(talk.session.standing(), Standing::Live);
}

#[test]
fn xds_rule_50_what_was_refused_together_is_sent_again_with_the_next_change_but_not_before() {
    for mut talk in Talk::both(&["route:r=1", "route:s=1"]) {
        talk.has(&[("route", &["r", "s"])]);
        talk.change(&["route:r=bad", "route:s=2"]);
        assert_eq!(talk.nack("route"), SILENCE);
        assert_eq!(talk.change(&["route:r=bad", "route:s=2"]), SILENCE);
        assert_eq!(talk.change(&["route:r=good", "route:s=2"]), ["route r s"]);
    }
}

#[test]
fn xds_rule_51_each_gateway_has_one_route_configuration_and_only_changed_ones_are_sent() {
    for mut talk in Talk::both(&["route:r=1", "route:s=1"]) {
        talk.has(&[("route", &["r", "s"])]);
        assert_eq!(talk.change(&["route:r=2", "route:s=1"]), ["route r"]);
    }
}

/// Whichever of them is bad: Envoy refuses a response as a whole.
#[test]
fn xds_rule_51_a_secret_that_is_refused_keeps_no_other_from_being_taken() {
    for mut talk in Talk::both(&["secret:r=bad", "secret:s=1", "secret:t=1"]) {
        assert_eq!(talk.ask("secret", &["r", "s", "t"]), ["secret r"]);
        assert_eq!(talk.nack("secret"), ["secret s"]);
        assert_eq!(talk.ack("secret"), ["secret t"]);
        assert_eq!(talk.ack("secret"), SILENCE);
        assert_eq!(talk.session.standing(), Standing::Refusing);
        assert_eq!(talk.change(&["secret:r=bad", "secret:s=2", "secret:t=1"]), ["secret s"]);
        assert_eq!(talk.ack("secret"), SILENCE);
        assert_eq!(talk.change(&["secret:r=good", "secret:s=2", "secret:t=1"]), ["secret r"]);
        assert_eq!(talk.ack("secret"), SILENCE);
        assert_eq!(talk.session.standing(), Standing::Live);
    }
}

#[test]
fn xds_rule_61_the_error_alone_makes_a_refusal() {
    for mut talk in Talk::both(&["route:r=1"]) {
        talk.ask("route", &["r"]);
        talk.nack("route");
        assert_eq!(talk.answer, Some(Answer::Refused("bad".to_owned())));
        talk.change(&["route:r=2"]);
        talk.ack("route");
        assert_eq!(talk.answer, Some(Answer::Acknowledged));
    }
}

#[test]
fn xds_rule_62_a_refused_version_is_not_sent_again_until_it_changes() {
    for mut talk in Talk::both(&["listener:l=bad"]) {
        talk.ask("listener", &[]);
        for _ in 0..10 {
            assert_eq!(talk.nack("listener"), SILENCE);
            assert_eq!(talk.change(&["listener:l=bad"]), SILENCE);
            assert_eq!(talk.wait(10), SILENCE);
        }
    }
}

#[test]
fn xds_rule_62_who_refuses_everything_gets_one_response_a_change() {
    for mut talk in Talk::both(&["cluster:a=0", "listener:l=0"]) {
        talk.ask("cluster", &[]);
        talk.nack("cluster");
        for content in 1..100 {
            let mut responses = talk.change(&[&format!("cluster:a={content}"), "listener:l=0"]);
            responses.extend(talk.nack("cluster"));
            responses.extend(talk.wait(1));
            assert_eq!(responses, ["cluster a"]);
        }
    }
}

#[test]
fn xds_rule_63_new_content_is_sent_at_once() {
    for mut talk in Talk::both(&["listener:l=bad"]) {
        talk.ask("listener", &[]);
        talk.nack("listener");
        assert_eq!(talk.change(&["listener:l=good"]), ["listener l"]);
        talk.ack("listener");
        assert_eq!(talk.session.standing(), Standing::Live);
    }
}

#[test]
fn xds_rule_64_a_refusal_in_the_first_request_is_a_first_request() {
    let mut talk = Talk::sotw(&["listener:l=1"]);
    assert_eq!(talk.list("listener", &[], "9", Some("bad")), ["listener l"]);
    assert_eq!(talk.answer, None);
    assert_eq!(talk.nack("listener"), SILENCE);
    let mut talk = Talk::delta(&["listener:l=1"]);
    let refusal =
        crate::xds::delta::Request { nonce: "9".to_owned(), error: Some("bad".to_owned()), ..Default::default() };
    assert_eq!(talk.say("listener", refusal), ["listener l"]);
    assert_eq!(talk.answer, None);
    assert_eq!(talk.nack("listener"), SILENCE);
}

#[test]
fn xds_rule_68_whoever_does_not_answer_is_pending_and_sent_nothing_more() {
    for mut talk in Talk::both(&["listener:l=1"]) {
        talk.ask("listener", &[]);
        assert_eq!(talk.session.standing(), Standing::Pending);
        assert_eq!(talk.wait(1000), SILENCE);
        assert_eq!(talk.session.standing(), Standing::Pending);
    }
}

#[test]
fn what_was_refused_and_is_gone_is_told_as_gone() {
    let mut talk = Talk::delta(&["route:r=bad"]);
    talk.ask("route", &["r"]);
    talk.nack("route");
    assert_eq!(talk.change(&[]), ["route -r"]);
    talk.ack("route");
    assert_eq!(talk.session.standing(), Standing::Live);
}

#[test]
fn what_was_refused_and_is_no_longer_wanted_is_no_refusal() {
    let mut talk = Talk::delta(&["route:r=bad"]);
    talk.ask("route", &["r"]);
    talk.nack("route");
    assert_eq!(talk.unsubscribe("route", &["r"]), SILENCE);
    assert_eq!(talk.session.standing(), Standing::Live);
}
