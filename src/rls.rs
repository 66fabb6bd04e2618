//! The rate limit service: answers Envoy's ShouldRateLimit.
//!
//! ```text
//! RateLimitRequest -> convert -> Matcher::find -> one Counters::admit over all limits -> RateLimitResponse
//! ```
//!
//! A handler loads the generation once and keeps it to the end. It waits for nothing but the store of counters.

mod convert;
mod denial;
mod failures;
mod service;
mod wire;

use std::sync::Arc;

use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use smallvec::SmallVec;
use tonic::Status;

use crate::clock::{Clock, Timestamp};
use crate::counters::{Admission, Counters, OnError, Outcome, StoreAway};
use crate::limiter::Charge;
use crate::limiter::matcher::{Age, Applied, Asked, Found};
use crate::live::Live;
use crate::metrics::{DecisionLabels, FormLabels, Metrics};
use crate::names::Name;
use denial::Denial;
use wire::RateLimitRequest;

pub use failures::Failures;
pub use service::RateLimitServer;

/// The service's name in `grpc.health.v1`, which the generated clusters ask for.
pub const SERVICE_NAME: &str = "envoy.service.ratelimit.v3.RateLimitService";

pub struct Rls {
    pub live: Arc<Live>,
    pub counters: Counters,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
    pub failures: Failures,
}

impl Rls {
    pub fn into_service(self) -> RateLimitServer {
        RateLimitServer(Arc::new(self))
    }

    async fn should_rate_limit(&self, request: &RateLimitRequest) -> Result<RateLimitResponse, Status> {
        let started = self.clock.now();
        let response = self.decide(request, started).await;
        self.metrics.decision_seconds.observe(self.clock.now().since(started).as_secs_f64());
        response
    }

    async fn decide(&self, request: &RateLimitRequest, now: Timestamp) -> Result<RateLimitResponse, Status> {
        let generation = self.live.generation();
        let generation = generation.ok_or_else(|| Status::unavailable("no policy set is loaded yet"))?;
        let entries = convert::entries(request)?;
        let descriptors = convert::described(request, &entries);
        let older = self.live.forms.older();
        let asked = convert::gateway(request).map(|gateway| Asked { gateway, descriptors: &descriptors });
        let Some(found) = asked.as_ref().and_then(|asked| generation.matcher.find(asked, &older)) else {
            self.count_unknown();
            return Ok(convert::unknown(request));
        };
        self.count_age(found.age);
        let limits = match &found.limits {
            Ok(limits) => limits,
            Err(denial) => {
                self.count_of(&found, None, denial::result(*denial));
                return Ok(denial::tenant(*denial));
            }
        };
        if found.is_uncountable {
            self.count_of(&found, None, "uncountable");
            return Ok(uncounted(found.on_error, Denial::NoRoom));
        }
        let charges: SmallVec<[Charge; 8]> = limits.iter().map(|applied| applied.charge).collect();
        let admission = match self.counters.admit(&charges, now, found.on_error).await {
            Ok(admission) => admission,
            Err(StoreAway) => {
                self.count_of(&found, None, "store_away");
                let may_deny = charges.iter().any(Charge::is_enforced);
                let on_error = if may_deny { found.on_error } else { OnError::Allow };
                return Ok(uncounted(on_error, Denial::StoreAway));
            }
        };
        self.count_admission(&found, limits, &admission);
        let denial = Denial::of(limits, &admission);
        let judged = convert::judged(limits, &admission, denial.as_ref().and_then(Denial::reset));
        match denial {
            None => Ok(convert::passed(judged)),
            Some(denial) => Ok(denial.into_response(judged)),
        }
    }

    fn count_admission(&self, found: &Found<'_>, limits: &[Applied<'_>], admission: &Admission) {
        for (applied, outcome) in limits.iter().zip(&admission.outcomes) {
            let result = match outcome {
                Outcome::NoRoom => "no_room",
                Outcome::Judged(verdict) if verdict.allowed => continue,
                Outcome::Judged(_) if !applied.charge.is_enforced() => "shadow_over_limit",
                Outcome::Judged(_) => "over_limit",
            };
            self.count_of(found, Some(applied), result);
        }
        if admission.admitted {
            self.count_of(found, None, "ok");
        }
    }

    fn count_of(&self, found: &Found<'_>, applied: Option<&Applied<'_>>, result: &'static str) {
        let labels = DecisionLabels {
            gateway: Some(found.gateway.to_arc()),
            api: found.api.map(Name::to_arc),
            tier: applied.map_or("", |applied| applied.tier.as_str()),
            limit: applied.map(|applied| applied.limit.name.to_arc()),
            result,
        };
        self.metrics.decisions.get_or_create(&labels).inc();
    }

    /// Counts a request that no policy is about. Its domain is the sender's choice, and so no label.
    fn count_unknown(&self) {
        let labels = DecisionLabels { gateway: None, api: None, tier: "", limit: None, result: "no_match" };
        self.metrics.decisions.get_or_create(&labels).inc();
    }

    fn count_age(&self, age: Age) {
        let form = match age {
            Age::Current => return,
            Age::Older => "older",
            Age::Unknown => "unknown",
        };
        self.metrics.decision_forms.get_or_create(&FormLabels { form }).inc();
    }
}

/// The answer to a request that could not be counted, as the gateway wants it.
fn uncounted(on_error: OnError, denial: Denial<'_>) -> RateLimitResponse {
    match on_error {
        OnError::Deny => denial.into_response(std::iter::empty()),
        OnError::Allow | OnError::Local => convert::passed(std::iter::empty()),
    }
}

#[cfg(test)]
mod tests;
