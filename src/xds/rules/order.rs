//! Rules of order: make before break.

use super::talk::{SILENCE, Talk};
use crate::nodes::Standing;

/// An Envoy with a cluster and routes to it.
fn settled() -> [Talk; 2] {
    let mut talks = Talk::both(&["cluster:a=1", "endpoint:a=1", "listener:l=1", "route:r=a"]);
    talks.iter_mut().for_each(|talk| {
        talk.has(&[("cluster", &[]), ("endpoint", &["a"]), ("listener", &[]), ("route", &["r"])]);
    });
    talks
}

/// `a` is replaced by `b`.
const REPLACED: [&str; 4] = ["cluster:b=1", "endpoint:b=1", "listener:l=1", "route:r=b"];

/// The replacement up to the new routes, which are not answered yet.
fn replace(talk: &mut Talk) {
    talk.change(&REPLACED);
    talk.ack("cluster");
    talk.ask("endpoint", &["a", "b"]);
    talk.ack("endpoint");
}

/// Clusters as a response has them: state of the world keeps what is to go.
fn cluster(talk: &Talk, kept: &str, name: &str) -> String {
    match talk.session.protocol {
        crate::nodes::Protocol::StateOfTheWorld => format!("cluster {name} {kept}"),
        crate::nodes::Protocol::Delta => format!("cluster {name}"),
    }
}

#[test]
fn xds_rule_71_changes_of_several_types_are_sent_in_the_order_of_references() {
    let world = |content: u32| {
        ["cluster:a", "endpoint:a", "secret:s", "extension:e", "runtime:u", "listener:l", "route:r"]
            .map(|resource| format!("{resource}={content}"))
    };
    let [first, second] = [world(1), world(2)];
    for mut talk in Talk::both(&first.each_ref().map(String::as_str)) {
        let names: [(&str, &[&str]); 7] = [
            ("route", &["r"]),
            ("listener", &[]),
            ("runtime", &["u"]),
            ("extension", &["e"]),
            ("secret", &["s"]),
            ("cluster", &[]),
            ("endpoint", &["a"]),
        ];
        talk.has(&names);
        talk.ack("listener");
        talk.ack("route");
        let sent = talk.change(&second.each_ref().map(String::as_str));
        assert_eq!(sent, ["cluster a", "endpoint a", "secret s", "extension e", "runtime u"]);
        assert_eq!(talk.ack("cluster"), SILENCE);
        assert_eq!(talk.ack("endpoint"), ["listener l", "route r"]);
    }
}

#[test]
fn xds_rule_73_a_cluster_is_there_before_its_routes_and_goes_after_them() {
    for mut talk in settled() {
        assert_eq!(talk.change(&REPLACED), [cluster(&talk, "a", "b")]);
        assert_eq!(talk.ack("cluster"), SILENCE, "it has no endpoints yet");
        assert_eq!(talk.ask("endpoint", &["a", "b"]).first().map(|sent| &sent[..10]), Some("endpoint b"));
        assert_eq!(talk.ack("endpoint"), ["route r"]);
        for seconds in [60, 2] {
            assert_eq!(talk.wait(seconds), SILENCE, "the routes may still be the old ones");
        }
        assert_eq!(talk.ack("route"), SILENCE);
        assert_eq!(talk.session.standing(), Standing::Live);
        assert_eq!(talk.wait(4), SILENCE, "requests may still be under way");
        assert!(talk.wait(1)[0].starts_with("cluster"));
    }
}

