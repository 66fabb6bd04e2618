//! A set of policies that fit together: every reference leads somewhere, and no two contradict each other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::api::Api;
use super::gateway::{DefaultPlan, Gateway};
use super::normalize::Normalized;
use super::parse::{Parsed, Policy};
use super::problem::{Finding, Path, Problem, Target, nearest};
use super::rate_limits::RateLimits;
use super::service::{Discovery, Protocol, Service};
use super::tenant::{LimitsByApi, Plan, ReportedForTenants, Tenant};
use super::tree::Tree;
use crate::names::descriptor::LIST_ACTIONS_MAX;
use crate::names::{DocumentId, Kind, Name, TenantName};
use crate::shared_map::SharedMap;

/// Parsed documents by who they are.
pub type ParsedById = SharedMap<DocumentId, Arc<Parsed>>;

/// All policies at one revision, cross-checked. What the compiler goes through is ordered, so that whatever is made
/// from it is the same on every replica.
#[derive(Clone, Debug, Default)]
pub struct PolicySet {
    pub gateways: Arc<BTreeMap<Name, Arc<Gateway>>>,
    pub services: Arc<BTreeMap<Name, Arc<Service>>>,
    pub apis: Arc<BTreeMap<Name, Arc<Api>>>,
    pub plans: Arc<BTreeMap<Name, Arc<Plan>>>,
    /// Many more than of anything else.
    pub tenants: SharedMap<TenantName, Arc<Tenant>>,
    pub reported_for_tenants: ReportedForTenants,
    pub rate_limits: Arc<BTreeMap<Arc<str>, Arc<RateLimits>>>,
}

/// A problem for each of several documents that claim to be the same.
pub fn doubled(parsed: &[Arc<Parsed>]) -> Vec<Problem> {
    let Some((first, others)) = parsed.split_first() else { return Vec::new() };
    let tell = |this, that: &Parsed| {
        let message = format!("is defined twice, here and at {}", that.document.origin);
        Misfit { document: this, others: Vec::new(), path: Path::of(["name"]), message, help: None }
    };
    located(others.iter().flat_map(|other| [tell(&**first, other), tell(other, first)]).collect())
}

impl PolicySet {
    /// Puts the documents together, or says everything that keeps them apart. `base` is what the same documents but
    /// for the changed ones were put together to; the empty set, if all of them are new. A change of tenants costs
    /// what those tenants cost, not what all of them do.
    pub fn link(base: &Self, documents: &ParsedById, changed: &BTreeSet<DocumentId>) -> Result<Self, Vec<Problem>> {
        let mut set = base.clone();
        changed.iter().for_each(|id| set.put(id, documents.get(id).map(|parsed| &parsed.policy)));
        let mut linker = Linker { documents, set: &set, misfits: Vec::new() };
        match set.tenants_may_refer_to() == base.tenants_may_refer_to() {
            true => linker.check_tenants(changed.iter().filter_map(|id| set.tenants.get(tenant_name(id)?))),
            false => linker.check_tenants(set.tenants.values()),
        }
        // Nothing refers to tenants, so without another change the others fit as they did.
        if changed.iter().any(|id| id.kind != Kind::Tenant) {
            linker.check_references();
            linker.check_listeners();
            linker.check_matches();
            linker.check_paths();
            linker.check_lists();
        }
        let problems = located(linker.misfits);
        if problems.is_empty() { Ok(set) } else { Err(problems) }
    }

    /// The problems of services whose instances register themselves, where they have no place to do so.
    pub fn registry_problems(&self, documents: &ParsedById) -> Vec<Problem> {
        let is_registered = |service: &&Arc<Service>| matches!(service.discovery, Discovery::Registry { .. });
        let services = self.services.values().filter(is_registered);
        let parsed =
            services.filter_map(|service| documents.get(&DocumentId::new(Kind::Service, service.name.as_str())));
        let misfit = |document| Misfit {
            document,
            others: Vec::new(),
            path: Path::of(["registry"]),
            message: "needs policies in etcd, which is where instances register".to_owned(),
            help: None,
        };
        located(parsed.map(|parsed| misfit(&**parsed)).collect())
    }

    /// A set of documents that are known to fit together, and who they are.
    #[cfg(test)]
    pub(crate) fn of_all(
        parsed: impl IntoIterator<Item = Arc<Parsed>>,
    ) -> Result<(Self, BTreeSet<DocumentId>), Vec<Problem>> {
        let documents: ParsedById = parsed.into_iter().map(|parsed| (parsed.id.clone(), parsed)).collect();
        let ids = documents.keys().cloned().collect();
        Ok((Self::link(&Self::default(), &documents, &ids)?, ids))
    }

