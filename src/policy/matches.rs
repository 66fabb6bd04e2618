//! Which requests belong to an API, and which API comes first where several would take a request.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use super::problem::Findings;
use super::raw::{RawCondition, RawMatch, WordOr};
use super::text;

/// The longest path, in bytes.
const PATH_BYTES_MAX: usize = 1024;

/// Methods and hosts are sorted and hold no value twice, so that equal conditions are equal values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    pub path: PathMatch,
    /// Empty: all.
    pub methods: Vec<String>,
    /// Empty: all.
    pub hosts: Vec<HostMatch>,
    pub headers: BTreeMap<String, Condition>,
    pub query: BTreeMap<String, Condition>,
}

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

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostMatch {
    Exact(String),
    /// `*.shop.example` is kept as `.shop.example`.
    Suffix(String),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Regex(String),
    Present(bool),
}

/// Smaller comes first. Equal only where two APIs could not be told apart (their hosts and methods aside).
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence<'a> {
    path_kind: u8,
    /// Of templates, one with a literal where the other has a variable comes first.
    variables: Vec<bool>,
    path_length: Reverse<usize>,
    /// A whole host before a suffix, a longer suffix before a shorter one, and any host last.
    host: Reverse<usize>,
    conditions: Reverse<usize>,
    path: &'a PathMatch,
    headers: &'a BTreeMap<String, Condition>,
    query: &'a BTreeMap<String, Condition>,
}

impl Match {
    pub fn read(raw: &RawMatch, findings: &mut Findings) -> Option<Self> {
        let path = PathMatch::read(raw, findings);
        let methods = read_sorted("methods", raw.methods.as_deref(), findings, parse_method);
        let hosts = read_sorted("hosts", raw.hosts.as_deref(), findings, HostMatch::parse);
        let headers = read_conditions("headers", raw.headers.as_ref(), findings, |name| {
            text::header_name(name).map_err(str::to_owned)
        });
        let query = read_conditions("query", raw.query.as_ref(), findings, text::plain);
        Some(Self { path: path?, methods: methods?, hosts: hosts?, headers: headers?, query: query? })
    }

    /// Where the API stands among those that a request for a host of `host` could go to.
    pub fn precedence(&self, host: Option<&HostMatch>) -> Precedence<'_> {
        let of_host = |own: &&HostMatch| host.is_some_and(|host| own.covers(host));
        let host_rank = |host: &HostMatch| match host {
            HostMatch::Exact(_) => usize::MAX,
            HostMatch::Suffix(suffix) => suffix.len(),
        };
        Precedence {
            path_kind: match self.path {
                PathMatch::Exact(_) => 0,
                PathMatch::Template(_) => 1,
                PathMatch::Prefix(_) => 2,
                PathMatch::Regex(_) => 3,
            },
            variables: match &self.path {
                PathMatch::Template(segments) => segments.iter().map(|s| *s == TemplateSegment::Variable).collect(),
                _ => Vec::new(),
            },
            path_length: Reverse(match &self.path {
                PathMatch::Exact(path) | PathMatch::Prefix(path) | PathMatch::Regex(path) => path.len(),
                PathMatch::Template(segments) => segments.len(),
            }),
            host: Reverse(self.hosts.iter().filter(of_host).map(host_rank).max().unwrap_or(0)),
            conditions: Reverse(self.headers.len() + self.query.len()),
            path: &self.path,
            headers: &self.headers,
            query: &self.query,
        }
    }

    /// Whether some request would fit both equally well, so that nothing but chance could choose.
    pub fn collides(&self, other: &Self) -> bool {
        let methods_meet = self.methods.is_empty()
            || other.methods.is_empty()
            || self.methods.iter().any(|method| other.methods.contains(method));
        let hosts_meet = match (self.hosts.as_slice(), other.hosts.as_slice()) {
            ([], []) => true,
            (a, b) => a.iter().any(|host| b.contains(host)),
        };
        methods_meet
            && hosts_meet
            && self.path == other.path
            && self.headers == other.headers
            && self.query == other.query
    }
}

