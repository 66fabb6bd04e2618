//! Policies from a folder: every `.yaml`, `.yml` and `.json` file below it, in the order of their names.
//!
//! A file or folder that cannot be read, or is behind a link that leads out of the root, is a document that is refused: it
//! is shown, and what it held does not count as deleted.

mod watch;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::document::{self, DOCUMENTS_MAX, Document, Origin};
use crate::{regular_file, shown};

pub use watch::Watcher;

/// The largest file, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The deepest folder below the root.
const DEPTH_MAX: usize = 32;
/// The endings of files that are read...
const ENDINGS: [&str; 3] = [".yaml", ".yml", ".json"];
/// ...and the most warnings about others that look as if they were.
const WARNINGS_MAX: usize = 20;

const LEADS_OUT: &str = "is a link that leads out of the policy folder";

/// The contents of a folder.
#[derive(Debug, Default)]
pub struct Reading {
    pub documents: Vec<Document>,
    /// The files that they stand in.
    pub files: Vec<PathBuf>,
    /// The files that a person would expect to be read and that are not, each with its path.
    pub warnings: Vec<String>,
}

/// The documents of a folder, or of a single file. An error says that the path as a whole cannot be read.
pub fn read(root: &Path) -> io::Result<Reading> {
    let is_folder = fs::metadata(root).map_err(|error| name_path(root, &error))?.is_dir();
    let real_root = fs::canonicalize(root)?;
    let visited = BTreeSet::from([real_root.clone()]);
    let mut reader = Reader { real_root, visited, reading: Reading::default(), unread: 0 };
    if is_folder {
        reader.read_folder(root, 0)?;
    } else {
        reader.read_file(root);
    }
    Ok(reader.into_reading())
}

struct Reader {
    /// The folder that symbolic links have to stay in.
    real_root: PathBuf,
    /// Real folders. Each is read once, whatever links lead to it.
    visited: BTreeSet<PathBuf>,
    reading: Reading,
    /// The number of warnings that there would be.
    unread: usize,
}

impl Reader {
    fn read_folder(&mut self, folder: &Path, depth: usize) -> io::Result<()> {
        let entries = fs::read_dir(folder).map_err(|error| name_path(folder, &error))?;
        let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // Editors keep their copies behind a dot, and Kubernetes the versions of a mounted ConfigMap.
            if name.starts_with('.') {
                continue;
            }
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => self.read_folder_within(&path, depth)?,
                _ if has_policy_ending(&path) => self.read_file(&path),
                _ if looks_like_a_policy(&name) => {
                    self.warn(&path);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_folder_within(&mut self, folder: &Path, depth: usize) -> io::Result<()> {
        let Ok(real) = fs::canonicalize(folder) else { return Ok(()) };
        if !real.starts_with(&self.real_root) {
            self.refuse(folder, LEADS_OUT.to_owned());
        } else if depth >= DEPTH_MAX {
            self.refuse(folder, format!("lies more than {DEPTH_MAX} folders deep"));
        } else if self.visited.insert(real) {
            let before = self.found();
            self.read_folder(folder, depth + 1)?;
            // In the place of a file that was served, it would delete it silently.
            if has_policy_ending(folder) && self.found() == before {
                self.refuse(folder, "is a folder without policies, expected a file".to_owned());
            }
        }
        Ok(())
    }

    /// Grows with each file that is read, and each file or folder that is refused.
    fn found(&self) -> usize {
        self.reading.files.len() + self.reading.documents.len()
    }

    fn warn(&mut self, path: &Path) {
        self.unread += 1;
        if self.reading.warnings.len() < WARNINGS_MAX {
            let expected = "expected a name that ends with .yaml, .yml or .json, in lower case";
            self.reading.warnings.push(format!("{} is not read: {expected}", shown::path(path)));
        }
    }

    /// Refuses a file or a folder as a whole: what it held before is not taken for deleted.
    fn refuse(&mut self, path: &Path, reason: String) {
        let origin = Origin::File { path: shown::path(path).into(), line: 1, number: 1 };
        self.reading.documents.push(Document { origin, revision: None, content: Err(reason.into()) });
    }

    fn into_reading(mut self) -> Reading {
        let more = self.unread.saturating_sub(self.reading.warnings.len());
        self.reading.warnings.extend((more > 0).then(|| format!("{more} more files are not read")));
        self.reading
    }

    fn read_file(&mut self, path: &Path) {
        match self.read_bytes(path) {
            Ok(bytes) => {
                let room = DOCUMENTS_MAX.saturating_sub(self.reading.documents.len());
                let documents = document::split(&shown::path(path).into(), &bytes);
                self.reading.documents.extend(documents.into_iter().take(room));
                self.reading.files.push(path.to_owned());
            }
            Err(reason) => self.refuse(path, reason),
        }
    }

    fn read_bytes(&self, path: &Path) -> Result<Vec<u8>, String> {
        let metadata = fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
        // Anything but a regular file could block for ever, or never end.
        if !metadata.is_file() {
            return Err("is not a regular file".to_owned());
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(format!("is {} bytes long, expected at most {FILE_BYTES_MAX}", metadata.len()));
        }
        if !self.is_inside(path) {
            return Err(LEADS_OUT.to_owned());
        }
        regular_file::read(path).map_err(|error| format!("cannot be read: {error}"))
    }

    fn is_inside(&self, path: &Path) -> bool {
        fs::canonicalize(path).is_ok_and(|real| real.starts_with(&self.real_root))
    }
}

/// True for files that are read, unless a dot hides them.
pub fn has_policy_ending(path: &Path) -> bool {
    let name = path.as_os_str().as_encoded_bytes();
    ENDINGS.iter().any(|ending| name.ends_with(ending.as_bytes()))
}

/// True where only the case of its ending keeps the file from being read. Copies that editors and people put aside
/// (`a.yaml~`, `a.yaml.bak`) are meant to be left alone.
fn looks_like_a_policy(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

fn name_path(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", shown::path(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(root: &Path) -> Vec<String> {
        let documents = read(root).unwrap().documents;
        let shown = |document: &Document| {
            let path = document.origin.to_string().replace(root.to_str().unwrap(), "");
            match &document.content {
                Ok(bytes) => format!("{path} {}", String::from_utf8_lossy(bytes).trim()),
                Err(reason) => format!("{path} {reason}"),
            }
        };
        documents.iter().map(shown).collect()
    }

    #[test]
    fn a_folder_is_read_recursively_in_the_order_of_names() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("b")).unwrap();
        for (name, text) in
            [("c.yaml", "c: 1\n---\nd: 1"), ("b/x.yml", "x: 1"), ("a.json", "{}"), ("z.txt", "z"), (".a.yaml", "h")]
        {
            fs::write(root.join(name), text).unwrap();
        }
        assert_eq!(shown(root), ["/a.json:1 {}", "/b/x.yml:1 x: 1", "/c.yaml:1 c: 1", "/c.yaml:3 d: 1"]);
    }

