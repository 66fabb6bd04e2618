//! Staging: the blobs of a change that does not fit into a transaction (see `bulk`), put where nobody looks at them yet.
//!
//! Blobs are put once for a change, however often others are faster, and under a lease of their own. So they go by
//! themselves where their replica ends before the commit, and at once where it gives the change up.
//!
//! The transaction that commits the manifest takes the blobs off the lease. From then on nothing that the change needs
//! can run out: it counts for good, even if every replica is gone at that moment. etcd can do that in the transaction
//! itself, because a put that ignores the value (`PutRequest.ignore_value`) gives a key another lease without its bytes.
//! A blob costs one comparison and one operation, of 128 each that a transaction may have. The comparison is what makes a
//! staging that ran out meanwhile a lost race: what is committed is there as a whole.

use std::time::Duration;

use tokio::time::Instant;

use super::base::Current;
use super::draft::too_large;
use super::{Edit, EditError, Editor};
use crate::bulk::{Manifest, pack};
use crate::etcd::Section;
use crate::etcd::failure::Failure;
use crate::etcd::keys::Commit;

/// Time that blobs stay which nobody commits: longer than it takes to put them and to try the commit.
const TTL: Duration = Duration::from_secs(120);
/// Blobs of one transaction: with the comparisons of manifest, head, record, lease and documents, what etcd takes (128).
const BLOBS_MAX: usize = 120;

/// Blobs that do not count yet.
pub(super) struct Staging {
    manifest: Manifest,
    lease: i64,
    /// The time before which the lease does not run out.
    until: Instant,
    /// The keys of the blobs that are there, and when each was put.
    blobs: Vec<(String, u64)>,
}

impl Staging {
    fn is_sure(&self) -> bool {
        Instant::now() < self.until
    }
}

impl Editor {
    /// Puts the blobs, unless they are there already. Whoever owns the staging discards it in the end, also one that is
    /// not whole.
    pub(super) async fn stage<'a>(
        &self,
        edit: &Edit,
        staging: &'a mut Option<Staging>,
    ) -> Result<&'a Staging, EditError> {
        if let Some(old) = staging.take_if(|staging| !staging.is_sure()) {
            self.discard(old).await;
        }
        if staging.is_none() {
            let changes: Vec<_> = edit.drafts.iter().map(|draft| draft.change.clone()).collect();
            let (blobs, manifest) = pack(&changes, &format!("{:032x}", fastrand::u128(..)));
            if blobs.len() > BLOBS_MAX {
                return Err(too_large(blobs.len(), "blobs", BLOBS_MAX));
            }
            let until = Instant::now() + TTL;
            let lease = self.link.ask(async |connection| connection.grant(TTL).await).await?;
            let staging = staging.insert(Staging { manifest, lease, until, blobs: Vec::new() });
            for (key, blob) in blobs {
                let key = self.below(&key);
                let commit = Commit { puts: vec![(key.clone(), blob, lease)], ..Default::default() };
                let put = self.link.ask(async |connection| connection.commit(&commit).await).await?;
                let revision = put.ok_or_else(|| Failure::lost("etcd did not put a blob"))?;
                staging.blobs.push((key, revision));
            }
        }
        staging.as_ref().ok_or_else(|| EditError::Unavailable("nothing is staged".to_owned()))
    }

    /// Takes away what was not committed. What was committed is not under the lease any more; what is under way still
    /// cannot be committed without its blobs.
    pub(super) async fn discard(&self, staging: Staging) {
        if let Err(failure) = self.link.ask(async |connection| connection.revoke(staging.lease).await).await {
            tracing::debug!("blobs that are not needed stay until their lease runs out: {failure}");
        }
    }

    /// Makes the blobs permanent and puts the manifest, instead of documents. The keys of these are too many to be
    /// compared one by one, so none of any document may have changed.
    pub(super) fn add_manifest(&self, commit: &mut Commit, current: &Current, staging: &Staging) {
        commit.unchanged.extend(staging.blobs.iter().cloned());
        commit.detached.extend(staging.blobs.iter().map(|(key, _)| key.clone()));
        commit.none_after = Some((self.section(Section::Policies), current.revision));
        let value = serde_json::to_vec(&staging.manifest).unwrap_or_default();
        commit.puts.push((self.manifest_key(), value, 0));
    }
}
