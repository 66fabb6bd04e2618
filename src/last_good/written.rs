//! A set as it was written, to see later whether it still is: somebody may remove its file, cut it off, or write over it.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub struct Written {
    file: PathBuf,
    stamp: Stamp,
}

/// What changes with a file, and is cheap to look at. A disk that changes bytes by itself is found by the hash alone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    bytes: u64,
    /// Seconds, and nanoseconds.
    modified: (i64, i64),
}

impl Written {
    pub(super) fn new(file: PathBuf, stamp: Stamp) -> Self {
        Self { file, stamp }
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    /// True while its file is the one that was written, and nobody wrote to it since.
    pub fn is_unchanged(&self) -> bool {
        fs::metadata(&self.file).is_ok_and(|metadata| Stamp::new(&metadata) == self.stamp)
    }
}

impl Stamp {
    /// Of a file that is whole.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        file.metadata().map(|metadata| Self::new(&metadata))
    }

    fn new(metadata: &Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Self { inode: metadata.ino(), bytes: metadata.len(), modified }
    }
}
