//! Evidence that an offer works: what Envoys have acknowledged of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::GroupOffer;
use crate::names::Name;
use crate::snapshot::per_type::PerType;
use crate::snapshot::resource::ResourceType;

/// The types of a group's resources that some Envoy has acknowledged. Shared by all offers of the same resources.
#[derive(Debug, Default)]
pub(super) struct Evidence(PerType<AtomicBool>);

impl Evidence {
    pub(super) fn of(is_acknowledged: impl Fn(ResourceType) -> bool) -> Self {
        Self(PerType::from_fn(|resource_type| is_acknowledged(resource_type).into()))
    }

    pub(super) fn acknowledge(&self, resource_type: ResourceType) {
        self.0[resource_type].store(true, Ordering::Relaxed);
    }

    pub(super) fn is_acknowledged(&self, resource_type: ResourceType) -> bool {
        self.0[resource_type].load(Ordering::Relaxed)
    }
}

/// The newest offer of each gateway that was acknowledged as a whole: what its Envoys go back to.
#[derive(Debug, Default)]
pub(super) struct Proven(BTreeMap<Name, Arc<GroupOffer>>);

impl Proven {
    pub(super) fn get(&self, gateway: &Name) -> Option<&Arc<GroupOffer>> {
        self.0.get(gateway)
    }

    /// Takes the group if it was acknowledged as a whole. Only goes forward: an acknowledgement of an older offer may be told
    /// after one of a newer offer.
    pub(super) fn advance(&mut self, group: &Arc<GroupOffer>) {
        let is_older = self.0.get(&group.gateway).is_some_and(|proven| proven.sequence > group.sequence);
        if group.is_proven() && !is_older {
            self.0.insert(group.gateway.clone(), Arc::clone(group));
        }
    }

    pub(super) fn remove(&mut self, gateway: &Name) {
        self.0.remove(gateway);
    }
}
