//! Changes that take away more than is usual, which more often is a mistake than a wish: a limit to 0, a limit to less
//! than half, more than a fifth of all documents gone.

use std::collections::BTreeMap;

use super::draft::Draft;
use crate::live::Generation;
use crate::names::{DocumentId, Kind};
use crate::policy::limit::Limit;
use crate::policy::rate::Rate;
use crate::policy::set::PolicySet;

/// Of all documents, so many parts may go at once...
const DOCUMENTS_GONE_MAX: (usize, usize) = (1, 5);
/// ...and a single one always may.
const DOCUMENTS_GONE_FREE: usize = 1;

/// The parts of a change that an operator should have a reason for.
pub fn findings(before: &Generation, after: &PolicySet, drafts: &[Draft]) -> Vec<String> {
    let mut findings = Vec::new();
    for id in drafts.iter().map(Draft::id) {
        let now = limits(after, id);
        for (place, old) in limits(&before.policies, id) {
            let Some(new) = now.get(&place) else { continue };
            if old.limit > 0 && new.limit == 0 {
                findings.push(format!("{id}, {place}: from {old} to {new}, which denies everything"));
            } else if is_less_than_half(*new, old) {
                findings.push(format!("{id}, {place}: from {old} to {new}, which is less than half"));
            }
        }
    }
    let gone = drafts.iter().filter(|draft| draft.parsed.is_none()).count();
    let all = before.documents.len();
    let (part, whole) = DOCUMENTS_GONE_MAX;
    if gone > DOCUMENTS_GONE_FREE && gone * whole > all * part {
        findings.push(format!("{gone} of {all} documents are removed, which is more than one in five"));
    }
    findings
}

/// In hits a second, however the windows are written.
fn is_less_than_half(new: Rate, old: Rate) -> bool {
    let per_window = |rate: Rate, other: Rate| u128::from(rate.limit) * u128::from(other.window.secs());
    2 * per_window(new, old) < per_window(old, new)
}

