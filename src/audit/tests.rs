use std::io::Write as _;
use std::num::NonZeroU64;
use std::time::Duration;

use proptest::prelude::*;

use super::file::TAIL_BYTES_MAX;
use super::recent::CHANGES_MAX;
use super::verify::{Broken, Verification, Verified};
use super::*;

const AT: Timestamp = Timestamp::from_nanos(1_700_000_000_123_456_789);
/// The SHA-256 of nothing, as `sha256sum /dev/null` prints it.
const OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn entry(result: Option<Outcome>) -> Entry {
    let what = vec!["put Api pay".to_owned(), "delete Tenant acme".to_owned()];
    Entry { change: "7f".to_owned(), who: "ann".to_owned(), what, base: Some(7), force: None, result }
}

fn named(change: &str) -> Entry {
    Entry { change: change.to_owned(), ..entry(None) }
}

/// What somebody does to the lines.
type Tampering<'a> = &'a dyn Fn(&mut Vec<String>);

struct Log {
    folder: tempfile::TempDir,
    bytes_max: Option<u64>,
    files_max: u32,
}

impl Log {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), bytes_max: None, files_max: 3 }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("audit.jsonl")
    }

    fn moved(&self, number: u32) -> PathBuf {
        self.folder.path().join(format!("audit.jsonl.{number}"))
    }

    fn settings(&self, path: &Path) -> AuditSettings {
        AuditSettings {
            path: path.to_owned(),
            rotation: Rotation {
                bytes_max: self.bytes_max.and_then(NonZeroU64::new),
                files_max: NonZeroU32::new(self.files_max).unwrap(),
            },
        }
    }

    /// A run begins: that before it has ended as soon as its thread has.
    fn open(&self) -> Audit {
        for _ in 0..30_000 {
            match Audit::open(self.settings(&self.path()), Arc::default()) {
                Err(error) if error.to_string() == "another process writes it" => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                opened => return opened.unwrap(),
            }
        }
        panic!("the run before does not let go of the file");
    }

    async fn note(&self, changes: &[&str]) {
        let audit = self.open();
        for change in changes {
            audit.note(&named(change), AT).await.unwrap();
        }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.path()).unwrap()
    }

    fn lines(&self) -> Vec<String> {
        self.text().lines().map(|line| format!("{line}\n")).collect()
    }
}

/// What is found in files with these contents, and what is told beside.
fn verify(files: &[&str], after: Option<&str>, expected: Option<&str>) -> (Result<Verified, String>, Vec<String>) {
    let (mut verification, mut told) = (Verification::new(after, expected), Vec::new());
    let mut tell = |text| told.push(text);
    let mut all = || {
        for (name, content) in ["a", "b", "c", "d", "e"].iter().zip(files) {
            verification.file(name, content.as_bytes(), &mut tell)?;
        }
        std::mem::take(&mut verification).end(&mut tell)
    };
    let verified = all().map_err(|broken: Broken| broken.to_string());
    (verified, told)
}

fn broken(files: &[&str]) -> String {
    verify(files, None, None).0.unwrap_err()
}

fn sha256(bytes: &[u8]) -> String {
    ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_line_is_a_line_whatever_is_in_it() {
    let log = Log::new();
    let eve = Entry { who: "eve\n{\"who\":\"root\"}".to_owned(), ..entry(Some(Outcome::Revision(8))) };
    for _ in 0..2 {
        log.open().note(&eve, AT).await.unwrap();
    }
    let text = log.text();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["who"], &lines[0]["result"]["revision"]), (&eve.who.into(), &8.into()));
}

