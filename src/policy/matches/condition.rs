//! Conditions on the value of a header or of a parameter of the query.

use crate::policy::problem::Findings;
use crate::policy::raw::{RawCondition, WordOr};
use crate::policy::text;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Regex(String),
    Present(bool),
}

impl Condition {
    pub(super) fn read(raw: &WordOr<RawCondition>, findings: &mut Findings) -> Option<Self> {
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

    /// For the `host` header: an expression for all of it that leaves the port, a dot at the name's end and the case of
    /// letters aside, as `hosts` do. `None`: whether there is one.
    pub fn host_regex(&self) -> Option<String> {
        let name = match self {
            Self::Exact(text) => regex::escape(text),
            Self::Prefix(text) => regex::escape(text) + ".*",
            Self::Suffix(text) => format!("[^:]*{}", regex::escape(text)),
            Self::Contains(text) => format!("[^:]*{}[^:]*", regex::escape(text)),
            Self::Regex(regex) => format!("(?:{regex})"),
            Self::Present(_) => return None,
        };
        Some(format!("(?i){name}\\.?(?::[^:\\]]*)?"))
    }

    /// True where it holds for a value of the `host` header.
    pub fn holds_for_host(&self, host: &str) -> bool {
        match self.host_regex() {
            Some(regex) => text::anchored_regex(&regex).is_ok_and(|regex| regex.is_match(host.as_bytes())),
            None => self.holds(Some(host)),
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
            (Self::Regex(text), Some(value)) => {
                text::anchored_regex(text).is_ok_and(|regex| regex.is_match(value.as_bytes()))
            }
        }
    }
}
