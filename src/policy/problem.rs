//! Why a document is refused, in words that a person can act on: where, what was found, what was expected.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::tree::Tree;
use crate::document::{Document, Origin};
use crate::names::DocumentId;
use crate::shown;

/// A reason why a document is refused. What a document can be refused for is as long as the document; the texts here are
/// [`shown::bounded`], and whoever shows them need not ask how long they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub origin: Origin,
    /// The document, where that could be told.
    pub document: Option<DocumentId>,
    /// The field, as in `limits[0].rate`; empty for the document as a whole.
    pub path: String,
    pub message: String,
    pub help: Option<String>,
    /// Every document that has a part in it, one that is missing included. What of these changed is to blame.
    pub involves: Vec<DocumentId>,
    /// The place in the document's text, where it could be found.
    pub place: Option<Place>,
}

/// A place in a text: the line, and what of it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Counted from 1, from the start of the file.
    pub line: u32,
    /// Counted from 1, in characters.
    pub column: u32,
    /// The length of what is meant, in characters; at least 1.
    pub width: u32,
    /// The line, so that it can be shown without the document. Of a long one the part around what is meant...
    pub text: Arc<str>,
    /// ...and what of the line stands before that, in characters.
    pub text_start: u32,
}

/// A problem before it is known where in the text it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub path: Path,
    /// The part of the field that is meant: its name or its value.
    pub target: Target,
    pub message: String,
    pub help: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Key,
    Value,
}

/// More problems of one document than anybody reads.
pub const PROBLEMS_MAX: usize = 50;

/// The way from a document's root to a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(pub Vec<Segment>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    Key(Arc<str>),
    Index(usize),
}

impl Path {
    pub fn of<const N: usize>(keys: [&str; N]) -> Self {
        Self(keys.into_iter().map(Segment::from).collect())
    }
}

impl From<&str> for Segment {
    fn from(key: &str) -> Self {
        Self::Key(key.into())
    }
}

