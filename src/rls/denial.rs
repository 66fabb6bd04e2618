//! What a client is told whose request is denied: a status, when to come back, and a body of problem details
//! (RFC 9457) that names the limit and nothing else of the configuration.

use std::fmt;
use std::time::Duration;

use super::answer::seconds_up;
use super::message::Message;
use crate::counters::{Admission, Outcome};
use crate::limiter::Verdict;
use crate::limiter::matcher::{Applied, TenantDenial};
use crate::names::denial::STATUS;

/// Why a request is denied. It displays as the body, JSON whose parts need no escapes: names have none, and the rest is
/// written here.
pub(super) enum Denial<'a> {
    /// The limit that denies it for the longest, of all that do.
    OverLimit { applied: &'a Applied<'a>, verdict: Verdict },
    /// A limit that cannot be counted, at a gateway that rather denies.
    NoRoom,
    /// A store of counters that does not answer, at a gateway that rather denies.
    StoreAway,
    /// A tenant that is not served, whatever the counters say.
    Tenant(TenantDenial),
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

    /// The header that says when to come back, the body, and the status, as fields of a `RateLimitResponse`.
    pub(super) fn write(&self, response: &mut Message<'_>) {
        if let Some(seconds) = self.retry_after() {
            response.message(3, |header| {
                header.text(1, "retry-after");
                header.display(2, &seconds);
            });
        }
        response.display(5, self);
        // A `google.protobuf.Struct` with one field, whose value is a string.
        response.message(6, |metadata| {
            metadata.message(1, |field| {
                field.text(1, STATUS);
                field.message(2, |value| value.display(3, &self.status()));
            });
        });
    }

    fn retry_after(&self) -> Option<u64> {
        let Self::OverLimit { verdict, .. } = self else { return None };
        verdict.retry_after.map(seconds_up)
    }

    fn status(&self) -> u16 {
        match self {
            Self::OverLimit { applied, .. } => applied.limit.status,
            Self::NoRoom | Self::StoreAway => 503,
            Self::Tenant(TenantDenial::Missing) => 400,
            Self::Tenant(TenantDenial::Unknown | TenantDenial::Suspended) => 403,
        }
    }

    /// The last part of the problem's type, its title, and its detail where that is always the same.
    fn words(&self) -> (&'static str, &'static str, &'static str) {
        const NOT_COUNTED: &str = "the limiter cannot count this request now";
        match self {
            Self::OverLimit { .. } => ("over-limit", "Over limit", ""),
            Self::NoRoom => ("no-room", "Not counted", NOT_COUNTED),
            Self::StoreAway => ("store-away", "Not counted", NOT_COUNTED),
            Self::Tenant(TenantDenial::Missing) => {
                ("tenant-missing", "Tenant missing", "the request does not say which tenant it belongs to")
            }
            Self::Tenant(TenantDenial::Unknown) => {
                ("tenant-unknown", "Tenant unknown", "no tenant of that name is served here")
            }
            Self::Tenant(TenantDenial::Suspended) => {
                ("tenant-suspended", "Tenant suspended", "this tenant is suspended")
            }
        }
    }
}

impl fmt::Display for Denial<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (problem, title, detail) = self.words();
        f.write_str("{\"detail\":\"")?;
        match self {
            Self::OverLimit { applied, verdict } => {
                write_detail(f, applied, verdict)?;
                write!(f, "\",\"limit\":\"{}\",\"rate\":\"{}\"", applied.limit.name, applied.limit.rate)?;
                match self.retry_after() {
                    Some(seconds) => write!(f, ",\"retry_after\":{seconds}")?,
                    None => f.write_str(",\"retry_after\":null")?,
                }
                write!(f, ",\"status\":{},\"tier\":\"{}\"", self.status(), applied.tier.as_str())?;
            }
            _ => write!(f, "{detail}\",\"status\":{}", self.status())?,
        }
        write!(f, ",\"title\":\"{title}\",\"type\":\"urn:tierflow:problem:{problem}\"}}")
    }
}

fn write_detail(f: &mut fmt::Formatter<'_>, applied: &Applied<'_>, verdict: &Verdict) -> fmt::Result {
    let (tier, name, rate) = (applied.tier.as_str(), &applied.limit.name, applied.limit.rate);
    match verdict.retry_after {
        Some(_) => write!(f, "the {tier} limit {name} of {rate} is used up"),
        None if rate.limit == 0 => write!(f, "the {tier} limit {name} lets nothing pass"),
        None => {
            let cost = applied.charge.hits;
            write!(f, "the request costs {cost} hits, more than the {tier} limit {name} of {rate} ever allows")
        }
    }
}

