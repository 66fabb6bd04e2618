//! Which resources of one type an Envoy wants: all of them, some by name, or both.
//!
//! The rules are those of the xDS protocol ("How the client specifies what resources to return"; xDS rules 56 to 60):
//!
//! | step | state of the world sends | delta sends | wanted then |
//! |---|---|---|---|
//! | a first request without names | `[]` | subscribe `[]` | all ("legacy wildcard") |
//! | then names | `[*, A]` | subscribe `[A]` | all, and A |
//! | then only a name | `[A]` | unsubscribe `[*]` | A |
//! | then nothing | `[]` | unsubscribe `[A]` | nothing: it is not a wildcard again |

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::snapshot::OfType;
use crate::snapshot::resource::{Resource, ResourceType};

const WILDCARD: &str = "*";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Subscription {
    wants_all: bool,
    names: BTreeSet<Arc<str>>,
    /// True once the Envoy has named something. From then on an empty list is no wildcard.
    is_explicit: bool,
}

impl Subscription {
    /// True if these names make it a wildcard that it was not.
    pub(super) fn turns_to_all(&self, resource_type: ResourceType, names: &[String]) -> bool {
        !self.wants_all && resource_type.has_wildcard() && names.iter().any(|name| name == WILDCARD)
    }

    /// State of the world: the list replaces what was wanted. Gives the names that are new in it. Names are shared
    /// with the resources that have them.
    pub(super) fn replace(&mut self, resource_type: ResourceType, names: &[String], set: &OfType) -> Vec<Arc<str>> {
        if names.is_empty() && !self.is_explicit {
            self.wants_all = resource_type.has_wildcard();
            return Vec::new();
        }
        self.is_explicit = true;
        self.wants_all = resource_type.has_wildcard() && names.iter().any(|name| name == WILDCARD);
        let named = || names.iter().filter(|name| *name != WILDCARD);
        let added: Vec<_> =
            named().filter(|name| !self.names.contains(name.as_str())).map(|name| shared(name, set)).collect();
        // An acknowledgement repeats what is wanted.
        if !added.is_empty() || named().count() != self.names.len() {
            let named: BTreeSet<&str> = named().map(String::as_str).collect();
            self.names.retain(|name| named.contains(&**name));
            self.names.extend(added.iter().cloned());
        }
        added
    }

    /// Delta: the first request of a type. Without names it is a wildcard.
    pub(super) fn start(&mut self, resource_type: ResourceType, names: &[String], set: &OfType) {
        self.wants_all = names.is_empty() && resource_type.has_wildcard();
        self.subscribe(resource_type, names, set);
    }

    /// Delta: names to add. Gives those that were not wanted before.
    pub(super) fn subscribe(&mut self, resource_type: ResourceType, names: &[String], set: &OfType) -> Vec<Arc<str>> {
        self.wants_all |= self.turns_to_all(resource_type, names);
        let mut added = Vec::new();
        for name in names.iter().filter(|name| *name != WILDCARD) {
            let name = shared(name, set);
            if self.names.insert(Arc::clone(&name)) && !self.wants_all {
                added.push(name);
            }
        }
        added
    }

    /// Delta: names to take away.
    pub(super) fn unsubscribe(&mut self, names: &[String]) {
        for name in names {
            if name == WILDCARD {
                self.wants_all = false;
            } else {
                self.names.remove(name.as_str());
            }
        }
    }

    pub(super) fn wants_all(&self) -> bool {
        self.wants_all
    }

    pub(super) fn wants(&self, name: &str) -> bool {
        self.wants_all || self.names.contains(name)
    }

    /// The names that are asked for by themselves.
    pub(super) fn names(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.names.iter()
    }

    /// The resources that are wanted and exist.
    pub(super) fn select<'a>(&'a self, set: &'a OfType) -> Box<dyn Iterator<Item = &'a Arc<Resource>> + 'a> {
        if self.wants_all {
            Box::new(set.by_name.values())
        } else {
            Box::new(self.names.iter().filter_map(|name| set.by_name.get(name)))
        }
    }
}

/// The name as the resource has it, so that it is kept once for all Envoys that ask for it.
fn shared(name: &str, set: &OfType) -> Arc<str> {
    set.by_name.get_key_value(name).map_or_else(|| name.into(), |(name, _)| Arc::clone(name))
}
