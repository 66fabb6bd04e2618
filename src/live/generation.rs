//! One policy set with everything that is made from it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::affected;
use super::offered::Offered;
use crate::compile::{RateLimitService, compile, compile_gateway};
use crate::diff::{Difference, Side};
use crate::document::{Document, Documents, Instance, Instances, Registered};
use crate::limiter::key::KeyHasher;
use crate::limiter::matcher::Matcher;
use crate::names::{DocumentId, Kind, Name, NodeIdentity, Revision, secret};
use crate::policy::gateway::Membership;
use crate::policy::parse::{Parsed, Policy};
use crate::policy::problem::Problem;
use crate::policy::service::{Discovery, Service, WhenEmpty};
use crate::policy::set::{ParsedById, PolicySet};
use crate::snapshot::resource::ResourceType;
use crate::snapshot::{Resources, Snapshot};

/// Settings of generations, the same for all of a run.
#[derive(Clone, Debug)]
pub struct Settings {
    pub rate_limit_service: RateLimitService,
    /// The beginning of each counter's key; the same for as long as the counters live.
    pub counter_keys: KeyHasher,
    /// True where a source without any document is taken at its word.
    pub allow_empty: bool,
}

#[derive(Clone, Debug)]
pub struct Generation {
    /// Rises by one with each set that is served; 0 is the empty set that nobody is served.
    pub number: u64,
    /// The source's name for the state that the set was read at.
    pub revision: Revision,
    pub policies: PolicySet,
    pub snapshot: Snapshot,
    pub matcher: Matcher,
    /// The documents that the policies were made from.
    pub documents: ParsedById,
    /// The instances of each service whose instances register themselves.
    pub registered: Registered,
    /// The rate limit service as Envoys are told of it.
    pub rate_limit_service: RateLimitService,
}

/// The resources that the Envoys of one gateway are to have, and what they were made from.
#[derive(Clone, Debug)]
pub struct Group {
    pub resources: Arc<Resources>,
    /// The limits that their requests are counted by.
    pub matcher: Matcher,
    documents: ParsedById,
    registered: Registered,
}

/// What a node is to all gateways, each in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memberships {
    /// Those whose Envoy it is.
    pub gateways: Vec<Name>,
    /// Those whose Envoy it says it is, and that are not for its certificate.
    pub denied: Vec<Name>,
}

impl Memberships {
    /// True where it says what it is, and nothing of that is so.
    pub fn are_denied(&self) -> bool {
        self.gateways.is_empty() && !self.denied.is_empty()
    }
}

/// Parts of a generation that do not come from the one before it.
pub(super) struct Parts {
    pub(super) revision: Revision,
    pub(super) documents: ParsedById,
    pub(super) policies: PolicySet,
    pub(super) registered: Registered,
    pub(super) rate_limit_service: RateLimitService,
}

/// Documents that fit together.
struct Linked {
    documents: ParsedById,
    policies: PolicySet,
    changed: BTreeSet<DocumentId>,
}

impl Generation {
    /// The generation that everything begins with: nothing in it.
    pub(super) fn empty(settings: &Settings) -> Self {
        Self {
            number: 0,
            revision: Revision::default(),
            policies: PolicySet::default(),
            snapshot: Snapshot::default(),
            matcher: Matcher::empty(settings.counter_keys.clone()),
            documents: ParsedById::default(),
            registered: Registered::default(),
            rate_limit_service: settings.rate_limit_service.clone(),
        }
    }

    /// All documents or none: what `check` does, and everything else that is asked about a set as a whole.
    pub fn build(documents: &Documents, settings: &Settings) -> Result<Self, Vec<Problem>> {
        let base = Self::empty(settings);
        let Linked { documents: parsed, policies, changed } = base.link(documents)?;
        let instances = documents.instances.clone().unwrap_or_default();
        let services = services_reached(&policies, &changed, None, &instances);
        let registered = registered(&policies, &instances, &base.registered, services);
        let rate_limit_service = settings.rate_limit_service.clone();
        let parts = Parts { revision: documents.revision, documents: parsed, policies, registered, rate_limit_service };
        Ok(base.next(1, parts, &changed))
    }

