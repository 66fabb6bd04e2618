//! The problems that documents have with each other, of a set that differs in some of them from one that has no problems:
//! what changed is checked, and what refers to it. All else fits as it did.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{ParsedById, PolicySet};
use crate::names::descriptor::LIST_ACTIONS_MAX;
use crate::names::{DocumentId, Kind, Name};
use crate::policy::api::Api;
use crate::policy::gateway::{DefaultPlan, Gateway};
use crate::policy::normalize::Normalized;
use crate::policy::parse::Parsed;
use crate::policy::problem::{Finding, Path, Problem, Target, nearest};
use crate::policy::rate_limits::RateLimits;
use crate::policy::service::Protocol;
use crate::policy::tenant::{LimitsByApi, Plan, Tenant};
use crate::policy::tree::Tree;

pub(super) struct Linker<'a> {
    /// Has no problems.
    base: &'a PolicySet,
    set: &'a PolicySet,
    documents: &'a ParsedById,
    changed: &'a BTreeSet<DocumentId>,
    misfits: Vec<Misfit<'a>>,
}

/// A problem that shows only among documents, before it is known where in the text it lies.
pub(super) struct Misfit<'a> {
    pub(super) document: &'a Parsed,
    pub(super) others: Vec<DocumentId>,
    pub(super) path: Path,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl<'a> Linker<'a> {
    pub(super) fn new(
        base: &'a PolicySet,
        set: &'a PolicySet,
        documents: &'a ParsedById,
        changed: &'a BTreeSet<DocumentId>,
    ) -> Self {
        Self { base, set, documents, changed, misfits: Vec::new() }
    }

    pub(super) fn problems(mut self) -> Vec<Problem> {
        let loses = self.changed.iter().any(|id| self.loses_what_limits_refer_to(id));
        self.check_tenants(loses);
        self.check_gateways();
        let apis = self.apis_to_check();
        apis.values().for_each(|api| self.check_api(api));
        self.check_plans(loses);
        self.check_gateways_of_lists();
        self.check_listeners();
        self.check_matches();
        apis.values().for_each(|api| self.check_path(api));
        self.check_actions_of_lists();
        located(self.misfits)
    }

    fn changed(&self, kind: Kind) -> impl Iterator<Item = &'a str> + use<'a> {
        self.changed.iter().filter(move |id| id.kind == kind).map(|id| &*id.name)
    }

    fn changed_gateways(&self) -> impl Iterator<Item = &'a Arc<Gateway>> + use<'a> {
        let set = self.set;
        self.changed(Kind::Gateway).filter_map(|name| set.gateways.get(name))
    }

    fn changed_apis(&self) -> impl Iterator<Item = &'a Arc<Api>> + use<'a> {
        let set = self.set;
        self.changed(Kind::Api).filter_map(|name| set.apis.get(name))
    }

    /// True where limits of plans and tenants may have led to something that is there no more: a plan, an Api, or that an
    /// Api's requests have tenants.
    fn loses_what_limits_refer_to(&self, id: &DocumentId) -> bool {
        let is_lost = |has: fn(&PolicySet, &str) -> bool| has(self.base, &id.name) && !has(self.set, &id.name);
        match id.kind {
            Kind::Plan => is_lost(|set, plan| set.plans.contains_key(plan)),
            Kind::Gateway => is_lost(has_tenants),
            Kind::Api => {
                is_lost(|set, api| set.apis.get(api).is_some_and(|api| has_tenants(set, api.gateway.as_str())))
            }
            Kind::Service | Kind::Tenant | Kind::RateLimits => false,
        }
    }

    /// The Apis that changed, and those that refer to a gateway or a service that did.
    fn apis_to_check(&self) -> BTreeMap<&'a Name, &'a Arc<Api>> {
        let set = self.set;
        let gateways = self.changed(Kind::Gateway).filter_map(Name::parse);
        let of_gateways = gateways.flat_map(|gateway| set.apis.of_gateway(&gateway));
        let services = self.changed(Kind::Service).filter_map(Name::parse);
        let of_services = services.flat_map(|service| {
            let gateways = set.apis.gateways_of_service(&service);
            gateways.flat_map(|gateway| set.apis.of_gateway(gateway)).filter(move |api| api.service == service)
        });
        self.changed_apis().chain(of_gateways).chain(of_services).map(|api| (&api.name, api)).collect()
    }

    fn check_gateways(&mut self) {
        let set = self.set;
        let is_gone = |plan: &str| self.base.plans.contains_key(plan) && !set.plans.contains_key(plan);
        let gateways: Vec<&Arc<Gateway>> = match self.changed(Kind::Plan).any(is_gone) {
            true => set.gateways.sorted().into_iter().map(|(_, gateway)| gateway).collect(),
            false => self.changed_gateways().collect(),
        };
        for gateway in gateways {
            let from = DocumentId::new(Kind::Gateway, gateway.name.as_str());
            if let Some(DefaultPlan::Plan(plan)) = gateway.tenant.as_ref().map(|tenant| &tenant.default_plan) {
                self.refer(&from, || Path::of(["tenant", "default_plan"]), Kind::Plan, plan);
            }
        }
    }

    fn check_api(&mut self, api: &Api) {
        let from = DocumentId::new(Kind::Api, api.name.as_str());
        self.refer(&from, || Path::of(["gateway"]), Kind::Gateway, &api.gateway);
        if self.refer(&from, || Path::of(["service"]), Kind::Service, &api.service) {
            self.check_upgrades(&from, api);
        }
    }

    fn check_plans(&mut self, are_all_open: bool) {
        let set = self.set;
        let plans: Vec<&Arc<Plan>> = match are_all_open {
            true => set.plans.values().collect(),
            false => self.changed(Kind::Plan).filter_map(|name| set.plans.get(name)).collect(),
        };
        for plan in plans {
            self.refer_to_apis(&DocumentId::new(Kind::Plan, plan.name.as_str()), &plan.apis);
        }
    }

    fn check_gateways_of_lists(&mut self) {
        let set = self.set;
        let is_gone = |gateway: &str| !set.gateways.contains_key(gateway);
        let lists: Vec<&Arc<RateLimits>> = match self.changed(Kind::Gateway).any(is_gone) {
            true => set.rate_limits.values().collect(),
            false => self.changed(Kind::RateLimits).filter_map(|name| set.rate_limits.get(name)).collect(),
        };
        for list in lists {
            if let Some(gateway) = &list.gateway {
                let from = DocumentId::new(Kind::RateLimits, &list.name);
                self.refer(&from, || Path::of(["gateway"]), Kind::Gateway, gateway);
            }
        }
    }

    /// An upgrade is one of a connection of HTTP/1.1. Upstreams that speak HTTP/2 hardly ever know its own kind (RFC 8441).
    fn check_upgrades(&mut self, from: &DocumentId, api: &Api) {
        let service = self.set.services.get(api.service.as_str());
        if let Some(service) = service.filter(|service| service.protocol != Protocol::Http1 && !api.upgrades.is_empty())
        {
            let message =
                format!("needs `protocol: http1` of Service {}, to which a websocket is handed over", service.name);
            let service = DocumentId::new(Kind::Service, service.name.as_str());
            self.tell(from, &[service], Path::of(["upgrades"]), message, None);
        }
    }

    fn check_tenants(&mut self, are_all_open: bool) {
        let set = self.set;
        let mut tenants: Vec<&Arc<Tenant>> = match are_all_open {
            true => set.tenants.values().collect(),
            false => self.changed(Kind::Tenant).filter_map(|name| set.tenants.get(name)).collect(),
        };
        // They come in no order, but people are told of them in one.
        tenants.sort_unstable_by_key(|tenant| &tenant.name);
        for tenant in tenants {
            let from = DocumentId::new(Kind::Tenant, tenant.name.as_str());
            if let Some(plan) = &tenant.plan {
                self.refer(&from, || Path::of(["plan"]), Kind::Plan, plan);
            }
            self.refer_to_apis(&from, &tenant.apis);
        }
    }

    /// Limits by Api need the Api, and a gateway that can tell whose request it is.
    fn refer_to_apis(&mut self, from: &DocumentId, apis: &LimitsByApi) {
        for name in apis.keys() {
            let path = || Path(vec!["apis".into(), name.as_str().into()]);
            if !self.refer(from, path, Kind::Api, name) {
                continue;
            }
            let api = self.set.apis.get(name.as_str());
            let gateway = api.and_then(|api| self.set.gateways.get(&api.gateway));
            if let Some(gateway) = gateway.filter(|gateway| gateway.tenant.is_none()) {
                let message =
                    format!("never acts: Gateway {} has no `tenant`, so its requests have none", gateway.name);
                let others =
                    [DocumentId::new(Kind::Api, name.as_str()), DocumentId::new(Kind::Gateway, gateway.name.as_str())];
                self.tell(from, &others, path(), message, None);
            }
        }
    }

    /// Checks that the document that is referred to exists; a problem where not.
    fn refer(&mut self, from: &DocumentId, path: impl FnOnce() -> Path, kind: Kind, name: &Name) -> bool {
        let set = self.set;
        let names: Box<dyn Iterator<Item = &Name>> = match kind {
            Kind::Gateway if !set.gateways.contains_key(name) => Box::new(set.gateways.keys()),
            Kind::Service if set.services.get(name.as_str()).is_none() => Box::new(set.services.names()),
            Kind::Api if set.apis.get(name.as_str()).is_none() => Box::new(set.apis.names()),
            Kind::Plan if !set.plans.contains_key(name) => Box::new(set.plans.keys()),
            _ => return true,
        };
        let help = nearest(name.as_str(), names.map(Name::as_str));
        let message = format!("no {kind} is called {:?}", name.as_str());
        self.tell(from, &[DocumentId::new(kind, name.as_str())], path(), message, help);
        false
    }

    fn tell(&mut self, from: &DocumentId, others: &[DocumentId], path: Path, message: String, help: Option<String>) {
        let document = self.documents.get(from);
        self.misfits.extend(document.map(|document| Misfit { document, others: others.to_vec(), path, message, help }));
    }

    /// Two gateways cannot listen on one address of one Envoy.
    fn check_listeners(&mut self) {
        if self.changed_gateways().next().is_none() {
            return;
        }
        let mut by_port: BTreeMap<u16, Vec<&Arc<Gateway>>> = BTreeMap::new();
        for (_, gateway) in self.set.gateways.sorted() {
            by_port.entry(gateway.listen.port()).or_default().push(gateway);
        }
        let is_changed = |gateway: &Gateway| self.is_changed(Kind::Gateway, &gateway.name);
        let meet = |a: &Gateway, b: &Gateway| {
            let (ip_a, ip_b) = (a.listen.ip(), b.listen.ip());
            (ip_a == ip_b || ip_a.is_unspecified() || ip_b.is_unspecified()) && a.nodes.overlaps(&b.nodes)
        };
        let mut misfits = Vec::new();
        for gateways in by_port.values() {
            for (a, b) in meeting(gateways, is_changed, meet) {
                let message = |other: &Gateway| {
                    format!("collides with Gateway {}, which listens on {} of the same nodes", other.name, other.listen)
                };
                misfits.extend(self.both(
                    Kind::Gateway,
                    (&a.name, message(b)),
                    (&b.name, message(a)),
                    &["listen"],
                    None,
                ));
            }
        }
        self.misfits.extend(misfits);
    }

    /// Two Apis of a gateway have to be told apart by more than chance.
    fn check_matches(&mut self) {
        let gateways: BTreeSet<&Name> = self.changed_apis().map(|api| &api.gateway).collect();
        let mut by_path: BTreeMap<_, Vec<&Arc<Api>>> = BTreeMap::new();
        for api in gateways.into_iter().flat_map(|gateway| self.set.apis.of_gateway(gateway)) {
            by_path.entry((&api.gateway, &api.matches.path)).or_default().push(api);
        }
        let is_changed = |api: &Api| self.is_changed(Kind::Api, &api.name);
        let mut misfits = Vec::new();
        for apis in by_path.values() {
            for (a, b) in meeting(apis, is_changed, |a, b| a.matches.collides(&b.matches)) {
                let message = |other: &Api| format!("takes the same requests as Api {}", other.name);
                let help = Some(format!("told apart by {}", a.matches.told_apart_by(&b.matches)));
                misfits.extend(self.both(Kind::Api, (&a.name, message(b)), (&b.name, message(a)), &["match"], help));
            }
        }
        self.misfits.extend(misfits);
    }

    /// All lists of a gateway together are bounded.
    fn check_actions_of_lists(&mut self) {
        let set = self.set;
        for gateway in self.gateways_of_changed_lists() {
            let lists: Vec<_> = set.rate_limits.values().filter(|list| list.is_for(gateway)).collect();
            let actions = |list: &RateLimits| list.limited().map(|(entry, _)| entry.actions.len()).sum::<usize>();
            let all: usize = lists.iter().map(|list| actions(list)).sum();
            if all <= LIST_ACTIONS_MAX {
                continue;
            }
            let ids: Vec<_> = lists.iter().map(|list| DocumentId::new(Kind::RateLimits, &list.name)).collect();
            for id in &ids {
                let message = format!(
                    "the lists for Gateway {gateway} have {all} actions in all, expected at most {LIST_ACTIONS_MAX}"
                );
                self.tell(id, &ids, Path::of(["rate_limits"]), message, None);
            }
        }
    }

    /// Checks paths with escaped slashes: what becomes of them is for an Api's gateway to say, and with it whether
    /// such a path arrives.
    fn check_path(&mut self, api: &Api) {
        let Some(gateway) = self.set.gateways.get(&api.gateway) else { return };
        let Some(normalized) = api.matches.path.arrives_otherwise(gateway.escaped_slashes) else { return };
        let name = &gateway.name;
        let message = match normalized {
            Normalized::Redirect(path) => format!("never arrives: Gateway {name} redirects it to {path}"),
            Normalized::Path(path) => format!("never arrives: Gateway {name} makes {path} of it"),
            Normalized::Refused(reason) => format!("never arrives: Gateway {name} refuses it ({reason})"),
        };
        let help = format!("Gateway {name} can leave escaped slashes alone: `path: {{ escaped_slashes: keep }}`");
        let from = DocumentId::new(Kind::Api, api.name.as_str());
        let others = [DocumentId::new(Kind::Gateway, name.as_str())];
        self.tell(&from, &others, Path::of(["match", api.matches.path.field()]), message, Some(help));
    }

    /// The gateways that changed, and those that a list is for which did.
    fn gateways_of_changed_lists(&self) -> BTreeSet<&'a Name> {
        let set = self.set;
        let lists = self.changed(Kind::RateLimits).filter_map(|name| set.rate_limits.get(name));
        let mut gateways: BTreeSet<&Name> = self.changed_gateways().map(|gateway| &gateway.name).collect();
        for list in lists {
            match &list.gateway {
                Some(gateway) => gateways.extend(set.gateways.get(gateway).map(|gateway| &gateway.name)),
                None => return set.gateways.keys().collect(),
            }
        }
        gateways
    }

    fn is_changed(&self, kind: Kind, name: &Name) -> bool {
        self.changed.contains(&DocumentId::new(kind, name.as_str()))
    }

    /// A problem that two documents have with each other, told at both.
    fn both(
        &self,
        kind: Kind,
        a: (&Name, String),
        b: (&Name, String),
        path: &[&str],
        help: Option<String>,
    ) -> Vec<Misfit<'a>> {
        let id = |name: &Name| DocumentId::new(kind, name.as_str());
        let path = || Path(path.iter().map(|key| (*key).into()).collect());
        let (id_a, id_b) = (id(a.0), id(b.0));
        let tell = |this: &DocumentId, that: &DocumentId, message: String| {
            let document = self.documents.get(this)?;
            Some(Misfit { document, others: vec![that.clone()], path: path(), message, help: help.clone() })
        };
        [tell(&id_a, &id_b, a.1), tell(&id_b, &id_a, b.1)].into_iter().flatten().collect()
    }
}

