//! Why a text is no YAML, or more of it than is taken, in the words of policies: what was found, and what was expected. The
//! parser's own words are about its grammar and its options, which nobody who writes a policy knows.

use serde_yaml::budget::BudgetBreach;
use serde_yaml::granit_parser::ErrorKind;
use serde_yaml::localizer::ExternalMessageSource;
use serde_yaml::{Error, Location};

use super::{DEPTH_MAX, NODES_MAX, Span};

/// A document that is not YAML, or more of it than is taken.
#[derive(Debug, PartialEq, Eq)]
pub struct SyntaxError {
    pub message: String,
    pub span: Option<Span>,
}

const ANCHORS: &str = "anchors and aliases are not taken";
pub(super) const TAGS: &str = "tags are not taken; leave it out, or put a text in quotes";
const INDENTATION: &str = "is not indented as what it belongs to: expected the same number of spaces, or more";

impl SyntaxError {
    pub(super) fn of(error: &Error, text: &str) -> Self {
        let error = error.without_snippet();
        let span = error.location().filter(|location| *location != Location::UNKNOWN).map(Span::from);
        match error {
            Error::ExternalMessage { source, .. } => match source.as_ref() {
                ExternalMessageSource::Parser(scanned) => Self {
                    message: of_scan(scanned.kind()),
                    span: match is_about_a_tab(scanned.kind()) {
                        true => span.map(|span| place_of_tab(text, span)),
                        false => span,
                    },
                },
                _ => Self { message: unknown(&error.to_string()), span },
            },
            _ => Self { message: of_value(error), span },
        }
    }
}

/// What can be wrong with YAML that can be read.
fn of_value(error: &Error) -> String {
    match error {
        Error::Budget { breach: BudgetBreach::Anchors { .. } | BudgetBreach::Aliases { .. }, .. }
        | Error::UnknownAnchor { .. } => ANCHORS.to_owned(),
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => nested_too_deep(),
        Error::Budget { breach: BudgetBreach::Nodes { .. }, .. } => format!("has more than {NODES_MAX} values"),
        Error::MultipleDocuments { .. } => "holds a second document: expected one".to_owned(),
        Error::NullIntoString { .. } => "a key is empty: expected the name of a field".to_owned(),
        Error::Unexpected { expected: "string scalar", .. } => {
            "a key is a list or a mapping: expected a text".to_owned()
        }
        Error::NonFiniteFloat { .. } => "is no number that counts; put a text in quotes".to_owned(),
        Error::MergeKeyNotAllowed { .. } => "merge keys (<<) are not taken".to_owned(),
        other => unknown(&other.to_string()),
    }
}