#[tokio::test]
async fn a_change_has_a_line_before_it_and_one_that_says_what_came_of_it() {
    let log = Log::new();
    let audit = log.open();
    let refused = Some(Outcome::Refused("the set would not make sense".to_owned()));
    let forced = Entry { force: Some("a slow day".to_owned()), ..entry(refused) };
    for entry in [entry(None), entry(Some(Outcome::Revision(8))), forced] {
        audit.note(&entry, AT).await.unwrap();
    }
    let asked = r#""change":"7f","who":"ann","what":["put Api pay","delete Tenant acme"],"base":7"#;
    let at = r#""at":"2023-11-14T22:13:20.123Z""#;
    let mut expected = vec![format!("{{{at},{asked},\"previous\":\"{OF_NOTHING}\"}}\n")];
    for what in [
        "\"result\":{\"revision\":8}",
        "\"force\":\"a slow day\",\"result\":{\"refused\":\"the set would not make sense\"}",
    ] {
        let previous = sha256(expected.last().unwrap().as_bytes());
        expected.push(format!("{{{at},{asked},{what},\"previous\":\"{previous}\"}}\n"));
    }
    assert_eq!(log.lines(), expected);
    assert_eq!(audit.report(AT).unwrap().last_hash, sha256(expected[2].as_bytes()));
}

#[tokio::test]
async fn the_chain_goes_on_over_restarts_and_begins_after_lines_of_older_versions() {
    let log = Log::new();
    let older = "{\"kept\": true}\nno json\n";
    std::fs::write(log.path(), older).unwrap();
    log.note(&["1", "2"]).await;
    log.note(&["3"]).await;
    let lines = log.lines();
    assert!(lines[2].contains(&sha256(older.as_bytes())), "all of the older lines are vouched for: {}", lines[2]);
    let (verified, told) = verify(&[&log.text()], None, None);
    let verified = verified.unwrap();
    assert_eq!((verified.lines, verified.begin.line, &*verified.last_hash), (3, 3, &*sha256(lines[4].as_bytes())));
    assert_eq!(told, ["from a line 1 on lines say no hash; a line 3 says that of all of them: the chain begins there"]);
    assert_eq!(log.open().report(AT).unwrap().last_hash, verified.last_hash, "of the next run, too");
    let changed = log.text().replacen("true", "false", 1);
    assert!(broken(&[&changed]).starts_with("a line 3: it does not follow"), "{}", broken(&[&changed]));
    assert!(broken(&[older]).starts_with("no line says a hash"));
    assert!(broken(&[""]).starts_with("no line says a hash"));
}

#[tokio::test]
async fn a_line_that_was_changed_taken_out_put_in_or_put_elsewhere_is_found() {
    let log = Log::new();
    log.note(&["1", "2", "3", "4", "5"]).await;
    let lines = log.lines();
    let found = |change: Tampering<'_>| {
        let mut changed = lines.clone();
        change(&mut changed);
        broken(&[&changed.concat()])
    };
    let unlinked = |name: &str| serde_json::to_string(&Line::of(&named(name), AT, None)).unwrap() + "\n";
    let cases: [(&str, Tampering<'_>, u64); 9] = [
        ("changed", &|lines| lines[1] = lines[1].replace("ann", "bob"), 3),
        ("a space more", &|lines| lines[1] = lines[1].replace(":7", ": 7"), 3),
        ("taken out", &|lines| drop(lines.remove(2)), 3),
        ("copied", &|lines| lines.insert(2, lines[1].clone()), 3),
        ("put in with the right hash", &|lines| lines.insert(2, lines[2].replace("ann", "bob")), 4),
        ("put in without a hash", &|lines| lines.insert(2, unlinked("9")), 4),
        ("put in before the first", &|lines| lines.insert(0, unlinked("9")), 2),
        ("put elsewhere", &|lines| lines.swap(2, 3), 3),
        ("put at the end without a hash", &|lines| lines.push(unlinked("9")), 6),
    ];
    for (what, change, line) in cases {
        let told = found(change);
        assert!(told.starts_with(&format!("a line {line}: it does not follow")), "{what}: {told}");
    }
    assert!(found(&|lines| lines.push("no json\n".to_owned())).starts_with("a line 6: it does not follow"));
    assert!(found(&|lines| lines.push(unlinked("9").trim_end().to_owned())).starts_with("a line 6"));
}

