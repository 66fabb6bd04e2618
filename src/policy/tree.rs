//! A YAML document as a tree that knows where each of its values stands.
//!
//! YAML is read once into this tree; what it means is then decoded from its JSON form. So every later
//! check names a field by its path alone, and the tree turns paths into lines and columns.

mod syntax;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_yaml::granit_parser::Parser;
use serde_yaml::options::{DuplicateKeyPolicy, MergeKeyPolicy};
use serde_yaml::{Location, Spanned};

use super::problem::{Finding, Findings, Path, Segment, Target};
pub use syntax::SyntaxError;

/// The deepest nesting of a document.
const DEPTH_MAX: usize = 32;
/// The most values of a document; more than any document of the largest size needs.
const NODES_MAX: usize = 100_000;

#[derive(Debug)]
pub struct Tree(Spanned<Node>);

/// The place of a key or value in the document's own lines: all counted from 1, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub line: u32,
    pub column: u32,
    pub width: u32,
}

#[derive(Debug)]
enum Node {
    Scalar(Value),
    Sequence(Vec<Spanned<Node>>),
    Mapping(Vec<Field>),
}

type Field = (Spanned<String>, Spanned<Node>);

impl Tree {
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        #[cfg(test)]
        parses::count();
        let options = serde_yaml::options! {
            // Repeated keys are kept so that all of them can be reported at once.
            duplicate_keys: DuplicateKeyPolicy::PassThrough,
            merge_keys: MergeKeyPolicy::Error,
            strict_booleans: true,
            leading_zero_numbers_as_strings: true,
            underscored_numbers_as_strings: true,
            budget: serde_yaml::budget! {
                max_anchors: 0,
                max_aliases: 0,
                max_depth: DEPTH_MAX,
                max_nodes: NODES_MAX,
            },
        };
        let tree = serde_yaml::from_str_with_options(text, options).map_err(|error| SyntaxError::of(&error, text))?;
        tag(text).map_or(Ok(Self(tree)), Err)
    }

    /// The tree without its places. Of repeated keys the first is kept.
    pub fn to_json(&self) -> Value {
        self.0.value.to_json()
    }

    /// Reads every key as the name of a protobuf field: `headerName` is `header_name`, as in the JSON form of protobuf,
    /// whose parsers take both.
    pub fn take_keys_as_protobuf_fields(&mut self) {
        self.0.value.rename_keys(&snake_case);
    }

    /// Whether both say the same, wherever it stands: every field in its order, repeated ones included.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.value.is_same(&other.0.value)
    }

    pub fn has_field(&self, name: &str) -> bool {
        matches!(&self.0.value, Node::Mapping(entries) if entries.iter().any(|(key, _)| key.value == name))
    }

    /// The findings that do not depend on the document's meaning: keys that stand twice, and values that are left
    /// empty.
    pub fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        self.0.value.collect_findings(&mut Path::default(), &mut findings);
        findings
    }

    /// The place of the field at `path`; where there is none, the nearest place above it.
    pub fn locate(&self, path: &Path, target: Target) -> Span {
        let mut key = &self.0.referenced;
        let mut node = &self.0;
        for segment in &path.0 {
            let child = match (segment, &node.value) {
                (Segment::Key(name), Node::Mapping(entries)) => {
                    // A key that stands twice is reported where it stands again.
                    entries.iter().rfind(|(key, _)| *key.value == **name).map(|(key, value)| (&key.referenced, value))
                }
                (Segment::Index(index), Node::Sequence(items)) => {
                    items.get(*index).map(|item| (&item.referenced, item))
                }
                _ => None,
            };
            let Some((child_key, child)) = child else { return Span::from(*key) };
            (key, node) = (child_key, child);
        }
        let is_scalar = matches!(node.value, Node::Scalar(ref value) if !value.is_null());
        match target {
            Target::Value if is_scalar => Span::from(node.referenced),
            // A mapping or sequence begins somewhere below its key; the key is what people look for.
            Target::Value | Target::Key => Span::from(*key),
        }
    }
}

