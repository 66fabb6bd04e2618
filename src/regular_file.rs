//! Files that are opened again while Tierflow runs, whatever somebody puts in their place: a pipe would keep whoever opens it
//! waiting for ever, and a device might never end.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// Opens a file, or what a link leads to, if it is a regular one.
pub fn open(path: &Path) -> io::Result<File> {
    open_with(OpenOptions::new().read(true), path)
}

/// The same to do something else with it than to read it.
pub fn open_with(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // To open a device may be to do something with it, so it is looked at before; and after, because it may be another one then.
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Err(irregular()),
        Ok(_) => {}
        // It may be about to be made.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // A pipe is opened without waiting for its other end (open(2)); of a regular file it changes nothing.
    let file = options.custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(irregular()) }
}

/// All of it.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn irregular() -> io::Error {
    io::Error::other("is not a regular file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_in_the_place_of_a_file_is_told_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert_eq!(read(&path).unwrap_err().to_string(), "is not a regular file");
        let appended = open_with(OpenOptions::new().create(true).append(true), &path);
        assert_eq!(appended.unwrap_err().to_string(), "is not a regular file");
        assert!(read(folder.path()).is_err());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(folder.path().join("other"), "text").unwrap();
        std::os::unix::fs::symlink("other", &path).unwrap();
        assert_eq!(read(&path).unwrap(), b"text");
    }
}
