//! Threads that each run a single-threaded runtime, over which connections are spread.
//!
//! On such a runtime all calls that one read brings are decided before their connection writes, so their answers
//! leave in one write. On a runtime of several threads each answer is a write of its own, which costs more than a decision
//! (`cargo bench --bench rls`).

use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Turns of connections between two looks at what has come on their sockets. A turn of a busy one takes half a millisecond: after
/// tokio's 61 of them, what has come is older than an Envoy waits.
pub(super) const EVENT_INTERVAL: u32 = 4;

/// The threads. They end with this handle, and what still runs on them is dropped.
#[derive(Debug)]
pub(super) struct Workers {
    handles: Vec<Handle>,
    threads: Vec<JoinHandle<()>>,
    /// Dropped first of all, so that the threads end.
    end: Option<DropGuard>,
}

impl Workers {
    pub(super) fn start(name: &str, count: usize) -> std::io::Result<Self> {
        let end = CancellationToken::new();
        let mut workers = Self { handles: Vec::new(), threads: Vec::new(), end: Some(end.clone().drop_guard()) };
        for _ in 0..count {
            let runtime = Builder::new_current_thread().enable_all().event_interval(EVENT_INTERVAL).build()?;
            workers.handles.push(runtime.handle().clone());
            let end = end.clone();
            let run = move || {
                runtime.block_on(end.cancelled());
                // A look-up of a name may be under way on a thread for blocking, and nobody waits for it any more.
                runtime.shutdown_background();
            };
            workers.threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(run)?);
        }
        Ok(workers)
    }

    pub(super) fn handles(&self) -> &[Handle] {
        &self.handles
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.end.take();
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// Where connections are served: each on the runtime that has the fewest of them.
#[derive(Clone, Debug)]
pub(super) struct Places(Vec<(Handle, TaskTracker)>);

impl Places {
    pub(super) fn over(handles: &[Handle]) -> Self {
        Self(handles.iter().map(|handle| (handle.clone(), TaskTracker::new())).collect())
    }

    /// The runtime that has the fewest connections.
    pub(super) fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        if let Some((handle, connections)) = self.0.iter().min_by_key(|(_, connections)| connections.len()) {
            connections.spawn_on(connection, handle);
        }
    }

    /// The connections that are open.
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|(_, connections)| connections.len()).sum()
    }

    /// Waits until the last one is closed.
    pub(super) async fn closed(&self) {
        for (_, connections) in &self.0 {
            connections.close();
            connections.wait().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;
    use std::task::Poll;

    use tokio::io::AsyncReadExt;

    use super::*;

    /// Turns of a busy task from when something came on a socket until that is seen on the same thread.
    fn turns_until_seen(handle: &Handle) -> u32 {
        const FIRST: u32 = 1000;
        let (mut near, far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        let turns = Arc::<AtomicU32>::default();
        let (seen, counted) = (Arc::clone(&turns), Arc::clone(&turns));
        let (send, receive) = mpsc::channel();
        handle.spawn(async move {
            tokio::net::UnixStream::from_std(far).unwrap().read_u8().await.unwrap();
            send.send(seen.load(Ordering::Relaxed)).unwrap();
        });
        // It has something to do whenever it is asked, and sends in one of its turns.
        handle.spawn(std::future::poll_fn(move |context| {
            if counted.fetch_add(1, Ordering::Relaxed) == FIRST {
                near.write_all(b"a").unwrap();
            }
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        receive.recv().unwrap() - FIRST
    }

    #[test]
    fn what_comes_on_a_socket_is_seen_soon_however_busy_others_are() {
        let (workers, runtime) = (Workers::start("test", 1).unwrap(), super::super::runtime("test", 1).unwrap());
        for handle in [&workers.handles()[0], runtime.handle()] {
            let after = turns_until_seen(handle);
            assert!(after <= 2 * EVENT_INTERVAL, "seen {after} turns later on {handle:?}");
        }
        runtime.shutdown_background();
    }

    #[test]
    fn connections_are_spread_over_the_threads_and_end_with_them() {
        let workers = Workers::start("test", 2).unwrap();
        let places = Places::over(workers.handles());
        let (send, receive) = mpsc::channel();
        for _ in 0..4 {
            let send = send.clone();
            places.spawn(async move {
                send.send(std::thread::current().id()).unwrap();
                std::future::pending::<()>().await;
            });
        }
        drop(send);
        let on: Vec<_> = (0..4).map(|_| receive.recv().unwrap()).collect();
        for thread in &on {
            assert_eq!(on.iter().filter(|other| *other == thread).count(), 2, "{on:?}");
        }
        assert_eq!(places.len(), 4);
        drop(workers);
        assert!(receive.recv().is_err(), "a connection outlived its thread");
        assert_eq!(places.len(), 0);
    }
}
