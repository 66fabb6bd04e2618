//! Messages out of the body of a request. An Envoy's first request tells of hundreds of extensions, every later one of
//! almost nothing: a buffer lives as long as the message in it.

use std::marker::PhantomData;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Frame;
use prost::Message;
use prost::bytes::{Buf, Bytes, BytesMut};
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::body::Body;

use crate::budget::Held;

/// A flag for compression, and the length of the message in four bytes.
const HEADER_BYTES: usize = 5;
/// The largest request, in bytes: a reconnecting Envoy names every resource it has.
const REQUEST_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The most that is set aside for a request before it comes: most of them fit, and who only announces one costs no more.
const ANNOUNCED_BYTES_MAX: usize = 256 * 1024;
/// The time that a message may take to come, from its first byte on.
const MESSAGE_MAX: Duration = Duration::from_secs(30);

/// The messages of a request's body.
#[derive(Debug)]
pub struct Requests<T> {
    body: Body,
    received: BytesMut,
    /// What the buffer takes while a message in it is not whole, and until when it has to be.
    held: Held,
    whole_by: Option<Instant>,
    message: PhantomData<fn() -> T>,
}

impl<T: Message + Default> Requests<T> {
    pub fn new(body: Body, held: Held) -> Self {
        Self { body, received: BytesMut::new(), held, whole_by: None, message: PhantomData }
    }

    /// The next message; `None` after the last. Nothing is lost if it is not waited for to the end.
    pub async fn next(&mut self) -> Result<Option<T>, Status> {
        loop {
            let message = self.take()?;
            self.note_rest(message.is_some())?;
            if message.is_some() {
                return Ok(message);
            }
            match self.frame().await? {
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

    /// What comes next, in time.
    async fn frame(&mut self) -> Result<Option<Result<Frame<Bytes>, Status>>, Status> {
        let Some(whole_by) = self.whole_by else { return Ok(self.body.frame().await) };
        let late = |_| {
            let seconds = MESSAGE_MAX.as_secs();
            Status::deadline_exceeded(format!("a request did not come as a whole within {seconds} s"))
        };
        timeout_at(whole_by, self.body.frame()).await.map_err(late)
    }

    /// Notes what is held of a message that is not whole, after another one or as more has come of it.
    fn note_rest(&mut self, is_new: bool) -> Result<(), Status> {
        if self.received.is_empty() || is_new {
            self.whole_by = None;
        }
        if !self.received.is_empty() {
            self.whole_by.get_or_insert_with(|| Instant::now() + MESSAGE_MAX);
        }
        self.held.set(self.received.capacity()).map_err(|full| Status::resource_exhausted(full.to_string()))
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
    use std::sync::Arc;

    use futures_util::StreamExt;
    use http_body_util::StreamBody;
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::budget::{ALLOWANCE_BYTES, Allowance, Budget, use_up};
    use crate::metrics::{Metrics, PortLabels};

    fn frame(text: &str) -> Vec<u8> {
        let message = text.to_owned().encode_to_vec();
        [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat()
    }

    fn held() -> Held {
        Arc::<Allowance>::default().held()
    }

    fn requests(pieces: Vec<Vec<u8>>) -> Requests<String> {
        let frames = pieces.into_iter().map(|piece| Ok::<_, Status>(Frame::data(Bytes::from(piece))));
        Requests::new(Body::new(StreamBody::new(tokio_stream::iter(frames.collect::<Vec<_>>()))), held())
    }

    /// Of a body whose pieces come one after the other, each so many seconds after the one before, and which does not end.
    fn coming(pieces: Vec<Vec<u8>>, seconds: u64, held: Held) -> Requests<String> {
        let frames = futures_util::stream::iter(pieces).then(move |piece| async move {
            sleep(Duration::from_secs(seconds)).await;
            Ok::<_, Status>(Frame::data(Bytes::from(piece)))
        });
        Requests::new(Body::new(StreamBody::new(Box::pin(frames.chain(futures_util::stream::pending())))), held)
    }

    /// Other things happen on its stream every second.
    async fn next(requests: &mut Requests<String>) -> Result<Option<String>, Status> {
        loop {
            if let Ok(next) = timeout(Duration::from_secs(1), requests.next()).await {
                return next;
            }
        }
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

    #[tokio::test(start_paused = true)]
    async fn a_message_that_has_begun_is_whole_in_time_or_its_stream_ends() {
        let text = frame("abc");
        let cut = |size: usize| text.chunks(size).map(<[u8]>::to_vec).collect::<Vec<_>>();
        let mut in_time = coming(cut(2), 7, held());
        assert_eq!(next(&mut in_time).await.unwrap(), Some("abc".to_owned()));
        let idle = timeout(MESSAGE_MAX * 100, next(&mut in_time)).await;
        assert!(idle.is_err(), "nothing has begun");
        let (mut late, began) = (coming(cut(1), 5, held()), Instant::now());
        assert_eq!(next(&mut late).await.unwrap_err().code(), tonic::Code::DeadlineExceeded);
        assert_eq!(began.elapsed().as_secs(), 5 + MESSAGE_MAX.as_secs(), "from its first byte on");
    }

    /// The next one has begun when it is read, and has its own time.
    #[tokio::test(start_paused = true)]
    async fn each_message_has_its_time() {
        let both = [frame("a"), frame("b")].concat();
        let pieces = [&both[..2], &both[2..9], &both[9..]].map(<[u8]>::to_vec);
        let mut requests = coming(pieces.into(), 20, held());
        for text in ["a", "b"] {
            assert_eq!(next(&mut requests).await.unwrap(), Some(text.to_owned()));
        }
    }

    #[tokio::test]
    async fn what_has_come_of_a_message_is_held_until_it_is_whole_or_its_stream_ends() {
        let metrics = Metrics::default();
        let budget = Budget::new(&metrics, "xds", ALLOWANCE_BYTES);
        let bytes = || metrics.unfinished_request_bytes.get_or_create(&PortLabels { port: "xds" }).get();
        let text = frame(&"a".repeat(200_000));
        let (begin, rest) = text.split_at(100_000);
        let mut whole = coming(vec![begin.to_vec(), rest.to_vec()], 0, budget.allowance().held());
        assert_eq!(whole.next().await.unwrap().map(|text| text.len()), Some(200_000));
        assert_eq!(bytes(), 0);
        let mut begun = coming(vec![begin.to_vec()], 0, budget.allowance().held());
        assert!(timeout(Duration::from_millis(1), begun.next()).await.is_err());
        assert!(bytes() >= 100_000 - 64 * 1024, "{}", bytes());
        drop(begun);
        assert_eq!(bytes(), 0);
        let _others = use_up(&budget);
        let mut begun = coming(vec![begin.to_vec()], 0, budget.allowance().held());
        assert_eq!(begun.next().await.unwrap_err().code(), tonic::Code::ResourceExhausted);
        let small = frame(&"a".repeat(50_000));
        let mut small = coming(small.chunks(30_000).map(<[u8]>::to_vec).collect(), 0, budget.allowance().held());
        assert!(small.next().await.is_ok(), "an Envoy is not touched by others");
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
