//! Files that are read again while Tierflow runs, whatever somebody puts in their place: a pipe would keep whoever opens it
//! waiting for ever, and a device might never end.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Opens a file, or what a link leads to, if it is a regular one.
pub fn open(path: &Path) -> io::Result<File> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("is not a regular file"));
    }
    File::open(path)
}

/// All of it.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
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
        assert!(read(folder.path()).is_err());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(folder.path().join("other"), "text").unwrap();
        std::os::unix::fs::symlink("other", &path).unwrap();
        assert_eq!(read(&path).unwrap(), b"text");
    }
}
