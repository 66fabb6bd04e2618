//! The calls of a connection of which more has to come: an end of a turn cut them apart, or their client sends them so.
//!
//! They are taken in on the connection's own task, and then wait with all others: one that was decided as soon as its rest
//! came would be decided before newer ones, however long it had waited for that.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::RecvStream;
use h2::server::SendResponse;
use prost::bytes::Bytes;

use super::Waiting;
use crate::rls::{Call, RateLimitServer, Reply};
use crate::serve::activity::UnderWay;

/// The time that a request may take to come, from its headers on.
pub(super) const REQUEST_MAX: Duration = Duration::from_secs(30);
/// Bytes of requests that have not come to their end yet, of all calls on a connection: twice the largest request. What an Envoy
/// sends comes at once.
pub(super) const INCOMPLETE_BYTES_MAX: usize = 32 << 20;

#[derive(Default)]
pub(super) struct Receiving {
    calls: FuturesUnordered<Pin<Box<dyn Future<Output = Received> + Send>>>,
    /// Of all of them.
    bytes: Arc<AtomicUsize>,
}

/// What became of a call that had not come as a whole.
pub(super) enum Received {
    /// All of it is here.
    Whole(Waiting),
    Refused(SendResponse<Bytes>, Reply),
    /// It was taken back, or does not come.
    Left,
}

impl Receiving {
    /// Waits for the rest of a call, of which so many bytes have come.
    pub(super) fn wait(
        &self,
        service: &RateLimitServer,
        Waiting { mut call, respond }: Waiting,
        body: RecvStream,
        came: usize,
        under_way: UnderWay,
    ) {
        let (service, incomplete) = (service.clone(), Incomplete::of(came, &self.bytes));
        self.calls.push(Box::pin(async move {
            let _under_way = under_way;
            let received = receive(&service, &mut call, body, incomplete);
            match tokio::time::timeout(REQUEST_MAX, received).await {
                Ok(Some(Ok(()))) => Received::Whole(Waiting { call, respond }),
                Ok(Some(Err(reply))) => Received::Refused(respond, reply),
                Ok(None) | Err(_) => Received::Left,
            }
        }));
    }

    /// The next call that is not waited for any more. `None` where all of them are.
    pub(super) fn next(&mut self, context: &mut Context<'_>) -> Option<Received> {
        match self.calls.poll_next_unpin(context) {
            Poll::Ready(received) => received,
            Poll::Pending => None,
        }
    }
}

/// The bytes of a request until all of it has come, among those of its connection.
struct Incomplete {
    own: usize,
    all: Arc<AtomicUsize>,
}

impl Incomplete {
    /// A request of which so much has come.
    fn of(bytes: usize, all: &Arc<AtomicUsize>) -> Self {
        all.fetch_add(bytes, Ordering::Relaxed);
        Self { own: bytes, all: Arc::clone(all) }
    }

    /// Adds what has come of it. False where it is too much.
    fn add(&mut self, bytes: usize) -> bool {
        self.own += bytes;
        self.all.fetch_add(bytes, Ordering::Relaxed) + bytes <= INCOMPLETE_BYTES_MAX
    }
}

impl Drop for Incomplete {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
    }
}

/// Receives the rest of a request. `None` where it was taken back.
async fn receive(
    service: &RateLimitServer,
    call: &mut Call,
    mut body: RecvStream,
    mut incomplete: Incomplete,
) -> Option<Result<(), Reply>> {
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        body.flow_control().release_capacity(data.len()).ok()?;
        if !incomplete.add(data.len()) {
            return Some(Err(service.refuse_incomplete(INCOMPLETE_BYTES_MAX)));
        }
        if let Err(reply) = service.receive(call, data) {
            return Some(Err(reply));
        }
    }
    Some(Ok(()))
}
