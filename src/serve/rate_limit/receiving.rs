//! The calls of a connection of which more has to come: an end of a turn cut them apart, or their client sends them so.
//!
//! They are taken in on the connection's own task, and then wait with all others: one that was decided as soon as its rest
//! came would be decided before newer ones, however long it had waited for that.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::RecvStream;
use h2::server::SendResponse;
use prost::bytes::Bytes;

use super::Waiting;
use crate::budget::Held;
use crate::rls::{Call, RateLimitServer, Reply};
use crate::serve::activity::UnderWay;

/// The time that a request may take to come, from its headers on.
pub(super) const REQUEST_MAX: Duration = Duration::from_secs(30);
/// What a call takes meanwhile, besides what has come of its request.
pub(super) const CALL_BYTES: usize = 2 * 1024;

#[derive(Default)]
pub(super) struct Receiving(FuturesUnordered<Pin<Box<dyn Future<Output = Received> + Send>>>);

/// What became of a call that had not come as a whole.
pub(super) enum Received {
    /// All of it is here.
    Whole(Waiting),
    Refused(SendResponse<Bytes>, Reply),
    /// It was taken back, or does not come.
    Left,
}

impl Receiving {
    /// Waits for the rest of a call.
    pub(super) fn wait(
        &self,
        service: &RateLimitServer,
        Waiting { mut call, respond }: Waiting,
        body: RecvStream,
        held: Held,
        under_way: UnderWay,
    ) {
        let service = service.clone();
        self.0.push(Box::pin(async move {
            let _under_way = under_way;
            let received = receive(&service, &mut call, body, held);
            match tokio::time::timeout(REQUEST_MAX, received).await {
                Ok(Some(Ok(()))) => Received::Whole(Waiting { call, respond }),
                Ok(Some(Err(reply))) => Received::Refused(respond, reply),
                Ok(None) | Err(_) => Received::Left,
            }
        }));
    }

    /// The next call that is not waited for any more. `None` where all of them are.
    pub(super) fn next(&mut self, context: &mut Context<'_>) -> Option<Received> {
        match self.0.poll_next_unpin(context) {
            Poll::Ready(received) => received,
            Poll::Pending => None,
        }
    }
}

/// Receives the rest of a request. `None` where it was taken back.
async fn receive(
    service: &RateLimitServer,
    call: &mut Call,
    mut body: RecvStream,
    mut held: Held,
) -> Option<Result<(), Reply>> {
    loop {
        if let Err(reply) = service.keep(call, CALL_BYTES, &mut held) {
            return Some(Err(reply));
        }
        let Some(data) = body.data().await else { return Some(Ok(())) };
        let data = data.ok()?;
        body.flow_control().release_capacity(data.len()).ok()?;
        if let Err(reply) = service.receive(call, data) {
            return Some(Err(reply));
        }
    }
}
