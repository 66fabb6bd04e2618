//! Documents that were made with other keys, and count only as long as those are what they were: a version of another
//! document that they fit to, or the life of a lease that their writer held. The document and its keys are read in one
//! transaction, so that what is compared was there together. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::document::{Document, Origin, Requirement};
use crate::etcd::listing::Entry;

#[derive(Debug, Default)]
pub(super) struct Required {
    /// Documents that require something, as they stand in etcd.
    documents: BTreeMap<Origin, (Arc<Document>, Vec<Requirement>)>,
    /// Documents whose requirements have to be looked at.
    pending: BTreeSet<Origin>,
}

impl Required {
    /// Takes a document as it is now.
    pub(super) fn put(&mut self, document: Arc<Document>, requirements: Vec<Requirement>) {
        self.pending.insert(document.origin.clone());
        self.documents.insert(document.origin.clone(), (document, requirements));
    }

    pub(super) fn remove(&mut self, origin: &Origin) {
        self.documents.remove(origin);
        self.pending.remove(origin);
    }

    /// Marks the documents that require a key, given without the prefix: something happened to it.
    pub(super) fn mark(&mut self, key: &str) {
        let names = |(_, requirements): &(_, Vec<Requirement>)| requirements.iter().any(|one| one.key == key);
        let concerned = self.documents.iter().filter(|(_, required)| names(required)).map(|(origin, _)| origin.clone());
        self.pending.extend(concerned.collect::<Vec<_>>());
    }

    /// Marks all documents: anything may have happened.
    pub(super) fn mark_all(&mut self) {
        self.pending = self.documents.keys().cloned().collect();
    }

    /// A document that has to be looked at, with the keys to read: its own, and those that it requires, as they are
    /// named.
    pub(super) fn next(&self) -> Option<(Origin, Vec<String>)> {
        let origin = self.pending.first()?;
        let (_, requirements) = self.documents.get(origin)?;
        Some((origin.clone(), requirements.iter().map(|requirement| requirement.key.clone()).collect()))
    }

    /// The document as it counts, by the keys that were read with it. `None` where it has changed meanwhile: that is told
    /// soon. One that a large change overlays is newer than its own key.
    pub(super) fn resolve(
        &mut self,
        origin: &Origin,
        (own, is_overlaid): (Option<&Entry>, bool),
        keys: &[Option<Entry>],
    ) -> Option<Document> {
        self.pending.remove(origin);
        let (document, requirements) = self.documents.get(origin)?;
        let (own, known) = (own.map_or(0, |own| own.revision), document.revision?.0);
        let is_current = own == known || (is_overlaid && own < known);
        if !is_current {
            return None;
        }
        let pairs = requirements.iter().zip(keys);
        let wrong: Vec<_> = pairs.filter_map(|(one, entry)| disagreement(one, entry.as_ref())).collect();
        Some(match wrong.as_slice() {
            [] => Document::clone(document),
            wrong => Document { content: Err(wrong.join("; ").into()), ..Document::clone(document) },
        })
    }
}

fn disagreement(requirement: &Requirement, entry: Option<&Entry>) -> Option<String> {
    let key = &requirement.key;
    let (wanted, what, is) = match (requirement.revision, requirement.create_revision) {
        (Some(revision), _) => (revision, "at revision", entry.map(|entry| entry.revision)),
        (None, Some(revision)) => (revision, "created at revision", entry.map(|entry| entry.create_revision)),
        // Refused for its form.
        (None, None) => return None,
    };
    match is {
        Some(is) if is == wanted => None,
        Some(is) => Some(format!("requires {key} {what} {wanted}, and it is {what} {is}")),
        None => Some(format!("requires {key} {what} {wanted}, and it is not there")),
    }
}
