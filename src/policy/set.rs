//! A set of policies that fit together: every reference leads somewhere, and no two contradict each other.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::sync::Arc;

use super::api::Api;
use super::gateway::{DefaultPlan, Gateway};
use super::parse::{Parsed, Policy};
use super::problem::{Finding, Path, Problem, Target, nearest};
use super::rate_limits::RateLimits;
use super::service::Service;
use super::tenant::{LimitsByApi, Plan, Tenant};
use super::tree::Tree;
use crate::names::{DocumentId, Kind, Name, TenantName};

/// Parsed documents by who they are.
pub type ParsedById = BTreeMap<DocumentId, Arc<Parsed>>;

/// All policies at one revision, cross-checked. Its maps are ordered, so that whatever is made from it is the
/// same on every replica.
#[derive(Clone, Debug, Default)]
pub struct PolicySet {
    pub gateways: BTreeMap<Name, Arc<Gateway>>,
    pub services: BTreeMap<Name, Arc<Service>>,
    pub apis: BTreeMap<Name, Arc<Api>>,
    pub plans: BTreeMap<Name, Arc<Plan>>,
    pub tenants: BTreeMap<TenantName, Arc<Tenant>>,
    pub rate_limits: BTreeMap<Arc<str>, Arc<RateLimits>>,
}

/// Documents by who they are, and a problem for every document whose name is taken.
pub fn index(parsed: impl IntoIterator<Item = Arc<Parsed>>) -> (ParsedById, Vec<Problem>) {
    let mut by_id = ParsedById::new();
    let mut problems = Vec::new();
    for parsed in parsed {
        let Some(first) = by_id.get(&parsed.id) else {
            by_id.insert(parsed.id.clone(), parsed);
            continue;
        };
        for (this, that) in [(first, &parsed), (&parsed, first)] {
            let message = format!("is defined twice, here and at {}", that.document.origin);
            problems.push(problem(this, &[], Path::of(["name"]), message, None));
        }
    }
    (by_id, problems)
}

impl PolicySet {
    /// Puts the documents together, or says everything that keeps them apart.
    pub fn link(documents: &ParsedById) -> Result<Self, Vec<Problem>> {
        let mut linker = Linker { documents, set: Self::of(documents), problems: Vec::new() };
        linker.check_references();
        linker.check_listeners();
        linker.check_matches();
        if linker.problems.is_empty() { Ok(linker.set) } else { Err(linker.problems) }
    }

    fn of(documents: &ParsedById) -> Self {
        let mut set = Self::default();
        for parsed in documents.values() {
            match &parsed.policy {
                Policy::Gateway(gateway) => drop(set.gateways.insert(gateway.name.clone(), Arc::clone(gateway))),
                Policy::Service(service) => drop(set.services.insert(service.name.clone(), Arc::clone(service))),
                Policy::Api(api) => drop(set.apis.insert(api.name.clone(), Arc::clone(api))),
                Policy::Plan(plan) => drop(set.plans.insert(plan.name.clone(), Arc::clone(plan))),
                Policy::Tenant(tenant) => drop(set.tenants.insert(tenant.name.clone(), Arc::clone(tenant))),
                Policy::RateLimits(limits) => drop(set.rate_limits.insert(limits.name.clone(), Arc::clone(limits))),
            }
        }
        set
    }

    /// The Apis of a gateway, in the order of their names.
    pub fn apis_of<'a>(&'a self, gateway: &'a Name) -> impl Iterator<Item = &'a Arc<Api>> {
        self.apis.values().filter(move |api| api.gateway == *gateway)
    }

    pub fn is_empty(&self) -> bool {
        self.gateways.is_empty()
    }
}

struct Linker<'a> {
    documents: &'a ParsedById,
    set: PolicySet,
    problems: Vec<Problem>,
}

