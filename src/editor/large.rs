//! Large changes that are committed and not in place yet (see `bulk`). Whoever committed one puts it in place; should
//! that replica end before it is done, another one does, for what is to be done stands in etcd and can be done twice.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::draft::bytes_of;
use super::{Editor, TXN_BYTES_MAX, TXN_DOCUMENTS_MAX};
use crate::bulk::{Change, Manifest, Unreadable, unpack};
use crate::etcd::Section;
use crate::etcd::failure::Failure;
use crate::etcd::keys::Commit;
use crate::etcd::lease::Claim;

/// Time for another replica to put its large change in place before this one helps.
const PATIENCE: Duration = Duration::from_secs(5);
/// Attempts to put a part in place before it is left to the next round.
const ATTEMPTS_MAX: u32 = 5;

/// Why a large change is not in place.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unplaced {
    /// Nobody can, as it stands in etcd.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// Another attempt may.
    #[error("{0}")]
    Failed(Failure),
}

impl From<Failure> for Unplaced {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Unreadable> for Unplaced {
    fn from(unreadable: Unreadable) -> Self {
        Self::Unreadable(unreadable.to_string())
    }
}

impl Editor {
    /// Puts a change in place that was just committed. What cannot be done now is done by `tend`, here or elsewhere.
    pub(super) async fn finish(&self, revision: u64) {
        if let Err(unplaced) = self.try_finish(revision).await {
            tracing::warn!(revision, "a large change is not in place yet: {unplaced}");
        }
    }

    /// Puts the change of a manifest in place. Somebody else may do so at the same time.
    pub(super) async fn try_finish(&self, revision: u64) -> Result<(), Unplaced> {
        let Some(manifest) = self.manifest(revision).await? else { return Ok(()) };
        let manifest = manifest?;
        let mut blobs = Vec::new();
        for key in &manifest.blobs {
            let blob = self.link.ask(async |connection| connection.leased(&self.below(key)).await).await?;
            blobs.extend(blob.map(|blob| (key.as_str(), blob.value)));
        }
        let blob = |key: &str| blobs.iter().find(|(own, _)| *own == key).map(|(_, blob)| blob.as_slice());
        let changes = match unpack(&manifest, blob) {
            Ok(changes) => changes,
            // Where somebody else has finished it meanwhile, its blobs are gone.
            Err(_) if self.manifest(revision).await?.is_none() => return Ok(()),
            Err(unreadable) => return Err(unreadable.into()),
        };
        for part in parts(&changes) {
            self.place(part, revision).await?;
        }
        let folder = manifest.blobs.first().and_then(|key| key.rsplit_once('/'));
        let commit = Commit {
            unchanged: vec![(self.manifest_key(), revision)],
            fence: self.fence(),
            deletes: vec![self.manifest_key()],
            delete_all: folder.map(|(folder, _)| self.below(&format!("{folder}/"))),
            ..Default::default()
        };
        self.link.ask(async |connection| connection.commit(&commit).await).await?;
        Ok(())
    }

    /// Puts some documents in place, but for those that were changed after the manifest.
    async fn place(&self, changes: &[Change], revision: u64) -> Result<(), Unplaced> {
        let keys: Vec<String> = changes.iter().map(|change| self.key(&change.id)).collect();
        for _ in 0..ATTEMPTS_MAX {
            let (_, entries) = self.link.ask(async |connection| connection.read(&keys).await).await?;
            let mut commit =
                Commit { unchanged: vec![(self.manifest_key(), revision)], fence: self.fence(), ..Default::default() };
            for ((change, key), entry) in changes.iter().zip(&keys).zip(&entries) {
                let changed_at = entry.as_ref().map_or(0, |entry| entry.revision);
                if changed_at > revision {
                    continue;
                }
                commit.unchanged.push((key.clone(), changed_at));
                match &change.content {
                    Some(content) => commit.puts.push((key.clone(), content.to_vec(), 0)),
                    None => commit.deletes.push(key.clone()),
                }
            }
            if self.link.ask(async |connection| connection.commit(&commit).await).await?.is_some() {
                return Ok(());
            }
            if self.manifest(revision).await?.is_none() {
                // Somebody else has finished it.
                return Ok(());
            }
        }
        Err(Failure::lost("others change its documents, or this replica does not hold its lease").into())
    }

    /// Looks after what others left, until shutdown: large changes that nobody puts in place, and blobs that nobody
    /// needs. What stands there for as long as others may take is left.
    pub async fn tend(&self, shutdown: CancellationToken) {
        let (mut left, mut told) = (Vec::new(), None);
        while shutdown.run_until_cancelled(sleep(PATIENCE)).await.is_some() {
            let prefixes = [self.section(Section::Blobs), self.manifest_key()];
            let Ok((_, there)) = self.link.ask(async |connection| connection.list_keys(&prefixes).await).await else {
                continue;
            };
            if there != left {
                left = there;
                continue;
            }
            let manifest = left.iter().find(|(key, _)| *key == self.manifest_key().into_bytes());
            match manifest.map(|(_, revision)| *revision) {
                Some(revision) => match self.try_finish(revision).await {
                    Err(Unplaced::Unreadable(_)) if told == Some(revision) => {}
                    Err(unplaced) => {
                        tracing::warn!(revision, "a large change is not in place: {unplaced}");
                        told = Some(revision);
                    }
                    Ok(()) => {}
                },
                None if left.is_empty() => {}
                None => self.sweep().await,
            }
        }
    }

    /// Takes away blobs that no manifest names: one that could not be read was given up, or somebody deleted it. The
    /// same transaction proves that there is none, and that no blob is under a lease, and so being staged.
    async fn sweep(&self) {
        let blobs = self.section(Section::Blobs);
        let commit = Commit {
            unchanged: vec![(self.manifest_key(), 0)],
            unleased: Some(blobs.clone()),
            fence: self.fence(),
            delete_all: Some(blobs),
            ..Default::default()
        };
        match self.link.ask(async |connection| connection.commit(&commit).await).await {
            Ok(Some(revision)) => tracing::info!(revision, "blobs that no large change needs are taken away"),
            Ok(None) => {}
            Err(failure) => tracing::debug!("blobs that no large change needs stay for now: {failure}"),
        }
    }

    /// The manifest of that revision, while it is there.
    async fn manifest(&self, revision: u64) -> Result<Option<Result<Manifest, Unreadable>>, Failure> {
        let key = self.manifest_key();
        let (_, entries) = self.link.ask(async |connection| connection.read(&[key]).await).await?;
        let entry = entries.into_iter().next().flatten().filter(|entry| entry.revision == revision);
        Ok(entry.map(|entry| Manifest::parse(&entry.value)))
    }

    /// The comparison that etcd refuses where this replica does not hold its lease.
    fn fence(&self) -> Option<(String, i64)> {
        let claim = self.claim.borrow().filter(Claim::is_sure);
        Some((self.server_key.clone(), claim.map_or(-1, |claim| claim.create_revision)))
    }
}

/// As many documents at a time as fit into a transaction.
fn parts(mut changes: &[Change]) -> Vec<&[Change]> {
    let mut parts = Vec::new();
    while !changes.is_empty() {
        let mut bytes = 0;
        let fits = |change: &&Change| {
            bytes += bytes_of(change);
            bytes <= TXN_BYTES_MAX
        };
        let length = changes.iter().take(TXN_DOCUMENTS_MAX).take_while(fits).count().max(1);
        let (part, rest) = changes.split_at(length);
        parts.push(part);
        changes = rest;
    }
    parts
}
