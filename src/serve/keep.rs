//! Keeps what is served on disk, behind what is served: the source has it, so nobody waits for the disk.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::last_good::{Keeping, StateDir, Written};
use crate::live::Generation;
use crate::shown;

/// The shortest time from one set to the next. Changes that come faster are kept together.
const PAUSE: Duration = Duration::from_millis(200);
/// Between two looks whether what was kept is still there, as it was written. What is not is kept again.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// What keeps sets, and whom it tells how that goes.
pub(super) struct Keeper {
    pub(super) state: StateDir,
    pub(super) keeping: Arc<Keeping>,
    pub(super) clock: Clock,
}

impl Keeper {
    /// Keeps each generation, or the last of several. A large set takes at most a tenth of the time.
    pub(super) async fn keep(
        self,
        mut generations: watch::Receiver<Option<Arc<Generation>>>,
        shutdown: CancellationToken,
    ) -> Result<(), String> {
        let mut kept = None;
        loop {
            match timeout(LOOK_INTERVAL, generations.changed()).await {
                Ok(Ok(())) => kept = None,
                // The sender goes at the end, when there is one more to keep, or none.
                Ok(Err(_)) => return Ok(()),
                Err(_) => {}
            }
            let Some(generation) = generations.borrow_and_update().clone() else { continue };
            let started = Instant::now();
            kept = self.see_to(generation, kept).await;
            let pause = PAUSE.max(started.elapsed() * 9);
            let _ = shutdown.run_until_cancelled(sleep(pause)).await;
        }
    }

    /// Sees to it that a generation is on disk, where it may be in a file already. Returns what it is in.
    async fn see_to(&self, generation: Arc<Generation>, kept: Option<Written>) -> Option<Written> {
        self.keeping.begins(self.clock.now());
        let state = self.state.clone();
        let written = tokio::task::spawn_blocking(move || match kept {
            Some(written) if written.is_unchanged() => Ok(written),
            Some(written) => {
                let file = shown::path(written.file());
                tracing::warn!("--state-dir {file}: somebody changed or removed it; the last good set is written anew");
                save(&state, &generation)
            }
            None => save(&state, &generation),
        });
        match written.await.unwrap_or_else(|panicked| Err(io::Error::other(panicked))) {
            Ok(written) => {
                self.keeping.succeeded();
                Some(written)
            }
            Err(error) => {
                let why = format!("{}: {error}", shown::path(self.state.folder()));
                if self.keeping.failed(why.clone()) {
                    tracing::error!("--state-dir {why}; the last good set cannot be kept, and serving goes on");
                }
                None
            }
        }
    }
}

pub(super) fn save(state: &StateDir, generation: &Generation) -> io::Result<Written> {
    let mut documents: Vec<_> = generation.documents.iter().map(|(id, parsed)| (id, &parsed.document)).collect();
    documents.sort_by_key(|(id, _)| *id);
    state.save(generation.revision, &generation.registered, documents.into_iter())
}
