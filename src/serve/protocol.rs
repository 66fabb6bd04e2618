//! What is spoken on a connection once it stands: gRPC, or HTTP of either version.

use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulConnection;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_io_timeout::TimeoutWriter;
use tonic::service::Routes;
use tower_service::Service;

use super::activity::UnderWay;
use super::connections::{Io, Peer};
use super::keep_alive::{PING_INTERVAL, PING_TIMEOUT};

/// RFC 9113, section 10.5.1: what all headers of a request may take.
pub(super) const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// The same of HTTP/1.1, with the first line.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// The number of these headers.
const HEADERS_MAX: usize = 100;
/// A client that reads nothing of an answer for so long has a connection for nothing.
const UNREAD_MAX: Duration = Duration::from_secs(30);
/// The time that the headers of a request of HTTP/1.1 may take to come, from the end of the one before. Longer than
/// the minute that metrics are usually scraped at: a connection that closes just then is an error for who reuses it.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(75);
/// Bytes of a call's answer that are taken before the peer has read those before them, besides what its window holds.
/// The rest need not be there yet.
pub(super) const SEND_BUFFER_BYTES: usize = 16 * 1024;
/// RFC 9113, section 6.9: bytes of requests that a client may send before they are read, on all streams of a connection. While an
/// Envoy does not read what it is sent, nothing is read of what it sends. A connection begins with no less.
const WINDOW_BYTES: u32 = 65_535;
/// Calls under way on an HTTP/2 connection of a browser or a script.
const HTTP_STREAMS_MAX: u32 = 64;

pub(super) trait Protocol: Clone + Send + 'static {
    type Connection: Speaking + Send;

    fn speak(&self, io: Io, peer: Peer) -> Self::Connection;
}

/// A connection on which a protocol is spoken. Ends when it is closed.
pub(super) trait Speaking: Future<Output = Result<(), <Self as Speaking>::Error>> {
    type Error: Display;

    /// Lets the calls that are under way end, and then the connection.
    fn graceful_shutdown(self: Pin<&mut Self>);
}

impl<C: GracefulConnection<Error: Display>> Speaking for C {
    type Error = <C as GracefulConnection>::Error;

    fn graceful_shutdown(self: Pin<&mut Self>) {
        GracefulConnection::graceful_shutdown(self);
    }
}

#[derive(Clone)]
pub(super) struct Grpc {
    pub(super) routes: Routes,
    /// Calls under way on one connection.
    pub(super) streams_max: u32,
}

impl Protocol for Grpc {
    type Connection = http2::Connection<TokioIo<Io>, TowerToHyperService<Calls<Routes>>, TokioExecutor>;

    fn speak(&self, io: Io, peer: Peer) -> Self::Connection {
        let calls = Calls { service: self.routes.clone(), peer, tell: connection };
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_concurrent_streams(self.streams_max);
        builder.serve_connection(TokioIo::new(io), TowerToHyperService::new(calls))
    }
}

#[derive(Clone)]
pub(super) struct Http {
    pub(super) router: Router,
}

/// The bytes of a connection whose other end has to read them.
type Read<I> = TokioIo<Pin<Box<TimeoutWriter<I>>>>;
type HttpConnection<I> = auto::Connection<'static, Read<I>, TowerToHyperService<Calls<Router>>, TokioExecutor>;

impl Protocol for Http {
    type Connection = HttpConnection<Io>;

    fn speak(&self, io: Io, peer: Peer) -> Self::Connection {
        self.speak_on(io, peer)
    }
}

impl Http {
    fn speak_on<I: AsyncRead + AsyncWrite + Send + 'static>(&self, io: I, peer: Peer) -> HttpConnection<I> {
        let mut io = TimeoutWriter::new(io);
        io.set_timeout(Some(UNREAD_MAX));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_TIMEOUT)
            .max_buf_size(HEADER_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_concurrent_streams(HTTP_STREAMS_MAX);
        let service = TowerToHyperService::new(Calls { service: self.router.clone(), peer, tell: address });
        builder.serve_connection(TokioIo::new(Box::pin(io)), service).into_owned()
    }
}

/// The calls of one connection, each of which is told of it what its service asks for.
#[derive(Clone)]
pub(super) struct Calls<S> {
    service: S,
    peer: Peer,
    tell: fn(&Peer, &mut http::Extensions),
}

fn connection(peer: &Peer, call: &mut http::Extensions) {
    call.insert(peer.connection.clone());
    of_all(peer, call);
}

fn address(peer: &Peer, call: &mut http::Extensions) {
    call.insert(ConnectInfo(peer.address));
    of_all(peer, call);
}

/// An `Arc<Allowance>` is with each call, and an `Arc<ClientCertificate>` where the client had to show one.
fn of_all(peer: &Peer, call: &mut http::Extensions) {
    call.insert(Arc::clone(&peer.allowance));
    if let Some(certificate) = &peer.certificate {
        call.insert(Arc::clone(certificate));
    }
}

