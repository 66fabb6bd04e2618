//! Answers as Envoy's `RateLimitResponse` (`envoy/service/ratelimit/v3/rls.proto`), written as bytes.

use std::time::Duration;

use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use prost::bytes::Bytes;

use super::denial::Denial;
use super::message::{Buffer, Message};
use crate::counters::{Admission, Outcome};
use crate::limiter::Verdict;
use crate::limiter::matcher::Applied;

/// Before the message: that it is not compressed, and its length ("gRPC over HTTP2").
const PREFIX_BYTES: usize = 5;

/// A message of gRPC.
#[derive(Debug)]
pub(super) struct Answer(Bytes);

impl Answer {
    /// A request that nothing is counted for.
    pub(super) fn passed() -> Self {
        Self::new(Code::Ok, |_| {})
    }

    /// To descriptors that no policy is about: each has a status, and no limit.
    pub(super) fn unknown(descriptors: usize) -> Self {
        Self::new(Code::Ok, |response| {
            for _ in 0..descriptors {
                response.message(2, |status| status.number(1, Code::Ok as u64));
            }
        })
    }

    /// A request that was decided over its limits.
    pub(super) fn judged(limits: &[Applied<'_>], admission: &Admission) -> Self {
        match Denial::of(limits, admission) {
            None => Self::new(Code::Ok, |response| add_statuses(response, limits, admission, None)),
            Some(denial) => Self::new(Code::OverLimit, |response| {
                add_statuses(response, limits, admission, denial.reset());
                denial.write(response);
            }),
        }
    }

    /// A request that is denied for a reason that no limit has to do with.
    pub(super) fn denied(denial: &Denial<'_>) -> Self {
        Self::new(Code::OverLimit, |response| denial.write(response))
    }

    fn new(code: Code, write: impl FnOnce(&mut Message<'_>)) -> Self {
        let mut buffer = Buffer::from_slice(&[0; PREFIX_BYTES]);
        let mut response = Message::at_end_of(&mut buffer);
        response.number(1, code as u64);
        write(&mut response);
        let length = u32::try_from(buffer.len() - PREFIX_BYTES).unwrap_or(u32::MAX);
        if let Some(place) = buffer.get_mut(1..PREFIX_BYTES) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        Self(Bytes::copy_from_slice(&buffer))
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.0
    }
}

/// The statuses of all enforced limits. Envoy makes the `x-ratelimit-*` headers of these: of the one with the least left,
/// which need not be the one that denies for the longest. So where a request is denied for a time, all of them have that.
/// What is in shadow says nothing.
fn add_statuses(
    response: &mut Message<'_>,
    limits: &[Applied<'_>],
    admission: &Admission,
    denied_for: Option<Duration>,
) {
    for (applied, outcome) in limits.iter().zip(&admission.outcomes) {
        if let Outcome::Judged(verdict) = outcome
            && applied.charge.is_enforced()
        {
            let reset = denied_for.unwrap_or(verdict.grows_after);
            response.message(2, |status| write_status(status, applied, verdict, reset));
        }
    }
}

/// `reset` is the time in `x-ratelimit-reset`, until more will be left than now
/// (draft-ietf-httpapi-ratelimit-headers-03, section 5.3).
fn write_status(status: &mut Message<'_>, applied: &Applied<'_>, verdict: &Verdict, reset: Duration) {
    let rate = applied.limit.rate;
    let code = if verdict.allowed { Code::Ok } else { Code::OverLimit };
    status.number(1, code as u64);
    status.message(2, |limit| {
        limit.number(1, rate.limit.into());
        limit.number(2, unit(rate.window.secs()) as u64);
        limit.text(3, applied.limit.name.as_str());
    });
    status.number(3, verdict.remaining.into());
    status.message(4, |duration| duration.number(1, seconds_up(reset).min(i64::MAX as u64)));
}

/// Rounded up: whoever comes back then is let in.
pub(super) fn seconds_up(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
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
pub(super) mod fixture {
    use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitResponse;
    use prost::Message as _;

    use super::*;

    /// An answer as Envoy reads it.
    pub(in crate::rls) fn decode(answer: Answer) -> RateLimitResponse {
        let bytes = answer.into_bytes();
        let (prefix, message) = bytes.split_first_chunk::<PREFIX_BYTES>().unwrap();
        assert_eq!(*prefix, *[&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes()].concat());
        RateLimitResponse::decode(message).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_that_no_policy_is_about_pass_with_a_status_each() {
        let response = fixture::decode(Answer::unknown(2));
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
        assert_eq!(seconds_up(Duration::MAX), u64::MAX);
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