/// The rates of a document by where they stand.
fn limits(policies: &PolicySet, id: &DocumentId) -> BTreeMap<String, Rate> {
    let name = &*id.name;
    let by_name = |place: &str, limits: &[std::sync::Arc<Limit>]| -> Vec<(String, Rate)> {
        limits.iter().map(|limit| (format!("{place} {}", limit.name), limit.rate)).collect()
    };
    let of_apis = |apis: &crate::policy::tenant::LimitsByApi| -> Vec<(String, Rate)> {
        apis.iter().flat_map(|(api, limits)| by_name(&format!("apis.{api}"), limits)).collect()
    };
    let rates = match id.kind {
        Kind::Api => policies.apis.get(name).map(|api| by_name("limits", &api.limits)),
        Kind::Plan => {
            policies.plans.get(name).map(|plan| [by_name("limits", &plan.limits), of_apis(&plan.apis)].concat())
        }
        Kind::Tenant => policies.tenants.get(name).map(|tenant| {
            [by_name("limits", tenant.limits.as_deref().unwrap_or_default()), of_apis(&tenant.apis)].concat()
        }),
        Kind::RateLimits => policies
            .rate_limits
            .get(name)
            .map(|list| list.limited().map(|(entry, limit)| (entry.id.clone(), limit.rate)).collect()),
        Kind::Gateway | Kind::Service => None,
    };
    rates.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::RateLimitService;
    use crate::document::{Documents, split};
    use crate::editor::draft::drafts;
    use crate::limiter::key::KeyHasher;
    use crate::live::Settings;
    use crate::names::Revision;

    const SHOP: &str = "\
{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:10000', tenant: {from: {header: t}, default_plan: gold}}
---
{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}
---
{kind: Api, name: create, gateway: shop, match: {path: /create}, service: order, limits: [{rate: 10/m}, {rate: 100/h}]}
---
{kind: Plan, name: gold, limits: [{rate: 60/m}], apis: {create: [{rate: 8/m}]}}
---
{kind: Tenant, name: acme, plan: gold, limits: [{rate: 20/m}], apis: {create: [{rate: 4/m}]}}
---
{name: list, rate_limits: [{actions: [{remote_address: {}}], limit: {unit: MINUTE, requests_per_unit: 30}}]}
";

    fn generation(text: &str) -> Generation {
        let documents = Documents::new(Revision::default(), split(&"p.yaml".into(), text.as_bytes()));
        let (rate_limit_service, counter_keys) = (RateLimitService::default(), KeyHasher::seeded([0; 16]));
        Generation::build(&documents, &Settings { rate_limit_service, counter_keys, allow_empty: true }).unwrap()
    }

    /// What there is to say of these documents, in the place of what the shop has.
    fn found(text: &str) -> Vec<String> {
        let (before, drafts) = (generation(SHOP), drafts(&"body".into(), text.as_bytes()).unwrap());
        let changes = drafts.iter().map(|draft| (draft.id().clone(), draft.parsed.clone()));
        findings(&before, &before.with(changes).unwrap(), &drafts)
    }

    fn api(limits: &str) -> String {
        format!(
            "{{kind: Api, name: create, gateway: shop, match: {{path: /create}}, service: order, limits: {limits}}}"
        )
    }

    #[test]
    fn a_limit_that_falls_to_less_than_half_or_to_nothing_needs_a_reason_wherever_it_stands() {
        for (text, expected) in [
            (
                api("[{rate: 4/m}, {rate: 100/h}]"),
                "Api create, limits api-minute: from 10/minute to 4/minute, which is less than half",
            ),
            (
                api("[{rate: 0/m}, {rate: 100/h}]"),
                "Api create, limits api-minute: from 10/minute to 0/minute, which denies everything",
            ),
            (
                "{kind: Plan, name: gold, limits: [{rate: 29/m}], apis: {create: [{rate: 8/m}]}}".to_owned(),
                "Plan gold, limits tenant-minute: from 60/minute to 29/minute, which is less than half",
            ),
            (
                "{kind: Plan, name: gold, limits: [{rate: 60/m}], apis: {create: [{rate: 3/m}]}}".to_owned(),
                "Plan gold, apis.create tenant-api-minute: from 8/minute to 3/minute, which is less than half",
            ),
            (
                "{kind: Tenant, name: acme, plan: gold, limits: [{rate: 9/m}], apis: {create: [{rate: 4/m}]}}"
                    .to_owned(),
                "Tenant acme, limits tenant-minute: from 20/minute to 9/minute, which is less than half",
            ),
            (
                "{kind: Tenant, name: acme, plan: gold, limits: [{rate: 20/m}], apis: {create: [{rate: 1/m}]}}"
                    .to_owned(),
                "Tenant acme, apis.create tenant-api-minute: from 4/minute to 1/minute, which is less than half",
            ),
        ] {
            assert_eq!(found(&text), [expected], "{text}");
        }
        let list = SHOP.rsplit("---\n").next().unwrap().replace("requests_per_unit: 30", "requests_per_unit: 14");
        let [told] = &*found(&list) else { panic!("{:?}", found(&list)) };
        assert!(told.starts_with("RateLimits list, ") && told.ends_with("which is less than half"), "{told}");
    }

    #[test]
    fn what_is_usual_needs_none() {
        for text in [
            api("[{rate: 5/m}, {rate: 100/h}]"),
            api("[{rate: 1000000/m}, {rate: 100/h}]"),
            // Another limit, and one that is gone.
            api("[{rate: 1/s}]"),
            "{kind: Service, name: order, endpoints: ['127.0.0.1:9102']}".to_owned(),
            "{kind: Plan, name: new, limits: [{rate: 0/m}]}".to_owned(),
        ] {
            assert_eq!(found(&text), [""; 0], "{text}");
        }
    }

    #[test]
    fn rates_are_compared_in_hits_a_second_however_their_windows_are_written() {
        let rate = |text| Rate::parse(text).unwrap();
        for (new, old, is_less) in [
            ("1/m", "60/h", false),
            ("1/h", "60/m", true),
            ("30/h", "1/m", false),
            ("29/h", "1/m", true),
            ("1/d", "2/d", false),
            ("0/d", "0/d", false),
            ("1000000000/s", "1000000000/s", false),
        ] {
            assert_eq!(is_less_than_half(rate(new), rate(old)), is_less, "{new} after {old}");
        }
    }

    #[test]
    fn more_than_a_fifth_of_all_documents_needs_a_reason_and_one_never_does() {
        let plans: String =
            (0..7).map(|n| format!("---\n{{kind: Plan, name: p{n}, limits: [{{rate: 1/m}}]}}\n")).collect();
        let told = |all: &str, gone: usize| {
            let before = generation(all);
            let drafts: Vec<Draft> =
                (0..gone).map(|n| Draft::deletion(DocumentId::new(Kind::Plan, &format!("p{n}")))).collect();
            let changes = drafts.iter().map(|draft| (draft.id().clone(), None));
            findings(&before, &before.with(changes).unwrap(), &drafts)
        };
        let ten = plans.replacen("---\n", "", 1)
            + "---\n{kind: Plan, name: a, limits: [{rate: 1/m}]}\n---\n{kind: Plan, name: b, limits: [{rate: 1/m}]}\n---\n{kind: Plan, name: c, limits: [{rate: 1/m}]}\n";
        assert_eq!(told(&ten, 2), [""; 0], "a fifth");
        assert_eq!(told(&ten, 3), ["3 of 10 documents are removed, which is more than one in five"]);
        assert_eq!(told("{kind: Plan, name: p0, limits: [{rate: 1/m}]}", 1), [""; 0]);
    }
}
