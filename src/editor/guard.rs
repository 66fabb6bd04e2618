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
