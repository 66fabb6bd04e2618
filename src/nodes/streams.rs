//! The streams of all Envoys in the order of their ids, and for a while those of Envoys that are gone.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Node;
use crate::clock::Timestamp;
use crate::names::StreamId;

/// An Envoy that is gone is remembered for so long, ...
const GONE_FOR: Duration = Duration::from_secs(60 * 60);
/// ...and so many of them are, those that left last.
const GONE_MAX: usize = 1000;

/// By stream, not by node id alone: while an Envoy reconnects it has two streams, and the end of the old one must not wipe
/// out what is known of the new one (xDS rule 13).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub id: Arc<str>,
    pub stream: StreamId,
}

#[derive(Debug, Default)]
pub(super) struct Streams {
    by_place: BTreeMap<Place, Arc<Mutex<Node>>>,
    /// The places of those that are gone, from the first that left to the last.
    gone: VecDeque<(Timestamp, Place)>,
}

impl Streams {
    /// An Envoy that is back is not gone.
    pub(super) fn join(&mut self, place: Place, node: Arc<Mutex<Node>>) {
        if self.places_of(&place.id).next().is_some() {
            let by_place = &mut self.by_place;
            self.gone.retain(|(_, gone)| gone.id != place.id || by_place.remove(gone).is_none());
        }
        self.by_place.insert(place, node);
    }

    /// Remembers the node, unless its Envoy has another stream.
    pub(super) fn leave(&mut self, place: &Place, now: Timestamp) {
        if self.places_of(&place.id).count() > 1 {
            self.by_place.remove(place);
            return;
        }
        self.gone.push_back((now, place.clone()));
        self.forget(now);
    }

    /// The streams behind a place.
    pub(super) fn after(&mut self, place: Option<&Place>, now: Timestamp) -> Vec<(Place, Arc<Mutex<Node>>)> {
        self.forget(now);
        let from = place.map_or(Bound::Unbounded, Bound::Excluded);
        let streams = self.by_place.range((from, Bound::Unbounded));
        streams.map(|(place, node)| (place.clone(), Arc::clone(node))).collect()
    }

    pub(super) fn of_id(&mut self, id: &str, now: Timestamp) -> Vec<(Place, Arc<Mutex<Node>>)> {
        self.forget(now);
        self.places_of(id).map(|(place, node)| (place.clone(), Arc::clone(node))).collect()
    }

    fn places_of(&self, id: &str) -> impl Iterator<Item = (&Place, &Arc<Mutex<Node>>)> {
        let first = Place { id: id.into(), stream: StreamId(0) };
        let from_there = self.by_place.range(first..);
        from_there.take_while(move |(place, _)| *place.id == *id)
    }

    fn forget(&mut self, now: Timestamp) {
        let is_over = |(left, _): &(Timestamp, Place)| now.since(*left) >= GONE_FOR;
        while self.gone.len() > GONE_MAX || self.gone.front().is_some_and(is_over) {
            if let Some((_, place)) = self.gone.pop_front() {
                self.by_place.remove(&place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::names::NodeIdentity;
    use crate::nodes::{Position, Protocol, Standing};

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    fn place(id: &str, stream: u64) -> Place {
        Place { id: id.into(), stream: StreamId(stream) }
    }

    fn join(streams: &mut Streams, id: &str, stream: u64) {
        let node = Node {
            identity: Arc::new(NodeIdentity { id: id.to_owned(), ..NodeIdentity::default() }),
            envoy_version: String::new(),
            too_old_for: Vec::new(),
            protocol: Protocol::Delta,
            connected_at: at(0),
            gone_at: None,
            groups: Vec::new(),
            position: Position { standing: Standing::Pending, live: 0, since: at(0) },
            types: BTreeMap::new(),
        };
        streams.join(place(id, stream), Arc::new(Mutex::new(node)));
    }

    fn places(streams: &mut Streams, after: Option<&Place>, now: u64) -> Vec<Place> {
        streams.after(after, at(now)).into_iter().map(|(place, _)| place).collect()
    }

    #[test]
    fn they_are_in_the_order_of_ids_and_go_on_behind_any_place() {
        let mut streams = Streams::default();
        for (stream, id) in (0..).zip(["c", "a", "b", "a", "ab"]) {
            join(&mut streams, id, stream);
        }
        let all = [place("a", 1), place("a", 3), place("ab", 4), place("b", 2), place("c", 0)];
        assert_eq!(places(&mut streams, None, 1), all);
        assert_eq!(places(&mut streams, Some(&all[0]), 1), all[1..]);
        assert_eq!(places(&mut streams, Some(&place("aa", 9)), 1), all[2..], "behind one that is not there any more");
        assert_eq!(streams.of_id("a", at(1)).len(), 2);
    }

    #[test]
    fn who_is_gone_is_remembered_until_it_is_back_or_an_hour_is_over() {
        let mut streams = Streams::default();
        join(&mut streams, "a", 0);
        join(&mut streams, "a", 1);
        streams.leave(&place("a", 0), at(1));
        assert_eq!(places(&mut streams, None, 1), [place("a", 1)], "it has another stream");
        streams.leave(&place("a", 1), at(2));
        assert_eq!(places(&mut streams, None, 3601), [place("a", 1)]);
        join(&mut streams, "a", 2);
        assert_eq!(places(&mut streams, None, 3601), [place("a", 2)], "it is back");
        streams.leave(&place("a", 2), at(10));
        assert_eq!(places(&mut streams, None, 3609), [place("a", 2)]);
        assert_eq!(places(&mut streams, None, 3610), []);
    }

    #[test]
    fn of_those_that_are_gone_the_last_ones_are_remembered() {
        let mut streams = Streams::default();
        for stream in 0..GONE_MAX as u64 + 2 {
            let id = format!("n{stream:05}");
            join(&mut streams, &id, stream);
            streams.leave(&place(&id, stream), at(1));
        }
        let remembered = places(&mut streams, None, 2);
        assert_eq!((remembered.len(), &remembered[0]), (GONE_MAX, &place("n00002", 2)));
    }
}
