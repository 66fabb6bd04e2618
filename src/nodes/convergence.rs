//! How long it takes from a change until the last Envoy has it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::names::StreamId;

/// The most generations that are waited for. Of those before, nobody learns how long they took.
const OUTSTANDING_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Convergence {
    newest: u64,
    streams: HashSet<StreamId>,
    /// Those that have not answered to all generations that reach them. A stream that has just come is not waited for.
    behind: HashMap<StreamId, Behind>,
    /// From the oldest to the newest.
    outstanding: VecDeque<Outstanding>,
}

#[derive(Debug)]
struct Behind {
    /// The newest generation that the stream has answered to.
    answered: u64,
    /// The newest that reaches it.
    reached: u64,
}

#[derive(Debug)]
struct Outstanding {
    generation: u64,
    read_at: Timestamp,
    /// The number of streams that have not answered.
    waiting: usize,
}

impl Convergence {
    pub(super) fn join(&mut self, stream: StreamId) {
        self.streams.insert(stream);
    }

    pub(super) fn offered(&mut self, generation: u64, read_at: Timestamp, reached: &[StreamId]) {
        if generation <= self.newest {
            return;
        }
        for stream in reached.iter().filter(|stream| self.streams.contains(stream)) {
            // What did not reach it since its last answer counts as answered.
            let behind = self.behind.entry(*stream).or_insert(Behind { answered: self.newest, reached: generation });
            behind.reached = generation;
        }
        self.newest = generation;
        if self.behind.is_empty() {
            return;
        }
        if self.outstanding.len() == OUTSTANDING_MAX {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back(Outstanding { generation, read_at, waiting: self.behind.len() });
    }

    /// The newest generation, where the stream has answered to all that reach it.
    pub(super) fn newest_of(&self, stream: StreamId) -> Option<u64> {
        (!self.behind.contains_key(&stream)).then_some(self.newest)
    }

    /// Gives how long ago the generations were read that every stream has answered to by this.
    pub(super) fn answered(&mut self, stream: StreamId, generation: u64, now: Timestamp) -> Vec<Duration> {
        let Some(behind) = self.behind.get_mut(&stream) else { return Vec::new() };
        let before = behind.answered;
        behind.answered = generation.max(before);
        let has_all = behind.reached <= behind.answered;
        if has_all {
            self.behind.remove(&stream);
        }
        self.no_longer_waits(before, if has_all { self.newest } else { generation });
        let is_done = |outstanding: &&Outstanding| outstanding.waiting == 0;
        let done = self.outstanding.iter().filter(is_done).map(|outstanding| now.since(outstanding.read_at)).collect();
        self.outstanding.retain(|outstanding| outstanding.waiting > 0);
        done
    }

    pub(super) fn leave(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
        if let Some(behind) = self.behind.remove(&stream) {
            self.no_longer_waits(behind.answered, u64::MAX);
            self.outstanding.retain(|outstanding| outstanding.waiting > 0);
        }
    }

    fn no_longer_waits(&mut self, before: u64, generation: u64) {
        let is_answered = |outstanding: &&mut Outstanding| (before + 1..=generation).contains(&outstanding.generation);
        self.outstanding.iter_mut().filter(is_answered).for_each(|outstanding| outstanding.waiting -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: StreamId = StreamId(1);
    const OTHER: StreamId = StreamId(2);

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    fn seconds(done: &[Duration]) -> Vec<u64> {
        done.iter().map(Duration::as_secs).collect()
    }

    fn joined() -> Convergence {
        let mut convergence = Convergence::default();
        [ONE, OTHER].into_iter().for_each(|stream| convergence.join(stream));
        convergence
    }

    #[test]
    fn a_change_takes_until_its_last_envoy_has_it_or_something_newer() {
        let mut convergence = joined();
        convergence.offered(1, at(10), &[ONE, OTHER]);
        convergence.offered(2, at(11), &[ONE, OTHER]);
        assert_eq!(seconds(&convergence.answered(ONE, 2, at(12))), [0; 0]);
        assert_eq!(seconds(&convergence.answered(OTHER, 1, at(13))), [3]);
        convergence.join(StreamId(3));
        assert_eq!(seconds(&convergence.answered(OTHER, 2, at(14))), [3], "who came later is not waited for");
    }

    #[test]
    fn who_is_not_reached_is_not_waited_for_unless_it_is_behind_already() {
        let mut convergence = joined();
        convergence.offered(1, at(10), &[ONE]);
        convergence.offered(2, at(11), &[OTHER]);
        assert_eq!((convergence.newest_of(ONE), convergence.newest_of(OTHER)), (None, None));
        assert_eq!(seconds(&convergence.answered(OTHER, 2, at(12))), [0; 0], "the first one has neither");
        assert_eq!((convergence.newest_of(ONE), convergence.newest_of(OTHER)), (None, Some(2)));
        assert_eq!(seconds(&convergence.answered(ONE, 1, at(13))), [3, 2], "with the first it has both");
        convergence.offered(3, at(20), &[]);
        assert_eq!((convergence.newest_of(ONE), convergence.newest_of(OTHER)), (Some(3), Some(3)));
        convergence.offered(4, at(21), &[ONE]);
        assert_eq!(seconds(&convergence.answered(ONE, 3, at(22))), [0; 0], "that was said of an older one");
        assert_eq!(seconds(&convergence.answered(ONE, 4, at(23))), [2]);
    }

    #[test]
    fn who_is_gone_is_not_waited_for() {
        let mut convergence = joined();
        convergence.offered(1, at(1), &[ONE, OTHER]);
        convergence.leave(ONE);
        assert_eq!(seconds(&convergence.answered(OTHER, 1, at(3))), [2]);
        assert_eq!(seconds(&convergence.answered(OTHER, 1, at(4))), [0; 0]);
        convergence.offered(2, at(5), &[ONE]);
        assert!(convergence.outstanding.is_empty(), "it cannot answer any more");
    }
}
