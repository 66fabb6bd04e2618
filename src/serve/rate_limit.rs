//! A connection to the rate limit port, on h2 itself: a task of its own for each call, as a general server has it, costs more than
//! the decision (`cargo bench --bench rls`).
//!
//! All calls that one read brings are decided one after the other, and their answers leave in one write. Where more come than
//! can be answered in time, the newest are decided first: those that have waited for long are the ones whose callers go on
//! without an answer, and what has been decided for nobody helps nobody (`cargo bench --bench overload`).

mod receiving;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use h2::RecvStream;
use h2::server::{Connection, Handshake, SendResponse};
use prost::bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::service::Routes;

use super::activity::UnderWay;
use super::connections::{Io, Peer};
use super::keep_alive::KeepAlive;
use super::one_buffer::OneBuffer;
use super::protocol::{self, Protocol, Speaking};
use super::routed;
use super::turns::Turn;
use crate::rls::{Call, CallsWaiting, Decision, RateLimitServer, Reply};
use receiving::{Received, Receiving};

/// Calls that are decided before the connection reads and writes again, and others have a turn.
const TURN: usize = 64;
/// Turns in which a connection only reads, one after the other, where more has come than is read in one: the newest calls are
/// to be decided first, and of those that were taken back none. So many turns read all calls that may be under way, and
/// that each is taken back.
const READING_TURNS_MAX: usize = 64;
/// RFC 9113, section 6.9: bytes of requests that a client may send before their calls are answered. What all calls that
/// may be under way have together, where they are as large as an Envoy makes them.
const WINDOW_BYTES: u32 = 1024 * 1024;

/// The rate limit service, and beside it what every gRPC port has.
#[derive(Clone)]
pub(super) struct RateLimit {
    pub(super) service: RateLimitServer,
    pub(super) others: Routes,
    /// Calls under way on one connection.
    pub(super) streams_max: u32,
}

impl Protocol for RateLimit {
    type Connection = Calls<Io>;

    fn speak(&self, io: Io, peer: Peer) -> Calls<Io> {
        let turn = io.turn();
        self.speak_on(io, turn, peer)
    }
}

impl RateLimit {
    fn speak_on<I: AsyncRead + AsyncWrite + Unpin>(&self, io: I, turn: Turn, peer: Peer) -> Calls<I> {
        let mut builder = h2::server::Builder::new();
        builder
            .max_concurrent_streams(self.streams_max)
            .max_header_list_size(protocol::HEADER_LIST_BYTES_MAX)
            .max_send_buffer_size(protocol::SEND_BUFFER_BYTES)
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            // An Envoy takes back what is not answered in time. Where a busy service reads many calls at once, it reads that
            // some of them are taken back, too: with h2's 20 of these the connection of an honest Envoy would be closed, and
            // all calls on it lost, just then. There are no more of them than may be under way.
            .max_pending_accept_reset_streams(self.streams_max as usize);
        let transport = Transport::Handshake(builder.handshake(OneBuffer(io)));
        Calls {
            rate_limit: self.clone(),
            peer,
            turn,
            transport,
            is_ending: false,
            waiting: VecDeque::new(),
            reading_turns: 0,
            under_way: None,
            told: self.service.calls_waiting(),
            receiving: Receiving::default(),
        }
    }
}

/// The calls of a connection.
pub(super) struct Calls<I> {
    rate_limit: RateLimit,
    peer: Peer,
    turn: Turn,
    transport: Transport<I>,
    /// Ends once the calls that are under way have ended.
    is_ending: bool,
    /// Those of which all has come, the newest at the end.
    waiting: VecDeque<Waiting>,
    /// Turns since some of them were decided.
    reading_turns: usize,
    /// While some wait for their turn.
    under_way: Option<UnderWay>,
    /// Their number, as it is told.
    told: CallsWaiting,
    receiving: Receiving,
}

enum Transport<I> {
    Handshake(Handshake<OneBuffer<I>, Bytes>),
    Open(Connection<OneBuffer<I>, Bytes>, KeepAlive),
}