    /// The generation that would come after this one if the whole set were these documents; or everything that is wrong with
    /// them. Who is registered stays.
    pub fn replaced(&self, documents: impl IntoIterator<Item = Document>) -> Result<Self, Vec<Problem>> {
        Ok(self.after(self.link(&Documents::new(self.revision, documents))?))
    }

    /// The documents as a set, and in which of them it differs from this one.
    fn link(&self, documents: &Documents) -> Result<Linked, Vec<Problem>> {
        let mut offered = Offered::default();
        let ids = offered.update(&documents.documents, &self.documents).ids;
        let broken: Vec<Option<DocumentId>> = offered.broken().map(|refused| refused.id.clone()).collect();
        let parsed: ParsedById =
            ids.iter().filter_map(|id| Some((id.clone(), Arc::clone(offered.of(id).first()?)))).collect();
        let all = self.documents.keys().chain(&ids);
        let changed = all.filter(|id| self.documents.get(*id) != parsed.get(*id)).cloned().collect();
        let linked = PolicySet::link(&self.policies, &parsed, &changed);
        let policies = told_together(offered.problems(), &broken, &parsed, linked)?;
        Ok(Linked { documents: parsed, policies, changed })
    }

    /// The policies of this set with some documents in other versions, or without them; or everything that is wrong
    /// with those, and with the others because of them.
    pub fn with(
        &self,
        changes: impl IntoIterator<Item = (DocumentId, Option<Arc<Parsed>>)>,
    ) -> Result<PolicySet, Vec<Problem>> {
        self.link_with(changes).map(|linked| linked.policies)
    }

    /// The generation that would come after this one with some documents in other versions, or without them; or what
    /// [`Self::with`] says is wrong.
    pub fn amended(
        &self,
        changes: impl IntoIterator<Item = (DocumentId, Option<Arc<Parsed>>)>,
    ) -> Result<Self, Vec<Problem>> {
        self.link_with(changes).map(|linked| self.after(linked))
    }

    fn link_with(
        &self,
        changes: impl IntoIterator<Item = (DocumentId, Option<Arc<Parsed>>)>,
    ) -> Result<Linked, Vec<Problem>> {
        let (mut documents, mut changed) = (self.documents.clone(), BTreeSet::new());
        for (id, parsed) in changes {
            match parsed {
                Some(parsed) => drop(documents.insert(id.clone(), parsed)),
                None => drop(documents.remove(&id)),
            }
            changed.insert(id);
        }
        let linked = PolicySet::link(&self.policies, &documents, &changed);
        let policies = told_together(Vec::new(), &[], &documents, linked)?;
        Ok(Linked { documents, policies, changed })
    }

    /// The next generation, with these documents. Who is registered stays.
    fn after(&self, linked: Linked) -> Self {
        let Linked { documents, policies, changed } = linked;
        let (registered, rate_limit_service) = (self.registered.clone(), self.rate_limit_service.clone());
        let parts = Parts { revision: self.revision, documents, policies, registered, rate_limit_service };
        self.next(self.number + 1, parts, &changed)
    }

    /// The generation that differs from this one in the changed documents, in who is registered and in where decisions are
    /// asked for. What they have no part in is shared.
    pub(super) fn next(&self, number: u64, parts: Parts, changed: &BTreeSet<DocumentId>) -> Self {
        let Parts { revision, documents, policies, registered, rate_limit_service } = parts;
        let before = affected::Input { policies: &self.policies, registered: &self.registered };
        let after = affected::Input { policies: &policies, registered: &registered };
        let affected = affected::gateways(before, after, changed);
        let matcher = self.matcher.next(&policies, changed, &affected);
        let recompiled = match rate_limit_service == self.rate_limit_service {
            true => affected,
            // Every gateway's Envoys ask there.
            false => affected.into_iter().chain(policies.gateways.keys().cloned()).collect(),
        };
        let snapshot = compile(&policies, &registered, &rate_limit_service, &self.snapshot, &recompiled);
        Self { number, revision, policies, snapshot, matcher, documents, registered, rate_limit_service }
    }

