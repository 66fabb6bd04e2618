//! The task that writes the lines, on a thread that may wait for a disk or a pipe.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{DenialLog, Event, Line, Target};
use crate::clock::Timestamp;
use crate::metrics::DenialLogMetrics;
use crate::rotation::{self, Rotation};
use crate::shown;
use crate::trouble::Trouble;

/// The lines of one write.
const BATCH_MAX: usize = 512;
/// The time after which the file says how much it leaves out, where nothing else is written.
const PAUSE: Duration = Duration::from_secs(1);
/// The time that is left for what waits once it is time to go.
const FLUSH_MAX: Duration = Duration::from_secs(3);
/// The shortest time from one line of the ordinary log about a file that cannot be written to the next.
const LOG_PAUSE: Duration = Duration::from_secs(60);

/// What writes the lines.
#[derive(Debug)]
pub struct Writer {
    events: mpsc::Receiver<Event>,
    left_out: Arc<AtomicU64>,
    trouble: Trouble,
    metrics: DenialLogMetrics,
    output: Option<Output>,
    /// When it was last told that the file cannot be written.
    told: Option<Instant>,
    /// When the last denial was that is known here.
    last: Timestamp,
}

#[derive(Debug)]
enum Output {
    Standard(io::Stdout),
    File { path: PathBuf, rotation: Rotation, file: File },
}

impl Writer {
    pub(super) fn open(target: Target, events: mpsc::Receiver<Event>, log: &DenialLog) -> io::Result<Self> {
        let output = Some(match target {
            Target::StandardOutput => Output::Standard(io::stdout()),
            Target::File(path, rotation) => Output::File { file: rotation::append(&path, None)?, path, rotation },
        });
        let DenialLog { left_out, trouble, metrics, .. } = log.clone();
        Ok(Self { events, left_out, trouble, metrics, output, told: None, last: Timestamp::default() })
    }

    /// Writes what comes, until nobody notes anything any more, or for a short while after shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let late = async {
            shutdown.cancelled().await;
            tokio::time::sleep(FLUSH_MAX).await;
        };
        tokio::select! {
            () = self.write_all() => {}
            () = late => {}
        }
    }

    async fn write_all(&mut self) {
        let mut batch = Vec::new();
        loop {
            let received = timeout(PAUSE, self.events.recv_many(&mut batch, BATCH_MAX)).await;
            let is_last = received == Ok(0);
            let left_out = self.left_out.swap(0, Ordering::Relaxed);
            if !batch.is_empty() || left_out > 0 {
                self.write(std::mem::take(&mut batch), left_out).await;
            }
            if is_last {
                return;
            }
        }
    }

    async fn write(&mut self, batch: Vec<Event>, left_out: u64) {
        self.last = batch.last().map_or(self.last, |event| event.at);
        let mut lines: Vec<Line<'_>> = batch.iter().map(Line::of).collect();
        lines.extend((left_out > 0).then(|| Line::left_out(self.last, left_out)));
        let text = text(&lines);
        let Some(mut output) = self.output.take() else { return };
        let written = tokio::task::spawn_blocking(move || {
            let written = output.write(&text);
            (output, written)
        });
        // A thread that panicked has said so; there is nothing left to write to.
        let Ok((output, written)) = written.await else { return };
        self.output = Some(output);
        let lines = batch.len() as u64;
        if let Err(error) = written {
            self.metrics.failed.inc_by(lines);
            self.left_out.fetch_add(lines + left_out, Ordering::Relaxed);
            self.tell(&error);
            self.trouble.set(Some(error.to_string()));
        } else {
            self.metrics.written.inc_by(lines);
            self.trouble.set(None);
        }
    }

    fn tell(&mut self, error: &io::Error) {
        if self.told.is_none_or(|told| told.elapsed() >= LOG_PAUSE) {
            tracing::error!(%error, "--denials-log cannot be written");
            self.told = Some(Instant::now());
        }
    }
}

fn text(lines: &[Line<'_>]) -> Vec<u8> {
    let mut text = Vec::new();
    for line in lines {
        // What is written to memory, and has no maps, does not fail.
        if serde_json::to_writer(&mut text, line).is_ok() {
            text.push(b'\n');
        }
    }
    text
}

impl Output {
    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        match self {
            Self::Standard(stdout) => stdout.write_all(text).and_then(|()| stdout.flush()),
            Self::File { path, rotation, file } => {
                follow(path, file)?;
                rotate(path, *rotation, file)?;
                file.write_all(text)
            }
        }
    }
}