impl Linker<'_> {
    fn check_references(&mut self) {
        for parsed in self.documents.values() {
            match &parsed.policy {
                Policy::Gateway(gateway) => {
                    if let Some(DefaultPlan::Plan(plan)) = gateway.tenant.as_ref().map(|tenant| &tenant.default_plan) {
                        self.refer(parsed, Path::of(["tenant", "default_plan"]), Kind::Plan, plan);
                    }
                }
                Policy::Api(api) => {
                    self.refer(parsed, Path::of(["gateway"]), Kind::Gateway, &api.gateway);
                    self.refer(parsed, Path::of(["service"]), Kind::Service, &api.service);
                }
                Policy::Plan(plan) => self.refer_to_apis(parsed, &plan.apis),
                Policy::Tenant(tenant) => {
                    if let Some(plan) = &tenant.plan {
                        self.refer(parsed, Path::of(["plan"]), Kind::Plan, plan);
                    }
                    self.refer_to_apis(parsed, &tenant.apis);
                }
                Policy::RateLimits(limits) => {
                    if let Some(gateway) = &limits.gateway {
                        self.refer(parsed, Path::of(["gateway"]), Kind::Gateway, gateway);
                    }
                }
                Policy::Service(_) => {}
            }
        }
    }

    /// Limits by Api need the Api, and a gateway that can tell whose request it is.
    fn refer_to_apis(&mut self, parsed: &Parsed, apis: &LimitsByApi) {
        for name in apis.keys() {
            let path = || Path(vec!["apis".into(), name.as_str().into()]);
            if !self.refer(parsed, path(), Kind::Api, name) {
                continue;
            }
            let api = self.set.apis.get(name);
            let gateway = api.and_then(|api| self.set.gateways.get(&api.gateway));
            if let Some(gateway) = gateway.filter(|gateway| gateway.tenant.is_none()) {
                let message =
                    format!("never acts: Gateway {} has no `tenant`, so its requests have none", gateway.name);
                let others =
                    [DocumentId::new(Kind::Api, name.as_str()), DocumentId::new(Kind::Gateway, gateway.name.as_str())];
                self.problems.push(problem(parsed, &others, path(), message, None));
            }
        }
    }

    /// Whether the document that is referred to exists; a problem where not.
    fn refer(&mut self, parsed: &Parsed, path: Path, kind: Kind, name: &Name) -> bool {
        let id = DocumentId::new(kind, name.as_str());
        if self.documents.contains_key(&id) {
            return true;
        }
        let names = self.documents.keys().filter(|id| id.kind == kind).map(|id| &*id.name);
        let help = nearest(name.as_str(), names);
        let message = format!("no {kind} is called {:?}", name.as_str());
        self.problems.push(problem(parsed, &[id], path, message, help));
        false
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
        let mut problems = Vec::new();
        for gateways in by_port.values() {
            for (a, b) in pairs(gateways).filter(|(a, b)| meet(a, b)) {
                let message = |other: &Gateway| {
                    format!("collides with Gateway {}, which listens on {} of the same nodes", other.name, other.listen)
                };
                problems.extend(self.both(Kind::Gateway, (&a.name, message(b)), (&b.name, message(a)), &["listen"]));
            }
        }
        self.problems.extend(problems);
    }

    /// Two Apis of a gateway have to be told apart by more than chance.
    fn check_matches(&mut self) {
        let mut by_path: HashMap<_, Vec<&Api>> = HashMap::new();
        for api in self.set.apis.values() {
            by_path.entry((&api.gateway, format!("{:?}", api.matches.path))).or_default().push(api);
        }
        let mut problems = Vec::new();
        for apis in by_path.values() {
            for (a, b) in pairs(apis).filter(|(a, b)| a.matches.collides(&b.matches)) {
                let message =
                    |other: &Api| format!("takes the same requests as Api {}: nothing tells the two apart", other.name);
                problems.extend(self.both(Kind::Api, (&a.name, message(b)), (&b.name, message(a)), &["match"]));
            }
        }
        self.problems.extend(problems);
    }

    /// A problem that two documents have with each other, told at both.
    fn both(&self, kind: Kind, a: (&Name, String), b: (&Name, String), path: &[&str]) -> Vec<Problem> {
        let id = |name: &Name| DocumentId::new(kind, name.as_str());
        let path = || Path(path.iter().map(|key| (*key).into()).collect());
        let (id_a, id_b) = (id(a.0), id(b.0));
        let tell = |this: &DocumentId, that: &DocumentId, message: String| {
            let parsed = self.documents.get(this)?;
            Some(problem(parsed, std::slice::from_ref(that), path(), message, None))
        };
        [tell(&id_a, &id_b, a.1), tell(&id_b, &id_a, b.1)].into_iter().flatten().collect()
    }
}

fn pairs<'a, T>(items: &'a [&'a T]) -> impl Iterator<Item = (&'a T, &'a T)> {
    items.iter().enumerate().flat_map(|(index, a)| items.iter().skip(index + 1).map(move |b| (*a, *b)))
}

/// A problem that shows only among documents. Its place is looked up now, by reading the text once more:
/// problems are rare, and policies need not carry places around for them.
fn problem(parsed: &Parsed, others: &[DocumentId], path: Path, message: impl Display, help: Option<String>) -> Problem {
    let tree = parsed.document.content.as_deref().ok().and_then(|bytes| std::str::from_utf8(bytes).ok());
    let tree = tree.and_then(|text| Tree::parse(text).ok());
    let finding = Finding { path, target: Target::Value, message: message.to_string(), help };
    let mut problem = Problem::locate(&parsed.document, Some(&parsed.id), finding, tree.as_ref());
    problem.involves.extend_from_slice(others);
    problem
}
