//! Documents as a source hands them over: bytes, and where they came from. What they mean is `policy`'s to say.
//!
//! A file holds any number of documents. They are cut apart before they are parsed, so that a broken one
//! takes none of its neighbours along. YAML makes that safe: a line that begins with `---` or `...` ends a document
//! even inside a quoted or block scalar (YAML 1.2.2, rule 206 `c-forbidden`).

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::names::{DocumentId, Kind, Name, Revision};
use crate::shared_map::SharedMap;
use crate::shown;

/// The largest document, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;
/// The most documents of a set.
pub const DOCUMENTS_MAX: usize = 1_000_000;

/// Everything that a source holds at one revision. What changed is found by comparing it with what it held before.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    pub revision: Revision,
    pub documents: SharedMap<Origin, Arc<Document>>,
    /// Instances that registered themselves; `None` where the source has no place for that.
    pub instances: Option<Instances>,
    /// The addresses of the rate limit services of all replicas, as `host:port`; none where the source knows no replicas.
    pub limiters: Arc<[Arc<str>]>,
}

/// Instances by the name that they registered under.
pub type Instances = SharedMap<Arc<str>, Arc<[Instance]>>;

/// The instances of each service whose instances register themselves.
pub type Registered = SharedMap<Name, Arc<[Instance]>>;

/// One instance of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// Its share of the traffic, against the others'.
    pub weight: u32,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub zone: Option<String>,
}

impl Documents {
    pub fn new(revision: Revision, documents: impl IntoIterator<Item = Document>) -> Self {
        let by_origin = documents.into_iter().map(|document| (document.origin.clone(), Arc::new(document)));
        Self { revision, documents: by_origin.collect(), ..Self::default() }
    }
}

/// One document as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    pub origin: Origin,
    /// The revision of the last change, where the source keeps that.
    pub revision: Option<Revision>,
    /// The document's bytes, or why they could not be read.
    pub content: Result<Arc<[u8]>, Arc<str>>,
}

/// The origin of a document.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    File {
        /// As it is shown: other files are shown differently.
        path: Arc<str>,
        /// The document's number in its file, counted from 1.
        number: u32,
        /// The document's first line in the file, counted from 1.
        line: u32,
    },
    /// A key of etcd, which holds one document.
    Key {
        key: Arc<str>,
        /// The name of the document by its key. `None` where the key is none of a document.
        id: Option<DocumentId>,
    },
}

impl Origin {
    /// The file or key that the document is in, without the place in it: documents of one container come and go
    /// together.
    pub fn container(&self) -> &Arc<str> {
        match self {
            Self::File { path, .. } => path,
            Self::Key { key, .. } => key,
        }
    }

    /// The container, and the folders that it is in: a folder that cannot be read is all that was in it.
    pub fn containers(&self) -> impl Iterator<Item = &str> {
        let container = self.container();
        let is_file = matches!(self, Self::File { .. });
        let folders = container.rmatch_indices('/').filter_map(|(end, _)| container.get(..end));
        std::iter::once(&**container).chain(folders.filter(move |_| is_file))
    }

    /// The container, as people are told it.
    pub fn shown_container(&self) -> Cow<'_, str> {
        match self {
            Self::File { path, .. } => Cow::Borrowed(path),
            Self::Key { key, .. } => match shown::text(key) {
                Cow::Borrowed(key) => shown::bounded(key),
                Cow::Owned(key) => Cow::Owned(shown::bounded(&key).into_owned()),
            },
        }
    }

    /// The name of the document that has to be there, where the place says so.
    pub fn id(&self) -> Option<&DocumentId> {
        match self {
            Self::File { .. } => None,
            Self::Key { id, .. } => id.as_ref(),
        }
    }

    /// A name for a document that has none of its own.
    pub fn made_name(&self) -> String {
        match self {
            Self::File { path, number, .. } => format!("{path}#{number}"),
            Self::Key { key, id } => id.as_ref().map_or(key, |id| &id.name).to_string(),
        }
    }

    /// The document's first line, counted from 1.
    pub fn first_line(&self) -> u32 {
        match self {
            Self::File { line, .. } => *line,
            Self::Key { .. } => 1,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { line, .. } => write!(f, "{}:{line}", self.shown_container()),
            Self::Key { .. } => f.write_str(&self.shown_container()),
        }
    }
}

/// The most keys that a document can require.
pub const REQUIREMENTS_MAX: usize = 8;

/// A key of etcd that a document was made with: as long as it is another one, the document does not count.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// The key below the prefix, as in `policies/Service/order` or `servers/deployer`.
    pub key: String,
    /// The revision that it was changed at last: the version that the document was made for.
    pub revision: Option<u64>,
    /// The revision that it was created at: this life of a key that stands under a lease.
    pub create_revision: Option<u64>,
}

/// The requirements of a document, read without looking at what it means. Nothing, where that cannot be read.
pub fn requirements(bytes: &[u8]) -> Vec<Requirement> {
    #[derive(Deserialize)]
    struct Requires {
        #[serde(default)]
        requires: Vec<Requirement>,
    }
    let may_have_some = bytes.len() <= DOCUMENT_BYTES_MAX && bytes.windows(8).any(|window| window == b"requires");
    let text = std::str::from_utf8(bytes).ok().filter(|_| may_have_some);
    text.and_then(|text| serde_yaml::from_str::<Requires>(text).ok()).map(|read| read.requires).unwrap_or_default()
}

