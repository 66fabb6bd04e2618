//! A call of the rate limit service's one method, on a path of its own: the request is read in place, the answer written
//! into one buffer, and where counters are in memory nothing in between waits or is put on the heap. What gRPC asks of a
//! server is in "gRPC over HTTP2" of its documentation.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use hyper::body::{Body, Frame};
use prost::bytes::{Buf as _, Bytes, BytesMut};
use tonic::Status;

use super::Rls;
use super::answer::Answer;
use crate::clock::Timestamp;
use crate::names::certificate::ClientCertificate;
use crate::names::descriptor::{LIST_ACTIONS_MAX, VALUE_BYTES_MAX};

/// The largest request, in bytes: more than any Envoy sends for our routes, whatever its clients send, or a long value
/// would be a way round all limits. An Api's own descriptor holds what a request has a few times at most.
const REQUEST_BYTES_MAX: usize = (LIST_ACTIONS_MAX + 16) * VALUE_BYTES_MAX;
/// Before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// The future of a call. It does not fail: what goes wrong is in the answer's status.
pub struct Call<B> {
    rls: Arc<Rls>,
    /// That of the connection, where the caller had to show one.
    certificate: Option<Arc<ClientCertificate>>,
    came: Timestamp,
    /// When all of the request was there. `None` before.
    decided_from: Option<Timestamp>,
    /// The time that the caller waits.
    timeout: Option<Duration>,
    stage: Stage<B>,
}

enum Stage<B> {
    Refused(Status),
    Reading {
        body: B,
        message: Received,
    },
    /// A store elsewhere is asked.
    Asking(Pin<Box<dyn Future<Output = Result<Answer, Status>> + Send>>),
}

impl<B> Call<B> {
    pub(super) fn new(rls: Arc<Rls>, certificate: Option<Arc<ClientCertificate>>, request: Request<B>) -> Self {
        let (came, timeout) = (rls.clock.now(), timeout(request.headers()));
        let stage = match encoding(request.headers()) {
            Ok(()) => Stage::Reading { body: request.into_body(), message: Received::default() },
            Err(status) => Stage::Refused(status),
        };
        Self { rls, certificate, came, decided_from: None, timeout, stage }
    }
}

impl<B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin> Call<B> {
    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Result<Answer, Status>> {
        loop {
            match &mut self.stage {
                Stage::Refused(status) => return Poll::Ready(Err(status.clone())),
                Stage::Asking(answer) => return answer.as_mut().poll(context),
                Stage::Reading { body, message } => match ready!(Pin::new(body).poll_frame(context)) {
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            message.take(data)?;
                        }
                    }
                    Some(Err(error)) => return Poll::Ready(Err(Status::cancelled(error.to_string()))),
                    None => {
                        let message = std::mem::take(message).finish()?;
                        // Its hits are counted as of now: the caller may have taken long to send all of it.
                        let now = self.rls.clock.now();
                        self.decided_from = Some(now);
                        match self.decide_now(&message, now)? {
                            Some(answer) => return Poll::Ready(Ok(answer)),
                            None => self.stage = self.ask(message, now),
                        }
                    }
                },
            }
        }
    }

    fn decide_now(&self, message: &[u8], now: Timestamp) -> Result<Option<Answer>, Status> {
        if self.timeout.is_some_and(|timeout| now.since(self.came) >= timeout) {
            // Its caller has gone on without an answer: nothing is charged that nobody hears of.
            return Err(Status::deadline_exceeded("the caller does not wait any more"));
        }
        self.rls.decide_now(message, self.certificate.as_ref(), now)
    }

    fn ask(&self, message: Bytes, now: Timestamp) -> Stage<B> {
        let (rls, certificate) = (Arc::clone(&self.rls), self.certificate.clone());
        Stage::Asking(Box::pin(async move { rls.decide(&message, certificate.as_ref(), now).await }))
    }
}

impl<B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin> Future for Call<B> {
    type Output = Response<Reply>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(self.poll_answer(context));
        if let Some(from) = self.decided_from {
            self.rls.metrics.decision_seconds.observe(self.rls.clock.now().since(from));
        }
        Poll::Ready(match answer {
            Ok(answer) => reply(answer),
            Err(status) => {
                self.rls.failures.note(&status);
                status.into_http::<tonic::body::Body>().map(|_| Reply::default())
            }
        })
    }
}

/// The bytes that have come of a message. Nearly always they come at once, and are not copied.
#[derive(Default)]
struct Received {
    first: Bytes,
    all: BytesMut,
}

impl Received {
    fn take(&mut self, data: Bytes) -> Result<(), Status> {
        let length = self.first.len().max(self.all.len()) + data.len();
        if length > PREFIX_BYTES + REQUEST_BYTES_MAX {
            return Err(too_large(length - PREFIX_BYTES));
        }
        if self.first.is_empty() {
            self.first = data;
            return Ok(());
        }
        if self.all.is_empty() {
            self.all.extend_from_slice(&self.first);
        }
        self.all.extend_from_slice(&data);
        Ok(())
    }

