//! What etcd holds below the prefix, as far as it was told: a listing, and the events after it. Pure.
//!
//! Versions of etcd lose events, repeat them, deliver old ones and leave deletions out (etcd's CHANGELOG-3.4, 3.4.24 to
//! 3.4.38). So an event counts only if it is newer than everything applied before, and what the listings of every half
//! minute hold has to be found here too.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::fleet::Fleet;
use super::registry::Registry;
use super::required::Required;
use crate::bulk::{BLOBS, Change, MANIFEST, Manifest, Unreadable, unpack};
use crate::clock::Timestamp;
use crate::document::{Document, Documents, Instance, Instances, Origin, requirements};
use crate::etcd::events::Event;
use crate::etcd::listing::Entry;
use crate::etcd::{Section, root};
use crate::names::{DocumentId, Kind, Revision};
use crate::shared_map::SharedMap;
use crate::shown;
use crate::source::board::Replica;

#[derive(Debug)]
pub(super) struct Mirror {
    /// The beginning of all keys. What `requires` names, the manifest and the blobs stand right below it.
    root: String,
    policies: String,
    services: String,
    servers: String,
    documents: SharedMap<Origin, Arc<Document>>,
    required: Required,
    registry: Registry,
    /// Replicas of Tierflow, each with the revision that it told that at.
    replicas: BTreeMap<Arc<str>, (Replica, u64)>,
    fleet: Fleet,
    /// Parts of large changes, by their keys below the prefix.
    blobs: BTreeMap<Arc<str>, (Vec<u8>, u64)>,
    /// The large change that counts, and since when. One that cannot be read is a key that is there all the same.
    manifest: Option<(Result<Manifest, Unreadable>, u64)>,
    /// Why the large change counts for nobody.
    unreadable: Option<Unreadable>,
    /// Documents that are as the manifest says, and not yet as their keys say.
    overlaid: HashSet<Origin>,
    /// The instances that were handed over last.
    instances: Instances,
    /// Events up to this one are applied.
    revision: u64,
    /// Keys that events deleted since the last listing began, and when: a listing that is older has them still.
    deleted: HashMap<Place, u64>,
}

/// A key below the prefix, by what stands there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    Document(Origin),
    Instance { service: Arc<str>, name: Arc<str> },
    Server(Arc<str>),
    Blob(Arc<str>),
    Manifest,
}

/// The keys at a revision, and when each was changed last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) revision: u64,
    pub(super) keys: Vec<(Vec<u8>, u64)>,
}

/// The outcome of a batch of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Applied {
    /// True where documents or instances changed.
    pub(super) is_changed: bool,
    pub(super) has_other_replicas: bool,
    /// A large change was taken away or replaced before it was in place: nobody knows here what was before it.
    pub(super) is_torn: bool,
    /// Events that were applied before, or that a later one had overtaken.
    pub(super) old: u64,
}

impl Applied {
    fn count(&mut self, place: &Place) {
        match place {
            Place::Document(_) | Place::Instance { .. } => self.is_changed = true,
            Place::Server(_) => self.has_other_replicas = true,
            Place::Blob(_) => {}
            Place::Manifest => self.is_changed = true,
        }
    }
}

