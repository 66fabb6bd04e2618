//! Why a document is refused, in words that a person can act on: where, what was found, what was expected.

use std::fmt;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Element, Level, Renderer, Snippet};

use super::tree::Tree;
use crate::document::{Document, Origin};
use crate::names::DocumentId;

/// A reason why a document is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub origin: Origin,
    /// The document, where that could be told.
    pub document: Option<DocumentId>,
    /// The field, as in `limits[0].rate`; empty for the document as a whole.
    pub path: Path,
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
    /// The whole line, so that it can be shown without the document.
    pub text: Arc<str>,
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
    found: Vec<Finding>,
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
        self.say(format!("found {found:?}, expected {expected}"));
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
        self.found.push(finding);
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub fn into_inner(self) -> Vec<Finding> {
        self.found
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
            path: finding.path,
            message: finding.message,
            help: finding.help,
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
        let subject = [document, self.path.to_string()].into_iter().filter(|s| !s.is_empty());
        let subject = subject.collect::<Vec<_>>().join(", ");
        if subject.is_empty() { self.message.clone() } else { format!("{subject}: {}", self.message) }
    }

    /// The problem with the source line under it and a mark below what is meant.
    pub fn render(&self, renderer: &Renderer) -> String {
        let title = self.title();
        let origin = self.origin.shown_container();
        let place: Element<'_> = match &self.place {
            Some(place) => Snippet::source(&*place.text)
                .line_start(place.line as usize)
                .path(&*origin)
                .annotation(AnnotationKind::Primary.span(place.byte_range()))
                .into(),
            None => annotate_snippets::Origin::path(&*origin).line(self.origin.first_line() as usize).into(),
        };
        let mut report = Level::ERROR.primary_title(title.as_str()).element(place);
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
        Self {
            line: document.origin.first_line() + line.saturating_sub(1),
            column,
            width: width.max(1),
            text: text.into(),
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
        let start = self.column.saturating_sub(1);
        byte_of(start)..byte_of(start + self.width)
    }
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
    candidates
        .into_iter()
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
}
