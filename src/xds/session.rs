//! One Envoy's side of an ADS stream, as values in, values out: what it is told, and what it answers.
//!
//! Both variants of the protocol share the order of types, make before break, and what is known of the Envoy; they
//! differ in what a request says ([`sotw`](super::sotw), [`delta`](super::delta)) and in how a response says it.
//!
//! Make before break (xDS rules 71 to 78):
//!
//! | | clusters, endpoints, secrets | extensions, runtime | listeners, routes |
//! |---|---|---|---|
//! | make | new and changed ones | all | all, once those clusters are acknowledged and have their endpoints and secrets |
//! | break | those that are gone, once no listener or route refers to them any more, and a while after | | |
//!
//! Listeners and routes wait for [`PATIENCE`] at most for each new or changed cluster, its endpoints and its secrets, and
//! for [`WAIT_MAX`] in a row: an Envoy that never answers is not kept from the rest, and that it did not answer to one
//! cluster makes no route go before the next. Only the break waits for as long as listeners or routes are refused: the
//! Envoy still uses the old ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::one_type::{Context, OneType};
use crate::clock::Timestamp;
use crate::names::{Version, secret};
use crate::nodes::{Protocol, Standing};
use crate::snapshot::per_type::PerType;
use crate::snapshot::resource::{Resource, ResourceType};
use crate::snapshot::{OfType, Resources};

/// The longest that listeners and routes wait for a cluster that they may refer to, from when it is sent; for its
/// endpoints and secrets too, which an Envoy itself does not wait for any longer (`initial_fetch_timeout`).
const PATIENCE: Duration = Duration::from_secs(15);
/// The longest that they wait in a row where clusters that never get ready follow each other. They are sent then, once.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The time that clusters stay after the last route to them is gone: enough for requests that were under way.
const DRAIN: Duration = Duration::from_secs(5);

/// The outcome of one request.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// The Envoy's answer to the last response of the type.
    pub(super) answer: Option<Answer>,
    /// News in that response.
    pub(super) answered: Vec<(Arc<str>, Version)>,
    /// True if it was an answer to an earlier response than the last.
    pub(super) is_stale: bool,
}

/// An ack or a nack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Acknowledged,
    /// With the Envoy's message.
    Refused(String),
}

impl Answer {
    /// An answer by its error, which is all that tells a nack from an ack (xDS rule 61).
    pub(super) fn of(error: Option<String>) -> Self {
        error.map_or(Self::Acknowledged, Self::Refused)
    }
}

/// A response of either variant.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) resource_type: ResourceType,
    /// Of all resources of the type.
    pub(super) version: Version,
    pub(super) resources: Vec<Arc<Resource>>,
    /// Names of those that are new to the Envoy, or changed.
    pub(super) changed: Vec<Arc<str>>,
    /// Delta only.
    pub(super) removed: Vec<Arc<str>>,
    /// Unique on the stream.
    pub(super) nonce: u64,
}

/// The state of one stream.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) protocol: Protocol,
    /// Most Envoys never ask for some of the types.
    types: PerType<Option<Box<OneType>>>,
    last_nonce: u64,
    /// The resources that the Envoy is to have, and the number of different such sets so far.
    wanted: Arc<Resources>,
    epoch: u64,
    /// Endpoints and secrets of new and changed clusters, without which these are not ready, and until when they are
    /// waited for.
    awaited: BTreeMap<(ResourceType, Arc<str>), Timestamp>,
    /// The clusters that are not acknowledged, and until when that is waited for.
    unacknowledged: Option<Unacknowledged>,
    /// Listeners and routes wait for clusters.
    wait: Option<Wait>,
    /// Clusters, endpoints and secrets that are to go.
    lost: BTreeMap<(ResourceType, Arc<str>), Lost>,
    drained_at: Option<Timestamp>,
}

/// Clusters of which the Envoy has not said yet that it takes them. Others have a time of their own.
#[derive(Clone, Copy, Debug)]
struct Unacknowledged {
    /// Of the response that is under way.
    nonce: u64,
    /// Of all that are wanted; those that changed since are sent after the answer.
    version: Version,
    until: Timestamp,
}

/// The wait of listeners and routes for clusters.
#[derive(Clone, Copy, Debug)]
struct Wait {
    since: Timestamp,
    until: Timestamp,
}

/// A cluster, its endpoints or a secret, on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    /// The epoch. Listeners and routes of this epoch, or a later one, do not refer to it.
    Since(u64),
    /// No listener or route refers to it any more.
    Draining(u64),
    Drained,
}

