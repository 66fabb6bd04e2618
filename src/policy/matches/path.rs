//! Paths: a whole one, a template, a prefix or a regular expression.

use std::borrow::Cow;

use crate::policy::gateway::EscapedSlashes;
use crate::policy::normalize::{Normalized, capitalize_escapes, normalize};
use crate::policy::problem::Findings;
use crate::policy::raw::RawMatch;
use crate::policy::text;

/// The longest path, in bytes.
const PATH_BYTES_MAX: usize = 1024;
/// Envoy takes 256 bytes of template (uri_template_match.proto), and its names of variables may be longer than ours.
const TEMPLATE_BYTES_MAX: usize = 240;
/// The most variables of a template that Envoy takes.
const TEMPLATE_VARIABLES_MAX: usize = 5;

/// Percent-escapes are in capitals, whichever way they were written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathMatch {
    Exact(String),
    Template(Vec<TemplateSegment>),
    /// Without a slash at its end: the path itself, or what lies below it. Empty: every path.
    Prefix(String),
    Regex(String),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TemplateSegment {
    Literal(String),
    /// A variable, whose name makes no difference to what matches.
    Variable,
}

impl PathMatch {
    pub(super) fn read(raw: &RawMatch, findings: &mut Findings) -> Option<Self> {
        let given = [
            ("path", &raw.path, Self::parse_exact as fn(&str) -> Result<Self, String>),
            ("path_prefix", &raw.path_prefix, Self::parse_prefix),
            ("path_template", &raw.path_template, Self::parse_template),
            ("path_regex", &raw.path_regex, Self::parse_regex),
        ];
        let mut given = given.iter().filter_map(|(field, text, parse)| Some((*field, text.as_deref()?, parse)));
        match (given.next(), given.next()) {
            (Some((field, text, parse)), None) => findings.within(field, |findings| findings.check(text, parse(text))),
            (Some(_), Some((field, ..))) => {
                findings.within(field, |f| f.say("is a second kind of path: expected one".to_owned()));
                None
            }
            (None, _) => {
                findings.say("has no path: expected path, path_prefix, path_template or path_regex".to_owned());
                None
            }
        }
    }

    pub(super) fn parse_exact(path: &str) -> Result<Self, String> {
        check_shape(path)?;
        Self::Exact(capital(path).into_owned()).reachable()
    }

    pub(super) fn parse_prefix(path: &str) -> Result<Self, String> {
        check_shape(path)?;
        Self::Exact(capital(path).into_owned()).reachable()?;
        Ok(Self::Prefix(capital(path).trim_end_matches('/').to_owned()))
    }

