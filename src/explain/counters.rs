//! Counters by what people know of them. A store keeps hashes, of which no list of counters can be made: the policies say
//! which there can be, and a selection says which of these are meant.
//!
//! A counter is named where everything that is given has a part in it. Where its limit counts by something that is not
//! given, it is told what is missing, and there is no counter to look at.

mod selection;

use std::collections::BTreeSet;

use serde::Serialize;
use utoipa::ToSchema;

use crate::limiter::Charge;
use crate::limiter::matcher::{Applied, Described, Matcher, TenantDenial, Tier, shown_entry, shown_value};
use crate::names::{Name, descriptor, spelling};
use crate::policy::gateway::{DefaultPlan, Gateway};
use crate::policy::limit::{Algorithm, Dimension, Limit};
use crate::policy::problem::nearest;
use crate::policy::rate_limits::{Action, RateLimitEntry, RateLimits};
use crate::policy::set::PolicySet;
use crate::shown;

use selection::parameter;
pub use selection::{Selection, SelectionError};

/// Of so many tenants it is looked which one may have been meant.
const TENANTS_COMPARED_MAX: usize = 10_000;

/// A counter, or the counters of a limit of which it is not said which one is meant.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NamedCounter {
    pub gateway: String,
    /// `None`: it counts requests to every Api of the gateway.
    pub api: Option<String>,
    pub tenant: Option<String>,
    pub tier: &'static str,
    /// The list of Envoy actions that the limit comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub list: Option<String>,
    pub limit: String,
    pub rate: String,
    pub algorithm: &'static str,
    /// Of a token bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    pub mode: &'static str,
    /// What splits the limit's counters, with the values of this one.
    pub by: Vec<KeyPart>,
    /// The parameters without which it is not said which counter of the limit is meant.
    pub missing: Vec<String>,
    /// The question to the counter. `None` where something is missing.
    #[serde(skip)]
    pub charge: Option<Charge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct KeyPart {
    pub dimension: String,
    /// That of a credential, or of the query of a URL, as its hash. `None`: it was not given.
    pub value: Option<String>,
}

impl NamedCounter {
    /// As in `api limit order-minute of Gateway shop, Api order, client_ip=10.0.0.7`.
    pub fn describe(&self) -> String {
        let mut text = format!("{} limit {} of Gateway {}", self.tier, self.limit, self.gateway);
        let named = [("RateLimits", &self.list), ("Api", &self.api), ("Tenant", &self.tenant)];
        for (kind, name) in named {
            text.extend(name.iter().map(|name| format!(", {kind} {}", shown::quoted(name))));
        }
        for KeyPart { dimension, value } in &self.by {
            let value = shown::quoted(value.as_deref().unwrap_or("?"));
            text.push_str(&format!(", {dimension}={value}"));
        }
        text
    }
}

/// The counters that a selection names, in an order that stays the same while the policies do.
pub fn counters(
    policies: &PolicySet,
    matcher: &Matcher,
    selection: &Selection,
) -> Result<Vec<NamedCounter>, SelectionError> {
    let gateways = selection.gateways(policies)?;
    let mut naming = Naming {
        policies,
        matcher,
        selection,
        named: Vec::new(),
        limits: BTreeSet::new(),
        parameters: BTreeSet::new(),
        tenancy: None,
    };
    for gateway in gateways {
        let apis: Vec<&Name> = match &selection.api {
            Some(api) => policies.apis.get(api).map(|api| &api.name).into_iter().collect(),
            None => policies.apis.of_gateway(&gateway.name).map(|api| &api.name).collect(),
        };
        match &selection.tenant {
            Some(tenant) => naming.tenant(gateway, &apis, tenant),
            None => naming.all(gateway, &apis),
        }
    }
    naming.into_named()
}