    /// Takes over what became of one document.
    fn put(&mut self, id: &DocumentId, policy: Option<&Policy>) {
        fn put<K: Ord + Clone, V>(map: &mut Arc<BTreeMap<K, Arc<V>>>, name: Option<K>, policy: Option<&Arc<V>>) {
            match (name, policy) {
                (Some(name), Some(policy)) => drop(Arc::make_mut(map).insert(name, Arc::clone(policy))),
                (Some(name), None) => drop(Arc::make_mut(map).remove(&name)),
                (None, _) => {}
            }
        }
        let name = || Name::parse(&id.name);
        macro_rules! policy_of {
            ($kind:ident) => {
                policy.and_then(|policy| if let Policy::$kind(policy) = policy { Some(policy) } else { None })
            };
        }
        match id.kind {
            Kind::Gateway => put(&mut self.gateways, name(), policy_of!(Gateway)),
            Kind::Service => put(&mut self.services, name(), policy_of!(Service)),
            Kind::Api => put(&mut self.apis, name(), policy_of!(Api)),
            Kind::Plan => put(&mut self.plans, name(), policy_of!(Plan)),
            Kind::RateLimits => put(&mut self.rate_limits, Some(Arc::clone(&id.name)), policy_of!(RateLimits)),
            Kind::Tenant => self.put_tenant(&id.name, policy_of!(Tenant)),
        }
    }

    fn put_tenant(&mut self, name: &str, tenant: Option<&Arc<Tenant>>) {
        let before = match tenant {
            Some(tenant) => self.tenants.insert(tenant.name.clone(), Arc::clone(tenant)),
            None => self.tenants.remove(name),
        };
        if let Some(before) = before {
            self.reported_for_tenants.remove(&before);
        }
        if let Some(tenant) = tenant {
            self.reported_for_tenants.add(tenant);
        }
    }

    /// As long as this stays the same, tenants that referred to something still do: the plans, and the Apis with
    /// whether their requests have tenants at all.
    fn tenants_may_refer_to(&self) -> (BTreeSet<&Name>, BTreeMap<&Name, bool>) {
        let has_tenants = |api: &Api| self.gateways.get(&api.gateway).is_some_and(|gateway| gateway.tenant.is_some());
        (self.plans.keys().collect(), self.apis.iter().map(|(name, api)| (name, has_tenants(api))).collect())
    }

    /// The Apis of a gateway, in the order of their names.
    pub fn apis_of<'a>(&'a self, gateway: &'a Name) -> impl Iterator<Item = &'a Arc<Api>> {
        self.apis.values().filter(move |api| api.gateway == *gateway)
    }

    pub fn is_empty(&self) -> bool {
        self.gateways.is_empty()
    }
}

/// The name of a tenant's document, as the set knows tenants.
fn tenant_name(id: &DocumentId) -> Option<&str> {
    (id.kind == Kind::Tenant).then_some(&*id.name)
}

struct Linker<'a> {
    documents: &'a ParsedById,
    set: &'a PolicySet,
    misfits: Vec<Misfit<'a>>,
}

/// A problem that shows only among documents, before it is known where in the text it lies.
struct Misfit<'a> {
    document: &'a Parsed,
    others: Vec<DocumentId>,
    path: Path,
    message: String,
    help: Option<String>,
}

impl<'a> Linker<'a> {
    /// Checks what documents refer to, tenants left out.
    fn check_references(&mut self) {
        let set = self.set;
        for gateway in set.gateways.values() {
            let from = DocumentId::new(Kind::Gateway, gateway.name.as_str());
            if let Some(DefaultPlan::Plan(plan)) = gateway.tenant.as_ref().map(|tenant| &tenant.default_plan) {
                self.refer(&from, || Path::of(["tenant", "default_plan"]), Kind::Plan, plan);
            }
        }
        for api in set.apis.values() {
            let from = DocumentId::new(Kind::Api, api.name.as_str());
            self.refer(&from, || Path::of(["gateway"]), Kind::Gateway, &api.gateway);
            if self.refer(&from, || Path::of(["service"]), Kind::Service, &api.service) {
                self.check_upgrades(&from, api);
            }
        }
        for plan in set.plans.values() {
            self.refer_to_apis(&DocumentId::new(Kind::Plan, plan.name.as_str()), &plan.apis);
        }
        for limits in set.rate_limits.values() {
            let from = DocumentId::new(Kind::RateLimits, &limits.name);
            if let Some(gateway) = &limits.gateway {
                self.refer(&from, || Path::of(["gateway"]), Kind::Gateway, gateway);
            }
        }
    }

