//! The health of the source: written by the source, read by whoever tells people.

use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::names::Revision;

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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