fn of_scan(kind: &ErrorKind) -> String {
    let message = match kind {
        kind if is_about_a_tab(kind) => "is indented with a tab: expected spaces",
        ErrorKind::RecursionLimitExceeded => return nested_too_deep(),
        ErrorKind::UnexpectedCharacter { character } => {
            let character = character.escape_default();
            return format!("a text cannot begin with {character}: expected it in quotes");
        }
        ErrorKind::UnclosedFlowCollection { open } => {
            let close = closing(*open);
            return format!("found {open} without its end: expected {close}, or a text in quotes");
        }
        ErrorKind::MismatchedFlowCollectionEnd { open, close } => {
            let expected = closing(*open);
            return format!("found {close} as the end of {open}: expected {expected}");
        }
        ErrorKind::MisplacedFlowCollectionEnd => {
            "found the end of a list or mapping that does not begin: expected it in quotes, if it is a text"
        }
        ErrorKind::UnexpectedEofFlowSequence
        | ErrorKind::UnexpectedEofImplicitFlowMapping
        | ErrorKind::ExpectedFlowSequenceSeparator => {
            "is not how a list goes on: expected values with one comma between two of them, and ] at the end"
        }
        ErrorKind::UnexpectedEofFlowMapping | ErrorKind::ExpectedFlowMappingSeparator => {
            "is not how a mapping goes on: expected fields with one comma between two of them, and } at the end"
        }
        ErrorKind::ExpectedDocumentStart => {
            "does not belong to what stands before it: expected the same indentation, or a line of `---` between two \
             documents"
        }
        ErrorKind::ExpectedBlockMappingKey | ErrorKind::UnexpectedEofBlockMapping => {
            "does not belong to the fields before it: expected a field, indented as they are"
        }
        ErrorKind::ExpectedBlockSequenceEntry | ErrorKind::UnexpectedEofBlockSequence => {
            "does not belong to the list before it: expected `- `, indented as its other entries are"
        }
        ErrorKind::BlockSequenceEntryNotAllowed | ErrorKind::BlockEntryInFlowCollection => {
            "found `- `, which begins an entry of a list, where no list can begin: expected it on a line of its own"
        }
        ErrorKind::MappingValueNotAllowed | ErrorKind::MappingKeyNotAllowed => {
            "found a field inside of a value: expected it on a line of its own, or a text that holds `: ` in quotes"
        }
        ErrorKind::SimpleKeyExpected
        | ErrorKind::InvalidSimpleKey
        | ErrorKind::UnexpectedEndOfPlainScalar
        | ErrorKind::ExpectedNodeContent
        | ErrorKind::UnexpectedEof => "is no field: expected a name, a colon and a value, as in `name: value`",
        ErrorKind::InvalidColonPlacement => {
            "found a colon that does not follow a name: expected `name: value` on one line"
        }
        ErrorKind::InvalidMappingValueWhitespace
        | ErrorKind::FlowMappingValueAdjacentCollection
        | ErrorKind::ExpectedWhitespace => {
            "found a value right after the sign before it: expected a space between the two"
        }
        ErrorKind::PlainScalarStartsWithDashFlowIndicator | ErrorKind::InvalidBlockEntryWhitespace => {
            "found a dash without a value: expected a space after it, or a text in quotes"
        }
        ErrorKind::UnclosedQuotedScalar | ErrorKind::DocumentIndicatorInQuotedScalar => {
            "found a quote without its end: expected the same quote after the text"
        }
        ErrorKind::InvalidTrailingSingleQuotedScalar | ErrorKind::InvalidTrailingDoubleQuotedScalar => {
            "found more after the end of a text in quotes: expected all of it in the quotes"
        }
        ErrorKind::UnknownQuotedScalarEscape
        | ErrorKind::InvalidQuotedScalarHexEscape
        | ErrorKind::InvalidLowSurrogateHexEscape
        | ErrorKind::InvalidLowSurrogate
        | ErrorKind::MissingLowSurrogate
        | ErrorKind::UnpairedLowSurrogate
        | ErrorKind::InvalidUnicodeEscape => {
            "holds a backslash in double quotes that makes no character: expected single quotes, or two backslashes for one"
        }
        ErrorKind::InvalidIndentation
        | ErrorKind::InvalidFlowScalarIndent
        | ErrorKind::InvalidQuotedScalarIndent
        | ErrorKind::InvalidBlockScalarIndent => INDENTATION,
        ErrorKind::ZeroBlockScalarIndent | ErrorKind::InvalidBlockScalarHeader => {
            "found more than | or > where a text of several lines begins: expected the text from the next line on"
        }
        ErrorKind::CommentNotSeparated => "found a comment right after a value: expected a space before the #",
        ErrorKind::CommentInterceptedScalar => {
            "found a comment inside of a text of several lines: expected it before or after the text"
        }
        ErrorKind::BomInsideDocument => "holds a byte order mark: expected one at the beginning of the file only",
        ErrorKind::DirectiveDisallowed
        | ErrorKind::MissingDirectiveName
        | ErrorKind::InvalidDirectiveName
        | ErrorKind::InvalidDirectiveTerminator
        | ErrorKind::MissingDocumentEndBeforeDirective
        | ErrorKind::DuplicateVersionDirective
        | ErrorKind::UnsupportedYamlMajorVersion
        | ErrorKind::MissingYamlVersion
        | ErrorKind::MissingYamlVersionSeparator
        | ErrorKind::YamlVersionTooLong
        | ErrorKind::DuplicateTagDirective
        | ErrorKind::ExpectedTagDirectiveBang
        | ErrorKind::InvalidTagDirectiveTerminator => "found a line that begins with %: expected a field",
        ErrorKind::InvalidDocumentEnd => "found more after ... on its line: expected it on the next one",
        ErrorKind::UnknownAnchor | ErrorKind::AnchorCountOverflow | ErrorKind::MissingAnchorOrAliasName => ANCHORS,
        ErrorKind::UndeclaredTagHandle
        | ErrorKind::ExpectedTagBang
        | ErrorKind::InvalidGlobalTagCharacter
        | ErrorKind::InvalidTagTerminator
        | ErrorKind::MissingTagUri
        | ErrorKind::UnclosedVerbatimTag
        | ErrorKind::InvalidTagEscape
        | ErrorKind::InvalidTagUtf8LeadingByte
        | ErrorKind::InvalidTagUtf8TrailingByte
        | ErrorKind::InvalidTagUtf8 => TAGS,
        other => return unknown(&other.to_string()),
    };
    message.to_owned()
}

