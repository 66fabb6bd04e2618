//! The health of the source: written by the source, read by whoever tells people.

use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::Timestamp;
use crate::names::Revision;

/// What is said of a source that holds nothing.
pub const EMPTIED: &str =
    "the source holds no document, and nothing is taken away (--allow-empty takes it at its word)";

#[derive(Debug, Default)]
pub struct Board(Mutex<Health>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The place that answered last, as people name it: a folder, or an endpoint of etcd and its version.
    pub place: String,
    /// The time when the source last said that it is there.
    pub heard_at: Option<Timestamp>,
    /// The time when all of it was last compared with what is known here.
    pub compared_at: Option<Timestamp>,
    /// The newest revision that the source told of; for etcd that of the whole store.
    pub revision: Revision,
    /// The reason why it is not heard now.
    pub trouble: Option<String>,
    /// The number of documents that it held when it was last looked at.
    pub held: Option<usize>,
    /// True where it holds none, and that is not taken for a wish.
    pub is_emptied: bool,
    /// True where what is served was kept from an earlier run, because the source was never heard.
    pub is_restored: bool,
    /// The replicas of Tierflow that share the source, this one among them.
    pub replicas: Vec<Replica>,
    /// Instances that registered with a value that makes no sense, as `key: why`.
    pub strange_instances: Vec<String>,
    /// A large change that cannot be read, so that nobody serves it, as `key, its revision: why`.
    pub unreadable_change: Option<String>,
}

/// A replica of Tierflow, as it tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Replica {
    pub id: String,
    pub version: String,
    /// The addresses of its rate limit service.
    pub rls: Vec<String>,
    /// The generation that it serves, and the revision that it was made at.
    pub generation: u64,
    pub revision: u64,
    /// Older forms that its Envoys have or are offered, as `gateway/id`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forms: Vec<String>,
}

impl Health {
    /// What is wrong with it, be it heard or not.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref().or(self.is_emptied.then_some(EMPTIED))
    }

    /// The time since the source was heard; `None` before the first time.
    pub fn lag(&self, now: Timestamp) -> Option<Duration> {
        self.heard_at.map(|heard_at| now.since(heard_at))
    }
}

impl Board {
    pub fn read(&self) -> Health {
        self.0.lock().clone()
    }

    /// The source answered.
    pub fn heard(&self, revision: Revision, now: Timestamp) {
        let mut health = self.0.lock();
        health.revision = revision;
        health.heard_at = Some(now);
        health.trouble = None;
    }

    /// Notes whether what was kept from an earlier run is served.
    pub fn restored(&self, is_restored: bool) {
        self.0.lock().is_restored = is_restored;
    }

    /// Notes how many documents there are, and whether there being none is taken for an accident.
    pub fn holds(&self, documents: usize, is_emptied: bool) {
        let mut health = self.0.lock();
        (health.held, health.is_emptied) = (Some(documents), is_emptied);
    }

    /// All that the source holds was seen.
    pub fn compared(&self, revision: Revision, now: Timestamp) {
        self.heard(revision, now);
        self.0.lock().compared_at = Some(now);
    }

    pub fn set_strange_instances(&self, strange: Vec<String>) {
        let mut health = self.0.lock();
        for instance in strange.iter().filter(|instance| !health.strange_instances.contains(instance)) {
            tracing::warn!("an instance is left out: {instance}");
        }
        health.strange_instances = strange;
    }

    pub fn set_unreadable_change(&self, unreadable: Option<String>) {
        let mut health = self.0.lock();
        if let Some(change) = unreadable.as_ref().filter(|_| health.unreadable_change != unreadable) {
            tracing::error!("a large change cannot be read, and is not served: {change}");
        }
        health.unreadable_change = unreadable;
    }

    pub fn set_replicas(&self, replicas: Vec<Replica>) {
        self.0.lock().replicas = replicas;
    }

    pub fn at(&self, place: String) {
        self.0.lock().place = place;
    }

    pub fn lost(&self, trouble: String) {
        self.0.lock().trouble = Some(trouble);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn the_lag_is_the_time_since_the_source_was_heard() {
        let board = Board::default();
        assert_eq!(board.read().lag(at(9)), None, "never");
        board.heard(Revision(7), at(3));
        assert_eq!(board.read().lag(at(9)), Some(Duration::from_secs(6)));
        assert_eq!((board.read().revision, board.read().compared_at), (Revision(7), None));
        board.compared(Revision(8), at(5));
        let health = board.read();
        assert_eq!((health.revision, health.heard_at, health.compared_at), (Revision(8), Some(at(5)), Some(at(5))));
        // A word of it is no comparison.
        board.heard(Revision(9), at(8));
        assert_eq!((board.read().heard_at, board.read().compared_at), (Some(at(8)), Some(at(5))));
    }

    #[test]
    fn trouble_lasts_until_the_source_is_heard() {
        let board = Board::default();
        board.heard(Revision(7), at(3));
        board.lost("connection refused".to_owned());
        let health = board.read();
        assert_eq!((health.trouble.as_deref(), health.revision), (Some("connection refused"), Revision(7)));
        assert_eq!(health.lag(at(9)), Some(Duration::from_secs(6)), "and it was heard all the same");
        board.lost("timed out".to_owned());
        assert_eq!(board.read().trouble.as_deref(), Some("timed out"));
        board.heard(Revision(7), at(9));
        assert_eq!(board.read().trouble, None);
        board.lost("again".to_owned());
        board.compared(Revision(8), at(9));
        assert_eq!(board.read().trouble, None);
        // An empty one is heard.
        board.holds(0, true);
        board.compared(Revision(9), at(10));
        assert_eq!(board.read().trouble(), Some(EMPTIED));
        board.lost("gone".to_owned());
        assert_eq!(board.read().trouble(), Some("gone"));
        board.holds(1, false);
        board.heard(Revision(9), at(11));
        assert_eq!(board.read().trouble(), None);
    }

    #[test]
    fn what_is_noted_is_what_is_there_now() {
        let board = Board::default();
        board.set_strange_instances(vec!["a: no address".to_owned(), "b: no JSON".to_owned()]);
        board.set_strange_instances(vec!["b: no JSON".to_owned()]);
        board.set_unreadable_change(Some("/tierflow/edit, 7: a blob is missing".to_owned()));
        board.set_unreadable_change(None);
        let replica = |id: &str| Replica { id: id.to_owned(), ..Default::default() };
        board.set_replicas(vec![replica("one"), replica("two")]);
        board.set_replicas(vec![replica("two")]);
        board.at("a folder".to_owned());
        board.restored(true);
        let health = board.read();
        assert_eq!((health.strange_instances.len(), health.unreadable_change), (1, None));
        assert_eq!((&*health.replicas[0].id, &*health.place, health.is_restored), ("two", "a folder", true));
    }

    /// Replicas of two versions tell each other of themselves while one of them is replaced.
    #[test]
    fn what_a_replica_tells_can_be_read_without_what_is_newer() {
        let told = r#"{"id": "one", "version": "0.1.0", "rls": ["10.0.0.7:8081"], "generation": 3, "revision": 9}"#;
        let replica: Replica = serde_json::from_str(told).unwrap();
        assert_eq!((replica.generation, replica.forms.len()), (3, 0));
        assert!(!serde_json::to_string(&replica).unwrap().contains("forms"));
    }
}
