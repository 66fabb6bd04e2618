//! The keys of a change as etcd holds them, compared with the revision that the change was made from.
//!
//! A large change counts from its manifest on, and its documents are put in place after that (see `bulk`). So the keys of
//! documents change at revisions at which no document does. What a document was at the base is what readers had then: its
//! key at that revision, and the manifest of that revision over it.

use std::collections::HashMap;
use std::sync::Arc;

use super::draft::Draft;
use super::record::{Record, Request};
use super::{Edit, EditError, Edited, Editor, TXN_DOCUMENTS_MAX};
use crate::bulk::{Change, Manifest, unpack};
use crate::etcd::failure::Failure;
use crate::etcd::listing::Entry;
use crate::names::{DocumentId, Revision};

/// The keys of a change as they are now.
pub(super) struct Current {
    pub(super) revision: u64,
    /// The document of each draft, in their order.
    pub(super) documents: Vec<Option<Entry>>,
    /// The revision of the head; 0: there is none.
    pub(super) head: u64,
    /// The record of the request, and its revision.
    pub(super) record: Option<(Record, u64)>,
    /// The revision of a large change that is not in place yet.
    pub(super) manifest: Option<u64>,
}

impl Current {
    /// The revision of the record; 0: there is none.
    pub(super) fn record_revision(&self) -> u64 {
        self.record.as_ref().map_or(0, |(_, revision)| *revision)
    }

    /// The answer that a request got before.
    pub(super) fn answer_to(&self, request: &Request) -> Result<Option<Edited>, EditError> {
        match &self.record {
            Some((record, _)) if record.body != request.body => Err(EditError::OtherRequest),
            Some((Record { is_done: true, .. }, revision)) => {
                Ok(Some(Edited { revision: Revision(*revision), is_replay: true }))
            }
            _ => Ok(None),
        }
    }
}

impl Editor {
    /// Reads the keys that the change is about.
    pub(super) async fn read(&self, edit: &Edit, request: &Request) -> Result<Current, EditError> {
        let mut keys: Vec<String> = edit.drafts.iter().map(|draft| self.key(draft.id())).collect();
        keys.extend([self.manifest_key(), self.head_key(), request.key.clone()]);
        let mut revision = u64::MAX;
        let mut entries = Vec::with_capacity(keys.len());
        // What is read in several transactions is compared as of the first of them.
        for some in keys.chunks(TXN_DOCUMENTS_MAX + 3) {
            let (seen, some) = self.link.ask(async |connection| connection.read(some).await).await?;
            revision = revision.min(seen.revision);
            entries.extend(some);
        }
        let record = entries.pop().flatten().map(|entry| (Record::parse(&entry.value), entry.revision));
        let head = entries.pop().flatten().map_or(0, |entry| entry.revision);
        let manifest = entries.pop().flatten().map(|entry| entry.revision);
        Ok(Current { revision, documents: entries, head, record, manifest })
    }

    /// Checks that nothing that is changed has changed since the base.
    pub(super) async fn check_base(&self, edit: &Edit, current: &Current) -> Result<(), EditError> {
        let base = edit.base;
        if base.0 > current.revision {
            return Err(EditError::Future { base, newest: Revision(current.revision) });
        }
        let changed = self.changed_since(base, edit, current).await?;
        if !changed.is_empty() {
            return Err(EditError::Stale { base, changed });
        }
        let is_missing = |(draft, entry): &(&Draft, &Option<Entry>)| entry.is_none() && draft.change.content.is_none();
        match edit.drafts.iter().zip(&current.documents).find(is_missing) {
            Some((draft, _)) => Err(EditError::Missing(draft.id().clone())),
            None => Ok(()),
        }
    }

    /// The documents of the change that are not what they were at the base, and their revisions; 0: gone.
    async fn changed_since(
        &self,
        base: Revision,
        edit: &Edit,
        current: &Current,
    ) -> Result<Vec<(DocumentId, Revision)>, EditError> {
        let now = edit.drafts.iter().map(Draft::id).zip(&current.documents);
        let now = now.filter(|(_, entry)| entry.as_ref().is_none_or(|entry| entry.revision > base.0));
        // Before there is anything, nothing was there.
        let now = now.filter(|(_, entry)| base.0 > 0 || entry.is_some());
        let now: Vec<Now<'_>> = now.map(|(id, entry)| Now { id, entry: entry.as_ref() }).collect();
        let past = match self.past(base, &now).await {
            Ok(past) => past,
            // Too long ago for anybody to know, so nobody's deletion is undone.
            Err(Failure::Compacted(_)) => vec![None; now.len()],
            Err(failure) => return Err(failure.into()),
        };
        let changed = now.iter().zip(past).filter(|(now, past)| !past.as_ref().is_some_and(|past| past.became(now)));
        Ok(changed.map(|(now, _)| (now.id.clone(), Revision(now.entry.map_or(0, |entry| entry.revision)))).collect())
    }