struct Naming<'a> {
    policies: &'a PolicySet,
    matcher: &'a Matcher,
    selection: &'a Selection,
    named: Vec<NamedCounter>,
    /// The limits, and what they count by, among which something may be named: where nothing is, it is told what could be.
    limits: BTreeSet<String>,
    parameters: BTreeSet<String>,
    /// What became of the tenant on the gateways that have tenants.
    tenancy: Option<Result<(), TenantDenial>>,
}

/// Whose counters they are.
#[derive(Clone, Copy)]
struct Owner<'a> {
    gateway: &'a Gateway,
    api: Option<&'a Name>,
    tenant: Option<&'a str>,
    tier: Tier,
}

impl<'a> Naming<'a> {
    fn all(&mut self, gateway: &'a Gateway, apis: &[&'a Name]) {
        for &api in apis {
            let owner = Owner { gateway, api: Some(api), tenant: None, tier: Tier::Api };
            let entries = self.selection.entries(None);
            let described = Described { entries: &entries, hits: 0 };
            for applied in self.matcher.of_api(&gateway.name, api, &described) {
                self.add(owner, &applied);
            }
        }
        self.unknown_tenant(gateway, apis);
        if self.selection.api.is_none() {
            self.lists(gateway);
        }
    }

    /// What every tenant without limits of its own is counted by.
    fn unknown_tenant(&mut self, gateway: &'a Gateway, apis: &[&'a Name]) {
        let Some(DefaultPlan::Plan(plan)) = gateway.tenant.as_ref().map(|rule| &rule.default_plan) else { return };
        let Some(plan) = self.policies.plans.get(plan) else { return };
        let owner = |api| Owner { gateway, api, tenant: None, tier: Tier::Tenant };
        if self.selection.api.is_none() {
            plan.limits.iter().for_each(|limit| self.add_limit(owner(None), limit, None));
        }
        for &api in apis {
            let limits = plan.apis.get(api).into_iter().flatten();
            limits.for_each(|limit| self.add_limit(owner(Some(api)), limit, None));
        }
    }

    fn tenant(&mut self, gateway: &'a Gateway, apis: &[&'a Name], tenant: &str) {
        let tenant_bytes = spelling::read(tenant);
        let entries = self.selection.entries(Some((descriptor::TENANT.as_bytes(), &tenant_bytes)));
        let described = Described { entries: &entries, hits: 0 };
        let found = match self.matcher.of_tenant(&gateway.name, apis, &described) {
            None => return,
            Some(Err(denial)) => {
                self.tenancy.get_or_insert(Err(denial));
                return;
            }
            Some(Ok(found)) => found,
        };
        self.tenancy = Some(Ok(()));
        let tenant = spelling::spelled(&found.tenant);
        let owner = |api| Owner { gateway, api, tenant: Some(&tenant), tier: Tier::Tenant };
        found.over_all.iter().for_each(|applied| self.add(owner(None), applied));
        for (&api, limits) in apis.iter().zip(&found.for_apis) {
            limits.iter().for_each(|applied| self.add(owner(Some(api)), applied));
        }
    }

    fn lists(&mut self, gateway: &'a Gateway) {
        let lists = self.policies.rate_limits.values().filter(|list| list.is_for(&gateway.name));
        for list in lists {
            list.limited().for_each(|(entry, limit)| self.add_list_entry(gateway, list, entry, limit));
        }
    }

    fn add_list_entry(&mut self, gateway: &Gateway, list: &RateLimits, entry: &RateLimitEntry, limit: &Limit) {
        let (mut by, mut missing, mut asked) = (Vec::new(), Vec::new(), BTreeSet::new());
        for action in &entry.actions {
            let (key, value) = reported(action, self.selection);
            asked.insert(key.clone());
            match value {
                Value::Is(value) => by.push((action, value)),
                Value::LeftOut => {}
                Value::NotGiven => missing.push(parameter(&key)),
            }
        }
        let id = [(descriptor::RATE_LIMITS.as_bytes(), entry.id.as_bytes())];
        let values = by.iter().map(|(action, value)| (action.descriptor_key().as_bytes(), value.as_slice()));
        let entries: Vec<_> = id.into_iter().chain(values).collect();
        let described = Described { entries: &entries, hits: 0 };
        let applied = self.matcher.of_list_entry(&gateway.name, &entry.id, &described);
        let parts = by.into_iter().map(|(action, value)| KeyPart {
            dimension: action.descriptor_key().to_owned(),
            value: Some(shown_entry(action, &value)),
        });
        let owner = Owner { gateway, api: None, tenant: None, tier: Tier::RateLimits };
        let charge = applied.map(|applied| applied.charge).filter(|_| missing.is_empty());
        let named =
            NamedCounter { list: Some(list.name.to_string()), ..named(owner, limit, parts.collect(), missing, charge) };
        self.push(named, &asked);
    }

    fn add(&mut self, owner: Owner<'_>, applied: &Applied<'_>) {
        self.add_limit(owner, applied.limit, Some(applied.charge));
    }

    /// `charge` is none where it is not said which tenant is meant.
    fn add_limit(&mut self, owner: Owner<'_>, limit: &Limit, charge: Option<Charge>) {
        let value = |key: &str| self.selection.parts.get(key).cloned();
        let keys: Vec<String> = limit.by.iter().map(|dimension| dimension.descriptor_key()).collect();
        let by = limit.by.iter().zip(&keys);
        let part = |(dimension, key): (&Dimension, &String)| KeyPart {
            dimension: dimension.to_string(),
            value: value(key).map(|value| shown_value(dimension, &value)),
        };
        let by = by.map(part).collect();
        let tenant = charge.is_none().then(|| descriptor::TENANT.to_owned());
        let absent = keys.iter().filter(|key| value(key).is_none()).map(|key| parameter(key));
        let missing: Vec<String> = tenant.into_iter().chain(absent).collect();
        let charge = charge.filter(|_| missing.is_empty());
        self.push(named(owner, limit, by, missing, charge), &keys.into_iter().collect());
    }

    /// Takes it where everything that is given has a part in it. `keys` are those of what its limit counts by.
    fn push(&mut self, named: NamedCounter, keys: &BTreeSet<String>) {
        let Selection { limit, tier, parts, .. } = self.selection;
        self.limits.insert(named.limit.clone());
        self.parameters.extend(keys.iter().map(|key| parameter(key)));
        let is_meant = limit.as_ref().is_none_or(|limit| *limit == named.limit)
            && tier.is_none_or(|tier| tier.as_str() == named.tier)
            && parts.keys().all(|key| keys.contains(key));
        if is_meant {
            self.named.push(named);
        }
    }

    fn into_named(self) -> Result<Vec<NamedCounter>, SelectionError> {
        if !self.named.is_empty() {
            return Ok(self.named);
        }
        if let Some(tenant) = &self.selection.tenant {
            match self.tenancy {
                None => {
                    let why = "no gateway of this selection tells tenants apart".to_owned();
                    return Err(SelectionError::Unfit(why));
                }
                Some(Err(denial)) => return Err(self.denied(tenant, denial)),
                Some(Ok(())) => {}
            }
        }
        if let Some(limit) = self.selection.limit.as_deref().filter(|limit| !self.limits.contains(*limit)) {
            let there = self.limits.iter().map(String::as_str);
            return Err(SelectionError::unknown("limit of this selection", limit, there));
        }
        let given = self.selection.parts.keys().map(|key| parameter(key));
        if let Some(part) = given.into_iter().find(|part| !self.parameters.contains(part)) {
            let there = || self.parameters.iter().map(String::as_str);
            let others = there().collect::<Vec<_>>().join(", ");
            let others = if others.is_empty() { "nothing".to_owned() } else { others };
            let help = nearest(&part, there()).map(|help| format!("; {help}")).unwrap_or_default();
            let why = format!("no limit of this selection counts by {part}{help}; they count by: {others}");
            return Err(SelectionError::Unfit(why));
        }
        Ok(self.named)
    }

    fn denied(&self, tenant: &str, denial: TenantDenial) -> SelectionError {
        match denial {
            TenantDenial::Suspended => {
                SelectionError::Unknown(format!("the tenant {tenant:?} is suspended: nothing is counted for it"))
            }
            TenantDenial::Missing | TenantDenial::Unknown => {
                let tenants = self.policies.tenants.keys().take(TENANTS_COMPARED_MAX);
                SelectionError::unknown("Tenant", tenant, tenants.map(|name| name.as_str()))
            }
        }
    }
}

