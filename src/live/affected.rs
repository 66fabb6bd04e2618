//! Which gateways a change reaches: their resources are compiled anew and their limits looked up anew, those of all others
//! are shared.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::document::Registered;
use crate::names::{DocumentId, Kind, Name};
use crate::policy::limit::{Dimension, Limit};
use crate::policy::set::PolicySet;
use crate::policy::tenant::Plan;

/// Input of a generation, which resources and limits are made from.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) policies: &'a PolicySet,
    pub(super) registered: &'a Registered,
}

/// The gateways whose resources or limits may differ, where these documents are what the inputs differ in. Those that are
/// gone are among them.
pub(super) fn gateways(before: Input<'_>, after: Input<'_>, changed: &BTreeSet<DocumentId>) -> BTreeSet<Name> {
    let all = || {
        let gateways = before.policies.gateways.keys().chain(after.policies.gateways.keys());
        gateways.cloned().collect()
    };
    let reported_for_tenants = &after.policies.reported_for_tenants;
    if !reported_for_tenants.is_equivalent(&before.policies.reported_for_tenants) {
        return all();
    }
    let mut services: BTreeSet<Name> = after.registered.changed_since(before.registered).cloned().collect();
    let mut gateways = BTreeSet::new();
    for id in changed {
        let name = &*id.name;
        match id.kind {
            Kind::Tenant => {}
            Kind::Gateway => gateways.extend(Name::parse(name)),
            Kind::Service => services.extend(Name::parse(name)),
            Kind::Api => {
                let apis = [before, after].into_iter().filter_map(|input| input.policies.apis.get(name));
                gateways.extend(apis.map(|api| api.gateway.clone()));
            }
            Kind::Plan => {
                let [old, new] =
                    [before, after].map(|input| input.policies.plans.get(name).map(|plan| counted_by(plan)));
                if old != new {
                    return all();
                }
            }
            Kind::RateLimits => {
                let lists = [before, after].into_iter().filter_map(|input| input.policies.rate_limits.get(name));
                for list in lists {
                    match &list.gateway {
                        Some(gateway) => drop(gateways.insert(gateway.clone())),
                        None => return all(),
                    }
                }
            }
        }
    }
    gateways.extend(services.iter().flat_map(|service| after.policies.apis.gateways_of_service(service)).cloned());
    gateways
}

