//! Counters by their names instead of by a request: of an Api, of a tenant, of an entry of a list.
//!
//! They are found by the limits of the newest policies and keyed as those of requests are, by entries that are made up
//! instead of reported.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::{Applied, Described, GatewayLimits, Matcher, TenantDenial, Tier, at_api, keys_at_api, keys_of_tenant};
use crate::names::Name;

type Named<'a> = SmallVec<[Applied<'a>; 4]>;

/// The counters of a tenant.
#[derive(Debug)]
pub struct OfTenant<'a> {
    /// As counters have it.
    pub tenant: Cow<'a, [u8]>,
    /// Over all Apis.
    pub over_all: Named<'a>,
    /// For each of the Apis asked for, in their order.
    pub for_apis: Vec<Named<'a>>,
}

impl Matcher {
    /// The counters of an Api's own limits.
    pub fn of_api(&self, gateway: &Name, api: &Name, described: &Described<'_>) -> Named<'_> {
        let Some(limits) = self.gateway(gateway).and_then(|gateway| gateway.api(api.as_str())) else {
            return Named::new();
        };
        limits.limits.iter().map(|prepared| prepared.apply(Tier::Api, &limits.keys, described)).collect()
    }

    /// The counters of the tenant that the entries name. `None` where the gateway knows no tenants.
    pub fn of_tenant<'a>(
        &'a self,
        gateway: &Name,
        apis: &[&Name],
        described: &Described<'a>,
    ) -> Option<Result<OfTenant<'a>, TenantDenial>> {
        let gateway = self.gateway(gateway)?;
        let tenancy = self.tenancy(gateway.tenant.as_deref()?);
        let counters = || {
            let tenant = tenancy.tenant(described.entries)?;
            let key = keys_of_tenant(&gateway.tenant_keys, &tenant);
            let over_all = tenancy.limits(&tenant, None)?.over_all;
            let over_all = over_all.iter().map(|prepared| prepared.apply(Tier::Tenant, &key, described)).collect();
            let for_api = |api: &&Name| {
                let key = keys_at_api(key.clone(), &at_api(&self.keys, api.as_str()));
                let limits = tenancy.limits(&tenant, Some(*api))?.for_api;
                Ok(limits.iter().map(|prepared| prepared.apply(Tier::Tenant, &key, described)).collect())
            };
            let for_apis = apis.iter().map(for_api).collect::<Result<_, TenantDenial>>()?;
            Ok(OfTenant { over_all, for_apis, tenant })
        };
        Some(counters())
    }

    /// The counter of a list's entry.
    pub fn of_list_entry(&self, gateway: &Name, id: &str, described: &Described<'_>) -> Option<Applied<'_>> {
        let gateway = self.gateway(gateway)?;
        let prepared = gateway.rate_limits.get(id)?;
        let key = prepared.add_entries(gateway.list_keys.clone(), described.entries);
        Some(prepared.apply(Tier::RateLimits, &key, described))
    }

    fn gateway(&self, name: &Name) -> Option<&GatewayLimits> {
        self.gateways.get(name).map(|gateway| &**gateway)
    }
}