    /// What would change if another took the place of this one.
    pub fn difference(&self, after: &Self) -> Difference {
        Difference::between(self.side(), after.side())
    }

    fn side(&self) -> Side<'_> {
        let Self { documents, policies, snapshot, .. } = self;
        Side { documents, policies, snapshot }
    }

    /// The gateways whose Envoy the node is, or says that it is.
    pub fn memberships(&self, node: &NodeIdentity) -> Memberships {
        let mut memberships = Memberships::default();
        for gateway in self.policies.gateways.values() {
            match gateway.membership(node) {
                Membership::Unselected => {}
                Membership::Denied => memberships.denied.push(gateway.name.clone()),
                Membership::Member => memberships.gateways.push(gateway.name.clone()),
            }
        }
        memberships.gateways.sort_unstable();
        memberships.denied.sort_unstable();
        memberships
    }

    /// The gateway's Envoys as they are to be.
    pub fn group(&self, gateway: &str) -> Option<Group> {
        let resources = Arc::clone(self.snapshot.groups.get(gateway)?);
        let (matcher, documents, registered) = (self.matcher.clone(), self.documents.clone(), self.registered.clone());
        Some(Group { resources, matcher, documents, registered })
    }

    /// The gateway's Envoys as they would have to be if some documents were still what an earlier group was made from,
    /// and with them those that changed since and do not fit together with that, as an Api does whose new service is held.
    /// `None` where there are no such versions that fit together.
    pub fn group_with_earlier(&self, gateway: &str, ids: &BTreeSet<DocumentId>, earlier: &Group) -> Option<Group> {
        let mut ids = ids.clone();
        let (documents, policies) = loop {
            let documents = self.documents_with_earlier(&ids, earlier);
            let problems = match PolicySet::link(&self.policies, &documents, &ids) {
                Ok(policies) => break (documents, policies),
                Err(problems) => problems,
            };
            let known = ids.len();
            let involved =
                problems.into_iter().flat_map(|problem| problem.document.into_iter().chain(problem.involves));
            ids.extend(involved.filter(|id| self.documents.get(id) != earlier.documents.get(id)));
            if ids.len() == known {
                return None;
            }
        };
        let ids = &ids;
        let mut registered = self.registered.clone();
        let differing = earlier.registered.changed_since(&self.registered);
        for service in differing.filter(|service| !self.registered.contains_key(*service)) {
            let instances = earlier.registered.get(service).map(Arc::clone);
            registered.extend(instances.map(|instances| (service.clone(), instances)));
        }
        let resources =
            compile_gateway(&policies, &registered, policies.gateways.get(gateway)?, &self.rate_limit_service);
        let current = affected::Input { policies: &self.policies, registered: &self.registered };
        let offered = affected::Input { policies: &policies, registered: &registered };
        let matcher = self.matcher.next(&policies, ids, &affected::gateways(current, offered, ids));
        Some(Group { resources: Arc::new(resources), matcher, documents, registered })
    }

    fn documents_with_earlier(&self, ids: &BTreeSet<DocumentId>, earlier: &Group) -> ParsedById {
        let mut documents = self.documents.clone();
        for id in ids {
            match earlier.documents.get(id) {
                Some(parsed) => drop(documents.insert(id.clone(), Arc::clone(parsed))),
                None => drop(documents.remove(id)),
            }
        }
        documents
    }
}

impl Group {
    /// With the same resources as other objects.
    #[must_use]
    pub fn with_resources(self, resources: Arc<Resources>) -> Self {
        Self { resources, ..self }
    }

    pub fn document(&self, id: &DocumentId) -> Option<&Arc<Parsed>> {
        self.documents.get(id)
    }

