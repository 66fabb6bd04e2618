//! Threads that each run a single-threaded runtime, over which connections are spread.
//!
//! On such a runtime all calls that one read brings are decided before their connection writes, so their answers
//! leave in one write. On a runtime of several threads each answer is a write of its own, which costs more than a decision
//! (`cargo bench --bench rls`).

use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

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
            let runtime = Builder::new_current_thread().enable_all().build()?;
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
    use std::sync::mpsc;

    use super::*;

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