    #[test]
    fn links_are_followed_inside_the_folder_only() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret.yaml"), "s: 1").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        // A ConfigMap as Kubernetes mounts it.
        fs::create_dir(root.join("..2026")).unwrap();
        fs::write(root.join("..2026/api.yaml"), "a: 1").unwrap();
        std::os::unix::fs::symlink("..2026", root.join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/api.yaml", root.join("api.yaml")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret.yaml"), root.join("out.yaml")).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.join("outside")).unwrap();
        std::os::unix::fs::symlink("nowhere", root.join("dangling.yaml")).unwrap();
        std::os::unix::fs::symlink(".", root.join("loop")).unwrap();
        let documents = shown(root);
        assert_eq!(documents[0], "/api.yaml:1 a: 1");
        assert!(documents[1].starts_with("/dangling.yaml:1 cannot be read: No such file"), "{documents:?}");
        for link in ["out.yaml", "outside"] {
            assert!(documents.contains(&format!("/{link}:1 is a link that leads out of the policy folder")), "{link}");
        }
    }

    #[test]
    fn what_looks_like_a_policy_and_is_not_read_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for name in ["a.YAML", "b.Json", "c.yaml~", "d.yaml.bak", ".e.YML", "README", "f.yaml"] {
            fs::write(root.join(name), "x: 1").unwrap();
        }
        let reading = read(root).unwrap();
        assert_eq!(reading.documents.len(), 1);
        let told = |name: &str, reason: &str| format!("{} is not read: {reason}", shown::path(&root.join(name)));
        let ending = "expected a name that ends with .yaml, .yml or .json, in lower case";
        assert_eq!(reading.warnings, [told("a.YAML", ending), told("b.Json", ending)]);

        (0..50).for_each(|number| fs::write(root.join(format!("{number}.YML")), "x: 1").unwrap());
        let warnings = read(root).unwrap().warnings;
        assert_eq!((warnings.len(), warnings[20].as_str()), (21, "32 more files are not read"));
    }

    #[test]
    fn a_folder_is_read_once_whatever_links_lead_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("b")).unwrap();
        fs::write(root.join("b/x.yaml"), "x: 1").unwrap();
        for (target, link) in [(".", "loop"), ("..", "b/up"), ("b", "c")] {
            std::os::unix::fs::symlink(target, root.join(link)).unwrap();
        }
        assert_eq!(shown(root), ["/b/x.yaml:1 x: 1"]);
    }

    #[test]
    fn a_folder_in_the_place_of_a_file_is_refused_unless_policies_lie_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for name in ["acme.yaml", "many.yaml", "comments.yml", "other"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        fs::write(root.join("acme.yaml/README"), "x").unwrap();
        fs::write(root.join("many.yaml/a.yaml"), "a: 1").unwrap();
        fs::write(root.join("comments.yml/a.yaml"), "# nothing\n").unwrap();
        let refused = "/acme.yaml:1 is a folder without policies, expected a file";
        assert_eq!(shown(root), [refused, "/many.yaml/a.yaml:1 a: 1"]);
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_never_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let status = std::process::Command::new("mkfifo").arg(folder.path().join("pipe.yaml")).status().unwrap();
        assert!(status.success());
        assert_eq!(shown(folder.path()), ["/pipe.yaml:1 is not a regular file"]);
    }
}
