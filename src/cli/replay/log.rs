//! Access logs in files: their lines, read in the order of their times.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;

use flate2::bufread::MultiGzDecoder;

use crate::policy::gateway::Gateway;
use crate::replay::entry::Entry;
use crate::replay::format::{Format, Unread};
use crate::replay::order::Merged;
use crate::{regular_file, shown};

/// The longest line. Envoy takes 60 KiB of headers, and a log may have some of them twice, with escapes.
const LINE_BYTES_MAX: usize = 1024 * 1024;
const BUFFER_BYTES: usize = 256 * 1024;
/// The first bytes of a gzip file (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];

pub(super) struct Log {
    name: String,
    reader: Box<dyn BufRead + Send>,
}

/// What was read, and what could not be.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) lines: u64,
    /// Lines about connections on which no request came.
    pub(super) without_request: u64,
    pub(super) unread: BTreeMap<Unread, UnreadLines>,
    /// The logs that were not read to their ends: how far, and why.
    pub(super) broken: Vec<String>,
}

#[derive(Debug)]
pub(super) struct UnreadLines {
    pub(super) count: u64,
    /// The place of the first of them.
    pub(super) first: String,
}

pub(super) fn open(paths: &[PathBuf]) -> Result<Vec<Log>, String> {
    paths.iter().map(|path| open_one(path).map_err(|error| format!("{}: {error}", shown::path(path)))).collect()
}

fn open_one(path: &Path) -> io::Result<Log> {
    let (name, mut reader): (_, Box<dyn Read + Send>) = match path.as_os_str() == "-" {
        true => ("standard input".to_owned(), Box::new(io::stdin())),
        false => (shown::path(path), regular_file::open_input(path)?),
    };
    let mut head = Vec::new();
    reader.by_ref().take(GZIP.len() as u64).read_to_end(&mut head)?;
    let is_gzip = head == GZIP;
    let whole: Chain<_, _> = Cursor::new(head).chain(reader);
    let whole = BufReader::with_capacity(BUFFER_BYTES, whole);
    let reader: Box<dyn BufRead + Send> = match is_gzip {
        true => Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(whole))),
        false => Box::new(whole),
    };
    Ok(Log { name, reader })
}

/// Hands over all requests of the logs, so many at once.
pub(super) fn read(
    logs: Vec<Log>,
    format: &Format,
    gateway: &Gateway,
    batch: usize,
    sender: SyncSender<Vec<Entry>>,
) -> Reading {
    let reading = std::cell::RefCell::default();
    let entries = logs.into_iter().map(|log| Entries { log, line: 0, format, gateway, reading: &reading });
    let mut merged = Merged::new(entries, |entry: &Entry| entry.at);
    loop {
        let entries: Vec<Entry> = merged.by_ref().take(batch).collect();
        // Nobody listens any more where the other side has failed.
        if entries.is_empty() || sender.send(entries).is_err() {
            break;
        }
    }
    drop(merged);
    reading.into_inner()
}

/// The requests of one log.
struct Entries<'a> {
    log: Log,
    line: u64,
    format: &'a Format,
    gateway: &'a Gateway,
    reading: &'a std::cell::RefCell<Reading>,
}

impl Iterator for Entries<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let mut bytes = Vec::new();
        loop {
            let line = next_line(&mut *self.log.reader, &mut bytes);
            let mut reading = self.reading.borrow_mut();
            let is_whole = match line {
                Ok(None) => return None,
                Ok(Some(is_whole)) => is_whole,
                Err(error) => {
                    let told = format!("{} was read up to line {}: {}", self.log.name, self.line, why(&error));
                    reading.broken.push(told);
                    return None;
                }
            };
            self.line += 1;
            if bytes.iter().all(u8::is_ascii_whitespace) && is_whole {
                continue;
            }
            reading.lines += 1;
            match self.entry(&bytes, is_whole) {
                Ok(Some(entry)) => return Some(entry),
                Ok(None) => reading.without_request += 1,
                Err(why) => {
                    let first = || UnreadLines { count: 0, first: format!("{}:{}", self.log.name, self.line) };
                    reading.unread.entry(why).or_insert_with(first).count += 1;
                }
            }
        }
    }
}

impl Entries<'_> {
    fn entry(&self, line: &[u8], is_whole: bool) -> Result<Option<Entry>, Unread> {
        if !is_whole {
            return Err(Unread::TooLong);
        }
        // What is no UTF-8 is shown as replacement characters: bytes that differ there only are one value then.
        let line = String::from_utf8_lossy(line);
        // What some programs begin a file with is no part of its first line (RFC 3629, section 6).
        let line = line.strip_prefix('\u{feff}').filter(|_| self.line == 1).unwrap_or(&line);
        Entry::of(self.format.read(line.trim_end_matches(['\r', '\n']))?, self.gateway)
    }
}

/// Why a log ends before its end.
fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "its gzip stream has no end; is the file whole?".to_owned(),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => "what follows is no gzip stream".to_owned(),
        _ => error.to_string(),
    }
}

/// Reads a line. `None`: there is none any more. False: only its beginning was kept.
fn next_line(reader: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
    line.clear();
    let read = reader.take(LINE_BYTES_MAX as u64).read_until(b'\n', line)?;
    if read == 0 {
        return Ok(None);
    }
    let is_whole = line.ends_with(b"\n") || read < LINE_BYTES_MAX;
    let mut is_ended = is_whole;
    while !is_ended {
        let buffer = reader.fill_buf()?;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        is_ended = end.is_some() || buffer.is_empty();
        let used = end.map_or(buffer.len(), |end| end + 1);
        reader.consume(used);
    }
    Ok(Some(is_whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_any_length_takes_no_more_memory_than_the_longest() {
        let long = "x".repeat(LINE_BYTES_MAX);
        let text = format!("a\n{long}\n{long}yy\nb");
        let (mut reader, mut line, mut lengths) = (text.as_bytes(), Vec::new(), Vec::new());
        while let Some(is_whole) = next_line(&mut reader, &mut line).unwrap() {
            lengths.push((line.len(), is_whole));
        }
        assert_eq!(lengths, [(2, true), (LINE_BYTES_MAX, false), (LINE_BYTES_MAX, false), (1, true)]);
    }
}
