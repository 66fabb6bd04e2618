//! All limits of a policy set, by what metrics know of a decision: gateway, Api, tier and name. Limits of plans and tenants
//! that share a name are one there, whatever their numbers are; who has which is told with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::limiter::matcher::Tier;
use crate::names::{DocumentId, Kind, Name};
use crate::policy::limit::{Algorithm, Limit, Mode};
use crate::policy::rate::Rate;
use crate::policy::set::PolicySet;

/// Of so many documents it is told that they have the limit.
const HOLDERS_MAX: usize = 20;

/// The limits in their order, which stays the same while the policies do.
pub type Limits = BTreeMap<LimitId, Arc<Held>>;

/// What tells a limit from every other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LimitId {
    pub gateway: Name,
    /// `None`: it counts requests to every Api of the gateway.
    pub api: Option<Name>,
    /// A [`Tier`] in words.
    pub tier: &'static str,
    pub limit: Name,
}

impl LimitId {
    /// `None` where no limit could be called so.
    pub fn parse(gateway: &str, api: Option<&str>, tier: &str, limit: &str) -> Option<Self> {
        let tiers = [Tier::Api, Tier::Tenant, Tier::RateLimits].map(Tier::as_str);
        let api = match api {
            Some(api) => Some(Name::parse(api)?),
            None => None,
        };
        let tier = tiers.into_iter().find(|own| *own == tier)?;
        Some(Self { gateway: Name::parse(gateway)?, api, tier, limit: Name::parse(limit)? })
    }
}

/// Who has a limit of this name, and what it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// `None`: it is not the same everywhere.
    pub setting: Option<Setting>,
    /// The first of them: plans before tenants.
    pub holders: Vec<(DocumentId, Setting)>,
    /// The number of those that are not in `holders`.
    pub holders_more: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    pub rate: Rate,
    pub algorithm: Algorithm,
    pub mode: Mode,
}

pub fn limits(policies: &PolicySet) -> Limits {
    let mut all = BTreeMap::new();
    let of_tenants = of_tenants(policies);
    for gateway in policies.gateways.values() {
        let id = |api, tier: Tier, limit: &Name| LimitId {
            gateway: gateway.name.clone(),
            api,
            tier: tier.as_str(),
            limit: limit.clone(),
        };
        for api in policies.apis.of_gateway(&gateway.name) {
            let document = DocumentId::new(Kind::Api, api.name.as_str());
            for limit in &api.limits {
                let mut held = Held::default();
                held.add(&document, limit);
                all.insert(id(Some(api.name.clone()), Tier::Api, &limit.name), Arc::new(held));
            }
        }
        let has_api = |api: &Name| policies.apis.get(api.as_str()).is_some_and(|api| api.gateway == gateway.name);
        for ((api, limit), held) in of_tenants.iter().filter(|_| gateway.tenant.is_some()) {
            if api.as_ref().is_none_or(has_api) {
                all.insert(id(api.clone(), Tier::Tenant, limit), Arc::clone(held));
            }
        }
        let mut of_lists: BTreeMap<&Name, Held> = BTreeMap::new();
        for list in policies.rate_limits.values().filter(|list| list.is_for(&gateway.name)) {
            let document = DocumentId::new(Kind::RateLimits, &list.name);
            list.limited().for_each(|(_, limit)| of_lists.entry(&limit.name).or_default().add(&document, limit));
        }
        all.extend(of_lists.into_iter().map(|(limit, held)| (id(None, Tier::RateLimits, limit), Arc::new(held))));
    }
    all
}

/// What tenants are counted by, on each gateway that tells tenants apart.
fn of_tenants(policies: &PolicySet) -> BTreeMap<(Option<Name>, Name), Arc<Held>> {
    let mut all: BTreeMap<(Option<Name>, Name), Held> = BTreeMap::new();
    let mut add = |document: &DocumentId, api: Option<&Name>, limits: &[Arc<Limit>]| {
        for limit in limits {
            all.entry((api.cloned(), limit.name.clone())).or_default().add(document, limit);
        }
    };
    for (name, plan) in policies.plans.iter() {
        let document = DocumentId::new(Kind::Plan, name.as_str());
        add(&document, None, &plan.limits);
        plan.apis.iter().for_each(|(api, limits)| add(&document, Some(api), limits));
    }
    for (name, tenant) in policies.tenants.sorted() {
        let document = DocumentId::new(Kind::Tenant, name.as_str());
        add(&document, None, tenant.limits.as_deref().unwrap_or_default());
        tenant.apis.iter().for_each(|(api, limits)| add(&document, Some(api), limits));
    }
    all.into_iter().map(|(id, held)| (id, Arc::new(held))).collect()
}

