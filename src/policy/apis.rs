//! The Apis of a set, found by their name, by their gateway, and by the service that they lead to. A change of one costs what
//! its gateway has, not what all gateways do.

use std::sync::Arc;

use super::api::Api;
use super::index::{Index, change};
use crate::names::Name;
use crate::shared_map::SharedMap;

#[derive(Clone, Debug, Default)]
pub struct Apis {
    by_name: SharedMap<Name, Arc<Api>>,
    by_gateway: Index<Arc<Api>>,
    /// The gateways of the Apis that lead to a service, each with their number.
    by_service: Index<usize>,
}

impl Apis {
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Api>> {
        self.by_name.get(name)
    }

    /// In no order.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.by_name.keys()
    }

    /// The Apis of a gateway, in the order of their names.
    pub fn of_gateway<'a>(&'a self, gateway: &Name) -> impl Iterator<Item = &'a Arc<Api>> + use<'a> {
        let apis = self.by_gateway.get(gateway).into_iter().flat_map(|apis| apis.values());
        #[cfg(test)]
        let apis = apis.inspect(|_| visits::count());
        apis
    }

    /// The gateways that have an Api which leads to the service, in the order of their names.
    pub fn gateways_of_service<'a>(&'a self, service: &Name) -> impl Iterator<Item = &'a Name> + use<'a> {
        self.by_service.get(service).into_iter().flat_map(|gateways| gateways.keys())
    }

    pub(super) fn insert(&mut self, api: &Arc<Api>) {
        self.remove(api.name.as_str());
        self.by_name.insert(api.name.clone(), Arc::clone(api));
        change(&mut self.by_gateway, &api.gateway, |apis| drop(apis.insert(api.name.clone(), Arc::clone(api))));
        change(&mut self.by_service, &api.service, |gateways| *gateways.entry(api.gateway.clone()).or_default() += 1);
    }

    pub(super) fn remove(&mut self, name: &str) {
        let Some(api) = self.by_name.remove(name) else { return };
        change(&mut self.by_gateway, &api.gateway, |apis| drop(apis.remove(name)));
        change(&mut self.by_service, &api.service, |gateways| match gateways.get_mut(&api.gateway) {
            Some(number) if *number > 1 => *number -= 1,
            _ => drop(gateways.remove(&api.gateway)),
        });
    }
}

/// How many Apis this thread has looked at by their gateway, for tests that bound it.
#[cfg(test)]
pub(crate) mod visits {
    use std::cell::Cell;

    thread_local! {
        static VISITS: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn count() {
        VISITS.set(VISITS.get() + 1);
    }

    /// How many it looks at meanwhile.
    pub(crate) fn during(act: impl FnOnce()) -> usize {
        let before = VISITS.get();
        act();
        VISITS.get() - before
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::document::split;
    use crate::policy::parse::{Policy, parse};

    fn api(name: usize, gateway: usize, service: usize) -> Arc<Api> {
        let text =
            format!("{{kind: Api, name: a{name}, gateway: g{gateway}, match: {{path: /}}, service: s{service}}}");
        let document = Arc::new(split(&"p.yaml".into(), text.as_bytes()).remove(0));
        match &parse(&document).unwrap().policy {
            Policy::Api(api) => Arc::clone(api),
            _ => unreachable!("it is an Api"),
        }
    }

    proptest! {
        /// Against a plain map that is searched, after every step of a history.
        #[test]
        fn the_indexes_say_what_a_search_of_all_apis_finds(
            history in prop::collection::vec((0..6_usize, prop::option::of((0..3_usize, 0..3_usize))), 0..40),
        ) {
            let (mut apis, mut expected) = (Apis::default(), BTreeMap::new());
            for (name, change) in history {
                match change {
                    Some((gateway, service)) => {
                        let api = api(name, gateway, service);
                        apis.insert(&api);
                        expected.insert(api.name.clone(), api);
                    }
                    None => {
                        apis.remove(&format!("a{name}"));
                        expected.remove(&*format!("a{name}"));
                    }
                }
                prop_assert_eq!(apis.len(), expected.len());
                for number in 0..3 {
                    let gateway = Name::parse(&format!("g{number}")).unwrap();
                    let of_gateway = expected.values().filter(|api| api.gateway == gateway);
                    prop_assert!(apis.of_gateway(&gateway).eq(of_gateway));
                    let service = Name::parse(&format!("s{number}")).unwrap();
                    let of_service = expected.values().filter(|api| api.service == service);
                    let gateways: BTreeSet<&Name> = of_service.map(|api| &api.gateway).collect();
                    prop_assert!(apis.gateways_of_service(&service).eq(gateways));
                }
            }
            expected.keys().for_each(|name| apis.remove(name.as_str()));
            prop_assert!(apis.is_empty() && apis.by_gateway.is_empty() && apis.by_service.is_empty());
        }
    }
}
