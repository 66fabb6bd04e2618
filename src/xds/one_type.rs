//! What a session knows of one type of resources, and what has to be said next.
//!
//! At most one response is neither acknowledged nor refused. Newer state waits as a comparison to be made, not as a
//! queue, so a slow Envoy misses steps in between and never the last one (xDS rule 88).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::known::{Has, Known};
use super::session::{Answer, Outgoing};
use super::subscription::Subscription;
use crate::names::Version;
use crate::nodes::Protocol;
use crate::snapshot::OfType;
use crate::snapshot::resource::{Resource, ResourceType};

/// The state of one type.
#[derive(Debug, Default)]
pub(super) struct OneType {
    pub(super) subscription: Subscription,
    pub(super) known: Known,
    /// Names that have to be sent even if nothing changed: the Envoy asked for them, so it may have forgotten, or needs
    /// them again.
    pub(super) owed: BTreeSet<Arc<str>>,
    /// Of the last response; 0 before the first.
    pub(super) nonce: u64,
    /// The last response, until it is acknowledged or refused.
    under_way: Option<UnderWay>,
    /// Names that this Envoy refused: not sent again until they change (xDS rule 62).
    parked: BTreeMap<Arc<str>, Parked>,
    /// Something that was refused is gone: what was refused with it may be taken now.
    is_mended: bool,
    /// The state of everything that the Envoy has taken over, as [`Session`](super::session::Session) counts.
    pub(super) taken_epoch: u64,
}

/// A response without its acknowledgement or refusal.
#[derive(Debug)]
struct UnderWay {
    epoch: u64,
    /// News in it, with what the Envoy had before.
    changes: Vec<Change>,
}

#[derive(Debug)]
struct Change {
    name: Arc<str>,
    before: Option<Has>,
    /// True where that is not certain.
    is_doubtful: bool,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Content(Version),
    Removal,
    /// Something that nobody wants any more.
    Past,
}

#[derive(Debug)]
struct Parked {
    what: What,
    /// Of a response with several changes the Envoy may have taken a part. So nobody knows what it has, and it is sent
    /// again with the next change, but not before (xDS rule 50).
    is_doubtful: bool,
}

/// Circumstances of an update, besides the type itself.
pub(super) struct Context<'a> {
    pub(super) protocol: Protocol,
    pub(super) resource_type: ResourceType,
    pub(super) epoch: u64,
    pub(super) nonce: u64,
    /// Tells whether a name that is gone may be taken away already.
    pub(super) may_remove: &'a dyn Fn(&str) -> bool,
}

impl Context<'_> {
    /// True if a response is everything that is wanted, and what is absent in it is deleted (xDS rule 21).
    fn is_whole(&self) -> bool {
        self.protocol == Protocol::StateOfTheWorld && self.resource_type.has_wildcard()
    }

    /// True if the Envoy is told that something is gone: by a list, or by absence.
    fn tells_removed(&self) -> bool {
        self.is_whole() || (self.protocol == Protocol::Delta && self.resource_type.is_removed())
    }
}

/// The difference between the resources that the Envoy has and those that it is to have.
#[derive(Default)]
struct Difference {
    /// Resources that are reason enough for a response...
    due: Vec<Arc<Resource>>,
    removed: Vec<Arc<str>>,
    /// ...and those that are sent along then.
    along: Vec<Arc<Resource>>,
    removed_along: Vec<Arc<str>>,
    /// Resources that the Envoy keeps although it is to have others.
    kept: BTreeMap<Arc<str>, Option<Has>>,
}

impl OneType {
    pub(super) fn is_pending(&self) -> bool {
        self.under_way.is_some()
    }

    pub(super) fn is_refusing(&self) -> bool {
        self.parked.values().any(|parked| parked.what != What::Past)
    }

    /// True if the Envoy has, or was sent, all of these, and asks for nothing again.
    pub(super) fn is_current(&self, wanted: &OfType) -> bool {
        self.owed.is_empty() && self.known.is_all_of(wanted)
    }

    /// True if the Envoy has acknowledged or refused the newest content of the name.
    pub(super) fn has_answered(&self, resource: &Resource) -> bool {
        let is_parked = self.parked.contains_key(&resource.name);
        !self.is_pending() && (is_parked || (self.has(resource) && !self.owed.contains(&resource.name)))
    }

    /// True if the Envoy has it, unless it refuses what is under way.
    pub(super) fn has(&self, resource: &Resource) -> bool {
        self.known.get(&resource.name, &self.subscription).is_some_and(|has| has.is(resource.version))
    }