impl Held {
    fn add(&mut self, document: &DocumentId, limit: &Limit) {
        let Limit { rate, algorithm, mode, .. } = *limit;
        let setting = Setting { rate, algorithm, mode };
        let is_first = self.holders.is_empty();
        self.setting = if is_first { Some(setting) } else { self.setting.filter(|own| *own == setting) };
        match self.holders.len() < HOLDERS_MAX {
            true => self.holders.push((document.clone(), setting)),
            false => self.holders_more += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::split;
    use crate::policy::parse::parse;

    fn set(text: &str) -> PolicySet {
        let documents = split(&"p.yaml".into(), text.as_bytes()).into_iter().map(Arc::new);
        PolicySet::of_all(documents.map(|document| Arc::new(parse(&document).unwrap()))).unwrap().0
    }

    const SHOP: &str = "\
{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1',
 tenant: {from: {header: x-tenant-id}, default_plan: standard}}
---
{kind: Gateway, name: plain, nodes: {clusters: [plain]}, listen: '127.0.0.1:2'}
---
{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}
---
{kind: Api, name: pay, gateway: shop, match: {path: /pay}, service: order, limits: [{rate: 10/s}, {name: trial, rate: 5/s, mode: shadow}]}
---
{kind: Api, name: look, gateway: plain, match: {path: /look}, service: order, limits: [{rate: 7/m, algorithm: fixed_window}]}
---
{kind: Plan, name: standard, limits: [{rate: 600/m}], apis: {pay: [{rate: 100/m}]}}
---
{kind: Plan, name: gold, limits: [{rate: 6000/m}], apis: {pay: [{rate: 100/m}]}}
---
{name: list, rate_limits: [{actions: [{generic_key: {descriptor_value: x}}], limit: {unit: MINUTE, requests_per_unit: 3}}]}
";

    /// As `gateway/api tier limit: setting, of documents`.
    fn told(text: &str) -> Vec<String> {
        let row = |(id, held): (&LimitId, &Arc<Held>)| {
            let api = id.api.as_ref().map_or("*", Name::as_str);
            let setting = held.setting.map_or("various".to_owned(), |setting| {
                format!("{} {} {}", setting.rate, setting.algorithm.as_str(), setting.mode.as_str())
            });
            let holders: Vec<_> =
                held.holders.iter().map(|(document, setting)| format!("{document} {}", setting.rate)).collect();
            format!("{}/{api} {} {}: {setting}, of {}", id.gateway, id.tier, id.limit, holders.join(", "))
        };
        limits(&set(text)).iter().map(row).collect()
    }

    #[test]
    fn every_limit_is_told_once_by_what_metrics_know_it_by() {
        let list = "rate_limits rate_limits-minute-by-generic_key: 3/minute sliding_window enforce, of RateLimits list 3/minute";
        let [list_plain, list_shop] = ["plain", "shop"].map(|gateway| format!("{gateway}/* {list}"));
        let expected = [
            &*list_plain,
            "plain/look api api-minute: 7/minute fixed_window enforce, of Api look 7/minute",
            &*list_shop,
            "shop/* tenant tenant-minute: various, of Plan gold 6000/minute, Plan standard 600/minute",
            "shop/pay api api-second: 10/second sliding_window enforce, of Api pay 10/second",
            "shop/pay api trial: 5/second sliding_window shadow, of Api pay 5/second",
            "shop/pay tenant tenant-api-minute: 100/minute sliding_window enforce, of Plan gold 100/minute, Plan standard 100/minute",
        ];
        assert_eq!(told(SHOP), expected);
    }

    #[test]
    fn of_many_tenants_with_limits_of_their_own_the_first_are_told() {
        let tenants: String = (0..100)
            .map(|n| format!("---\n{{kind: Tenant, name: t{n:03}, plan: gold, limits: [{{rate: 6000/m}}]}}\n"))
            .collect();
        let all = limits(&set(&format!("{SHOP}{tenants}")));
        let (_, held) = all.iter().find(|(id, _)| id.limit.as_str() == "tenant-minute").unwrap();
        assert_eq!((held.holders.len(), held.holders_more, held.setting), (HOLDERS_MAX, 102 - HOLDERS_MAX, None));
        assert_eq!(held.holders[2].0.to_string(), "Tenant t000");
    }
}
