//! The audit log: who asked for which change, from which base, and what came of it. One JSON line before the change and
//! one after it; a change that cannot be noted is not made. Each line of a file says the hash of what stands before it
//! ([`chain`]), so that [`verify`] finds what somebody changed.

mod chain;
mod file;
pub mod recent;
pub mod verify;
mod writer;

use std::io;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::clock::Timestamp;
use crate::shown;
use file::AuditFile;
use recent::{Change, Recent};
use writer::Waiting;

pub use writer::WAITING_MAX;

/// Where changes are noted.
#[derive(Clone, Debug)]
pub struct AuditSettings {
    pub path: PathBuf,
    /// The size from which on a file is moved away, and a new one begun. `None`: this is somebody else's business.
    pub bytes_max: Option<NonZeroU64>,
    /// The files that were moved away and are kept.
    pub files_max: NonZeroU32,
}

#[derive(Debug, Default)]
pub struct Audit {
    /// `None`: the lines go to the log.
    queue: Option<mpsc::Sender<Waiting>>,
    state: Arc<Mutex<State>>,
}

/// What is known of the log without reading it.
#[derive(Debug, Default)]
struct State {
    recent: Recent,
    last_hash: Option<String>,
    trouble: Option<String>,
}

/// The state of the file, for people.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = AuditLog)]
pub struct Report {
    /// The SHA-256 of the last line. Whoever keeps it can tell later whether the file still has that line.
    pub last_hash: String,
    /// The lines that wait to be written.
    pub waiting: usize,
    /// Why the last line could not be written. Changes are refused meanwhile.
    #[schema(required = true)]
    pub trouble: Option<String>,
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Tells the two lines of a change from all others.
    pub change: String,
    pub who: String,
    /// The changes, as `put Api pay`, `delete Tenant acme` or `reset tenant limit a of Gateway shop, Tenant acme`.
    pub what: Vec<String>,
    /// `None`: it is no change of documents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force: Option<String>,
    /// `None`: it is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Outcome>,
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The documents are changed, as of this revision.
    Revision(u64),
    /// So many of the counters there were.
    Reset(usize),
    Refused(String),
}

#[derive(Serialize)]
struct Line<'a> {
    at: String,
    #[serde(flatten)]
    entry: &'a Entry,
    /// The hash of what stands before it. `None`: it goes to the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<&'a str>,
}

/// The same, read.
#[derive(Deserialize)]
struct OwnedLine {
    at: String,
    #[serde(flatten)]
    entry: Entry,
}

impl<'a> Line<'a> {
    fn of(entry: &'a Entry, at: Timestamp, previous: Option<&'a str>) -> Self {
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(at.as_nanos());
        Self { at: humantime::format_rfc3339_millis(at).to_string(), entry, previous }
    }
}

impl Audit {
    /// Appends to the file, which is made where there is none. The last changes are those at its end.
    pub fn open(settings: AuditSettings) -> io::Result<Self> {
        let path = settings.path.clone();
        let file = AuditFile::open(settings)?;
        let recent = if path.is_file() { recent_in(&path) } else { Recent::default() };
        let last_hash = file.head().map(str::to_owned);
        tracing::info!(target: "audit", last_hash, "--audit-log {}", shown::path(&path));
        let state = Arc::new(Mutex::new(State { recent, last_hash, trouble: None }));
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let of_writer = Arc::clone(&state);
        let writer = std::thread::Builder::new().name("audit".to_owned());
        writer.spawn(move || writer::run(file, waiting, &of_writer))?;
        Ok(Self { queue: Some(queue), state })
    }

    /// The last changes, the newest first: so many of them, from before the one with this number.
    pub fn changes(&self, before: Option<u64>, limit: usize) -> Vec<Change> {
        self.state.lock().recent.before(before, limit)
    }

    /// The number of changes that have ended.
    pub fn ended(&self) -> u64 {
        self.state.lock().recent.ended()
    }

    /// The changes that have ended since it was so many, in that order.
    pub fn ended_since(&self, ended: u64) -> Vec<Change> {
        self.state.lock().recent.ended_since(ended)
    }

    /// `None`: there is no file.
    pub fn report(&self) -> Option<Report> {
        let queue = self.queue.as_ref()?;
        let state = self.state.lock();
        Some(Report {
            last_hash: state.last_hash.clone().unwrap_or_default(),
            waiting: queue.max_capacity() - queue.capacity(),
            trouble: state.trouble.clone(),
        })
    }

    /// Appends a line. When this returns without an error, the line outlives a power failure.
    pub async fn note(&self, entry: &Entry, at: Timestamp) -> Result<(), Arc<io::Error>> {
        let Some(queue) = &self.queue else { return self.note_in_log(entry, at).map_err(Arc::new) };
        let (told, answer) = oneshot::channel();
        let waiting = Waiting { entry: entry.clone(), at, told };
        let has_ended = || Arc::new(io::Error::other("the thread that writes it has ended"));
        queue.send(waiting).await.map_err(|_| has_ended())?;
        answer.await.unwrap_or_else(|_| Err(has_ended()))
    }

    fn note_in_log(&self, entry: &Entry, at: Timestamp) -> io::Result<()> {
        // JSON has no line breaks and no control characters but escaped ones: nobody can forge a line.
        let text = serde_json::to_string(&Line::of(entry, at, None))?;
        tracing::info!(target: "audit", "{text}");
        self.state.lock().recent.take(entry, at);
        Ok(())
    }
}

/// What is not read is not shown: the chain alone has to be known to go on with it.
fn recent_in(path: &Path) -> Recent {
    let mut recent = Recent::default();
    match file::tail(path) {
        Ok((bytes, _)) => lines(&bytes).for_each(|(entry, at)| recent.take(&entry, at)),
        Err(error) => tracing::warn!("--audit-log {}: earlier changes are not shown: {error}", shown::path(path)),
    }
    recent
}

/// Lines that are no entries are passed over: the file may be older than this program, or somebody else's too.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (Entry, Timestamp)> {
    bytes.split(|byte| *byte == b'\n').filter_map(|line| {
        let OwnedLine { at, entry } = serde_json::from_slice(line).ok()?;
        let at = humantime::parse_rfc3339(&at).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some((entry, Timestamp::default() + at))
    })
}

#[cfg(test)]
mod tests;