impl PathMatch {
    fn read(raw: &RawMatch, findings: &mut Findings) -> Option<Self> {
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

    fn parse_exact(path: &str) -> Result<Self, String> {
        check_path(path).map(|()| Self::Exact(path.to_owned()))
    }

    fn parse_prefix(path: &str) -> Result<Self, String> {
        check_path(path).map(|()| Self::Prefix(path.trim_end_matches('/').to_owned()))
    }

    fn parse_template(path: &str) -> Result<Self, String> {
        check_path(path)?;
        let segment = |segment: &str| match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
            Some(name) if is_variable_name(name) => Ok(TemplateSegment::Variable),
            None if !segment.contains(['{', '}', '*']) => Ok(TemplateSegment::Literal(segment.to_owned())),
            _ => Err(format!("a path whose variables are whole segments like {{id}} instead of {segment:?}")),
        };
        let segments = path.split('/').skip(1).map(segment).collect::<Result<Vec<_>, _>>()?;
        let has_variable = segments.contains(&TemplateSegment::Variable);
        has_variable
            .then_some(Self::Template(segments))
            .ok_or_else(|| "a variable like {id}; without one use `path`".to_owned())
    }

    fn parse_regex(regex: &str) -> Result<Self, String> {
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
            Self::Regex(regex) => text::anchored_regex(regex).is_ok_and(|regex| regex.is_match(path)),
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

fn is_variable_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.len() <= 16
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn parse_method(method: &str) -> Result<String, String> {
    let well_formed = (1..=32).contains(&method.len()) && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
    well_formed.then(|| method.to_owned()).ok_or_else(|| "a method in capitals, as in POST".to_owned())
}

impl HostMatch {
    fn parse(host: &str) -> Result<Self, String> {
        let (name, is_suffix) = match host.strip_prefix('*') {
            Some(suffix) => (suffix.strip_prefix('.').unwrap_or("*"), true),
            None => (host, false),
        };
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if name.len() > 253 || !name.split('.').all(is_label) {
            return Err("a host name without a port, as in shop.example or *.shop.example".to_owned());
        }
        let name = name.to_ascii_lowercase();
        Ok(if is_suffix { Self::Suffix(format!(".{name}")) } else { Self::Exact(name) })
    }

    /// Whether every host of `other` is one of these.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(own), Self::Exact(other)) => own == other,
            (Self::Suffix(own), Self::Exact(other)) => other.len() > own.len() && other.ends_with(own.as_str()),
            (Self::Suffix(own), Self::Suffix(other)) => other.ends_with(own.as_str()),
            (Self::Exact(_), Self::Suffix(_)) => false,
        }
    }
}

impl fmt::Display for HostMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

impl Condition {
    fn read(raw: &WordOr<RawCondition>, findings: &mut Findings) -> Option<Self> {
        let raw = match raw {
            WordOr::Word(exact) => return findings.check(exact, text::plain(exact)).map(Self::Exact),
            WordOr::Long(raw) => raw,
        };
        let mut text_in = |field, text: &String| findings.within(field, |f| f.check(text, text::plain(text)));
        match raw {
            RawCondition::Exact(text) => text_in("exact", text).map(Self::Exact),
            RawCondition::Prefix(text) => text_in("prefix", text).map(Self::Prefix),
            RawCondition::Suffix(text) => text_in("suffix", text).map(Self::Suffix),
            RawCondition::Contains(text) => text_in("contains", text).map(Self::Contains),
            RawCondition::Regex(text) => {
                findings.within("regex", |f| f.check(text, text::regex(text))).map(Self::Regex)
            }
            RawCondition::Present(present) => Some(Self::Present(*present)),
        }
    }

    pub fn holds(&self, value: Option<&str>) -> bool {
        match (self, value) {
            (Self::Present(expected), value) => value.is_some() == *expected,
            (_, None) => false,
            (Self::Exact(text), Some(value)) => text == value,
            (Self::Prefix(text), Some(value)) => value.starts_with(text.as_str()),
            (Self::Suffix(text), Some(value)) => value.ends_with(text.as_str()),
            (Self::Contains(text), Some(value)) => value.contains(text.as_str()),
            (Self::Regex(text), Some(value)) => text::anchored_regex(text).is_ok_and(|regex| regex.is_match(value)),
        }
    }
}

