//! Which resources of one type an Envoy wants: all of them, some by name, or both.
//!
//! The rules are those of the xDS protocol ("How the client specifies what resources to return"):
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
    names: BTreeSet<String>,
    /// Whether the Envoy has ever said what it wants. From then on an empty list is no wildcard.
    is_explicit: bool,
}

impl Subscription {
    /// State of the world: the list replaces what was wanted. Gives the names that are new in it.
    pub(super) fn replace(&mut self, resource_type: ResourceType, names: Vec<String>) -> Vec<String> {
        if names.is_empty() && !self.is_explicit {
            self.wants_all = resource_type.has_wildcard();
            return Vec::new();
        }
        self.is_explicit = true;
        self.wants_all = resource_type.has_wildcard() && names.iter().any(|name| name == WILDCARD);
        let names: BTreeSet<String> = names.into_iter().filter(|name| name != WILDCARD).collect();
        let added = names.difference(&self.names).cloned().collect();
        self.names = names;
        added
    }

    /// Delta: the first request of a type. Without names it is a wildcard.
    pub(super) fn start(&mut self, resource_type: ResourceType, names: &[String]) {
        self.wants_all = names.is_empty() && resource_type.has_wildcard();
        self.subscribe(resource_type, names);
    }

    /// Delta: names to add.
    pub(super) fn subscribe(&mut self, resource_type: ResourceType, names: &[String]) {
        for name in names {
            if name == WILDCARD {
                self.wants_all = resource_type.has_wildcard();
            } else {
                self.names.insert(name.clone());
            }
        }
    }

    /// Delta: names to take away.
    pub(super) fn unsubscribe(&mut self, names: &[String]) {
        for name in names {
            if name == WILDCARD {
                self.wants_all = false;
            } else {
                self.names.remove(name);
            }
        }
    }

    pub(super) fn wants_all(&self) -> bool {
        self.wants_all
    }

    pub(super) fn wants(&self, name: &str) -> bool {
        self.wants_all || self.names.contains(name)
    }

    /// How many names it holds: they are bounded.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// The resources that are wanted and exist.
    pub(super) fn select<'a>(&'a self, resources: &'a OfType) -> Box<dyn Iterator<Item = &'a Arc<Resource>> + 'a> {
        if self.wants_all {
            Box::new(resources.by_name.values())
        } else {
            Box::new(self.names.iter().filter_map(|name| resources.by_name.get(name.as_str())))
        }
    }
}
