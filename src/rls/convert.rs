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
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
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