impl Node {
    fn to_json(&self) -> Value {
        match self {
            Self::Scalar(value) => value.clone(),
            Self::Sequence(items) => items.iter().map(|item| item.value.to_json()).collect(),
            Self::Mapping(entries) => {
                let mut map = serde_json::Map::with_capacity(entries.len());
                for (key, value) in entries {
                    map.entry(key.value.clone()).or_insert_with(|| value.value.to_json());
                }
                Value::Object(map)
            }
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Scalar(a), Self::Scalar(b)) => a == b,
            (Self::Sequence(a), Self::Sequence(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.value.is_same(&b.value))
            }
            (Self::Mapping(a), Self::Mapping(b)) => {
                let is_same = |((key, value), (other_key, other)): (&Field, &Field)| {
                    key.value == other_key.value && value.value.is_same(&other.value)
                };
                a.len() == b.len() && a.iter().zip(b).all(is_same)
            }
            _ => false,
        }
    }

    fn rename_keys(&mut self, rename: &impl Fn(&str) -> String) {
        match self {
            Self::Scalar(_) => {}
            Self::Sequence(items) => items.iter_mut().for_each(|item| item.value.rename_keys(rename)),
            Self::Mapping(entries) => {
                for (key, value) in entries {
                    key.value = rename(&key.value);
                    value.value.rename_keys(rename);
                }
            }
        }
    }

    fn collect_findings(&self, path: &mut Path, findings: &mut Findings) {
        let mut visit = |segment: Segment, node: &Self, is_repeated: bool| {
            path.0.push(segment);
            if is_repeated {
                let message = "this key stands twice in its mapping; one of the two would be lost".to_owned();
                findings.add(Finding { path: path.clone(), target: Target::Key, message, help: None });
            }
            if matches!(node, Self::Scalar(Value::Null)) {
                let message = "is empty: expected a value".to_owned();
                let help =
                    Some("leave the field out to get its default; {} is an empty mapping, and a text like ~ or null goes into quotes".to_owned());
                findings.add(Finding { path: path.clone(), target: Target::Key, message, help });
            }
            node.collect_findings(path, findings);
            path.0.pop();
        };
        match self {
            Self::Scalar(_) => {}
            Self::Sequence(items) => {
                items.iter().enumerate().for_each(|(index, item)| visit(index.into(), &item.value, false));
            }
            Self::Mapping(entries) => {
                let mut seen = std::collections::HashSet::with_capacity(entries.len());
                for (key, value) in entries {
                    visit(key.value.as_str().into(), &value.value, !seen.insert(key.value.as_str()));
                }
            }
        }
    }
}

