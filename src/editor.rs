//! Changes of documents in etcd: checked against the set that they will meet, and compared and set in one transaction.
//!
//! ```text
//! read the keys -> is it done already? -> is the base still true? -> does the set still make sense? -> commit
//!   ^                                                                                                    |
//!   +------------------ somebody else was faster, with other documents ----------------------------------+
//! ```
//!
//! A change that does not fit into a transaction is committed by one key, the manifest, see `large`.
//!
//! A commit compares every key that it changes, the head (which every change through this API changes too, so that what
//! was checked together is what is there), and the key of this replica's lease: one that was paused for longer than its
//! lease cannot write. It leaves a record under the request's key. So a request that comes again gets the first answer,
//! and a commit that etcd did not answer is known to be done, or made impossible, by looking at the record.

pub mod guard;
mod large;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::bulk::Change;
use crate::document::{DOCUMENT_BYTES_MAX, Document, Origin};
use crate::etcd::Section;
use crate::etcd::failure::Failure;
use crate::etcd::keys::Commit;
use crate::etcd::lease::Held;
use crate::etcd::link::Link;
use crate::etcd::listing::Entry;
use crate::live::{Generation, Live};
use crate::names::{DocumentId, Revision, Version};
use crate::policy::problem::Problem;

/// Documents of one transaction: with the comparisons of head, record, manifest and lease, what etcd takes (128).
const TXN_DOCUMENTS_MAX: usize = 124;
/// Bytes of one transaction: what etcd takes in a request (1.5 MiB), less what stands around the documents.
const TXN_BYTES_MAX: usize = 1400 * 1024;
/// Documents of one change, and their bytes. Those that do not fit into a transaction go by way of a manifest.
const CHANGES_MAX: usize = 20_000;
const CHANGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Before it is looked again whether a large change is in place.
const MANIFEST_PAUSE: Duration = Duration::from_millis(300);
/// How often a change is tried anew because others were faster.
const ATTEMPTS_MAX: u32 = 20;
/// How long a replica may take to see what etcd holds already.
const CATCH_UP: Duration = Duration::from_secs(2);
/// How long it is tried to find out what became of a commit.
const RESOLVE: Duration = Duration::from_secs(5);
/// How long records are kept, at least; their lease is replaced every hour.
const RECORDS_KEPT: Duration = Duration::from_secs(24 * 3600);
const RECORDS_LEASE_USED: Duration = Duration::from_secs(3600);

pub struct Editor {
    link: Link,
    live: Arc<Live>,
    held: watch::Receiver<Option<Held>>,
    /// The key of this replica.
    server_key: String,
    /// The lease of records, and since when it is used.
    records: tokio::sync::Mutex<Option<(i64, Instant)>>,
}

/// What is to be changed.
#[derive(Clone, Debug)]
pub struct Edit {
    pub changes: Vec<Change>,
    /// The revision that it was made from: none of the documents may have changed since.
    pub base: Revision,
    /// Why it is to be done although it takes away more than is usual.
    pub force: Option<String>,
    /// A name that the caller gave the request, so that it can ask again without changing twice.
    pub request: Option<String>,
}

/// A change that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edited {
    pub revision: Revision,
    /// Whether it had been made before, by the same request.
    pub is_replay: bool,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error("the change holds nothing")]
    Empty,
    #[error("{0} stands twice in the change")]
    Twice(DocumentId),
    #[error("{what}, expected at most {max}")]
    TooLarge { what: String, max: usize },
    #[error("no {0} is there to be deleted")]
    Missing(DocumentId),
    #[error("base version {base} is not known yet: the newest is {newest}")]
    Future { base: Revision, newest: Revision },
    #[error("{} changed after base version {base}; look at the current version and try again", list(.changed))]
    Stale { base: Revision, changed: Vec<(DocumentId, Revision)> },
    #[error("the set would not make sense")]
    Invalid(Vec<Problem>),
    #[error("this takes away more than is usual: {}; say why in `force` to do it all the same", .0.join("; "))]
    Guarded(Vec<String>),
    #[error("this idempotency key was used for another change")]
    OtherRequest,
    #[error("this replica does not hold its lease in etcd, and must not write")]
    NotHeld,
    #[error("nothing was changed: {0}")]
    Unavailable(String),
    #[error("nobody knows whether it was changed ({0}); ask again with the same idempotency key")]
    Unknown(String),
}

