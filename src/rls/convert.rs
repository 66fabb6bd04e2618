//! Protobuf to the matcher's words, and decisions back to protobuf.

use std::time::Duration;

use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus, RateLimit};
use envoy_types::pb::google::protobuf;
use smallvec::SmallVec;
use tonic::Status;

use super::wire::{Descriptor, RateLimitRequest};
use crate::counters::{Admission, Outcome};
use crate::limiter::Verdict;
use crate::limiter::matcher::{Applied, Described};
use crate::names::gateway_of_domain;

/// The entries of every descriptor.
pub(super) type AllEntries<'a> = SmallVec<[SmallVec<[(&'a [u8], &'a [u8]); 8]>; 2]>;

pub(super) fn entries(request: &RateLimitRequest) -> Result<AllEntries<'_>, Status> {
    if request.domain.is_empty() {
        return Err(Status::invalid_argument("domain must not be empty"));
    }
    if request.descriptors.is_empty() {
        return Err(Status::invalid_argument("descriptors must not be empty"));
    }
    let of_descriptor = request
        .descriptors
        .iter()
        .map(|descriptor| descriptor.entries.iter().map(|entry| (&*entry.key, &*entry.value)).collect());
    Ok(of_descriptor.collect())
}

/// `None`: a domain that is none of ours.
pub(super) fn gateway(request: &RateLimitRequest) -> Option<&str> {
    gateway_of_domain(std::str::from_utf8(&request.domain).ok()?)
}

pub(super) fn described<'a, 'b: 'a>(
    request: &RateLimitRequest,
    entries: &'a AllEntries<'b>,
) -> SmallVec<[Described<'a>; 2]> {
    let all = entries.iter().zip(&request.descriptors);
    all.map(|(entries, descriptor)| Described { entries: entries.as_slice(), hits: hits(request, descriptor) })
        .collect()
}

/// Envoy rate_limit.proto: a descriptor's own hits go before the request's, and 0 asks without counting; the request's
/// are 1 where they are not set. Nothing here gives hits back, so negative ones ask too.
fn hits(request: &RateLimitRequest, descriptor: &Descriptor) -> u32 {
    match descriptor.hits_addend {
        Some(_) if descriptor.is_negative_hits => 0,
        Some(hits) => u32::try_from(hits.value).unwrap_or(u32::MAX),
        None => request.hits_addend.max(1),
    }
}

/// Of descriptors that no policy is about: each has a status, and no limit.
pub(super) fn unknown(request: &RateLimitRequest) -> RateLimitResponse {
    let status = |_| DescriptorStatus { code: Code::Ok as i32, ..Default::default() };
    passed(request.descriptors.iter().map(status))
}

pub(super) fn passed(judged: impl Iterator<Item = DescriptorStatus>) -> RateLimitResponse {
    RateLimitResponse { overall_code: Code::Ok as i32, statuses: judged.collect(), ..Default::default() }
}

/// The statuses of all enforced limits. Envoy makes the `x-ratelimit-*` headers of these: of the one with the least left,
/// which need not be the one that denies for the longest. So where a request is denied for a time, all of them have that.
/// Those in shadow say nothing.
pub(super) fn judged<'a>(
    limits: &'a [Applied<'_>],
    admission: &'a Admission,
    denied_for: Option<Duration>,
) -> impl Iterator<Item = DescriptorStatus> + 'a {
    let of_limit = move |(applied, outcome): (&Applied<'_>, &Outcome)| match outcome {
        Outcome::Judged(verdict) if applied.charge.is_enforced() => {
            Some(status(applied, verdict, denied_for.unwrap_or(verdict.grows_after)))
        }
        _ => None,
    };
    limits.iter().zip(&admission.outcomes).filter_map(of_limit)
}

/// `reset` is the time in `x-ratelimit-reset`, until more will be left than now
/// (draft-ietf-httpapi-ratelimit-headers-03, section 5.3).
fn status(applied: &Applied<'_>, verdict: &Verdict, reset: Duration) -> DescriptorStatus {
    let rate = applied.limit.rate;
    DescriptorStatus {
        code: if verdict.allowed { Code::Ok } else { Code::OverLimit } as i32,
        current_limit: Some(RateLimit {
            name: applied.limit.name.as_str().to_owned(),
            requests_per_unit: rate.limit,
            unit: unit(rate.window.secs()) as i32,
        }),
        limit_remaining: verdict.remaining,
        duration_until_reset: Some(whole_seconds(reset)),
        ..Default::default()
    }
}

/// Rounded up: whoever comes back then is let in.
pub(super) fn seconds_up(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}

fn whole_seconds(duration: Duration) -> protobuf::Duration {
    protobuf::Duration { seconds: i64::try_from(seconds_up(duration)).unwrap_or(i64::MAX), nanos: 0 }
}

