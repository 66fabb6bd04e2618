//! What the routes of an Api report to the rate limit service.
//!
//! An Envoy may have routes of older policies for a while. So each route says in which form it reports, and a request
//! is counted by limits that fit what was reported: a value that is missing from it was not in the request, or was not
//! asked for by its route, and only the form tells which.

use std::collections::BTreeSet;

use super::api::Api;
use super::gateway::{Gateway, TenantSource};
use super::limit::{Dimension, Limit};
use super::set::PolicySet;
use crate::names::{FormId, Reported};

/// Depends on the policies alone, so that it is the same on every replica and after every restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    pub tenant: Option<TenantSource>,
    /// Whatever any limit counts by that could apply to a request of the Api, once for each descriptor entry.
    pub dimensions: BTreeSet<Dimension>,
}

impl Form {
    pub fn of(policies: &PolicySet, gateway: &Gateway, api: &Api) -> Self {
        let tenant = gateway.tenant.as_ref().map(|rule| rule.from.clone());
        let mut limits: Vec<&Limit> = api.limits.iter().map(AsRef::as_ref).collect();
        let mut dimensions = BTreeSet::new();
        if tenant.is_some() {
            for plan in policies.plans.values() {
                let for_api = plan.apis.get(&api.name).into_iter().flatten();
                limits.extend(plan.limits.iter().chain(for_api).map(AsRef::as_ref));
            }
            dimensions.extend(policies.reported_for_tenants.of_api(&api.name).cloned());
        }
        dimensions.extend(limits.into_iter().flat_map(Limit::reported));
        Self { tenant, dimensions }
    }

    pub fn id(&self) -> FormId {
        let tenant =
            self.tenant.as_ref().map(|source| [Reported::TENANT, Reported::of(&format!("tenant from {source}"))]);
        let dimensions = self.dimensions.iter().map(|dimension| Reported::of(&dimension.descriptor_key()));
        tenant.into_iter().flatten().chain(dimensions).collect()
    }
}

impl Limit {
    /// The things that have to be reported for it.
    pub fn needs(&self) -> impl Iterator<Item = Reported> {
        self.reported().map(|dimension| Reported::of(&dimension.descriptor_key()))
    }
}