fn list(changed: &[(DocumentId, Revision)]) -> String {
    let shown = changed.iter().take(3).map(|(id, revision)| match revision.0 {
        0 => format!("{id} (not there any more)"),
        revision => format!("{id} (revision {revision})"),
    });
    let more = changed.len().saturating_sub(3);
    let shown = shown.collect::<Vec<_>>().join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

/// What is left of a request in etcd.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The hash of what was asked for.
    body: String,
    /// Whether it was done, or made impossible because nobody knew.
    is_done: bool,
}

/// The keys of a change as they are now.
struct Now {
    revision: u64,
    /// Of each change, in its order.
    documents: Vec<Option<Entry>>,
    head: u64,
    record: Option<(Record, u64)>,
    has_manifest: bool,
}

impl Editor {
    pub fn new(link: Link, live: Arc<Live>, held: watch::Receiver<Option<Held>>, server_key: String) -> Self {
        Self { link, live, held, server_key, records: tokio::sync::Mutex::default() }
    }

    /// Makes the change as a whole, or says why not.
    pub async fn edit(&self, edit: &Edit) -> Result<Edited, EditError> {
        check_size(edit)?;
        let record_key = self.record_key(edit);
        let body = body_of(edit);
        for attempt in 0..ATTEMPTS_MAX {
            let held = self.held.borrow().filter(Held::is_sure).ok_or(EditError::NotHeld)?;
            let now = self.read(edit, &record_key).await?;
            match &now.record {
                Some((record, _)) if record.body != body => return Err(EditError::OtherRequest),
                Some((Record { is_done: true, .. }, revision)) => {
                    return Ok(Edited { revision: Revision(*revision), is_replay: true });
                }
                _ => {}
            }
            if now.has_manifest {
                // A large change is being put in place, which takes a moment.
                sleep(MANIFEST_PAUSE).await;
                continue;
            }
            self.check_base(edit, &now).await?;
            self.check_set(edit, &now).await?;
            let large = if is_large(edit) { Some(self.stage(edit).await?) } else { None };
            let mut commit = self.commit(edit, &now, held, &record_key, &body).await?;
            if let Some(manifest) = &large {
                self.commit_by_manifest(&mut commit, &now, manifest);
            }
            match self.link.ask(async |connection| connection.commit(&commit).await).await {
                Ok(Some(revision)) => {
                    if large.is_some() {
                        self.finish(revision).await;
                    }
                    return Ok(Edited { revision: Revision(revision), is_replay: false });
                }
                Ok(None) => self.after_lost_race(held, attempt).await?,
                Err(Failure::LeaseNotFound(_)) => *self.records.lock().await = None,
                Err(Failure::Unanswered(why)) => return self.resolve(&record_key, &body, why).await,
                Err(failure) => return Err(EditError::Unavailable(failure.to_string())),
            }
        }
        Err(EditError::Unavailable("others change documents faster".to_owned()))
    }

    async fn read(&self, edit: &Edit, record_key: &str) -> Result<Now, EditError> {
        let mut keys: Vec<String> = edit.changes.iter().map(|change| self.key(&change.id)).collect();
        keys.extend([self.manifest_key(), self.head_key(), record_key.to_owned()]);
        let mut revision = u64::MAX;
        let mut entries = Vec::with_capacity(keys.len());
        // What is read in several transactions is compared as of the first of them.
        for some in keys.chunks(TXN_DOCUMENTS_MAX + 3) {
            let read = self.link.ask(async |connection| connection.read(some).await).await;
            let (seen, some) = read.map_err(|failure| EditError::Unavailable(failure.to_string()))?;
            revision = revision.min(seen.revision);
            entries.extend(some);
        }
        let record = entries.pop().flatten().map(|entry| {
            // What is no record of ours was not done by us.
            let record = serde_json::from_slice(&entry.value);
            (record.unwrap_or(Record { body: String::new(), is_done: false }), entry.revision)
        });
        let head = entries.pop().flatten().map_or(0, |entry| entry.revision);
        let has_manifest = entries.pop().flatten().is_some();
        Ok(Now { revision, documents: entries, head, record, has_manifest })
    }

    /// Whether nothing that is changed has changed since the base.
    async fn check_base(&self, edit: &Edit, now: &Now) -> Result<(), EditError> {
        let base = edit.base;
        if base.0 > now.revision {
            return Err(EditError::Future { base, newest: Revision(now.revision) });
        }
        let (mut changed, mut absent) = (Vec::new(), Vec::new());
        for (change, entry) in edit.changes.iter().zip(&now.documents) {
            match entry {
                Some(entry) if entry.revision > base.0 => changed.push((change.id.clone(), Revision(entry.revision))),
                Some(_) => {}
                None => absent.push(change),
            }
        }
        changed.extend(self.deleted_since(&absent, base).await?.into_iter().map(|id| (id, Revision(0))));
        if !changed.is_empty() {
            return Err(EditError::Stale { base, changed });
        }
        match absent.into_iter().find(|change| change.content.is_none()) {
            Some(change) => Err(EditError::Missing(change.id.clone())),
            None => Ok(()),
        }
    }

