//! The keys of a change as etcd holds them, compared with the revision that the change was made from.

use super::record::{Record, Request};
use super::{Edit, EditError, Edited, Editor, TXN_DOCUMENTS_MAX};
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
        let (mut changed, mut absent) = (Vec::new(), Vec::new());
        for (draft, entry) in edit.drafts.iter().zip(&current.documents) {
            match entry {
                Some(entry) if entry.revision > base.0 => changed.push((draft.id().clone(), Revision(entry.revision))),
                Some(_) => {}
                None => absent.push(draft),
            }
        }
        let ids: Vec<&DocumentId> = absent.iter().map(|draft| draft.id()).collect();
        changed.extend(self.deleted_since(&ids, base).await?.into_iter().map(|id| (id, Revision(0))));
        if !changed.is_empty() {
            return Err(EditError::Stale { base, changed });
        }
        match absent.into_iter().find(|draft| draft.change.content.is_none()) {
            Some(draft) => Err(EditError::Missing(draft.id().clone())),
            None => Ok(()),
        }
    }

    /// The absent documents that were there when the change was made up.
    async fn deleted_since(&self, absent: &[&DocumentId], base: Revision) -> Result<Vec<DocumentId>, EditError> {
        if base.0 == 0 {
            return Ok(Vec::new());
        }
        let mut deleted = Vec::new();
        for some in absent.chunks(TXN_DOCUMENTS_MAX) {
            let keys: Vec<String> = some.iter().map(|id| self.key(id)).collect();
            let existed = match self.link.ask(async |connection| connection.existed_at(&keys, base.0).await).await {
                // Too long ago for anybody to know, so nobody's deletion is undone.
                Err(Failure::Compacted(_)) => vec![true; some.len()],
                existed => existed?,
            };
            let existed = some.iter().zip(existed).filter(|(_, existed)| *existed);
            deleted.extend(existed.map(|(id, _)| DocumentId::clone(id)));
        }
        Ok(deleted)
    }
}
