//! The file of the audit log: lines are appended, each with the hash of what stands before it.
//!
//! ```text
//! audit.jsonl     is written; whoever moves it away (logrotate) finds the next line in a new one
//! audit.jsonl.1   was written before it, and so on up to `files_max`
//! ```

use std::fs::{File, TryLockError};
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use super::chain::{Chain, Said, read_line};
use super::{AuditSettings, Entry, Line};
use crate::clock::Timestamp;
use crate::{regular_file, rotation, shown};

/// What is read of the end of a file, in bytes. A large change is a line of some 3 MB.
pub(super) const TAIL_BYTES_MAX: u64 = 8 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct AuditFile {
    settings: AuditSettings,
    /// `None`: it could not be written, and what is in it is to be looked at before the next line.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// What the next line says of what stands before it.
    head: String,
    /// The file ends in the middle of a line.
    is_cut: bool,
    /// Why the file, which is full, could not be moved away.
    unmoved: Option<String>,
}

impl AuditFile {
    /// Opens the file, which is made where there is none, and goes on with the chain that it has, or that of the file before it.
    pub(super) fn open(settings: AuditSettings) -> io::Result<Self> {
        let open = Some(Open::resume(&settings)?);
        Ok(Self { settings, open })
    }

    /// What the next line will say: the hash of the last one.
    pub(super) fn head(&self) -> Option<&str> {
        self.open.as_ref().map(|open| open.head.as_str())
    }

    /// Why it is written on although it is full.
    pub(super) fn unmoved(&self) -> Option<&str> {
        self.open.as_ref().and_then(|open| open.unmoved.as_deref())
    }

    /// Appends lines. When this returns without an error, they outlive a power failure; with one, none of them is noted.
    pub(super) fn append<'a>(&mut self, entries: impl Iterator<Item = (&'a Entry, Timestamp)>) -> io::Result<()> {
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(Open::resume(&self.settings)?),
        };
        open.follow(&self.settings.path)?;
        open.rotate(&self.settings)?;
        let mut text = Vec::new();
        if open.is_cut {
            text.push(b'\n');
        }
        let mut head = open.head.clone();
        for (entry, at) in entries {
            let begin = text.len();
            text.extend_from_slice(Line::of(entry, at, Some(&head)).text()?.as_bytes());
            text.push(b'\n');
            head = Chain::after(text.get(begin..).unwrap_or_default()).hash();
        }
        let before = open.file.metadata()?.len();
        let written = open.file.write_all(&text).and_then(|()| open.file.sync_data());
        match &written {
            Ok(()) => (open.head, open.is_cut) = (head, false),
            // What is not there as a whole is taken back. Where that cannot be done, the next line follows one that is cut off.
            Err(_) if open.file.set_len(before).is_ok() => {}
            Err(_) => self.open = None,
        }
        written
    }
}

impl Open {
    fn resume(settings: &AuditSettings) -> io::Result<Self> {
        let path = &settings.path;
        let file = create(path, None)?;
        let before = rotation::older(path, 1);
        let (chain, is_cut) = match file.metadata()?.len() {
            0 if before.is_file() => (chain_in(&before)?.0, false),
            _ => chain_in(path)?,
        };
        Ok(Self { file, head: chain.hash(), is_cut, unmoved: None })
    }

    /// Begins a new file where somebody moved this one away. The chain goes on from what was written here, whatever the new
    /// one holds.
    fn follow(&mut self, path: &Path) -> io::Result<()> {
        if rotation::is_moved(path, &self.file)? {
            self.file = create(path, Some(&self.file))?;
            self.is_cut = is_cut(path)?;
            tracing::info!(target: "audit", last_hash = self.head, "--audit-log {}: a new file", shown::path(path));
        }
        Ok(())
    }

    /// Moves a file away that is full. One that cannot be moved is written on: what is noted counts for more than its size.
    fn rotate(&mut self, AuditSettings { path, rotation }: &AuditSettings) -> io::Result<()> {
        let moved = if rotation.is_full(&self.file)? { rotation.move_away(path) } else { Ok(()) };
        self.unmoved = moved.err().map(|error| error.to_string());
        match &self.unmoved {
            None => self.follow(path),
            Some(why) => {
                tracing::warn!("--audit-log {}: it is full and cannot be moved away: {why}", shown::path(path));
                Ok(())
            }
        }
    }
}

/// Opens a file to append to, which nobody else may write meanwhile: two chains in one file are none. A pipe or a device tells
/// nothing of what was written.
fn create(path: &Path, before: Option<&File>) -> io::Result<File> {
    let is_new = !path.exists();
    let file = rotation::append(path, before)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => return Err(io::Error::other("another process writes it")),
        // Some file systems of networks know no locks.
        Err(TryLockError::Error(error)) if error.kind() != io::ErrorKind::Unsupported => return Err(error),
        _ => {}
    }
    if is_new {
        // So that its name outlives a power failure, too.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}

/// What stands before the next line of a file, and whether the last one is cut off.
fn chain_in(path: &Path) -> io::Result<(Chain, bool)> {
    let (bytes, is_whole) = tail(path, TAIL_BYTES_MAX)?;
    let is_cut = !bytes.is_empty() && !bytes.ends_with(b"\n");
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let linked = lines.iter().rposition(|line| matches!(Said::of(line), Said::Previous(_)));
    let Some(first) = linked.or(is_whole.then_some(0)) else {
        return Ok((chain_of_all(path)?, is_cut));
    };
    let mut chain = Chain::default();
    for line in lines.iter().skip(first) {
        chain.follow(line);
    }
    Ok((chain, is_cut))
}

/// That of a large file whose end has no line with a hash.
fn chain_of_all(path: &Path) -> io::Result<Chain> {
    let (mut reader, mut line, mut chain) = (BufReader::new(regular_file::open(path)?), Vec::new(), Chain::default());
    while read_line(&mut reader, &mut line)? {
        chain.follow(&line);
    }
    Ok(chain)
}

/// The end of the file from the beginning of a line, of so many bytes at most, and whether that is all of it.
pub(super) fn tail(path: &Path, bytes_max: u64) -> io::Result<(Vec<u8>, bool)> {
    let mut file = regular_file::open(path)?;
    let begin = file.metadata()?.len().saturating_sub(bytes_max);
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    if begin > 0 {
        let end_of_line = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |position| position + 1);
        bytes.drain(..end_of_line);
    }
    Ok((bytes, begin == 0))
}

fn is_cut(path: &Path) -> io::Result<bool> {
    let mut file = regular_file::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}