/// The `result` label of such a denial.
pub(super) fn result(denial: TenantDenial) -> &'static str {
    match denial {
        TenantDenial::Missing => "tenant_missing",
        TenantDenial::Unknown => "tenant_unknown",
        TenantDenial::Suspended => "tenant_suspended",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitResponse;
    use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
    use envoy_types::pb::google::protobuf::value::Kind;
    use serde_json::json;

    use super::*;
    use crate::document::split;
    use crate::limiter::fixture::charge;
    use crate::limiter::matcher::Tier;
    use crate::policy::limit::Limit;
    use crate::policy::parse::{Policy, parse};
    use crate::rls::answer::{Answer, fixture::decode};

    /// The limits of an Api, of which only this is told.
    fn limits(limits: &str) -> Vec<Arc<Limit>> {
        let text = format!("{{kind: Api, name: pay, gateway: g, match: {{path: /}}, service: s, limits: [{limits}]}}");
        let document = Arc::new(split(&"p.yaml".into(), text.as_bytes()).remove(0));
        match &parse(&document).unwrap().policy {
            Policy::Api(api) => api.limits.clone(),
            _ => unreachable!("it is an Api"),
        }
    }

    fn applied(limit: &Limit) -> Applied<'_> {
        let charge = charge(1, &limit.rate.to_string());
        Applied { limit, tier: Tier::Api, charge: crate::limiter::Charge { mode: limit.mode, ..charge } }
    }

    fn verdict(retry_after: Option<Duration>) -> Outcome {
        Outcome::Judged(Verdict { allowed: false, remaining: 0, retry_after, grows_after: Duration::ZERO })
    }

    fn allowed() -> Outcome {
        let (retry_after, grows_after) = (Some(Duration::ZERO), Duration::ZERO);
        Outcome::Judged(Verdict { allowed: true, remaining: 3, retry_after, grows_after })
    }

    fn seconds(seconds: u64) -> Outcome {
        verdict(Some(Duration::from_secs(seconds)))
    }

    fn denied(outcomes: &[Outcome]) -> Admission {
        Admission { admitted: false, outcomes: outcomes.iter().copied().collect() }
    }

    fn body(response: &RateLimitResponse) -> serde_json::Value {
        serde_json::from_slice(&response.raw_body).unwrap()
    }

    /// The status that the listener's local replies map the denial to.
    fn status(response: &RateLimitResponse) -> &str {
        match &response.dynamic_metadata.as_ref().unwrap().fields[STATUS].kind {
            Some(Kind::StringValue(status)) => status,
            other => panic!("{other:?}"),
        }
    }

    fn headers(response: &RateLimitResponse) -> Vec<(&str, &str)> {
        response.response_headers_to_add.iter().map(|header| (&*header.key, &*header.value)).collect()
    }

    #[test]
    fn the_limit_that_denies_for_the_longest_is_told() {
        let limits = limits(
            "{rate: 5/s, name: a}, {rate: 5/m, name: b}, {rate: 5/h, name: c, mode: shadow}, {rate: 5/d, name: d}",
        );
        let applied: Vec<_> = limits.iter().map(|limit| applied(limit)).collect();
        let told = |outcomes: &[Outcome]| match Denial::of(&applied, &denied(outcomes)) {
            Some(Denial::OverLimit { applied, verdict }) => Some((applied.limit.name.to_string(), verdict.retry_after)),
            _ => None,
        };
        let after = |name: &str, seconds| Some((name.to_owned(), Some(Duration::from_secs(seconds))));
        assert_eq!(
            told(&[seconds(1), seconds(7), seconds(900), allowed()]),
            after("b", 7),
            "what is in shadow denies nothing"
        );
        assert_eq!(told(&[seconds(9), seconds(7), allowed(), allowed()]), after("a", 9));
        assert_eq!(
            told(&[verdict(None), seconds(2), allowed(), allowed()]),
            Some(("a".to_owned(), None)),
            "it never passes"
        );
        assert_eq!(told(&[seconds(1), verdict(None), allowed(), allowed()]), Some(("b".to_owned(), None)));
    }

    #[test]
    fn who_is_admitted_is_not_denied_whatever_a_shadow_says() {
        let limits = limits("{rate: 5/s, mode: shadow}");
        let applied: Vec<_> = limits.iter().map(|limit| applied(limit)).collect();
        let admission = Admission { admitted: true, outcomes: [seconds(9)].into_iter().collect() };
        assert!(Denial::of(&applied, &admission).is_none());
        assert!(matches!(Denial::of(&applied, &denied(&[Outcome::NoRoom])), Some(Denial::NoRoom)));
        assert!(matches!(Denial::of(&applied, &denied(&[seconds(9)])), Some(Denial::NoRoom)), "no limit that denies");
    }

    #[test]
    fn over_a_limit_a_client_is_told_which_and_when_to_come_back() {
        let limits = limits("{rate: 5/m, name: per-minute, status: 503}");
        let applied: Vec<_> = limits.iter().map(|limit| applied(limit)).collect();
        let admission = denied(&[verdict(Some(Duration::from_millis(6_001)))]);
        let response = decode(Answer::judged(&applied, &admission));
        assert_eq!((response.overall_code, status(&response)), (Code::OverLimit as i32, "503"));
        assert_eq!(headers(&response), [("retry-after", "7")], "rounded up: who comes then is let in");
        let expected = json!({
            "type": "urn:tierflow:problem:over-limit", "title": "Over limit", "status": 503,
            "detail": "the api limit per-minute of 5/minute is used up",
            "tier": "api", "limit": "per-minute", "rate": "5/minute", "retry_after": 7,
        });
        assert_eq!(body(&response), expected);
        let [of_limit] = &*response.statuses else { panic!("{:?}", response.statuses) };
        assert_eq!(
            (of_limit.code, of_limit.duration_until_reset.as_ref().unwrap().seconds),
            (Code::OverLimit as i32, 7)
        );
    }

    #[test]
    fn who_will_never_pass_is_not_told_to_come_back() {
        let limits = limits("{rate: 0/m, name: closed}, {rate: 5/m, name: small}");
        for (limit, hits, detail) in [
            (&limits[0], 1, "the api limit closed lets nothing pass"),
            (&limits[1], 9, "the request costs 9 hits, more than the api limit small of 5/minute ever allows"),
        ] {
            let mut applied = applied(limit);
            applied.charge.hits = hits;
            let applied = [applied];
            let response = decode(Answer::judged(&applied, &denied(&[verdict(None)])));
            assert_eq!((&body(&response)["detail"], &body(&response)["retry_after"]), (&json!(detail), &json!(null)));
            let reset = response.statuses[0].duration_until_reset.as_ref().unwrap();
            assert_eq!(reset.seconds, 60, "Envoy's header needs a number: the window");
            assert_eq!((headers(&response), status(&response)), (vec![], "429"));
        }
    }

    /// Envoy would make its headers of it.
    #[test]
    fn a_limit_in_shadow_has_no_status() {
        let limits = limits("{rate: 5/m, name: a}, {rate: 1/m, name: b, mode: shadow}, {rate: 9/h, name: c}");
        let applied: Vec<_> = limits.iter().map(|limit| applied(limit)).collect();
        let outcomes = [allowed(), seconds(9), allowed()];
        let named = |admission: &Admission| {
            let response = decode(Answer::judged(&applied, admission));
            let limit =
                |status: &envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::DescriptorStatus| {
                    status.current_limit.as_ref().unwrap().name.clone()
                };
            response.statuses.iter().map(limit).collect::<Vec<_>>()
        };
        assert_eq!(named(&Admission { admitted: true, outcomes: outcomes.into_iter().collect() }), ["a", "c"]);
        assert_eq!(named(&denied(&[seconds(3), seconds(9), Outcome::NoRoom])), ["a"], "what is not counted has none");
    }

    #[test]
    fn what_cannot_be_counted_is_no_fault_of_the_client() {
        for (denial, problem) in [(Denial::NoRoom, "no-room"), (Denial::StoreAway, "store-away")] {
            let response = decode(Answer::denied(&denial));
            assert_eq!((status(&response), headers(&response)), ("503", vec![]));
            assert_eq!(body(&response)["type"], format!("urn:tierflow:problem:{problem}"));
            assert_eq!(body(&response)["status"], 503);
        }
    }

    #[test]
    fn a_tenant_that_is_not_served_is_told_why_and_nothing_of_others() {
        for (denial, code, problem, label) in [
            (TenantDenial::Missing, 400, "tenant-missing", "tenant_missing"),
            (TenantDenial::Unknown, 403, "tenant-unknown", "tenant_unknown"),
            (TenantDenial::Suspended, 403, "tenant-suspended", "tenant_suspended"),
        ] {
            let response = decode(Answer::denied(&Denial::Tenant(denial)));
            let told = body(&response);
            assert_eq!((status(&response), &told["status"]), (&*code.to_string(), &json!(code)));
            assert_eq!(told["type"], format!("urn:tierflow:problem:{problem}"));
            assert_eq!(told.as_object().unwrap().len(), 4, "{told}");
            assert_eq!((result(denial), response.overall_code), (label, Code::OverLimit as i32));
        }
    }
}
