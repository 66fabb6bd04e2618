//! Those who follow single decisions: the collector of spans, and the log of denials. Where there are none, a decision does
//! nothing for them.

use std::borrow::Cow;

use http::HeaderMap;

use super::denial::Denial;
use super::{Caller, Question};
use crate::clock::Timestamp;
use crate::counters::{Admission, Trip};
use crate::denial_log::{DenialLog, Event, Trace};
use crate::limiter::matcher::{Applied, Found};
use crate::names::{Name, spelling};
use crate::shown;
use crate::traces::{Ended, Kind, Span, TRACEPARENT, TraceContext, Traces};

/// The most bytes that are told of a tenant's name: those of a tenant with a document.
const TENANT_BYTES_MAX: usize = 128;

#[derive(Clone, Debug, Default)]
pub struct Followers {
    pub traces: Option<Traces>,
    pub denial_log: Option<DenialLog>,
}

/// What came of a request.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    /// In the words of `tierflow_decisions`.
    pub(super) result: &'static str,
    pub(super) is_denied: bool,
    /// The limit that denies it for the longest.
    pub(super) limit: Option<&'a Applied<'a>>,
}

impl<'a> Told<'a> {
    pub(super) fn new(result: &'static str, is_denied: bool) -> Self {
        Self { result, is_denied, limit: None }
    }

    /// Of a request that was decided over its limits.
    pub(super) fn of(limits: &'a [Applied<'a>], admission: &Admission) -> Self {
        match Denial::of(limits, admission) {
            None => Self::new("ok", false),
            Some(Denial::OverLimit { applied, .. }) => Self { limit: Some(applied), ..Self::new("denied", true) },
            Some(_) => Self::new("denied", true),
        }
    }
}

impl Followers {
    /// Of which trace a call is, if anybody wants to know.
    pub(super) fn trace(&self, headers: &HeaderMap) -> Option<TraceContext> {
        if self.traces.is_none() && self.denial_log.is_none() {
            return None;
        }
        TraceContext::read(headers.get(TRACEPARENT)?.as_bytes())
    }

    /// The span of a decision that begins.
    pub(super) fn begin(&self, trace: Option<TraceContext>, now: Timestamp) -> Option<Span> {
        self.traces.as_ref()?.begin(trace, now)
    }

    /// Tells of a question to the store.
    pub(super) fn tell_trip(&self, caller: &Caller<'_>, trip: Option<Trip>) {
        let (Some(traces), Some(span), Some(trip)) = (&self.traces, &caller.span, trip) else { return };
        let mut attributes = vec![("db.system.name", Cow::Borrowed("redis"))];
        attributes.extend(trip.failure.map(|reason| ("error.type", reason.into())));
        let error = trip.failure.map(Cow::Borrowed);
        let ended = Ended { name: "counter store", kind: Kind::Client, attributes, error };
        traces.end(&span.child(trip.asked), trip.answered, ended);
    }

    /// Tells of a decision; `ended` reads the clock.
    pub(super) fn tell(
        &self,
        question: &Question<'_>,
        found: &Found<'_>,
        told: Told<'_>,
        ended: impl Fn() -> Timestamp,
    ) {
        let caller = &question.caller;
        if let (Some(traces), Some(span)) = (&self.traces, &caller.span) {
            traces.end(span, ended(), decision(attributes(question, found, told), None));
        }
        if let (Some(log), true) = (&self.denial_log, told.is_denied) {
            log.note(caller.now, || event(question, found, told));
        }
    }

    /// Tells of a request that came to no decision about a policy.
    pub(super) fn tell_other(&self, caller: &Caller<'_>, result: &'static str, error: Option<&str>, ended: Timestamp) {
        let (Some(traces), Some(span)) = (&self.traces, &caller.span) else { return };
        let error = error.map(|error| shown::bounded(error).into_owned().into());
        traces.end(span, ended, decision(vec![("tierflow.result", result.into())], error));
    }
}

fn decision(attributes: Vec<(&'static str, Cow<'static, str>)>, error: Option<Cow<'static, str>>) -> Ended {
    Ended { name: "decision", kind: Kind::Server, attributes, error }
}

fn attributes(question: &Question<'_>, found: &Found<'_>, told: Told<'_>) -> Vec<(&'static str, Cow<'static, str>)> {
    let name = |name: &Name| Cow::Owned(name.as_str().to_owned());
    let mut attributes = vec![("tierflow.gateway", name(found.gateway)), ("tierflow.result", told.result.into())];
    attributes.extend(found.api.map(|api| ("tierflow.api", name(api))));
    attributes.extend(tenant(question).map(|tenant| ("tierflow.tenant", tenant.into())));
    if let Some(applied) = told.limit {
        attributes.push(("tierflow.tier", applied.tier.as_str().into()));
        attributes.push(("tierflow.limit", name(&applied.limit.name)));
    }
    attributes
}

fn event(question: &Question<'_>, found: &Found<'_>, told: Told<'_>) -> Event {
    let caller = &question.caller;
    let of_span = caller.span.map(|span| (span.trace(), true));
    let trace = of_span.or_else(|| caller.trace.map(|trace| (trace.trace, trace.is_sampled)));
    Event {
        at: caller.now,
        gateway: found.gateway.as_str().into(),
        api: found.api.map(|api| api.as_str().into()),
        tenant: tenant(question).map(Into::into),
        result: told.result,
        limit: told.limit.map(|applied| (applied.tier.as_str(), applied.limit.name.as_str().into())),
        trace: trace.map(|(id, is_sampled)| Trace { id: id.to_string(), is_sampled }),
    }
}

/// The tenant, as far as that is shown of one.
fn tenant(question: &Question<'_>) -> Option<String> {
    question.matcher.shown_tenant(&question.asked).map(|tenant| shown_tenant(&tenant))
}

fn shown_tenant(tenant: &[u8]) -> String {
    let bytes = tenant.get(..TENANT_BYTES_MAX).unwrap_or(tenant);
    shown::beginning(&spelling::spelled(bytes), TENANT_BYTES_MAX).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denial_log::{DenialLogSettings, Target};
    use crate::metrics::Metrics;

    #[test]
    fn of_a_tenant_so_much_is_told_as_a_tenant_with_a_document_can_be_called() {
        assert_eq!(shown_tenant(b"acme"), "acme");
        for long in [vec![b'a'; 60_000], vec![0xff; 60_000], "\u{1f980}".repeat(1000).into_bytes()] {
            let shown = shown_tenant(&long);
            assert!((TENANT_BYTES_MAX - 3..=TENANT_BYTES_MAX).contains(&shown.len()), "{}", shown.len());
        }
    }

    #[test]
    fn who_follows_nothing_looks_at_no_header() {
        let value = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static(TRACEPARENT), value)]);
        assert_eq!(Followers::default().trace(&headers), None);
        let (log, _writer) = DenialLog::open(settings(), &Metrics::default()).unwrap();
        let followers = Followers { denial_log: Some(log), ..Followers::default() };
        assert!(followers.trace(&headers).unwrap().is_sampled);
        assert_eq!(followers.trace(&HeaderMap::new()), None);
    }

    fn settings() -> DenialLogSettings {
        DenialLogSettings { target: Target::StandardOutput, per_second: std::num::NonZeroU32::MIN }
    }
}