/// Begins a new file where somebody moved this one away.
fn follow(path: &Path, file: &mut File) -> io::Result<()> {
    if rotation::is_moved(path, file)? {
        *file = rotation::append(path, Some(file))?;
        tracing::info!("--denials-log {}: a new file", shown::path(path));
    }
    Ok(())
}

/// Moves a file away that is full. One that cannot be moved is trouble: nobody could tell how large it would become.
fn rotate(path: &Path, rotation: Rotation, file: &mut File) -> io::Result<()> {
    if rotation.is_full(file)? {
        rotation.move_away(path)?;
        *file = rotation::append(path, Some(file))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU32, NonZeroU64};

    use super::super::DenialLogSettings;
    use super::super::tests::event;
    use super::*;
    use crate::metrics::Metrics;

    fn open(path: &Path, per_second: u32, metrics: &Metrics) -> (DenialLog, Writer) {
        open_rotated(path, per_second, None, metrics)
    }

    fn open_rotated(path: &Path, per_second: u32, bytes_max: Option<u64>, metrics: &Metrics) -> (DenialLog, Writer) {
        let rotation =
            Rotation { bytes_max: bytes_max.and_then(NonZeroU64::new), files_max: NonZeroU32::new(2).unwrap() };
        let target = Target::File(path.to_owned(), rotation);
        let per_second = NonZeroU32::new(per_second).unwrap();
        DenialLog::open(DenialLogSettings { target, per_second }, metrics).unwrap()
    }

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[tokio::test]
    async fn what_waits_at_the_end_is_written_and_what_is_left_out_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("denials.jsonl");
        let metrics = Metrics::default();
        let (log, writer) = open(&path, 1, &metrics);
        (0..10).for_each(|_| log.note(event("").at, || event("pay")));
        drop(log);
        writer.run(CancellationToken::new()).await;
        let lines = lines(&path);
        assert_eq!((lines.len(), &lines[0]["api"], &lines[1]["left_out"]), (2, &"pay".into(), &9.into()));
        assert_eq!(metrics.denial_log.written.get(), 1);
    }

    #[tokio::test]
    async fn a_file_that_was_moved_away_is_followed_by_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let [path, moved] = ["denials.jsonl", "moved"].map(|name| folder.path().join(name));
        let metrics = Metrics::default();
        let (_log, mut writer) = open(&path, 100, &metrics);
        writer.write(vec![event("before")], 0).await;
        std::fs::rename(&path, &moved).unwrap();
        writer.write(vec![event("after")], 0).await;
        assert_eq!((lines(&moved).len(), lines(&path)[0]["api"].as_str()), (1, Some("after")));
    }

    #[tokio::test]
    async fn a_full_file_is_moved_away_and_so_many_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("denials.jsonl");
        let metrics = Metrics::default();
        let (_log, mut writer) = open_rotated(&path, 100, Some(1), &metrics);
        for api in ["first", "second", "third", "fourth"] {
            writer.write(vec![event(api)], 0).await;
        }
        let api = |number: u32| lines(&rotation::older(&path, number))[0]["api"].as_str().unwrap().to_owned();
        assert_eq!(
            (lines(&path)[0]["api"].as_str(), api(1), api(2)),
            (Some("fourth"), "third".to_owned(), "second".to_owned())
        );
        assert!(!rotation::older(&path, 3).exists());
        assert_eq!(metrics.denial_log.written.get(), 4);
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_said_once_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("denials.jsonl");
        let metrics = Metrics::default();
        let (log, mut writer) = open(&path, 100, &metrics);
        std::fs::remove_file(&path).unwrap();
        // No file can be where a folder is.
        std::fs::create_dir(&path).unwrap();
        writer.write(vec![event("lost"), event("lost")], 3).await;
        assert_eq!(metrics.denial_log.failed.get(), 2);
        std::fs::remove_dir(&path).unwrap();
        drop(log);
        writer.run(CancellationToken::new()).await;
        assert_eq!(lines(&path)[0]["left_out"], 5);
    }
}