/// Routes to a cluster that has no certificates yet would be answered with 503.
#[test]
fn xds_rule_73_a_secret_of_a_cluster_is_there_before_its_routes_and_goes_with_it() {
    for mut talk in settled() {
        let sent = talk.change(&["cluster:b=1", "endpoint:b=1", "secret:service/b/ca=1", "listener:l=1", "route:r=b"]);
        assert_eq!(sent, [cluster(&talk, "a", "b")]);
        talk.ack("cluster");
        talk.ask("endpoint", &["a", "b"]);
        assert_eq!(talk.ack("endpoint"), SILENCE, "it has no secret yet");
        assert_eq!(talk.ask("secret", &["service/b/ca"]), ["secret service/b/ca"]);
        assert_eq!(talk.ack("secret"), ["route r"]);
        talk.ack("route");
        talk.wait(5);
        talk.ack("cluster");

        talk.change(&["cluster:a=1", "endpoint:a=1", "listener:l=1", "route:r=a"]);
        talk.ack("cluster");
        assert_eq!(talk.ack("endpoint"), ["route r"]);
        assert_eq!(talk.wait(60), SILENCE, "the routes may still be the old ones");
        talk.ack("route");
        let sent = talk.wait(5);
        assert!(sent[0].starts_with("cluster"), "{sent:?}");
        let is_gone = sent.contains(&"secret -service/b/ca".to_owned());
        assert_eq!(is_gone, talk.session.protocol == crate::nodes::Protocol::Delta);
    }
}

#[test]
fn xds_rule_73_clusters_stay_while_old_routes_are_kept() {
    for mut talk in settled() {
        replace(&mut talk);
        talk.nack("route");
        assert_eq!(talk.wait(60), SILENCE);
        let mended = ["cluster:b=1", "endpoint:b=1", "listener:l=1", "route:r=good"];
        assert_eq!(talk.change(&mended), ["route r"]);
        talk.ack("route");
        assert!(talk.wait(5)[0].starts_with("cluster"));
    }
}

#[test]
fn xds_rule_73_no_wait_is_for_ever() {
    for mut talk in settled() {
        talk.change(&REPLACED);
        assert_eq!(talk.wait(14), SILENCE, "the clusters are not acknowledged");
        assert_eq!(talk.wait(1), ["route r"]);
    }
    for mut talk in settled() {
        talk.change(&REPLACED);
        talk.ack("cluster");
        assert_eq!(talk.wait(15), ["route r"], "nobody asks for the endpoints");
    }
}

/// A client that asks for nothing but clusters is not pending because of what it never asks for.
#[test]
fn xds_rule_68_only_what_waits_to_be_sent_makes_an_envoy_that_answered_everything_pending() {
    for mut talk in Talk::both(&["cluster:a=1", "endpoint:a=1", "listener:l=1"]) {
        talk.has(&[("cluster", &[])]);
        assert_eq!(talk.session.standing(), Standing::Live);
        assert_eq!(talk.ask("listener", &[]), SILENCE, "a has no endpoints");
        assert_eq!(talk.session.standing(), Standing::Pending);
        talk.ask("endpoint", &["a"]);
        assert_eq!(talk.ack("endpoint"), ["listener l"]);
        talk.ack("listener");
        assert_eq!(talk.session.standing(), Standing::Live);
    }
}

fn has_no_route(sent: &[String]) -> bool {
    sent.iter().all(|sent| !sent.starts_with("route"))
}

#[test]
fn xds_rule_73_who_has_waited_for_one_cluster_in_vain_waits_for_the_next_one_all_the_same() {
    let with_b = ["cluster:a=1", "cluster:b=1", "endpoint:a=1", "endpoint:b=1", "listener:l=1"];
    for mut talk in settled() {
        talk.change(&[&with_b[..], &["route:r=b"]].concat());
        talk.ack("cluster");
        assert_eq!(talk.wait(15), ["route r"], "nobody asks for the endpoints of b");
        talk.ack("route");
        for content in ["c", "c2"] {
            let c = ["cluster:c", "endpoint:c", "route:r"].map(|name| format!("{name}={content}"));
            let sent = talk.change(&[&with_b[..], &c.each_ref().map(String::as_str)].concat());
            assert!(has_no_route(&sent), "c is not acknowledged: {sent:?}");
            assert!(has_no_route(&talk.ack("cluster")), "it has no endpoints");
            if content == "c" {
                talk.ask("endpoint", &["a", "c"]);
            }
            assert_eq!(talk.ack("endpoint"), ["route r"], "b is not waited for any more");
            talk.ack("route");
            assert_eq!(talk.session.standing(), Standing::Live);
        }
    }
}

