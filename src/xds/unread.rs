//! Responses that Envoys have not read yet: how much memory they hold over all streams, and for how long.
//!
//! Most of a response is shared, and what of it is copied is made when the transport takes it. Still, thousands of Envoys
//! that do not read hold copies each, and keep versions of resources alive that nobody is served any more. Where that is
//! too much, whoever does not read has less time for it; whoever reads is not touched.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::frames::{Chunk, SHARED_BYTES_MIN, with_guard};
use crate::metrics::{Metrics, ReasonLabels};
use crate::snapshot::resource::Resource;

/// The most bytes that unread responses hold before slow Envoys have less time, where nothing else is said.
pub const UNREAD_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The longest that an Envoy may leave a chunk of a response unread. Its connection is closed then, and it comes back.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The same while too much is unread.
const TIMEOUT_FULL: Duration = Duration::from_secs(2);

/// Reasons why a connection is closed, as metrics have them.
const TIMED_OUT: &str = "timeout";
const FULL: &str = "full";

/// The bytes that unread responses hold: those that were copied for them, and bodies of resources that they share, each
/// once.
#[derive(Debug)]
pub struct Unread {
    bytes_max: u64,
    metrics: Arc<Metrics>,
    is_full: watch::Sender<bool>,
    /// Shared bodies by their address.
    bodies: Mutex<HashMap<usize, usize>>,
}

/// A response that is on its way. It holds the bodies that it shares until the last of its chunks is read.
#[derive(Debug)]
pub(super) struct UnreadResponse {
    unread: Arc<Unread>,
    bodies: Vec<Bytes>,
}

/// A chunk that the transport has not let go of.
struct UnreadChunk {
    response: Arc<UnreadResponse>,
    bytes_copied: usize,
    _timeout: AbortOnDropHandle<()>,
}

impl Unread {
    pub fn new(bytes_max: u64, metrics: Arc<Metrics>) -> Self {
        for reason in [TIMED_OUT, FULL] {
            // An alarm needs the series before the first one.
            let _ = metrics.xds_unread_closed.get_or_create(&ReasonLabels { reason });
        }
        Self { bytes_max, metrics, is_full: watch::Sender::new(false), bodies: Mutex::default() }
    }

    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    pub(super) fn begin(self: &Arc<Self>, resources: &[Arc<Resource>]) -> Arc<UnreadResponse> {
        let shared = resources.iter().filter(|resource| resource.body.len() >= SHARED_BYTES_MIN);
        let bodies: Vec<_> = shared.map(|resource| resource.body.clone()).collect();
        self.add(bodies.iter().filter(|body| self.is_first(body)).map(Bytes::len).sum());
        Arc::new(UnreadResponse { unread: Arc::clone(self), bodies })
    }

    fn is_first(&self, body: &Bytes) -> bool {
        let mut bodies = self.bodies.lock();
        let responses = bodies.entry(body.as_ptr().addr()).or_default();
        *responses += 1;
        *responses == 1
    }

    fn is_last(&self, body: &Bytes) -> bool {
        let mut bodies = self.bodies.lock();
        let Entry::Occupied(mut responses) = bodies.entry(body.as_ptr().addr()) else { return false };
        *responses.get_mut() -= 1;
        let is_last = *responses.get() == 0;
        if is_last {
            responses.remove();
        }
        is_last
    }

    fn add(&self, bytes: usize) {
        self.metrics.xds_unread_bytes.inc_by(bytes as i64);
        self.compare();
    }

    fn remove(&self, bytes: usize) {
        self.metrics.xds_unread_bytes.dec_by(bytes as i64);
        self.compare();
    }

    fn compare(&self) {
        let is_full = || self.metrics.xds_unread_bytes.get().unsigned_abs() > self.bytes_max;
        if *self.is_full.borrow() == is_full() {
            return;
        }
        let is_new = self.is_full.send_if_modified(|known| std::mem::replace(known, is_full()) != *known);
        if is_new && *self.is_full.borrow() {
            tracing::warn!(
                bytes_max = self.bytes_max,
                "Envoys leave too many bytes unread: the connections of those that do not read are closed after 2 s"
            );
        }
    }
}

