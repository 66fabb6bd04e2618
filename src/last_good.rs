//! The last good set on disk: what was served is served again when the source cannot be heard, and is the last good
//! version of what the source has broken meanwhile.
//!
//! A set is one file of JSON lines: a header, the documents, and a line with the hash of all before it. It is written
//! beside its place, synced, and renamed, so there is an old set or a new one and never a part of either. The newest
//! few are kept: a file that does not agree with its own hash is passed over for the one before.

mod keeping;
mod written;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Read as _, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::document::{Document, Documents, Instance, Origin, Registered};
use crate::names::{DocumentId, Kind, Name, Revision, Version};
use crate::{regular_file, shown};

use written::Stamp;

pub use keeping::{Keeping, LAG_MAX, Report};
pub use written::Written;

/// The number of sets that are kept.
const SETS_KEPT: usize = 3;
/// The form of the file. A program leaves files of later forms alone.
const FORMAT: u32 = 1;
/// More than the first line of a file has.
const HEADER_BYTES_MAX: u64 = 64 * 1024;
const ENDING: &str = ".set.jsonl";
/// The modes of what is made here: whoever may read policies reads them where they come from.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// A folder that sets are kept in.
#[derive(Clone, Debug)]
pub struct StateDir {
    folder: PathBuf,
    /// The source that the sets are a copy of; a set of another source is none of ours.
    source: String,
}

/// A set as it was found.
#[derive(Debug)]
pub struct Kept {
    pub documents: Documents,
    pub registered: Registered,
    pub file: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("{file}: {error}", file = shown::path(.0), error = .1)]
    Io(PathBuf, io::Error),
    #[error("{file}: is damaged: {reason}", file = shown::path(.0), reason = .1)]
    Damaged(PathBuf, String),
    #[error("{file}: has format {format}, of a later version of Tierflow", file = shown::path(.0), format = .1)]
    Later(PathBuf, u32),
    #[error("{file}: is of {source_of_it:?}, not of {expected:?}", file = shown::path(.0), source_of_it = .1, expected = .2)]
    OtherSource(PathBuf, String, String),
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[derive(Deserialize, Serialize)]
struct Header {
    format: u32,
    source: String,
    revision: u64,
    documents: usize,
}

/// The second line.
#[derive(Deserialize, Serialize)]
struct RegisteredLine {
    registered: BTreeMap<String, Vec<Instance>>,
}

#[derive(Deserialize, Serialize)]
struct Line {
    kind: String,
    name: Arc<str>,
    place: Place,
    revision: Option<u64>,
    text: String,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Place {
    File { path: Arc<str>, number: u32, line: u32 },
    Key(Arc<str>),
}

#[derive(Deserialize, Serialize)]
struct Trailer {
    xxh3_128: String,
}

impl StateDir {
    /// Makes the folder where there is none.
    pub fn open(folder: &Path, source: String) -> Result<Self, Unusable> {
        let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder);
        made.map_err(|error| Unusable::Io(folder.to_owned(), error))?;
        Ok(Self { folder: folder.to_owned(), source })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The newest set that is whole, and why newer ones are not used.
    pub fn load(&self) -> (Option<Kept>, Vec<Unusable>) {
        let mut unusable = Vec::new();
        let files = match self.files() {
            Ok(files) => files,
            Err(error) => return (None, vec![Unusable::Io(self.folder.clone(), error)]),
        };
        for (_, file) in files.into_iter().rev() {
            match self.read(&file) {
                Ok((documents, registered)) => return (Some(Kept { documents, registered, file }), unusable),
                Err(reason) => unusable.push(reason),
            }
        }
        (None, unusable)
    }

