//! Files that are moved away once they are large, and a new one is begun: FILE to FILE.1, that to FILE.2, and so on.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::num::{NonZeroU32, NonZeroU64};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::regular_file;

/// The mode of a new file, less what the umask takes away. Who was denied and who changed what is nobody's business; whoever
/// collects logs is of the group.
const MODE: u32 = 0o640;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The size from which on a file is moved away. `None`: this is somebody else's business.
    pub bytes_max: Option<NonZeroU64>,
    /// The files that were moved away and are kept.
    pub files_max: NonZeroU32,
}

impl Rotation {
    pub fn is_full(&self, file: &File) -> io::Result<bool> {
        let Some(max) = self.bytes_max else { return Ok(false) };
        Ok(file.metadata()?.len() >= max.get())
    }

    /// Moves the file away, and the oldest one out of existence where all places are taken. Others move no further than to the
    /// first free place: where the file itself cannot be moved, each attempt would take one more of them away.
    pub fn move_away(&self, path: &Path) -> io::Result<()> {
        let last = self.files_max.get();
        let free = (1..last).find(|number| !older(path, *number).exists()).unwrap_or(last);
        for number in (1..free).rev() {
            std::fs::rename(older(path, number), older(path, number + 1))?;
        }
        std::fs::rename(path, older(path, 1))
    }
}

/// Opens a file to append to. One that is there keeps its mode, and one that is made in the place of another gets that one's:
/// it is what somebody chose.
pub fn append(path: &Path, before: Option<&File>) -> io::Result<File> {
    let is_new = !path.exists();
    let file = regular_file::open_with(OpenOptions::new().create(true).append(true).mode(MODE), path)?;
    if let Some(before) = before.filter(|_| is_new) {
        file.set_permissions(before.metadata()?.permissions())?;
    }
    Ok(file)
}

/// The name of a file that was moved away: the larger the number, the older it is.
pub fn older(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// True where two logs are one file, or one of them is, or may become, a file that the other one moves away or over.
pub fn meet(one: &Path, other: &Path) -> bool {
    let (one, other) = (resolved(one), resolved(other));
    let is_older = |file: &Path, log: &Path| {
        let (file, log) = (file.as_os_str().as_encoded_bytes(), log.as_os_str().as_encoded_bytes());
        let number = file.strip_prefix(log).and_then(|rest| rest.strip_prefix(b"."));
        number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
    };
    one == other || is_older(&one, &other) || is_older(&other, &one) || are_one_file(&one, &other)
}

/// True for two names of a file, as hard links are.
fn are_one_file(one: &Path, other: &Path) -> bool {
    let (Ok(one), Ok(other)) = (std::fs::metadata(one), std::fs::metadata(other)) else { return false };
    one.is_file() && (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// The path without links and detours, as far as its folders and its file are there.
pub fn resolved(path: &Path) -> PathBuf {
    let Ok(path) = std::path::absolute(path) else { return path.to_owned() };
    let there = |part: &Path| {
        let (there, rest) = (part.canonicalize().ok()?, path.strip_prefix(part).ok()?);
        // To join nothing would add a slash.
        Some(if rest.as_os_str().is_empty() { there } else { there.join(rest) })
    };
    path.ancestors().find_map(there).unwrap_or_else(|| path.clone())
}

/// True where somebody moved the file away, as logrotate does: another one stands in its place, or none.
pub fn is_moved(path: &Path, file: &File) -> io::Result<bool> {
    let is_it = |metadata: &Metadata, own: &Metadata| (metadata.dev(), metadata.ino()) == (own.dev(), own.ino());
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(!is_it(&metadata, &file.metadata()?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_meet_where_one_would_take_the_others_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("there"), "").unwrap();
        std::os::unix::fs::symlink(path("there"), path("link")).unwrap();
        std::fs::hard_link(path("there"), path("twin")).unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        let meeting = [
            ("a", "a"),
            ("a", "folder/../a"),
            ("a", "a.1"),
            ("a.12", "a"),
            ("link", "there"),
            ("link", "there.3"),
            ("twin", "there"),
            ("twin", "link"),
        ];
        for (one, other) in meeting {
            assert!(meet(&path(one), &path(other)), "{one} {other}");
            assert!(meet(&path(other), &path(one)), "{other} {one}");
        }
        for (one, other) in [("a", "b"), ("a", "a.b"), ("a", "a."), ("a", "a1"), ("a.1", "a.2"), ("a", "folder/a.1")] {
            assert!(!meet(&path(one), &path(other)), "{one} {other}");
        }
        assert!(meet(Path::new("a"), Path::new("./a.1")), "in this folder");
    }

    #[test]
    fn a_new_file_is_for_its_owner_and_group_and_a_mode_that_somebody_chose_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mode = |file: &File| file.metadata().unwrap().mode() & 0o7777;
        let first = append(&path, None).unwrap();
        assert_eq!(mode(&first) & !MODE, 0, "{:o}", mode(&first));
        // Whatever the umask is, that is not what it comes to.
        let chosen = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        first.set_permissions(chosen).unwrap();
        assert_eq!(mode(&append(&path, None).unwrap()), 0o666, "after a restart");
        std::fs::rename(&path, older(&path, 1)).unwrap();
        assert_eq!(mode(&append(&path, Some(&first)).unwrap()), 0o666, "in its place");
        std::fs::write(older(&path, 2), "").unwrap();
        let by_others = File::open(older(&path, 2)).unwrap();
        let own = mode(&by_others);
        assert_eq!(mode(&append(&older(&path, 2), Some(&first)).unwrap()), own, "made by somebody else");
    }

    #[test]
    fn so_many_files_are_kept_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let rotation = Rotation { bytes_max: NonZeroU64::new(2), files_max: NonZeroU32::new(2).unwrap() };
        for text in ["a", "bb", "cc", "dd"] {
            std::fs::write(&path, text).unwrap();
            let file = File::open(&path).unwrap();
            if rotation.is_full(&file).unwrap() {
                rotation.move_away(&path).unwrap();
            }
            assert_eq!(is_moved(&path, &file).unwrap(), text.len() == 2);
        }
        let read = |number| std::fs::read_to_string(older(&path, number)).ok();
        assert_eq!([read(1), read(2), read(3)].map(Option::unwrap_or_default), ["dd", "cc", ""]);
        let many = Rotation { files_max: NonZeroU32::new(9).unwrap(), ..rotation };
        // It cannot be moved: it is not there.
        std::fs::remove_file(&path).unwrap_or_default();
        for _ in 0..20 {
            many.move_away(&path).unwrap_err();
        }
        assert_eq!([read(1), read(2), read(3)].map(Option::unwrap_or_default), ["", "dd", "cc"], "no others go for it");
        std::fs::write(&path, "ee").unwrap();
        many.move_away(&path).unwrap();
        assert_eq!([read(1), read(2), read(3)].map(Option::unwrap_or_default), ["ee", "dd", "cc"]);
        let never = Rotation { bytes_max: None, ..rotation };
        assert!(!never.is_full(&File::open(older(&path, 1)).unwrap()).unwrap());
    }
}
