//! The small texts that policies are made of. Each reader gives the value, or what it expected instead.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use regex::bytes::{Regex, RegexBuilder};

use super::problem::{Findings, nearest};
use super::re2;
use crate::document::{REQUIREMENTS_MAX, Requirement};
use crate::names::{Kind, Name, TenantName};

/// The longest regular expression, in bytes.
pub(super) const REGEX_BYTES_MAX: usize = 1024;
/// The most memory that a compiled regular expression may take, in bytes.
const REGEX_COMPILED_BYTES_MAX: usize = 1 << 20;
const REVISION: &str = "a revision of etcd, which counts them from 1";
/// The longest key of etcd that can be required, in bytes.
const KEY_BYTES_MAX: usize = 512;
/// The longest text that is matched or reported, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// `250ms`, `2s`, `1m`, `1h`: a whole number and a unit, within bounds.
pub(super) fn duration(text: &str, bounds: RangeInclusive<Duration>) -> Result<Duration, String> {
    let expected = || {
        let (low, high) = (Millis(*bounds.start()), Millis(*bounds.end()));
        format!("a duration of {low} to {high} with the unit ms, s, m or h, as in 250ms")
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit.trim() {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(expected()),
    };
    let ms = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit_ms)).ok_or_else(expected)?;
    Some(Duration::from_millis(ms)).filter(|duration| bounds.contains(duration)).ok_or_else(expected)
}

/// Reads an optional duration that has a default.
pub(super) fn duration_or(
    findings: &mut Findings,
    field: &str,
    text: Option<&str>,
    default: Duration,
    bounds: RangeInclusive<Duration>,
) -> Option<Duration> {
    let Some(text) = text else { return Some(default) };
    findings.within(field, |findings| findings.check(text, duration(text, bounds)))
}

struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX) {
            ms if ms >= 3_600_000 && ms.is_multiple_of(3_600_000) => write!(f, "{}h", ms / 3_600_000),
            ms if ms >= 60_000 && ms.is_multiple_of(60_000) => write!(f, "{}m", ms / 60_000),
            ms if ms.is_multiple_of(1000) => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

/// A name in the field where the reader is, or a finding.
pub(super) fn name(findings: &mut Findings, field: &str, text: &str) -> Option<Name> {
    findings.within(field, |findings| findings.check(text, Name::parse(text).ok_or(Name::EXPECTED)))
}

/// A number within bounds, or a finding.
pub(super) fn number_within(
    findings: &mut Findings,
    field: &str,
    number: Option<u32>,
    default: u32,
    bounds: RangeInclusive<u32>,
) -> Option<u32> {
    let Some(number) = number else { return Some(default) };
    let (low, high) = (bounds.start(), bounds.end());
    let checked = bounds.contains(&number).then_some(number).ok_or_else(|| format!("a number of {low} to {high}"));
    findings.within(field, |findings| findings.check(number, checked))
}

/// The name of a request header, in lower case as HTTP/2 has it (RFC 9113, section 8.2.1).
pub(super) fn header_name(text: &str) -> Result<String, &'static str> {
    if is_token(text) { Ok(text.to_ascii_lowercase()) } else { Err("the name of a header, as in x-tenant-id") }
}

/// The name of a cookie (RFC 6265, section 4.1.1).
pub(super) fn cookie_name(text: &str) -> Result<String, &'static str> {
    if is_token(text) { Ok(text.to_owned()) } else { Err("the name of a cookie") }
}

/// A token of RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    (1..=TEXT_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// The path of a file on the Envoy's host, in the field of that name.
pub(super) fn envoy_path(findings: &mut Findings, field: &str, path: &str) -> Option<String> {
    let absolute = if path.starts_with('/') { plain(path).ok() } else { None };
    let absolute =
        absolute.ok_or_else(|| format!("an absolute path on the Envoy's host of at most {TEXT_BYTES_MAX} bytes"));
    findings.within(field, |findings| findings.check(path, absolute))
}

/// The path of a folder on the Envoy's host, without slashes at its end.
pub(super) fn envoy_folder(findings: &mut Findings, field: &str, path: &str) -> Option<String> {
    let path = envoy_path(findings, field, path)?;
    let trimmed = path.trim_end_matches('/');
    Some(if trimmed.is_empty() { path } else { trimmed.to_owned() })
}

/// A host name without a port, in lower case.
pub(super) fn host_name(text: &str) -> Option<String> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    (text.len() <= 253 && text.split('.').all(is_label)).then(|| text.to_ascii_lowercase())
}

/// A host name, with a dot at its end where the name is whole, and a port.
pub(super) fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse::<u16>().ok().filter(|port| *port != 0)?;
    let name = host.strip_suffix('.').unwrap_or(host);
    host_name(name).map(|_| (host.to_owned(), port))
}

/// A text without control characters that is neither empty nor very long.
pub(super) fn plain(text: &str) -> Result<String, String> {
    let well_formed = (1..=TEXT_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control);
    well_formed.then(|| text.to_owned()).ok_or_else(|| format!("1 to {TEXT_BYTES_MAX} bytes of text"))
}