fn read_sorted<T: Ord + fmt::Display>(
    field: &str,
    raws: Option<&[String]>,
    findings: &mut Findings,
    parse: fn(&str) -> Result<T, String>,
) -> Option<Vec<T>> {
    let raws = text::not_empty(findings, field, raws);
    findings.within(field, |findings| {
        let mut values = Vec::with_capacity(raws.len());
        for (index, raw) in raws.iter().enumerate() {
            findings.within(index, |findings| match findings.check(raw, parse(raw)) {
                Some(value) if values.contains(&value) => findings.say(format!("{value} stands twice")),
                Some(value) => values.push(value),
                None => {}
            });
        }
        values.sort();
        (values.len() == raws.len()).then_some(values)
    })
}

fn read_conditions(
    field: &str,
    raws: Option<&BTreeMap<String, WordOr<RawCondition>>>,
    findings: &mut Findings,
    parse_name: fn(&str) -> Result<String, String>,
) -> Option<BTreeMap<String, Condition>> {
    let Some(raws) = raws else { return Some(BTreeMap::new()) };
    findings.within(field, |findings| {
        let mut read = |(name, raw): (&String, _)| {
            findings.within(name.as_str(), |findings| {
                let condition = Condition::read(raw, findings);
                let name = findings.check(name, parse_name(name));
                Some((name?, condition?))
            })
        };
        raws.iter().map(&mut read).collect::<Vec<_>>().into_iter().collect()
    })
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
        for bad in ["/order/{id", "/order/a{id}", "/order/{}", "/order/*", "/order"] {
            assert!(PathMatch::parse_template(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_that_no_request_could_have_are_refused() {
        for bad in ["", "order", "/a//b", "/a/../b", "/a?x=1", "/a#b", "/ä", &format!("/{}", "a".repeat(1024))] {
            assert!(PathMatch::parse_exact(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_whole_names_or_suffixes() {
        let host = |text: &str| HostMatch::parse(text).unwrap();
        assert!(host("*.shop.example").covers(&host("a.shop.example")));
        assert!(host("*.example").covers(&host("*.shop.example")));
        assert!(!host("*.shop.example").covers(&host("shop.example")));
        assert_eq!(host("Shop.Example").to_string(), "shop.example");
        for bad in ["*", "shop.*", "a:80", "a..b", "*shop"] {
            assert!(HostMatch::parse(bad).is_err(), "{bad}");
        }
    }

    fn matching(path: PathMatch, headers: &[&str]) -> Match {
        let headers = headers.iter().map(|name| ((*name).to_owned(), Condition::Present(true))).collect();
        Match { path, methods: vec![], hosts: vec![], headers, query: BTreeMap::new() }
    }

    #[test]
    fn the_more_specific_path_comes_first() {
        let exact = PathMatch::parse_exact;
        let prefix = PathMatch::parse_prefix;
        let template = PathMatch::parse_template;
        let in_order = [
            matching(path(exact, "/order/create"), &["a"]),
            matching(path(exact, "/order/create"), &[]),
            matching(path(template, "/order/{id}/items"), &[]),
            matching(path(template, "/{any}/{id}/items"), &[]),
            matching(path(prefix, "/order/eu"), &[]),
            matching(path(prefix, "/order"), &["a", "b"]),
            matching(path(prefix, "/order"), &["a"]),
            matching(path(prefix, "/"), &[]),
            matching(path(PathMatch::parse_regex, "/.*"), &[]),
        ];
        assert!(in_order.is_sorted_by(|a, b| a.precedence(None) < b.precedence(None)));
    }

    #[test]
    fn apis_collide_when_a_request_would_fit_both_equally() {
        let orders = matching(path(PathMatch::parse_prefix, "/order"), &["a"]);
        let with = |methods: &[&str], hosts: &[&str]| Match {
            methods: methods.iter().map(|method| (*method).to_owned()).collect(),
            hosts: hosts.iter().map(|host| HostMatch::parse(host).unwrap()).collect(),
            ..orders.clone()
        };
        assert!(with(&[], &[]).collides(&with(&["GET"], &[])));
        assert!(!with(&["POST"], &[]).collides(&with(&["GET"], &[])));
        assert!(with(&[], &["a.b", "c.d"]).collides(&with(&[], &["c.d"])));
        assert!(!with(&[], &["a.b"]).collides(&with(&[], &[])));
        assert!(!orders.collides(&matching(path(PathMatch::parse_prefix, "/order"), &["b"])));
    }
}
