//! The audit log: who asked for which change, from which base, and what came of it. One JSON line before the change and
//! one after it; a change that cannot be noted is not made. Each line of a file says the hash of what stands before it
//! ([`chain`]), so that [`verify`] finds what somebody changed.

mod chain;
mod file;
pub mod recent;
pub mod verify;
mod writer;

use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::clock::Timestamp;
use crate::metrics::{Metrics, ReasonLabels};
use crate::rotation::{self, Rotation};
use crate::shown;
use file::AuditFile;
use recent::{Change, Recent};
use writer::Waiting;

pub use writer::WAITING_MAX;

/// The time that a line may take until it is on the disk. Whoever asks for a change is not kept for longer.
pub const NOTED_WITHIN: Duration = Duration::from_secs(5);
/// The time after which a line that waits is trouble.
const TROUBLE_AFTER: Duration = Duration::from_secs(2);

/// Where changes are noted.
#[derive(Clone, Debug)]
pub struct AuditSettings {
    pub path: PathBuf,
    pub rotation: Rotation,
}

#[derive(Debug, Default)]
pub struct Audit {
    /// `None`: the lines go to the log.
    queue: Option<mpsc::Sender<Waiting>>,
    state: Arc<Mutex<State>>,
    metrics: Arc<Metrics>,
}

/// What is known of the log without reading it.
#[derive(Debug, Default)]
struct State {
    recent: Recent,
    last_hash: Option<String>,
    trouble: Option<String>,
    unmoved: Option<String>,
    /// The lines that are being written: how many, and when the first of them was to be noted.
    writing: Option<(usize, Timestamp)>,
}

/// Why a line is not noted, so that what it is about must not be done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unnoted {
    #[error("{0}")]
    Failed(Arc<io::Error>),
    /// The disk hangs, or has too much to do.
    #[error("it was not written within {} s", NOTED_WITHIN.as_secs())]
    Late,
}

impl Unnoted {
    pub const REASONS: [&str; 2] = ["error", "late"];

    fn reason(&self) -> &'static str {
        let [error, late] = Self::REASONS;
        match self {
            Self::Failed(_) => error,
            Self::Late => late,
        }
    }
}

/// The state of the file, for people.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = AuditLog)]
pub struct Report {
    /// The SHA-256 of the last line. Whoever keeps it can tell later whether the file still has that line.
    pub last_hash: String,
    /// The lines that wait to be written.
    pub waiting: usize,
    /// Why the last line could not be written, or how long the oldest one has been waiting for it. Changes are refused meanwhile.
    #[schema(required = true)]
    pub trouble: Option<String>,
    /// Why the file, which is full, could not be moved away. It is written on.
    #[schema(required = true)]
    pub unmoved: Option<String>,
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

    /// Nobody can forge a line, or do something to the terminal of whoever reads it: JSON escapes what would.
    fn text(&self) -> serde_json::Result<String> {
        let text = serde_json::to_string(self)?;
        Ok(shown::json(&text).into_owned())
    }
}