    /// Keeps a set. When this returns without an error, it outlives a power failure.
    pub fn save<'a>(
        &self,
        revision: Revision,
        registered: &Registered,
        documents: impl ExactSizeIterator<Item = (&'a DocumentId, &'a Arc<Document>)>,
    ) -> io::Result<Written> {
        let files = self.files()?;
        let number = files.last().map_or(0, |(number, _)| *number) + 1;
        let file = self.folder.join(format!("{number:020}{ENDING}"));
        let unfinished = self.folder.join(format!(".{number:020}{ENDING}.part"));
        let written = self
            .write(&unfinished, revision, registered, documents)
            .and_then(|stamp| fs::rename(&unfinished, &file).map(|()| stamp));
        let stamp = written.inspect_err(|_| drop(fs::remove_file(&unfinished)))?;
        // Also where that cannot be synced, or each try would leave one more.
        let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
        // What a later version wrote is not ours to remove.
        let is_ours = |file: &&PathBuf| !matches!(read_format(file), Ok(format) if format > FORMAT);
        let old = files.iter().rev().map(|(_, file)| file).filter(is_ours).skip(SETS_KEPT - 1);
        old.for_each(|file| drop(fs::remove_file(file)));
        synced.map(|()| Written::new(file, stamp))
    }

    fn write<'a>(
        &self,
        path: &Path,
        revision: Revision,
        registered: &Registered,
        documents: impl ExactSizeIterator<Item = (&'a DocumentId, &'a Arc<Document>)>,
    ) -> io::Result<Stamp> {
        let mut text = Vec::new();
        let header =
            Header { format: FORMAT, source: self.source.clone(), revision: revision.0, documents: documents.len() };
        push_line(&mut text, &header)?;
        let registered = registered.iter().map(|(service, instances)| (service.to_string(), instances.to_vec()));
        push_line(&mut text, &RegisteredLine { registered: registered.collect() })?;
        for (id, document) in documents {
            // What is served could be read, and was text.
            let content = document.content.as_deref().unwrap_or_default();
            let line = Line {
                kind: id.kind.as_str().to_owned(),
                name: Arc::clone(&id.name),
                place: Place::of(&document.origin),
                revision: document.revision.map(|revision| revision.0),
                text: String::from_utf8_lossy(content).into_owned(),
            };
            push_line(&mut text, &line)?;
        }
        let hash = Version::of(&text).to_string();
        push_line(&mut text, &Trailer { xxh3_128: hash })?;
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(path)?;
        let mut file = BufWriter::new(file);
        file.write_all(&text)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        Stamp::of(file.get_ref())
    }

    fn read(&self, file: &Path) -> Result<(Documents, Registered), Unusable> {
        let bytes = regular_file::read(file).map_err(|error| Unusable::Io(file.to_owned(), error))?;
        let damaged = |reason: &str| Unusable::Damaged(file.to_owned(), reason.to_owned());
        if let Ok(format) = format_of(&bytes)
            && format > FORMAT
        {
            return Err(Unusable::Later(file.to_owned(), format));
        }
        let body = bytes.strip_suffix(b"\n").ok_or_else(|| damaged("it ends in the middle of a line"))?;
        let end = body.iter().rposition(|&b| b == b'\n').ok_or_else(|| damaged("it has no documents"))? + 1;
        let (body, trailer) = body.split_at_checked(end).ok_or_else(|| damaged("it has no end"))?;
        let trailer: Trailer = serde_json::from_slice(trailer).map_err(|_| damaged("its last line is no hash"))?;
        if trailer.xxh3_128 != Version::of(body).to_string() {
            return Err(damaged("its hash is another one"));
        }
        let mut lines = body.split_inclusive(|&b| b == b'\n');
        let header = lines.next().unwrap_or_default();
        let header: Header = serde_json::from_slice(header).map_err(|error| damaged(&error.to_string()))?;
        if header.source != self.source {
            return Err(Unusable::OtherSource(file.to_owned(), header.source, self.source.clone()));
        }
        let registered: RegisteredLine =
            serde_json::from_slice(lines.next().unwrap_or_default()).map_err(|error| damaged(&error.to_string()))?;
        let registered = registered.registered.into_iter();
        let registered = registered.filter_map(|(service, instances)| Some((Name::parse(&service)?, instances.into())));
        let read = |line: &[u8]| serde_json::from_slice::<Line>(line).ok().and_then(Line::into_document);
        let documents: Option<Vec<Document>> = lines.map(read).collect();
        let documents = documents.filter(|documents| documents.len() == header.documents);
        let documents = documents.ok_or_else(|| damaged("it has other documents than it says"))?;
        Ok((Documents::new(Revision(header.revision), documents), registered.collect()))
    }

    /// The files of sets, oldest first.
    fn files(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let number = name.strip_suffix(ENDING).and_then(|number| number.parse::<u64>().ok());
            files.extend(number.map(|number| (number, entry.path())));
        }
        files.sort();
        Ok(files)
    }
}

