//! Changes of documents in etcd: checked against the set that they will meet, and compared and set in one transaction.
//!
//! ```text
//! drafts -> read the keys -> done already? -> base still true? -> does the set make sense? -> commit
//!             ^                                                                                 |
//!             +------------------ somebody else was faster, with other documents ---------------+
//! ```
//!
//! A change that does not fit into a transaction is staged, and committed by one key, the manifest: see `staging` and
//! `large`.
//!
//! A commit compares every key that it changes, the head (which every change through this API changes too, so that what
//! was checked together is what is there), and the key of this replica's lease: one that was paused for longer than its
//! lease cannot write. It leaves a record under the request's key: see `record`.

mod base;
pub mod draft;
mod error;
pub mod guard;
mod large;
mod record;
mod staging;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use self::base::Current;
use self::draft::Draft;
use self::large::Unplaced;
use self::record::{Request, to_json};
use self::staging::Staging;
use crate::etcd::failure::Failure;
use crate::etcd::keys::Commit;
use crate::etcd::lease::Claim;
use crate::etcd::link::Link;
use crate::etcd::{Section, root};
use crate::live::{Generation, Live, Refusal};
use crate::names::{DocumentId, Revision};

pub use self::error::EditError;

/// Documents of one transaction: with the comparisons of head, record, manifest and lease, what etcd takes (128).
const TXN_DOCUMENTS_MAX: usize = 124;
/// Bytes of one transaction: what etcd takes in a request (1.5 MiB), less what stands around the documents.
const TXN_BYTES_MAX: usize = 1400 * 1024;
/// Attempts at a change, of which each but the last found that others were faster.
const ATTEMPTS_MAX: u32 = 20;
/// Attempts that only wait while another large change is put in place. After them this replica helps.
const WAITING_ATTEMPTS: u32 = 10;
/// Pause between those.
const WAITING_PAUSE: Duration = Duration::from_millis(300);
/// Time for this replica to see what is in etcd already.
const CATCH_UP: Duration = Duration::from_secs(2);
/// Time for this replica to serve a change before the answer says that it does not yet.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);

pub struct Editor {
    link: Link,
    live: Arc<Live>,
    claim: watch::Receiver<Option<Claim>>,
    /// The key of this replica.
    server_key: String,
    /// The lease of records, and since when it is used.
    records: tokio::sync::Mutex<Option<(i64, Instant)>>,
}

/// A change of one or more documents, as it is asked for.
#[derive(Clone, Debug)]
pub struct Edit {
    pub drafts: Vec<Draft>,
    /// The revision that it was made from: none of the documents may have changed since.
    pub base: Revision,
    /// The reason to do it although it takes away more than is usual.
    pub force: Option<String>,
    /// A name that the caller gave the request, so that it can ask again without changing twice.
    pub request: Option<String>,
}

/// A change that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edited {
    pub revision: Revision,
    /// True where the same request had made it before.
    pub is_replay: bool,
}

/// A change that was made, as this replica has it.
#[derive(Clone, Debug)]
pub struct Outlook {
    /// True where whoever asks this replica is shown the change.
    pub is_shown: bool,
    /// The documents that are not served as they were written: the keys that they require are not what they have to be.
    pub waiting: Vec<Arc<Refusal>>,
}

impl Editor {
    pub fn new(link: Link, live: Arc<Live>, claim: watch::Receiver<Option<Claim>>, server_key: String) -> Self {
        Self { link, live, claim, server_key, records: tokio::sync::Mutex::default() }
    }

    /// Makes the change as a whole, or says why not.
    pub async fn edit(&self, edit: &Edit) -> Result<Edited, EditError> {
        draft::check_size(&edit.drafts)?;
        let request = self.request(edit);
        let mut staging = None;
        let edited = self.try_edit(edit, &request, &mut staging).await;
        if let Some(staging) = staging {
            self.discard(staging).await;
            if let Ok(Edited { revision, is_replay: false }) = &edited {
                self.finish(revision.0).await;
            }
        }
        edited
    }

    /// Waits until this replica shows a change that was made, so that whoever made it reads it.
    pub async fn outlook(&self, edit: &Edit, edited: Edited) -> Outlook {
        let mut adopted = self.live.adopted();
        let is_there = adopted.wait_for(|adopted| *adopted >= edited.revision);
        let is_shown = timeout(SHOWN_WITHIN, is_there).await.is_ok_and(|adopted| adopted.is_ok());
        let refused = self.live.refused();
        let waiting = edit.drafts.iter().filter_map(|draft| refused.of(draft.id()).cloned());
        Outlook { is_shown, waiting: if is_shown { waiting.collect() } else { Vec::new() } }
    }