fn nested_too_deep() -> String {
    format!("is nested deeper than {DEPTH_MAX} levels")
}

/// What no policy that people write comes to; better the parser's words than none.
fn unknown(told: &str) -> String {
    format!("cannot be read as YAML: {}", told.split(" at line ").next().unwrap_or(told))
}

fn closing(open: char) -> char {
    if open == '{' { '}' } else { ']' }
}

fn is_about_a_tab(kind: &ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::TabNotAllowed
            | ErrorKind::TabInBlockIndentation
            | ErrorKind::TabInIndentation
            | ErrorKind::TabInPlainScalar
            | ErrorKind::TabAtBlockScalarStart
    )
}

/// The place of the first tab before the content of a line. The parser tells where the value begins that the tab is in, which is
/// often on a line before.
fn place_of_tab(text: &str, told: Span) -> Span {
    let lines = (1u32..).zip(text.lines()).skip_while(|(line, _)| *line < told.line);
    let tab = |(line, text): (u32, &str)| {
        let content = text.find(|c: char| c != ' ' && c != '\t')?;
        let before = text.get(..content)?.find('\t')?;
        Some(Span { line, column: u32::try_from(before + 1).ok()?, width: 1 })
    };
    lines.into_iter().find_map(tab).unwrap_or(told)
}

#[cfg(test)]
mod tests {
    use crate::policy::tree::Tree;

    /// The line, the column and the words.
    fn told(text: &str) -> (u32, u32, String) {
        let error = Tree::parse(text).unwrap_err();
        let span = error.span.unwrap();
        (span.line, span.column, error.message)
    }

    #[test]
    fn mistakes_are_told_where_they_are_and_in_words_of_policies() {
        for (text, line, column, words) in [
            ("a: 1\nb: c: d", 2, 5, "found a field inside of a value: expected it on a line of its own"),
            ("a: \"x", 1, 4, "found a quote without its end"),
            ("a: 'x' y", 1, 8, "found more after the end of a text in quotes"),
            ("a: \"\\q\"", 1, 4, "holds a backslash in double quotes that makes no character"),
            ("a: {b: 1\nc: 2", 2, 2, "is not how a mapping goes on"),
            ("a: [1,,2]", 1, 7, "is not how a list goes on"),
            ("a: [1}", 1, 4, "found } as the end of [: expected ]"),
            ("a: }", 1, 4, "found the end of a list or mapping that does not begin"),
            ("- a\nb: 1", 2, 1, "does not belong to the list before it"),
            ("b:\n - 1\n  - 2\n- 3", 4, 3, "does not belong to the fields before it"),
            ("a: @x", 1, 4, "a text cannot begin with @: expected it in quotes"),
            ("a: - b", 1, 4, "found `- `, which begins an entry of a list, where no list can begin"),
            ("a: b\nc", 2, 1, "is no field: expected a name, a colon and a value"),
            ("a: \"b\"#c", 1, 7, "found a comment right after a value"),
        ] {
            let (at_line, at_column, message) = told(text);
            assert!(message.starts_with(words), "{text:?}: {message}");
            assert_eq!((at_line, at_column), (line, column), "{text:?}");
        }
    }

    #[test]
    fn a_tab_is_told_on_the_line_that_it_indents() {
        for (text, line, column) in [
            ("limits:\n\t- rate: 1/m", 2, 1),
            ("limits:\n  - rate: 1/m\n\tby: [path]", 3, 1),
            ("limits:\n  - rate: 1/m\n\n \tby: [path]", 4, 2),
            ("a: |\n\tx", 2, 1),
        ] {
            assert_eq!(told(text), (line, column, "is indented with a tab: expected spaces".to_owned()), "{text:?}");
        }
    }

    proptest::proptest! {
        /// Whatever is written is refused in words that stand above.
        #[test]
        fn no_mistake_is_told_in_the_words_of_the_parser(
            text in "([ a-c:{}\\[\\],#'\"\\-|>&*!%?@`\t\\\\u\n]|\n  |\n- |: |# |\"\\\\|&x|!x|: \\||\n\t){0,40}"
        ) {
            if let Err(error) = Tree::parse(&text) {
                proptest::prop_assert!(!error.message.starts_with("cannot be read as YAML"), "{}", error.message);
            }
        }
    }
}
