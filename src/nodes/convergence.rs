//! How long it takes from a change until the last Envoy has it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::clock::Timestamp;

/// The most generations that are waited for. Of those before, nobody learns how long they took.
const OUTSTANDING_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Convergence {
    newest: u64,
    /// The newest generation that each stream has answered to. A stream that has just come is not waited for.
    answered: HashMap<u64, u64>,
    /// From the oldest to the newest.
    outstanding: VecDeque<Outstanding>,
}

#[derive(Debug)]
struct Outstanding {
    generation: u64,
    read_at: Timestamp,
    /// The number of streams that have not answered.
    waiting: usize,
}

impl Convergence {
    pub(super) fn join(&mut self, stream: u64) {
        self.answered.insert(stream, self.newest);
    }

    pub(super) fn offered(&mut self, generation: u64, read_at: Timestamp) {
        if generation <= self.newest {
            return;
        }
        self.newest = generation;
        let waiting = self.answered.values().filter(|answered| **answered < generation).count();
        if waiting == 0 {
            return;
        }
        if self.outstanding.len() == OUTSTANDING_MAX {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back(Outstanding { generation, read_at, waiting });
    }

    /// Gives how long ago the generations were read that every stream has answered to by this.
    pub(super) fn answered(&mut self, stream: u64, generation: u64, now: Timestamp) -> Vec<Duration> {
        let Some(before) = self.answered.get_mut(&stream) else { return Vec::new() };
        let before = std::mem::replace(before, generation.max(*before));
        self.no_longer_waits(before, generation);
        let is_done = |outstanding: &&Outstanding| outstanding.waiting == 0;
        let done = self.outstanding.iter().filter(is_done).map(|outstanding| now.since(outstanding.read_at)).collect();
        self.outstanding.retain(|outstanding| outstanding.waiting > 0);
        done
    }

    pub(super) fn leave(&mut self, stream: u64) {
        if let Some(before) = self.answered.remove(&stream) {
            self.no_longer_waits(before, u64::MAX);
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

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    fn seconds(done: &[Duration]) -> Vec<u64> {
        done.iter().map(Duration::as_secs).collect()
    }

    #[test]
    fn a_change_takes_until_its_last_envoy_has_it_or_something_newer() {
        let mut convergence = Convergence::default();
        (1..=2).for_each(|stream| convergence.join(stream));
        convergence.offered(1, at(10));
        convergence.offered(2, at(11));
        assert_eq!(seconds(&convergence.answered(1, 2, at(12))), [0; 0]);
        assert_eq!(seconds(&convergence.answered(2, 1, at(13))), [3]);
        convergence.join(3);
        assert_eq!(seconds(&convergence.answered(2, 2, at(14))), [3], "who came later is not waited for");
    }

    #[test]
    fn who_is_gone_is_not_waited_for() {
        let mut convergence = Convergence::default();
        (1..=2).for_each(|stream| convergence.join(stream));
        convergence.offered(1, at(1));
        convergence.leave(1);
        assert_eq!(seconds(&convergence.answered(2, 1, at(3))), [2]);
        assert_eq!(seconds(&convergence.answered(2, 1, at(4))), [0; 0]);
    }

    #[test]
    fn what_everybody_has_before_it_is_counted_takes_nothing() {
        let mut convergence = Convergence::default();
        convergence.join(1);
        convergence.answered(1, 1, at(1));
        convergence.offered(1, at(1));
        assert!(convergence.outstanding.is_empty());
    }
}