    pub(super) fn parse_template(path: &str) -> Result<Self, String> {
        check_shape(path)?;
        let segment = |segment: &str| match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
            Some(name) if is_variable_name(name) => Ok(TemplateSegment::Variable),
            None if segment.bytes().all(is_template_literal) => {
                Ok(TemplateSegment::Literal(capital(segment).into_owned()))
            }
            _ => Err(format!(
                "a path whose variables are whole segments like {{id}}, with a-z, A-Z, 0-9 and -._~%!$&'()+,;:@= \
                 between them, instead of {segment:?}"
            )),
        };
        let segments = path.split('/').skip(1).map(segment).collect::<Result<Vec<_>, _>>()?;
        match segments.iter().filter(|segment| **segment == TemplateSegment::Variable).count() {
            0 => Err("a variable like {id}; without one use `path`".to_owned()),
            _ if path.len() > TEMPLATE_BYTES_MAX => Err(format!("at most {TEMPLATE_BYTES_MAX} bytes of template")),
            1..=TEMPLATE_VARIABLES_MAX => Self::Template(segments).reachable(),
            _ => Err(format!("at most {TEMPLATE_VARIABLES_MAX} variables; use `path_prefix` or `path_regex` for more")),
        }
    }

    pub(super) fn parse_regex(regex: &str) -> Result<Self, String> {
        text::regex(regex).map(Self::Regex)
    }

    /// The field that it is written in.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Exact(_) => "path",
            Self::Template(_) => "path_template",
            Self::Prefix(_) => "path_prefix",
            Self::Regex(_) => "path_regex",
        }
    }

    /// The path of a request that asks for this one as it is written here, unless it arrives so.
    pub fn arrives_otherwise(&self, escaped_slashes: EscapedSlashes) -> Option<Normalized> {
        let written = self.written()?;
        let normalized = normalize(&written, escaped_slashes);
        let arrives_so = matches!(&normalized, Normalized::Path(path) if *path == written);
        (!arrives_so).then_some(normalized)
    }

    fn reachable(self) -> Result<Self, String> {
        match self.arrives_otherwise(EscapedSlashes::Keep) {
            None => Ok(self),
            Some(Normalized::Path(path) | Normalized::Redirect(path)) => {
                Err(format!("{path:?}, which is how Envoy spells such a path before it looks for a route"))
            }
            Some(Normalized::Refused(reason)) => Err(format!("a path that Envoy does not refuse ({reason})")),
        }
    }

    /// A path that it takes. `None`: that is for a regular expression to say.
    fn written(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Exact(path) => Some(path.into()),
            Self::Prefix(prefix) if prefix.is_empty() => Some("/".into()),
            Self::Prefix(prefix) => Some(prefix.into()),
            Self::Template(segments) => {
                let segment = |segment: &TemplateSegment| match segment {
                    TemplateSegment::Literal(literal) => format!("/{literal}"),
                    TemplateSegment::Variable => "/x".to_owned(),
                };
                Some(segments.iter().map(segment).collect())
            }
            Self::Regex(_) => None,
        }
    }

    /// An expression for the whole path, where it has percent-escapes with letters: these come in capitals or not.
    pub fn escapes_regex(&self) -> Option<String> {
        has_lettered_escape(&self.written()?).then(|| match self {
            Self::Exact(path) => either_case(path),
            Self::Prefix(prefix) => either_case(prefix) + "(?:/.*)?",
            Self::Regex(regex) => regex.clone(),
            Self::Template(segments) => {
                let segment = |segment: &TemplateSegment| match segment {
                    TemplateSegment::Literal(literal) => format!("/{}", either_case(literal)),
                    TemplateSegment::Variable => "/[a-zA-Z0-9._~%!$&'()*+,;:@=-]+".to_owned(),
                };
                segments.iter().map(segment).collect()
            }
        })
    }

    /// True for the path of a request, normalized and without its query.
    pub fn matches(&self, path: &str) -> bool {
        let capital = capital(path);
        match self {
            Self::Regex(regex) => text::anchored_regex(regex).is_ok_and(|regex| regex.is_match(path.as_bytes())),
            Self::Exact(exact) => *exact == capital,
            Self::Prefix(prefix) => {
                capital.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Template(segments) => {
                let mut parts = capital.split('/').skip(1);
                let fits = |segment: &TemplateSegment| match (segment, parts.next()) {
                    (TemplateSegment::Literal(literal), Some(part)) => literal == part,
                    (TemplateSegment::Variable, Some(part)) => !part.is_empty() && part.bytes().all(is_of_variable),
                    (_, None) => false,
                };
                segments.iter().all(fits) && parts.next().is_none()
            }
        }
    }
}

fn check_shape(path: &str) -> Result<(), String> {
    let well_formed = path.starts_with('/')
        && path.len() <= PATH_BYTES_MAX
        && !path.contains(|c: char| c.is_control() || "?#".contains(c));
    well_formed.then_some(()).ok_or_else(|| {
        format!("a path of at most {PATH_BYTES_MAX} bytes that begins with `/`, without a query or a fragment")
    })
}

/// With percent-escapes in capitals.
fn capital(path: &str) -> Cow<'_, str> {
    match capitalize_escapes(path.as_bytes()) {
        Cow::Borrowed(_) => Cow::Borrowed(path),
        Cow::Owned(capital) => String::from_utf8(capital).map_or(Cow::Borrowed(path), Cow::Owned),
    }
}

fn has_lettered_escape(path: &str) -> bool {
    path.split('%').skip(1).any(is_lettered_escape)
}

/// Of what comes after a percent sign.
fn is_lettered_escape(after: &str) -> bool {
    let digits = after.bytes().take_while(u8::is_ascii_hexdigit).take(2);
    digits.clone().count() == 2 && digits.clone().any(|digit| digit.is_ascii_alphabetic())
}

/// An expression for a text whose percent-escapes come in capitals or not.
fn either_case(text: &str) -> String {
    let mut parts = text.split('%');
    let first = regex::escape(parts.next().unwrap_or_default());
    let others = parts.map(|after| {
        let digits = if is_lettered_escape(after) { 2 } else { 0 };
        let (escape, rest) = after.split_at(digits);
        let case_free = if escape.is_empty() { String::new() } else { format!("(?i:{escape})") };
        format!("%{case_free}{}", regex::escape(rest))
    });
    std::iter::once(first).chain(others).collect()
}

