//! The services of a set, found by their name, and by the name that their instances register themselves under.

use std::sync::Arc;

use super::index::{Index, change};
use super::service::{Discovery, Service};
use crate::names::Name;
use crate::shared_map::SharedMap;

#[derive(Clone, Debug, Default)]
pub struct Services {
    by_name: SharedMap<Name, Arc<Service>>,
    by_registry: Index<Arc<Service>>,
}

impl Services {
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Service>> {
        self.by_name.get(name)
    }

    /// In no order.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.by_name.keys()
    }

    /// The services whose instances register themselves under the name, in the order of their names.
    pub fn of_registry<'a>(&'a self, registry: &str) -> impl Iterator<Item = &'a Arc<Service>> + use<'a> {
        self.by_registry.get(registry).into_iter().flat_map(|services| services.values())
    }

    /// The services whose instances register themselves, in no order.
    pub fn registered(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.by_registry.values().flat_map(|services| services.values())
    }

    pub(super) fn insert(&mut self, service: &Arc<Service>) {
        self.remove(service.name.as_str());
        self.by_name.insert(service.name.clone(), Arc::clone(service));
        if let Discovery::Registry { name, .. } = &service.discovery {
            change(&mut self.by_registry, name, |services| {
                drop(services.insert(service.name.clone(), Arc::clone(service)));
            });
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        let Some(service) = self.by_name.remove(name) else { return };
        if let Discovery::Registry { name: registry, .. } = &service.discovery {
            change(&mut self.by_registry, registry, |services| drop(services.remove(name)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::document::split;
    use crate::policy::parse::{Policy, parse};

    /// A service, registered under one of several names, or not registered.
    fn service(name: usize, registry: Option<usize>) -> Arc<Service> {
        let discovery = registry.map_or("dns: 'a.example:80'".to_owned(), |registry| format!("registry: r{registry}"));
        let text = format!("{{kind: Service, name: s{name}, {discovery}}}");
        let document = Arc::new(split(&"p.yaml".into(), text.as_bytes()).remove(0));
        match &parse(&document).unwrap().policy {
            Policy::Service(service) => Arc::clone(service),
            _ => unreachable!("it is a Service"),
        }
    }

    proptest! {
        /// Against a plain map that is searched, after every step of a history.
        #[test]
        fn the_index_says_what_a_search_of_all_services_finds(
            history in prop::collection::vec((0..6_usize, prop::option::of(prop::option::of(0..3_usize))), 0..40),
        ) {
            let (mut services, mut expected) = (Services::default(), BTreeMap::new());
            for (name, change) in history {
                match change {
                    Some(registry) => {
                        let service = service(name, registry);
                        services.insert(&service);
                        expected.insert(service.name.clone(), service);
                    }
                    None => {
                        services.remove(&format!("s{name}"));
                        expected.remove(&*format!("s{name}"));
                    }
                }
                prop_assert_eq!(services.len(), expected.len());
                let registered_under = |registry: &str| {
                    let is_under = |service: &&Arc<Service>| {
                        matches!(&service.discovery, Discovery::Registry { name, .. } if name.as_str() == registry)
                    };
                    expected.values().filter(is_under).collect::<Vec<_>>()
                };
                let mut registered = 0;
                for number in 0..3 {
                    let registry = format!("r{number}");
                    let under = registered_under(&registry);
                    prop_assert!(services.of_registry(&registry).eq(under.iter().copied()));
                    registered += under.len();
                }
                prop_assert_eq!(services.registered().count(), registered);
            }
            expected.keys().for_each(|name| services.remove(name.as_str()));
            prop_assert!(services.is_empty() && services.by_registry.is_empty());
        }
    }
}
