//! Watches a policy folder. A notification only says that something happened; the folder is then read whole,
//! once it has been quiet for a moment, so that a save in several steps is one change. A slow poll stands
//! behind it, for file systems that do not notify and notifications that got lost.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Reading;
use crate::clock::Clock;
use crate::document::{Document, Documents};
use crate::names::Revision;
use crate::shown;
use crate::source::board::Board;

/// A folder is read once nothing happened in it for so long...
const QUIET: Duration = Duration::from_millis(50);
/// ...or at the latest so long after the first event.
const QUIET_MAX: Duration = Duration::from_millis(500);
/// The time after which the folder is read without an event.
const POLL: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Watcher {
    root: PathBuf,
    /// Kept because notifications end when it is dropped. `None` where the system gives none: the poll remains.
    _notifications: Option<RecommendedWatcher>,
    events: mpsc::Receiver<()>,
    /// The time until the folder is read without an event: not long the first time, for there is something to hand
    /// over in any case. But not at once, for somebody may be saving.
    poll: Duration,
    revision: Revision,
    board: Arc<Board>,
    clock: Clock,
    /// The documents that were handed over last, so that a reading without a change is no new revision.
    last: Option<Vec<Document>>,
    /// The warnings of last time, so that each is told once.
    warnings: Vec<String>,
}

impl Watcher {
    pub fn new(root: &Path, board: Arc<Board>, clock: Clock) -> Self {
        // One waiting event is enough: it stands for all that happened before the folder is read.
        let (sender, events) = mpsc::channel(1);
        let notify = move |event: notify::Result<notify::Event>| {
            if may_be_a_change(&event) {
                // A full channel holds an event already, which is as good.
                let _ = sender.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(notify).and_then(|mut watcher| {
            watcher.watch(root, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, folder = %shown::path(root), "no file notifications; the folder is read every 2 s");
        }
        board.at(shown::path(root));
        Self::woken_by(watcher.ok(), events, root, board, clock)
    }

    /// The watcher of a folder whose events come from anywhere.
    fn woken_by(
        notifications: Option<RecommendedWatcher>,
        events: mpsc::Receiver<()>,
        root: &Path,
        board: Arc<Board>,
        clock: Clock,
    ) -> Self {
        Self {
            root: root.to_owned(),
            _notifications: notifications,
            events,
            poll: QUIET,
            revision: Revision(0),
            board,
            clock,
            last: None,
            warnings: Vec::new(),
        }
    }

    /// The folder's documents, as soon as they differ from what was handed over before.
    pub async fn next(&mut self) -> Documents {
        loop {
            self.wait_for_event().await;
            let latest = Instant::now() + QUIET_MAX;
            let documents = loop {
                self.wait_for_quiet(latest).await;
                let documents = self.read().await;
                // What was written while it was read may have been read by halves.
                if self.events.is_empty() || Instant::now() >= latest {
                    break documents;
                }
            };
            if let Some(documents) = documents.filter(|documents| self.last.as_ref() != Some(documents)) {
                self.revision.0 += 1;
                self.last = Some(documents.clone());
                return Documents::new(self.revision, documents);
            }
        }
    }

    async fn read(&mut self) -> Option<Vec<Document>> {
        let root = self.root.clone();
        // Reading many files takes a while, and a network file system may hang.
        let reading = tokio::task::spawn_blocking(move || super::read(&root)).await.ok()?;
        match reading {
            Ok(Reading { documents, warnings, .. }) => {
                for warning in warnings.iter().filter(|warning| !self.warnings.contains(warning)) {
                    tracing::warn!("{warning}");
                }
                self.warnings = warnings;
                self.board.compared(self.revision, self.clock.now());
                Some(documents)
            }
            Err(error) => {
                if self.board.read().trouble.is_none() {
                    tracing::warn!(%error, "the policy folder cannot be read, and nothing is changed");
                }
                self.board.lost(error.to_string());
                None
            }
        }
    }

    async fn wait_for_event(&mut self) {
        let poll = std::mem::replace(&mut self.poll, POLL);
        if let Ok(None) = timeout(poll, self.events.recv()).await {
            // There are no notifications: the poll's pace is all there is.
            sleep(poll).await;
        }
    }

    async fn wait_for_quiet(&mut self, latest: Instant) {
        while let Ok(Some(())) = timeout_at(latest.min(Instant::now() + QUIET), self.events.recv()).await {}
    }
}

/// Reading the folder is an event of its own: taken for a change, it would have the folder read again without end.
fn may_be_a_change(event: &notify::Result<notify::Event>) -> bool {
    let is_reading =
        |kind: &EventKind| matches!(kind, EventKind::Access(access) if *access != AccessKind::Close(AccessMode::Write));
    // An error may hide anything, so the folder is looked at.
    event.as_ref().map_or(true, |event| !is_reading(&event.kind))
}

#[cfg(test)]
mod tests;
