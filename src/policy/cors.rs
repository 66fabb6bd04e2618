//! Which pages of other origins may use an Api (CORS, Fetch standard, section 3.2).

use std::net::IpAddr;
use std::time::Duration;

use super::matches::parse_method;
use super::problem::Findings;
use super::raw::{RawCors, RawOrigin, WordOr};
use super::text;

/// The most entries of a list.
const ENTRIES_MAX: usize = 64;
const DAY: Duration = Duration::from_secs(24 * 3600);
const ANY: &str = "*";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    pub allow_origins: Vec<Origin>,
    /// Empty: those of the Api.
    pub allow_methods: Vec<String>,
    pub allow_headers: Vec<String>,
    /// Besides those of limits.
    pub expose_headers: Vec<String>,
    /// `None`: as browsers like it.
    pub max_age: Option<Duration>,
    pub allow_credentials: bool,
}

/// A condition on a page, by the header `origin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Any,
    Exact(String),
    /// Everything that begins and ends so, with one label or more between.
    Below {
        scheme: String,
        domain_and_port: String,
    },
    Regex(String),
}

/// An Api's own word on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiCors {
    OfGateway,
    None,
    Own(Cors),
}

impl ApiCors {
    pub(super) fn read(raw: Option<&WordOr<RawCors>>, findings: &mut Findings) -> Option<Self> {
        match raw {
            None => Some(Self::OfGateway),
            Some(WordOr::Word(word)) => {
                let none = if word == "none" { Ok(Self::None) } else { Err("none, or a mapping with allow_origins") };
                findings.within("cors", |findings| findings.check(word, none))
            }
            Some(WordOr::Long(raw)) => Cors::read(raw, findings).map(Self::Own),
        }
    }
}

impl Cors {
    pub(super) fn read(raw: &RawCors, findings: &mut Findings) -> Option<Self> {
        findings.within("cors", |findings| {
            let allow_origins = read_list("allow_origins", Some(&raw.allow_origins), findings, Origin::read);
            let header = |name: &String, findings: &mut Findings| findings.check(name, any_or(name, text::header_name));
            let method = |name: &String, findings: &mut Findings| findings.check(name, any_or(name, parse_method));
            let allow_methods = read_list("allow_methods", raw.allow_methods.as_deref(), findings, method);
            let allow_headers = read_list("allow_headers", raw.allow_headers.as_deref(), findings, header);
            let expose_headers = read_list("expose_headers", raw.expose_headers.as_deref(), findings, header);
            let max_age = raw
                .max_age
                .as_deref()
                .map(|text| findings.within("max_age", |f| f.check(text, text::duration(text, Duration::ZERO..=DAY))));
            let cors = Self {
                allow_origins: allow_origins?,
                allow_methods: allow_methods?,
                allow_headers: allow_headers?,
                expose_headers: expose_headers?,
                max_age: text::optional(max_age)?,
                allow_credentials: raw.allow_credentials.unwrap_or(false),
            };
            cors.refuse_any_with_credentials(findings);
            Some(cors)
        })
    }

    /// With credentials every page of the world could act as whoever looks at it; and browsers take a `*` literally then.
    fn refuse_any_with_credentials(&self, findings: &mut Findings) {
        let is_any = |list: &[String]| list.iter().any(|entry| entry == ANY);
        let lists = [
            ("allow_origins", self.allow_origins.contains(&Origin::Any)),
            ("allow_methods", is_any(&self.allow_methods)),
            ("allow_headers", is_any(&self.allow_headers)),
            ("expose_headers", is_any(&self.expose_headers)),
        ];
        for (field, _) in lists.into_iter().filter(|(_, is_any)| *is_any && self.allow_credentials) {
            let message = "has `*` beside `allow_credentials: true`: expected each of them by name";
            findings.within(field, |findings| findings.say(message.to_owned()));
        }
    }
}

