//! Single requests that were denied, as lines of JSON: who was denied what by which limit, and of which trace it was.
//!
//! ```text
//! rls --Event--> Pace (so many a second) --> queue (bounded) --> Writer (a task) --> file or standard output
//! ```
//!
//! Nothing that decides waits for any of it. What is left out is counted, and the file says how much it is.

mod pace;
mod writer;

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::mpsc;

use crate::clock::Timestamp;
use crate::metrics::{DenialLogMetrics, Metrics};
use crate::rotation::Rotation;
use crate::trouble::Trouble;
use pace::Pace;

pub use writer::Writer;

/// The lines that wait to be written. Each takes at most a kilobyte.
pub const WAITING_MAX: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenialLogSettings {
    pub target: Target,
    /// The lines of a second.
    pub per_second: NonZeroU32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    StandardOutput,
    File(PathBuf, Rotation),
}

#[derive(Clone, Debug)]
pub struct DenialLog {
    queue: mpsc::Sender<Event>,
    pace: Arc<Pace>,
    /// Denials that the file does not tell of, and has not said so yet.
    left_out: Arc<AtomicU64>,
    trouble: Trouble,
    metrics: DenialLogMetrics,
}

/// A request that was denied.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    pub at: Timestamp,
    pub gateway: Box<str>,
    pub api: Option<Box<str>>,
    pub tenant: Option<Box<str>>,
    /// Why, in the words of `tierflow_decisions`.
    pub result: &'static str,
    /// The tier and the name of the limit that denied for the longest.
    pub limit: Option<(&'static str, Box<str>)>,
    pub trace: Option<Trace>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    pub id: String,
    /// Whether anybody records it.
    pub is_sampled: bool,
}

impl DenialLog {
    /// With the task that writes what comes.
    pub fn open(settings: DenialLogSettings, metrics: &Metrics) -> std::io::Result<(Self, Writer)> {
        let (queue, events) = mpsc::channel(WAITING_MAX);
        let log = Self::into_queue(queue, settings.per_second, metrics);
        let writer = Writer::open(settings.target, events, &log)?;
        Ok((log, writer))
    }

    fn into_queue(queue: mpsc::Sender<Event>, per_second: NonZeroU32, metrics: &Metrics) -> Self {
        let pace = Arc::new(Pace::new(per_second));
        Self { queue, pace, left_out: Arc::default(), trouble: Trouble::default(), metrics: metrics.denial_log.clone() }
    }

    /// The number of lines that wait to be written.
    pub fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Why the last lines could not be written.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.get()
    }

    /// Notes a denial, where there is room for it.
    pub fn note(&self, now: Timestamp, event: impl FnOnce() -> Event) {
        let lost = if !self.pace.takes(now) {
            &self.metrics.left_out
        } else if self.queue.try_send(event()).is_err() {
            &self.metrics.dropped
        } else {
            return;
        };
        lost.inc();
        self.left_out.fetch_add(1, Ordering::Relaxed);
    }
}

/// A line.
#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Denied {
        time: String,
        gateway: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        api: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        tenant: Option<&'a str>,
        result: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        tier: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        limit: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        trace_id: Option<Cow<'a, str>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        trace_sampled: Option<bool>,
    },
    /// Denials since the last such line that there is no line of.
    LeftOut { time: String, left_out: u64 },
}

impl<'a> Line<'a> {
    fn of(event: &'a Event) -> Self {
        Self::Denied {
            time: time(event.at),
            gateway: &event.gateway,
            api: event.api.as_deref(),
            tenant: event.tenant.as_deref(),
            result: event.result,
            tier: event.limit.as_ref().map(|(tier, _)| *tier),
            limit: event.limit.as_ref().map(|(_, name)| &**name),
            trace_id: event.trace.as_ref().map(|trace| trace.id.as_str().into()),
            trace_sampled: event.trace.as_ref().map(|trace| trace.is_sampled),
        }
    }

    fn left_out(at: Timestamp, left_out: u64) -> Self {
        Self::LeftOut { time: time(at), left_out }
    }
}

fn time(at: Timestamp) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_nanos(at.as_nanos())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn event(api: &str) -> Event {
        Event {
            at: Timestamp::from_nanos(1_700_000_000_123_000_000),
            gateway: "shop".into(),
            api: Some(api.into()),
            tenant: Some("acme \"Inc\"".into()),
            result: "denied",
            limit: Some(("api", "minute".into())),
            trace: Some(Trace { id: "4bf92f3577b34da6a3ce929d0e0e4736".to_owned(), is_sampled: true }),
        }
    }

    #[test]
    fn a_denial_is_a_line_that_names_its_limit_and_its_trace() {
        let line = serde_json::to_string(&Line::of(&event("pay"))).unwrap();
        let expected = r#"{"time":"2023-11-14T22:13:20.123Z","gateway":"shop","api":"pay","tenant":"acme \"Inc\"","result":"denied","tier":"api","limit":"minute","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","trace_sampled":true}"#;
        assert_eq!(line, expected);
        let bare = Event { api: None, tenant: None, limit: None, trace: None, result: "store_away", ..event("") };
        let line = serde_json::to_string(&Line::of(&bare)).unwrap();
        assert_eq!(line, r#"{"time":"2023-11-14T22:13:20.123Z","gateway":"shop","result":"store_away"}"#);
    }

    #[test]
    fn what_is_too_much_for_a_second_or_for_the_queue_is_counted_and_not_waited_for() {
        let (queue, mut events) = mpsc::channel(2);
        let metrics = Metrics::default();
        let log = DenialLog::into_queue(queue, NonZeroU32::MIN, &metrics);
        let note = |seconds: u64| log.note(Timestamp::from_nanos(seconds * 1_000_000_000), || event("pay"));
        [100, 100, 100, 101, 102, 103].into_iter().for_each(note);
        let counted = || [metrics.denial_log.left_out.get(), metrics.denial_log.dropped.get()];
        assert_eq!(counted(), [2, 2], "two more in the second 100, and two that found the queue full");
        assert_eq!(log.left_out.load(Ordering::Relaxed), 4);
        assert!(events.try_recv().is_ok());
        note(104);
        assert_eq!(counted(), [2, 2]);
    }
}
