//! The audit log: who asked for which change, from which base, and what came of it. One JSON line before the change and
//! one after it; a change that cannot be noted is not made.

pub mod recent;

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::path::Path;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::shown;
use recent::{Change, Recent};

/// What is read of the end of a file for the last changes, in bytes. A large change is a line of some 3 MB.
const TAIL_BYTES_MAX: u64 = 8 * 1024 * 1024;

#[derive(Debug, Default)]
pub struct Audit {
    /// `None`: the lines go to the log.
    file: Option<Mutex<File>>,
    recent: Mutex<Recent>,
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
}

/// The same, read.
#[derive(Deserialize)]
struct OwnedLine {
    at: String,
    #[serde(flatten)]
    entry: Entry,
}

impl Audit {
    /// Appends to the file, which is made where there is none. The last changes are those at its end.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let recent = if file.metadata()?.is_file() { recent_in(path) } else { Recent::default() };
        Ok(Self { file: Some(Mutex::new(file)), recent: Mutex::new(recent) })
    }

    /// The last changes, the newest first: so many of them, from before the one with this number.
    pub fn changes(&self, before: Option<u64>, limit: usize) -> Vec<Change> {
        self.recent.lock().before(before, limit)
    }

    /// The number of changes that have ended.
    pub fn ended(&self) -> u64 {
        self.recent.lock().ended()
    }

    /// The changes that have ended since it was so many, in that order.
    pub fn ended_since(&self, ended: u64) -> Vec<Change> {
        self.recent.lock().ended_since(ended)
    }

    /// Appends a line. When this returns without an error, the line outlives a power failure.
    pub fn note(&self, entry: &Entry, now: Timestamp) -> io::Result<()> {
        let written = self.write(entry, now);
        // What was asked for is not done where that cannot be written; what came of it is so either way.
        if written.is_ok() || entry.result.is_some() {
            self.recent.lock().take(entry, now);
        }
        written
    }

    fn write(&self, entry: &Entry, now: Timestamp) -> io::Result<()> {
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(now.as_nanos());
        let line = Line { at: humantime::format_rfc3339_millis(at).to_string(), entry };
        // JSON has no line breaks and no control characters but escaped ones: nobody can forge a line.
        let mut text = serde_json::to_string(&line)?;
        match &self.file {
            None => tracing::info!(target: "audit", "{text}"),
            Some(file) => {
                text.push('\n');
                let mut file = file.lock();
                file.write_all(text.as_bytes())?;
                file.sync_data()?;
            }
        }
        Ok(())
    }
}

/// What is not read is not shown: nobody has to be able to read the log to write it.
fn recent_in(path: &Path) -> Recent {
    let mut recent = Recent::default();
    match tail(path) {
        Ok(bytes) => lines(&bytes).for_each(|(entry, at)| recent.take(&entry, at)),
        Err(error) => tracing::warn!("--audit-log {}: earlier changes are not shown: {error}", shown::path(path)),
    }
    recent
}

/// The end of the file, from the beginning of a line.
fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let begin = file.metadata()?.len().saturating_sub(TAIL_BYTES_MAX);
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
    if begin > 0 {
        let end_of_line = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |position| position + 1);
        bytes.drain(..end_of_line);
    }
    Ok(bytes)
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
mod tests {
    use super::recent::CHANGES_MAX;
    use super::*;

