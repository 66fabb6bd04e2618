//! Records: what is left of a request in etcd, in the transaction that did what it asked for. So a request that comes
//! again gets the first answer, and a commit that etcd did not answer is known to be done, or made impossible, by looking
//! at the record.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::draft::Draft;
use super::{Edit, EditError, Edited, Editor};
use crate::etcd::keys::Commit;
use crate::names::{Revision, Version};

/// Time for finding out what became of a commit.
const RESOLVE: Duration = Duration::from_secs(5);
/// The least time that records are kept; their lease is replaced every hour.
const RECORDS_KEPT: Duration = Duration::from_secs(24 * 3600);
const RECORDS_LEASE_USED: Duration = Duration::from_secs(3600);

/// A request by the key of its record and the hash of what it asks for.
pub(super) struct Request {
    pub(super) key: String,
    pub(super) body: String,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The hash of what was asked for.
    pub(super) body: String,
    /// True where it was done; false where it was made impossible because nobody knew.
    pub(super) is_done: bool,
}

impl Record {
    /// Reads a value. One that is no record of ours was not done by us.
    pub(super) fn parse(value: &[u8]) -> Self {
        serde_json::from_slice(value).unwrap_or(Self { body: String::new(), is_done: false })
    }
}

impl Request {
    pub(super) fn done(&self) -> Record {
        Record { body: self.body.clone(), is_done: true }
    }

    fn impossible(&self) -> Record {
        Record { body: self.body.clone(), is_done: false }
    }
}

impl Editor {
    pub(super) fn request(&self, edit: &Edit) -> Request {
        let name = match &edit.request {
            Some(name) => Version::of(name.as_bytes()).to_string(),
            None => format!("{:032x}", fastrand::u128(..)),
        };
        Request { key: self.below(&format!("requests/{name}")), body: body_of(edit) }
    }

    /// Finds out what became of a commit that etcd did not answer. Where it left no record, one is left that makes it
    /// impossible: it may be under way still. `known` is the revision of the record that the commit compared.
    pub(super) async fn resolve(&self, request: &Request, known: u64, why: String) -> Result<Edited, EditError> {
        let stop_at = Instant::now() + RESOLVE;
        let lease = self.records.lock().await.map_or(0, |(lease, _)| lease);
        let commit = Commit {
            unchanged: vec![(request.key.clone(), known)],
            puts: vec![(request.key.clone(), to_json(&request.impossible()), lease)],
            ..Default::default()
        };
        while Instant::now() < stop_at {
            let left = self.link.ask(async |connection| {
                if connection.commit(&commit).await?.is_some() {
                    return Ok(None);
                }
                let (_, mut entries) = connection.read(std::slice::from_ref(&request.key)).await?;
                Ok(entries.pop().flatten())
            });
            let Ok(left) = left.await else {
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            return match left.map(|entry| (Record::parse(&entry.value), entry.revision)) {
                Some((Record { is_done: true, .. }, revision)) => {
                    Ok(Edited { revision: Revision(revision), is_replay: false })
                }
                _ => Err(EditError::Unavailable(why)),
            };
        }
        Err(EditError::Unknown(why))
    }

    /// The lease that records stand under, so that they go some day.
    pub(super) async fn records_lease(&self) -> Result<i64, EditError> {
        let mut records = self.records.lock().await;
        if let Some((lease, since)) = *records
            && since.elapsed() < RECORDS_LEASE_USED
        {
            return Ok(lease);
        }
        let lease = self.link.ask(async |connection| connection.grant(RECORDS_KEPT).await).await?;
        *records = Some((lease, Instant::now()));
        Ok(lease)
    }
}

/// The hash of what was asked for, to tell whether it is asked for again.
fn body_of(edit: &Edit) -> String {
    let line = |Draft { change, .. }: &Draft| {
        let content = change.content.as_deref();
        let content = content.map_or_else(|| "-".to_owned(), |bytes| Version::of(bytes).to_string());
        format!("{}\n{content}\n", change.id)
    };
    let text: String = std::iter::once(format!("{}\n", edit.base)).chain(edit.drafts.iter().map(line)).collect();
    Version::of(text.as_bytes()).to_string()
}

pub(super) fn to_json(record: &Record) -> Vec<u8> {
    serde_json::to_vec(record).unwrap_or_default()
}
