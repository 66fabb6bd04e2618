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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::editor::base::Current;
    use crate::editor::draft::drafts;
    use crate::names::{DocumentId, Kind};

    fn edit(text: &str, base: u64) -> Edit {
        let drafts = drafts(&"body".into(), text.as_bytes()).unwrap();
        Edit { drafts, base: Revision(base), force: None, request: Some("once".to_owned()) }
    }

    const PLAN: &str = "{kind: Plan, name: a, limits: [{rate: 1/m}]}";

    #[test]
    fn the_same_is_asked_for_where_documents_and_base_are_the_same() {
        let same = body_of(&edit(PLAN, 7));
        assert_eq!(body_of(&Edit { request: None, force: Some("x".to_owned()), ..edit(PLAN, 7) }), same);
        for other in [
            edit(PLAN, 8),
            edit(&PLAN.replace("1/m", "2/m"), 7),
            edit(&PLAN.replace("name: a", "name: b"), 7),
            edit(&format!("{PLAN}\n---\n{{kind: Tenant, name: t}}"), 7),
            Edit { drafts: vec![Draft::deletion(DocumentId::new(Kind::Plan, "a"))], ..edit(PLAN, 7) },
        ] {
            assert_ne!(body_of(&other), same);
        }
        let deletion =
            |name: &str| Edit { drafts: vec![Draft::deletion(DocumentId::new(Kind::Plan, name))], ..edit(PLAN, 7) };
        assert_ne!(body_of(&deletion("a")), body_of(&deletion("b")), "they have no content that tells them apart");
    }

    #[test]
    fn a_request_that_has_a_name_is_found_again_and_one_without_is_like_no_other() {
        let editor = crate::editor::draft::tests::editor();
        let key = |request: Option<&str>| {
            let request = request.map(str::to_owned);
            editor.request(&Edit { request, ..edit(PLAN, 7) }).key
        };
        assert_eq!(key(Some("once")), key(Some("once")));
        assert_ne!(key(Some("once")), key(Some("twice")));
        assert_ne!(key(None), key(None));
        // Whatever the name is, it is one key below the prefix.
        for name in ["", "a/b", "../policies", &"x".repeat(256)] {
            let key = key(Some(name));
            let below = key.strip_prefix("/t/requests/").unwrap();
            assert!(below.len() <= 32 && below.bytes().all(|byte| byte.is_ascii_hexdigit()), "{key}");
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_nothing_else_is_one() {
        let request = Request { key: "/tierflow/requests/x".to_owned(), body: "7f".to_owned() };
        for record in [request.done(), request.impossible()] {
            assert_eq!(Record::parse(&to_json(&record)), record);
        }
        for nonsense in [&b""[..], b"{}", b"\xff", br#"{"body": "7f"}"#, br#"{"body": 7, "is_done": true}"#] {
            assert_eq!(Record::parse(nonsense), Record { body: String::new(), is_done: false });
        }
    }

    #[test]
    fn a_request_that_comes_again_gets_its_answer_and_another_one_under_its_name_none() {
        let request = Request { key: "/tierflow/requests/x".to_owned(), body: "7f".to_owned() };
        let answer = |record: Option<Record>| {
            let record = record.map(|record| (record, 41));
            let current = Current { revision: 50, documents: Vec::new(), head: 0, record, manifest: None };
            assert_eq!(current.record_revision(), if current.record.is_some() { 41 } else { 0 });
            current.answer_to(&request).map_err(|error| error.to_string())
        };
        let edited = Edited { revision: Revision(41), is_replay: true };
        assert_eq!(answer(None), Ok(None));
        assert_eq!(answer(Some(request.done())), Ok(Some(edited)));
        assert_eq!(answer(Some(request.impossible())), Ok(None), "it may be tried again");
        let other = Record { body: "other".to_owned(), is_done: true };
        assert_eq!(answer(Some(other)), Err("this idempotency key was used for another change".to_owned()));
    }
}