fn snake_case(key: &str) -> String {
    let mut snake = String::with_capacity(key.len() + 4);
    for c in key.chars() {
        if c.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

/// The first tag of the document (YAML 1.2.2, section 6.8.2). Programs are told by tags what a value is; policies say that
/// by their fields, so a tag that meant something would be lost.
fn tag(text: &str) -> Option<SyntaxError> {
    let may_have_one = text.contains('!');
    let events = Parser::new_from_str(text).map_while(Result::ok).filter(|_| may_have_one);
    let tagged = events.filter(|(event, _)| event.tag().is_some());
    let at = tagged.map(|(_, span)| span.tag_start.unwrap_or(span.start)).next()?;
    let line = text.lines().nth(at.line().saturating_sub(1)).unwrap_or_default();
    let written: String =
        line.chars().skip(at.col()).take_while(|c| !c.is_whitespace() && !",[]{}".contains(*c)).collect();
    let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let span =
        Span { line: narrow(at.line()), column: narrow(at.col() + 1), width: narrow(written.chars().count()).max(1) };
    let message = format!("has the tag {written}: {}", syntax::TAGS);
    Some(SyntaxError { message, span: Some(span) })
}

impl From<Location> for Span {
    fn from(location: Location) -> Self {
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let width = u32::try_from(location.span().len()).unwrap_or(1);
        Self { line: narrow(location.line()), column: narrow(location.column()), width: width.max(1) }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut sequence = Vec::new();
        while let Some(item) = items.next_element()? {
            sequence.push(item);
        }
        Ok(Node::Sequence(sequence))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut mapping = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            mapping.push(entry);
        }
        Ok(Node::Mapping(mapping))
    }
}

/// The number of times that this thread has parsed YAML, for tests that bound it.
#[cfg(test)]
pub(crate) mod parses {
    use std::cell::Cell;

    thread_local! {
        static PARSES: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn count() {
        PARSES.set(PARSES.get() + 1);
    }

    /// Counts the parses meanwhile.
    pub(crate) fn during(act: impl FnOnce()) -> usize {
        let before = PARSES.get();
        act();
        PARSES.get() - before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_path() {
        let tree = Tree::parse("kind: Api\nlimits:\n  - rate: 10/m\n").unwrap();
        let path = Path(vec!["limits".into(), 0.into(), "rate".into()]);
        assert_eq!(tree.locate(&path, Target::Value), Span { line: 3, column: 11, width: 4 });
        assert_eq!(tree.locate(&path, Target::Key), Span { line: 3, column: 5, width: 4 });
        assert_eq!(tree.locate(&Path::of(["limits"]), Target::Value), Span { line: 2, column: 1, width: 6 });
        let missing = Path::of(["limits", "nothing"]);
        assert_eq!(tree.locate(&missing, Target::Value), Span { line: 2, column: 1, width: 6 });
    }

    #[test]
    fn what_would_be_lost_silently_is_found() {
        let tree = Tree::parse("a: 1\na: 2\nb:\nc: {d: 1, d: 2}").unwrap();
        let found: Vec<_> = tree.findings().into_inner().iter().map(|finding| finding.path.to_string()).collect();
        assert_eq!(found, ["a", "b", "c.d"]);
    }

    #[test]
    fn what_is_not_plain_yaml_is_refused() {
        for (text, message) in [
            ("a: &x [1]\nb: *x", "anchors and aliases are not taken"),
            ("<<: {a: 1}\nb: 1", "merge keys (<<) are not taken"),
            ("a: [1, 2", "found [ without its end: expected ], or a text in quotes"),
            (&"[".repeat(200_000), "is nested deeper than 32 levels"),
            ("? [x]\n: 1", "a key is a list or a mapping: expected a text"),
            ("a: .nan", "is no number that counts; put a text in quotes"),
            (
                "  a: 1\nb: 2",
                "does not belong to what stands before it: expected the same indentation, or a line of `---` between two documents",
            ),
        ] {
            assert_eq!(Tree::parse(text).unwrap_err().message, message, "{:.40}", text);
        }
    }

    #[test]
    fn tags_are_refused_where_they_stand() {
        for (text, column, tag) in [
            ("a: !!python/object:x 5s", 4, "!!python/object:x"),
            ("a: [!custom {b: 1}]", 5, "!custom"),
            ("!!map\na: 1", 1, "!!map"),
            ("a: ! b", 4, "!"),
            ("a:\n  - !<tag:x,2000:y> b", 5, "!<tag:x"),
            ("!!str a: 1", 1, "!!str"),
        ] {
            let error = Tree::parse(text).unwrap_err();
            assert!(error.message.starts_with(&format!("has the tag {tag}")), "{text}: {}", error.message);
            assert_eq!(error.span.map(|span| span.column), Some(column), "{text}");
        }
        assert!(Tree::parse("a: '!b' # !c\nd: x!y\ne: |\n  !f\n").is_ok());
    }

    #[test]
    fn scalars_that_only_look_like_numbers_stay_as_they_were_written() {
        let json = Tree::parse("a: 007\nb: 1_000\nc: yes\nd: 12").unwrap().to_json();
        assert_eq!(json, serde_json::json!({"a": "007", "b": "1_000", "c": "yes", "d": 12}));
    }
}
