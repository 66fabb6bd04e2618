//! Files that are opened again while Tierflow runs, whatever somebody puts in their place: a pipe would keep whoever opens it
//! waiting for ever, and a device might never end.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
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

/// What a verb is given to read: a file, or a pipe that somebody writes, as a shell makes one of `<(...)`.
pub fn open_input(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    let mut file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    let file_type = file.metadata()?.file_type();
    if file_type.is_dir() {
        return Err(io::Error::other("is a folder, expected a file"));
    }
    let mut first = Vec::new();
    if file_type.is_fifo() {
        let mut buffer = [0; 4096];
        match file.read(&mut buffer) {
            // Whoever opened it to wait for a writer might wait for ever (pipe(7)).
            Ok(0) => return Err(io::Error::other("is a pipe that nobody writes to")),
            Ok(read) => first.extend(buffer.iter().take(read)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    // From here on whoever reads waits for what is written.
    rustix::fs::fcntl_setfl(&file, rustix::fs::fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(Box::new(io::Cursor::new(first).chain(file)))
}

/// All of such a text.
pub fn read_input(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open_input(path)?.read_to_string(&mut text)?;
    Ok(text)
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

    #[test]
    fn of_a_pipe_a_verb_reads_what_somebody_writes_and_waits_for_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert_eq!(read_input(&path).unwrap_err().to_string(), "is a pipe that nobody writes to");
        assert_eq!(read_input(folder.path()).unwrap_err().to_string(), "is a folder, expected a file");
        // Longer than what a pipe has room for (pipe(7)), so that it is written while it is read.
        let text = "a line\n".repeat(100_000);
        let (written, expected) = (text.clone(), text.len());
        // Whoever opens a pipe to read and to write waits for nobody.
        let mut writer = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let writing = std::thread::spawn({
            let path = path.clone();
            move || {
                std::io::Write::write_all(&mut writer, written.as_bytes()).unwrap();
                drop((writer, path));
            }
        });
        assert_eq!(read_input(&path).unwrap().len(), expected);
        writing.join().unwrap();
        std::fs::write(folder.path().join("file"), "text").unwrap();
        assert_eq!(read_input(&folder.path().join("file")).unwrap(), "text");
    }
}
