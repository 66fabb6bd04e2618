//! Paths: a whole one, a template, a prefix or a regular expression.

use crate::policy::problem::Findings;
use crate::policy::raw::RawMatch;
use crate::policy::text;

/// The longest path, in bytes.
const PATH_BYTES_MAX: usize = 1024;
/// Envoy takes 256 bytes of template (uri_template_match.proto), and its names of variables may be longer than ours.
const TEMPLATE_BYTES_MAX: usize = 240;
/// The most variables of a template that Envoy takes.
const TEMPLATE_VARIABLES_MAX: usize = 5;

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
    /// What the variable is called makes no difference to what matches.
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
        check_path(path).map(|()| Self::Exact(path.to_owned()))
    }

    pub(super) fn parse_prefix(path: &str) -> Result<Self, String> {
        check_path(path).map(|()| Self::Prefix(path.trim_end_matches('/').to_owned()))
    }

    pub(super) fn parse_template(path: &str) -> Result<Self, String> {
        check_path(path)?;
        let segment = |segment: &str| match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
            Some(name) if is_variable_name(name) => Ok(TemplateSegment::Variable),
            None if segment.bytes().all(is_template_literal) => Ok(TemplateSegment::Literal(segment.to_owned())),
            _ => Err(format!(
                "a path whose variables are whole segments like {{id}}, with a-z, A-Z, 0-9 and -._~%!$&'()+,;:@= \
                 between them, instead of {segment:?}"
            )),
        };
        let segments = path.split('/').skip(1).map(segment).collect::<Result<Vec<_>, _>>()?;
        match segments.iter().filter(|segment| **segment == TemplateSegment::Variable).count() {
            0 => Err("a variable like {id}; without one use `path`".to_owned()),
            _ if path.len() > TEMPLATE_BYTES_MAX => Err(format!("at most {TEMPLATE_BYTES_MAX} bytes of template")),
            1..=TEMPLATE_VARIABLES_MAX => Ok(Self::Template(segments)),
            _ => Err(format!("at most {TEMPLATE_VARIABLES_MAX} variables; use `path_prefix` or `path_regex` for more")),
        }
    }

    pub(super) fn parse_regex(regex: &str) -> Result<Self, String> {
        text::regex(regex).map(Self::Regex)
    }

    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Prefix(prefix) => {
                path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Template(segments) => {
                let mut parts = path.split('/').skip(1);
                let fits = |segment: &TemplateSegment| match (segment, parts.next()) {
                    (TemplateSegment::Literal(literal), Some(part)) => literal == part,
                    (TemplateSegment::Variable, Some(part)) => !part.is_empty(),
                    (_, None) => false,
                };
                segments.iter().all(fits) && parts.next().is_none()
            }
            Self::Regex(regex) => text::anchored_regex(regex).is_ok_and(|regex| regex.is_match(path.as_bytes())),
        }
    }
}

/// Only paths that can reach a route: Envoy has normalized a request's path by then (RFC 3986, section 6).
fn check_path(path: &str) -> Result<(), String> {
    let reachable = path.starts_with('/')
        && path.len() <= PATH_BYTES_MAX
        && path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#'))
        && !path.contains("//")
        && !path.split('/').any(|segment| segment == "." || segment == "..");
    reachable.then_some(()).ok_or_else(|| {
        format!("a path of at most {PATH_BYTES_MAX} bytes that begins with `/`, without a query, `//`, `.` or `..`")
    })
}

/// What Envoy takes between the variables of a template.
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

    fn path(parse: fn(&str) -> Result<PathMatch, String>, text: &str) -> PathMatch {
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
    fn paths_that_no_request_could_have_are_refused() {
        for bad in ["", "order", "/a//b", "/a/../b", "/a?x=1", "/a#b", "/ä", &format!("/{}", "a".repeat(1024))] {
            assert!(PathMatch::parse_exact(bad).is_err(), "{bad}");
        }
    }
}