impl UnreadResponse {
    /// The bytes of a chunk, which are unread until the transport lets go of them: it has written them, or the stream is
    /// over. Where that takes too long the connection is `stuck`.
    pub(super) fn watch(self: &Arc<Self>, chunk: Chunk, stuck: CancellationToken) -> Bytes {
        let bytes_copied = match &chunk {
            Chunk::Copied(bytes) => bytes.len(),
            Chunk::Shared(_) => 0,
        };
        self.unread.add(bytes_copied);
        let overdue = close_overdue(Arc::clone(&self.unread.metrics), self.unread.is_full.subscribe(), stuck);
        let _timeout = AbortOnDropHandle::new(tokio::spawn(overdue));
        with_guard(chunk.into_bytes(), UnreadChunk { response: Arc::clone(self), bytes_copied, _timeout })
    }
}

impl Drop for UnreadResponse {
    fn drop(&mut self) {
        let last = self.bodies.iter().filter(|body| self.unread.is_last(body));
        self.unread.remove(last.map(Bytes::len).sum());
    }
}

impl Drop for UnreadChunk {
    fn drop(&mut self) {
        self.response.unread.remove(self.bytes_copied);
    }
}

async fn close_overdue(metrics: Arc<Metrics>, mut is_full: watch::Receiver<bool>, stuck: CancellationToken) {
    let started = Instant::now();
    let full = async {
        // There is a sender for as long as there are chunks.
        let _ = is_full.wait_for(|is_full| *is_full).await;
        sleep_until(started + TIMEOUT_FULL).await;
    };
    let reason = tokio::select! {
        () = sleep_until(started + TIMEOUT) => TIMED_OUT,
        () = full => FULL,
    };
    metrics.xds_unread_closed.get_or_create(&ReasonLabels { reason }).inc();
    stuck.cancel();
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        unread: Arc<Unread>,
        metrics: Arc<Metrics>,
    }

    impl World {
        fn new(bytes_max: u64) -> Self {
            let metrics = Arc::new(Metrics::default());
            Self { unread: Arc::new(Unread::new(bytes_max, Arc::clone(&metrics))), metrics }
        }

        fn copied(&self, bytes: usize) -> (Bytes, CancellationToken) {
            let stuck = CancellationToken::new();
            let chunk = Chunk::Copied(vec![0; bytes].into());
            (self.unread.begin(&[]).watch(chunk, stuck.clone()), stuck)
        }

        fn bytes(&self) -> i64 {
            self.metrics.xds_unread_bytes.get()
        }

        fn closed(&self, reason: &'static str) -> u64 {
            self.metrics.xds_unread_closed.get_or_create(&ReasonLabels { reason }).get()
        }
    }

    async fn pass(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn xds_rule_89_a_connection_is_closed_once_a_chunk_is_unread_for_too_long() {
        let world = World::new(100);
        let ((_unread, slow), (read, quick)) = (world.copied(10), world.copied(10));
        pass(29).await;
        assert!(!slow.is_cancelled());
        drop(read);
        pass(2).await;
        assert!(slow.is_cancelled() && !quick.is_cancelled());
        assert_eq!((world.closed(TIMED_OUT), world.closed(FULL)), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn while_too_much_is_unread_who_does_not_read_is_closed_soon_and_who_reads_is_not() {
        let world = World::new(100);
        let (first, slow) = world.copied(60);
        pass(10).await;
        assert!(!slow.is_cancelled(), "there is room");
        let (second, slower) = world.copied(60);
        let (read, quick) = world.copied(60);
        pass(1).await;
        assert!(slow.is_cancelled(), "it did not read for longer than 2 s");
        assert!(!slower.is_cancelled());
        drop(read);
        pass(2).await;
        assert!(slower.is_cancelled() && !quick.is_cancelled());
        assert_eq!((world.closed(TIMED_OUT), world.closed(FULL)), (0, 2));
        drop((first, second));
        assert_eq!(world.bytes(), 0);
        let (_later, other) = world.copied(60);
        pass(20).await;
        assert!(!other.is_cancelled(), "there is room again");
    }

    /// A body counts once, and until the last chunk of the last response with it is read, which keeps all of it.
    #[tokio::test]
    async fn shared_bodies_count_once_for_all_responses_and_as_long_as_one_has_it() {
        let world = World::new(1_000_000);
        let resources = [5000, 100].map(|size| Arc::new(Resource::new("a", vec![0; size])));
        let [one, other] = [(), ()].map(|()| world.unread.begin(&resources));
        assert_eq!(world.bytes(), 5000, "what is small is copied later");
        drop(one);
        let chunk = other.watch(Chunk::Shared(resources[0].body.slice(4000..)), CancellationToken::new());
        drop(other);
        assert_eq!(world.bytes(), 5000);
        drop(chunk);
        assert_eq!(world.bytes(), 0);
    }
}