impl Session {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            types: PerType::default(),
            last_nonce: 0,
            wanted: Arc::default(),
            epoch: 0,
            awaited: BTreeMap::new(),
            unacknowledged: None,
            wait: None,
            lost: BTreeMap::new(),
            drained_at: None,
        }
    }

    /// The type, once it was requested.
    pub(super) fn get(&self, resource_type: ResourceType) -> Option<&OneType> {
        self.types[resource_type].as_deref()
    }

    /// The type, requested from now on, and the resources that it is to have.
    pub(super) fn request(&mut self, resource_type: ResourceType) -> (&mut OneType, &OfType) {
        (self.types[resource_type].get_or_insert_default(), self.wanted.of_type(resource_type))
    }

    /// Takes in an answer, with what follows from it for the other types.
    pub(super) fn on_answer(&mut self, resource_type: ResourceType, answer: &Answer) -> Vec<(Arc<str>, Version)> {
        let Some(one) = &mut self.types[resource_type] else { return Vec::new() };
        let resources = one.on_answer(resource_type, answer);
        // Nobody will ask for the endpoints and secrets of clusters that were refused.
        if resource_type == ResourceType::Cluster && matches!(answer, Answer::Refused(_)) {
            self.awaited.retain(|(of_type, awaited), _| {
                let cluster = cluster_of(*of_type, awaited);
                !resources.iter().any(|(name, _)| **name == *cluster)
            });
        }
        resources
    }

    pub(super) fn standing(&self) -> Standing {
        let is_any =
            |condition: fn(&OneType) -> bool| self.types.iter().any(|(_, one)| one.as_deref().is_some_and(condition));
        match (is_any(OneType::is_pending) || self.is_held_back(), is_any(OneType::is_refusing)) {
            (true, _) => Standing::Pending,
            (false, true) => Standing::Refusing,
            (false, false) => Standing::Live,
        }
    }

    /// True if there are listeners or routes that are sent once their clusters are ready.
    fn is_held_back(&self) -> bool {
        let is_outdated = |resource_type| {
            let one = self.get(resource_type);
            one.is_some_and(|one| !one.is_current(self.wanted.of_type(resource_type)))
        };
        self.wait.is_some() && ResourceType::ALL.into_iter().filter(|one| refers_to_clusters(*one)).any(is_outdated)
    }

    /// True if the Envoy has acknowledged all of these.
    pub(super) fn has_all(&self, resource_type: ResourceType, set: &OfType) -> bool {
        let Some(one) = self.get(resource_type) else { return false };
        !one.is_pending() && set.by_name.values().all(|resource| one.has(resource))
    }

    /// A nonce for a response that the session knows nothing of.
    pub(super) fn next_nonce(&mut self) -> u64 {
        self.last_nonce += 1;
        self.last_nonce
    }

    /// The time at which something has to be done without anything having happened.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        [self.wait.map(|wait| wait.until), self.drained_at].into_iter().flatten().min()
    }

    /// The responses that are to be sent now, in that order.
    pub(super) fn advance(&mut self, wanted: &Arc<Resources>, now: Timestamp) -> Vec<Outgoing> {
        if !Arc::ptr_eq(&self.wanted, wanted) {
            self.wanted = Arc::clone(wanted);
            self.epoch += 1;
        }
        if self.drained_at.is_some_and(|at| at <= now) {
            self.end_drain();
        }
        let mut responses = self.send_all(now, |resource_type| !refers_to_clusters(resource_type));
        self.wait_for_clusters(now);
        if self.wait.is_none() {
            responses.extend(self.send_all(now, refers_to_clusters));
        }
        self.begin_drain(now);
        responses
    }

    fn send_all(&mut self, now: Timestamp, is_due: impl Fn(ResourceType) -> bool) -> Vec<Outgoing> {
        let due = ResourceType::ALL.into_iter().filter(|resource_type| is_due(*resource_type));
        due.filter_map(|resource_type| self.send(resource_type, now)).collect()
    }

    fn send(&mut self, resource_type: ResourceType, now: Timestamp) -> Option<Outgoing> {
        let wanted = Arc::clone(&self.wanted);
        let lost = &self.lost;
        let is_drained = |name: &str| lost.get(&(resource_type, name.into())) == Some(&Lost::Drained);
        let context = Context {
            protocol: self.protocol,
            resource_type,
            epoch: self.epoch,
            nonce: self.last_nonce + 1,
            may_remove: &|name| !is_referred_to(resource_type) || is_drained(name),
        };
        let one = self.types[resource_type].as_mut()?;
        let response = one.update(wanted.of_type(resource_type), &context);
        self.note_lost(resource_type);
        let response = response?;
        self.last_nonce += 1;
        if resource_type == ResourceType::Cluster {
            self.await_parts(&response.changed, now + PATIENCE);
        }
        Some(response)
    }

    /// A changed cluster stays warming until it gets its endpoints, even if these did not change (xDS rule 74), and its
    /// secrets, if it has not got them.
    fn await_parts(&mut self, clusters: &[Arc<str>], until: Timestamp) {
        for cluster in clusters {
            let secrets = [secret::authority_of_service(cluster), secret::identity_of_service(cluster)];
            let secrets = secrets.into_iter().map(|name| (ResourceType::Secret, Arc::from(name)));
            let parts = std::iter::once((ResourceType::Endpoint, Arc::clone(cluster))).chain(secrets);
            let wanted = &self.wanted;
            let parts = parts.filter(|(of_type, name)| wanted.of_type(*of_type).by_name.contains_key(name));
            self.awaited.extend(parts.map(|part| (part, until)));
            if let Some(one) = &mut self.types[ResourceType::Endpoint]
                && self.wanted.of_type(ResourceType::Endpoint).by_name.contains_key(cluster)
            {
                one.owe(cluster);
            }
        }
    }

    /// Begins, goes on with or ends the wait of listeners and routes.
    fn wait_for_clusters(&mut self, now: Timestamp) {
        self.forget_answered();
        self.time_unacknowledged(now);
        let unacknowledged = self.unacknowledged.map(|clusters| clusters.until);
        let last = self.awaited.values().copied().chain(unacknowledged).max();
        let since = self.wait.map_or(now, |wait| wait.since);
        let until = last.map(|last| last.min(since + WAIT_MAX));
        self.wait = until.filter(|until| *until > now).map(|until| Wait { since, until });
    }

    fn forget_answered(&mut self) {
        let (wanted, types) = (&self.wanted, &self.types);
        self.awaited.retain(|(of_type, name), _| {
            let Some(resource) = wanted.of_type(*of_type).by_name.get(name) else { return false };
            !types[*of_type].as_ref().is_some_and(|one| one.has_answered(resource))
        });
    }

    /// Gives the clusters of each response their time, and those that can only follow it.
    fn time_unacknowledged(&mut self, now: Timestamp) {
        let pending = self.get(ResourceType::Cluster).filter(|one| one.is_pending());
        let Some(nonce) = pending.map(|one| one.nonce) else {
            self.unacknowledged = None;
            return;
        };
        let version = self.wanted.of_type(ResourceType::Cluster).version;
        let known = self.unacknowledged.filter(|known| known.nonce == nonce && known.version == version);
        self.unacknowledged = Some(known.unwrap_or(Unacknowledged { nonce, version, until: now + PATIENCE }));
    }

    /// Keeps the list of what is to go in step with what the Envoy has.
    fn note_lost(&mut self, resource_type: ResourceType) {
        let Some(one) = self.types[resource_type].as_deref() else { return };
        if !is_referred_to(resource_type) {
            return;
        }
        let lingering: BTreeSet<_> = one.lingering(self.wanted.of_type(resource_type)).cloned().collect();
        self.lost.retain(|(lost, name), _| *lost != resource_type || lingering.contains(name));
        for name in lingering {
            self.lost.entry((resource_type, name)).or_insert(Lost::Since(self.epoch));
        }
    }

    /// The epoch that the Envoy's listeners and routes are of. Those that it never asked for refer to nothing.
    fn taken_epoch(&self) -> u64 {
        let taken = |resource_type| self.get(resource_type).map_or(u64::MAX, |one| one.taken_epoch);
        taken(ResourceType::Listener).min(taken(ResourceType::Route))
    }

    /// Lets go in a while what nothing refers to any more.
    fn begin_drain(&mut self, now: Timestamp) {
        if self.drained_at.is_some() {
            return;
        }
        let taken = self.taken_epoch();
        for lost in self.lost.values_mut() {
            if let Lost::Since(epoch) = *lost
                && epoch <= taken
            {
                *lost = Lost::Draining(epoch);
                self.drained_at = Some(now + DRAIN);
            }
        }
    }

    fn end_drain(&mut self) {
        self.drained_at = None;
        let taken = self.taken_epoch();
        for lost in self.lost.values_mut() {
            if let Lost::Draining(epoch) = *lost {
                // A listener may have come meanwhile.
                *lost = if epoch <= taken { Lost::Drained } else { Lost::Since(epoch) };
            }
        }
    }
}

/// True if listeners and routes refer to the type, or clusters that they refer to.
fn is_referred_to(resource_type: ResourceType) -> bool {
    matches!(resource_type, ResourceType::Cluster | ResourceType::Endpoint | ResourceType::Secret)
}

/// The cluster that has these endpoints or this secret.
fn cluster_of(of_type: ResourceType, name: &str) -> &str {
    match of_type {
        ResourceType::Secret => secret::service_of(name).unwrap_or(name),
        _ => name,
    }
}

/// True if the type refers to clusters.
fn refers_to_clusters(resource_type: ResourceType) -> bool {
    matches!(resource_type, ResourceType::Listener | ResourceType::Route)
}