/// Windows that are no unit of Envoy's have none: their length is not in the headers then.
fn unit(window_secs: u32) -> Unit {
    match window_secs {
        1 => Unit::Second,
        60 => Unit::Minute,
        3_600 => Unit::Hour,
        86_400 => Unit::Day,
        604_800 => Unit::Week,
        2_592_000 => Unit::Month,
        31_536_000 => Unit::Year,
        _ => Unit::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rls::wire::{Entry, UInt64};

    fn descriptor(hits: Option<u64>, is_negative: bool) -> Descriptor {
        let entry = Entry { key: "api".into(), value: b"pay/\xff"[..].into() };
        let hits_addend = hits.map(|value| UInt64 { value });
        Descriptor { entries: vec![entry], hits_addend, is_negative_hits: is_negative }
    }

    fn request(domain: &'static [u8], descriptors: Vec<Descriptor>, hits_addend: u32) -> RateLimitRequest {
        RateLimitRequest { domain: domain.into(), descriptors, hits_addend }
    }

    /// Envoy rate_limit.proto, `hits_addend` of a request and of a descriptor.
    #[test]
    fn the_hits_of_a_descriptor_go_before_those_of_its_request() {
        let hits_of = |of_request, of_descriptor, is_negative| {
            let request = request(b"tierflow/edge", vec![descriptor(of_descriptor, is_negative)], of_request);
            let entries = entries(&request).unwrap();
            described(&request, &entries)[0].hits
        };
        assert_eq!(hits_of(0, None, false), 1, "where nothing is said");
        assert_eq!(hits_of(7, None, false), 7);
        assert_eq!(hits_of(7, Some(3), false), 3);
        assert_eq!(hits_of(7, Some(0), false), 0, "asks without counting");
        assert_eq!(hits_of(7, Some(3), true), 0, "nothing is given back");
        assert_eq!(hits_of(0, Some(u64::MAX), false), u32::MAX, "more than any limit allows");
    }

    #[test]
    fn a_request_without_a_domain_or_a_descriptor_is_none() {
        let code = |request: &RateLimitRequest| entries(request).map(drop).map_err(|status| status.code());
        let one = || vec![descriptor(None, false)];
        assert_eq!(code(&request(b"", one(), 0)), Err(tonic::Code::InvalidArgument));
        assert_eq!(code(&request(b"tierflow/edge", Vec::new(), 0)), Err(tonic::Code::InvalidArgument));
        assert_eq!(code(&request(b"\xff", one(), 0)), Ok(()));
    }

    #[test]
    fn a_domain_names_a_gateway_or_is_none_of_ours() {
        let named = |domain| gateway(&request(domain, Vec::new(), 0)).map(str::to_owned);
        assert_eq!(named(b"tierflow/edge").as_deref(), Some("edge"));
        for other in [&b"edge"[..], b"", b"Tierflow/edge", b"tierflow/\xff", b"\xff"] {
            assert_eq!(named(other), None, "{other:?}");
        }
    }

    #[test]
    fn values_are_passed_on_as_the_bytes_that_they_are() {
        let request = request(b"tierflow/edge", vec![descriptor(None, false), descriptor(None, false)], 0);
        let entries = entries(&request).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[1].as_slice(), [(&b"api"[..], &b"pay/\xff"[..])]);
    }

    #[test]
    fn descriptors_that_no_policy_is_about_pass_with_a_status_each() {
        let response = unknown(&request(b"other", vec![descriptor(None, false), descriptor(None, false)], 0));
        assert_eq!((response.overall_code, response.statuses.len()), (Code::Ok as i32, 2));
        assert!(
            response.statuses.iter().all(|status| status.code == Code::Ok as i32 && status.current_limit.is_none())
        );
    }

    #[test]
    fn times_are_rounded_up_so_that_who_comes_then_is_let_in() {
        let cases = [(0, 0), (1, 1), (999_999_999, 1), (1_000_000_000, 1), (1_000_000_001, 2)];
        for (nanos, seconds) in cases {
            assert_eq!(seconds_up(Duration::from_nanos(nanos)), seconds, "{nanos}");
        }
        assert_eq!(whole_seconds(Duration::MAX).seconds, i64::MAX);
    }

    #[test]
    fn windows_are_units_of_envoys_where_it_has_one() {
        for (seconds, expected) in
            [(1, Unit::Second), (60, Unit::Minute), (86_400, Unit::Day), (31_536_000, Unit::Year)]
        {
            assert_eq!(unit(seconds), expected);
        }
        for seconds in [0, 2, 59, 61, 90, 86_401] {
            assert_eq!(unit(seconds), Unit::Unknown, "{seconds}");
        }
    }
}
