//! One gRPC stream on a TCP connection of its own, as Envoy opens it for ADS: HTTP/2 by the `h2` crate alone, and
//! messages framed by hand, so that thousands of them fit beside the server they measure.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::client::{Builder, Connection, ResponseFuture};
use h2::{RecvStream, SendStream};
use hyper::Request;
use prost::Message;
use prost::bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::tls;

/// Envoy's defaults for the upstreams that it talks gRPC to.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 24 * 1024 * 1024;
/// That of the bootstraps that Tierflow writes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Of gRPC: a byte that says whether the message is compressed, and its length.
const PREFIX_BYTES: usize = 5;

type Io = Either<TcpStream, Box<TlsStream<TcpStream>>>;

pub(crate) struct Wire {
    connection: Connection<Io, Bytes>,
    requests: SendStream<Bytes>,
    response: ResponseFuture,
    body: Option<RecvStream>,
    received: BytesMut,
}

impl Wire {
    /// From an address of its own choice: one address has too few ports for all.
    pub(crate) async fn connect(server: SocketAddr, from: Ipv4Addr, path: &str) -> Result<Self, String> {
        Self::connect_with(server, from, path, STREAM_WINDOW_BYTES).await
    }

    /// With another window than Envoy's.
    pub(crate) async fn connect_with(
        server: SocketAddr,
        from: Ipv4Addr,
        path: &str,
        stream_window_bytes: u32,
    ) -> Result<Self, String> {
        let io = tokio::time::timeout(CONNECT_TIMEOUT, dial(server, from)).await;
        let io = io.map_err(|_| "cannot connect in time")?.map_err(|error| format!("cannot connect: {error}"))?;
        let mut builder = Builder::new();
        builder.initial_window_size(stream_window_bytes).initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let (mut client, connection) = builder.handshake(io).await.map_err(|error| error.to_string())?;
        let request = Request::post(format!("http://{server}{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(|error| error.to_string())?;
        let (response, requests) = client.send_request(request, false).map_err(|error| error.to_string())?;
        Ok(Self { connection, requests, response, body: None, received: BytesMut::new() })
    }

    /// Hands a message to the connection, which sends it when the next one is waited for.
    pub(crate) fn send(&mut self, message: &impl Message) -> Result<(), String> {
        let length = message.encoded_len();
        let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
        frame.put_u8(0);
        frame.put_u32(length as u32);
        message.encode(&mut frame).map_err(|error| error.to_string())?;
        self.requests.send_data(frame.freeze(), false).map_err(|error| error.to_string())
    }

    /// The next message. Nothing of one is lost where the wait is given up, and nothing is read or written while
    /// nobody waits.
    pub(crate) async fn message(&mut self) -> Result<Bytes, String> {
        std::future::poll_fn(|context| self.poll_message(context)).await
    }

    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, String>> {
        if let Poll::Ready(ended) = Pin::new(&mut self.connection).poll(context) {
            return Poll::Ready(Err(format!("the connection ended: {ended:?}")));
        }
        loop {
            if let Some(message) = self.take_message() {
                return Poll::Ready(Ok(message));
            }
            if let Err(ended) = ready!(self.poll_data(context)) {
                return Poll::Ready(Err(ended));
            }
        }
    }

    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Result<(), String>> {
        let Some(body) = &mut self.body else {
            let response = ready!(Pin::new(&mut self.response).poll(context)).map_err(|error| error.to_string())?;
            self.body = Some(response.into_body());
            return Poll::Ready(Ok(()));
        };
        let Some(data) = ready!(body.poll_data(context)) else {
            let trailers = ready!(body.poll_trailers(context));
            return Poll::Ready(Err(format!("the stream ended: {trailers:?}")));
        };
        let data = data.map_err(|error| error.to_string())?;
        body.flow_control().release_capacity(data.len()).map_err(|error| error.to_string())?;
        self.received.extend_from_slice(&data);
        Poll::Ready(Ok(()))
    }

    fn take_message(&mut self) -> Option<Bytes> {
        let mut prefix = self.received.get(1..PREFIX_BYTES)?;
        let length = prefix.get_u32() as usize;
        if self.received.len() < PREFIX_BYTES + length {
            return None;
        }
        self.received.advance(PREFIX_BYTES);
        let message = self.received.split_to(length).freeze();
        // Thousands of buffers that wait for something are better none.
        if self.received.is_empty() {
            self.received = BytesMut::new();
        }
        Some(message)
    }
}

async fn dial(server: SocketAddr, from: Ipv4Addr) -> std::io::Result<Io> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let tcp = socket.connect(server).await?;
    tcp.set_nodelay(true)?;
    match tls::connector() {
        None => Ok(Either::Left(tcp)),
        Some(tls) => Ok(Either::Right(Box::new(tls.connect(server.ip().into(), tcp).await?))),
    }
}