fn named(
    owner: Owner<'_>,
    limit: &Limit,
    by: Vec<KeyPart>,
    missing: Vec<String>,
    charge: Option<Charge>,
) -> NamedCounter {
    NamedCounter {
        gateway: owner.gateway.name.to_string(),
        api: owner.api.map(ToString::to_string),
        tenant: owner.tenant.map(str::to_owned),
        tier: owner.tier.as_str(),
        list: None,
        limit: limit.name.to_string(),
        rate: limit.rate.to_string(),
        algorithm: limit.algorithm.as_str(),
        burst: match limit.algorithm {
            Algorithm::TokenBucket { burst } => Some(burst.get()),
            Algorithm::SlidingWindow | Algorithm::FixedWindow => None,
        },
        mode: limit.mode.as_str(),
        by,
        missing,
        charge,
    }
}

/// The value of an action's entry.
enum Value {
    Is(Vec<u8>),
    /// The action adds no entry.
    LeftOut,
    NotGiven,
}

/// What has to be given for an action, and the value of its entry.
fn reported(action: &Action, selection: &Selection) -> (String, Value) {
    let given = |key: String, skip_if_absent: bool| {
        let value = match selection.parts.get(&key) {
            Some(value) if value.is_empty() && skip_if_absent => Value::LeftOut,
            Some(value) => Value::Is(value.clone()),
            None => Value::NotGiven,
        };
        (key, value)
    };
    let own_key = || format!("{}{}", selection::ENTRY, action.descriptor_key());
    match action {
        Action::RequestHeader { name, skip_if_absent, .. } => {
            let key = match name.as_str() {
                ":path" => descriptor::PATH.to_owned(),
                ":method" => descriptor::METHOD.to_owned(),
                ":authority" | "host" => descriptor::HOST.to_owned(),
                name => format!("header:{name}"),
            };
            given(key, *skip_if_absent)
        }
        Action::QueryParameter { name, skip_if_absent, .. } => given(format!("query:{name}"), *skip_if_absent),
        Action::RemoteAddress => given(descriptor::CLIENT_IP.to_owned(), false),
        Action::MaskedRemoteAddress { v4_bits, v6_bits } => match selection.client_ip {
            Some(address) => {
                let masked = super::list::masked_entry(address, *v4_bits, *v6_bits);
                (descriptor::CLIENT_IP.to_owned(), Value::Is(masked.into_bytes()))
            }
            None => (descriptor::CLIENT_IP.to_owned(), Value::NotGiven),
        },
        Action::RemoteAddressMatch { entry, .. }
        | Action::GenericKey(entry)
        | Action::HeaderMatch { entry, .. }
        | Action::QueryMatch { entry, .. } => (own_key(), Value::Is(entry.value.clone().into_bytes())),
        Action::Metadata(metadata) => match (&metadata.default, given(own_key(), metadata.skip_if_absent)) {
            (Some(default), (key, Value::NotGiven)) => (key, Value::Is(default.clone().into_bytes())),
            (_, given) => given,
        },
        Action::SourceCluster | Action::DestinationCluster => given(own_key(), false),
    }
}

#[cfg(test)]
mod tests;