    /// The documents that a resource of the gateway is made from and that an earlier group had in other versions.
    pub fn changed_behind(
        &self,
        gateway: &str,
        (resource_type, name): (ResourceType, &str),
        earlier: &Self,
    ) -> BTreeSet<DocumentId> {
        let is_behind = |id: &DocumentId| match resource_type {
            ResourceType::Cluster | ResourceType::Endpoint => id.kind == Kind::Service && *id.name == *name,
            ResourceType::Route => match id.kind {
                Kind::Gateway => *id.name == *gateway,
                Kind::Api => self.is_api_of(id, gateway) || earlier.is_api_of(id, gateway),
                Kind::Plan | Kind::Tenant | Kind::RateLimits | Kind::Service => true,
            },
            _ => match secret::service_of(name) {
                Some(service) => id.kind == Kind::Service && *id.name == *service,
                None => id.kind == Kind::Gateway && *id.name == *gateway,
            },
        };
        self.documents.changed_since(&earlier.documents).filter(|id| is_behind(id)).cloned().collect()
    }

    fn is_api_of(&self, id: &DocumentId, gateway: &str) -> bool {
        let policy = self.documents.get(id).map(|parsed| &parsed.policy);
        matches!(policy, Some(Policy::Api(api)) if api.gateway.as_str() == gateway)
    }
}

/// The policies, where single documents have no problems and neither have they together. What documents that make no
/// sense lack for others is no problem of the others: it would only be told twice. `broken` says who they are, where that
/// can be told.
fn told_together(
    mut problems: Vec<Problem>,
    broken: &[Option<DocumentId>],
    documents: &ParsedById,
    linked: Result<PolicySet, Vec<Problem>>,
) -> Result<PolicySet, Vec<Problem>> {
    let is_caused = |problem: &Problem| {
        let mut missing = problem.involves.iter().filter(|id| !documents.contains_key(*id));
        missing.any(|missing| broken.iter().any(|id| id.as_ref().is_none_or(|id| id == missing)))
    };
    match linked {
        Ok(policies) if problems.is_empty() => return Ok(policies),
        Ok(_) => {}
        Err(of_set) => problems.extend(of_set.into_iter().filter(|problem| !is_caused(problem))),
    }
    problems.sort_by(|a, b| (&a.origin, a.place_in_text()).cmp(&(&b.origin, b.place_in_text())));
    Err(problems)
}

/// The services of which other instances may be registered than `before`, where these documents changed. `None` before:
/// nobody knows what the instances were.
pub(super) fn services_reached(
    policies: &PolicySet,
    changed: &BTreeSet<DocumentId>,
    before: Option<&Instances>,
    instances: &Instances,
) -> BTreeSet<Name> {
    let changed = changed.iter().filter(|id| id.kind == Kind::Service).filter_map(|id| Name::parse(&id.name));
    let mut services: BTreeSet<Name> = changed.collect();
    match before {
        Some(before) => {
            let reached = instances.changed_since(before).flat_map(|registry| policies.services.of_registry(registry));
            services.extend(reached.map(|service| service.name.clone()));
        }
        None => services.extend(policies.services.registered().map(|service| service.name.clone())),
    }
    services
}

/// The registered instances of each service, of which those of these services may be others than `before`: as the source
/// says, or, where it says that there is none, as the service wants it.
pub(super) fn registered(
    policies: &PolicySet,
    instances: &Instances,
    before: &Registered,
    services: BTreeSet<Name>,
) -> Registered {
    let mut registered = before.clone();
    for name in services {
        let known = before.get(&name);
        let service = policies.services.get(name.as_str());
        match service.and_then(|service| instances_of(service, instances, known)) {
            Some(now) if known == Some(&now) => {}
            Some(now) => drop(registered.insert(name, now)),
            None => drop(registered.remove(&name)),
        }
    }
    registered
}

