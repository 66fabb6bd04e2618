//! Plans and tenants: what a class of tenants may use, and what single ones have instead.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::limit::{Dimension, Limit};
use super::problem::Findings;
use super::raw::{RawLimit, RawPlan, RawTenant, RawTenantStatus};
use super::text;
use crate::names::{Kind, Name, TenantName};

/// Limits by the Api that they are for.
pub type LimitsByApi = BTreeMap<Name, Vec<Arc<Limit>>>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub name: Name,
    pub limits: Vec<Arc<Limit>>,
    pub apis: LimitsByApi,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    pub name: TenantName,
    /// `None`: the gateway's default plan.
    pub plan: Option<Name>,
    /// Replaces the plan's; `None` leaves them.
    pub limits: Option<Vec<Arc<Limit>>>,
    /// Each entry replaces the plan's for that Api.
    pub apis: LimitsByApi,
    pub is_suspended: bool,
}

impl Plan {
    pub fn read(raw: &RawPlan, findings: &mut Findings) -> Option<Self> {
        text::requires(findings, (Kind::Plan, &raw.name), raw.requires.as_deref());
        let name = text::name(findings, "name", &raw.name);
        if raw.name == "deny" {
            let expected = "another name: as a gateway's default_plan it would read as the word `deny`";
            findings.within("name", |findings| findings.refuse(&raw.name, expected));
        }
        if raw.limits.is_none() && raw.apis.is_none() {
            findings.say("limits nothing: expected limits or apis".to_owned());
        }
        let limits = Limit::read_list("limits", "tenant", raw.limits.as_deref(), findings);
        let apis = read_by_api(raw.apis.as_ref(), findings);
        Some(Self { name: name?, limits: limits?, apis: apis? })
    }
}

impl Tenant {
    pub fn read(raw: &RawTenant, findings: &mut Findings) -> Option<Self> {
        text::requires(findings, (Kind::Tenant, &raw.name), raw.requires.as_deref());
        let name = TenantName::parse(&raw.name).ok_or(TenantName::EXPECTED);
        let name = findings.within("name", |findings| findings.check(&raw.name, name));
        let plan = raw.plan.as_deref().map(|plan| text::name(findings, "plan", plan));
        let limits = raw.limits.as_deref().map(|raws| Limit::read_list("limits", "tenant", Some(raws), findings));
        let apis = read_by_api(raw.apis.as_ref(), findings);
        Some(Self {
            name: name?,
            plan: text::optional(plan)?,
            limits: text::optional(limits)?,
            apis: apis?,
            is_suspended: matches!(raw.status, Some(RawTenantStatus::Suspended)),
        })
    }
}

/// The dimensions that routes have to report for limits that tenants have of their own, and the number of tenants that
/// need each: so that a tenant can come and go without all others being asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportedForTenants(BTreeMap<(Option<Name>, Dimension), usize>);

impl ReportedForTenants {
    pub(super) fn add(&mut self, tenant: &Tenant) {
        tenant.reported().for_each(|key| *self.0.entry(key).or_default() += 1);
    }

    pub(super) fn remove(&mut self, tenant: &Tenant) {
        for key in tenant.reported() {
            if let Some(count) = self.0.get_mut(&key) {
                *count = count.saturating_sub(1);
            }
        }
        self.0.retain(|_, count| *count > 0);
    }

    /// For limits over all Apis and for those of this one.
    pub fn of_api<'a>(&'a self, api: &'a Name) -> impl Iterator<Item = &'a Dimension> {
        let is_for_api = move |(own, _): &&(Option<Name>, Dimension)| own.as_ref().is_none_or(|own| own == api);
        self.0.keys().filter(is_for_api).map(|(_, dimension)| dimension)
    }

    /// True where routes report the same for both.
    pub fn is_equivalent(&self, other: &Self) -> bool {
        self.0.keys().eq(other.0.keys())
    }
}

impl Tenant {
    fn reported(&self) -> impl Iterator<Item = (Option<Name>, Dimension)> {
        let over_all = self.limits.iter().flatten().map(|limit| (None, limit));
        let of_apis = self.apis.iter().flat_map(|(api, limits)| limits.iter().map(move |limit| (Some(api), limit)));
        over_all.chain(of_apis).flat_map(|(api, limit)| limit.reported().map(move |by| (api.cloned(), by)))
    }
}

fn read_by_api(raws: Option<&BTreeMap<String, Vec<RawLimit>>>, findings: &mut Findings) -> Option<LimitsByApi> {
    let Some(raws) = raws else { return Some(LimitsByApi::new()) };
    findings.within("apis", |findings| {
        if raws.is_empty() {
            findings.say("is empty: expected the name of an Api and its limits".to_owned());
        }
        let mut read = |(api, limits): (&String, &Vec<RawLimit>)| {
            let name = text::name(findings, api, api);
            let limits = Limit::read_list(api, "tenant-api", Some(limits), findings);
            Some((name?, limits?))
        };
        raws.iter().map(&mut read).collect::<Vec<_>>().into_iter().collect()
    })
}