impl<S, B> Service<http::Request<Incoming>> for Calls<S>
where
    S: Service<http::Request<Incoming>, Response = http::Response<B>, Future: Send + 'static>,
{
    type Response = http::Response<Answer<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Incoming>) -> Self::Future {
        let under_way = self.peer.activity.begin();
        (self.tell)(&self.peer, request.extensions_mut());
        let answer = self.service.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| Answer { body, _under_way: under_way })) })
    }
}

/// The body of an answer, with the call that is under way until all of it is handed over.
pub(super) struct Answer<B> {
    body: B,
    _under_way: UnderWay,
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::time::{sleep, timeout};

    use super::super::turns;
    use super::*;

    /// A connection as the server has it, and the client's end.
    fn connect() -> (impl Future<Output = Result<(), String>>, DuplexStream) {
        connect_as(Peer::new(([127, 0, 0, 1], 1).into(), None))
    }

    fn connect_as(peer: Peer) -> (impl Future<Output = Result<(), String>>, DuplexStream) {
        let router =
            Router::new().route("/", get(async || "it is well")).route("/large", get(async || vec![0; 1 << 20]));
        let (client, server) = tokio::io::duplex(64 * 1024);
        let connection = turns::take(server, &peer.activity, |io| Http { router }.speak_on(io, peer.clone()));
        (async { connection.await.map_err(|error| format!("{error:?}")) }, client)
    }

    /// The status of the answer to the head of a request.
    async fn status(head: &str) -> u16 {
        let (connection, mut client) = connect();
        let asking = async {
            // Whoever refuses a request need not read all of it.
            let _ = client.write_all(head.as_bytes()).await;
            let mut answer = [0; 12];
            client.read_exact(&mut answer).await.unwrap();
            drop(client);
            std::str::from_utf8(&answer[9..]).unwrap().parse().unwrap()
        };
        tokio::join!(asking, connection).0
    }

    #[tokio::test(start_paused = true)]
    async fn the_head_of_a_request_has_a_size() {
        let with = |lines: &str| format!("GET / HTTP/1.1\r\nhost: a\r\n{lines}\r\n");
        let lines = |count: usize| "a: b\r\n".repeat(count);
        assert_eq!(status(&with(&lines(HEADERS_MAX - 1))).await, 200);
        assert_eq!(status(&with(&lines(HEADERS_MAX))).await, 431);
        let long = |bytes: usize| format!("a: {}\r\n", "b".repeat(bytes));
        assert_eq!(status(&with(&long(HEADER_BYTES_MAX / 2))).await, 200);
        assert_eq!(status(&with(&long(HEADER_BYTES_MAX))).await, 431);
    }

    /// Time stands still while something can be done, and goes on at once where all wait.
    #[tokio::test(start_paused = true)]
    async fn the_head_of_a_request_is_not_waited_for_for_ever() {
        let (connection, mut client) = connect();
        let writing = async {
            client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
            while client.write_all(b"a: b\r\n").await.is_ok() {
                sleep(Duration::from_secs(5)).await;
            }
        };
        let both = async { tokio::join!(writing, connection) };
        timeout(HEADERS_TIMEOUT * 2, both).await.expect("the connection is closed").1.unwrap_err();
    }

    #[tokio::test]
    async fn a_call_is_under_way_until_all_of_its_answer_is_written() {
        let peer = Peer::new(([127, 0, 0, 1], 1).into(), None);
        let (connection, mut client) = connect_as(peer.clone());
        let asking = async {
            assert!(peer.activity.is_new() && peer.activity.is_idle());
            client.write_all(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            let mut answer = vec![0; 1 << 20];
            client.read_exact(&mut answer[..1]).await.unwrap();
            assert!(!peer.activity.is_idle() && !peer.activity.is_new());
            client.read_exact(&mut answer).await.unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
            client.read_to_end(&mut answer).await.unwrap();
            assert!(peer.activity.is_idle());
        };
        tokio::join!(asking, connection).1.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_of_an_answer_is_left() {
        let (connection, mut client) = connect();
        client.write_all(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let ended = timeout(UNREAD_MAX * 2, connection).await.expect("the connection is closed");
        assert!(ended.as_ref().is_err_and(|error| error.contains("TimedOut")), "{ended:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_is_not_left() {
        let (connection, mut client) = connect();
        let reading = async {
            client.write_all(b"GET /large HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
            let (mut all, mut chunk) = (0, vec![0; 16 * 1024]);
            loop {
                sleep(UNREAD_MAX / 2).await;
                match client.read(&mut chunk).await.unwrap() {
                    0 => return all,
                    read => all += read,
                }
            }
        };
        let (read, ended) = tokio::join!(reading, connection);
        assert!(read > 1 << 20 && ended.is_ok(), "{read} {ended:?}");
    }
}