/// `None` where the service's instances do not register themselves.
fn instances_of(service: &Service, instances: &Instances, before: Option<&Arc<[Instance]>>) -> Option<Arc<[Instance]>> {
    let Discovery::Registry { name, when_empty } = &service.discovery else { return None };
    let now = instances.get(name.as_str()).filter(|now| !now.is_empty());
    let kept = || before.filter(|_| *when_empty == WhenEmpty::Keep);
    Some(now.or_else(kept).map_or_else(|| Arc::from([]), Arc::clone))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Live, Settings};
    use super::*;
    use crate::clock::Timestamp;
    use crate::document::split;
    use crate::limiter::matcher::{Asked, Described};
    use crate::limiter::older::OlderForms;
    use crate::names::Name;

    fn settings() -> Settings {
        let rate_limit_service = RateLimitService::default();
        Settings { rate_limit_service, counter_keys: KeyHasher::seeded([5; 16]), allow_empty: false }
    }

    /// A set of which each part is there in one of several versions, all of which fit together.
    fn set(api: u32, plan: u32, tenants: &[u32]) -> Documents {
        let by = ["", ", by: [client_ip]", ", by: [path, {header: x-a}]"][api as usize % 3];
        let mut text = format!(
            "{{kind: Gateway, name: shop, nodes: {{clusters: [edge]}}, listen: '127.0.0.1:1',
              tenant: {{from: {{header: x-tenant-id}}, default_plan: standard}}}}
