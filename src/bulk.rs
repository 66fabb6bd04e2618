//! Changes of more documents than etcd takes in one transaction.
//!
//! The changes are put into blobs first, which nobody looks at and which go with a lease. One key then, the manifest,
//! makes all of them count at once, and for good: the transaction that puts it takes the blobs off the lease. After that
//! they are put into the keys of their documents, a few at a time, which changes nothing any more; and at the end the
//! manifest goes, and the blobs with it. Whoever reads meanwhile takes the changes of the manifest for those of the keys
//! that are older than it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::names::{DocumentId, Kind, Version};

/// The key of the manifest, below the prefix.
pub const MANIFEST: &str = "manifest";
/// The first part of a blob's key, below the prefix.
pub const BLOBS: &str = "blobs/";
/// The largest blob: what etcd takes in a request (1.5 MiB), less what stands around it.
const BLOB_BYTES_MAX: usize = 1024 * 1024;

/// One document of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub id: DocumentId,
    /// `None`: delete.
    pub content: Option<Arc<[u8]>>,
}

/// The value of the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Keys of the blobs, below the prefix, in order.
    pub blobs: Vec<String>,
    /// The hash of all of them.
    pub xxh3_128: String,
}

impl Manifest {
    pub fn parse(value: &[u8]) -> Result<Self, Unreadable> {
        serde_json::from_slice(value).map_err(|error| Unreadable(format!("the manifest is none: {error}")))
    }
}

/// A manifest that makes no sense, or names blobs that are not what they were.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

#[derive(Serialize, Deserialize)]
struct Line {
    kind: String,
    name: Arc<str>,
    text: Option<String>,
}

/// The blobs of some changes, by their keys, and the manifest that names them. `id` tells them from others.
pub fn pack(changes: &[Change], id: &str) -> (Vec<(String, Vec<u8>)>, Manifest) {
    let mut blobs: Vec<(String, Vec<u8>)> = Vec::new();
    for change in changes {
        let text = change.content.as_deref().map(|content| String::from_utf8_lossy(content).into_owned());
        let line = Line { kind: change.id.kind.to_string(), name: Arc::clone(&change.id.name), text };
        let mut line = serde_json::to_vec(&line).unwrap_or_default();
        line.push(b'\n');
        match blobs.last_mut() {
            Some((_, blob)) if blob.len() + line.len() <= BLOB_BYTES_MAX => blob.extend(line),
            _ => blobs.push((format!("{BLOBS}{id}/{:04}", blobs.len()), line)),
        }
    }
    let keys = blobs.iter().map(|(key, _)| key.clone()).collect();
    let hash = hash(blobs.iter().map(|(_, blob)| blob.as_slice()));
    (blobs, Manifest { blobs: keys, xxh3_128: hash })
}

/// The changes of a manifest, all of them or none.
pub fn unpack<'a>(manifest: &Manifest, blob: impl Fn(&str) -> Option<&'a [u8]>) -> Result<Vec<Change>, Unreadable> {
    let found = |key: &String| blob(key).ok_or_else(|| Unreadable(format!("{key} is not there")));
    let blobs: Vec<&[u8]> = manifest.blobs.iter().map(found).collect::<Result<_, _>>()?;
    if hash(blobs.iter().copied()) != manifest.xxh3_128 {
        return Err(Unreadable("its blobs are other ones than they were".to_owned()));
    }
    let lines = blobs.iter().flat_map(|blob| blob.split(|&b| b == b'\n')).filter(|line| !line.is_empty());
    let change = |line: &[u8]| {
        let line: Line = serde_json::from_slice(line).ok()?;
        let id = DocumentId { kind: Kind::parse(&line.kind)?, name: line.name };
        Some(Change { id, content: line.text.map(|text| text.into_bytes().into()) })
    };
    let changes: Option<Vec<Change>> = lines.map(change).collect();
    changes.ok_or_else(|| Unreadable("its blobs hold something else than documents".to_owned()))
}

fn hash<'a>(blobs: impl Iterator<Item = &'a [u8]>) -> String {
    Version::of(&blobs.collect::<Vec<_>>().concat()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked_and_nothing_less() {
        let change = |n: usize| Change {
            id: DocumentId::new(Kind::Tenant, &format!("t {n}/\"")),
            content: (!n.is_multiple_of(3)).then(|| format!("# {n}\n{}", "x".repeat(1000)).into_bytes().into()),
        };
        let changes: Vec<Change> = (0..3000).map(change).collect();
        let (blobs, manifest) = pack(&changes, "7");
        assert!(blobs.len() > 1 && blobs.iter().all(|(_, blob)| blob.len() <= BLOB_BYTES_MAX));
        let find = |blobs: &[(String, Vec<u8>)]| {
            unpack(&manifest, |key| blobs.iter().find(|(own, _)| own == key).map(|(_, blob)| blob.as_slice()))
        };
        assert_eq!(find(&blobs), Ok(changes));
        let why = |blobs: &[(String, Vec<u8>)]| find(blobs).unwrap_err().to_string();
        assert_eq!(why(&blobs[1..]), "blobs/7/0000 is not there");
        let mut other = blobs.clone();
        other[0].1[10] ^= 1;
        assert_eq!(why(&other), "its blobs are other ones than they were");
    }
}