impl Origin {
    fn read(raw: &WordOr<RawOrigin>, findings: &mut Findings) -> Option<Self> {
        match raw {
            WordOr::Word(word) => findings.check(word, Self::parse(word)),
            WordOr::Long(RawOrigin::Regex(regex)) => {
                findings.within("regex", |f| f.check(regex, text::regex(regex))).map(Self::Regex)
            }
        }
    }

    /// Browsers write origins in one way only (RFC 6454, section 6.2), and what is written otherwise never matches.
    fn parse(word: &str) -> Result<Self, &'static str> {
        let expected = "an origin without a path, as in https://shop.example or https://*.shop.example, or *";
        if word == ANY {
            return Ok(Self::Any);
        }
        let (scheme, rest) = word.split_once("://").ok_or(expected)?;
        let is_scheme = !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        let (host, port) = match rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, Some(port.parse::<u16>().map_err(|_| expected)?)),
            None => (rest, None),
        };
        let (name, is_below) = host.strip_prefix("*.").map_or((host, false), |name| (name, true));
        let is_address = !is_below && name.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).is_some_and(is_ipv6);
        let host = if is_address { name.to_ascii_lowercase() } else { text::host_name(name).ok_or(expected)? };
        let scheme = scheme.to_ascii_lowercase();
        if !is_scheme {
            return Err(expected);
        }
        if matches!((scheme.as_str(), port), ("https", Some(443)) | ("http", Some(80))) {
            return Err("an origin as browsers write it: without the port that its scheme has anyway");
        }
        let port = port.map_or_else(String::new, |port| format!(":{port}"));
        Ok(match is_below {
            true => Self::Below { scheme, domain_and_port: host + &port },
            false => Self::Exact(format!("{scheme}://{host}{port}")),
        })
    }
}

fn is_ipv6(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6())
}

fn any_or<E: ToString>(word: &str, parse: impl FnOnce(&str) -> Result<String, E>) -> Result<String, String> {
    if word == ANY { Ok(ANY.to_owned()) } else { parse(word).map_err(|expected| expected.to_string() + ", or *") }
}

fn read_list<R, T: PartialEq>(
    field: &str,
    raws: Option<&[R]>,
    findings: &mut Findings,
    read: impl Fn(&R, &mut Findings) -> Option<T>,
) -> Option<Vec<T>> {
    let raws = text::not_empty(findings, field, raws);
    findings.within(field, |findings| {
        if raws.len() > ENTRIES_MAX {
            findings.say(format!("has {} entries, expected at most {ENTRIES_MAX}", raws.len()));
        }
        let mut entries = Vec::with_capacity(raws.len());
        for (index, raw) in raws.iter().enumerate() {
            findings.within(index, |findings| match read(raw, findings) {
                Some(entry) if entries.contains(&entry) => findings.say("stands twice".to_owned()),
                Some(entry) => entries.push(entry),
                None => {}
            });
        }
        (entries.len() == raws.len()).then_some(entries)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_do_it() {
        let exact = |word: &str| Origin::Exact(word.to_owned());
        assert_eq!(Origin::parse("https://Shop.Example"), Ok(exact("https://shop.example")));
        assert_eq!(Origin::parse("http://localhost:3000"), Ok(exact("http://localhost:3000")));
        assert_eq!(Origin::parse("http://[::1]:3000"), Ok(exact("http://[::1]:3000")));
        assert_eq!(Origin::parse("*"), Ok(Origin::Any));
        let below = Origin::Below { scheme: "https".to_owned(), domain_and_port: "shop.example:8443".to_owned() };
        assert_eq!(Origin::parse("https://*.shop.example:8443"), Ok(below));
        let bad = ["", "shop.example", "https://", "https://shop.example/", "https://*", "https://a.*.example", "null"];
        for bad in bad.into_iter().chain(["https://shop.example:443", "http://a:80", "https://a:b", "://a", "*://a"]) {
            assert!(Origin::parse(bad).is_err(), "{bad}");
        }
    }
}
