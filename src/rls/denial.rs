//! What a client is told whose request is denied: a status, when to come back, and a body of problem details
//! (RFC 9457) that names the limit and nothing else of the configuration.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::HeaderValue;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use serde_json::json;

use super::convert;
use crate::counters::{Admission, Outcome};
use crate::limiter::Verdict;
use crate::limiter::matcher::{Applied, TenantDenial};
use crate::names::denial::STATUS;

/// Why a request is denied.
pub(super) enum Denial<'a> {
    /// The limit that denies it for the longest, of all that do.
    OverLimit { applied: &'a Applied<'a>, verdict: Verdict },
    /// A limit that cannot be counted, at a gateway that rather denies.
    NoRoom,
    /// A store of counters that does not answer, at a gateway that rather denies.
    StoreAway,
}

impl<'a> Denial<'a> {
    /// `None` if the request passes.
    pub(super) fn of(limits: &'a [Applied<'a>], admission: &Admission) -> Option<Self> {
        if admission.admitted {
            return None;
        }
        let denying = limits.iter().zip(&admission.outcomes).filter_map(|(applied, outcome)| match outcome {
            Outcome::Judged(verdict) if !verdict.allowed && applied.charge.is_enforced() => Some((applied, *verdict)),
            _ => None,
        });
        // One that never lets the request pass denies for longer than any that says when it will.
        let longest = denying.max_by_key(|(_, verdict)| verdict.retry_after.unwrap_or(Duration::MAX));
        Some(longest.map_or(Self::NoRoom, |(applied, verdict)| Self::OverLimit { applied, verdict }))
    }

    /// The time in `x-ratelimit-reset`, which is that of `retry-after`. Where the request never passes there is none to
    /// come back at (RFC 9110, section 10.2.3), but Envoy's header needs a number: it is the window, which is no promise.
    pub(super) fn reset(&self) -> Option<Duration> {
        let Self::OverLimit { applied, verdict } = self else { return None };
        let window = Duration::from_secs(applied.limit.rate.window.secs().into());
        Some(verdict.retry_after.unwrap_or(window))
    }

    pub(super) fn into_response(self, judged: impl Iterator<Item = DescriptorStatus>) -> RateLimitResponse {
        let response = match self {
            Self::OverLimit { applied, verdict } => over_limit(applied, &verdict),
            Self::NoRoom => not_counted("no-room"),
            Self::StoreAway => not_counted("store-away"),
        };
        RateLimitResponse { statuses: judged.collect(), ..response }
    }
}

fn not_counted(problem: &str) -> RateLimitResponse {
    let body = json!({
        "type": format!("urn:tierflow:problem:{problem}"),
        "title": "Not counted",
        "status": 503,
        "detail": "the limiter cannot count this request now",
    });
    response(503, &body, None)
}

fn over_limit(applied: &Applied<'_>, verdict: &Verdict) -> RateLimitResponse {
    let limit = applied.limit;
    let seconds = verdict.retry_after.map(convert::seconds_up);
    let (tier, rate) = (applied.tier.as_str(), limit.rate);
    let detail = match seconds {
        Some(_) => format!("the {tier} limit {} of {rate} is used up", limit.name),
        None if rate.limit == 0 => format!("the {tier} limit {} lets nothing pass", limit.name),
        None => {
            let cost = applied.charge.hits;
            format!("the request costs {cost} hits, more than the {tier} limit {} of {rate} ever allows", limit.name)
        }
    };
    let body = json!({
        "type": "urn:tierflow:problem:over-limit",
        "title": "Over limit",
        "status": limit.status,
        "detail": detail,
        "tier": tier,
        "limit": limit.name.as_str(),
        "rate": rate.to_string(),
        "retry_after": seconds,
    });
    response(limit.status, &body, seconds)
}

/// Denials that have nothing to do with counters.
pub(super) fn tenant(denial: TenantDenial) -> RateLimitResponse {
    let (status, problem, title, detail) = match denial {
        TenantDenial::Missing => {
            (400, "tenant-missing", "Tenant missing", "the request does not say which tenant it belongs to")
        }
        TenantDenial::Unknown => (403, "tenant-unknown", "Tenant unknown", "no tenant of that name is served here"),
        TenantDenial::Suspended => (403, "tenant-suspended", "Tenant suspended", "this tenant is suspended"),
    };
    let problem = format!("urn:tierflow:problem:{problem}");
    response(status, &json!({ "type": problem, "title": title, "status": status, "detail": detail }), None)
}

/// The `result` label of such a denial.
pub(super) fn result(denial: TenantDenial) -> &'static str {
    match denial {
        TenantDenial::Missing => "tenant_missing",
        TenantDenial::Unknown => "tenant_unknown",
        TenantDenial::Suspended => "tenant_suspended",
    }
}

fn response(status: u16, body: &serde_json::Value, retry_after: Option<u64>) -> RateLimitResponse {
    let retry_after = retry_after.map(|seconds| HeaderValue {
        key: "retry-after".to_owned(),
        value: seconds.to_string(),
        ..Default::default()
    });
    let status = Value { kind: Some(Kind::StringValue(status.to_string())) };
    RateLimitResponse {
        overall_code: Code::OverLimit as i32,
        raw_body: body.to_string().into_bytes(),
        response_headers_to_add: retry_after.into_iter().collect(),
        dynamic_metadata: Some(Struct { fields: HashMap::from([(STATUS.to_owned(), status)]) }),
        ..Default::default()
    }
}
