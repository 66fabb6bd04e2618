//! What an Envoy has of one type, as far as that is known.
//!
//! Thousands of Envoys have the same. So it is written down as a set that all their streams share, and as what is
//! different from it: a stream costs next to nothing, however much its Envoy has.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::subscription::Subscription;
use crate::names::Version;
use crate::snapshot::OfType;
use crate::snapshot::resource::Resource;

/// Resources that an Envoy has.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Everything in it that is subscribed to is there...
    base: Arc<OfType>,
    /// ...but for these names. `None`: it has nothing of the name.
    except: BTreeMap<Arc<str>, Option<Has>>,
}

/// Evidence of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Has {
    Resource(Arc<Resource>),
    /// Of a version that a reconnecting Envoy says that it has.
    Version(Box<str>),
}

impl Has {
    pub(super) fn is(&self, version: Version) -> bool {
        match self {
            Self::Resource(resource) => resource.version == version,
            Self::Version(text) => **text == *version.to_string(),
        }
    }

    pub(super) fn resource(&self) -> Option<&Arc<Resource>> {
        match self {
            Self::Resource(resource) => Some(resource),
            Self::Version(_) => None,
        }
    }
}

impl Known {
    /// The versions that a reconnecting Envoy says that it has.
    pub(super) fn of_versions(versions: impl IntoIterator<Item = (String, String)>) -> Self {
        let has = |(name, version): (String, String)| (name.into(), Some(Has::Version(version.into())));
        Self { base: Arc::default(), except: versions.into_iter().map(has).collect() }
    }

    /// True if it is that set, without any exception.
    pub(super) fn is_all_of(&self, set: &OfType) -> bool {
        self.except.is_empty() && self.base.version == set.version
    }

    pub(super) fn get(&self, name: &str, subscription: &Subscription) -> Option<Has> {
        if let Some(has) = self.except.get(name) {
            return has.clone();
        }
        let resource = self.base.by_name.get(name).filter(|_| subscription.wants(name));
        resource.map(|resource| Has::Resource(Arc::clone(resource)))
    }

    pub(super) fn set(&mut self, name: &Arc<str>, has: Option<Has>) {
        self.except.insert(Arc::clone(name), has);
    }

    /// The names that it has something of that is not in the set.
    pub(super) fn exceptions(&self) -> impl Iterator<Item = &Arc<str>> {
        self.except.iter().filter(|(_, has)| has.is_some()).map(|(name, _)| name)
    }

    /// The names that it has something of.
    pub(super) fn names<'a>(&'a self, subscription: &'a Subscription) -> impl Iterator<Item = &'a Arc<str>> {
        let is_regular = |name: &&Arc<str>| subscription.wants(name) && !self.except.contains_key(&***name);
        self.base.by_name.keys().filter(is_regular).chain(self.exceptions())
    }

    /// From now on it is that set, but for these.
    pub(super) fn rebase(&mut self, base: &Arc<OfType>, except: BTreeMap<Arc<str>, Option<Has>>) {
        *self = Self { base: Arc::clone(base), except };
    }

    /// Keeps what is subscribed to: an Envoy forgets what it unsubscribes from.
    pub(super) fn forget_unsubscribed(&mut self, subscription: &Subscription) {
        self.except.retain(|name, _| subscription.wants(name));
    }

    /// Forgets everything but the names that are asked for by themselves.
    pub(super) fn keep_named(&mut self, subscription: &Subscription) {
        let has = |name: &Arc<str>| Some((Arc::clone(name), Some(self.get(name, subscription)?)));
        let kept = subscription.names().filter_map(has);
        *self = Self { base: Arc::default(), except: kept.collect() };
    }
}