impl From<usize> for Segment {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Key(key) if position == 0 => write!(f, "{key}")?,
                Segment::Key(key) => write!(f, ".{key}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Collects what is wrong with one document, while remembering where in it the reader is.
#[derive(Debug, Default)]
pub struct Findings {
    /// The first [`PROBLEMS_MAX`].
    found: Vec<Finding>,
    /// The number of the others.
    more: usize,
    path: Path,
}

impl Findings {
    /// Reads a part of the document: what is found meanwhile lies under `segment`.
    pub fn within<T>(&mut self, segment: impl Into<Segment>, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.0.push(segment.into());
        let result = read(self);
        self.path.0.pop();
        result
    }

    /// Refuses the field where the reader is.
    pub fn refuse(&mut self, found: impl fmt::Debug, expected: impl fmt::Display) {
        self.say(format!("found {}, expected {expected}", shown::value(found)));
    }

    /// Refuses the field where the reader is, in words of the caller's own.
    pub fn say(&mut self, message: String) {
        self.add(Finding { path: self.path.clone(), target: Target::Value, message, help: None });
    }

    pub fn say_with_help(&mut self, message: String, help: String) {
        self.add(Finding { path: self.path.clone(), target: Target::Value, message, help: Some(help) });
    }

    /// The value, or `None` and a finding that `found` is not what was expected.
    pub fn check<T, E: fmt::Display>(&mut self, found: impl fmt::Debug, parsed: Result<T, E>) -> Option<T> {
        parsed.map_err(|expected| self.refuse(found, expected)).ok()
    }

    pub fn add(&mut self, finding: Finding) {
        if self.found.len() < PROBLEMS_MAX {
            self.found.push(finding);
        } else {
            self.more += 1;
        }
    }

    /// Takes what was found elsewhere, as it is here.
    pub fn append(&mut self, other: Self, mut here: impl FnMut(Finding) -> Option<Finding>) {
        other.found.into_iter().filter_map(&mut here).for_each(|finding| self.add(finding));
        self.more += other.more;
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// All that is told: the last finding says how many others there are.
    pub fn into_inner(mut self) -> Vec<Finding> {
        if self.more > 0 {
            let message = format!("{} more problems are not told", self.more);
            self.found.push(Finding { path: Path::default(), target: Target::Value, message, help: None });
        }
        self.found
    }
}

impl Finding {
    /// The same of a document that may have a secret anywhere: the place, by the names of fields that there are or that are nearly
    /// right, and what was expected there.
    pub fn without_values(self, fields: &[&str]) -> Self {
        let is_field = |name: &str| fields.contains(&name) || nearest(name, fields.iter().copied()).is_some();
        let segments = self.path.0.into_iter().map(|segment| match segment {
            Segment::Key(key) if !is_field(&key) => "(not shown)".into(),
            segment => segment,
        });
        let message = match self.message.rsplit_once(", expected ") {
            Some((found, expected)) if found.starts_with("found ") => format!("expected {expected}"),
            Some((found, expected)) if !found.split('`').nth(1).is_none_or(is_field) => {
                format!("unknown field, expected {expected}")
            }
            _ => self.message,
        };
        Self { path: Path(segments.collect()), message, ..self }
    }
}

impl Problem {
    /// A problem of one document at a known place. `tree` is the document's, where it has one.
    pub fn locate(document: &Document, id: Option<&DocumentId>, finding: Finding, tree: Option<&Tree>) -> Self {
        let place = tree.map(|tree| {
            let span = tree.locate(&finding.path, finding.target);
            Place::of(document, span.line, span.column, span.width)
        });
        Self {
            origin: document.origin.clone(),
            document: id.cloned(),
            involves: id.cloned().into_iter().collect(),
            path: shown::bounded(&finding.path.to_string()).into_owned(),
            message: shown::bounded(&finding.message).into_owned(),
            help: finding.help.map(|help| shown::bounded(&help).into_owned()),
            place,
        }
    }

    /// `policies/api.yaml:12:9`: the line of the field where that is known, else the document's first line.
    pub fn location(&self) -> String {
        match &self.place {
            Some(place) => format!("{}:{}:{}", self.origin.shown_container(), place.line, place.column),
            None => self.origin.to_string(),
        }
    }

    /// The problem's place among those of its document.
    pub fn place_in_text(&self) -> Option<(u32, u32)> {
        self.place.as_ref().map(|place| (place.line, place.column))
    }

    /// What is wrong, with the document and the field.
    pub fn title(&self) -> String {
        let document = self.document.as_ref().map(ToString::to_string).unwrap_or_default();
        let subject = [document, self.path.clone()].into_iter().filter(|s| !s.is_empty());
        let subject = subject.collect::<Vec<_>>().join(", ");
        if subject.is_empty() { self.message.clone() } else { format!("{subject}: {}", self.message) }
    }

    /// The problem with the source line under it and a mark below what is meant.
    pub fn render(&self, renderer: &Renderer) -> String {
        let title = self.title();
        let origin = self.origin.shown_container();
        let in_file = || annotate_snippets::Origin::path(&*origin);
        let report = Level::ERROR.primary_title(title.as_str());
        let mut report = match &self.place {
            Some(place) => {
                let snippet = Snippet::source(&*place.text).line_start(place.line as usize);
                let snippet = snippet.annotation(AnnotationKind::Primary.span(place.byte_range()));
                match place.text_start {
                    0 => report.element(snippet.path(&*origin)),
                    // The column is that of the line, and not that of what is shown of it.
                    _ => {
                        let place = in_file().line(place.line as usize).char_column(place.column as usize);
                        report.element(place).element(snippet)
                    }
                }
            }
            None => report.element(in_file().line(self.origin.first_line() as usize)),
        };
        if let Some(help) = &self.help {
            report = report.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[report])
    }
}

impl Place {
    /// A place by the document's own line numbers.
    pub fn of(document: &Document, line: u32, column: u32, width: u32) -> Self {
        let bytes = document.content.as_deref().unwrap_or_default();
        let text = String::from_utf8_lossy(bytes);
        let text = text.lines().nth(line.saturating_sub(1) as usize).unwrap_or_default();
        let (text, text_start) = around(text, column);
        Self {
            line: document.origin.first_line() + line.saturating_sub(1),
            column,
            width: width.max(1),
            text: text.into(),
            text_start,
        }
    }

    /// The line in the document's own text, counted from 1.
    pub fn line_in(&self, origin: &Origin) -> u32 {
        self.line.saturating_sub(origin.first_line()) + 1
    }

    fn byte_range(&self) -> std::ops::Range<usize> {
        let byte_of = |characters: u32| {
            self.text.char_indices().nth(characters as usize).map_or(self.text.len(), |(position, _)| position)
        };
        let start = self.column.saturating_sub(1).saturating_sub(self.text_start);
        byte_of(start)..byte_of(start.saturating_add(self.width))
    }
}

/// The part of a long line around a column, with an ellipsis in the place of what is left out, and the characters that the
/// part begins after.
fn around(line: &str, column: u32) -> (Cow<'_, str>, u32) {
    /// What is shown of the line before the column, in bytes.
    const BEFORE: usize = 128;
    const ELLIPSIS: &str = "…";
    const PART_BYTES_MAX: usize = shown::TEXT_BYTES_MAX - 2 * ELLIPSIS.len();
    if line.len() <= shown::TEXT_BYTES_MAX {
        return (Cow::Borrowed(line), 0);
    }
    let at = line.char_indices().nth(column.saturating_sub(1) as usize).map_or(line.len(), |(at, _)| at);
    let start = at.saturating_sub(BEFORE).min(line.len() - PART_BYTES_MAX);
    let before = shown::beginning(line, start);
    let rest = line.get(before.len()..).unwrap_or_default();
    let part = shown::beginning(rest, PART_BYTES_MAX);
    let [left, right] = [!before.is_empty(), part.len() < rest.len()].map(|is_cut| if is_cut { ELLIPSIS } else { "" });
    // The ellipsis stands for the last character before.
    let start = before.chars().count().saturating_sub(left.chars().count());
    (Cow::Owned([left, part, right].concat()), u32::try_from(start).unwrap_or(u32::MAX))
}

/// One line for logs and lists; [`Problem::render`] is the long form.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.location(), self.title())?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

/// "did you mean ...", where one of the candidates is near what was written.
pub fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    // Nothing that could be meant is so long, and comparing costs the product of both lengths.
    let candidates = candidates.into_iter().filter(|_| written.len() <= shown::TEXT_BYTES_MAX);
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(written, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(written.len()) / 4)
        .min()
        .map(|(_, candidate)| format!("did you mean {candidate:?}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered_only_where_one_is_near() {
        assert_eq!(nearest("ordr", ["order", "pay"]).as_deref(), Some("did you mean \"order\"?"));
        assert_eq!(nearest("zebra", ["order", "pay"]), None);
    }

    #[test]
    fn of_a_document_with_secrets_places_and_what_was_expected_are_told() {
        for (path, message, told) in [
            (
                ["tokens", "name"],
                "found \"s3cret, expected x\", expected 1 to 9 bytes",
                "tokens.name: expected 1 to 9 bytes",
            ),
            (
                ["tokens", "nam"],
                "unknown field `nam`, expected `name`",
                "tokens.nam: unknown field `nam`, expected `name`",
            ),
            (
                ["tokens", "s3cret"],
                "unknown field `s3cret`, expected `name`",
                "tokens.(not shown): unknown field, expected `name`",
            ),
            (["s3cret", "name"], "is empty: expected a value", "(not shown).name: is empty: expected a value"),
            (["tokens", "name"], "missing field `name`", "tokens.name: missing field `name`"),
        ] {
            let (path, message) = (Path::of(path), message.to_owned());
            let finding = Finding { path, target: Target::Value, message, help: None };
            let finding = finding.without_values(&["tokens", "name"]);
            assert_eq!(format!("{}: {}", finding.path, finding.message), told);
        }
    }
}
