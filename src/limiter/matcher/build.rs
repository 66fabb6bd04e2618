//! From a policy set to the limits by gateway, API and tenant.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::HashMap;

use super::prepared::Prepared;
use super::{
    ApiLimits, GatewayForms, GatewayLimits, LastLimits, Matcher, PlanLimits, TenantLimits, TenantRule, at_api,
};
use crate::limiter::key::KeyHasher;
use crate::names::certificate::San;
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
        Self { gateways: SharedMap::default(), plans: Arc::default(), tenants: SharedMap::default(), keys }
    }

    /// The matcher of a set that differs in these documents from the one that this matcher was made from. `affected` are the
    /// gateways whose limits, or what their routes report, may be others because of them.
    #[must_use]
    pub fn next(&self, policies: &PolicySet, changed: &BTreeSet<DocumentId>, affected: &BTreeSet<Name>) -> Self {
        let mut next = self.clone();
        for id in changed {
            match id.kind {
                Kind::Tenant => next.take_tenant(policies, &id.name),
                Kind::Plan => next.take_plan(policies, &id.name),
                Kind::Gateway | Kind::Service | Kind::Api | Kind::RateLimits => {}
            }
        }
        for name in affected {
            match policies.gateways.get(name) {
                Some(gateway) => {
                    let limits = GatewayLimits::new(&next, policies, gateway);
                    drop(next.gateways.insert(name.clone(), Arc::new(limits)));
                }
                None => drop(next.gateways.remove(name)),
            }
        }
        next
    }

    fn take_tenant(&mut self, policies: &PolicySet, name: &str) {
        match policies.tenants.get(name) {
            Some(tenant) => {
                let limits = TenantLimits::new(&self.keys, tenant);
                drop(self.tenants.insert(tenant.name.clone(), Arc::new(limits)));
            }
            None => drop(self.tenants.remove(name)),
        }
    }

    fn take_plan(&mut self, policies: &PolicySet, name: &str) {
        let plans = Arc::make_mut(&mut self.plans);
        match policies.plans.get(name) {
            Some(plan) => drop(plans.insert(plan.name.clone(), Arc::new(PlanLimits::new(&self.keys, plan)))),
            None => drop(plans.remove(name)),
        }
    }

    /// The forms that routes of the gateway report when they are made from the same policies.
    pub fn forms(&self, gateway: &Name) -> Option<GatewayForms> {
        self.gateways.get(gateway).map(Arc::clone).map(GatewayForms)
    }

    /// The forms that routes report in by this matcher's policies and no more by those of the next one.
    pub fn forms_lost_in<'a>(&'a self, next: &'a Self) -> impl Iterator<Item = (&'a Name, &'a str)> {
        let differing = self.gateways.differing(&next.gateways, Arc::ptr_eq);
        let others = differing.filter_map(|name| self.gateways.get_key_value(name));
        let forms = others.flat_map(|(name, gateway)| gateway.ids().map(move |id| (name, id)));
        forms.filter(|(name, id)| !next.has(name, id))
    }

    pub fn has(&self, gateway: &Name, id: &str) -> bool {
        self.forms(gateway).is_some_and(|forms| forms.has(id))
    }

    /// The certificates that the gateway is for; `None` where there is no such gateway.
    pub(in crate::limiter) fn identities(&self, gateway: &Name) -> Option<&Arc<[San]>> {
        self.gateways.get(gateway).map(|gateway| &gateway.identities)
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
    fn new(matcher: &Matcher, policies: &PolicySet, gateway: &Gateway) -> Self {
        let (keys, name) = (&matcher.keys, gateway.name.as_str());
        let apis = policies.apis.of_gateway(&gateway.name).map(|api| {
            let id = descriptor::api_id(&api.name, &Form::of(policies, gateway, api).id());
            let limits = ApiLimits {
                name: api.name.clone(),
                keys: matcher.keys_of_api(name, api.name.as_str()),
                at_api: at_api(keys, api.name.as_str()),
                limits: prepare(keys, &api.limits),
            };
            (id, Arc::new(limits))
        });
        let apis: HashMap<_, _> = apis.collect();
        Self {
            tenant_keys: matcher.keys_of_tenants(name),
            list_keys: matcher.keys_of_lists(name),
            on_error: gateway.limiter.on_error,
            identities: Arc::clone(&gateway.identities),
            tenant: gateway.tenant.as_ref().map(|tenant| {
                let default_plan = match &tenant.default_plan {
                    DefaultPlan::Plan(plan) => Some(plan.clone()),
                    DefaultPlan::Deny => None,
                };
                let (is_host, is_credential) = (tenant.from.is_host(), tenant.from.is_credential());
                Arc::new(TenantRule { missing: tenant.missing.clone(), is_host, is_credential, default_plan })
            }),
            ids_by_name: apis.iter().map(|(id, api)| (api.name.clone(), id.clone())).collect(),
            apis,
            rate_limits: rate_limits_of(keys, policies, &gateway.name),
        }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.apis.keys().chain(self.rate_limits.keys()).map(String::as_str)
    }

    /// The limits of an Api, whatever form its requests come in.
    pub(super) fn api(&self, name: &str) -> Option<&Arc<ApiLimits>> {
        self.apis.get(self.ids_by_name.get(name)?)
    }
}

impl TenantLimits {
    fn new(keys: &KeyHasher, tenant: &Tenant) -> Self {
        Self {
            plan: tenant.plan.clone(),
            limits: tenant.limits.as_deref().map(|limits| prepare(keys, limits)),
            apis: prepare_by_api(keys, &tenant.apis),
            is_suspended: tenant.is_suspended,
        }
    }
}

impl PlanLimits {
    fn new(keys: &KeyHasher, plan: &Plan) -> Self {
        Self { limits: prepare(keys, &plan.limits), apis: prepare_by_api(keys, &plan.apis) }
    }
}

fn prepare(keys: &KeyHasher, limits: &[Arc<Limit>]) -> Vec<Prepared> {
    limits.iter().map(|limit| Prepared::new(keys, limit)).collect()
}

fn prepare_by_api(keys: &KeyHasher, apis: &LimitsByApi) -> HashMap<Name, Vec<Prepared>> {
    apis.iter().map(|(api, limits)| (api.clone(), prepare(keys, limits))).collect()
}

fn rate_limits_of(keys: &KeyHasher, policies: &PolicySet, gateway: &Name) -> HashMap<String, Arc<Prepared>> {
    let lists = policies.rate_limits.values();
    let entries = lists.filter(|list| list.is_for(gateway)).flat_map(|list| list.limited());
    entries.map(|(entry, limit)| (entry.id.clone(), Arc::new(Prepared::of_list(keys, entry, limit)))).collect()
}
