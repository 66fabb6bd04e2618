//! Spans of decisions for a collector that takes OTLP: they go on with the trace that an Envoy's question is part of.
//!
//! ```text
//! traceparent --TraceContext--> Traces::begin --Span--> rls decides; Span::child: the store is asked
//!                                          end --SpanData--> queue (bounded) --> Exporter (a task) --OTLP--> collector
//! ```
//!
//! Nothing that decides waits for any of it: a span that finds no room in the queue is counted and dropped.

mod context;
mod exporter;
mod headers;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{SpanContext, SpanKind, Status, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, SpanId, TraceFlags};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use tokio::sync::mpsc;

use crate::clock::Timestamp;
use crate::metrics::{Metrics, SpanMetrics};
use crate::version::VERSION;

pub use context::{TRACEPARENT, TraceContext};
pub use exporter::{Exporter, TracesSettings, Unusable};
pub use headers::check_headers;
pub use opentelemetry::TraceId;

/// The spans that wait to be exported. Each takes about a kilobyte.
pub const WAITING_MAX: usize = 4096;

/// Where spans that have ended go.
#[derive(Clone, Debug)]
pub struct Traces {
    queue: mpsc::Sender<SpanData>,
    /// Of [`SAMPLED_OF`] decisions that are asked for without a trace.
    sample: u32,
    metrics: SpanMetrics,
    scope: InstrumentationScope,
}

pub const SAMPLED_OF: u32 = 10_000;

/// A span that has begun and is to be exported.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    trace: TraceId,
    id: SpanId,
    /// `INVALID`: there is none.
    parent: SpanId,
    is_of_another: bool,
    begun: Timestamp,
}

impl Span {
    pub fn trace(&self) -> TraceId {
        self.trace
    }

    /// One of something that happens within this one.
    #[must_use]
    pub fn child(&self, now: Timestamp) -> Self {
        Self { id: new_span(), parent: self.id, is_of_another: false, begun: now, ..*self }
    }
}

/// What is said of a span that has ended.
#[derive(Debug)]
pub struct Ended {
    pub name: &'static str,
    pub kind: Kind,
    pub attributes: Vec<(&'static str, Cow<'static, str>)>,
    /// What went wrong.
    pub error: Option<Cow<'static, str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Somebody else waits for it.
    Server,
    /// Somebody else is waited for.
    Client,
}

impl Traces {
    /// With the task that exports what comes.
    pub fn new(settings: &TracesSettings, metrics: &Arc<Metrics>) -> Result<(Self, Exporter), Unusable> {
        let (queue, spans) = mpsc::channel(WAITING_MAX);
        let exporter = Exporter::new(settings, spans, metrics.spans.clone())?;
        Ok((Self::into_queue(queue, settings.sample, metrics), exporter))
    }

    fn into_queue(queue: mpsc::Sender<SpanData>, sample: u32, metrics: &Metrics) -> Self {
        let scope = InstrumentationScope::builder("tierflow").with_version(VERSION).build();
        Self { queue, sample, metrics: metrics.spans.clone(), scope }
    }

    /// Begins the span of a decision, where the trace that it is asked for in is recorded; or where there is none, and chance
    /// wants one.
    pub fn begin(&self, caller: Option<TraceContext>, now: Timestamp) -> Option<Span> {
        match caller {
            Some(caller) => caller.is_sampled.then(|| Span {
                trace: caller.trace,
                id: new_span(),
                parent: caller.span,
                is_of_another: true,
                begun: now,
            }),
            None => (self.sample > 0 && fastrand::u32(..SAMPLED_OF) < self.sample).then(|| Span {
                trace: TraceId::from(fastrand::u128(1..)),
                id: new_span(),
                parent: SpanId::INVALID,
                is_of_another: false,
                begun: now,
            }),
        }
    }