/// Dimensions that a plan's limits count by, by the Api that they are for: all that routes depend on.
fn counted_by(plan: &Plan) -> Vec<(Option<&Name>, Vec<Dimension>)> {
    let of = |api, limits: &[Arc<Limit>]| {
        let dimensions = limits.iter().flat_map(|limit| limit.by.iter().cloned().chain(limit.reported())).collect();
        (api, dimensions)
    };
    let of_apis = plan.apis.iter().map(|(api, limits)| of(Some(api), limits));
    std::iter::once(of(None, &plan.limits)).chain(of_apis).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::{Adopted, Generation, Live, Settings};
    use crate::clock::Timestamp;
    use crate::compile::RateLimitService;
    use crate::document::{Documents, Instance, split};
    use crate::limiter::key::KeyHasher;
    use crate::names::Revision;
    use crate::policy::apis::visits;
    use crate::snapshot::resource::ResourceType;

    const VERSIONS: [&[&str]; 10] = [
        &[
            "{kind: Gateway, name: shop, nodes: {clusters: [a]}, listen: '127.0.0.1:1', tenant: {from: {cookie: t}, default_plan: gold}}",
            "{kind: Gateway, name: shop, nodes: {clusters: [a]}, listen: '127.0.0.1:3', tenant: {from: {cookie: t}, default_plan: deny}}",
        ],
        &[
            "{kind: Gateway, name: side, nodes: {clusters: [b]}, listen: '127.0.0.1:2', tenant: {from: {cookie: t}, default_plan: gold}}",
            "{kind: Gateway, name: side, nodes: {clusters: [c]}, listen: '127.0.0.1:2', tenant: {from: {header: t}, default_plan: gold}}",
        ],
        &[
            "{kind: Service, name: order, endpoints: ['127.0.0.1:1']}",
            "{kind: Service, name: order, endpoints: ['127.0.0.1:2']}",
        ],
        &["{kind: Service, name: pay, registry: pay}", "{kind: Service, name: pay, dns: 'pay.internal:80'}"],
        &[
            "{kind: Api, name: create, gateway: shop, match: {path: /a}, service: order}",
            "{kind: Api, name: create, gateway: side, match: {path: /a}, service: order, limits: [{rate: 1/m}]}",
            "{kind: Api, name: create, gateway: shop, match: {path: /a}, service: pay, limits: [{rate: 2/m, by: [client_ip]}]}",
        ],
        &[
            "{kind: Api, name: read, gateway: side, match: {path: /b}, service: pay}",
            "{kind: Api, name: read, gateway: side, match: {path: /b}, service: order}",
            "",
        ],
        &[
            "{kind: Plan, name: gold, limits: [{rate: 1/m}]}",
            "{kind: Plan, name: gold, limits: [{rate: 2/m}]}",
            "{kind: Plan, name: gold, apis: {create: [{rate: 2/m, by: [{header: x}]}]}}",
        ],
        &["", "{kind: Plan, name: free, limits: [{rate: 1/m, by: [path]}]}"],
        &[
            "",
            "{kind: Tenant, name: t, limits: [{rate: 1/m}]}",
            "{kind: Tenant, name: t, limits: [{rate: 1/m, by: [{header: y}]}]}",
        ],
        &[
            "",
            "{name: list, gateway: side, rate_limits: [{actions: [{remote_address: {}}], limit: {unit: MINUTE, requests_per_unit: 1}}]}",
            "{name: list, rate_limits: [{actions: [{remote_address: {}}], limit: {unit: MINUTE, requests_per_unit: 1}}]}",
        ],
    ];

    fn settings() -> Settings {
        Settings {
            rate_limit_service: RateLimitService::default(),
            counter_keys: KeyHasher::seeded([5; 16]),
            allow_empty: false,
        }
    }

    fn documents(choices: &[usize]) -> Documents {
        let text = |(versions, choice): (&&[&'static str], &usize)| versions[choice % versions.len()];
        let texts: Vec<&str> = VERSIONS.iter().zip(choices).map(text).collect();
        let mut documents =
            Documents::new(Revision::default(), split(&"p.yaml".into(), texts.join("\n---\n").as_bytes()));
        let port = 1 + choices.iter().sum::<usize>() % 3;
        let instance = Instance { address: format!("127.0.0.1:{port}").parse().unwrap(), weight: 1, zone: None };
        documents.instances = Some([("pay".into(), [instance].into())].into_iter().collect());
        documents
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// One version of one document changes at a time, or several.
        #[test]
        fn resources_are_those_of_a_fresh_compile_whatever_changed(
            first in prop::collection::vec(0..6_usize, 10),
            changes in prop::collection::vec(prop::collection::vec((0..10_usize, 0..6_usize), 1..3), 1..12),
        ) {
            let (live, mut writer) = Live::new(settings());
            let mut choices = first;
            for change in changes {
                writer.adopt(&documents(&choices), Timestamp::default());
                for (place, version) in change {
                    choices[place] = version;
                }
                writer.adopt(&documents(&choices), Timestamp::default());
                let refused = live.refused();
                prop_assert!(refused.is_empty(), "{:?}", refused);
                let fresh = Generation::build(&documents(&choices), &settings()).unwrap();
                prop_assert_eq!(&live.latest().snapshot.groups, &fresh.snapshot.groups);
            }
        }
    }

    #[test]
    fn gateways_that_a_change_does_not_reach_keep_their_resources() {
        let (live, mut writer) = Live::new(settings());
        let mut choices = [0; 10];
        let mut changed = |place: usize, version| {
            let before = live.latest();
            choices[place] = version;
            writer.adopt(&documents(&choices), Timestamp::default());
            let after = live.latest();
            let groups = after.snapshot.groups.iter();
            let is_new =
                |resources, name| before.snapshot.groups.get(name).is_none_or(|old| !Arc::ptr_eq(old, resources));
            let new = groups.filter(|(name, resources)| is_new(*resources, *name)).map(|(name, _)| name.to_string());
            let mut new: Vec<_> = new.collect();
            // A map has no order that means something.
            new.sort_unstable();
            new.join(" ")
        };
        assert_eq!(changed(0, 0), "shop side", "everything is new");
        // The choices also choose the port of the instance of `pay`, which `side` alone leads to.
        assert_eq!(changed(2, 3), "shop", "an endpoint");
        assert_eq!(changed(6, 3), "", "the same again");
        assert_eq!(changed(0, 3), "shop", "a listener");
        assert_eq!(changed(6, 1), "side", "a rate, and an instance");
    }

    #[test]
    fn what_comes_out_equal_of_a_changed_gateway_is_the_object_that_it_was() {
        let (live, mut writer) = Live::new(settings());
        writer.adopt(&documents(&[0; 10]), Timestamp::default());
        let before = live.latest();
        // The port of an instance of `pay` is the choices' sum.
        writer.adopt(&documents(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), Timestamp::default());
        let after = live.latest();
        let [before, after] = [&before, &after].map(|generation| generation.snapshot.groups.get("side").unwrap());
        let types = ResourceType::ALL.into_iter();
        let new = types.filter(|of_type| !Arc::ptr_eq(before.of_type(*of_type), after.of_type(*of_type)));
        assert_eq!(new.collect::<Vec<_>>(), [ResourceType::Endpoint]);
    }

    /// Sets of gateways with ten Apis each, the first of which leads to a service of a version.
    fn of_gateways(number: usize, version: usize) -> Documents {
        let of_gateway = |g: usize| {
            let service = |name: &str, rest: &str| format!("{{kind: Service, name: {name}{g}, {rest}}}");
            let port = if g == 0 { 1 + version % 2 } else { 1 };
            let rate = if g == 0 { 1 + version / 2 } else { 1 };
            let api = |n| {
                let limits = format!("limits: [{{rate: {rate}/m}}]");
                format!("{{kind: Api, name: a{g}-{n}, gateway: g{g}, match: {{path: /{n}}}, service: s{g}, {limits}}}")
            };
            let gateway = format!("{{kind: Gateway, name: g{g}, nodes: {{clusters: [c{g}]}}, listen: '127.0.0.1:1'}}");
            let own = [gateway, service("s", &format!("endpoints: ['127.0.0.1:{port}']"))];
            own.into_iter().chain((0..10).map(api)).collect::<Vec<_>>()
        };
        let texts: Vec<String> = (0..number).flat_map(of_gateway).collect();
        Documents::new(Revision::default(), split(&"p.yaml".into(), texts.join("\n---\n").as_bytes()))
    }

    #[test]
    fn a_change_looks_at_as_many_apis_as_with_one_gateway() {
        let visits_of_changes = |gateways| {
            let (_live, mut writer) = Live::new(settings());
            let visits = (0..4).map(|version| {
                let documents = of_gateways(gateways, version);
                visits::during(|| assert_eq!(writer.adopt(&documents, Timestamp::default()), Adopted::Served))
            });
            visits.skip(1).collect::<Vec<_>>()
        };
        let of_one = visits_of_changes(1);
        assert!(of_one.iter().all(|visits| *visits > 0));
        assert_eq!(visits_of_changes(30), of_one);
    }
}