fn push_line(text: &mut Vec<u8>, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *text, line)?;
    text.push(b'\n');
    Ok(())
}

/// From the beginning of a file.
fn read_format(file: &Path) -> Result<u32, String> {
    let mut header = Vec::new();
    let beginning = regular_file::open(file).and_then(|file| file.take(HEADER_BYTES_MAX).read_to_end(&mut header));
    beginning.map_err(|error| error.to_string()).and_then(|_| format_of(&header))
}

fn format_of(bytes: &[u8]) -> Result<u32, String> {
    let header = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
    serde_json::from_slice::<Format>(header).map(|header| header.format).map_err(|error| error.to_string())
}

impl Place {
    fn of(origin: &Origin) -> Self {
        match origin {
            Origin::File { path, number, line } => Self::File { path: Arc::clone(path), number: *number, line: *line },
            Origin::Key { key, .. } => Self::Key(Arc::clone(key)),
        }
    }
}

impl Line {
    fn into_document(self) -> Option<Document> {
        let kind = Kind::parse(&self.kind)?;
        let origin = match self.place {
            Place::File { path, number, line } => Origin::File { path, number, line },
            Place::Key(key) => Origin::Key { key, id: Some(DocumentId { kind, name: self.name }) },
        };
        Some(Document { origin, revision: self.revision.map(Revision), content: Ok(self.text.into_bytes().into()) })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn document(name: &str, revision: u64) -> (DocumentId, Arc<Document>) {
        let id = DocumentId::new(Kind::Tenant, name);
        let origin = Origin::Key { key: format!("/t/policies/Tenant/{name}").into(), id: Some(id.clone()) };
        let content = Ok(format!("kind: Tenant\nname: {name}\n# {revision}\n").into_bytes().into());
        (id, Arc::new(Document { origin, revision: Some(Revision(revision)), content }))
    }

    fn registered() -> Registered {
        let instance = Instance { address: "10.0.0.7:80".parse().unwrap(), weight: 2, zone: None };
        [(Name::parse("order").unwrap(), [instance].into())].into_iter().collect()
    }

    fn save(state: &StateDir, revision: u64) -> Written {
        let documents = [document("a", revision), document("b c/\"d", 1)];
        let documents = documents.iter().map(|(id, document)| (id, document));
        state.save(Revision(revision), &registered(), documents).unwrap()
    }

    /// The revision of what is loaded, after a look at its documents; and how many sets were passed over.
    fn loaded(state: &StateDir) -> (Option<u64>, usize) {
        let (kept, unusable) = state.load();
        let revision = kept.map(|kept| {
            let revision = kept.documents.revision.0;
            for (id, document) in [document("a", revision), document("b c/\"d", 1)] {
                assert_eq!(kept.documents.documents.get(&document.origin), Some(&document), "{id}");
            }
            assert_eq!((kept.documents.documents.len(), kept.registered), (2, registered()));
            revision
        });
        (revision, unusable.len())
    }

    fn files(state: &StateDir) -> Vec<PathBuf> {
        state.files().unwrap().into_iter().map(|(_, file)| file).collect()
    }

    fn state(folder: &tempfile::TempDir) -> StateDir {
        StateDir::open(&folder.path().join("state"), "etcd /t".to_owned()).unwrap()
    }

    #[test]
    fn the_newest_set_is_loaded_and_three_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(&folder);
        assert_eq!(loaded(&state), (None, 0));
        (1..=5).for_each(|revision| drop(save(&state, revision)));
        assert_eq!(loaded(&state), (Some(5), 0));
        assert_eq!(files(&state).len(), 3);
    }

