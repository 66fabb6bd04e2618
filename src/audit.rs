//! The audit log: who asked for which change, from which base, and what came of it. One JSON line before the change and
//! one after it; a change that cannot be noted is not made.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use parking_lot::Mutex;
use serde::Serialize;

use crate::clock::Timestamp;

#[derive(Debug, Default)]
pub struct Audit {
    /// `None`: the lines go to the log.
    file: Option<Mutex<File>>,
}

/// A line.
#[derive(Clone, Debug, Serialize)]
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

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
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

impl Audit {
    /// Appends to the file, which is made where there is none.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { file: Some(Mutex::new(file)) })
    }

    /// Appends a line. When this returns without an error, the line outlives a power failure.
    pub fn note(&self, entry: &Entry, now: Timestamp) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
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
}
