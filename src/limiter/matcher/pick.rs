//! What a request is counted by: the limits of its tenant, and, where its route reports in an older form, those of the
//! newest and of the form's last limits that fit together.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::prepared::{Prepared, host_name, value};
use super::{Entries, Matcher, Plans, TenantDenial, TenantRule, Tenants};
use crate::names::credential::Concealed;
use crate::names::{FormId, Name, descriptor};
use crate::policy::gateway::MissingTenant;

/// The tenants of a gateway, and what each of them may use.
pub(super) struct Tenancy<'a> {
    pub(super) rule: &'a TenantRule,
    pub(super) plans: &'a Plans,
    pub(super) tenants: &'a Tenants,
}

#[derive(Clone, Copy)]
pub(super) struct TenantLists<'a> {
    /// Over all Apis.
    pub(super) over_all: &'a [Prepared],
    pub(super) for_api: &'a [Prepared],
}

impl Matcher {
    pub(super) fn tenancy<'a>(&'a self, rule: &'a TenantRule) -> Tenancy<'a> {
        Tenancy { rule, plans: &self.plans, tenants: &self.tenants }
    }
}

impl<'a> Tenancy<'a> {
    /// The tenant that a request belongs to.
    pub(super) fn tenant(&self, entries: &Entries<'a>) -> Result<Cow<'a, [u8]>, TenantDenial> {
        let named = value(entries, descriptor::TENANT.as_bytes()).filter(|tenant| !tenant.is_empty());
        match (named, &self.rule.missing) {
            (Some(host), _) if self.rule.is_host => Ok(host_name(host)),
            (Some(tenant), _) => Ok(tenant.into()),
            (None, MissingTenant::Is(tenant)) => Ok(tenant.as_str().as_bytes().into()),
            (None, MissingTenant::Reject) => Err(TenantDenial::Missing),
        }
    }

    /// A tenant as it is shown.
    pub(super) fn shown(&self, tenant: Cow<'a, [u8]>) -> Cow<'a, [u8]> {
        let is_known = || {
            let is_missing =
                matches!(&self.rule.missing, MissingTenant::Is(own) if own.as_str().as_bytes() == &*tenant);
            is_missing || std::str::from_utf8(&tenant).is_ok_and(|tenant| self.tenants.get(tenant).is_some())
        };
        match Concealed::of(&tenant).filter(|_| self.rule.is_credential && !is_known()) {
            Some(concealed) => concealed.as_str().as_bytes().to_vec().into(),
            None => tenant,
        }
    }

    /// The tenant's own limits where it has them, else its plan's.
    pub(super) fn limits(&self, tenant: &[u8], api: Option<&Name>) -> Result<TenantLists<'a>, TenantDenial> {
        // A name that is no text is nobody's, and has the default plan like any other stranger.
        let own = std::str::from_utf8(tenant).ok().and_then(|tenant| self.tenants.get(tenant));
        if own.is_some_and(|own| own.is_suspended) {
            return Err(TenantDenial::Suspended);
        }
        let plan = own.and_then(|own| own.plan.as_ref()).and_then(|plan| self.plans.get(plan));
        let plan = plan.or_else(|| self.plans.get(self.rule.default_plan.as_ref()?));
        if own.is_none() && plan.is_none() {
            return Err(TenantDenial::Unknown);
        }
        let over_all = own.and_then(|own| own.limits.as_ref()).or(plan.map(|plan| &plan.limits));
        let for_api = api
            .and_then(|api| own.and_then(|own| own.apis.get(api)).or_else(|| plan.and_then(|plan| plan.apis.get(api))));
        let list = |limits: Option<&'a Vec<Prepared>>| limits.map_or(&[][..], Vec::as_slice);
        Ok(TenantLists { over_all: list(over_all), for_api: list(for_api) })
    }
}

pub(super) struct Picked<'a> {
    pub(super) limits: SmallVec<[&'a Prepared; 8]>,
    /// Some limits could not be picked, and there are no last ones in their place.
    pub(super) is_short: bool,
}

/// The newest limits that need nothing but what the form reports, and the last limits of the form that none of them has
/// taken the place of: these go with the routes that report in it.
pub(super) fn pick<'a>(newest: Option<&'a [Prepared]>, last: Option<&'a [Prepared]>, form: &FormId) -> Picked<'a> {
    let mut limits: SmallVec<[&Prepared; 8]> = SmallVec::new();
    limits.extend(newest.unwrap_or_default().iter().filter(|prepared| prepared.fits(form)));
    let countable = limits.len();
    let is_whole = newest.is_some_and(|newest| newest.len() == countable);
    for prepared in last.unwrap_or_default() {
        if !limits.iter().take(countable).any(|newer| newer.replaces(prepared)) {
            limits.push(prepared);
        }
    }
    Picked { limits, is_short: !is_whole && last.is_none() }
}
