//! What Envoys are to have: for each gateway, its xDS resources as encoded bytes with content hashes.
//!
//! `compile` makes a snapshot, ADS sessions compare it with what their Envoy has, `admin` shows it.
//! Nothing in it changes once it is made.

pub mod feature;
pub mod per_type;
pub mod render;
pub mod resource;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::names::{Name, Version};
use feature::{EnvoyVersion, Need};
use per_type::PerType;
use resource::{Resource, ResourceType};

/// The resources of every gateway.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub groups: BTreeMap<Name, Arc<Resources>>,
}

/// The resources of a group of Envoys, by type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Each is shared: thousands of streams remember by it what their Envoys have.
    by_type: PerType<Arc<OfType>>,
    /// Features of them that not every Envoy knows; a union has none, its groups are asked.
    needs: Vec<Arc<Need>>,
}

/// The resources of one type, ordered by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfType {
    /// Of all of them together; equal content has equal versions.
    pub version: Version,
    pub by_name: BTreeMap<Arc<str>, Arc<Resource>>,
}

impl Resources {
    pub fn new(resources: impl IntoIterator<Item = (ResourceType, Arc<Resource>)>) -> Self {
        let mut by_type = PerType::<BTreeMap<_, _>>::default();
        for (resource_type, resource) in resources {
            by_type[resource_type].insert(Arc::clone(&resource.name), resource);
        }
        let of_type = |resource_type| Arc::new(OfType::new(std::mem::take(&mut by_type[resource_type])));
        Self { by_type: PerType::from_fn(of_type), needs: Vec::new() }
    }

    #[must_use]
    pub fn with_needs(self, needs: Vec<Arc<Need>>) -> Self {
        Self { needs, ..self }
    }

    /// These resources, with the objects of `before` in place of equal ones: whoever has those sees without a look inside
    /// that nothing changed.
    pub fn sharing_with(mut self, before: &Arc<Self>) -> Arc<Self> {
        if self == **before {
            return Arc::clone(before);
        }
        for resource_type in ResourceType::ALL {
            let (own, known) = (&mut self.by_type[resource_type], before.of_type(resource_type));
            if own == known {
                *own = Arc::clone(known);
                continue;
            }
            for (name, resource) in &mut Arc::make_mut(own).by_name {
                if let Some(known) = known.by_name.get(name).filter(|known| *known == resource) {
                    *resource = Arc::clone(known);
                }
            }
        }
        Arc::new(self)
    }

    /// Features that not every Envoy knows.
    pub fn needs(&self) -> &[Arc<Need>] {
        &self.needs
    }

    /// Features that an Envoy of this version does not know.
    pub fn unknown_to(&self, version: EnvoyVersion) -> impl Iterator<Item = &Arc<Need>> {
        self.needs.iter().filter(move |need| version < need.feature.since)
    }

    /// The resources of an Envoy that several gateways select. Resources with equal names are equal: clusters are named
    /// after their service, everything else after its gateway.
    pub fn union<'a>(groups: impl IntoIterator<Item = &'a Arc<Self>>) -> Arc<Self> {
        let mut groups = groups.into_iter();
        match (groups.next(), groups.next()) {
            (None, _) => Arc::new(Self::default()),
            (Some(only), None) => Arc::clone(only),
            (Some(first), Some(second)) => {
                let all = [first, second].into_iter().chain(groups).flat_map(|group| group.iter());
                Arc::new(Self::new(all.map(|(resource_type, resource)| (resource_type, Arc::clone(resource)))))
            }
        }
    }

    /// True if the contents are equal.
    pub fn is_same(&self, other: &Self) -> bool {
        self.by_type.iter().all(|(resource_type, own)| own.version == other.of_type(resource_type).version)
    }

    pub fn of_type(&self, resource_type: ResourceType) -> &Arc<OfType> {
        &self.by_type[resource_type]
    }

    /// All resources, in the order of [`ResourceType::ALL`] and then of their names.
    pub fn iter(&self) -> impl Iterator<Item = (ResourceType, &Arc<Resource>)> {
        self.by_type.iter().flat_map(|(resource_type, set)| set.by_name.values().map(move |r| (resource_type, r)))
    }
}

impl OfType {
    fn new(by_name: BTreeMap<Arc<str>, Arc<Resource>>) -> Self {
        let mut content = Vec::with_capacity(by_name.len() * 48);
        for (name, resource) in &by_name {
            content.extend_from_slice(name.as_bytes());
            content.push(0);
            content.extend_from_slice(&resource.version.to_bytes());
        }
        Self { version: Version::of(&content), by_name }
    }
}

impl Default for OfType {
    fn default() -> Self {
        Self::new(BTreeMap::new())
    }
}