    #[test]
    fn a_flipped_or_missing_byte_anywhere_is_noticed_and_the_set_before_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(&folder);
        save(&state, 1);
        save(&state, 2);
        let newest = files(&state).pop().unwrap();
        let whole = fs::read(&newest).unwrap();
        for place in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[place] ^= 1 << (place % 8);
            fs::write(&newest, &flipped).unwrap();
            assert_eq!(loaded(&state), (Some(1), 1), "flipped at {place}");
            fs::write(&newest, &whole[..place]).unwrap();
            assert_eq!(loaded(&state), (Some(1), 1), "cut at {place}");
        }
    }

    #[test]
    fn what_somebody_does_to_a_set_that_was_written_is_noticed() {
        type Damage = fn(&Path) -> io::Result<()>;
        let damages: [(&str, Damage); 6] = [
            ("removed", |file| fs::remove_file(file)),
            ("cut off", |file| OpenOptions::new().write(true).open(file)?.set_len(100)),
            ("longer", |file| OpenOptions::new().append(true).open(file)?.write_all(b"more")),
            ("of another time", |file| File::open(file)?.set_modified(std::time::SystemTime::UNIX_EPOCH)),
            ("a folder", |file| fs::remove_file(file).and_then(|()| fs::create_dir(file))),
            ("another file of this time and length", |file| {
                let (bytes, time) = (fs::read(file)?, fs::metadata(file)?.modified()?);
                let other = file.with_extension("other");
                fs::write(&other, vec![b'x'; bytes.len()])?;
                File::options().write(true).open(&other)?.set_modified(time)?;
                fs::rename(other, file)
            }),
        ];
        for (what, damage) in damages {
            let folder = tempfile::tempdir().unwrap();
            let written = save(&state(&folder), 1);
            assert!(written.is_unchanged(), "before it is {what}");
            damage(written.file()).unwrap();
            assert!(!written.is_unchanged(), "{what}");
        }
    }

    #[test]
    fn sets_are_for_nobody_but_their_owner() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(&folder);
        save(&state, 1);
        for path in [state.folder.clone(), files(&state).pop().unwrap()] {
            let mode = fs::metadata(&path).unwrap().mode() & 0o7777;
            assert_eq!(mode & 0o077, 0, "{path:?}: {mode:o}");
        }
    }

    #[test]
    fn what_was_left_half_written_is_not_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(&folder);
        save(&state, 1);
        fs::write(state.folder.join(format!(".{:020}{ENDING}.part", 2)), "half").unwrap();
        assert_eq!(loaded(&state), (Some(1), 0));
        save(&state, 2);
        assert_eq!(loaded(&state), (Some(2), 0));
    }

    #[test]
    fn what_a_later_version_wrote_is_neither_used_nor_removed() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(&folder);
        save(&state, 1);
        let later = state.folder.join(format!("{:020}{ENDING}", 2));
        fs::write(&later, "{\"format\":2,\"new\":true}\n").unwrap();
        assert_eq!(loaded(&state), (Some(1), 1));
        (3..=8).for_each(|revision| drop(save(&state, revision)));
        assert_eq!(loaded(&state), (Some(8), 0));
        assert!(later.exists());
    }

    #[test]
    fn a_set_of_another_source_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        save(&state(&folder), 1);
        let other = StateDir::open(&folder.path().join("state"), "files /etc/tierflow".to_owned()).unwrap();
        let (kept, unusable) = other.load();
        assert!(kept.is_none());
        assert!(unusable[0].to_string().ends_with("is of \"etcd /t\", not of \"files /etc/tierflow\""), "{unusable:?}");
    }
}