---
{{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}}
---
{{kind: Api, name: create, gateway: shop, match: {{path: /create}}, service: order, limits: [{{rate: 10/s{by}}}]}}
---
{{kind: Plan, name: standard, limits: [{{rate: {}/m}}]}}
",
            600 + plan
        );
        for (index, version) in tenants.iter().enumerate() {
            let own = match version {
                0 => continue,
                1 => "plan: standard",
                2 => "limits: [{rate: 7/m}]",
                3 => "plan: standard, status: suspended",
                4 => "limits: [{rate: 7/m, by: [{header: x-b}]}]",
                _ => "apis: {create: [{rate: 3/m, by: [{query: c}], cost: {header: x-d}}]}",
            };
            text.push_str(&format!("---\n{{kind: Tenant, name: t{index}, {own}}}\n"));
        }
        Documents::new(Revision::default(), split(&"p.yaml".into(), text.as_bytes()))
    }

    /// The limits that each tenant meets.
    fn decisions(generation: &Generation) -> Vec<String> {
        let of = |tenant: usize| {
            let name = format!("t{tenant}");
            let forms = generation.matcher.forms(&Name::parse("shop").unwrap()).unwrap();
            let id = forms.ids().next().unwrap();
            let entries = [("api", id), ("tenant", name.as_str()), ("header:x-b", "1"), ("query:c", "2")];
            let entries = entries.map(|(key, value)| (key.as_bytes(), value.as_bytes()));
            let asked = Asked { gateway: "shop", descriptors: &[Described { entries: &entries, hits: 1 }] };
            let older = OlderForms::default();
            let limits = generation.matcher.find(&asked, &older).unwrap().limits;
            let shown = limits.map(|limits| limits.iter().map(|l| (l.limit.rate, l.charge.key)).collect::<Vec<_>>());
            format!("{shown:?}")
        };
        (0..4).map(of).collect()
    }

    proptest! {
        /// However a set came to be what it is, it is served as if it had been read at once.
        #[test]
        fn a_history_of_changes_ends_where_its_last_set_begins(
            history in prop::collection::vec((0..3_u32, 0..3_u32, prop::array::uniform4(0..6_u32)), 1..8),
        ) {
            let (live, mut writer) = Live::new(settings());
            for (api, plan, tenants) in history {
                let documents = set(api, plan, &tenants);
                writer.adopt(&documents, Timestamp::default());
                prop_assert!(live.refused().is_empty());
                let served = live.generation().unwrap();
                let fresh = Generation::build(&documents, &settings()).unwrap();
                prop_assert_eq!(&served.snapshot.groups, &fresh.snapshot.groups);
                prop_assert_eq!(decisions(&served), decisions(&fresh));
                prop_assert_eq!(&served.policies.reported_for_tenants, &fresh.policies.reported_for_tenants);
                prop_assert_eq!(served.documents.len(), fresh.documents.len());
            }
        }
    }

    /// Services of which each registers itself under one of two names, keeps its last instances or does not, or is none.
    fn registries(choices: &[usize]) -> Documents {
        let text = |(n, choice): (usize, &usize)| match choice % 6 {
            0 => String::new(),
            1 => format!("{{kind: Service, name: s{n}, dns: 'a.example:80'}}"),
            choice => {
                let (registry, when_empty) = (choice % 2, ["keep", "empty"][choice / 2 - 1]);
                format!("{{kind: Service, name: s{n}, registry: r{registry}, when_empty: {when_empty}}}")
            }
        };
        let gateway = "{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1'}".to_owned();
        let texts: Vec<String> = std::iter::once(gateway).chain(choices.iter().enumerate().map(text)).collect();
        Documents::new(Revision::default(), split(&"p.yaml".into(), texts.join("\n---\n").as_bytes()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against all services looked up anew after every step of a history.
        #[test]
        fn instances_are_those_that_the_source_has_or_the_last_ones(
            history in prop::collection::vec((prop::collection::vec(0..6_usize, 4), prop::array::uniform2(0..3_u16)), 1..10),
        ) {
            let (live, mut writer) = Live::new(settings());
            let mut expected = std::collections::BTreeMap::<Name, Arc<[Instance]>>::new();
            for (choices, ports) in history {
                let mut documents = registries(&choices);
                let of_registry = |(registry, port): (usize, &u16)| {
                    let instance = |port: &u16| Instance { address: ([127, 0, 0, 1], *port).into(), weight: 1, zone: None };
                    (format!("r{registry}").into(), Some(port).filter(|port| **port > 0).map(instance).into_iter().collect())
                };
                let instances: Instances = ports.iter().enumerate().map(of_registry).collect();
                documents.instances = Some(instances.clone());
                writer.adopt(&documents, Timestamp::default());
                prop_assert!(live.refused().is_empty(), "{:?}", live.refused());
                let generation = live.generation().unwrap();
                let services = generation.policies.services.registered();
                expected = services.map(|service| {
                    let now = instances_of(service, &instances, expected.get(&service.name)).unwrap();
                    (service.name.clone(), now)
                }).collect();
                let registered: std::collections::BTreeMap<_, _> = generation.registered.iter().map(|(name, now)| (name.clone(), Arc::clone(now))).collect();
                prop_assert_eq!(&registered, &expected);
            }
        }
    }

    #[test]
    fn instances_of_an_earlier_run_are_kept_for_services_that_are_still_there() {
        let instance = |port: u16| -> Arc<[Instance]> {
            [Instance { address: ([127, 0, 0, 1], port).into(), weight: 1, zone: None }].into()
        };
        let (live, mut writer) = Live::new(settings());
        let name = |name| Name::parse(name).unwrap();
        let kept = [(name("s0"), instance(1)), (name("s1"), instance(2)), (name("gone"), instance(3))];
        let mut documents = registries(&[2, 4]);
        documents.instances = Some(Instances::default());
        writer.restore(&documents, kept.into_iter().collect(), Timestamp::default());
        writer.adopt(&documents, Timestamp::default());
        let registered = &live.generation().unwrap().registered;
        assert_eq!(registered.get("s0"), Some(&instance(1)), "it keeps its last");
        assert_eq!(registered.get("s1").map(|instances| instances.len()), Some(0), "it does not");
        assert_eq!(registered.get("gone"), None);
    }

    #[test]
    fn services_whose_instances_an_earlier_run_did_not_know_get_those_that_are_there_now() {
        let (live, mut writer) = Live::new(settings());
        let mut documents = registries(&[3]);
        documents.instances = Some(Instances::default());
        writer.restore(&documents, Registered::default(), Timestamp::default());
        // No document is another than it was.
        let instance = Instance { address: ([127, 0, 0, 1], 1).into(), weight: 1, zone: None };
        documents.instances = Some([("r1".into(), [instance.clone()].into())].into_iter().collect());
        writer.adopt(&documents, Timestamp::default());
        let registered = &live.generation().unwrap().registered;
        assert_eq!(registered.get("s0").map(|instances| &**instances), Some(&[instance][..]));
    }
}
