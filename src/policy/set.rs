//! A set of policies that fit together: every reference leads somewhere, and no two contradict each other.

mod linker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::apis::Apis;
use super::gateway::Gateway;
use super::parse::{Parsed, Policy};
use super::problem::{Path, Problem};
use super::rate_limits::RateLimits;
use super::services::Services;
use super::tenant::{Plan, ReportedForTenants, Tenant};
use crate::names::{DocumentId, Kind, Name, TenantName};
use crate::shared_map::SharedMap;
use linker::{Linker, Misfit, located};

/// Parsed documents by who they are.
pub type ParsedById = SharedMap<DocumentId, Arc<Parsed>>;

/// All policies at one revision, cross-checked. What the compiler goes through for a gateway is ordered, so that whatever is
/// made from it is the same on every replica.
#[derive(Clone, Debug, Default)]
pub struct PolicySet {
    pub gateways: SharedMap<Name, Arc<Gateway>>,
    pub services: Services,
    pub apis: Apis,
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
    /// for the changed ones were put together to; the empty set, if all of them are new. A change costs what changed and
    /// what refers to it, not what all documents do.
    pub fn link(base: &Self, documents: &ParsedById, changed: &BTreeSet<DocumentId>) -> Result<Self, Vec<Problem>> {
        let mut set = base.clone();
        changed.iter().for_each(|id| set.put(id, documents.get(id).map(|parsed| &parsed.policy)));
        let problems = Linker::new(base, &set, documents, changed).problems();
        if problems.is_empty() { Ok(set) } else { Err(problems) }
    }

    /// The problems of services whose instances register themselves, where they have no place to do so.
    pub fn registry_problems(&self, documents: &ParsedById) -> Vec<Problem> {
        let services = self.services.registered();
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
            Kind::Gateway => match policy_of!(Gateway) {
                Some(gateway) => drop(self.gateways.insert(gateway.name.clone(), Arc::clone(gateway))),
                None => drop(self.gateways.remove(&*id.name)),
            },
            Kind::Service => match policy_of!(Service) {
                Some(service) => self.services.insert(service),
                None => self.services.remove(&id.name),
            },
            Kind::Api => match policy_of!(Api) {
                Some(api) => self.apis.insert(api),
                None => self.apis.remove(&id.name),
            },
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

    pub fn is_empty(&self) -> bool {
        self.gateways.is_empty()
    }
}
