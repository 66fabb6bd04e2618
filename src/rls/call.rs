//! A call of the rate limit service's one method: its request, as far as it has come. What gRPC asks of a server is in "gRPC
//! over HTTP2" of its documentation.

use std::time::Duration;

use http::HeaderMap;
use prost::bytes::{Buf as _, Bytes, BytesMut};
use tonic::Status;

use crate::clock::Timestamp;
use crate::names::descriptor::{LIST_ACTIONS_MAX, VALUE_BYTES_MAX};
use crate::traces::TraceContext;

/// The largest request, in bytes: more than any Envoy sends for our routes, whatever its clients send, or a long value
/// would be a way round all limits. An Api's own descriptor holds what a request has a few times at most.
const REQUEST_BYTES_MAX: usize = (LIST_ACTIONS_MAX + 16) * VALUE_BYTES_MAX;
/// Before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

pub(super) const LATE: &str = "the caller does not wait any more";

pub struct Call {
    came: Timestamp,
    /// The time that the caller waits.
    timeout: Option<Duration>,
    /// The trace that it is part of, where somebody follows decisions.
    pub(super) trace: Option<TraceContext>,
    message: Received,
}

impl Call {
    /// A call with these headers. Fails where its message is in a form that is not read here.
    pub(super) fn new(headers: &HeaderMap, came: Timestamp, trace: Option<TraceContext>) -> Result<Self, Status> {
        encoding(headers)?;
        Ok(Self { came, timeout: timeout(headers), trace, message: Received::default() })
    }

    /// Adds bytes that have come of the request.
    pub(super) fn receive(&mut self, data: Bytes) -> Result<(), Status> {
        self.message.take(data)
    }

    /// The bytes that are kept of the request until the rest of it comes.
    pub(super) fn keep(&mut self) -> usize {
        self.message.pieces().capacity()
    }

    /// True once its caller has gone on without an answer.
    pub fn is_late(&self, now: Timestamp) -> bool {
        self.timeout.is_some_and(|timeout| now.since(self.came) >= timeout)
    }

    /// The message, of which all has come. Fails where nobody waits for its answer any more: nothing is charged that nobody
    /// hears of.
    pub(super) fn into_message(self, now: Timestamp) -> Result<Bytes, Status> {
        if self.is_late(now) {
            return Err(Status::deadline_exceeded(LATE));
        }
        self.message.finish()
    }
}

/// The bytes that have come of a message. Nearly always they come at once, and are not copied.
#[derive(Default)]
struct Received {
    at_once: Bytes,
    /// In the place of these, once more is to come.
    pieces: Option<BytesMut>,
}

impl Received {
    fn take(&mut self, data: Bytes) -> Result<(), Status> {
        let length = self.pieces.as_ref().map_or(self.at_once.len(), BytesMut::len) + data.len();
        if length > PREFIX_BYTES + REQUEST_BYTES_MAX {
            return Err(too_large(length - PREFIX_BYTES));
        }
        match self.pieces.is_none() && self.at_once.is_empty() {
            true => self.at_once = data,
            false => self.pieces().extend_from_slice(&data),
        }
        Ok(())
    }

    /// Copies what has come: it shares the memory of all that was read with it, which may be many times as much.
    fn pieces(&mut self) -> &mut BytesMut {
        let at_once = std::mem::take(&mut self.at_once);
        self.pieces.get_or_insert_with(|| BytesMut::from(&*at_once))
    }

    /// The message without its prefix.
    fn finish(self) -> Result<Bytes, Status> {
        let mut message = self.pieces.map_or(self.at_once, BytesMut::freeze);
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

#[cfg(test)]
mod tests {
    use http::HeaderName;

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
    fn what_waits_for_its_rest_keeps_nothing_of_what_it_was_read_with() {
        let read = Bytes::from(vec![0; 1 << 20]);
        let mut call = Call::new(&HeaderMap::new(), Timestamp::from_nanos(0), None).unwrap();
        call.receive(read.slice(7..10)).unwrap();
        assert!((3..100).contains(&call.keep()));
        assert!(read.is_unique());
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
