//! Answers that are errors. Envoy lets such a request pass or denies it, as the gateway's `on_error` says; either way it
//! was not counted, and somebody has to know.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tonic::Code;

use crate::clock::{Clock, Timestamp};
use crate::metrics::{CodeLabels, Metrics};

/// The shortest time from one line of the log to the next.
const PAUSE: Duration = Duration::from_secs(10);

/// Those that there are series of from the start: an alarm on failures needs them before the first one.
const CODES: [Code; 8] = [
    Code::Cancelled,
    Code::DeadlineExceeded,
    Code::Internal,
    Code::InvalidArgument,
    Code::OutOfRange,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::Unavailable,
];

pub struct Failures {
    metrics: Arc<Metrics>,
    clock: Clock,
    logged: Mutex<Logged>,
}

#[derive(Default)]
struct Logged {
    at: Option<Timestamp>,
    /// Failures since then.
    unlogged: u64,
}

impl Failures {
    pub fn new(metrics: Arc<Metrics>, clock: Clock) -> Self {
        for code in CODES {
            let _ = metrics.decision_errors.get_or_create(&CodeLabels { code: name(code) });
        }
        Self { metrics, clock, logged: Mutex::default() }
    }

    /// Counts an answer, and logs the first of many. A status that is no error is none.
    pub(super) fn note(&self, code: Code, message: &str) {
        if code == Code::Ok {
            return;
        }
        // Their clients left, as some always do, or there are more of them than can be answered.
        let is_left = matches!(code, Code::Cancelled | Code::DeadlineExceeded);
        let code = name(code);
        self.metrics.decision_errors.get_or_create(&CodeLabels { code }).inc();
        self.metrics.decision_errors_all.inc();
        let now = self.clock.now();
        let mut logged = self.logged.lock();
        if logged.at.is_some_and(|at| now.since(at) < PAUSE) {
            logged.unlogged += 1;
            return;
        }
        let others = std::mem::replace(&mut *logged, Logged { at: Some(now), unlogged: 0 }).unlogged;
        drop(logged);
        if is_left {
            tracing::warn!(code, message, others, "a request was not decided: nobody waits for it any more");
        } else {
            tracing::error!(code, message, others, "a request was not decided: Envoy does with it what on_error says");
        }
    }
}

/// As gRPC writes it (grpc/status.h).
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
