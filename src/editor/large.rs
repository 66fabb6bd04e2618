//! Changes that do not fit into a transaction (see `bulk`): blobs first, then one key that makes them count, and after that
//! they are put in place. Whoever committed it puts it in place; should that replica end before it is done, another one
//! does, for what is to be done stands in etcd and can be done twice.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Edit, EditError, Editor, Now, TXN_BYTES_MAX, TXN_DOCUMENTS_MAX, bytes_of};
use crate::bulk::{Change, Manifest, pack, unpack};
use crate::etcd::Section;
use crate::etcd::failure::Failure;
use crate::etcd::keys::Commit;
use crate::etcd::lease::Held;

/// How long another replica's large change may take to be put in place before this one helps.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a part is tried to be put in place before it is left to the next round.
const ATTEMPTS_MAX: u32 = 5;

impl Editor {
    /// Puts the blobs of a change where nobody looks at them yet.
    pub(super) async fn stage(&self, edit: &Edit) -> Result<Manifest, EditError> {
        let (blobs, manifest) = pack(&edit.changes, &format!("{:032x}", fastrand::u128(..)));
        // They go some day, should the change never be committed.
        let lease = self.records_lease().await?;
        for (key, blob) in blobs {
            let commit = Commit { puts: vec![(self.below(&key), blob, lease)], ..Default::default() };
            let put = self.link.ask(async |connection| connection.commit(&commit).await).await;
            put.map_err(|failure| EditError::Unavailable(failure.to_string()))?;
        }
        Ok(manifest)
    }

    /// The same conditions, and the manifest instead of the documents. Their keys are too many to be compared one by
    /// one, so none of any document may have changed.
    pub(super) fn commit_by_manifest(&self, commit: &mut Commit, now: &Now, manifest: &Manifest) {
        let documents = Section::Policies.prefix(&self.link.settings().prefix);
        commit.unchanged.retain(|(key, _)| !key.starts_with(&documents));
        commit.puts.retain(|(key, ..)| !key.starts_with(&documents));
        commit.deletes.clear();
        commit.none_after = Some((documents, now.revision));
        let value = serde_json::to_vec(manifest).unwrap_or_default();
        commit.puts.push((self.manifest_key(), value, 0));
    }

    /// Puts the change of a manifest in place. What cannot be done now is done by `tend`, here or elsewhere.
    pub(super) async fn finish(&self, revision: u64) {
        if let Err(failure) = self.try_finish(revision).await {
            tracing::warn!(revision, "a large change is not in place yet: {failure}");
        }
    }

    async fn try_finish(&self, revision: u64) -> Result<(), Failure> {
        let Some(manifest) = self.manifest(revision).await? else { return Ok(()) };
        let mut blobs = Vec::new();
        for key in &manifest.blobs {
            blobs.push((key.clone(), self.value(&self.below(key)).await?.unwrap_or_default()));
        }
        let blob = |key: &str| blobs.iter().find(|(own, _)| own == key).map(|(_, blob)| blob.as_slice());
        let changes = unpack(&manifest, blob).ok_or_else(|| Failure::lost("its blobs are not whole"))?;
        for part in parts(&changes) {
            self.place(part, revision).await?;
        }
        let blobs = manifest.blobs.first().and_then(|key| key.rsplit_once('/')).map(|(folder, _)| format!("{folder}/"));
        let commit = Commit {
            unchanged: vec![(self.manifest_key(), revision)],
            fence: self.fence(),
            deletes: vec![self.manifest_key()],
            delete_all: blobs.map(|folder| self.below(&folder)),
            ..Default::default()
        };
        self.link.ask(async |connection| connection.commit(&commit).await).await.map(drop)
    }

    /// Puts some documents in place, but for those that were changed after the manifest.
    async fn place(&self, changes: &[Change], revision: u64) -> Result<(), Failure> {
        let keys: Vec<String> = changes.iter().map(|change| self.key(&change.id)).collect();
        for _ in 0..ATTEMPTS_MAX {
            let (_, entries) = self.link.ask(async |connection| connection.read(&keys).await).await?;
            let mut commit =
                Commit { unchanged: vec![(self.manifest_key(), revision)], fence: self.fence(), ..Default::default() };
            for ((change, key), entry) in changes.iter().zip(&keys).zip(&entries) {
                let held = entry.as_ref().map_or(0, |entry| entry.revision);
                if held > revision {
                    continue;
                }
                commit.unchanged.push((key.clone(), held));
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
        Err(Failure::lost("others change its documents, or this replica does not hold its lease"))
    }

    /// Looks after large changes that nobody finishes, until shutdown.
    pub async fn tend(&self, shutdown: CancellationToken) {
        let mut seen = None;
        while shutdown.run_until_cancelled(sleep(PATIENCE)).await.is_some() {
            let key = self.manifest_key();
            let now = self.link.ask(async |connection| connection.read(&[key]).await).await;
            let now = now.ok().and_then(|(_, entries)| Some(entries.into_iter().next()??.revision));
            if let Some(revision) = now.filter(|_| now == seen) {
                self.finish(revision).await;
            }
            seen = now;
        }
    }

    /// The manifest of that revision, while it is there.
    async fn manifest(&self, revision: u64) -> Result<Option<Manifest>, Failure> {
        let key = self.manifest_key();
        let (_, entries) = self.link.ask(async |connection| connection.read(&[key]).await).await?;
        let entry = entries.into_iter().next().flatten().filter(|entry| entry.revision == revision);
        Ok(entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()))
    }

    async fn value(&self, key: &str) -> Result<Option<Vec<u8>>, Failure> {
        Ok(self.link.ask(async |connection| connection.leased(key).await).await?.map(|leased| leased.value))
    }

    /// Fences with a life that is over are refused by etcd.
    fn fence(&self) -> Option<(String, i64)> {
        let held = self.held.borrow().filter(Held::is_sure);
        Some((self.server_key.clone(), held.map_or(-1, |held| held.create_revision)))
    }

    fn below(&self, key: &str) -> String {
        format!("{}/{key}", self.link.settings().prefix)
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
