//! The chain of the audit log: each line says the SHA-256 of what stands before it, as `previous`.
//!
//! What stands before a line is the line before it, its line break included, so that `tail -n 1 FILE | sha256sum` says what the
//! next one will say. Lines that say no hash, as those of older versions and one that a crash cut off, belong to what stands
//! before the next one that does: that is everything since the last line with a hash, or from the beginning. So whoever changes,
//! takes out, puts in or moves a line changes what the next one should say.

use std::io::{self, BufRead, Read as _};

use ring::digest::{Context, SHA256};
use serde::Deserialize;

/// The longest line that is read, in bytes. A change of 20 000 documents is a line of some 3 MB.
const LINE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What stands before the next line.
#[derive(Clone)]
pub(super) struct Chain {
    context: Context,
    is_empty: bool,
}

/// What a line says of what stands before it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The hash.
    Previous(String),
    /// Nothing: it is of an older version, or of somebody else.
    Nothing,
    /// It is no JSON, as a line of which only the beginning was written.
    Unreadable,
}

#[derive(Deserialize)]
struct Linked {
    previous: Option<String>,
}

impl Default for Chain {
    fn default() -> Self {
        Self { context: Context::new(&SHA256), is_empty: true }
    }
}

impl Chain {
    /// The chain after this line, which says a hash.
    pub(super) fn after(line: &[u8]) -> Self {
        let mut chain = Self::default();
        chain.take(line);
        chain
    }

    /// Takes a line that belongs to what stands before the next one. One that does not end will have been ended then.
    pub(super) fn take(&mut self, line: &[u8]) {
        self.context.update(line);
        if !line.ends_with(b"\n") {
            self.context.update(b"\n");
        }
        self.is_empty = false;
    }

    /// Takes whatever line it is, and tells what it says.
    pub(super) fn follow(&mut self, line: &[u8]) -> Said {
        let said = Said::of(line);
        match said {
            Said::Previous(_) => *self = Self::after(line),
            Said::Nothing | Said::Unreadable => self.take(line),
        }
        said
    }

    /// What the next line has to say. That of nothing is the SHA-256 of no bytes.
    pub(super) fn hash(&self) -> String {
        self.context.clone().finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// True where nothing stands before.
    pub(super) fn is_empty(&self) -> bool {
        self.is_empty
    }
}

impl Said {
    pub(super) fn of(line: &[u8]) -> Self {
        match serde_json::from_slice(line) {
            Ok(Linked { previous: Some(previous) }) => Self::Previous(previous),
            Ok(Linked { previous: None }) => Self::Nothing,
            Err(_) => Self::Unreadable,
        }
    }
}

/// Reads the next line, with its line break where it has one. False: there is none.
pub(super) fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let read = reader.take(LINE_BYTES_MAX).read_until(b'\n', line)?;
    if read as u64 == LINE_BYTES_MAX && !line.ends_with(b"\n") {
        let too_long = format!("a line has more than {LINE_BYTES_MAX} bytes, so that it is no audit log");
        return Err(io::Error::new(io::ErrorKind::InvalidData, too_long));
    }
    Ok(read > 0)
}
