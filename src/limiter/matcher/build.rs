//! From a policy set to the limits by gateway, API and tenant.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::prepared::Prepared;
use super::{ApiLimits, GatewayForms, GatewayLimits, LastLimits, Matcher, PlanLimits, TenantLimits, TenantRule};
use crate::limiter::key::KeyHasher;
use crate::names::{DocumentId, Kind, Name, descriptor};
use crate::policy::form::Form;
use crate::policy::gateway::{DefaultPlan, Gateway, OnError};
use crate::policy::limit::Limit;
use crate::policy::set::PolicySet;
use crate::policy::tenant::{LimitsByApi, Plan, Tenant};
use crate::shared_map::SharedMap;

impl Matcher {
    /// A matcher that knows nothing yet. The hasher begins the key of each counter.
    pub fn empty(keys: KeyHasher) -> Self {
        Self { gateways: Arc::default(), plans: Arc::default(), tenants: SharedMap::default(), keys }
    }

    /// The matcher of a set that differs in these documents from `before`, which this matcher was made from.
    #[must_use]
    pub fn next(&self, before: &PolicySet, policies: &PolicySet, changed: &BTreeSet<DocumentId>) -> Self {
        let mut tenants = self.tenants.clone();
        for id in changed.iter().filter(|id| id.kind == Kind::Tenant) {
            match policies.tenants.get(&*id.name) {
                Some(tenant) => drop(tenants.insert(tenant.name.clone(), Arc::new(TenantLimits::new(tenant)))),
                None => drop(tenants.remove(&*id.name)),
            }
        }
        // What tenants count by is in the forms of Apis.
        let has_same_forms = policies.reported_for_tenants.is_equivalent(&before.reported_for_tenants);
        if has_same_forms && changed.iter().all(|id| id.kind == Kind::Tenant) {
            return Self { tenants, ..self.clone() };
        }
        let plans = policies.plans.iter().map(|(name, plan)| {
            let is_same = before.plans.get(name).is_some_and(|before| Arc::ptr_eq(before, plan));
            let known = self.plans.get(name).filter(|_| is_same).map(Arc::clone);
            (name.clone(), known.unwrap_or_else(|| Arc::new(PlanLimits::new(plan))))
        });
        let gateways = policies.gateways.values();
        let gateways = gateways.map(|gateway| (gateway.name.clone(), Arc::new(GatewayLimits::new(policies, gateway))));
        Self {
            gateways: Arc::new(gateways.collect()),
            plans: Arc::new(plans.collect()),
            tenants,
            keys: self.keys.clone(),
        }
    }

    /// The forms that routes of the gateway report when they are made from the same policies.
    pub fn forms(&self, gateway: &Name) -> Option<GatewayForms> {
        self.gateways.get(gateway).map(Arc::clone).map(GatewayForms)
    }

    /// The gateways, each with what its routes report.
    pub fn all_forms(&self) -> impl Iterator<Item = (&Name, GatewayForms)> {
        self.gateways.iter().map(|(name, gateway)| (name, GatewayForms(Arc::clone(gateway))))
    }

    /// True where nothing but tenants is different, and what routes report is the same.
    pub fn shares_gateways_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.gateways, &other.gateways)
    }

    pub fn has(&self, gateway: &Name, id: &str) -> bool {
        self.forms(gateway).is_some_and(|forms| forms.has(id))
    }

    /// The limits that the id is counted by, to be remembered.
    pub(in crate::limiter) fn last_limits(&self, gateway: &Name, id: &str) -> Option<(OnError, LastLimits)> {
        let gateway = self.gateways.get(gateway)?;
        let of_api = |api: &Arc<ApiLimits>| LastLimits::Api {
            api: Arc::clone(api),
            tenant: gateway.tenant.clone(),
            plans: Arc::clone(&self.plans),
            tenants: self.tenants.clone(),
        };
        let of_list = || gateway.rate_limits.get(id).map(|prepared| LastLimits::List(Arc::clone(prepared)));
        Some((gateway.on_error, gateway.apis.get(id).map(of_api).or_else(of_list)?))
    }
}

impl GatewayLimits {
    fn new(policies: &PolicySet, gateway: &Gateway) -> Self {
        let apis = policies.apis.of_gateway(&gateway.name).map(|api| {
            let id = descriptor::api_id(&api.name, &Form::of(policies, gateway, api).id());
            (id, Arc::new(ApiLimits { name: api.name.clone(), limits: prepare(&api.limits) }))
        });
        let apis: HashMap<_, _> = apis.collect();
        Self {
            on_error: gateway.limiter.on_error,
            tenant: gateway.tenant.as_ref().map(|tenant| {
                let default_plan = match &tenant.default_plan {
                    DefaultPlan::Plan(plan) => Some(plan.clone()),
                    DefaultPlan::Deny => None,
                };
                let is_host = tenant.from.is_host();
                Arc::new(TenantRule { missing: tenant.missing.clone(), is_host, default_plan })
            }),
            ids_by_name: apis.iter().map(|(id, api)| (api.name.clone(), id.clone())).collect(),
            apis,
            rate_limits: rate_limits_of(policies, &gateway.name),
        }
    }

    /// The limits of an Api, whatever form its requests come in.
    pub(super) fn api(&self, name: &str) -> Option<&Arc<ApiLimits>> {
        self.apis.get(self.ids_by_name.get(name)?)
    }
}

impl TenantLimits {
    fn new(tenant: &Tenant) -> Self {
        Self {
            plan: tenant.plan.clone(),
            limits: tenant.limits.as_deref().map(prepare),
            apis: prepare_by_api(&tenant.apis),
            is_suspended: tenant.is_suspended,
        }
    }
}

impl PlanLimits {
    fn new(plan: &Plan) -> Self {
        Self { limits: prepare(&plan.limits), apis: prepare_by_api(&plan.apis) }
    }
}

fn prepare(limits: &[Arc<Limit>]) -> Vec<Prepared> {
    limits.iter().map(Prepared::new).collect()
}

fn prepare_by_api(apis: &LimitsByApi) -> HashMap<Name, Vec<Prepared>> {
    apis.iter().map(|(api, limits)| (api.clone(), prepare(limits))).collect()
}

fn rate_limits_of(policies: &PolicySet, gateway: &Name) -> HashMap<String, Arc<Prepared>> {
    let lists = policies.rate_limits.values();
    let entries = lists.filter(|list| list.is_for(gateway)).flat_map(|list| list.limited());
    entries.map(|(entry, limit)| (entry.id.clone(), Arc::new(Prepared::of_list(entry, limit)))).collect()
}