/// The bytes that Envoy takes for a variable of a template. Whatever else a normalized path may have is a slash or a
/// bracket.
fn is_of_variable(b: u8) -> bool {
    b == b'*' || is_template_literal(b)
}

/// The bytes that Envoy takes between the variables of a template.
fn is_template_literal(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&b)
}

fn is_variable_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.len() <= 16
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parse = fn(&str) -> Result<PathMatch, String>;

    fn path(parse: Parse, text: &str) -> PathMatch {
        parse(text).unwrap()
    }

    #[test]
    fn a_prefix_takes_whole_segments() {
        let prefix = path(PathMatch::parse_prefix, "/order");
        assert!(prefix.matches("/order") && prefix.matches("/order/") && prefix.matches("/order/7"));
        assert!(!prefix.matches("/orders") && !prefix.matches("/"));
        assert!(path(PathMatch::parse_prefix, "/").matches("/anything"));
        assert_eq!(path(PathMatch::parse_prefix, "/order/"), prefix);
    }

    #[test]
    fn a_template_takes_one_segment_for_each_variable() {
        let template = path(PathMatch::parse_template, "/order/{id}/items");
        assert!(template.matches("/order/7/items"));
        assert!(
            !template.matches("/order//items")
                && !template.matches("/order/7")
                && !template.matches("/order/7/items/1")
        );
        assert_eq!(template, path(PathMatch::parse_template, "/order/{order}/items"));
        for bad in ["/order/{id", "/order/a{id}", "/order/{}", "/order/*", "/order", "/a|b/{id}", "/a<b>/{id}"] {
            assert!(PathMatch::parse_template(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_template_is_one_that_envoy_takes() {
        assert!(PathMatch::parse_template("/v=1;x,y/{a}/{b}/{c}/{d}/{e}").is_ok());
        assert!(PathMatch::parse_template("/{a}/{b}/{c}/{d}/{e}/{f}").is_err());
        assert!(PathMatch::parse_template(&format!("/{}/{{a}}", "x".repeat(235))).is_ok());
        assert!(PathMatch::parse_template(&format!("/{}/{{a}}", "x".repeat(236))).is_err());
    }

    #[test]
    fn percent_escapes_are_taken_in_capitals_or_not() {
        let parses: [(Parse, &str); 3] = [
            (PathMatch::parse_exact, "/pkg/a%2fb%C3"),
            (PathMatch::parse_prefix, "/pkg/a%2fb%c3"),
            (PathMatch::parse_template, "/{x}/a%2Fb%c3"),
        ];
        for (parse, text) in parses {
            let matching = path(parse, text);
            let regex = text::anchored_regex(&matching.escapes_regex().unwrap()).unwrap();
            for spelling in ["/pkg/a%2Fb%C3", "/pkg/a%2fb%c3", "/pkg/a%2fb%C3"] {
                assert!(matching.matches(spelling) && regex.is_match(spelling.as_bytes()), "{text} {spelling}");
            }
            assert!(!matching.matches("/pkg/A%2Fb%C3") && !regex.is_match(b"/pkg/A%2Fb%C3"), "{text}");
        }
        assert_eq!(path(PathMatch::parse_exact, "/a%20b").escapes_regex(), None);
    }

    #[test]
    fn a_variable_of_a_template_takes_no_brackets() {
        let template = path(PathMatch::parse_template, "/{id}");
        assert!(template.matches("/a*;x=%5B") && !template.matches("/a[b]"));
    }

    #[test]
    fn paths_that_no_request_could_have_are_refused() {
        for bad in ["/%61bc", "/a/%2e%2e/b", "/a%00", "/a|b", "/a b", "/a\\b", "/a/..;x"] {
            assert!(PathMatch::parse_exact(bad).is_err(), "{bad}");
            assert!(PathMatch::parse_prefix(bad).is_err(), "{bad}");
            assert!(PathMatch::parse_template(&format!("{bad}/{{id}}")).is_err(), "{bad}");
        }
        for bad in ["", "order", "/a//b", "/a/../b", "/a?x=1", "/a#b", "/ä", &format!("/{}", "a".repeat(1024))] {
            assert!(PathMatch::parse_exact(bad).is_err(), "{bad}");
        }
    }
}
