use super::*;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_nanos(seconds * 1_000_000_000)
}

fn join(nodes: &Arc<Nodes>, id: &str) -> Seat {
    nodes.join(Node {
        identity: Arc::new(NodeIdentity { id: id.to_owned(), ..NodeIdentity::default() }),
        envoy_version: "1.40.0".to_owned(),
        too_old_for: Vec::new(),
        protocol: Protocol::StateOfTheWorld,
        connected_at: at(0),
        gone_at: None,
        groups: Vec::new(),
        position: Position { standing: Standing::Pending, live: 0, since: at(0) },
        types: BTreeMap::new(),
    })
}

fn only(nodes: &Nodes) -> Node {
    let [node] = &*nodes.all() else { panic!("{:?}", nodes.all()) };
    node.clone()
}

fn sent(generation: u64, seconds: u64) -> Sent {
    Sent { generation, version: Version::of(&generation.to_be_bytes()), at: at(seconds) }
}

const ROUTE: ResourceType = ResourceType::Route;

#[test]
fn a_node_that_reconnects_is_there_twice_until_its_old_stream_ends() {
    let nodes = Arc::new(Nodes::default());
    let (old, new) = (join(&nodes, "edge-1"), join(&nodes, "edge-1"));
    assert_ne!(old.stream(), new.stream());
    new.set_groups(vec![Name::parse("edge").unwrap()]);
    drop(old);
    assert_eq!(only(&nodes).groups.len(), 1, "the end of the old one takes nothing from the new one");
    drop(new);
    assert!(nodes.all().is_empty());
}

#[test]
fn an_answer_is_late_fifteen_seconds_after_what_it_answers_to() {
    let nodes = Arc::new(Nodes::default());
    let seat = join(&nodes, "edge-1");
    assert!(!only(&nodes).is_late(at(1000)), "it was sent nothing");
    seat.sent(ROUTE, sent(1, 10));
    let is_late = |seconds| only(&nodes).is_late(at(seconds));
    assert_eq!((is_late(24), is_late(25)), (false, true));
    seat.sent(ResourceType::Cluster, sent(1, 30));
    assert!(is_late(30), "one type is enough");
    seat.acknowledged(ROUTE);
    assert_eq!((is_late(44), is_late(45)), (false, true));
    seat.refused(ResourceType::Cluster, Vec::new(), "no", at(46));
    assert!(!is_late(1000), "a refusal is an answer");
}

#[test]
fn what_was_acknowledged_is_what_was_sent_last() {
    let nodes = Arc::new(Nodes::default());
    let seat = join(&nodes, "edge-1");
    seat.subscribed(ROUTE, Subscribed { all: false, names: 3 });
    seat.sent(ROUTE, sent(1, 1));
    seat.acknowledged(ROUTE);
    seat.sent(ROUTE, sent(2, 2));
    let status = |of: ResourceType| (*only(&nodes).types[&of]).clone();
    assert_eq!((status(ROUTE).sent, status(ROUTE).acknowledged), (Some(sent(2, 2)), Some(sent(1, 1))));
    seat.refused(ROUTE, vec!["edge".into()], "no", at(3));
    let refused = status(ROUTE).refused.unwrap();
    assert_eq!((refused.sent, &*refused.resources, refused.since), (Some(sent(2, 2)), &["edge".into()][..], at(3)));
    assert_eq!(status(ROUTE).acknowledged, Some(sent(1, 1)), "it goes on with what it had");
    // It is as old as the first of a row.
    seat.refused(ROUTE, Vec::new(), "still no", at(9));
    let refused = status(ROUTE).refused.unwrap();
    assert_eq!((&*refused.message, refused.since), ("still no", at(3)));
    seat.no_longer_refuses(ROUTE);
    seat.refused(ROUTE, Vec::new(), "again", at(20));
    assert_eq!(status(ROUTE).refused.unwrap().since, at(20));
    assert_eq!(status(ROUTE).subscribed, Subscribed { all: false, names: 3 });
}

#[test]
fn an_envoys_message_is_kept_to_a_length_and_cut_between_characters() {
    let nodes = Arc::new(Nodes::default());
    let seat = join(&nodes, "edge-1");
    let kept = |message: &str| {
        seat.refused(ROUTE, Vec::new(), message, at(0));
        only(&nodes).types[&ROUTE].refused.as_ref().unwrap().message.clone()
    };
    let longest = "x".repeat(MESSAGE_BYTES_MAX);
    assert_eq!(kept(""), "");
    assert_eq!(kept(&longest), longest);
    assert_eq!(kept(&format!("{longest}y")), longest);
    // A character of two bytes, of which one fits.
    let cut = kept(&format!("{}\u{fc}", "x".repeat(MESSAGE_BYTES_MAX - 1)));
    assert_eq!(cut, "x".repeat(MESSAGE_BYTES_MAX - 1));
}

#[test]
fn who_refuses_something_stands_so_until_it_has_what_it_is_to_have() {
    let nodes = Arc::new(Nodes::default());
    let seat = join(&nodes, "edge-1");
    let standing = || (only(&nodes).position.standing, only(&nodes).position.since);
    nodes.offered(1, at(1), &[seat.stream()]);
    seat.stands(Standing::Live, 1, at(2));
    assert_eq!(standing(), (Standing::Live, at(2)));
    nodes.offered(2, at(3), &[seat.stream()]);
    seat.refused(ROUTE, Vec::new(), "no", at(4));
    seat.stands(Standing::Held, 2, at(4));
    assert_eq!(standing(), (Standing::Refusing, at(4)), "that it is held as well is no news");
    seat.stands(Standing::Refusing, 2, at(5));
    assert_eq!(standing(), (Standing::Refusing, at(4)), "since when stays");
    assert_eq!(only(&nodes).position.live, 1, "what it had goes on being live");
    nodes.offered(3, at(6), &[seat.stream()]);
    seat.stands(Standing::Pending, 3, at(6));
    assert_eq!(standing(), (Standing::Pending, at(6)), "an answer is awaited");
    seat.stands(Standing::Live, 3, at(7));
    assert_eq!((standing(), only(&nodes).position.live), ((Standing::Live, at(7)), 3));
    assert!(only(&nodes).types[&ROUTE].refused.is_none(), "what it refused is not wanted any more");
}

#[test]
fn a_generation_that_does_not_reach_a_live_node_is_live_on_it() {
    let nodes = Arc::new(Nodes::default());
    let (reached, other) = (join(&nodes, "a"), join(&nodes, "b"));
    nodes.offered(1, at(1), &[reached.stream(), other.stream()]);
    for seat in [&reached, &other] {
        seat.stands(Standing::Live, 1, at(2));
    }
    nodes.offered(2, at(3), &[reached.stream()]);
    let live = || nodes.all().iter().map(|node| node.position.live).collect::<Vec<_>>();
    assert_eq!(live(), [1, 2], "one is waited for, the other has nothing to do");
    other.stands(Standing::Pending, 0, at(4));
    assert_eq!(live(), [1, 1], "whoever is not live is not taken to be");
    let took = reached.stands(Standing::Live, 2, at(8));
    assert_eq!(took, [Duration::from_secs(5)], "from when it was read");
}

#[test]
fn words_of_the_api_are_stable() {
    let standings = [Standing::Live, Standing::Pending, Standing::Refusing, Standing::Held].map(Standing::as_str);
    assert_eq!(standings, ["live", "pending", "refusing", "held"]);
    assert_eq!([Protocol::StateOfTheWorld, Protocol::Delta].map(Protocol::as_str), ["sotw", "delta"]);
}
