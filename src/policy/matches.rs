//! Which requests belong to an API, and which API comes first where several would take a request.

mod condition;
mod host;
mod path;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use super::problem::Findings;
use super::raw::{RawCondition, RawMatch, WordOr};
use super::text;

pub use condition::Condition;
pub use host::{HostMatch, host_name, name_length};
pub use path::{PathMatch, TemplateSegment};

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

/// Smaller comes first. Equal only where two APIs could not be told apart (their hosts and which methods aside).
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
    /// Of two that are the same but for their methods, the one with methods comes first.
    takes_any_method: bool,
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

    /// The API's rank among those that a request for a host of `host` could go to.
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
            takes_any_method: self.methods.is_empty(),
        }
    }

    /// The conditions on headers that hold for a preflight if they hold for the request that it asks for. All others are
    /// on headers that a preflight does not have.
    pub fn headers_of_preflight(&self) -> impl Iterator<Item = (&String, &Condition)> {
        self.headers.iter().filter(|(name, _)| matches!(name.as_str(), "host" | "origin"))
    }

    /// True where some request would fit both equally well, so that nothing but chance could choose.
    pub fn collides(&self, other: &Self) -> bool {
        let methods_meet = match (self.methods.as_slice(), other.methods.as_slice()) {
            ([], []) => true,
            (a, b) => a.iter().any(|method| b.contains(method)),
        };
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

    /// The condition that would tell the two apart that collide.
    pub fn told_apart_by(&self, other: &Self) -> String {
        let shared_methods = shared(&self.methods, &other.methods);
        let shared_hosts = shared(&self.hosts, &other.hosts);
        let disjoint = [("methods", shared_methods), ("hosts", shared_hosts)];
        let mut ways: Vec<String> = disjoint
            .into_iter()
            .map(|(field, shared)| match shared.is_empty() {
                true => format!("`{field}` on one of the two"),
                false => format!("`{field}` without {} on one of the two", shared.join(" and ")),
            })
            .collect();
        ways.push("another condition of `headers` or `query` on one of the two".to_owned());
        ways.join(", or ")
    }
}

fn shared<T: PartialEq + fmt::Display>(a: &[T], b: &[T]) -> Vec<String> {
    a.iter().filter(|value| b.contains(value)).map(ToString::to_string).collect()
}

pub(super) fn parse_method(method: &str) -> Result<String, String> {
    if method == "CONNECT" {
        return Err(
            "a method that gateways take: what goes through CONNECT could be requests that no limit sees".to_owned()
        );
    }
    let well_formed = (1..=32).contains(&method.len()) && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
    well_formed.then(|| method.to_owned()).ok_or_else(|| "a method in capitals, as in POST".to_owned())
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
        assert!(with(&[], &[]).collides(&with(&[], &[])));
        assert!(with(&["GET", "POST"], &[]).collides(&with(&["GET"], &[])));
        assert!(!with(&[], &[]).collides(&with(&["GET"], &[])));
        assert!(with(&["GET"], &[]).precedence(None) < with(&[], &[]).precedence(None));
        assert!(!with(&["POST"], &[]).collides(&with(&["GET"], &[])));
        assert!(with(&[], &["a.b", "c.d"]).collides(&with(&[], &["c.d"])));
        assert!(!with(&[], &["a.b"]).collides(&with(&[], &[])));
        assert!(!orders.collides(&matching(path(PathMatch::parse_prefix, "/order"), &["b"])));
    }

    #[test]
    fn methods_are_in_capitals_and_gateways_take_no_connect() {
        assert!(parse_method("POST").is_ok() && parse_method("VERSION-CONTROL").is_ok());
        assert!(["CONNECT", "post", ""].iter().all(|method| parse_method(method).is_err()));
    }
}
