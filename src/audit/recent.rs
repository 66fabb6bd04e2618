//! The last changes of the audit log, in memory: what people look at without reading a file.

use std::collections::VecDeque;

use super::{Entry, Outcome};
use crate::clock::Timestamp;
use crate::shown;

/// The changes that are kept.
pub const CHANGES_MAX: usize = 1000;
/// Of so many documents or counters of a change it is kept what became of them. The log has all.
pub const WHAT_MAX: usize = 20;

/// A change: both of its lines in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its place among all changes that this process knows of.
    pub number: u64,
    /// When it was asked for.
    pub at: Timestamp,
    pub change: String,
    pub who: String,
    pub what: Vec<String>,
    /// The number of those that are not in `what`.
    pub what_more: usize,
    pub base: Option<u64>,
    pub force: Option<String>,
    /// `None`: it is under way, or nobody noted what came of it.
    pub result: Option<Outcome>,
    /// Its place among those of which it is known what came of them.
    pub ended: Option<u64>,
}

/// The last changes, in the order in which they were asked for.
#[derive(Debug, Default)]
pub(super) struct Recent {
    changes: VecDeque<Change>,
    /// The number of the newest.
    newest: u64,
    /// The number of those that have ended.
    ended: u64,
}

impl Recent {
    /// Takes a line.
    pub(super) fn take(&mut self, entry: &Entry, at: Timestamp) {
        self.ended += u64::from(entry.result.is_some());
        let ended = entry.result.is_some().then_some(self.ended);
        let asked = self.changes.iter_mut().rev().find(|change| change.change == entry.change);
        if let Some(asked) = asked {
            (asked.result, asked.ended) = (entry.result.as_ref().map(cut_outcome), ended);
            return;
        }
        self.newest += 1;
        if self.changes.len() >= CHANGES_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(Change {
            number: self.newest,
            at,
            change: bounded(&entry.change),
            who: bounded(&entry.who),
            what: entry.what.iter().take(WHAT_MAX).map(|what| bounded(what)).collect(),
            what_more: entry.what.len().saturating_sub(WHAT_MAX),
            base: entry.base,
            force: entry.force.as_deref().map(bounded),
            result: entry.result.as_ref().map(cut_outcome),
            ended,
        });
    }

    /// The newest first: so many of them, from before the one with this number.
    pub(super) fn before(&self, number: Option<u64>, limit: usize) -> Vec<Change> {
        let is_before = |change: &&Change| number.is_none_or(|number| change.number < number);
        self.changes.iter().rev().filter(is_before).take(limit).cloned().collect()
    }
}

impl Recent {
    pub(super) fn ended(&self) -> u64 {
        self.ended
    }

    pub(super) fn ended_since(&self, ended: u64) -> Vec<Change> {
        let is_later = |change: &&Change| change.ended.is_some_and(|own| own > ended);
        let mut later: Vec<Change> = self.changes.iter().filter(is_later).cloned().collect();
        later.sort_by_key(|change| change.ended);
        later
    }
}

/// As long as a text may be that is kept.
fn bounded(text: &str) -> String {
    shown::bounded(text).into_owned()
}

fn cut_outcome(outcome: &Outcome) -> Outcome {
    match outcome {
        Outcome::Refused(why) => Outcome::Refused(bounded(why)),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(change: usize, result: Option<Outcome>) -> Entry {
        let what = vec!["put Api pay".to_owned()];
        Entry { change: change.to_string(), who: "ann".to_owned(), what, base: Some(7), force: None, result }
    }

    fn told(changes: &[Change]) -> Vec<(u64, bool)> {
        changes.iter().map(|change| (change.number, change.result.is_some())).collect()
    }

    #[test]
    fn the_two_lines_of_a_change_are_one_also_where_others_come_between() {
        let mut recent = Recent::default();
        let at = Timestamp::from_nanos;
        recent.take(&entry(1, None), at(1));
        recent.take(&entry(2, None), at(2));
        recent.take(&entry(1, Some(Outcome::Revision(8))), at(3));
        assert_eq!(told(&recent.before(None, 10)), [(2, false), (1, true)]);
        let first = &recent.before(Some(2), 10)[0];
        assert_eq!((first.at, first.result.clone()), (at(1), Some(Outcome::Revision(8))));
        recent.take(&entry(2, Some(Outcome::Revision(9))), at(4));
        assert_eq!((recent.ended(), told(&recent.ended_since(0))), (2, vec![(1, true), (2, true)]));
        assert_eq!(told(&recent.ended_since(1)), [(2, true)]);
    }

    #[test]
    fn only_the_last_changes_are_kept() {
        let mut recent = Recent::default();
        for change in 0..3 * CHANGES_MAX {
            recent.take(&entry(change, None), Timestamp::default());
        }
        let all = recent.before(None, usize::MAX);
        assert_eq!((all.len(), all[0].number, recent.changes.len()), (CHANGES_MAX, 3000, CHANGES_MAX));
        let page = recent.before(Some(all[99].number), 100);
        assert_eq!(page, all[100..200]);
        // What came of a change that is forgotten is a change of its own: it was made.
        recent.take(&entry(0, Some(Outcome::Reset(1))), Timestamp::default());
        assert_eq!(recent.before(None, 1)[0].result, Some(Outcome::Reset(1)));
    }

    #[test]
    fn a_change_takes_no_more_memory_than_so_much_however_large_it_is() {
        let mut recent = Recent::default();
        let long = "ä".repeat(shown::TEXT_BYTES_MAX);
        let large = Entry {
            who: long.clone(),
            what: vec![long.clone(); 20_000],
            force: Some(long.clone()),
            result: Some(Outcome::Refused(long)),
            ..entry(1, None)
        };
        recent.take(&large, Timestamp::default());
        let kept = recent.before(None, 1).remove(0);
        assert_eq!((kept.what.len(), kept.what_more), (WHAT_MAX, 20_000 - WHAT_MAX));
        let Some(Outcome::Refused(why)) = kept.result else { panic!("{:?}", kept.result) };
        let texts = kept.what.into_iter().chain([kept.who, kept.force.unwrap(), why]);
        for text in texts {
            assert!(text.ends_with(" bytes more)") && text.len() <= shown::TEXT_BYTES_MAX, "{text}");
        }
    }
}