#[tokio::test]
async fn an_end_that_was_taken_away_is_found_by_whoever_knows_its_hash() {
    let log = Log::new();
    log.note(&["1", "2", "3"]).await;
    let (lines, all) = (log.lines(), log.text());
    let [second, last] = [1, 2].map(|index: usize| sha256(lines[index].as_bytes()));
    let cut = lines[..2].concat();
    assert!(verify(&[&cut], None, None).0.is_ok(), "nothing in the file tells");
    let told = verify(&[&cut], None, Some(&last)).0.unwrap_err();
    assert_eq!(told, format!("no line has the hash {last}: the end was taken away, or it is another log"));
    let at = |text: &str, hash: &str| verify(&[text], None, Some(hash)).0.unwrap().expected_at.unwrap().line;
    assert_eq!((at(&all, &last), at(&all, &last.to_uppercase())), (3, 3));
    assert_eq!(at(&all, &second), 2, "the log went on since");
    // So is a beginning.
    let rest = lines[1..].concat();
    let (verified, told) = verify(&[&rest], None, None);
    let first = sha256(lines[0].as_bytes());
    assert_eq!(told, [format!("a line 1 follows one that is not here, with the hash {first}")]);
    assert_eq!(verified.unwrap().lines, 2);
    assert!(verify(&[&rest], Some(&first), None).0.is_ok());
    assert!(verify(&[&rest], Some(OF_NOTHING), None).0.unwrap_err().starts_with("a line 1: it does not follow"));
}

#[tokio::test]
async fn half_a_line_of_a_crash_is_told_of_and_the_next_run_goes_on() {
    for half in ["{\"at\":\"2026-11-", "{"] {
        let log = Log::new();
        log.note(&["1", "2"]).await;
        let mut file = std::fs::OpenOptions::new().append(true).open(log.path()).unwrap();
        file.write_all(half.as_bytes()).unwrap();
        let (verified, told) = verify(&[&log.text()], None, None);
        assert_eq!(verified.unwrap().lines, 2);
        assert!(told[0].starts_with("a line 3 is cut off, as ") && told[0].contains("--expect"), "{told:?}");
        let last = sha256(log.lines()[1].as_bytes());
        let (verified, told) = verify(&[&log.text()], None, Some(&last));
        assert_eq!(verified.unwrap().expected_at.unwrap().line, 2);
        assert_eq!(told, ["a line 3 is cut off: nobody was told that it is noted"], "it came after what is known");
        log.note(&["3"]).await;
        let text = log.text();
        let (verified, told) = verify(&[&text], None, None);
        assert_eq!(verified.unwrap().lines, 3);
        assert_eq!(told, ["from a line 3 on lines say no hash; a line 4 says that of all of them"]);
        for changed in [text.replace(&format!("{half}\n"), ""), text.replace(&format!("\n{half}\n"), "\n{}\n")] {
            assert!(broken(&[&changed]).contains("it does not follow"), "{changed}");
        }
    }
    // Only its line break is missing.
    let log = Log::new();
    log.note(&["1", "2"]).await;
    std::fs::write(log.path(), log.text().trim_end()).unwrap();
    log.note(&["3"]).await;
    assert_eq!(verify(&[&log.text()], None, None).0.unwrap().lines, 3);
}