    /// Documents that are gone now may have been there when the change was made up.
    async fn deleted_since(&self, absent: &[&Change], base: Revision) -> Result<Vec<DocumentId>, EditError> {
        if base.0 == 0 {
            return Ok(Vec::new());
        }
        let mut deleted = Vec::new();
        for some in absent.chunks(TXN_DOCUMENTS_MAX) {
            let keys: Vec<String> = some.iter().map(|change| self.key(&change.id)).collect();
            match self.link.ask(async |connection| connection.existed_at(&keys, base.0).await).await {
                Ok(existed) => {
                    let existed = some.iter().zip(existed).filter(|(_, existed)| *existed);
                    deleted.extend(existed.map(|(change, _)| change.id.clone()));
                }
                // Too long ago for anybody to know, so nobody's deletion is undone.
                Err(Failure::Compacted(_)) => {
                    deleted.extend(some.iter().map(|change| change.id.clone()));
                }
                Err(failure) => return Err(EditError::Unavailable(failure.to_string())),
            }
        }
        Ok(deleted)
    }

    /// Whether the set that the change would meet makes sense with it, and is not much less than before.
    async fn check_set(&self, edit: &Edit, now: &Now) -> Result<(), EditError> {
        let documents = now.documents.iter().flatten().map(|entry| entry.revision);
        let served = self.caught_up(documents.chain([now.head]).max().unwrap_or(0)).await?;
        let changes = edit.changes.iter().map(|change| self.document(change));
        let policies = served.with(changes).map_err(EditError::Invalid)?;
        let findings = guard::findings(&served, &policies, &edit.changes);
        match &edit.force {
            None if !findings.is_empty() => Err(EditError::Guarded(findings)),
            _ => Ok(()),
        }
    }

    /// What is served, once everything up to the revision was looked at.
    async fn caught_up(&self, revision: u64) -> Result<Arc<Generation>, EditError> {
        let mut adopted = self.live.adopted();
        let is_there = timeout(CATCH_UP, adopted.wait_for(|adopted| adopted.0 >= revision)).await;
        match is_there {
            Ok(Ok(_)) => Ok(self.live.latest()),
            _ => Err(EditError::Unavailable("this replica has not seen yet what etcd holds".to_owned())),
        }
    }

    async fn commit(
        &self,
        edit: &Edit,
        now: &Now,
        held: Held,
        record_key: &str,
        body: &str,
    ) -> Result<Commit, EditError> {
        let keys = edit.changes.iter().map(|change| self.key(&change.id));
        let revision_of = |entry: &Option<Entry>| entry.as_ref().map_or(0, |entry| entry.revision);
        let mut unchanged: Vec<(String, u64)> = keys.zip(now.documents.iter().map(revision_of)).collect();
        unchanged.push((self.head_key(), now.head));
        unchanged.push((self.manifest_key(), 0));
        unchanged.push((record_key.to_owned(), now.record.as_ref().map_or(0, |(_, revision)| *revision)));
        let record = Record { body: body.to_owned(), is_done: true };
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        for change in &edit.changes {
            match &change.content {
                Some(content) => puts.push((self.key(&change.id), content.to_vec(), 0)),
                None => deletes.push(self.key(&change.id)),
            }
        }
        puts.push((self.head_key(), self.server_key.clone().into_bytes(), 0));
        puts.push((record_key.to_owned(), to_json(&record), self.records_lease().await?));
        let fence = Some((self.server_key.clone(), held.create_revision));
        Ok(Commit { unchanged, fence, puts, deletes, ..Default::default() })
    }

    /// A comparison failed: ours to write no longer, or somebody was faster.
    async fn after_lost_race(&self, held: Held, attempt: u32) -> Result<(), EditError> {
        let key = self.link.ask(async |connection| connection.leased(&self.server_key).await).await;
        let key = key.map_err(|failure| EditError::Unavailable(failure.to_string()))?;
        if key.is_none_or(|key| key.create_revision != held.create_revision) {
            return Err(EditError::NotHeld);
        }
        sleep(Duration::from_millis(1 << attempt.min(6)).mul_f64(fastrand::f64())).await;
        Ok(())
    }

