//! What etcd holds below the prefix, as far as it was told: a listing, and the events after it. Pure.
//!
//! Versions of etcd lose events, repeat them, deliver old ones and leave deletions out (etcd's CHANGELOG-3.4, 3.4.24 to
//! 3.4.38). So an event counts only if it is newer than everything applied before, and what the listings of every half
//! minute hold has to be found here too.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::document::{Document, Documents, Origin};
use crate::names::{DocumentId, Kind, Revision};
use crate::shared_map::SharedMap;

#[derive(Debug)]
pub(super) struct Mirror {
    /// What every key of a document begins with: `<prefix>/policies/`.
    prefix: String,
    documents: SharedMap<Origin, Arc<Document>>,
    /// Events up to this one are applied.
    revision: u64,
    /// What events deleted since the last listing began, and when: a listing that is older has them still.
    deleted: HashMap<Origin, u64>,
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
    pub(super) revision: u64,
}

/// What happened to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) key: Vec<u8>,
    /// `None`: deleted.
    pub(super) value: Option<Vec<u8>>,
    pub(super) revision: u64,
}

/// Which keys there were at a revision, and when each was changed last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) revision: u64,
    pub(super) keys: Vec<(Vec<u8>, u64)>,
}

/// What became of a batch of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) is_changed: bool,
    /// Events that were applied before, or that a later one had overtaken.
    pub(super) old: u64,
}