impl Audit {
    /// Appends to the file, which is made where there is none. The last changes are those at its end.
    pub fn open(settings: AuditSettings, metrics: Arc<Metrics>) -> io::Result<Self> {
        let (path, files_max) = (settings.path.clone(), settings.rotation.files_max);
        let file = AuditFile::open(settings)?;
        let recent = recent_in(&path, files_max);
        let last_hash = file.head().map(str::to_owned);
        tracing::info!(target: "audit", last_hash, "--audit-log {}", shown::path(&path));
        let state = Arc::new(Mutex::new(State { recent, last_hash, ..State::default() }));
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let of_writer = Arc::clone(&state);
        let writer = std::thread::Builder::new().name("audit".to_owned());
        writer.spawn(move || writer::run(file, waiting, &of_writer))?;
        Ok(Self { queue: Some(queue), state, metrics })
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
    pub fn report(&self, now: Timestamp) -> Option<Report> {
        let queue = self.queue.as_ref()?;
        let state = self.state.lock();
        let (writing, since) = state.writing.unwrap_or((0, now));
        let waits_for = now.since(since);
        let hangs = (waits_for > TROUBLE_AFTER)
            .then(|| format!("the oldest line has been waiting for {} s to be written", waits_for.as_secs()));
        Some(Report {
            last_hash: state.last_hash.clone().unwrap_or_default(),
            waiting: queue.max_capacity() - queue.capacity() + writing,
            trouble: hangs.or_else(|| state.trouble.clone()),
            unmoved: state.unmoved.clone(),
        })
    }

    /// Appends a line. When this returns without an error, the line outlives a power failure. With one, what is asked for must
    /// not be done: the line is not there, or a second one says that nobody waited for it. What came of a change is written
    /// also where that is late, if it can be.
    pub async fn note(&self, entry: &Entry, at: Timestamp) -> Result<(), Unnoted> {
        let failed = |error| Unnoted::Failed(Arc::new(error));
        let noted = match &self.queue {
            Some(queue) => note_in_file(queue, entry, at).await,
            None => self.note_in_log(entry, at).map_err(failed),
        };
        noted.inspect_err(|unnoted| {
            self.metrics.audit_lines_unnoted.get_or_create(&ReasonLabels { reason: unnoted.reason() }).inc();
            let Entry { change, who, result, .. } = entry;
            if let Some(result) = result {
                tracing::error!(target: "audit", change, who, ?result, "what came of a change is not noted: {unnoted}");
            }
        })
    }

    fn note_in_log(&self, entry: &Entry, at: Timestamp) -> io::Result<()> {
        let text = Line::of(entry, at, None).text()?;
        tracing::info!(target: "audit", "{text}");
        self.state.lock().recent.take(entry, at);
        Ok(())
    }
}

async fn note_in_file(queue: &mpsc::Sender<Waiting>, entry: &Entry, at: Timestamp) -> Result<(), Unnoted> {
    let deadline = Instant::now() + NOTED_WITHIN;
    let has_ended = || Unnoted::Failed(Arc::new(io::Error::other("the thread that writes it has ended")));
    let (told, mut answer) = oneshot::channel();
    let waiting = Waiting { entry: entry.clone(), at, told };
    let queued = timeout_at(deadline, queue.send(waiting)).await.map_err(|_| Unnoted::Late)?;
    queued.map_err(|_| has_ended())?;
    let answered = match timeout_at(deadline, &mut answer).await {
        Ok(answered) => answered.ok(),
        Err(_) => {
            // From here on it is late, whatever the thread does: it is told so where it would answer.
            answer.close();
            Some(answer.try_recv().map_err(|_| Unnoted::Late)?)
        }
    };
    answered.ok_or_else(has_ended)?.map_err(Unnoted::Failed)
}

/// The last changes in the file, and in those before it that were moved away, as far as there is room for them. What is not
/// read is not shown: the chain alone has to be known to go on with it.
fn recent_in(path: &Path, files_max: NonZeroU32) -> Recent {
    let (mut ends, mut room) = (Vec::new(), file::TAIL_BYTES_MAX);
    let moved = (1..=files_max.get()).map(|number| rotation::older(path, number)).take_while(|file| file.is_file());
    for file in std::iter::once(path.to_owned()).chain(moved) {
        let (bytes, is_whole) = match file::tail(&file, room) {
            Ok(end) => end,
            Err(error) => {
                tracing::warn!("--audit-log {}: earlier changes are not shown: {error}", shown::path(&file));
                break;
            }
        };
        room = room.saturating_sub(bytes.len() as u64);
        ends.push(bytes);
        if !is_whole || room == 0 {
            break;
        }
    }
    let mut recent = Recent::default();
    ends.iter().rev().flat_map(|bytes| lines(bytes)).for_each(|(entry, at)| recent.take(&entry, at));
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