    /// The number of spans that wait to be exported.
    pub fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Has a span exported, in time.
    pub fn end(&self, span: &Span, at: Timestamp, ended: Ended) {
        let data = SpanData {
            span_context: SpanContext::new(span.trace, span.id, TraceFlags::SAMPLED, false, TraceState::NONE),
            parent_span_id: span.parent,
            parent_span_is_remote: span.is_of_another,
            span_kind: match ended.kind {
                Kind::Server => SpanKind::Server,
                Kind::Client => SpanKind::Client,
            },
            name: ended.name.into(),
            start_time: wall(span.begun),
            end_time: wall(at),
            attributes: ended.attributes.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: ended.error.map_or(Status::Unset, |description| Status::Error { description }),
            instrumentation_scope: self.scope.clone(),
        };
        if self.queue.try_send(data).is_err() {
            self.metrics.dropped.inc();
        }
    }
}

fn new_span() -> SpanId {
    SpanId::from(fastrand::u64(1..))
}

fn wall(at: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(at.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces(room: usize, sample: u32) -> (Traces, mpsc::Receiver<SpanData>, Metrics) {
        let (queue, spans) = mpsc::channel(room);
        let metrics = Metrics::default();
        (Traces::into_queue(queue, sample, &metrics), spans, metrics)
    }

    fn ended(name: &'static str) -> Ended {
        Ended { name, kind: Kind::Server, attributes: vec![("key", "value".into())], error: None }
    }

    fn caller(is_sampled: bool) -> Option<TraceContext> {
        Some(TraceContext { trace: TraceId::from(7), span: SpanId::from(8), is_sampled })
    }

    #[test]
    fn a_decision_goes_on_with_the_trace_of_its_caller_and_what_it_asks_is_below_it() {
        let (traces, mut spans, _metrics) = traces(2, 0);
        let at = Timestamp::from_nanos;
        let span = traces.begin(caller(true), at(1)).unwrap();
        let child = span.child(at(2));
        traces.end(&child, at(3), Ended { error: Some("away".into()), kind: Kind::Client, ..ended("store") });
        traces.end(&span, at(4), ended("decision"));
        let [store, decision] = std::array::from_fn(|_| spans.try_recv().unwrap());
        assert_eq!(decision.span_context.trace_id(), TraceId::from(7));
        assert_eq!((decision.parent_span_id, decision.parent_span_is_remote), (SpanId::from(8), true));
        assert_eq!((decision.start_time, decision.end_time), (wall(at(1)), wall(at(4))));
        assert_eq!(store.span_context.trace_id(), TraceId::from(7));
        assert_eq!((store.parent_span_id, store.parent_span_is_remote), (decision.span_context.span_id(), false));
        assert_eq!(store.status, Status::error("away"));
        assert_ne!(store.span_context.span_id(), decision.span_context.span_id());
    }

    #[test]
    fn what_the_caller_does_not_record_is_not_recorded_here_whatever_the_share() {
        let (all, _spans, _metrics) = traces(1, SAMPLED_OF);
        assert!(all.begin(caller(false), Timestamp::default()).is_none());
        let own = all.begin(None, Timestamp::default()).unwrap();
        assert_eq!((own.parent, own.is_of_another), (SpanId::INVALID, false));
        let (none, _spans, _metrics) = traces(1, 0);
        assert!(none.begin(None, Timestamp::default()).is_none());
        assert!(none.begin(caller(true), Timestamp::default()).is_some());
    }

    #[test]
    fn a_span_that_finds_no_room_is_counted_and_not_waited_for() {
        let (traces, spans, metrics) = traces(2, SAMPLED_OF);
        let end = || traces.end(&traces.begin(None, Timestamp::default()).unwrap(), Timestamp::default(), ended("a"));
        (0..5).for_each(|_| end());
        assert_eq!(metrics.spans.dropped.get(), 3);
        drop(spans);
        end();
        assert_eq!(metrics.spans.dropped.get(), 4);
    }
}