impl Mirror {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            root: root(prefix),
            policies: Section::Policies.prefix(prefix),
            services: Section::Services.prefix(prefix),
            servers: Section::Servers.prefix(prefix),
            documents: SharedMap::default(),
            required: Required::default(),
            registry: Registry::default(),
            replicas: BTreeMap::new(),
            fleet: Fleet::default(),
            blobs: BTreeMap::new(),
            manifest: None,
            unreadable: None,
            overlaid: HashSet::new(),
            instances: Instances::default(),
            revision: 0,
            deleted: HashMap::new(),
        }
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Everything, with the instances that may take traffic now and the replicas that may be asked for decisions.
    pub(super) fn documents(&mut self, now: Timestamp) -> Documents {
        self.refresh(now);
        Documents {
            revision: Revision(self.revision),
            documents: self.documents.clone(),
            instances: Some(self.instances.clone()),
            limiters: Arc::clone(self.fleet.addresses()),
        }
    }

    /// Takes the instances and replicas that may be asked now. True if they are others than were handed over last.
    pub(super) fn refresh(&mut self, now: Timestamp) -> bool {
        let is_changed = self.fleet.refresh(now);
        self.refresh_instances(now) || is_changed
    }

    fn refresh_instances(&mut self, now: Timestamp) -> bool {
        let ready = self.registry.ready(now);
        let gone: Vec<_> = self.instances.keys().filter(|service| !ready.contains_key(*service)).cloned().collect();
        let is_known =
            |(service, ready): &(_, Vec<Instance>)| self.instances.get(service).is_some_and(|known| **known == **ready);
        let changed: Vec<_> = ready.into_iter().filter(|of_service| !is_known(of_service)).collect();
        let is_changed = !gone.is_empty() || !changed.is_empty();
        gone.iter().for_each(|service| drop(self.instances.remove(service)));
        self.instances.extend(changed.into_iter().map(|(service, ready)| (service, ready.into())));
        is_changed
    }

    /// The next time that other instances or replicas may be asked.
    pub(super) fn next_ready(&self, now: Timestamp) -> Option<Timestamp> {
        self.registry.next_ready(now).into_iter().chain(self.fleet.next(now)).min()
    }

    fn take_replicas(&mut self, now: Timestamp) {
        let announced = self.replicas.values().flat_map(|(replica, _)| &replica.rls);
        self.fleet.take(announced.map(String::as_str), now);
    }

    pub(super) fn replicas(&self) -> Vec<Replica> {
        self.replicas.values().map(|(replica, _)| replica.clone()).collect()
    }

    /// Values of instances that make no sense, as `key: why`.
    pub(super) fn strange_instances(&self) -> Vec<String> {
        let strange = self.registry.strange();
        let place = |service, name| format!("{}{service}/{name}", self.services);
        strange
            .map(|(service, name, why)| format!("{}: {why}", shown::bounded(&shown::text(&place(service, name)))))
            .collect()
    }

    /// A large change that cannot be read, as `key, its revision: why`.
    pub(super) fn unreadable_change(&self) -> Option<String> {
        let (_, revision) = self.manifest.as_ref()?;
        let why = self.unreadable.as_ref()?;
        Some(format!("{}{MANIFEST}, revision {revision}: {why}", self.root))
    }

    /// Takes everything from a listing with values. What did not change stays what it is. After an outage, instances
    /// that are missing are waited for.
    pub(super) fn replace(&mut self, revision: u64, entries: Vec<Entry>, is_after_outage: bool, now: Timestamp) {
        let mut gone: HashSet<Place> = self.places().collect();
        for Entry { key, value, revision, .. } in entries {
            let Some(place) = self.place(&key) else { continue };
            self.put(&place, value, revision, now);
            gone.remove(&place);
        }
        for place in gone {
            match &place {
                Place::Instance { service, name } if is_after_outage => self.registry.miss(service, name, now),
                _ => {
                    self.remove(&place, now);
                }
            }
        }
        self.take_replicas(now);
        self.overlay(now);
        self.required.mark_all();
        self.deleted.clear();
        self.revision = revision;
    }

    /// Takes what happened. Events of one revision come in one batch.
    pub(super) fn apply(&mut self, events: Vec<Event>, now: Timestamp) -> Applied {
        let mut applied = Applied::default();
        let before = self.revision;
        for Event { key, value, revision } in events {
            if revision <= before {
                applied.old += 1;
                continue;
            }
            self.revision = self.revision.max(revision);
            self.mark_required(&key);
            let Some(place) = self.place(&key) else { continue };
            applied.is_torn |= place == Place::Manifest && !self.overlaid.is_empty();
            match value {
                Some(value) => {
                    self.put(&place, value, revision, now);
                    self.deleted.remove(&place);
                    applied.count(&place);
                    if place == Place::Manifest {
                        self.overlay(now);
                    }
                }
                None => {
                    if self.remove(&place, now) {
                        applied.count(&place);
                    }
                    self.deleted.insert(place, revision);
                }
            }
        }
        if applied.has_other_replicas {
            self.take_replicas(now);
            applied.is_changed |= self.fleet.refresh(now);
        }
        applied
    }

    /// A listing is about to be made.
    pub(super) fn expect_listing(&mut self) {
        self.deleted.clear();
    }

    /// Counts the keys of which the listing tells something else than events did: they have not come yet, or never will.
    pub(super) fn differences(&self, listing: &Listing) -> usize {
        let listed = listing.keys.iter().filter_map(|(key, revision)| Some((self.place(key)?, *revision)));
        let listed: HashMap<Place, u64> = listed.collect();
        let is_missed = |(place, revision): &(&Place, &u64)| {
            let known = self.revision_of(place).max(self.deleted.get(place).copied());
            known.is_none_or(|known| known < **revision)
        };
        let is_left_over = |place: &Place| {
            !listed.contains_key(place) && self.revision_of(place).is_none_or(|known| known <= listing.revision)
        };
        let is_overlaid = |place: &Place| matches!(place, Place::Document(origin) if self.overlaid.contains(origin));
        let missed = listed.iter().filter(|(place, _)| !is_overlaid(place)).filter(is_missed).count();
        missed + self.places().filter(|place| !is_overlaid(place)).filter(is_left_over).count()
    }

    fn put(&mut self, place: &Place, value: Vec<u8>, revision: u64, now: Timestamp) {
        match place {
            Place::Instance { service, name } => self.registry.put(service, name, &value, revision, now),
            Place::Server(id) => {
                let replica = serde_json::from_slice(&value);
                let replica = replica.unwrap_or_else(|_| Replica { id: id.to_string(), ..Default::default() });
                self.replicas.insert(Arc::clone(id), (replica, revision));
            }
            Place::Blob(key) => drop(self.blobs.insert(Arc::clone(key), (value, revision))),
            Place::Manifest => self.manifest = Some((Manifest::parse(&value), revision)),
            Place::Document(origin) => {
                self.overlaid.remove(origin);
                let requirements = requirements(&value);
                let document = Arc::new(self.document(origin, value, revision));
                if requirements.is_empty() {
                    self.required.remove(origin);
                    self.put_document(document);
                } else {
                    // It waits until what it requires was looked at.
                    self.required.put(document, requirements);
                }
            }
        }
    }

    /// Leaves a document that did not change as it is, so that it is seen not to have changed. True if it changed.
    fn put_document(&mut self, document: Arc<Document>) -> bool {
        let is_changed = self.documents.get(&document.origin).is_none_or(|known| *known != document);
        if is_changed {
            self.documents.insert(document.origin.clone(), document);
        }
        is_changed
    }

    /// Overlays documents whose keys are older than the manifest with what it says of them.
    fn overlay(&mut self, now: Timestamp) {
        self.overlaid.clear();
        self.unreadable = None;
        let Some((manifest, revision)) = self.manifest.clone() else { return };
        let blob = |key: &str| self.blobs.get(key).map(|(blob, _)| blob.as_slice());
        let changes = match manifest.and_then(|manifest| unpack(&manifest, blob)) {
            Ok(changes) => changes,
            Err(unreadable) => {
                self.unreadable = Some(unreadable);
                return;
            }
        };
        for Change { id, content } in changes {
            let origin = Origin::Key { key: format!("{}{}/{}", self.policies, id.kind, id.name).into(), id: Some(id) };
            let place = Place::Document(origin.clone());
            if self.revision_of(&place).is_some_and(|known| known > revision) {
                continue;
            }
            match content {
                Some(content) => self.put(&place, content.to_vec(), revision, now),
                None => {
                    self.remove(&place, now);
                }
            }
            self.overlaid.insert(origin);
        }
    }

    fn mark_required(&mut self, key: &[u8]) {
        if let Some(key) = String::from_utf8_lossy(key).strip_prefix(&self.root) {
            self.required.mark(key);
        }
    }

    /// A document whose requirements have to be looked at, with the keys to read: its own, then those.
    pub(super) fn next_unresolved(&self) -> Option<(Origin, Vec<String>)> {
        let root = &self.root;
        let (origin, keys) = self.required.next()?;
        let own = origin.container().to_string();
        let keys = std::iter::once(own).chain(keys.iter().map(|key| format!("{root}{key}"))).collect();
        Some((origin, keys))
    }

    /// Takes what was read. True if the document changed.
    pub(super) fn resolve(&mut self, origin: &Origin, entries: &[Option<Entry>]) -> bool {
        let (own, keys) = entries.split_first().map_or((None, entries), |(own, keys)| (own.as_ref(), keys));
        let is_overlaid = self.overlaid.contains(origin);
        let resolved = self.required.resolve(origin, (own, is_overlaid), keys);
        resolved.is_some_and(|document| self.put_document(Arc::new(document)))
    }

    fn remove(&mut self, place: &Place, now: Timestamp) -> bool {
        match place {
            Place::Instance { service, name } => self.registry.remove(service, name, now),
            Place::Server(id) => self.replicas.remove(id).is_some(),
            Place::Blob(key) => self.blobs.remove(key).is_some(),
            Place::Manifest => self.manifest.take().is_some(),
            Place::Document(origin) => {
                self.overlaid.remove(origin);
                self.required.remove(origin);
                self.documents.remove(origin).is_some()
            }
        }
    }

    /// The revision that the key was changed at last, as far as it was told.
    fn revision_of(&self, place: &Place) -> Option<u64> {
        match place {
            Place::Instance { service, name } => self.registry.revision(service, name),
            Place::Server(id) => self.replicas.get(id).map(|(_, revision)| *revision),
            Place::Blob(key) => self.blobs.get(key).map(|(_, revision)| *revision),
            Place::Manifest => self.manifest.as_ref().map(|(_, revision)| *revision),
            Place::Document(origin) => self.documents.get(origin)?.revision.map(|revision| revision.0),
        }
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        let documents = self.documents.keys().cloned().map(Place::Document);
        let instances = self.registry.names();
        let instances =
            instances.map(|(service, name)| Place::Instance { service: Arc::clone(service), name: Arc::clone(name) });
        let replicas = self.replicas.keys().cloned().map(Place::Server);
        let blobs = self.blobs.keys().cloned().map(Place::Blob);
        let manifest = self.manifest.iter().map(|_| Place::Manifest);
        documents.chain(instances).chain(replicas).chain(blobs).chain(manifest)
    }

    fn place(&self, key: &[u8]) -> Option<Place> {
        let text = String::from_utf8_lossy(key);
        if let Some(rest) = text.strip_prefix(self.services.as_str()) {
            let (service, name) = rest.split_once('/')?;
            return Some(Place::Instance { service: service.into(), name: name.into() });
        }
        if let Some(id) = text.strip_prefix(self.servers.as_str()) {
            return Some(Place::Server(id.into()));
        }
        if let Some(below) = text.strip_prefix(&self.root)
            && (below.starts_with(BLOBS) || below == MANIFEST)
        {
            return Some(if below == MANIFEST { Place::Manifest } else { Place::Blob(below.into()) });
        }
        text.starts_with(&self.policies).then(|| Place::Document(self.origin(&text)))
    }

    fn document(&self, origin: &Origin, value: Vec<u8>, revision: u64) -> Document {
        let content = match origin.id() {
            Some(_) => Ok(value.into()),
            None => Err(format!("is no key of a document: expected {}<Kind>/<name>", self.policies).into()),
        };
        Document { origin: origin.clone(), revision: Some(Revision(revision)), content }
    }

    fn origin(&self, key: &str) -> Origin {
        let id = key.strip_prefix(self.policies.as_str()).and_then(|rest| {
            let (kind, name) = rest.split_once('/')?;
            let is_name = (1..=shown::TEXT_BYTES_MAX).contains(&name.len());
            Kind::parse(kind).filter(|_| is_name).map(|kind| DocumentId::new(kind, name))
        });
        Origin::Key { key: key.into(), id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str, revision: u64) -> Event {
        Event { key: key.into(), value: Some(value.into()), revision }
    }

    fn delete(key: &str, revision: u64) -> Event {
        Event { key: key.into(), value: None, revision }
    }

    fn entry(key: &str, value: &str, revision: u64) -> Entry {
        Entry { key: key.into(), value: value.into(), revision, create_revision: revision, version: 1 }
    }

    fn listing(revision: u64, keys: &[(&str, u64)]) -> Listing {
        Listing { revision, keys: keys.iter().map(|(key, revision)| (key.as_bytes().to_vec(), *revision)).collect() }
    }

    const NOW: Timestamp = Timestamp::from_nanos(1);
    const A: &str = "/t/policies/Api/a";
    const B: &str = "/t/policies/Tenant/b/c d";

    /// `key=value@revision` of everything.
    fn held(mirror: &Mirror) -> Vec<String> {
        let show = |document: &Arc<Document>| {
            let content = document.content.as_ref().map(|content| String::from_utf8_lossy(content).into_owned());
            let content = content.unwrap_or_else(|reason| reason.to_string());
            let key = document.origin.to_string().replace("/t/policies/", "");
            format!("{key}={content}@{}", document.revision.unwrap())
        };
        let mut held: Vec<_> = mirror.documents.values().map(show).collect();
        held.sort();
        held
    }

    fn mirror() -> Mirror {
        let mut mirror = Mirror::new("/t");
        mirror.replace(10, vec![entry(A, "1", 4), entry(B, "1", 9)], false, NOW);
        mirror
    }

    #[test]
    fn events_after_a_listing_are_applied_in_order() {
        let mut mirror = mirror();
        let applied = mirror.apply(vec![put(A, "2", 11), delete(B, 11), put(A, "3", 12)], NOW);
        assert_eq!((applied, mirror.revision()), (Applied { is_changed: true, ..Default::default() }, 12));
        assert_eq!(held(&mirror), ["Api/a=3@12"]);
    }

    #[test]
    fn old_and_repeated_events_change_nothing() {
        let mut mirror = mirror();
        mirror.apply(vec![delete(B, 11)], NOW);
        let applied = mirror.apply(vec![put(B, "1", 9), put(A, "0", 4), delete(B, 11)], NOW);
        assert_eq!((applied, mirror.revision()), (Applied { old: 3, ..Default::default() }, 11));
        assert_eq!(held(&mirror), ["Api/a=1@4"]);
    }

    #[test]
    fn a_name_may_hold_slashes_and_spaces_and_other_keys_are_told() {
        let mut mirror = mirror();
        assert_eq!(mirror.origin(B).id().unwrap().to_string(), "Tenant b/c d");
        for strange in ["/t/policies/Thing/x", "/t/policies/Api/", "/t/policies/x"] {
            assert_eq!(mirror.origin(strange).id(), None, "{strange}");
        }
        for other in ["/other/policies/Api/x", "/t/else", "/t/services/x"] {
            assert_eq!(mirror.place(other.as_bytes()), None, "{other}");
        }
        mirror.apply(vec![put("/t/policies/x", "kind: Api", 11)], NOW);
        assert!(held(&mirror).contains(&"x=is no key of a document: expected /t/policies/<Kind>/<name>@11".to_owned()));
    }

    #[test]
    fn a_listing_shows_what_events_left_out() {
        let mut mirror = mirror();
        assert_eq!(mirror.differences(&listing(10, &[(A, 4), (B, 9)])), 0);
        assert_eq!(mirror.differences(&listing(12, &[(A, 4), (B, 12)])), 1, "a change");
        assert_eq!(mirror.differences(&listing(12, &[(A, 4)])), 1, "a deletion");
        assert_eq!(mirror.differences(&listing(12, &[(A, 4), (B, 9), ("/t/policies/Api/n", 12)])), 1, "a new key");
        mirror.replace(12, vec![entry(A, "1", 4)], false, NOW);
        assert_eq!(held(&mirror), ["Api/a=1@4"]);
    }

    #[test]
    fn what_happened_after_a_listing_was_made_is_no_difference() {
        let mut mirror = mirror();
        mirror.expect_listing();
        let made_at_10 = listing(10, &[(A, 4), (B, 9)]);
        mirror.apply(vec![put(A, "2", 11), delete(B, 12), put("/t/policies/Api/n", "1", 13)], NOW);
        assert_eq!(mirror.differences(&made_at_10), 0);
    }

    #[test]
    fn a_prefix_may_be_called_as_its_sections_are() {
        for (prefix, root) in [
            ("/my-policies", "/my-policies/"),
            ("/my-policies/", "/my-policies/"),
            ("/policies", "/policies/"),
            ("/policies/policies", "/policies/policies/"),
            ("/policies/policies/", "/policies/policies/"),
            ("/manifest/blobs", "/manifest/blobs/"),
        ] {
            let key = |below: &str| format!("{root}{below}");
            let mut mirror = Mirror::new(prefix);
            let requiring = "requires: [{key: policies/Service/s, revision: 3}]";
            mirror.replace(10, vec![entry(&key("policies/Plan/p"), requiring, 4)], false, NOW);
            let required = mirror.next_unresolved().map(|(_, keys)| keys);
            assert_eq!(required, Some(vec![key("policies/Plan/p"), key("policies/Service/s")]), "{prefix}");
            // The key that is required is known by its event.
            let plan = entry(&key("policies/Plan/p"), requiring, 4);
            let service = entry(&key("policies/Service/s"), "1", 3);
            let (origin, _) = mirror.next_unresolved().unwrap();
            assert!(mirror.resolve(&origin, &[Some(plan), Some(service)]));
            mirror.apply(vec![put(&key("policies/Service/s"), "2", 11)], NOW);
            assert!(mirror.next_unresolved().is_some(), "{prefix}");

            let id = DocumentId::new(Kind::Api, "a");
            let change = Change { id, content: Some(b"large".as_slice().into()) };
            let (blobs, manifest) = crate::bulk::pack(&[change], "1");
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            mirror.apply(vec![put(&key(&blobs[0].0), &text(&blobs[0].1), 12)], NOW);
            mirror.apply(vec![put(&key(MANIFEST), &serde_json::to_string(&manifest).unwrap(), 13)], NOW);
            let documents = mirror.documents(NOW).documents;
            let large = documents.values().find(|document| document.origin.container().ends_with("/Api/a")).unwrap();
            assert_eq!(**large.origin.container(), *key("policies/Api/a"));
            assert_eq!((large.content.as_deref(), large.revision), (Ok(&b"large"[..]), Some(Revision(13))), "{prefix}");
        }
    }

    #[test]
    fn a_large_change_that_cannot_be_read_is_told_and_is_no_difference() {
        let manifest = "/t/manifest";
        let nameless = r#"{"blobs": ["blobs/1/0000"], "xxh3_128": ""}"#;
        for (value, why) in [("nonsense", "the manifest is none: "), (nameless, "blobs/1/0000 is not there")] {
            let mut mirror = mirror();
            mirror.apply(vec![put(manifest, value, 11)], NOW);
            let told = mirror.unreadable_change().unwrap();
            assert!(told.starts_with(&format!("{manifest}, revision 11: {why}")), "{told}");
            assert_eq!(mirror.differences(&listing(11, &[(A, 4), (B, 9), (manifest, 11)])), 0, "{value}");
            assert_eq!(held(&mirror), ["Api/a=1@4", "Tenant/b/c d=1@9"]);
            assert!(!mirror.apply(vec![delete(manifest, 12)], NOW).is_torn);
            assert_eq!(mirror.unreadable_change(), None);
        }
    }

    #[test]
    fn a_document_of_a_large_change_may_require_keys() {
        let mut mirror = mirror();
        let text = "requires: [{key: servers/me, create_revision: 3}]";
        let change = Change { id: DocumentId::new(Kind::Api, "a"), content: Some(text.as_bytes().into()) };
        let (blobs, manifest) = crate::bulk::pack(&[change], "1");
        let blob = String::from_utf8(blobs[0].1.clone()).unwrap();
        let manifest = serde_json::to_string(&manifest).unwrap();
        mirror.apply(vec![put("/t/blobs/1/0000", &blob, 11), put("/t/manifest", &manifest, 11)], NOW);
        let (origin, keys) = mirror.next_unresolved().unwrap();
        assert_eq!(keys, [A, "/t/servers/me"]);
        // Its own key is what it was before.
        assert!(mirror.resolve(&origin, &[Some(entry(A, "1", 4)), Some(entry("/t/servers/me", "", 3))]));
        assert_eq!(held(&mirror), [format!("Api/a={text}@11"), "Tenant/b/c d=1@9".to_owned()]);
        // It was changed after that, which is told soon.
        mirror.required.mark_all();
        assert!(!mirror.resolve(&origin, &[Some(entry(A, "2", 12)), Some(entry("/t/servers/me", "", 3))]));
    }

    #[test]
    fn a_large_change_that_another_one_replaces_was_torn() {
        let mut mirror = mirror();
        let change = Change { id: DocumentId::new(Kind::Api, "a"), content: Some(b"large".as_slice().into()) };
        let (blobs, manifest) = crate::bulk::pack(&[change], "1");
        let manifest = serde_json::to_string(&manifest).unwrap();
        let blob = String::from_utf8(blobs[0].1.clone()).unwrap();
        // Both in one transaction, as they are committed.
        let events = vec![put("/t/blobs/1/0000", &blob, 11), put("/t/manifest", &manifest, 11)];
        assert!(!mirror.apply(events, NOW).is_torn);
        assert_eq!(held(&mirror), ["Api/a=large@11", "Tenant/b/c d=1@9"]);
        assert!(mirror.apply(vec![put("/t/manifest", "nonsense", 12)], NOW).is_torn);
    }

    #[test]
    fn a_store_that_was_set_back_is_taken_as_it_is() {
        let mut mirror = mirror();
        mirror.replace(5, vec![entry(A, "other", 4)], false, NOW);
        assert_eq!((held(&mirror), mirror.revision()), (vec!["Api/a=other@4".to_owned()], 5));
    }

    #[test]
    fn instances_are_found_as_documents_are() {
        let mut mirror = mirror();
        let key = "/t/services/order/a:1";
        let at = |mirror: &mut Mirror| {
            let instances = mirror.documents(NOW).instances.unwrap();
            instances.get("order").map_or(0, |instances| instances.len())
        };
        assert!(mirror.apply(vec![put(key, "10.0.0.7:80", 11)], NOW).is_changed);
        assert_eq!(at(&mut mirror), 1);
        assert_eq!(mirror.differences(&listing(11, &[(A, 4), (B, 9)])), 1, "its end was not told");
        assert_eq!(mirror.differences(&listing(11, &[(A, 4), (B, 9), (key, 11)])), 0);
        mirror.apply(vec![put("/t/services/order/b", "nonsense", 12)], NOW);
        assert_eq!(mirror.strange_instances().len(), 1);
        mirror.replace(13, vec![entry(A, "1", 4)], false, NOW);
        assert_eq!(at(&mut mirror), 0);
    }
}