    /// The documents as they were at the base, each `None` where it makes no difference because its key was changed by
    /// somebody else than who puts a large change in place.
    async fn past(&self, base: Revision, now: &[Now<'_>]) -> Result<Vec<Option<Past>>, Failure> {
        if now.is_empty() || base.0 == 0 {
            return Ok(vec![None; now.len()]);
        }
        let pending = self.pending_at(base).await?;
        let mut past = Vec::with_capacity(now.len());
        for some in now.chunks(TXN_DOCUMENTS_MAX) {
            let is_open = |now: &Now<'_>| now.entry.is_none() || pending.has(now.id);
            if !some.iter().any(is_open) {
                past.extend(some.iter().map(|_| None));
                continue;
            }
            let keys: Vec<String> = some.iter().map(|now| self.key(now.id)).collect();
            let entries = self.link.ask(async |connection| connection.read_keys_at(&keys, base.0).await).await?;
            past.extend(some.iter().zip(entries).map(|(now, entry)| Some(pending.past(now.id, entry.as_ref()))));
        }
        Ok(past)
    }

    /// The large change that counted at the base and was not in place yet.
    async fn pending_at(&self, base: Revision) -> Result<Pending, Failure> {
        let read = async |keys: &[String]| self.link.ask(async |link| link.read_at(keys, base.0).await).await;
        let Some(manifest) = read(&[self.manifest_key()]).await?.pop().flatten() else { return Ok(Pending::default()) };
        // One that could not be read counted for nobody.
        let Ok(parsed) = Manifest::parse(&manifest.value) else { return Ok(Pending::default()) };
        let mut blobs = HashMap::new();
        for key in &parsed.blobs {
            let blob = read(&[self.below(key)]).await?.pop().flatten();
            blobs.extend(blob.map(|blob| (key.as_str(), blob.value)));
        }
        let changes = unpack(&parsed, |key| blobs.get(key).map(Vec::as_slice)).unwrap_or_default();
        let changes = changes.into_iter().map(|Change { id, content }| (id, content)).collect();
        Ok(Pending { revision: manifest.revision, changes })
    }
}

/// A document of a change as its key is now.
struct Now<'a> {
    id: &'a DocumentId,
    entry: Option<&'a Entry>,
}

/// A document as it was at the base.
#[derive(Clone)]
struct Past {
    /// The version of its key; 0: it was not there.
    version: u64,
    /// Its text by a large change that was not in place yet.
    pending: Option<Content>,
}

/// The text of a document; `None`: it is deleted.
type Content = Option<Arc<[u8]>>;

impl Past {
    /// True where the document is still what it was: nobody changed its key, but for who put the large change in place.
    fn became(&self, now: &Now<'_>) -> bool {
        match (&self.pending, now.entry) {
            (None, None) => self.version == 0,
            (None, Some(_)) => false,
            (Some(None), None) => true,
            (Some(Some(text)), Some(entry)) => entry.version == self.version + 1 && entry.value == **text,
            (Some(_), _) => false,
        }
    }
}

/// A large change that is not in place yet, in whole or in part.
#[derive(Default)]
struct Pending {
    revision: u64,
    changes: HashMap<DocumentId, Content>,
}

impl Pending {
    fn has(&self, id: &DocumentId) -> bool {
        self.changes.contains_key(id)
    }

    /// The document with this key at the time. A key that is newer than the large change is in place, or somebody's own.
    fn past(&self, id: &DocumentId, entry: Option<&Entry>) -> Past {
        let is_older = entry.is_none_or(|entry| entry.revision <= self.revision);
        let pending = self.changes.get(id).filter(|_| is_older).cloned();
        Past { version: entry.map_or(0, |entry| entry.version), pending }
    }
}