#[test]
fn xds_rule_73_an_envoy_that_answers_no_clusters_is_given_new_ones_time_each() {
    for mut talk in settled() {
        talk.change(&REPLACED);
        assert_eq!(talk.wait(15), ["route r"]);
        talk.ack("route");
        let world = ["cluster:c=1", "endpoint:c=1", "listener:l=1", "route:r=c"];
        assert!(has_no_route(&talk.change(&world)), "b is not acknowledged, so c is not even sent");
        assert!(has_no_route(&talk.wait(14)));
        assert_eq!(talk.wait(1), ["route r"]);
    }
}

#[test]
fn xds_rule_73_no_wait_is_for_ever_although_clusters_change_all_the_time() {
    for mut talk in settled() {
        let mut sent = 0;
        for content in 0..130 {
            let [cluster, route] = ["cluster:b", "route:r"].map(|name| format!("{name}={content}"));
            let world = ["cluster:a=1", &cluster, "endpoint:a=1", "endpoint:b=1", "listener:l=1", &route];
            let responses = [talk.change(&world), talk.ack("cluster"), talk.wait(1)].concat();
            sent += responses.iter().filter(|sent| sent.starts_with("route")).count();
            talk.ack("route");
        }
        assert_eq!(sent, 2, "once a minute");
    }
}

#[test]
fn xds_rule_73_clusters_go_although_something_changes_all_the_time() {
    for mut talk in settled() {
        replace(&mut talk);
        talk.ack("route");
        let mut removed = 0;
        for content in 0..12 {
            let route = format!("route:r={content}");
            talk.change(&["cluster:b=1", "endpoint:b=1", "listener:l=1", &route]);
            removed += talk.wait(1).iter().filter(|sent| sent.starts_with("cluster")).count();
            talk.ack("cluster");
            talk.ack("route");
        }
        assert_eq!(removed, 1);
    }
}

#[test]
fn xds_rule_73_a_cluster_that_is_back_in_time_never_goes() {
    for mut talk in settled() {
        replace(&mut talk);
        talk.ack("route");
        talk.wait(3);
        talk.change(&["cluster:a=1", "endpoint:a=1", "listener:l=1", "route:r=a"]);
        talk.ack("cluster");
        talk.ack("endpoint");
        talk.ack("route");
        let later: Vec<_> = (0..10).flat_map(|_| [talk.wait(1), talk.ack("cluster")].concat()).collect();
        assert!(later.iter().all(|sent| !sent.contains("-a")), "{later:?}");
        assert!(
            later
                .iter()
                .filter(|sent| sent.starts_with("cluster"))
                .all(|sent| sent.contains('a') || sent.contains("-b"))
        );
    }
}

#[test]
fn xds_rule_74_a_changed_cluster_gets_its_endpoints_again() {
    let world = ["cluster:a=1", "endpoint:a=1", "cluster:b=1", "endpoint:b=1"];
    for mut talk in Talk::both(&world) {
        talk.has(&[("cluster", &[]), ("endpoint", &["a", "b"])]);
        talk.ack("endpoint");
        let sent = talk.change(&["cluster:a=2", "endpoint:a=1", "cluster:b=1", "endpoint:b=1"]);
        assert!(sent[0].starts_with("cluster a"));
        assert_eq!(sent[1], "endpoint a");
    }
}

#[test]
fn xds_rule_78_one_stuck_type_does_not_keep_unrelated_ones() {
    let world = ["cluster:a=1", "secret:s=1", "listener:l=1"];
    for mut talk in Talk::both(&world) {
        talk.has(&[("cluster", &[]), ("secret", &["s"]), ("listener", &[])]);
        assert_eq!(talk.change(&["cluster:a=2", "secret:s=1", "listener:l=1"]), ["cluster a"]);
        assert_eq!(talk.change(&["cluster:a=2", "secret:s=2", "listener:l=1"]), ["secret s"]);
        talk.ack("secret");
        assert_eq!(talk.change(&["cluster:a=2", "secret:s=2", "listener:l=2"]), SILENCE);
        assert_eq!(talk.nack("cluster"), ["listener l"], "a refusal is an answer");
    }
}