    /// The message without its prefix.
    fn finish(self) -> Result<Bytes, Status> {
        let mut message = if self.all.is_empty() { self.first } else { self.all.freeze() };
        let Some((&[is_compressed, ref length @ ..], _)) = message.split_first_chunk::<PREFIX_BYTES>() else {
            return Err(Status::internal("a request message is missing"));
        };
        let length = u32::from_be_bytes(*length) as usize;
        if is_compressed != 0 {
            return Err(Status::internal(format!(
                "a message with compression flag {is_compressed} and no grpc-encoding"
            )));
        }
        if length > REQUEST_BYTES_MAX {
            return Err(too_large(length));
        }
        let came = message.len() - PREFIX_BYTES;
        if came != length {
            return Err(Status::internal(format!("{came} bytes of a message of {length} bytes")));
        }
        message.advance(PREFIX_BYTES);
        Ok(message)
    }
}

fn too_large(length: usize) -> Status {
    Status::out_of_range(format!("a message of {length} bytes, more than {REQUEST_BYTES_MAX}"))
}

/// "gRPC over HTTP2": a compression that a server does not know is UNIMPLEMENTED.
fn encoding(headers: &HeaderMap) -> Result<(), Status> {
    match headers.get("grpc-encoding") {
        None => Ok(()),
        Some(encoding) if encoding == "identity" => Ok(()),
        Some(encoding) => {
            let mut status = Status::unimplemented(format!("grpc-encoding {encoding:?}: expected identity"));
            status
                .metadata_mut()
                .insert("grpc-accept-encoding", tonic::metadata::MetadataValue::from_static("identity"));
            Err(status)
        }
    }
}

/// "gRPC over HTTP2": a positive number of up to 8 digits, and a unit. What is none is left out of account.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| is_number)?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

fn reply(answer: Answer) -> Response<Reply> {
    let mut response = Response::new(Reply { message: Some(answer.into_bytes()), has_trailers: true });
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The body of an answer: a message and the trailers that say it is whole, or nothing after a status in the headers.
#[derive(Default)]
pub struct Reply {
    message: Option<Bytes>,
    has_trailers: bool,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(message) = self.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        let has_trailers = std::mem::take(&mut self.has_trailers);
        Poll::Ready(has_trailers.then(|| Ok(Frame::trailers(ok()))))
    }

    fn is_end_stream(&self) -> bool {
        self.message.is_none() && !self.has_trailers
    }
}

fn ok() -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(chunks: &[&[u8]]) -> Result<Bytes, tonic::Code> {
        let mut received = Received::default();
        for chunk in chunks {
            received.take(Bytes::copy_from_slice(chunk)).map_err(|status| status.code())?;
        }
        received.finish().map_err(|status| status.code())
    }

    #[test]
    fn a_message_is_whole_however_it_is_cut() {
        let whole = [0, 0, 0, 0, 3, 7, 8, 9];
        for first in 0..=whole.len() {
            for second in first..=whole.len() {
                let chunks = [&whole[..first], &whole[first..second], &whole[second..]];
                assert_eq!(received(&chunks), Ok(Bytes::from_static(&[7, 8, 9])), "{chunks:?}");
            }
        }
        assert_eq!(received(&[&[0; 5]]), Ok(Bytes::new()));
    }

    #[test]
    fn what_is_no_message_is_told_apart() {
        use tonic::Code;
        let cases: [(&[u8], Code); 6] = [
            (&[], Code::Internal),
            (&[0, 0, 0, 0], Code::Internal),
            (&[0, 0, 0, 0, 2, 1], Code::Internal),
            (&[0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0], Code::Internal),
            (&[1, 0, 0, 0, 0], Code::Internal),
            (&[0, 255, 0, 0, 0], Code::OutOfRange),
        ];
        for (bytes, code) in cases {
            assert_eq!(received(&[bytes]), Err(code), "{bytes:?}");
        }
        assert_eq!(received(&[&vec![0; PREFIX_BYTES + REQUEST_BYTES_MAX + 1]]), Err(Code::OutOfRange));
        let half = vec![0; REQUEST_BYTES_MAX];
        assert_eq!(received(&[&half, &half]), Err(Code::OutOfRange));
    }

    #[test]
    fn a_timeout_is_read_in_all_its_units() {
        let read = |text: &str| {
            timeout(&HeaderMap::from_iter([(HeaderName::from_static("grpc-timeout"), text.parse().unwrap())]))
        };
        let cases = [
            ("2H", 7_200_000),
            ("3M", 180_000),
            ("99999999S", 99_999_999_000),
            ("20m", 20),
            ("5000u", 5),
            ("7000000n", 7),
        ];
        for (text, millis) in cases {
            assert_eq!(read(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for nonsense in ["", "m", "20", "20 m", "-1m", "123456789m", "20h", "1.5S", "+1S"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }
}