/// A regular expression that Envoy's RE2 takes too. It is compiled here so that a bad one is refused here.
pub(super) fn regex(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > REGEX_BYTES_MAX {
        return Err(format!("a regular expression of 1 to {REGEX_BYTES_MAX} bytes"));
    }
    let compiled = || anchored_regex(text).map_err(|error| re2::last_line(&error.to_string()));
    match re2::check(text).and_then(|()| compiled()) {
        Ok(_) => Ok(text.to_owned()),
        Err(reason) => Err(format!("a regular expression ({reason})")),
    }
}

/// The expression as Envoy uses it: it has to match the whole value, of which each byte is a character.
pub(super) fn anchored_regex(text: &str) -> Result<Regex, regex::Error> {
    let mut builder = RegexBuilder::new(&format!("^(?:{text})$"));
    builder.unicode(false).size_limit(REGEX_COMPILED_BYTES_MAX).build()
}

/// A list that, when it is given, has something in it.
pub(super) fn not_empty<'a, T>(findings: &mut Findings, field: &str, list: Option<&'a [T]>) -> &'a [T] {
    if list.is_some_and(<[T]>::is_empty) {
        findings.within(field, |findings| findings.say("is empty: expected at least one entry".to_owned()));
    }
    list.unwrap_or_default()
}

/// Every element of a list that must not be empty.
pub(super) fn list<R, T>(
    findings: &mut Findings,
    field: &str,
    raws: &[R],
    read: impl Fn(&R, &mut Findings) -> Option<T>,
) -> Option<Vec<T>> {
    not_empty(findings, field, Some(raws));
    findings.within(field, |findings| {
        let read = |(index, raw)| findings.within(index, |findings| read(raw, findings));
        let elements: Vec<_> = raws.iter().enumerate().map(read).collect();
        elements.into_iter().collect()
    })
}

/// A part that may be left out, but not be wrong.
pub(super) fn optional<T>(part: Option<Option<T>>) -> Option<Option<T>> {
    match part {
        Some(read) => read.map(Some),
        None => Some(None),
    }
}

/// Checks that what a document requires makes sense by itself. Whether it holds is for the source to say.
pub(super) fn requires(findings: &mut Findings, own: (Kind, &str), requires: Option<&[Requirement]>) {
    let requires = not_empty(findings, "requires", requires);
    findings.within("requires", |findings| {
        if requires.len() > REQUIREMENTS_MAX {
            findings.say(format!("has {} entries, expected at most {REQUIREMENTS_MAX}", requires.len()));
        }
        for (index, requirement) in requires.iter().enumerate() {
            findings.within(index, |findings| {
                findings.within("key", |findings| required_key(findings, own, &requirement.key));
                match (requirement.revision, requirement.create_revision) {
                    (Some(0), None) => findings.within("revision", |findings| findings.refuse(0, REVISION)),
                    (None, Some(0)) => findings.within("create_revision", |findings| findings.refuse(0, REVISION)),
                    (Some(_), None) | (None, Some(_)) => {}
                    _ => findings.say("expected exactly one of revision and create_revision".to_owned()),
                }
            });
        }
    });
}

/// Checks a key that is to be there: one that never can be is a mistake, and not a thing to wait for.
fn required_key(findings: &mut Findings, own: (Kind, &str), key: &str) {
    let Some(document) = key.strip_prefix("policies/") else {
        let is_segment = |segment: &str| {
            let is_plain = segment.bytes().all(|byte| byte.is_ascii_graphic());
            is_plain && !matches!(segment, "" | "." | "..")
        };
        if key.len() > KEY_BYTES_MAX || !key.split('/').all(is_segment) {
            findings.refuse(key, "a key below the prefix, as in policies/Service/order or leaders/deployer");
        }
        return;
    };
    let (kind, name) = document.split_once('/').unwrap_or((document, ""));
    let Some(known) = Kind::parse(kind) else {
        let kinds = Kind::ALL.map(Kind::as_str);
        let message = format!("found {key:?}, expected policies/ and one of {}, then / and a name", kinds.join(", "));
        return match nearest(kind, kinds) {
            Some(help) => findings.say_with_help(message, help),
            None => findings.say(message),
        };
    };
    let expected = match known {
        Kind::Tenant => TenantName::parse(name).is_none().then_some(TenantName::EXPECTED),
        // It may be made from the key.
        Kind::RateLimits => (name.is_empty() || name.contains(char::is_control)).then_some("at least one character"),
        _ => Name::parse(name).is_none().then_some(Name::EXPECTED),
    };
    match expected {
        Some(expected) => findings.refuse(key, format_args!("policies/{kind}/ and a name: {expected}")),
        None if (known, name) == own => findings.refuse(key, "the key of another document than this one"),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_and_bounds() {
        let bounds = Duration::from_millis(1)..=Duration::from_secs(3600);
        for (text, ms) in [("20ms", 20), ("2s", 2000), ("1m", 60_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text, bounds.clone()), Ok(Duration::from_millis(ms)));
        }
        let expected = "a duration of 1ms to 1h with the unit ms, s, m or h, as in 250ms";
        for text in ["", "5", "s", "0s", "2h", "-1s", "1.5s", "1d", "99999999999999999999s"] {
            assert_eq!(duration(text, bounds.clone()), Err(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn regular_expressions_are_compiled_when_they_are_read() {
        assert!(regex("/order/[0-9]+").is_ok());
        assert!(regex("(").unwrap_err().contains("unclosed group"));
        assert!(regex(&"a".repeat(1025)).is_err());
        assert!(regex(r"(\w{1000}){100}").is_err(), "one that compiles to too much");
    }
}
