//! The rate limit service as it is served: a call is begun, its request received piece by piece, and it is decided. Nothing
//! here waits, or knows by what transport a call has come.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::HeaderMap;
use prometheus_client::metrics::gauge::Gauge;
use prost::bytes::Bytes;
use tonic::{Code, Status};

use super::answer::Answer;
use super::call::{Call, LATE};
use super::reply::Reply;
use super::{Caller, Rls, Shown};
use crate::budget::Held;
use crate::clock::Timestamp;

const CANCELLED: &str = "the caller took it back";

/// A part of the calls that wait, for as long as it lives. All parts are one number, which is written where a part changes.
pub struct CallsWaiting {
    all: Gauge,
    own: usize,
}

impl CallsWaiting {
    pub fn set(&mut self, calls: usize) {
        let change = calls as i64 - self.own as i64;
        if change != 0 {
            self.all.inc_by(change);
            self.own = calls;
        }
    }
}

impl Drop for CallsWaiting {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[derive(Clone)]
pub struct RateLimitServer(pub(super) Arc<Rls>);

pub enum Decision {
    Made(Reply),
    /// A store elsewhere is asked.
    Asked(Pin<Box<dyn Future<Output = Reply> + Send>>),
}

impl RateLimitServer {
    /// The path of its one method (`envoy/service/ratelimit/v3/rls.proto`).
    pub const PATH: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

    /// A call that comes now, with these headers.
    pub fn begin(&self, headers: &HeaderMap) -> Result<Call, Reply> {
        let trace = self.0.followers.trace(headers);
        Call::new(headers, self.now(), trace).map_err(|status| self.0.fail(status))
    }

    /// Adds bytes that have come of a call's request.
    pub fn receive(&self, call: &mut Call, data: Bytes) -> Result<(), Reply> {
        call.receive(data).map_err(|status| self.0.fail(status))
    }

    /// Notes in `held` what is kept of a request until more of it comes, of a call that takes so many bytes besides. Refuses it
    /// where that is too much.
    pub fn keep(&self, call: &mut Call, own_bytes: usize, held: &mut Held) -> Result<(), Reply> {
        let kept = held.set(own_bytes + call.keep());
        kept.map_err(|full| self.0.fail(Status::resource_exhausted(full.to_string())))
    }

    /// Decides a call of which all has come, of somebody with this certificate. Its hits are counted as of now: the
    /// caller may have taken long to send it.
    pub fn decide(&self, call: Call, certificate: Shown<'_>) -> Decision {
        let now = self.now();
        let trace = call.trace;
        let message = match call.into_message(now) {
            Ok(message) => message,
            Err(status) => return Decision::Made(self.0.fail(status)),
        };
        let caller = Caller { shown: certificate, now, trace, span: self.0.followers.begin(trace, now) };
        match self.0.decide_now(&message, caller).transpose() {
            Some(answer) => Decision::Made(self.0.reply(answer, &caller)),
            None => Decision::Asked(self.ask(message, caller)),
        }
    }

    fn ask(&self, message: Bytes, caller: Caller<'_>) -> Pin<Box<dyn Future<Output = Reply> + Send>> {
        let (rls, certificate) = (Arc::clone(&self.0), caller.shown.cloned());
        let Caller { now, trace, span, .. } = caller;
        Box::pin(async move {
            let caller = Caller { shown: certificate.as_ref(), now, trace, span };
            let under_way = UnderWay { rls: &rls, caller, is_over: false };
            let answer = rls.decide(&message, caller).await;
            under_way.end();
            rls.reply(answer, &caller)
        })
    }

    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Somebody's part of the calls that are told to wait, none at first.
    pub fn calls_waiting(&self) -> CallsWaiting {
        CallsWaiting { all: self.0.metrics.decision_calls_waiting.clone(), own: 0 }
    }

    /// Notes that a caller has gone on without an answer, which it need not be told.
    pub fn note_late(&self) {
        self.0.failures.note(Code::DeadlineExceeded, LATE);
    }

    /// Notes that a caller took its call back.
    pub fn note_cancelled(&self) {
        self.0.failures.note(Code::Cancelled, CANCELLED);
    }
}

/// A decision that may be taken back before it is made: its trace says so then.
struct UnderWay<'a> {
    rls: &'a Rls,
    caller: Caller<'a>,
    is_over: bool,
}

impl UnderWay<'_> {
    fn end(mut self) {
        self.is_over = true;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.is_over && self.caller.span.is_some() {
            let error = Some(CANCELLED);
            self.rls.followers.tell_other(&self.caller, "cancelled", error, self.rls.clock.now());
        }
    }
}

impl Rls {
    fn reply(&self, answer: Result<Answer, Status>, caller: &Caller<'_>) -> Reply {
        let ended = self.clock.now();
        self.observe(caller.now, ended, caller.span.as_ref());
        match answer {
            Ok(answer) => Reply(Ok(answer)),
            Err(status) => {
                self.followers.tell_other(caller, "error", Some(status.message()), ended);
                self.fail(status)
            }
        }
    }

    fn fail(&self, status: Status) -> Reply {
        self.failures.note(status.code(), status.message());
        Reply(Err(status))
    }
}
