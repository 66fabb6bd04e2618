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
use super::{Entry, Outcome, State};
use crate::clock::Timestamp;

/// The lines that wait to be written. Whoever comes beyond that waits for a place.
pub const WAITING_MAX: usize = 256;

/// What came of a change whose first line was written when nobody waited for it any more.
const GIVEN_UP: &str = "nothing is changed: the line before was written too late";

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

fn write(file: &mut AuditFile, mut batch: Vec<Waiting>, state: &Mutex<State>) {
    // What nobody waits for any more is not done; what came of a change is noted in any case.
    batch.retain(|waiting| waiting.entry.result.is_some() || !waiting.told.is_closed());
    let lines: Vec<_> = batch.iter().map(|waiting| (&waiting.entry, waiting.at)).collect();
    let written = append(file, &lines, state);
    let mut given_up = Vec::new();
    for Waiting { mut entry, at, told } in batch {
        let is_asked_for = entry.result.is_none() && written.is_ok();
        if told.send(written.clone()).is_err() && is_asked_for {
            entry.result = Some(Outcome::Refused(GIVEN_UP.to_owned()));
            given_up.push((entry, at));
        }
    }
    let lines: Vec<_> = given_up.iter().map(|(entry, at)| (entry, *at)).collect();
    // Where that cannot be written it is an alarm like any other line.
    let _ = append(file, &lines, state);
}

fn append(file: &mut AuditFile, lines: &[(&Entry, Timestamp)], state: &Mutex<State>) -> Result<(), Arc<io::Error>> {
    let Some((_, first_at)) = lines.first() else { return Ok(()) };
    state.lock().writing = Some((lines.len(), *first_at));
    let written = file.append(lines.iter().copied()).map_err(Arc::new);
    {
        let mut state = state.lock();
        state.writing = None;
        state.trouble = written.as_ref().err().map(ToString::to_string);
        state.unmoved = file.unmoved().map(str::to_owned);
        if let Some(head) = file.head() {
            state.last_hash = Some(head.to_owned());
        }
        // What was asked for is not done where that cannot be written; what came of it is so either way.
        for (entry, at) in lines {
            if written.is_ok() || entry.result.is_some() {
                state.recent.take(entry, *at);
            }
        }
    }
    match &written {
        // Whoever has this line can tell whether the end of the file is still there.
        Ok(()) => tracing::info!(target: "audit", lines = lines.len(), last_hash = file.head(), "noted"),
        Err(error) => tracing::error!(%error, "the audit log cannot be written"),
    }
    written
}