#[tokio::test]
async fn a_full_file_is_moved_away_and_the_chain_goes_on_in_a_new_one() {
    let log = Log { bytes_max: Some(500), ..Log::new() };
    let audit = log.open();
    let [mut hashes, mut names] = [const { Vec::<String>::new() }; 2];
    for change in 0..15 {
        let name = change.to_string();
        audit.note(&named(&name), AT).await.unwrap();
        hashes.push(audit.report(AT).unwrap().last_hash);
        names.push(name);
    }
    drop(audit);
    let files = [log.moved(3), log.moved(2), log.moved(1), log.path()];
    let texts = files.map(|file| std::fs::read_to_string(file).unwrap());
    assert!(texts.iter().all(|text| text.len() < 500 + 300), "one line more than the bound at most");
    assert!(!log.moved(4).exists(), "older ones are gone");
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let (verified, told) = verify(&texts, None, hashes.last().map(String::as_str));
    let lines = verified.unwrap().lines;
    assert!(lines >= 6 && told.len() == 1 && told[0].contains("follows one that is not here"), "{lines} {told:?}");
    assert!(broken(&[texts[0], texts[2]]).starts_with("b line 1: it does not follow"), "a file is missing");
    assert!(broken(&[texts[1], texts[0]]).starts_with("b line 1: it does not follow"), "in the wrong order");
    // A run that ended between the two steps of a move finds no file, or one without a line.
    std::fs::rename(log.path(), log.moved(1)).unwrap();
    for is_made in [false, true] {
        if is_made {
            std::fs::write(log.path(), "").unwrap();
        }
        assert_eq!(Some(&log.open().report(AT).unwrap().last_hash), hashes.last());
        std::fs::remove_file(log.path()).unwrap();
    }
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_left_and_a_new_one_goes_on_with_the_chain() {
    let log = Log::new();
    let audit = log.open();
    audit.note(&named("1"), AT).await.unwrap();
    std::fs::rename(log.path(), log.moved(7)).unwrap();
    audit.note(&named("2"), AT).await.unwrap();
    let first = std::fs::read_to_string(log.moved(7)).unwrap();
    assert_eq!(verify(&[&first, &log.text()], None, None).0.unwrap().lines, 2);
    // logrotate's `create` leaves an empty file, and its `copytruncate` empties the one there is.
    std::fs::rename(log.path(), log.moved(6)).unwrap();
    std::fs::write(log.path(), "").unwrap();
    audit.note(&named("3"), AT).await.unwrap();
    let second = std::fs::read_to_string(log.moved(6)).unwrap();
    let third = log.text();
    std::fs::write(log.path(), "").unwrap();
    audit.note(&named("4"), AT).await.unwrap();
    assert_eq!(verify(&[&first, &second, &third, &log.text()], None, None).0.unwrap().lines, 4);
    // Whoever puts a shorter one in its place is found out.
    let shorter = log.folder.path().join("shorter");
    std::fs::write(&shorter, first.repeat(2)).unwrap();
    std::fs::rename(shorter, log.path()).unwrap();
    audit.note(&named("5"), AT).await.unwrap();
    assert!(broken(&[&log.text()]).contains("it does not follow"));
}

#[tokio::test]
async fn a_log_that_cannot_be_opened_or_written_is_an_error() {
    let log = Log::new();
    let open = |path: &Path| Audit::open(log.settings(path), Arc::default());
    assert!(open(log.folder.path()).is_err(), "a folder");
    assert!(open(&log.folder.path().join("gone/audit.jsonl")).is_err());
    let audit = log.open();
    let told = open(&log.path()).unwrap_err().to_string();
    assert_eq!(told, "another process writes it", "two chains in one file are none");
    // Its folder goes, and comes back.
    audit.note(&named("1"), AT).await.unwrap();
    let elsewhere = log.folder.path().with_extension("elsewhere");
    std::fs::rename(log.folder.path(), &elsewhere).unwrap();
    assert!(audit.note(&named("2"), AT).await.is_err());
    assert!(audit.report(AT).unwrap().trouble.is_some());
    std::fs::rename(&elsewhere, log.folder.path()).unwrap();
    audit.note(&named("3"), AT).await.unwrap();
    assert_eq!(audit.report(AT).unwrap().trouble, None);
    assert_eq!(verify(&[&log.text()], None, None).0.unwrap().lines, 2);
}

/// A pipe would keep whoever opens it waiting for ever.
#[tokio::test]
async fn a_pipe_in_the_place_of_the_log_is_told_and_not_waited_for() {
    let log = Log::new();
    let metrics = Arc::<Metrics>::default();
    let audit = Audit::open(log.settings(&log.path()), Arc::clone(&metrics)).unwrap();
    audit.note(&named("1"), AT).await.unwrap();
    std::fs::remove_file(log.path()).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(log.path()).status().unwrap().success());
    let told = audit.note(&named("2"), AT).await.unwrap_err();
    assert!(matches!(&told, Unnoted::Failed(error) if error.to_string() == "is not a regular file"), "{told}");
    assert_eq!(audit.report(AT).unwrap().trouble.as_deref(), Some("is not a regular file"));
    assert_eq!(audit.changes(None, 10).len(), 1, "what was asked for is not done");
    assert!(audit.note(&Entry { result: Some(Outcome::Reset(3)), ..named("1") }, AT).await.is_err());
    assert_eq!(
        audit.changes(None, 10)[0].result,
        Some(Outcome::Reset(3)),
        "what came of a change is known all the same"
    );
    let unnoted = metrics.audit_lines_unnoted.get_or_create(&ReasonLabels { reason: "error" }).get();
    assert_eq!(unnoted, 2);
    assert!(Audit::open(log.settings(&log.path()), Arc::default()).is_err(), "nor does a run begin with one");
    std::fs::remove_file(log.path()).unwrap();
    audit.note(&named("3"), AT).await.unwrap();
    assert_eq!((log.lines().len(), audit.report(AT).unwrap().trouble), (1, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_come_at_once_follow_each_other() {
    let log = Log::new();
    let audit = Arc::new(log.open());
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..4 * WAITING_MAX {
        let audit = Arc::clone(&audit);
        let entry = Entry { what: vec!["x".repeat(2000)], ..named(&task.to_string()) };
        tasks.spawn(async move { audit.note(&entry, AT).await.unwrap() });
    }
    tasks.join_all().await;
    let verified = verify(&[&log.text()], None, None).0.unwrap();
    assert_eq!(verified.lines, 4 * WAITING_MAX as u64);
    assert_eq!(audit.report(AT).map(|report| (report.last_hash, report.waiting)), Some((verified.last_hash, 0)));
}

#[tokio::test]
async fn the_last_changes_are_those_at_the_end_of_the_file() {
    let log = Log::new();
    std::fs::write(log.path(), "{\"kept\": true}\nno json\n\n").unwrap();
    let at = Timestamp::from_nanos(1_700_000_000_123_000_000);
    let audit = log.open();
    audit.note(&entry(None), at).await.unwrap();
    audit.note(&entry(Some(Outcome::Revision(8))), at + Duration::from_secs(1)).await.unwrap();
    audit.note(&Entry { base: None, ..named("80") }, at).await.unwrap();
    let expected = audit.changes(None, 10);
    assert_eq!(expected.len(), 2);
    assert_eq!((expected[1].at, &expected[1].result), (at, &Some(Outcome::Revision(8))));
    drop(audit);
    assert_eq!(log.open().changes(None, 10), expected);
    // Without a file they are known as long as the process lives.
    let unwritten = Audit::default();
    unwritten.note(&entry(None), at).await.unwrap();
    assert_eq!(unwritten.changes(None, 10)[0].change, "7f");
    assert!(unwritten.report(AT).is_none());
}

#[tokio::test]
async fn no_more_of_a_large_file_is_read_than_its_end() {
    let log = Log::new();
    let line = |number: usize, previous: Option<&str>| {
        let entry = Entry { what: vec!["x".repeat(8000)], ..named(&number.to_string()) };
        serde_json::to_string(&Line::of(&entry, AT, previous)).unwrap() + "\n"
    };
    let count = usize::try_from(TAIL_BYTES_MAX).unwrap() / line(0, None).len() + 500;
    let of_older: String = (0..count).map(|number| line(number, None)).collect();
    let mut linked = of_older.clone();
    linked += &line(count, Some(&sha256(of_older.as_bytes())));
    // All of it has to be read where its end says no hash.
    for (text, last) in [(&of_older, &*of_older), (&linked, &linked[of_older.len()..])] {
        std::fs::write(log.path(), text).unwrap();
        let (bytes, is_whole) = file::tail(&log.path(), TAIL_BYTES_MAX).unwrap();
        assert!(bytes.len() as u64 <= TAIL_BYTES_MAX && bytes.starts_with(b"{\"at\"") && !is_whole, "{}", bytes.len());
        let audit = log.open();
        let changes = audit.changes(None, usize::MAX);
        let newest = text.lines().count() - 1;
        assert_eq!((changes.len(), &*changes[0].change), (CHANGES_MAX, &*newest.to_string()));
        assert_eq!(audit.report(AT).unwrap().last_hash, sha256(last.as_bytes()));
    }
}

#[tokio::test]
async fn after_a_restart_changes_of_files_that_were_moved_away_are_shown_too() {
    let log = Log { bytes_max: Some(1), files_max: 5, ..Log::new() };
    let shown = || log.open().changes(None, usize::MAX).into_iter().map(|change| change.change).collect::<Vec<_>>();
    log.note(&["1", "2", "3", "4", "5"]).await;
    assert!(log.moved(4).is_file(), "each line is in a file of its own");
    assert_eq!(shown(), ["5", "4", "3", "2", "1"]);
    // One of which nothing can be read has nothing behind it, and takes nothing of what came after it.
    std::fs::remove_file(log.moved(2)).unwrap();
    assert_eq!(shown(), ["5", "4"]);
    // All of them together have one bound.
    let line = |number: usize| {
        let entry = Entry { what: vec!["x".repeat(8000)], ..named(&format!("old {number}")) };
        serde_json::to_string(&Line::of(&entry, AT, None)).unwrap() + "\n"
    };
    let count = usize::try_from(TAIL_BYTES_MAX).unwrap() / line(0).len() + 10;
    std::fs::write(log.moved(1), (0..count).map(line).collect::<String>()).unwrap();
    std::fs::write(log.moved(2), line(count)).unwrap();
    let shown = shown();
    assert!(shown[0] == "5" && shown.len() < count && !shown.contains(&format!("old {count}")), "{}", shown.len());
}

#[tokio::test]
async fn what_would_do_something_to_a_terminal_is_escaped_in_the_file() {
    let log = Log::new();
    let eve = Entry { who: "eve\u{9b}31m\u{7f}\u{202e}\u{1b}[2J\\".to_owned(), ..entry(None) };
    log.open().note(&eve, AT).await.unwrap();
    let text = log.text();
    assert!(text.trim_end().chars().all(|c| !c.is_control() && c != '\u{202e}'), "{text:?}");
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["who"], eve.who);
    assert!(verify(&[&text], None, None).0.is_ok());
}

proptest! {
    /// Whatever is in a file is an answer or an error, and whoever goes on with it makes a chain.
    #[test]
    fn any_file_is_gone_on_with(lines in prop::collection::vec(
        prop_oneof!["\\PC{0,20}", Just("{}".to_owned()), Just("{\"previous\": \"7\"}".to_owned()), Just("{\"previous".to_owned())],
        0..6,
    ), is_ended in any::<bool>()) {
        let text = lines.join("\n") + if is_ended { "\n" } else { "" };
        let _ = verify(&[&text], None, None);
        let log = Log::new();
        std::fs::write(log.path(), &text).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(log.note(&["1"]));
        let of_last = log.text();
        let last = of_last.lines().next_back().unwrap();
        let said = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?["previous"].as_str().map(str::to_owned);
        let before = of_last.len() - last.len() - 1;
        let since = of_last[..before].split_inclusive('\n').rev().position(|line| said(line).is_some());
        let count = of_last[..before].split_inclusive('\n').count();
        let first = since.map_or(0, |since| count - 1 - since);
        let stands: String = of_last[..before].split_inclusive('\n').skip(first).collect();
        prop_assert_eq!(said(last).unwrap(), sha256(stands.as_bytes()));
    }
}