impl Mirror {
    pub(super) fn new(prefix: &str) -> Self {
        let prefix = format!("{}/policies/", prefix.trim_end_matches('/'));
        Self { prefix, documents: SharedMap::default(), revision: 0, deleted: HashMap::new() }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn documents(&self) -> Documents {
        Documents { revision: Revision(self.revision), documents: self.documents.clone() }
    }

    /// Takes everything from a listing with values. What did not change stays what it is.
    pub(super) fn replace(&mut self, revision: u64, entries: Vec<Entry>) {
        let mut gone: HashSet<Origin> = self.documents.keys().cloned().collect();
        for entry in entries {
            let document = self.document(&entry.key, entry.value, entry.revision);
            gone.remove(&document.origin);
            if self.documents.get(&document.origin).is_none_or(|known| **known != document) {
                self.documents.insert(document.origin.clone(), Arc::new(document));
            }
        }
        gone.iter().for_each(|origin| drop(self.documents.remove(origin)));
        self.deleted.clear();
        self.revision = revision;
    }

    /// Takes what happened. Events of one revision come in one batch.
    pub(super) fn apply(&mut self, events: Vec<Event>) -> Applied {
        let mut applied = Applied::default();
        let before = self.revision;
        for Event { key, value, revision } in events {
            if revision <= before {
                applied.old += 1;
                continue;
            }
            self.revision = self.revision.max(revision);
            match value {
                Some(value) => {
                    let document = self.document(&key, value, revision);
                    self.deleted.remove(&document.origin);
                    self.documents.insert(document.origin.clone(), Arc::new(document));
                    applied.is_changed = true;
                }
                None => {
                    let origin = self.origin(&key);
                    applied.is_changed |= self.documents.remove(&origin).is_some();
                    self.deleted.insert(origin, revision);
                }
            }
        }
        applied
    }

    /// A listing is about to be made.
    pub(super) fn expect_listing(&mut self) {
        self.deleted.clear();
    }

    /// How many keys the listing tells other of than events did: they have not come yet, or never will.
    pub(super) fn differences(&self, listing: &Listing) -> usize {
        let mut listed: HashMap<Origin, u64> = HashMap::with_capacity(listing.keys.len());
        listed.extend(listing.keys.iter().map(|(key, revision)| (self.origin(key), *revision)));
        let held_since = |origin: &Origin| self.documents.get(origin)?.revision.map(|revision| revision.0);
        let is_missed = |(origin, revision): &(&Origin, &u64)| {
            let held = held_since(origin).max(self.deleted.get(origin).copied());
            held.is_none_or(|held| held < **revision)
        };
        let is_left_over = |origin: &&Origin| {
            !listed.contains_key(*origin) && held_since(origin).is_none_or(|held| held <= listing.revision)
        };
        listed.iter().filter(is_missed).count() + self.documents.keys().filter(is_left_over).count()
    }

    fn document(&self, key: &[u8], value: Vec<u8>, revision: u64) -> Document {
        let origin = self.origin(key);
        let content = match origin.id() {
            Some(_) => Ok(value.into()),
            None => Err(format!("is no key of a document: expected {}<Kind>/<name>", self.prefix).into()),
        };
        Document { origin, revision: Some(Revision(revision)), content }
    }

    fn origin(&self, key: &[u8]) -> Origin {
        let text = String::from_utf8_lossy(key);
        let id = text.strip_prefix(self.prefix.as_str()).and_then(|rest| {
            let (kind, name) = rest.split_once('/')?;
            Kind::parse(kind).filter(|_| !name.is_empty()).map(|kind| DocumentId::new(kind, name))
        });
        Origin::Key { key: text.as_ref().into(), id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str, revision: u64) -> Event {
        Event { key: key.into(), value: Some(value.into()), revision }
    }

    fn delete(key: &str, revision: u64) -> Event {
        Event { key: key.into(), value: None, revision }
    }

    fn entry(key: &str, value: &str, revision: u64) -> Entry {
        Entry { key: key.into(), value: value.into(), revision }
    }

    fn listing(revision: u64, keys: &[(&str, u64)]) -> Listing {
        Listing { revision, keys: keys.iter().map(|(key, revision)| (key.as_bytes().to_vec(), *revision)).collect() }
    }

    const A: &str = "/t/policies/Api/a";
    const B: &str = "/t/policies/Tenant/b/c d";

    /// `key=value@revision` of everything.
    fn held(mirror: &Mirror) -> Vec<String> {
        let show = |document: &Arc<Document>| {
            let content = document.content.as_ref().map(|content| String::from_utf8_lossy(content).into_owned());
            let content = content.unwrap_or_else(|reason| reason.to_string());
            let key = document.origin.to_string().replace("/t/policies/", "");
            format!("{key}={content}@{}", document.revision.unwrap())
        };
        let mut held: Vec<_> = mirror.documents.values().map(show).collect();
        held.sort();
        held
    }

    fn mirror() -> Mirror {
        let mut mirror = Mirror::new("/t");
        mirror.replace(10, vec![entry(A, "1", 4), entry(B, "1", 9)]);
        mirror
    }

    #[test]
    fn events_after_a_listing_are_applied_in_order() {
        let mut mirror = mirror();
        let applied = mirror.apply(vec![put(A, "2", 11), delete(B, 11), put(A, "3", 12)]);
        assert_eq!((applied, mirror.revision()), (Applied { is_changed: true, old: 0 }, 12));
        assert_eq!(held(&mirror), ["Api/a=3@12"]);
    }

    #[test]
    fn old_and_repeated_events_change_nothing() {
        let mut mirror = mirror();
        mirror.apply(vec![delete(B, 11)]);
        let applied = mirror.apply(vec![put(B, "1", 9), put(A, "0", 4), delete(B, 11)]);
        assert_eq!((applied, mirror.revision()), (Applied { is_changed: false, old: 3 }, 11));
        assert_eq!(held(&mirror), ["Api/a=1@4"]);
    }

    #[test]
    fn a_name_may_hold_slashes_and_spaces_and_other_keys_are_told() {
        let mut mirror = mirror();
        assert_eq!(mirror.origin(B.as_bytes()).id().unwrap().to_string(), "Tenant b/c d");
        for strange in ["/t/policies/Thing/x", "/t/policies/Api/", "/t/policies/x", "/other/policies/Api/x"] {
            assert_eq!(mirror.origin(strange.as_bytes()).id(), None, "{strange}");
        }
        mirror.apply(vec![put("/t/policies/x", "kind: Api", 11)]);
        assert!(held(&mirror).contains(&"x=is no key of a document: expected /t/policies/<Kind>/<name>@11".to_owned()));
    }

    #[test]
    fn a_listing_shows_what_events_left_out() {
        let mut mirror = mirror();
        assert_eq!(mirror.differences(&listing(10, &[(A, 4), (B, 9)])), 0);
        assert_eq!(mirror.differences(&listing(12, &[(A, 4), (B, 12)])), 1, "a change");
        assert_eq!(mirror.differences(&listing(12, &[(A, 4)])), 1, "a deletion");
        assert_eq!(mirror.differences(&listing(12, &[(A, 4), (B, 9), ("/t/policies/Api/n", 12)])), 1, "a new key");
        mirror.replace(12, vec![entry(A, "1", 4)]);
        assert_eq!(held(&mirror), ["Api/a=1@4"]);
    }

    #[test]
    fn what_happened_after_a_listing_was_made_is_no_difference() {
        let mut mirror = mirror();
        mirror.expect_listing();
        let made_at_10 = listing(10, &[(A, 4), (B, 9)]);
        mirror.apply(vec![put(A, "2", 11), delete(B, 12), put("/t/policies/Api/n", "1", 13)]);
        assert_eq!(mirror.differences(&made_at_10), 0);
    }

    #[test]
    fn a_store_that_was_set_back_is_taken_as_it_is() {
        let mut mirror = mirror();
        mirror.replace(5, vec![entry(A, "other", 4)]);
        assert_eq!((held(&mirror), mirror.revision()), (vec!["Api/a=other@4".to_owned()], 5));
    }
}
