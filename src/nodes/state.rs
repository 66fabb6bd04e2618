//! What an operator is told of an Envoy first: one word, the same everywhere, with the reason and since when.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Node, Standing};
use crate::clock::Timestamp;

/// In the order in which people should look at them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum NodeState {
    /// It refused something, and goes on with what it had.
    Refused,
    /// It has everything that it is offered, which is not the whole generation: another Envoy of its gateway refused a part
    /// of it.
    Held,
    /// It has not acknowledged everything that it is to have.
    Stale,
    /// Its last stream has ended.
    Gone,
    /// It has acknowledged everything that it is to have.
    Synced,
}

/// A state, why, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub state: NodeState,
    pub reason: String,
    pub since: Timestamp,
}

/// What all Envoys are to have.
#[derive(Clone, Copy, Debug, Default)]
pub struct Newest {
    pub generation: u64,
    /// The moment when it was read from the source.
    pub read_at: Timestamp,
}

impl NodeState {
    pub const ALL: [Self; 5] = [Self::Refused, Self::Held, Self::Stale, Self::Gone, Self::Synced];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "REFUSED",
            Self::Held => "HELD",
            Self::Stale => "STALE",
            Self::Gone => "GONE",
            Self::Synced => "SYNCED",
        }
    }
}

/// The node's condition. The words say no durations, so that they stay the same while nothing changes.
pub fn condition(node: &Node, newest: Newest, now: Timestamp) -> Condition {
    let position = node.position;
    if let Some(since) = node.gone_at {
        let reason = format!("its last stream ended; generation {} was live on it", position.live);
        return Condition { state: NodeState::Gone, reason, since };
    }
    if let Some(condition) = refused(node) {
        return condition;
    }
    match position.standing {
        Standing::Held => {
            let reason = "another Envoy of its gateway refused a part of what is newer".to_owned();
            Condition { state: NodeState::Held, reason, since: position.since }
        }
        Standing::Live if position.live >= newest.generation => {
            let reason = match node.groups.is_empty() {
                true => "no gateway selects it, so it has nothing",
                false => "everything is acknowledged",
            };
            Condition { state: NodeState::Synced, reason: reason.to_owned(), since: position.since }
        }
        // It is about to be sent something newer.
        Standing::Live => {
            let reason = format!("generation {} is on its way", newest.generation);
            Condition { state: NodeState::Stale, reason, since: newest.read_at.max(position.since) }
        }
        Standing::Pending | Standing::Refusing => stale(node, now),
    }
}

/// Envoy's own words, for each type of which it refuses something.
fn refused(node: &Node) -> Option<Condition> {
    let refused = || node.types.iter().filter_map(|(of, status)| Some((of, status.refused.as_ref()?)));
    let since = refused().map(|(_, refused)| refused.since).min()?;
    let words: Vec<String> = refused().map(|(of, refused)| format!("{}: {}", of.as_str(), refused.message)).collect();
    Some(Condition { state: NodeState::Refused, reason: words.join("; "), since })
}