    #[test]
    fn a_line_is_a_line_whatever_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let entry = Entry {
            change: "1".to_owned(),
            who: "eve\n{\"who\":\"root\"}".to_owned(),
            what: vec!["put Api pay".to_owned()],
            base: Some(7),
            force: None,
            result: Some(Outcome::Revision(8)),
        };
        for _ in 0..2 {
            Audit::open(&path).unwrap().note(&entry, Timestamp::from_nanos(1_700_000_000_000_000_000)).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["at"], "2023-11-14T22:13:20.000Z");
        assert_eq!((&lines[0]["who"], &lines[0]["result"]["revision"]), (&entry.who.into(), &8.into()));
    }

    fn entry(result: Option<Outcome>) -> Entry {
        let what = vec!["put Api pay".to_owned(), "delete Tenant acme".to_owned()];
        Entry { change: "7f".to_owned(), who: "ann".to_owned(), what, base: Some(7), force: None, result }
    }

    #[test]
    fn a_change_has_a_line_before_it_and_one_that_says_what_came_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        std::fs::write(&path, "{\"kept\": true}\n").unwrap();
        let audit = Audit::open(&path).unwrap();
        let refused = Some(Outcome::Refused("the set would not make sense".to_owned()));
        let forced = Entry { force: Some("a slow day".to_owned()), ..entry(refused) };
        for entry in [entry(None), entry(Some(Outcome::Revision(8))), forced] {
            audit.note(&entry, Timestamp::from_nanos(1_700_000_000_123_456_789)).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let asked = r#""change":"7f","who":"ann","what":["put Api pay","delete Tenant acme"],"base":7"#;
        let at = r#""at":"2023-11-14T22:13:20.123Z""#;
        let expected = [
            "{\"kept\": true}".to_owned(),
            format!("{{{at},{asked}}}"),
            format!("{{{at},{asked},\"result\":{{\"revision\":8}}}}"),
            format!(
                "{{{at},{asked},\"force\":\"a slow day\",\"result\":{{\"refused\":\"the set would not make sense\"}}}}"
            ),
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_log_that_cannot_be_opened_or_written_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Audit::open(folder.path()).is_err(), "a folder");
        assert!(Audit::open(&folder.path().join("gone/audit.jsonl")).is_err());
        // Linux has a device that is always full.
        if cfg!(target_os = "linux") {
            let full = Audit::open(Path::new("/dev/full")).unwrap();
            let error = full.note(&entry(None), Timestamp::default()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        }
    }

    /// The two ends of the service may not take each other's place.
    #[test]
    fn lines_of_several_threads_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let audit = Audit::open(&path).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let audit = &audit;
                let entry = Entry { change: thread.to_string(), what: vec!["x".repeat(20_000)], ..entry(None) };
                scope.spawn(move || (0..5).for_each(|_| audit.note(&entry, Timestamp::default()).unwrap()));
            }
        });
        let text = std::fs::read_to_string(&path).unwrap();
        let changes =
            text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["change"].clone());
        let mut changes: Vec<String> = changes.map(|change| change.as_str().unwrap().to_owned()).collect();
        changes.sort();
        assert_eq!(changes.concat(), "00000111112222233333");
    }

    #[test]
    fn the_last_changes_are_those_at_the_end_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        std::fs::write(&path, "{\"kept\": true}\nno json\n\n").unwrap();
        let at = Timestamp::from_nanos(1_700_000_000_123_000_000);
        let audit = Audit::open(&path).unwrap();
        audit.note(&entry(None), at).unwrap();
        audit.note(&entry(Some(Outcome::Revision(8))), at + std::time::Duration::from_secs(1)).unwrap();
        audit.note(&Entry { change: "80".to_owned(), base: None, ..entry(None) }, at).unwrap();
        let expected = audit.changes(None, 10);
        assert_eq!(expected.len(), 2);
        assert_eq!((expected[1].at, &expected[1].result), (at, &Some(Outcome::Revision(8))));
        assert_eq!(Audit::open(&path).unwrap().changes(None, 10), expected);
        // Without a file they are known as long as the process lives.
        let unwritten = Audit::default();
        unwritten.note(&entry(None), at).unwrap();
        assert_eq!(unwritten.changes(None, 10)[0].change, "7f");
    }

    #[test]
    fn no_more_of_a_large_file_is_read_than_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let line = |number: usize| {
            let what = vec!["x".repeat(8000)];
            let line = Line {
                at: "2023-11-14T22:13:20.000Z".to_owned(),
                entry: &Entry { change: number.to_string(), what, ..entry(None) },
            };
            serde_json::to_string(&line).unwrap() + "\n"
        };
        let count = usize::try_from(TAIL_BYTES_MAX).unwrap() / line(0).len() + 500;
        let text: String = (0..count).map(line).collect();
        std::fs::write(&path, &text).unwrap();
        let bytes = tail(&path).unwrap();
        assert!(bytes.len() as u64 <= TAIL_BYTES_MAX && bytes.starts_with(b"{\"at\""), "{}", bytes.len());
        let changes = Audit::open(&path).unwrap().changes(None, usize::MAX);
        assert_eq!((changes.len(), &*changes[0].change), (CHANGES_MAX, &*(count - 1).to_string()));
    }

    #[test]
    fn what_came_of_a_change_is_known_also_where_it_cannot_be_written() {
        if cfg!(target_os = "linux") {
            let full = Audit::open(Path::new("/dev/full")).unwrap();
            assert!(full.note(&entry(None), Timestamp::default()).is_err());
            assert_eq!(full.changes(None, 10), [], "it is not made");
            assert!(full.note(&entry(Some(Outcome::Reset(3))), Timestamp::default()).is_err());
            assert_eq!(full.changes(None, 10)[0].result, Some(Outcome::Reset(3)));
        }
    }
}
