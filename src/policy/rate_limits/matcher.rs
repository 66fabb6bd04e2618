//! What a header, a parameter of the query or a text has to look like, in Envoy's meaning.

use std::ops::Range;

use super::action::read_header_name;
use crate::policy::problem::Findings;
use crate::policy::raw::{Integer, RawHeaderMatcher, RawQueryParameterMatcher, RawRange, RawRegex, RawStringMatch};
use crate::policy::text;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderMatcher {
    /// In lower case.
    pub name: String,
    pub test: HeaderTest,
    pub is_inverted: bool,
    pub treat_missing_as_empty: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HeaderTest {
    Present(bool),
    Text(TextMatcher),
    Range(Range<i64>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QueryMatcher {
    pub name: String,
    /// The text that the value has to be, or whether there has to be one.
    pub test: Result<TextMatcher, bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TextMatcher {
    pub pattern: TextPattern,
    /// Of ASCII letters. Never with a regular expression, where Envoy refuses it.
    pub ignore_case: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TextPattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    /// Has to match the whole value.
    Regex(String),
}

impl HeaderMatcher {
    pub(super) fn read(raw: &RawHeaderMatcher, findings: &mut Findings) -> Option<Self> {
        let name = read_header_name(findings, "name", &raw.name);
        let test = read_header_test(raw, findings);
        Some(Self {
            name: name?,
            test: test?,
            is_inverted: raw.invert_match.unwrap_or(false),
            treat_missing_as_empty: raw.treat_missing_header_as_empty.unwrap_or(false),
        })
    }

    /// A header matches by any of its values; inverted, where none does. One that is missing and not taken for an empty
    /// one does not match, inverted or not.
    pub fn matches(&self, values: &[&str]) -> bool {
        let values = if values.is_empty() && self.treat_missing_as_empty { &[""] } else { values };
        let matches = match (&self.test, values) {
            (HeaderTest::Present(expected), values) => values.is_empty() != *expected,
            (_, []) => return false,
            (HeaderTest::Text(matcher), values) => values.iter().any(|value| matcher.matches(value)),
            (HeaderTest::Range(range), values) => {
                values.iter().any(|value| value.parse().is_ok_and(|number| range.contains(&number)))
            }
        };
        matches != self.is_inverted
    }
}

fn read_header_test(raw: &RawHeaderMatcher, findings: &mut Findings) -> Option<HeaderTest> {
    let text = |pattern| HeaderTest::Text(TextMatcher { pattern, ignore_case: false });
    let present = raw.present_match.map(|expected| Some(HeaderTest::Present(expected)));
    let by_string = raw
        .string_match
        .as_ref()
        .map(|raw| findings.within("string_match", |findings| TextMatcher::read(raw, findings)).map(HeaderTest::Text));
    let by_range = raw.range_match.as_ref().map(|RawRange { start, end }| {
        let bound = |bound: &Option<Integer>| bound.map_or(0, |bound| bound.0);
        Some(HeaderTest::Range(bound(start)..bound(end)))
    });
    // Envoy's older forms. An empty `exact_match` means any value to it, which nobody expects.
    let older = [
        read_pattern(findings, "exact_match", raw.exact_match.as_deref(), TextPattern::Exact),
        read_pattern(findings, "prefix_match", raw.prefix_match.as_deref(), TextPattern::Prefix),
        read_pattern(findings, "suffix_match", raw.suffix_match.as_deref(), TextPattern::Suffix),
        read_pattern(findings, "contains_match", raw.contains_match.as_deref(), TextPattern::Contains),
        read_regex(findings, "safe_regex_match", raw.safe_regex_match.as_ref()),
    ];
    let older = older.into_iter().flatten().map(|pattern| pattern.map(text));
    let tests = present.into_iter().chain(by_string).chain(by_range).chain(older).collect();
    at_most_one(tests, findings)?.unwrap_or(Some(HeaderTest::Present(true)))
}

impl QueryMatcher {
    pub(super) fn read(raw: &RawQueryParameterMatcher, findings: &mut Findings) -> Option<Self> {
        let name = findings.within("name", |findings| findings.check(&raw.name, text::plain(&raw.name)));
        let by_text = raw
            .string_match
            .as_ref()
            .map(|raw| findings.within("string_match", |findings| TextMatcher::read(raw, findings)).map(Ok));
        let tests = by_text.into_iter().chain(raw.present_match.map(|expected| Some(Err(expected)))).collect();
        let test = at_most_one(tests, findings)?.unwrap_or(Some(Err(true)));
        Some(Self { name: name?, test: test? })
    }

    pub fn matches(&self, value: Option<&str>) -> bool {
        match &self.test {
            Ok(matcher) => value.is_some_and(|value| matcher.matches(value)),
            Err(expected) => value.is_some() == *expected,
        }
    }
}

impl TextMatcher {
    fn read(raw: &RawStringMatch, findings: &mut Findings) -> Option<Self> {
        if raw.custom.is_some() {
            let message = "what an extension matches is not known here; use one of the other patterns";
            findings.within("custom", |findings| findings.say(message.to_owned()));
            return None;
        }
        // Only an exact text may be empty.
        let patterns = [
            match raw.exact.as_deref() {
                Some("") => Some(Some(TextPattern::Exact(String::new()))),
                exact => read_pattern(findings, "exact", exact, TextPattern::Exact),
            },
            read_pattern(findings, "prefix", raw.prefix.as_deref(), TextPattern::Prefix),
            read_pattern(findings, "suffix", raw.suffix.as_deref(), TextPattern::Suffix),
            read_pattern(findings, "contains", raw.contains.as_deref(), TextPattern::Contains),
            read_regex(findings, "safe_regex", raw.safe_regex.as_ref()),
        ];
        let ignore_case = raw.ignore_case.unwrap_or(false);
        if ignore_case && raw.safe_regex.is_some() {
            let message = "has no effect on a regular expression, and Envoy refuses it".to_owned();
            let help = "begin the expression with (?i)".to_owned();
            findings.within("ignore_case", |findings| findings.say_with_help(message, help));
        }
        let Some(pattern) = at_most_one(patterns.into_iter().flatten().collect(), findings)? else {
            findings.say("expected one of exact, prefix, suffix, contains and safe_regex".to_owned());
            return None;
        };
        Some(Self { pattern: pattern?, ignore_case })
    }

    pub fn matches(&self, value: &str) -> bool {
        let fold = |text: &str| if self.ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
        match &self.pattern {
            TextPattern::Exact(text) => fold(value) == fold(text),
            TextPattern::Prefix(text) => fold(value).starts_with(&fold(text)),
            TextPattern::Suffix(text) => fold(value).ends_with(&fold(text)),
            TextPattern::Contains(text) => fold(value).contains(&fold(text)),
            TextPattern::Regex(regex) => {
                text::anchored_regex(regex).is_ok_and(|regex| regex.is_match(value.as_bytes()))
            }
        }
    }
}

/// The pattern that a field holds, where it is given.
#[expect(clippy::option_option, reason = "a field that is not given and one that is refused are two cases")]
fn read_pattern(
    findings: &mut Findings,
    field: &str,
    text: Option<&str>,
    pattern: fn(String) -> TextPattern,
) -> Option<Option<TextPattern>> {
    text.map(|text| findings.within(field, |findings| findings.check(text, text::plain(text))).map(pattern))
}

#[expect(clippy::option_option, reason = "a field that is not given and one that is refused are two cases")]
fn read_regex(findings: &mut Findings, field: &str, raw: Option<&RawRegex>) -> Option<Option<TextPattern>> {
    raw.map(|RawRegex { regex, .. }| {
        let checked = |findings: &mut Findings| findings.check(regex, text::regex(regex)).map(TextPattern::Regex);
        findings.within(field, |findings| findings.within("regex", checked))
    })
}

/// The one that is given, if any; `None` and a finding where there are several.
fn at_most_one<T>(mut given: Vec<T>, findings: &mut Findings) -> Option<Option<T>> {
    if given.len() > 1 {
        findings.say("has several patterns, expected one".to_owned());
        return None;
    }
    Some(given.pop())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::document::split;
    use crate::policy::parse::parse;

    fn header(test: HeaderTest, is_inverted: bool, treat_missing_as_empty: bool) -> HeaderMatcher {
        HeaderMatcher { name: "x".to_owned(), test, is_inverted, treat_missing_as_empty }
    }

    fn text(pattern: TextPattern, ignore_case: bool) -> TextMatcher {
        TextMatcher { pattern, ignore_case }
    }

    /// Envoy route_components.proto, `HeaderMatcher`.
    #[test]
    fn a_header_that_is_missing_matches_only_where_it_is_said_so() {
        let exact = |value: &str| HeaderTest::Text(text(TextPattern::Exact(value.to_owned()), false));
        let missing: &[&str] = &[];
        for (matcher, values, expected) in [
            (header(exact("a"), false, false), &["a"][..], true),
            (header(exact("a"), false, false), &["b", "a"], true),
            (header(exact("a"), true, false), &["b", "a"], false),
            (header(exact("a"), true, false), &["b", "c"], true),
            (header(exact("a"), false, false), missing, false),
            (header(exact("a"), true, false), missing, false),
            (header(exact(""), false, true), missing, true),
            (header(exact("a"), false, true), missing, false),
            (header(exact("a"), true, true), missing, true),
            (header(HeaderTest::Present(true), false, false), &["a"], true),
            (header(HeaderTest::Present(true), false, false), missing, false),
            (header(HeaderTest::Present(false), false, false), missing, true),
            (header(HeaderTest::Present(false), false, false), &[""], false),
            (header(HeaderTest::Present(true), true, false), missing, true),
            (header(HeaderTest::Present(true), false, true), missing, true),
            (header(HeaderTest::Range(-1..2), false, false), &["-1"], true),
            (header(HeaderTest::Range(-1..2), false, false), &["2"], false),
            (header(HeaderTest::Range(-1..2), false, false), &["1.5", "", "x"], false),
            (header(HeaderTest::Range(-1..2), true, false), &["x"], true),
        ] {
            assert_eq!(matcher.matches(values), expected, "{matcher:?} of {values:?}");
        }
    }

    #[test]
    fn a_text_is_the_whole_its_beginning_its_end_or_a_part() {
        let of = |pattern: fn(String) -> TextPattern| move |own: &str| pattern(own.to_owned());
        let cases: [(TextPattern, &[&str], &[&str]); 5] = [
            (of(TextPattern::Exact)("a.b"), &["a.b"], &["a.bc", "axb", "A.b", ""]),
            (of(TextPattern::Prefix)("a."), &["a.", "a.b"], &["ba.", "a", "A."]),
            (of(TextPattern::Suffix)(".b"), &[".b", "a.b"], &[".ba", "b", ".B"]),
            (of(TextPattern::Contains)("."), &[".", "a.b"], &["", "ab"]),
            (of(TextPattern::Regex)("a.|c"), &["ab", "c"], &["abc", "xab", "cc", ""]),
        ];
        for (pattern, good, bad) in cases {
            let matcher = text(pattern, false);
            assert!(good.iter().all(|value| matcher.matches(value)), "{matcher:?}");
            assert!(!bad.iter().any(|value| matcher.matches(value)), "{matcher:?}");
        }
        let folded = text(TextPattern::Prefix("aB\u{c4}".to_owned()), true);
        assert!(folded.matches("Ab\u{c4}c"));
        assert!(!folded.matches("ab\u{e4}"), "of ASCII letters alone");
    }

    #[test]
    fn a_parameter_of_the_query_has_a_value_or_is_there_at_all() {
        let query = |test| QueryMatcher { name: "q".to_owned(), test };
        let exact = query(Ok(text(TextPattern::Exact(String::new()), false)));
        assert_eq!([Some(""), Some("a"), None].map(|value| exact.matches(value)), [true, false, false]);
        for expected in [true, false] {
            let present = query(Err(expected));
            assert_eq!([Some(""), None].map(|value| present.matches(value)), [expected, !expected]);
        }
    }

    /// The problems of a list whose only action looks at such a header, or at such a parameter.
    fn refused(action: &str) -> String {
        let entry = format!("{{actions: [{action}], limit: {{unit: MINUTE, requests_per_unit: 1}}}}");
        let list = format!("{{name: list, rate_limits: [{entry}]}}");
        let document = Arc::new(split(&"p.yaml".into(), list.as_bytes()).remove(0));
        let problems = parse(&document).map(drop).map_or_else(|refused| refused.problems, |()| Vec::new());
        let told = problems.iter().map(|problem| format!("{}: {}", problem.path, problem.message));
        told.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_matcher_that_cannot_be_meant_is_refused_by_its_place() {
        let header = |test: &str| {
            refused(&format!("{{header_value_match: {{descriptor_value: v, headers: [{{name: x, {test}}}]}}}}"))
        };
        let query = |test: &str| {
            let parameters = format!("query_parameters: [{{name: q, {test}}}]");
            refused(&format!("{{query_parameter_value_match: {{descriptor_value: v, {parameters}}}}}"))
        };
        let several = "has several patterns, expected one";
        for (told, field, words) in [
            (header("string_match: {exact: a, prefix: b}"), "headers[0].string_match", several),
            (header("exact_match: a, present_match: true"), "headers[0]", several),
            (header("string_match: {}"), "headers[0].string_match", "expected one of exact, prefix, suffix, contains"),
            (header("string_match: {prefix: ''}"), "headers[0].string_match.prefix", "found \"\""),
            (header("exact_match: ''"), "headers[0].exact_match", "found \"\""),
            (
                header("string_match: {safe_regex: {regex: '('}}"),
                "headers[0].string_match.safe_regex.regex",
                "found \"(\"",
            ),
            (
                header("string_match: {safe_regex: {regex: a}, ignore_case: true}"),
                "headers[0].string_match.ignore_case",
                "Envoy refuses it",
            ),
            (
                header("string_match: {custom: {name: n}}"),
                "headers[0].string_match.custom",
                "what an extension matches",
            ),
            (query("string_match: {exact: a}, present_match: true"), "query_parameters[0]", several),
            (query("string_match: {contains: ''}"), "query_parameters[0].string_match.contains", "found \"\""),
        ] {
            let place = told.split(": ").next().unwrap();
            assert!(place.ends_with(field) && told.contains(words), "{field}: {told}");
        }
        for good in [
            "string_match: {exact: ''}",
            "present_match: false",
            "range_match: {start: -5, end: 5}",
            "contains_match: a",
        ] {
            assert_eq!(header(good), "", "{good}");
        }
        assert_eq!(query("string_match: {safe_regex: {regex: 'a|b'}}"), "");
    }
}
