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
use crate::shared_map::SharedMap;
use feature::{EnvoyVersion, Need};
use per_type::PerType;
use resource::{Resource, ResourceType};

/// The resources of every gateway.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub groups: SharedMap<Name, Arc<Resources>>,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::feature::{Feature, Older};
    use super::*;

    static FEATURE: Feature = Feature { name: "f", since: EnvoyVersion::new(1, 40), older: Older::Refuses };

    fn resource(name: &str, content: u8) -> Arc<Resource> {
        Arc::new(Resource::new(name, vec![content]))
    }

    /// Each resource a type, a name and a content.
    fn resources(all: &[(ResourceType, &str, u8)]) -> Arc<Resources> {
        Arc::new(Resources::new(all.iter().map(|(of_type, name, content)| (*of_type, resource(name, *content)))))
    }

    use ResourceType::{Cluster, Endpoint, Listener, Route};

    #[test]
    fn equal_resources_have_equal_versions_whatever_order_they_came_in() {
        let one = resources(&[(Cluster, "a", 1), (Cluster, "b", 2), (Route, "r", 3)]);
        let same = resources(&[(Route, "r", 3), (Cluster, "b", 2), (Cluster, "a", 1)]);
        assert!(one.is_same(&same) && one == same);
        for other in [
            resources(&[(Cluster, "a", 1), (Cluster, "b", 2)]),
            resources(&[(Cluster, "a", 1), (Cluster, "b", 9), (Route, "r", 3)]),
            resources(&[(Cluster, "a", 2), (Cluster, "b", 1), (Route, "r", 3)]),
            resources(&[(Cluster, "a", 1), (Cluster, "c", 2), (Route, "r", 3)]),
            resources(&[(Endpoint, "a", 1), (Cluster, "b", 2), (Route, "r", 3)]),
        ] {
            assert!(!one.is_same(&other) && one != other, "{other:?}");
        }
        assert_eq!(one.of_type(Listener).version, Resources::default().of_type(Listener).version);
    }

    #[test]
    fn they_are_told_in_the_order_in_which_they_are_sent() {
        let all =
            resources(&[(Route, "r", 1), (Listener, "l", 1), (Cluster, "b", 1), (Endpoint, "e", 1), (Cluster, "a", 1)]);
        let told: Vec<_> = all.iter().map(|(of_type, resource)| (of_type, resource.name.to_string())).collect();
        let expected = [(Cluster, "a"), (Cluster, "b"), (Endpoint, "e"), (Listener, "l"), (Route, "r")];
        assert_eq!(told, expected.map(|(of_type, name)| (of_type, name.to_owned())));
    }

    #[test]
    fn a_node_of_several_gateways_has_what_each_of_them_has() {
        let one = resources(&[(Cluster, "shared", 1), (Route, "one", 2)]);
        let other = resources(&[(Cluster, "shared", 1), (Route, "other", 3)]);
        let union = Resources::union([&one, &other]);
        assert!(union.is_same(&resources(&[(Cluster, "shared", 1), (Route, "one", 2), (Route, "other", 3)])));
        assert!(Arc::ptr_eq(&Resources::union([&one]), &one), "of one it is the very same");
        assert!(Resources::union([]).is_same(&Resources::default()));
    }

    #[test]
    fn what_is_needed_is_unknown_to_older_envoys_only() {
        let need = Arc::new(Need::new(&FEATURE, ["Api a".to_owned()]).unwrap());
        let resources = Resources::default().with_needs(vec![need]);
        let unknown = |minor| resources.unknown_to(EnvoyVersion::new(1, minor)).count();
        assert_eq!([unknown(36), unknown(39), unknown(40), unknown(41)], [1, 1, 0, 0]);
    }

    /// Streams see by the object that nothing changed.
    #[test]
    fn what_came_out_equal_is_the_object_that_it_was() {
        let before = resources(&[(Cluster, "a", 1), (Cluster, "b", 2), (Endpoint, "a", 3), (Route, "r", 4)]);
        let shared = |new: &Arc<Resources>| Resources::clone(new).sharing_with(&before);
        let same = resources(&[(Cluster, "a", 1), (Cluster, "b", 2), (Endpoint, "a", 3), (Route, "r", 4)]);
        assert!(Arc::ptr_eq(&shared(&same), &before));
        let other = resources(&[(Cluster, "a", 1), (Cluster, "b", 9), (Endpoint, "a", 3), (Route, "r", 4)]);
        let shared = shared(&other);
        assert!(shared.is_same(&other));
        let is_kept = |of_type| Arc::ptr_eq(shared.of_type(of_type), before.of_type(of_type));
        assert_eq!([Cluster, Endpoint, Route].map(is_kept), [false, true, true]);
        let is_known =
            |name| Arc::ptr_eq(&shared.of_type(Cluster).by_name[name], &before.of_type(Cluster).by_name[name]);
        assert_eq!(["a", "b"].map(is_known), [true, false]);
    }

    /// Also where only that differs which is no resource.
    #[test]
    fn what_is_needed_now_is_told_although_no_resource_changed() {
        let before = resources(&[(Cluster, "a", 1)]);
        let need = Arc::new(Need::new(&FEATURE, ["Api a".to_owned()]).unwrap());
        let shared = Resources::clone(&before).with_needs(vec![need]).sharing_with(&before);
        assert!(Arc::ptr_eq(shared.of_type(Cluster), before.of_type(Cluster)));
        assert_eq!((shared.needs().len(), before.needs().len()), (1, 0));
    }

    proptest! {
        #[test]
        fn sharing_changes_nothing_of_what_is_there(
            before in prop::collection::vec((0..7_usize, "[a-c]", 0..3_u8), 0..12),
            after in prop::collection::vec((0..7_usize, "[a-c]", 0..3_u8), 0..12),
        ) {
            let of = |all: Vec<(usize, String, u8)>| {
                let all = all.into_iter();
                Resources::new(all.map(|(of_type, name, content)| (ResourceType::ALL[of_type], resource(&name, content))))
            };
            let (before, after) = (Arc::new(of(before)), of(after));
            let shared = after.clone().sharing_with(&before);
            prop_assert_eq!(&*shared, &after);
            for (of_type, resource) in shared.iter() {
                let known = before.of_type(of_type).by_name.get(&resource.name).filter(|known| *known == resource);
                prop_assert!(known.is_none_or(|known| Arc::ptr_eq(known, resource)));
            }
        }
    }
}