struct Waiting {
    call: Call,
    respond: SendResponse<Bytes>,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Future for Calls<I> {
    type Output = Result<(), h2::Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Transport::Handshake(handshake) = &mut self.transport {
            let mut connection = ready!(Pin::new(handshake).poll(context))?;
            if self.is_ending {
                connection.graceful_shutdown();
            }
            let pings = connection.ping_pong();
            self.transport = Transport::Open(connection, KeepAlive::new(pings));
        }
        self.poll_calls(context)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Speaking for Calls<I> {
    type Error = h2::Error;

    fn graceful_shutdown(mut self: Pin<&mut Self>) {
        self.is_ending = true;
        if let Transport::Open(connection, _) = &mut self.transport {
            connection.graceful_shutdown();
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Calls<I> {
    fn poll_calls(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        if let Poll::Ready(ended) = self.poll_transport(context) {
            return Poll::Ready(ended);
        }
        if self.waiting.is_empty() {
            return Poll::Pending;
        }
        if self.turn.is_over() && self.reading_turns < READING_TURNS_MAX {
            self.reading_turns += 1;
        } else {
            self.reading_turns = 0;
            self.decide_newest(context);
            // Writes the answers.
            if let Poll::Ready(ended) = self.poll_transport(context) {
                return Poll::Ready(ended);
            }
        }
        self.under_way = None;
        self.told.set(self.waiting.len());
        if !self.waiting.is_empty() {
            self.under_way = Some(self.peer.activity.begin());
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Reads and writes what can be read and written, and takes in the calls that have come.
    fn poll_transport(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let ended = loop {
            let Transport::Open(connection, keep_alive) = &mut self.transport else { return Poll::Pending };
            match connection.poll_accept(context) {
                Poll::Ready(Some(Ok((request, respond)))) => self.take(request, respond, context),
                Poll::Ready(Some(Err(error))) => break Poll::Ready(Err(error)),
                Poll::Ready(None) => break Poll::Ready(Ok(())),
                Poll::Pending => break keep_alive.poll(context),
            }
        };
        while let Some(received) = self.receiving.next(context) {
            match received {
                Received::Whole(waiting) => self.insert(waiting),
                Received::Refused(respond, reply) => send(respond, reply),
                Received::Left => self.rate_limit.service.note_cancelled(),
            }
        }
        ended
    }

    fn take(
        &mut self,
        mut request: http::Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        context: &mut Context<'_>,
    ) {
        self.peer.activity.ask();
        let service = &self.rate_limit.service;
        if request.uri().path() != RateLimitServer::PATH {
            let (under_way, others) = (self.peer.activity.begin(), self.rate_limit.others.clone());
            request.extensions_mut().insert(Arc::clone(&self.peer.allowance));
            tokio::spawn(async move {
                routed::answer(others, request, respond).await;
                drop(under_way);
            });
            return;
        }
        if respond.poll_reset(context).is_ready() {
            return service.note_cancelled();
        }
        let mut call = match service.begin(request.headers()) {
            Ok(call) => call,
            Err(reply) => return send(respond, reply),
        };
        let mut body = request.into_body();
        loop {
            let data = match body.poll_data(context) {
                Poll::Ready(Some(Ok(data))) => data,
                Poll::Ready(Some(Err(_))) => return service.note_cancelled(),
                Poll::Ready(None) => break,
                Poll::Pending => {
                    let (held, under_way) = (self.peer.allowance.held(), self.peer.activity.begin());
                    return self.receiving.wait(service, Waiting { call, respond }, body, held, under_way);
                }
            };
            if let Err(reply) = service.receive(&mut call, data) {
                return send(respond, reply);
            }
            if body.is_end_stream() {
                break;
            }
        }
        self.waiting.push_back(Waiting { call, respond });
    }

    /// Puts a call among those that came before and after it, which clients number in their order (RFC 9113, section 5.1.1).
    fn insert(&mut self, call: Waiting) {
        let stream = call.respond.stream_id().as_u32();
        let place = self.waiting.partition_point(|waiting| waiting.respond.stream_id().as_u32() < stream);
        self.waiting.insert(place, call);
    }

    fn decide_newest(&mut self, context: &mut Context<'_>) {
        let service = &self.rate_limit.service;
        let now = service.now();
        while self.waiting.front().is_some_and(|oldest| oldest.call.is_late(now)) {
            self.waiting.pop_front();
            service.note_late();
        }
        for _ in 0..TURN {
            let Some(mut newest) = self.waiting.pop_back() else { return };
            if newest.respond.poll_reset(context).is_ready() {
                service.note_cancelled();
            } else {
                decide(service, newest, &self.peer);
            }
        }
        // Those that were taken back are not under way any more, and others may come instead of them.
        if self.waiting.len() > 2 * self.rate_limit.streams_max as usize {
            self.waiting.retain_mut(|waiting| waiting.respond.poll_reset(context).is_pending());
        }
    }
}

fn decide(service: &RateLimitServer, waiting: Waiting, peer: &Peer) {
    let Waiting { call, mut respond } = waiting;
    match service.decide(call, peer.certificate.as_ref()) {
        Decision::Made(reply) => send(respond, reply),
        Decision::Asked(reply) => {
            let (service, under_way) = (service.clone(), peer.activity.begin());
            let mut told = service.calls_waiting();
            told.set(1);
            tokio::spawn(async move {
                let _told = told;
                tokio::select! {
                    reply = reply => send(respond, reply),
                    _ = std::future::poll_fn(|context| respond.poll_reset(context)) => service.note_cancelled(),
                }
                drop(under_way);
            });
        }
    }
}

/// Answers a call. Where its caller has taken it back meanwhile there is nobody to tell.
fn send(mut respond: SendResponse<Bytes>, reply: Reply) {
    let _ = match reply.into_parts() {
        (head, None) => respond.send_response(head, true).map(drop),
        (head, Some((message, trailers))) => respond.send_response(head, false).and_then(|mut stream| {
            stream.send_data(message, false)?;
            stream.send_trailers(trailers)
        }),
    };
}

#[cfg(test)]
mod tests;
