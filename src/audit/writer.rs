//! The thread that writes the audit log, so that no thread that answers requests waits for a disk.
//!
//! ```text
//! note --Waiting--> queue (bounded) --> thread: all that wait, one write, one fsync --> each is told
//! ```

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::file::AuditFile;
use super::{Entry, State};
use crate::clock::Timestamp;

/// The lines that wait to be written. Whoever comes beyond that waits for a place.
pub const WAITING_MAX: usize = 256;

/// A line that waits.
pub(super) struct Waiting {
    pub(super) entry: Entry,
    pub(super) at: Timestamp,
    pub(super) told: oneshot::Sender<Result<(), Arc<io::Error>>>,
}

/// Runs as long as somebody may note something.
pub(super) fn run(mut file: AuditFile, mut queue: mpsc::Receiver<Waiting>, state: &Mutex<State>) {
    while let Some(first) = queue.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < WAITING_MAX
            && let Ok(next) = queue.try_recv()
        {
            batch.push(next);
        }
        write(&mut file, batch, state);
    }
}

fn write(file: &mut AuditFile, batch: Vec<Waiting>, state: &Mutex<State>) {
    let written = file.append(batch.iter().map(|waiting| (&waiting.entry, waiting.at))).map_err(Arc::new);
    {
        let mut state = state.lock();
        state.trouble = written.as_ref().err().map(ToString::to_string);
        if let Some(head) = file.head() {
            state.last_hash = Some(head.to_owned());
        }
        // What was asked for is not done where that cannot be written; what came of it is so either way.
        for Waiting { entry, at, .. } in &batch {
            if written.is_ok() || entry.result.is_some() {
                state.recent.take(entry, *at);
            }
        }
    }
    match &written {
        // Whoever has this line can tell whether the end of the file is still there.
        Ok(()) => tracing::info!(target: "audit", lines = batch.len(), last_hash = file.head(), "noted"),
        Err(error) => tracing::error!(%error, "the audit log cannot be written"),
    }
    for waiting in batch {
        // Whoever asked may have gone.
        let _ = waiting.told.send(written.clone());
    }
}
