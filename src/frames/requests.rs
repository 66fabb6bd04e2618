//! Messages out of the body of a request. An Envoy's first request tells of hundreds of extensions, every later one of
//! almost nothing: a buffer lives as long as the message in it.

use std::marker::PhantomData;

use http_body_util::BodyExt;
use prost::Message;
use prost::bytes::{Buf, BytesMut};
use tonic::Status;
use tonic::body::Body;

/// A flag for compression, and the length of the message in four bytes.
const HEADER_BYTES: usize = 5;
/// The largest request, in bytes: a reconnecting Envoy names every resource it has.
const REQUEST_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The most that is set aside for a request before it comes: most of them fit, and who only announces one costs no more.
const ANNOUNCED_BYTES_MAX: usize = 256 * 1024;

/// The messages of a request's body.
#[derive(Debug)]
pub struct Requests<T> {
    body: Body,
    received: BytesMut,
    message: PhantomData<fn() -> T>,
}

impl<T: Message + Default> Requests<T> {
    pub fn new(body: Body) -> Self {
        Self { body, received: BytesMut::new(), message: PhantomData }
    }

    /// The next message; `None` after the last. Nothing is lost if it is not waited for to the end.
    pub async fn next(&mut self) -> Result<Option<T>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.receive(&data);
                    }
                }
                None if self.received.is_empty() => return Ok(None),
                None => return Err(Status::internal("the request ended within a message")),
            }
        }
    }

    /// A buffer that doubles until the message fits is as large as the transport's own several times over; what it has
    /// touched is then theirs, and stays resident (`benches/xds.rs`: 48 KiB a stream instead of 43).
    fn receive(&mut self, data: &[u8]) {
        if self.received.is_empty() {
            let announced = length(data).map_or(0, |length| HEADER_BYTES + length);
            self.received.reserve(announced.min(ANNOUNCED_BYTES_MAX).max(data.len()));
        }
        self.received.extend_from_slice(data);
    }

    fn take(&mut self) -> Result<Option<T>, Status> {
        let Some(length) = length(&self.received) else { return Ok(None) };
        if self.received.first() != Some(&0) {
            return Err(Status::unimplemented("compressed messages are not supported"));
        }
        if length > REQUEST_BYTES_MAX {
            let message = format!("a request of {length} bytes; at most {REQUEST_BYTES_MAX} are taken");
            return Err(Status::resource_exhausted(message));
        }
        if self.received.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        self.received.advance(HEADER_BYTES);
        let message = T::decode(self.received.split_to(length));
        if self.received.is_empty() {
            self.received = BytesMut::new();
        }
        message.map(Some).map_err(|error| Status::invalid_argument(format!("not such a request: {error}")))
    }
}

/// The length of the message that begins here, once its header is here.
fn length(received: &[u8]) -> Option<usize> {
    Some(received.get(1..HEADER_BYTES)?.get_u32() as usize)
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use prost::bytes::Bytes;

    use super::*;

    fn frame(text: &str) -> Vec<u8> {
        let message = text.to_owned().encode_to_vec();
        [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat()
    }

    fn requests(pieces: Vec<Vec<u8>>) -> Requests<String> {
        let frames = pieces.into_iter().map(|piece| Ok::<_, Status>(Frame::data(Bytes::from(piece))));
        Requests::new(Body::new(StreamBody::new(tokio_stream::iter(frames.collect::<Vec<_>>()))))
    }

    #[tokio::test]
    async fn messages_are_read_however_they_are_cut() {
        let whole: Vec<u8> = ["a", "b", ""].iter().flat_map(|name| frame(name)).collect();
        for size in 1..=whole.len() {
            let mut requests = requests(whole.chunks(size).map(<[u8]>::to_vec).collect());
            for name in ["a", "b", ""] {
                assert_eq!(requests.next().await.unwrap(), Some(name.to_owned()), "cut to {size}");
            }
            assert_eq!(requests.next().await.unwrap(), None);
            assert_eq!(requests.received.capacity(), 0, "an idle stream keeps no buffer");
        }
    }

    #[tokio::test]
    async fn who_announces_a_large_message_gets_no_large_buffer() {
        let mut requests = requests(vec![vec![0, 1, 0, 0, 0, 1]]);
        assert_eq!(requests.next().await.unwrap_err().code(), tonic::Code::Internal, "16 MiB are announced");
        assert!((16 * 1024..=ANNOUNCED_BYTES_MAX).contains(&requests.received.capacity()));
    }

    #[tokio::test]
    async fn what_is_no_message_ends_the_stream_with_a_reason() {
        let cut = frame("abc")[..7].to_vec();
        let bad = [
            (vec![1, 0, 0, 0, 0], tonic::Code::Unimplemented),
            (vec![0, 0xff, 0, 0, 0], tonic::Code::ResourceExhausted),
            (vec![0, 0, 0, 0, 1, 0xff], tonic::Code::InvalidArgument),
            (cut, tonic::Code::Internal),
        ];
        for (bytes, code) in bad {
            assert_eq!(requests(vec![bytes.clone()]).next().await.unwrap_err().code(), code, "{bytes:?}");
        }
    }
}
