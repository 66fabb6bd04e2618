//! Notices that the other end of an HTTP/2 connection is gone: it is asked for a sign of life (RFC 9113, section 6.7, PING)
//! from time to time.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

/// Between an answer and the next ping.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(10);
/// The time that an answer may take.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(15);

pub(super) struct KeepAlive {
    pings: Option<PingPong>,
    /// That an answer did not come.
    is_asked: bool,
    next: Pin<Box<Sleep>>,
}

impl KeepAlive {
    /// Of a connection's pings, which it gives once.
    pub(super) fn new(pings: Option<PingPong>) -> Self {
        Self { pings, is_asked: false, next: Box::pin(sleep(PING_INTERVAL)) }
    }

    /// Pings when it is time to. Fails when the other end did not answer.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let Some(pings) = &mut self.pings else { return Poll::Pending };
        loop {
            if self.is_asked && pings.poll_pong(context)?.is_ready() {
                self.is_asked = false;
                self.next.as_mut().reset(Instant::now() + PING_INTERVAL);
            }
            ready!(self.next.as_mut().poll(context));
            if self.is_asked {
                return Poll::Ready(Err(h2::Reason::SETTINGS_TIMEOUT.into()));
            }
            pings.send_ping(Ping::opaque())?;
            self.is_asked = true;
            self.next.as_mut().reset(Instant::now() + PING_TIMEOUT);
        }
    }
}
