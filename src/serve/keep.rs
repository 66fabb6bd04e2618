//! Keeps what is served on disk, behind what is served: the source has it, so nobody waits for the disk.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::last_good::StateDir;
use crate::live::Generation;

/// The shortest time from one set to the next. Changes that come faster are kept together.
const PAUSE: Duration = Duration::from_millis(200);

/// Keeps each generation, or the last of several. A large set takes at most a tenth of the time.
pub(super) async fn keep(
    state: StateDir,
    mut generations: watch::Receiver<Option<Arc<Generation>>>,
    shutdown: CancellationToken,
) -> Result<(), String> {
    let mut is_failing = false;
    // The sender goes at the end, when there is one more to keep, or none.
    while generations.changed().await.is_ok() {
        let Some(generation) = generations.borrow_and_update().clone() else { continue };
        let started = Instant::now();
        let state = state.clone();
        let kept = tokio::task::spawn_blocking(move || save(&state, &generation)).await;
        match kept {
            Ok(Ok(())) => is_failing = false,
            Ok(Err(error)) if !is_failing => {
                tracing::error!(%error, "the last good set cannot be kept; serving goes on");
                is_failing = true;
            }
            Ok(Err(_)) | Err(_) => {}
        }
        let pause = PAUSE.max(started.elapsed() * 9);
        let _ = shutdown.run_until_cancelled(sleep(pause)).await;
    }
    Ok(())
}

pub(super) fn save(state: &StateDir, generation: &Generation) -> std::io::Result<()> {
    let mut documents: Vec<_> = generation.documents.iter().map(|(id, parsed)| (id, &parsed.document)).collect();
    documents.sort_by_key(|(id, _)| *id);
    state.save(generation.revision, &generation.registered, documents.into_iter())
}