    /// Finds out what became of a commit that etcd did not answer. Where it left no record, one is left that makes it
    /// impossible: it may be under way still.
    async fn resolve(&self, record_key: &str, body: &str, why: String) -> Result<Edited, EditError> {
        let stop_at = Instant::now() + RESOLVE;
        let lease = self.records.lock().await.map_or(0, |(lease, _)| lease);
        let impossible = to_json(&Record { body: body.to_owned(), is_done: false });
        while Instant::now() < stop_at {
            let left = self.link.ask(async |connection| {
                let commit = Commit {
                    unchanged: vec![(record_key.to_owned(), 0)],
                    puts: vec![(record_key.to_owned(), impossible.clone(), lease)],
                    ..Default::default()
                };
                if connection.commit(&commit).await?.is_some() {
                    return Ok(None);
                }
                let (_, mut entries) = connection.read(&[record_key.to_owned()]).await?;
                Ok(entries.pop().flatten())
            });
            match left.await {
                Ok(None) => return Err(EditError::Unavailable(why)),
                Ok(Some(entry)) => match serde_json::from_slice(&entry.value) {
                    Ok(Record { is_done: true, .. }) => {
                        return Ok(Edited { revision: Revision(entry.revision), is_replay: false });
                    }
                    _ => return Err(EditError::Unavailable(why)),
                },
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
        Err(EditError::Unknown(why))
    }

    /// The lease that records stand under, so that they go some day.
    async fn records_lease(&self) -> Result<i64, EditError> {
        let mut records = self.records.lock().await;
        if let Some((lease, since)) = *records
            && since.elapsed() < RECORDS_LEASE_USED
        {
            return Ok(lease);
        }
        let granted = self.link.ask(async |connection| connection.grant(RECORDS_KEPT).await).await;
        let lease = granted.map_err(|failure| EditError::Unavailable(failure.to_string()))?;
        *records = Some((lease, Instant::now()));
        Ok(lease)
    }

    fn document(&self, change: &Change) -> (DocumentId, Option<Arc<Document>>) {
        let document = change.content.clone().map(|content| {
            let origin = Origin::Key { key: self.key(&change.id).into(), id: Some(change.id.clone()) };
            Arc::new(Document { origin, revision: None, content: Ok(content) })
        });
        (change.id.clone(), document)
    }

    fn key(&self, id: &DocumentId) -> String {
        format!("{}{}/{}", Section::Policies.prefix(&self.link.settings().prefix), id.kind, id.name)
    }

    fn head_key(&self) -> String {
        format!("{}/head", self.link.settings().prefix)
    }

    fn manifest_key(&self) -> String {
        Section::Manifest.prefix(&self.link.settings().prefix)
    }

    fn record_key(&self, edit: &Edit) -> String {
        let name = match &edit.request {
            Some(name) => Version::of(name.as_bytes()).to_string(),
            None => format!("{:032x}", fastrand::u128(..)),
        };
        format!("{}/requests/{name}", self.link.settings().prefix)
    }
}

fn check_size(edit: &Edit) -> Result<(), EditError> {
    if edit.changes.is_empty() {
        return Err(EditError::Empty);
    }
    let mut ids = BTreeSet::new();
    if let Some(change) = edit.changes.iter().find(|change| !ids.insert(&change.id)) {
        return Err(EditError::Twice(change.id.clone()));
    }
    let largest = edit.changes.iter().map(bytes_of).max().unwrap_or(0);
    let measured = [
        (edit.changes.len(), CHANGES_MAX, "documents"),
        (largest, DOCUMENT_BYTES_MAX, "bytes in one document"),
        (edit.changes.iter().map(bytes_of).sum(), CHANGE_BYTES_MAX, "bytes in all"),
    ];
    match measured.into_iter().find(|(size, max, _)| size > max) {
        Some((size, max, what)) => Err(EditError::TooLarge { what: format!("{size} {what}"), max }),
        None => Ok(()),
    }
}

fn bytes_of(change: &Change) -> usize {
    change.content.as_ref().map_or(0, |content| content.len())
}

/// Whether it does not fit into a transaction.
fn is_large(edit: &Edit) -> bool {
    edit.changes.len() > TXN_DOCUMENTS_MAX || edit.changes.iter().map(bytes_of).sum::<usize>() > TXN_BYTES_MAX
}

/// What was asked for, to tell whether it is asked for again.
fn body_of(edit: &Edit) -> String {
    let mut text = format!("{}\n", edit.base);
    for change in &edit.changes {
        let content = change.content.as_deref().map_or_else(|| "-".to_owned(), |bytes| Version::of(bytes).to_string());
        text.push_str(&format!("{}\n{content}\n", change.id));
    }
    Version::of(text.as_bytes()).to_string()
}

fn to_json(record: &Record) -> Vec<u8> {
    serde_json::to_vec(record).unwrap_or_default()
}
