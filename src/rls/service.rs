//! The rate limit service as it is served: a call is begun, its request received piece by piece, and it is decided. Nothing
//! here waits, or knows by what transport a call has come.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::HeaderMap;
use prost::bytes::Bytes;
use tonic::Status;

use super::answer::Answer;
use super::call::{Call, late};
use super::reply::Reply;
use super::{Rls, Shown};
use crate::clock::Timestamp;

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
        Call::new(headers, self.now()).map_err(|status| self.0.fail(status))
    }

    /// Adds bytes that have come of a call's request.
    pub fn receive(&self, call: &mut Call, data: Bytes) -> Result<(), Reply> {
        call.receive(data).map_err(|status| self.0.fail(status))
    }

    /// Decides a call of which all has come, of somebody with this certificate. Its hits are counted as of now: the
    /// caller may have taken long to send it.
    pub fn decide(&self, call: Call, certificate: Shown<'_>) -> Decision {
        let now = self.now();
        let message = match call.into_message(now) {
            Ok(message) => message,
            Err(status) => return Decision::Made(self.0.fail(status)),
        };
        match self.0.decide_now(&message, certificate, now).transpose() {
            Some(answer) => Decision::Made(self.0.reply(answer, now)),
            None => Decision::Asked(self.ask(message, certificate, now)),
        }
    }

    fn ask(
        &self,
        message: Bytes,
        certificate: Shown<'_>,
        now: Timestamp,
    ) -> Pin<Box<dyn Future<Output = Reply> + Send>> {
        let (rls, certificate) = (Arc::clone(&self.0), certificate.cloned());
        Box::pin(async move {
            let answer = rls.decide(&message, certificate.as_ref(), now).await;
            rls.reply(answer, now)
        })
    }

    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// True once the caller has gone on without an answer, which is noted then: it need not be told.
    pub fn is_late(&self, call: &Call, now: Timestamp) -> bool {
        let is_late = call.is_late(now);
        if is_late {
            self.0.failures.note(&late());
        }
        is_late
    }

    /// Notes that a caller took its call back.
    pub fn note_cancelled(&self) {
        self.0.failures.note(&Status::cancelled("the caller took it back"));
    }
}

impl Rls {
    fn reply(&self, answer: Result<Answer, Status>, decided_from: Timestamp) -> Reply {
        self.metrics.decision_seconds.observe(self.clock.now().since(decided_from));
        answer.map_or_else(|status| self.fail(status), |answer| Reply(Ok(answer)))
    }

    fn fail(&self, status: Status) -> Reply {
        self.failures.note(&status);
        Reply(Err(status))
    }
}