fn has_tenants(set: &PolicySet, gateway: &str) -> bool {
    set.gateways.get(gateway).is_some_and(|gateway| gateway.tenant.is_some())
}

/// The pairs that meet and of which one at least has changed, each once.
fn meeting<'a, T>(
    items: &[&'a Arc<T>],
    is_changed: impl Fn(&T) -> bool,
    meet: impl Fn(&T, &T) -> bool,
) -> Vec<(&'a T, &'a T)> {
    let items = items.iter().map(|item| &***item);
    let (changed, others): (Vec<&T>, Vec<&T>) = items.partition(|item| is_changed(item));
    let mut pairs = Vec::new();
    let mut rest = changed.as_slice();
    while let [first, after @ ..] = rest {
        pairs.extend(after.iter().chain(&others).filter(|other| meet(first, other)).map(|other| (*first, *other)));
        rest = after;
    }
    pairs
}

/// The problems with their places. Each text is read once more, however many problems it has: problems are rare, and
/// policies need not carry places around for them.
pub(super) fn located(misfits: Vec<Misfit<'_>>) -> Vec<Problem> {
    let mut by_document: Vec<(usize, Misfit<'_>)> = misfits.into_iter().enumerate().collect();
    by_document.sort_by_key(|(_, misfit)| std::ptr::from_ref(misfit.document));
    let mut problems = Vec::with_capacity(by_document.len());
    let mut read: Option<(&Parsed, Option<Tree>)> = None;
    for (index, Misfit { document, others, path, message, help }) in by_document {
        let known = read.take().filter(|(last, _)| std::ptr::eq(*last, document));
        let (_, tree) = read.insert(known.unwrap_or_else(|| (document, tree_of(document))));
        let finding = Finding { path, target: Target::Value, message, help };
        let mut problem = Problem::locate(&document.document, Some(&document.id), finding, tree.as_ref());
        problem.involves.extend(others);
        problems.push((index, problem));
    }
    problems.sort_by_key(|(index, _)| *index);
    problems.into_iter().map(|(_, problem)| problem).collect()
}

fn tree_of(parsed: &Parsed) -> Option<Tree> {
    let text = std::str::from_utf8(parsed.document.content.as_deref().ok()?).ok()?;
    Tree::parse(text).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::document::split;
    use crate::policy::apis::visits;
    use crate::policy::parse::parse;

    /// The first version of each document fits all others.
    const VERSIONS: [&[&str]; 12] = [
        &[
            "{kind: Gateway, name: shop, nodes: {clusters: [a]}, listen: '127.0.0.1:1', tenant: {from: {cookie: t}, default_plan: gold}}",
            "{kind: Gateway, name: shop, nodes: {clusters: [a]}, listen: '127.0.0.1:1', path: {escaped_slashes: keep}}",
            "",
        ],
        &[
            "{kind: Gateway, name: side, nodes: {clusters: [b]}, listen: '127.0.0.1:1'}",
            "{kind: Gateway, name: side, nodes: {clusters: [b]}, listen: '127.0.0.1:1', tenant: {from: {cookie: t}, default_plan: deny}}",
            "{kind: Gateway, name: side, nodes: {clusters: [a]}, listen: '0.0.0.0:1'}",
        ],
        &["{kind: Service, name: order, endpoints: ['127.0.0.1:1']}", ""],
        &[
            "{kind: Service, name: pay, endpoints: ['127.0.0.1:2']}",
            "{kind: Service, name: pay, endpoints: ['127.0.0.1:2'], protocol: http2}",
        ],
        &[
            "{kind: Api, name: create, gateway: shop, match: {path: /a}, service: order}",
            "{kind: Api, name: create, gateway: side, match: {path: /b}, service: pay, upgrades: [websocket]}",
            "",
        ],
        &[
            "{kind: Api, name: read, gateway: side, match: {path: /b}, service: pay, upgrades: [websocket]}",
            "{kind: Api, name: read, gateway: shop, match: {path: /a}, service: pay}",
            "{kind: Api, name: read, gateway: shop, match: {path: /a%2Fb}, service: order}",
        ],
        &[
            "{kind: Plan, name: gold, limits: [{rate: 1/m}]}",
            "{kind: Plan, name: gold, apis: {read: [{rate: 1/m}]}}",
            "",
        ],
        &["{kind: Plan, name: free, apis: {create: [{rate: 1/m}]}}", ""],
        &["{kind: Tenant, name: t, plan: free}", "{kind: Tenant, name: t, plan: gold}", ""],
        &[
            "{kind: Tenant, name: u, apis: {create: [{rate: 1/m}]}}",
            "{kind: Tenant, name: u, apis: {read: [{rate: 1/m}]}}",
        ],
        &[
            "{name: one, gateway: side, rate_limits: [{actions: [{remote_address: {}}], limit: {unit: MINUTE, requests_per_unit: 1}}]}",
            "{name: one, gateway: shop, rate_limits: [{actions: [{remote_address: {}}], limit: {unit: MINUTE, requests_per_unit: 1}}]}",
            "MANY one",
        ],
        &["", "MANY two"],
    ];

    /// A list of more than half of the actions that a gateway may have.
    fn many(name: &str) -> String {
        let entry = |n| {
            let actions: Vec<_> = (0..9).map(|m| format!("{{generic_key: {{descriptor_value: v{n}-{m}}}}}")).collect();
            format!("{{actions: [{}], limit: {{unit: MINUTE, requests_per_unit: 1}}}}", actions.join(", "))
        };
        let entries: Vec<String> = (0..16).map(entry).collect();
        format!("{{name: {name}, rate_limits: [{}]}}", entries.join(", "))
    }

    static PARSED: LazyLock<Vec<Vec<Option<Arc<Parsed>>>>> = LazyLock::new(|| {
        let parsed = |version: &&str| {
            let text = version.strip_prefix("MANY ").map_or_else(|| (*version).to_owned(), many);
            let document = split(&"p.yaml".into(), text.as_bytes()).pop()?;
            Some(Arc::new(parse(&Arc::new(document)).unwrap()))
        };
        VERSIONS.iter().map(|versions| versions.iter().map(parsed).collect()).collect()
    });

    fn documents(choices: &[usize]) -> ParsedById {
        let chosen =
            PARSED.iter().zip(choices).filter_map(|(versions, choice)| versions[choice % versions.len()].as_ref());
        chosen.map(|parsed| (parsed.id.clone(), Arc::clone(parsed))).collect()
    }

    fn told(linked: Result<PolicySet, Vec<Problem>>) -> Vec<String> {
        let told = |problem: Problem| format!("{:?} {} {:?}", problem.document, problem.message, problem.involves);
        let mut told: Vec<String> = linked.err().into_iter().flatten().map(told).collect();
        told.sort();
        told
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        /// Both documents of a problem tell of each other, whichever of them changed.
        #[test]
        fn a_change_is_told_the_problems_that_all_documents_together_have(
            history in prop::collection::vec(prop::collection::vec((0..VERSIONS.len(), 0..3_usize), 1..4), 1..16),
        ) {
            let mut choices = [0; VERSIONS.len()];
            let mut before = documents(&choices);
            let all = before.keys().cloned().collect();
            let mut base = PolicySet::link(&PolicySet::default(), &before, &all).unwrap();
            for change in history {
                let mut next_choices = choices;
                change.into_iter().for_each(|(place, version)| next_choices[place] = version);
                let next = documents(&next_choices);
                let is_changed = |id: &&DocumentId| before.get(*id).map(Arc::as_ptr) != next.get(*id).map(Arc::as_ptr);
                let changed = before.keys().chain(next.keys()).filter(is_changed).cloned().collect();
                let linked = PolicySet::link(&base, &next, &changed);
                let all = next.keys().cloned().collect();
                let afresh = PolicySet::link(&PolicySet::default(), &next, &all);
                if let (Ok(linked), Ok(_)) = (&linked, &afresh) {
                    (base, before, choices) = (linked.clone(), next, next_choices);
                }
                prop_assert_eq!(told(linked), told(afresh));
            }
        }
    }

    #[test]
    fn a_change_looks_at_the_apis_of_the_gateways_that_it_reaches() {
        let of_gateway = |g: usize| {
            let api = |n| {
                format!("\n---\n{{kind: Api, name: a{g}-{n}, gateway: g{g}, match: {{path: /{n}}}, service: s{g}}}")
            };
            format!(
                "{{kind: Gateway, name: g{g}, nodes: {{clusters: [c{g}]}}, listen: '127.0.0.1:1'}}\n---\n\
                 {{kind: Service, name: s{g}, endpoints: ['127.0.0.1:1']}}{}",
                (0..10).map(api).collect::<String>()
            )
        };
        let texts: Vec<String> = (0..50).map(of_gateway).collect();
        let documents = split(&"p.yaml".into(), texts.join("\n---\n").as_bytes());
        let parsed = documents.into_iter().map(|document| Arc::new(parse(&Arc::new(document)).unwrap()));
        let parsed: ParsedById = parsed.map(|parsed| (parsed.id.clone(), parsed)).collect();
        let all = parsed.keys().cloned().collect();
        let base = PolicySet::link(&PolicySet::default(), &parsed, &all).unwrap();
        for (kind, name) in [(Kind::Api, "a7-1"), (Kind::Service, "s7"), (Kind::Gateway, "g7")] {
            let changed = BTreeSet::from([DocumentId::new(kind, name)]);
            let visits = visits::during(|| drop(PolicySet::link(&base, &parsed, &changed).unwrap()));
            assert!(visits <= 20, "{kind} {name} looks at {visits} Apis");
        }
    }
}
