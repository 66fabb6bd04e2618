//! Which refused documents wait for which others. A refusal stands for as long as the documents that have a part in it
//! stay what they are, so nothing is tried again before one of them changes.

use std::collections::{BTreeSet, HashMap};

use super::offered::remove_of;
use crate::names::DocumentId;

#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// By the document that waits.
    awaited: HashMap<DocumentId, BTreeSet<DocumentId>>,
    /// By the document that is waited for.
    waiters: HashMap<DocumentId, BTreeSet<DocumentId>>,
}

impl Waiting {
    /// The document is to be tried again when one of these has changed.
    pub(super) fn wait(&mut self, id: &DocumentId, awaited: BTreeSet<DocumentId>) {
        self.no_longer(id);
        for other in &awaited {
            self.waiters.entry(other.clone()).or_default().insert(id.clone());
        }
        self.awaited.insert(id.clone(), awaited);
    }

    /// The document waits for nothing any more.
    pub(super) fn no_longer(&mut self, id: &DocumentId) {
        for other in self.awaited.remove(id).into_iter().flatten() {
            remove_of(&mut self.waiters, &other, id);
        }
    }

    /// The documents, those that wait for one of them, those that wait for these, and so on.
    pub(super) fn with_waiters(&self, ids: BTreeSet<DocumentId>) -> BTreeSet<DocumentId> {
        let mut next: Vec<&BTreeSet<DocumentId>> = ids.iter().filter_map(|id| self.waiters.get(id)).collect();
        if next.is_empty() {
            return ids;
        }
        let mut all = ids.clone();
        while let Some(waiters) = next.pop() {
            for waiter in waiters {
                if all.insert(waiter.clone()) {
                    next.extend(self.waiters.get(waiter));
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Kind;

    fn ids(names: &[&str]) -> BTreeSet<DocumentId> {
        names.iter().map(|name| DocumentId::new(Kind::Tenant, name)).collect()
    }

    fn with_waiters(waiting: &Waiting, name: &str) -> Vec<String> {
        waiting.with_waiters(ids(&[name])).iter().map(|id| id.name.to_string()).collect()
    }

    #[test]
    fn who_waits_for_somebody_that_waits_is_tried_with_it() {
        let mut waiting = Waiting::default();
        let id = |name: &str| DocumentId::new(Kind::Tenant, name);
        waiting.wait(&id("a"), ids(&["b", "x"]));
        waiting.wait(&id("b"), ids(&["c", "a"]));
        assert_eq!(with_waiters(&waiting, "c"), ["a", "b", "c"]);
        assert_eq!(with_waiters(&waiting, "x"), ["a", "b", "x"]);
        assert_eq!(with_waiters(&waiting, "y"), ["y"]);
        waiting.wait(&id("a"), ids(&["y"]));
        assert_eq!(with_waiters(&waiting, "c"), ["b", "c"]);
        waiting.no_longer(&id("a"));
        waiting.no_longer(&id("b"));
        assert!(waiting.awaited.is_empty() && waiting.waiters.is_empty());
    }
}