/// Cuts a file into its documents. Documents without content (blank lines, comments and `%YAML` lines only) are left
/// out.
pub fn split(path: &Arc<str>, bytes: &[u8]) -> Vec<Document> {
    let mut documents: Vec<Document> = Vec::new();
    let mut chunk = Chunk { line: 1, bytes: Vec::new() };
    for (line, text) in (1u32..).zip(bytes.split_inclusive(|&b| b == b'\n')) {
        let Some(rest) = after_marker(text) else {
            chunk.bytes.extend_from_slice(text);
            continue;
        };
        let next = match rest.trim_ascii().is_empty() {
            true => Chunk { line: line + 1, bytes: Vec::new() },
            // What follows the marker on its line is content of the document that begins there.
            false => Chunk { line, bytes: [b"   ", rest].concat() },
        };
        let number = documents.len() + 1;
        documents.extend(std::mem::replace(&mut chunk, next).into_document(path, number));
    }
    let number = documents.len() + 1;
    documents.extend(chunk.into_document(path, number));
    documents
}

struct Chunk {
    line: u32,
    bytes: Vec<u8>,
}

impl Chunk {
    fn into_document(self, path: &Arc<str>, number: usize) -> Option<Document> {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let origin = Origin::File { path: Arc::clone(path), line: self.line, number };
        // Where files were put together, a byte order mark can begin any of their documents.
        let bytes = without_mark(&self.bytes);
        let is_content = |line: &&[u8]| !line.trim_ascii().is_empty() && !line.trim_ascii().starts_with(b"#");
        let mut content = bytes.split(|&b| b == b'\n').filter(is_content).peekable();
        // The version of YAML makes no difference to what is taken of it.
        while content.next_if(|line| line.starts_with(b"%YAML ")).is_some() {}
        let first = content.next()?;
        let is_directive = first.starts_with(b"%");
        let content = match is_directive {
            true => Err("has a directive other than %YAML: tags, which %TAG is for, are not taken".into()),
            false => Ok(bytes.into()),
        };
        Some(Document { origin, revision: None, content })
    }
}

fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// The rest of a line that ends a document, after the marker.
fn after_marker(line: &[u8]) -> Option<&[u8]> {
    let line = without_mark(line);
    let rest = line.strip_prefix(b"---").or_else(|| line.strip_prefix(b"..."))?;
    rest.first().is_none_or(u8::is_ascii_whitespace).then_some(rest)
}

impl Document {
    /// The identity that its place gives it, or that the text seems to claim, read without parsing it. It lets a
    /// document that can no longer be parsed be told apart from one that was taken away.
    pub fn claimed_id(&self) -> Option<DocumentId> {
        if let Some(id) = self.origin.id() {
            return Some(id.clone());
        }
        let text = std::str::from_utf8(self.content.as_ref().ok()?).ok()?;
        let field = |key: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
            let mut value = value.split(" #").next().unwrap_or_default().trim();
            // What is refused may stand before it.
            while let Some((_, rest)) = value.split_once(' ').filter(|_| value.starts_with(['&', '!'])) {
                value = rest.trim_start();
            }
            Some(value.trim_matches(['"', '\'']).to_owned())
        };
        let is_rate_limits = || text.lines().any(|l| l.starts_with("rate_limits:") || l.starts_with("rateLimits:"));
        let kind = match field("kind") {
            Some(kind) => Kind::parse(&kind)?,
            None => is_rate_limits().then_some(Kind::RateLimits)?,
        };
        Some(DocumentId::new(kind, &shown::bounded(&field("name")?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<(u32, String)> {
        split(&"p.yaml".into(), text.as_bytes())
            .into_iter()
            .map(|d| (d.origin.first_line(), String::from_utf8(d.content.unwrap().to_vec()).unwrap()))
            .collect()
    }

    #[test]
    fn a_file_is_cut_at_lines_of_three_dashes() {
        assert_eq!(
            cut("a: 1\n---\nb: 2\n--- # c\nc: 3\n"),
            [(1, "a: 1\n".into()), (3, "b: 2\n".into()), (4, "    # c\nc: 3\n".into())]
        );
    }

    #[test]
    fn documents_of_blank_lines_and_comments_are_left_out() {
        assert_eq!(cut("\u{feff}# head\n\n---\r\na: 1\r\n---\n# tail"), [(4, "a: 1\r\n".into())]);
        assert_eq!(cut(""), []);
    }

    #[test]
    fn what_tools_write_between_documents_is_no_document() {
        let text = "%YAML 1.2\n# c\n---\na: 1\n... # end\n%YAML 1.1\n---\nb: 2\n...\nc: 3\n\u{feff}---\n\u{feff}d: 4\n---\n...\n";
        assert_eq!(
            cut(text),
            [(4, "a: 1\n"), (8, "b: 2\n"), (10, "c: 3\n"), (12, "d: 4\n")].map(|(line, text)| (line, text.to_owned()))
        );
    }

    #[test]
    fn another_directive_is_refused_with_the_reason() {
        let documents = split(&"p.yaml".into(), b"%TAG ! tag:x,2000:\n---\na: 1\n");
        let refused: Vec<_> = documents.iter().map(|document| document.content.is_err()).collect();
        assert_eq!(refused, [true, false]);
    }

    #[test]
    fn dashes_that_are_content_do_not_cut() {
        assert_eq!(cut("a: |\n  ---\n----\n").len(), 1);
    }

    #[test]
    fn a_broken_document_still_tells_who_it_was() {
        let claimed = |text: &str| {
            let document = split(&"p.yaml".into(), text.as_bytes()).remove(0);
            document.claimed_id().map(|id| id.to_string())
        };
        assert_eq!(claimed("kind: Api # tier 1\nname: \"pay\"\nlimits: [\n").as_deref(), Some("Api pay"));
        assert_eq!(claimed("rate_limits: [\nname: x").as_deref(), Some("RateLimits x"));
        assert_eq!(claimed("kind: Api\nna"), None);
        assert_eq!(claimed("kind: Nonsense\nname: x"), None);
    }
}