fn stale(node: &Node, now: Timestamp) -> Condition {
    let waiting = || node.types.iter().filter_map(|(of, status)| Some((of, status.pending_since?)));
    let since = waiting().map(|(_, since)| since).min().unwrap_or(node.position.since);
    let types: Vec<&str> = waiting().map(|(of, _)| of.as_str()).collect();
    let reason = match (types.as_slice(), node.groups.as_slice()) {
        ([], []) => "no gateway selects it".to_owned(),
        ([], _) => "it has asked for nothing that it could be sent yet".to_owned(),
        (types, _) if node.is_late(now) => format!("no answer for more than 15 s about {}", types.join(", ")),
        (types, _) => format!("no answer yet about {}", types.join(", ")),
    };
    Condition { state: NodeState::Stale, reason, since }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::names::{Name, NodeIdentity, Version};
    use crate::nodes::{Position, Protocol, Refused, Sent, TypeStatus};
    use crate::snapshot::resource::ResourceType;

    const NEWEST: Newest = Newest { generation: 7, read_at: at(100) };

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    /// An Envoy of a gateway on which the generation went live at 10 s.
    fn node(standing: Standing, live: u64) -> Node {
        Node {
            identity: Arc::new(NodeIdentity::default()),
            envoy_version: "1.40.0".to_owned(),
            too_old_for: Vec::new(),
            protocol: Protocol::Delta,
            connected_at: at(0),
            gone_at: None,
            groups: vec![Name::parse("edge").unwrap()],
            position: Position { standing, live, since: at(10) },
            types: BTreeMap::new(),
        }
    }

    fn with(mut node: Node, resource_type: ResourceType, status: TypeStatus) -> Node {
        node.types.insert(resource_type, Box::new(status));
        node
    }

    fn pending(seconds: u64) -> TypeStatus {
        let sent = Sent { generation: 7, version: Version::of(b"x"), at: at(seconds) };
        TypeStatus { sent: Some(sent), pending_since: Some(at(seconds)), ..TypeStatus::default() }
    }

    fn refusing(message: &str, seconds: u64) -> TypeStatus {
        let refused = Refused { sent: None, resources: Vec::new(), message: message.to_owned(), since: at(seconds) };
        TypeStatus { refused: Some(refused), ..TypeStatus::default() }
    }

    fn told(node: &Node, now: u64) -> (NodeState, String, Timestamp) {
        let Condition { state, reason, since } = condition(node, NEWEST, at(now));
        (state, reason, since)
    }

    #[test]
    fn who_has_acknowledged_the_newest_generation_is_synced() {
        let synced = node(Standing::Live, 7);
        assert_eq!(told(&synced, 200), (NodeState::Synced, "everything is acknowledged".to_owned(), at(10)));
        let unselected = Node { groups: Vec::new(), ..synced };
        assert_eq!(told(&unselected, 200).0, NodeState::Synced);
        assert!(told(&unselected, 200).1.contains("no gateway selects it"));
    }

    #[test]
    fn who_is_about_to_be_sent_something_is_stale_since_that_was_read() {
        let behind = node(Standing::Live, 6);
        assert_eq!(told(&behind, 101), (NodeState::Stale, "generation 7 is on its way".to_owned(), at(100)));
    }

    #[test]
    fn who_has_not_answered_is_stale_since_the_oldest_of_what_waits_for_it() {
        let waiting = with(node(Standing::Pending, 6), ResourceType::Route, pending(101));
        let waiting = with(waiting, ResourceType::Cluster, pending(103));
        assert_eq!(told(&waiting, 104), (NodeState::Stale, "no answer yet about cluster, route".to_owned(), at(101)));
        let late = told(&waiting, 116);
        assert_eq!(late, (NodeState::Stale, "no answer for more than 15 s about cluster, route".to_owned(), at(101)));
        assert_eq!(told(&waiting, 1000), late, "the words stay the same while nothing changes");
    }

    #[test]
    fn who_has_asked_for_nothing_is_stale_since_it_came() {
        let fresh = node(Standing::Pending, 0);
        assert_eq!((told(&fresh, 11).0, told(&fresh, 11).2), (NodeState::Stale, at(10)));
        assert!(told(&fresh, 11).1.contains("asked for nothing"));
        assert_eq!(told(&Node { groups: Vec::new(), ..fresh }, 11).1, "no gateway selects it");
    }

    #[test]
    fn who_refused_something_is_refused_in_envoys_own_words_until_it_took_another_version() {
        let refused = with(node(Standing::Refusing, 6), ResourceType::Route, refusing("no such cluster", 105));
        assert_eq!(told(&refused, 200), (NodeState::Refused, "route: no such cluster".to_owned(), at(105)));
        let twice = with(refused.clone(), ResourceType::Listener, refusing("no", 102));
        assert_eq!(told(&twice, 200), (NodeState::Refused, "listener: no; route: no such cluster".to_owned(), at(102)));
        // What it is sent next is not acknowledged yet: what it refused still stands.
        let mut next = refused.clone();
        next.position.standing = Standing::Pending;
        assert_eq!(told(&with(next, ResourceType::Cluster, pending(110)), 200).0, NodeState::Refused);
        let mended = with(node(Standing::Live, 7), ResourceType::Route, TypeStatus::default());
        assert_eq!(told(&mended, 200).0, NodeState::Synced);
    }

    #[test]
    fn who_is_kept_from_what_another_refused_is_held() {
        let held = node(Standing::Held, 6);
        assert_eq!((told(&held, 200).0, told(&held, 200).2), (NodeState::Held, at(10)));
        let refusing = with(held, ResourceType::Route, refusing("no", 20));
        assert_eq!(told(&refusing, 200).0, NodeState::Refused, "it is who refused it");
    }

    #[test]
    fn who_has_left_is_gone_whatever_it_was() {
        for standing in [Standing::Live, Standing::Pending, Standing::Refusing, Standing::Held] {
            let left = with(node(standing, 6), ResourceType::Route, refusing("no", 20));
            let left = Node { gone_at: Some(at(50)), ..left };
            let expected = "its last stream ended; generation 6 was live on it".to_owned();
            assert_eq!(told(&left, 200), (NodeState::Gone, expected, at(50)));
        }
    }

    #[test]
    fn states_are_called_the_same_wherever_they_are_written() {
        for state in NodeState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        assert!(NodeState::ALL.is_sorted());
    }
}