    /// Names that are known to be there although they are to go.
    pub(super) fn lingering<'a>(&'a self, wanted: &'a OfType) -> impl Iterator<Item = &'a Arc<str>> {
        self.known.exceptions().filter(|name| !wanted.by_name.contains_key(&***name))
    }

    /// Makes the resource due again, whether it changes or not.
    pub(super) fn owe(&mut self, name: &Arc<str>) {
        if self.subscription.wants(name) {
            self.owed.insert(Arc::clone(name));
        }
    }

    /// The Envoy forgets what it unsubscribes from, also that it refused it.
    pub(super) fn forget_unsubscribed(&mut self) {
        self.known.forget_unsubscribed(&self.subscription);
        let before = self.parked.len();
        self.parked.retain(|name, _| self.subscription.wants(name));
        self.is_mended |= self.parked.len() < before;
    }

    /// Gives what was new in the response that the answer is about.
    pub(super) fn on_answer(&mut self, resource_type: ResourceType, answer: &Answer) -> Vec<(Arc<str>, Version)> {
        let Some(UnderWay { epoch, changes }) = self.under_way.take() else { return Vec::new() };
        let new = changes.iter().filter_map(|change| match change.what {
            What::Content(version) => Some((Arc::clone(&change.name), version)),
            _ => None,
        });
        let new = new.collect();
        match answer {
            Answer::Acknowledged => self.taken_epoch = epoch,
            Answer::Refused(_) => self.park(resource_type, changes),
        }
        new
    }

    /// Envoy remembers the hash of a secret that it refused, and acknowledges it unread when it comes again. So it counts as
    /// one that the Envoy does not have: what it had before is sent anew when that is wanted, and makes it forget.
    fn park(&mut self, resource_type: ResourceType, changes: Vec<Change>) {
        let is_one_of_several = changes.len() > 1;
        for Change { name, before, is_doubtful, what } in changes {
            let is_doubtful = is_doubtful || is_one_of_several;
            if self.subscription.wants(&name) {
                self.known.set(&name, before.filter(|_| resource_type != ResourceType::Secret));
                self.parked.insert(name, Parked { what, is_doubtful });
            } else {
                self.is_mended = true;
            }
        }
    }

    /// The next response, if there is something to say. It counts as sent.
    pub(super) fn update(&mut self, wanted: &Arc<OfType>, context: &Context<'_>) -> Option<Outgoing> {
        if self.is_pending() {
            return None;
        }
        // Where absence says something, it says it also when there is nothing (xDS rules 14 and 21).
        let tells_absence = self.subscription.wants_all() || context.is_whole();
        let is_first_of_all = self.nonce == 0 && tells_absence && self.known.names(&self.subscription).next().is_none();
        if self.is_current(wanted) && self.parked.is_empty() && !is_first_of_all {
            self.taken_epoch = context.epoch;
            // Equal, and maybe made anew: the one before is nobody's any longer.
            self.known.rebase(wanted, BTreeMap::new());
            return None;
        }
        let difference = self.compare(wanted, context);
        let is_mended = self.is_mended && !(difference.along.is_empty() && difference.removed_along.is_empty());
        if !difference.due.is_empty() || !difference.removed.is_empty() || is_mended || is_first_of_all {
            let difference = self.next_part(difference, context);
            return Some(self.send(wanted, difference, context));
        }
        self.is_mended = false;
        self.known.rebase(wanted, difference.kept);
        if self.parked.is_empty() {
            self.taken_epoch = context.epoch;
        }
        None
    }

    fn compare(&mut self, wanted: &OfType, context: &Context<'_>) -> Difference {
        let mut difference = Difference::default();
        for resource in self.subscription.select(wanted) {
            let name = &resource.name;
            let has = self.known.get(name, &self.subscription);
            let is_there = has.as_ref().is_some_and(|has| has.is(resource.version));
            let parked = self.parked.get(name);
            let is_doubtful = parked.is_some_and(|parked| parked.is_doubtful);
            let is_parked = parked.is_some_and(|parked| parked.what == What::Content(resource.version));
            if self.owed.contains(name) || (!is_parked && (!is_there || is_doubtful)) {
                difference.due.push(Arc::clone(resource));
            } else if is_doubtful || (is_parked && has.is_none() && context.is_whole()) {
                difference.along.push(Arc::clone(resource));
                difference.kept.insert(Arc::clone(name), has);
            } else if is_parked {
                difference.kept.insert(Arc::clone(name), has);
            }
            // What is sent takes its doubt along.
            if !is_parked && !is_doubtful {
                self.parked.remove(name);
            }
        }
        self.compare_gone(wanted, context, &mut difference);
        difference
    }