    /// An upgrade is one of a connection of HTTP/1.1. Upstreams that speak HTTP/2 hardly ever know its own kind (RFC 8441).
    fn check_upgrades(&mut self, from: &DocumentId, api: &Api) {
        let service = self.set.services.get(&api.service);
        if let Some(service) = service.filter(|service| service.protocol != Protocol::Http1 && !api.upgrades.is_empty())
        {
            let message =
                format!("needs `protocol: http1` of Service {}, to which a websocket is handed over", service.name);
            let service = DocumentId::new(Kind::Service, service.name.as_str());
            self.tell(from, &[service], Path::of(["upgrades"]), message, None);
        }
    }

    fn check_tenants<'t>(&mut self, tenants: impl Iterator<Item = &'t Arc<Tenant>>) {
        let others = self.misfits.len();
        for tenant in tenants {
            let from = DocumentId::new(Kind::Tenant, tenant.name.as_str());
            if let Some(plan) = &tenant.plan {
                self.refer(&from, || Path::of(["plan"]), Kind::Plan, plan);
            }
            self.refer_to_apis(&from, &tenant.apis);
        }
        // Tenants come in no order, but people are told of them in one.
        if let Some(of_tenants) = self.misfits.get_mut(others..) {
            of_tenants.sort_by(|a, b| a.document.id.cmp(&b.document.id));
        }
    }

    /// Limits by Api need the Api, and a gateway that can tell whose request it is.
    fn refer_to_apis(&mut self, from: &DocumentId, apis: &LimitsByApi) {
        for name in apis.keys() {
            let path = || Path(vec!["apis".into(), name.as_str().into()]);
            if !self.refer(from, path, Kind::Api, name) {
                continue;
            }
            let api = self.set.apis.get(name);
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
            Kind::Service if !set.services.contains_key(name) => Box::new(set.services.keys()),
            Kind::Api if !set.apis.contains_key(name) => Box::new(set.apis.keys()),
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
        let mut by_port: HashMap<u16, Vec<&Gateway>> = HashMap::new();
        for gateway in self.set.gateways.values() {
            by_port.entry(gateway.listen.port()).or_default().push(gateway);
        }
        let meet = |a: &Gateway, b: &Gateway| {
            let (ip_a, ip_b) = (a.listen.ip(), b.listen.ip());
            (ip_a == ip_b || ip_a.is_unspecified() || ip_b.is_unspecified()) && a.nodes.overlaps(&b.nodes)
        };
        let mut misfits = Vec::new();
        for gateways in by_port.values() {
            for (a, b) in pairs(gateways).filter(|(a, b)| meet(a, b)) {
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
        let mut by_path: HashMap<_, Vec<&Api>> = HashMap::new();
        for api in self.set.apis.values() {
            by_path.entry((&api.gateway, format!("{:?}", api.matches.path))).or_default().push(api);
        }
        let mut misfits = Vec::new();
        for apis in by_path.values() {
            for (a, b) in pairs(apis).filter(|(a, b)| a.matches.collides(&b.matches)) {
                let message = |other: &Api| format!("takes the same requests as Api {}", other.name);
                let help = Some(format!("told apart by {}", a.matches.told_apart_by(&b.matches)));
                misfits.extend(self.both(Kind::Api, (&a.name, message(b)), (&b.name, message(a)), &["match"], help));
            }
        }
        self.misfits.extend(misfits);
    }

    /// All lists of a gateway together are bounded.
    fn check_lists(&mut self) {
        let set = self.set;
        for gateway in set.gateways.keys() {
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
    fn check_paths(&mut self) {
        let set = self.set;
        for api in set.apis.values() {
            let Some(gateway) = set.gateways.get(&api.gateway) else { continue };
            let Some(normalized) = api.matches.path.arrives_otherwise(gateway.escaped_slashes) else { continue };
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

fn pairs<'a, T>(items: &'a [&'a T]) -> impl Iterator<Item = (&'a T, &'a T)> {
    items.iter().enumerate().flat_map(|(index, a)| items.iter().skip(index + 1).map(move |b| (*a, *b)))
}

/// The problems with their places. Each text is read once more, however many problems it has: problems are rare, and
/// policies need not carry places around for them.
fn located(misfits: Vec<Misfit<'_>>) -> Vec<Problem> {
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
