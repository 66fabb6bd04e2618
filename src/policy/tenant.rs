//! Plans and tenants: what a class of tenants may use, and what single ones have instead.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::limit::Limit;
use super::problem::Findings;
use super::raw::{RawLimit, RawPlan, RawTenant, RawTenantStatus};
use super::text;
use crate::names::{Name, TenantName};

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