    async fn try_edit(
        &self,
        edit: &Edit,
        request: &Request,
        staging: &mut Option<Staging>,
    ) -> Result<Edited, EditError> {
        for attempt in 0..ATTEMPTS_MAX {
            let claim = self.claim.borrow().filter(Claim::is_sure).ok_or(EditError::NotClaimed)?;
            let current = self.read(edit, request).await?;
            if let Some(edited) = current.answer_to(request)? {
                return Ok(edited);
            }
            if let Some(manifest) = current.manifest {
                if attempt < WAITING_ATTEMPTS {
                    sleep(WAITING_PAUSE).await;
                    continue;
                }
                match self.try_finish(manifest).await {
                    Ok(()) => continue,
                    Err(unplaced) => self.give_up(edit, manifest, unplaced)?,
                }
            }
            self.check_base(edit, &current).await?;
            self.check_set(edit, &current).await?;
            let mut commit = self.commit_of(&current, claim, request).await?;
            match draft::is_large(&edit.drafts) {
                true => self.add_manifest(&mut commit, &current, self.stage(edit, staging).await?),
                false => self.add_documents(&mut commit, &current, edit),
            }
            self.live.announce(edit.drafts.iter().filter_map(|draft| draft.parsed.clone()).collect());
            match self.link.ask(async |connection| connection.commit(&commit).await).await {
                Ok(Some(revision)) => return Ok(Edited { revision: Revision(revision), is_replay: false }),
                Ok(None) => self.after_lost_race(claim, attempt).await?,
                Err(Failure::LeaseNotFound(_)) => *self.records.lock().await = None,
                Err(Failure::Unanswered(why)) => return self.resolve(request, current.record_revision(), why).await,
                Err(failure) => return Err(failure.into()),
            }
        }
        Err(EditError::Unavailable("others change documents faster".to_owned()))
    }

    /// A large change that cannot be put in place is in the way of all others. One that can be read goes on counting.
    /// One that cannot be read counts for nobody, and goes with the next change that has a reason.
    fn give_up(&self, edit: &Edit, revision: u64, unplaced: Unplaced) -> Result<(), EditError> {
        let why = match unplaced {
            Unplaced::Unreadable(why) => why,
            Unplaced::Failed(failure) => {
                return Err(EditError::Unavailable(format!("a large change is not in place yet: {failure}")));
            }
        };
        let Some(reason) = &edit.force else {
            return Err(EditError::Unreadable { key: self.manifest_key(), revision: Revision(revision), why });
        };
        tracing::warn!(revision, reason, "a large change is given up: {why}");
        Ok(())
    }

    /// Checks that the set that the change would meet makes sense with it, and is not much less than before.
    async fn check_set(&self, edit: &Edit, current: &Current) -> Result<(), EditError> {
        let documents = current.documents.iter().flatten().map(|entry| entry.revision);
        let served = self.caught_up(documents.chain([current.head]).max().unwrap_or(0)).await?;
        let drafts = edit.drafts.clone();
        let linked = tokio::task::spawn_blocking(move || {
            let changes = drafts.iter().map(|draft| (draft.id().clone(), draft.parsed.clone()));
            let policies = served.with(changes)?;
            Ok(guard::findings(&served, &policies, &drafts))
        });
        let linked = linked.await.map_err(|error| EditError::Unavailable(error.to_string()))?;
        let findings = linked.map_err(EditError::Invalid)?;
        match &edit.force {
            None if !findings.is_empty() => Err(EditError::Guarded(findings)),
            _ => Ok(()),
        }
    }

    /// The served generation, once everything up to the revision was looked at.
    async fn caught_up(&self, revision: u64) -> Result<Arc<Generation>, EditError> {
        let mut adopted = self.live.adopted();
        let is_there = timeout(CATCH_UP, adopted.wait_for(|adopted| adopted.0 >= revision)).await;
        match is_there {
            Ok(Ok(_)) => Ok(self.live.latest()),
            _ => Err(EditError::Unavailable("this replica has not seen yet what etcd holds".to_owned())),
        }
    }

    /// The commit of any change: what it compares and leaves besides the documents.
    async fn commit_of(&self, current: &Current, claim: Claim, request: &Request) -> Result<Commit, EditError> {
        let unchanged = vec![
            (self.head_key(), current.head),
            (self.manifest_key(), current.manifest.unwrap_or(0)),
            (request.key.clone(), current.record_revision()),
        ];
        let puts = vec![
            (self.head_key(), self.server_key.clone().into_bytes(), 0),
            (request.key.clone(), to_json(&request.done()), self.records_lease().await?),
        ];
        let fence = Some((self.server_key.clone(), claim.create_revision));
        Ok(Commit { unchanged, fence, puts, ..Default::default() })
    }

    fn add_documents(&self, commit: &mut Commit, current: &Current, edit: &Edit) {
        for (draft, entry) in edit.drafts.iter().zip(&current.documents) {
            let key = self.key(draft.id());
            commit.unchanged.push((key.clone(), entry.as_ref().map_or(0, |entry| entry.revision)));
            match &draft.change.content {
                Some(content) => commit.puts.push((key, content.to_vec(), 0)),
                None => commit.deletes.push(key),
            }
        }
        // One that is there now is given up.
        commit.deletes.extend(current.manifest.map(|_| self.manifest_key()));
    }

    /// A comparison failed: this replica's lease is lost, or somebody was faster.
    async fn after_lost_race(&self, claim: Claim, attempt: u32) -> Result<(), EditError> {
        let key = self.link.ask(async |connection| connection.leased(&self.server_key).await).await?;
        if key.is_none_or(|key| key.create_revision != claim.create_revision) {
            return Err(EditError::NotClaimed);
        }
        sleep(Duration::from_millis(1 << attempt.min(6)).mul_f64(fastrand::f64())).await;
        Ok(())
    }

    fn key(&self, id: &DocumentId) -> String {
        format!("{}{}/{}", self.section(Section::Policies), id.kind, id.name)
    }

    fn head_key(&self) -> String {
        self.below("head")
    }

    fn manifest_key(&self) -> String {
        self.section(Section::Manifest)
    }

    fn section(&self, section: Section) -> String {
        section.prefix(&self.link.settings().prefix)
    }

    fn below(&self, key: &str) -> String {
        root(&self.link.settings().prefix) + key
    }
}