    /// Adds the names that are there, or were refused, and are not wanted any more.
    fn compare_gone(&mut self, wanted: &OfType, context: &Context<'_>, difference: &mut Difference) {
        let is_wanted = |name: &Arc<str>| wanted.by_name.contains_key(name) && self.subscription.wants(name);
        let known = self.known.names(&self.subscription);
        let gone: BTreeSet<_> = known.chain(self.parked.keys()).filter(|name| !is_wanted(name)).cloned().collect();
        for name in gone {
            let has = self.known.get(&name, &self.subscription);
            let may_go = has.is_none() || (context.may_remove)(&name);
            match self.parked.get_mut(&name) {
                Some(parked) if parked.what == What::Removal => {
                    difference.removed_along.extend(parked.is_doubtful.then(|| Arc::clone(&name)));
                }
                parked if may_go => {
                    self.is_mended |= parked.is_some();
                    self.parked.remove(&name);
                    if context.tells_removed() {
                        difference.removed.push(name);
                    }
                    continue;
                }
                Some(parked) => parked.what = What::Past,
                None => {}
            }
            difference.kept.insert(name, has);
        }
        let is_told = |name: &&Arc<str>| !is_wanted(name) && !difference.removed.contains(name);
        if context.protocol == Protocol::Delta {
            let owed: Vec<_> = self.owed.iter().filter(is_told).cloned().collect();
            difference.removed.extend(owed);
        }
    }

    /// The part of the difference that is sent now. The rest stays a difference, which is found again after the answer.
    fn next_part(&self, mut difference: Difference, context: &Context<'_>) -> Difference {
        if context.resource_type.is_sent_alone() && difference.due.len() > 1 {
            for later in difference.due.split_off(1) {
                let has = self.known.get(&later.name, &self.subscription);
                difference.kept.insert(Arc::clone(&later.name), has);
            }
        }
        difference
    }

    fn send(&mut self, wanted: &Arc<OfType>, difference: Difference, context: &Context<'_>) -> Outgoing {
        let Difference { mut due, mut removed, along, removed_along, mut kept, .. } = difference;
        removed.extend(removed_along);
        due.extend(along);
        let before = |name: &Arc<str>| self.known.get(name, &self.subscription);
        let is_doubtful = |name: &Arc<str>| self.parked.get(name).is_some_and(|parked| parked.is_doubtful);
        let change = |name: &Arc<str>, what| Change {
            name: Arc::clone(name),
            before: before(name),
            is_doubtful: is_doubtful(name),
            what,
        };
        let new = due.iter().map(|resource| change(&resource.name, What::Content(resource.version)));
        let gone = removed.iter().map(|name| change(name, What::Removal));
        let changes: Vec<Change> = new.chain(gone).collect();
        let changed_names: BTreeSet<Arc<str>> = changes.iter().map(|change| Arc::clone(&change.name)).collect();
        for change in &changes {
            self.parked.remove(&change.name);
            kept.remove(&change.name);
        }
        let changed = due.iter().map(|resource| Arc::clone(&resource.name)).collect();
        let resources = if context.is_whole() { self.whole(wanted, &kept) } else { due };
        // What is in it is not always all that is wanted; equal versions stand for equal contents all the same.
        let version = match context.is_whole() && !kept.is_empty() {
            true => Version::of(&resources.iter().flat_map(|r| r.version.to_bytes()).collect::<Vec<u8>>()),
            false => wanted.version,
        };
        match context.resource_type.is_sent_alone() {
            true => self.owed.retain(|name| wanted.by_name.contains_key(name) && !changed_names.contains(name)),
            false => self.owed.clear(),
        }
        self.is_mended = false;
        self.known.rebase(wanted, kept);
        self.nonce = context.nonce;
        self.under_way = Some(UnderWay { epoch: context.epoch, changes });
        let removed = if context.protocol == Protocol::Delta { removed } else { Vec::new() };
        Outgoing { resource_type: context.resource_type, version, resources, changed, removed, nonce: context.nonce }
    }

    /// State of the world: what is absent is deleted, so what stays is sent along.
    fn whole(&self, wanted: &OfType, kept: &BTreeMap<Arc<str>, Option<Has>>) -> Vec<Arc<Resource>> {
        let has = |name: &str| kept.get(name).and_then(|has| has.as_ref()).and_then(Has::resource).map(Arc::clone);
        let selected = self.subscription.select(wanted);
        // Instead of what it refused it gets what it has; where that is not known, it refuses once more.
        let selected = selected.map(|resource| has(&resource.name).unwrap_or_else(|| Arc::clone(resource)));
        let staying = kept.keys().filter(|name| !wanted.by_name.contains_key(&***name)).filter_map(|name| has(name));
        selected.chain(staying).collect()
    }
}
