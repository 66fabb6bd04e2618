//! What policies would have made of the requests that an access log holds: the limits are those of `explain`, the counters
//! those of the rate limit service, and the time is the log's.
//!
//! ```text
//! lines --format--> Record --entry--> Entry --order--> Replay::play --> Report
//! ```
//!
//! A log has no more of a request than its format says. What policies look at and no line has is told with the report.
//! Memory does not grow with the log: counters, tenants and minutes are bounded, and each bound has a line in the report.

pub mod entry;
pub mod format;
mod known;
pub mod order;
pub mod peaks;
pub mod report;

use std::collections::BTreeSet;

use crate::counters::Outcome;
use crate::counters::memory::{Memory, MemoryLimits};
use crate::explain::{ExplainedLimit, Explanation, explain};
use crate::limiter::Charge;
use crate::limiter::matcher::Matcher;
use crate::policy::form::Form;
use crate::policy::gateway::{Gateway, TenantSource};
use crate::policy::limit::Dimension;
use crate::policy::rate_limits::Action;
use crate::policy::set::PolicySet;
use entry::Entry;
use peaks::Peaks;
use report::{Over, Report, Verdict};

/// Counters that count nothing any more are looked for after so many requests.
const REQUESTS_BETWEEN_SWEEPS: u64 = 1024;

/// A gateway that meets the requests of a log again.
#[derive(Debug)]
pub struct Replay<'a> {
    policies: &'a PolicySet,
    matcher: &'a Matcher,
    gateway: &'a Gateway,
    counters: Memory,
    report: Report,
    /// How busy counters were, where that is asked for.
    peaks: Option<Peaks>,
    /// The headers that policies look at and no request had yet.
    unseen: BTreeSet<String>,
}

impl<'a> Replay<'a> {
    pub fn new(policies: &'a PolicySet, matcher: &'a Matcher, gateway: &'a Gateway) -> Self {
        let (counters, unseen) = (Memory::new(MemoryLimits::default()), headers_of(policies, gateway));
        Self { policies, matcher, gateway, counters, report: Report::default(), peaks: None, unseen }
    }

    #[must_use]
    pub fn with_peaks(self) -> Self {
        Self { peaks: Some(Peaks::default()), ..self }
    }

    /// The next request. One that is earlier than the last is counted as if it came with that.
    pub fn play(&mut self, entry: &Entry) {
        if !self.unseen.is_empty() {
            let names = entry.request.headers.iter().map(|(name, _)| name);
            for name in names {
                self.unseen.remove(name);
            }
        }
        let explanation = explain(self.policies, self.matcher, self.gateway, &entry.request);
        let verdict = self.judge(&explanation, entry);
        if let Some(peaks) = &mut self.peaks {
            peaks.note(&explanation, entry);
        }
        self.report.note(&explanation, entry, verdict);
        if self.report.total.requests.is_multiple_of(REQUESTS_BETWEEN_SWEEPS) {
            self.counters.sweep(entry.at);
        }
    }

    fn judge<'e>(&self, explanation: &'e Explanation, entry: &Entry) -> Verdict<'e> {
        if let Some(answer) = &explanation.answer {
            return Verdict::Answered { status: answer.status, reason: answer.reason };
        }
        if explanation.api.is_none() {
            return Verdict::Answered { status: 404, reason: "no Api takes the request" };
        }
        if explanation.preflight {
            return Verdict::Answered { status: 200, reason: "a preflight, which the gateway answers" };
        }
        if let Some(reason) = explanation.denied {
            return Verdict::Tenant(reason);
        }
        let charges: Vec<Charge> = explanation.limits.iter().map(|limit| limit.charge).collect();
        let admission = self.counters.admit(&charges, entry.at, self.gateway.limiter.on_error);
        let over = explanation.limits.iter().zip(&admission.outcomes).filter_map(over).collect();
        let is_counted = !admission.outcomes.contains(&Outcome::NoRoom);
        Verdict::Judged { admitted: admission.admitted, is_counted, over }
    }

    /// The headers that policies look at and no request had: each is named as the log's format would have it.
    pub fn unseen(&self) -> impl Iterator<Item = &str> {
        self.unseen.iter().map(String::as_str)
    }

    pub fn finish(self) -> (Report, Option<Peaks>) {
        (self.report, self.peaks)
    }
}

/// The limit, if it has no room, and whether that denies.
fn over<'e>((limit, outcome): (&'e ExplainedLimit, &Outcome)) -> Option<Over<'e>> {
    match outcome {
        Outcome::Judged(verdict) if verdict.allowed => None,
        Outcome::Judged(_) => Some(Over { limit, is_enforced: limit.charge.is_enforced() }),
        Outcome::NoRoom => None,
    }
}

/// The headers that routes of a gateway match by, that tenants are named in, and that limits count and cost by.
fn headers_of(policies: &PolicySet, gateway: &Gateway) -> BTreeSet<String> {
    let mut headers = BTreeSet::new();
    match gateway.tenant.as_ref().map(|rule| &rule.from) {
        Some(TenantSource::Header(name)) => headers.extend([name.clone()]),
        Some(TenantSource::Cookie(_)) => headers.extend(["cookie".to_owned()]),
        Some(TenantSource::JwtClaim(_)) => headers.extend(["authorization".to_owned()]),
        Some(TenantSource::Query(_)) | None => {}
    }
    for api in policies.apis.of_gateway(&gateway.name) {
        headers.extend(api.matches.headers.keys().cloned());
        headers.extend(Form::of(policies, gateway, api).dimensions.iter().filter_map(header_of));
    }
    let lists = policies.rate_limits.values().filter(|list| list.is_for(&gateway.name));
    let actions = lists.flat_map(|list| list.limited()).flat_map(|(entry, _)| &entry.actions);
    headers.extend(actions.flat_map(headers_of_action));
    headers.retain(|name| name != "host" && !name.starts_with(':'));
    headers
}

fn headers_of_action(action: &Action) -> Vec<String> {
    match action {
        Action::RequestHeader { name, .. } => vec![name.clone()],
        Action::HeaderMatch { headers, .. } => headers.iter().map(|matcher| matcher.name.clone()).collect(),
        _ => Vec::new(),
    }
}

fn header_of(dimension: &Dimension) -> Option<String> {
    match dimension {
        Dimension::Header(name) => Some(name.clone()),
        Dimension::Cookie(_) => Some("cookie".to_owned()),
        Dimension::JwtClaim(_) => Some("authorization".to_owned()),
        Dimension::ClientIp { .. } | Dimension::Query(_) | Dimension::Path | Dimension::Method | Dimension::Host => {
            None
        }
    }
}

#[cfg(test)]
mod tests;
