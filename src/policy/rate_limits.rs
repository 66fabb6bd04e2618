//! A list of Envoy rate limits, each with how much passes, taken as it is.

mod action;
mod matcher;

use std::collections::BTreeMap;
use std::hash::Hash as _;
use std::num::NonZeroU32;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3Default;

use super::limit::{Algorithm, Cost, Limit, Mode, made_name};
use super::problem::Findings;
use super::rate::{Rate, Window};
use super::raw::{RawActionLimit, RawHitsAddend, RawRateLimit, RawRateLimits};
use super::text;
use crate::names::{Kind, Name, descriptor};
use crate::shown;

pub use action::{Action, AddressRange, Entry, Metadata, MetadataSource};
pub use matcher::{HeaderMatcher, HeaderTest, QueryMatcher, TextMatcher, TextPattern};

/// The most entries of a list: each is a descriptor of every request.
const ENTRIES_MAX: usize = 16;
/// Envoy's bound on `HitsAddend.number` (route_components.proto).
const HITS_MAX: i64 = 1_000_000_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimits {
    /// Unlike other names it may be made from the document's place.
    pub name: Arc<str>,
    /// `None`: every gateway.
    pub gateway: Option<Name>,
    pub entries: Vec<RateLimitEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitEntry {
    /// The name of what routes report of it, which the limiter knows it by. It stays the same while what they report
    /// of a request does, whatever the limit is and wherever in the list it stands.
    pub id: String,
    pub actions: Vec<Action>,
    /// Read by Envoy's runtime, not by Tierflow.
    pub disable_key: Option<String>,
    /// `None`: unlimited.
    pub limit: Option<Arc<Limit>>,
}

impl RateLimits {
    pub fn read(raw: &RawRateLimits, name_of_place: &str, findings: &mut Findings) -> Option<Self> {
        text::requires(
            findings,
            (Kind::RateLimits, raw.name.as_deref().unwrap_or(name_of_place)),
            raw.requires.as_deref(),
        );
        let name = match &raw.name {
            Some(name) => text::name(findings, "name", name).map(|name| name.as_str().into()),
            // It is shown wherever other names are.
            None if name_of_place.len() > shown::TEXT_BYTES_MAX => {
                let (bytes, bytes_max) = (name_of_place.len(), shown::TEXT_BYTES_MAX);
                findings.say(format!(
                    "is named by its place, which has {bytes} bytes: expected at most {bytes_max}, or a `name`"
                ));
                None
            }
            None => Some(name_of_place.into()),
        };
        let gateway = raw.gateway.as_deref().map(|gateway| text::name(findings, "gateway", gateway));
        if raw.rate_limits.len() > ENTRIES_MAX {
            let message = format!("has {} entries, expected at most {ENTRIES_MAX}", raw.rate_limits.len());
            findings.within("rate_limits", |findings| findings.say(message));
        }
        let entries = text::list(findings, "rate_limits", &raw.rate_limits, RateLimitEntry::read);
        let (name, mut entries): (Arc<str>, _) = (name?, entries?);
        name_entries(&name, &mut entries);
        Some(Self { name, gateway: text::optional(gateway)?, entries })
    }

    pub fn is_for(&self, gateway: &Name) -> bool {
        self.gateway.as_ref().is_none_or(|own| own == gateway)
    }

    /// The entries that count, each with its limit.
    pub fn limited(&self) -> impl Iterator<Item = (&RateLimitEntry, &Arc<Limit>)> {
        self.entries.iter().filter_map(|entry| Some((entry, entry.limit.as_ref()?)))
    }
}

/// Entries that report the same are told apart by their order.
fn name_entries(list: &str, entries: &mut [RateLimitEntry]) {
    let mut numbers: BTreeMap<u64, usize> = BTreeMap::new();
    for entry in entries {
        let mut hasher = Xxh3Default::new();
        (&entry.actions, entry.limit.as_ref().map(|limit| &limit.cost)).hash(&mut hasher);
        let form = hasher.digest();
        let number = numbers.entry(form).or_default();
        entry.id = descriptor::rate_limits_id(list, form, *number);
        *number += 1;
    }
}

impl RateLimitEntry {
    fn read(raw: &RawRateLimit, findings: &mut Findings) -> Option<Self> {
        refuse_what_cannot_be_meant(raw, findings);
        let actions = text::list(findings, "actions", &raw.actions, Action::read);
        let disable_key = raw
            .disable_key
            .as_deref()
            .map(|key| findings.within("disable_key", |findings| findings.check(key, text::plain(key))));
        let cost = match &raw.hits_addend {
            None => Some(Cost::Hits(NonZeroU32::MIN)),
            Some(raw) => findings.within("hits_addend", |findings| read_cost(raw, findings)),
        };
        let rate = findings.within("limit", |findings| read_rate(&raw.limit, findings));
        let (actions, cost) = (actions?, cost?);
        let limit = rate?.map(|rate| {
            let keys = actions.iter().map(|action| action.descriptor_key().to_owned());
            Arc::new(Limit {
                name: made_name("rate_limits", rate, keys, Mode::Enforce),
                rate,
                by: Vec::new(),
                algorithm: Algorithm::SlidingWindow,
                mode: Mode::Enforce,
                status: 429,
                cost,
                is_exact: false,
            })
        });
        Some(Self { id: String::new(), actions, disable_key: text::optional(disable_key)?, limit })
    }
}

fn refuse_what_cannot_be_meant(raw: &RawRateLimit, findings: &mut Findings) {
    let mut refuse = |field: &str, message: &str| {
        findings.within(field, |findings| findings.say(message.to_owned()));
    };
    if raw.stage.is_some_and(|stage| stage != 0) {
        refuse(
            "stage",
            "a gateway has one rate limit filter, of stage 0; what has another stage would never be counted",
        );
    }
    if raw.apply_on_stream_done == Some(true) {
        refuse("apply_on_stream_done", "requests are counted before they are let through, not when they are done");
    }
    if raw.x_ratelimit_option.as_deref().is_some_and(|option| !["UNSPECIFIED", "DRAFT_VERSION_03"].contains(&option)) {
        refuse("x_ratelimit_option", "every answer has the x-ratelimit headers of DRAFT_VERSION_03");
    }
}

/// `Some(None)`: unlimited.
#[expect(clippy::option_option, reason = "unlimited and refused are two cases")]
fn read_rate(raw: &RawActionLimit, findings: &mut Findings) -> Option<Option<Rate>> {
    if raw.dynamic_metadata.is_some() {
        let message = "limits are those of the policies; none is read from the metadata of a request";
        findings.within("dynamic_metadata", |findings| findings.say(message.to_owned()));
        return None;
    }
    if raw.rate_limit.is_some() {
        let help = "write them here, as in { unit: MINUTE, requests_per_unit: 10 }".to_owned();
        let message = "an override overrides nothing: the limit itself is `unit` and `requests_per_unit`".to_owned();
        findings.within("rate_limit", |findings| findings.say_with_help(message, help));
        return None;
    }
    match (raw.unlimited.unwrap_or(false), &raw.unit, raw.requests_per_unit) {
        (true, None, None) => Some(None),
        (true, _, _) => {
            findings.say("is unlimited, and so can have no unit and no requests_per_unit".to_owned());
            None
        }
        (false, Some(unit), Some(requests)) => {
            let window = findings.within("unit", |findings| findings.check(unit, read_unit(unit)));
            let limit = u32::try_from(requests.0).map_err(|_| format!("a number of 0 to {}", u32::MAX));
            let limit = findings.within("requests_per_unit", |findings| findings.check(requests.0, limit));
            Some(Some(Rate { limit: limit?, window: window? }))
        }
        (false, unit, requests) => {
            let missing = [("unit", unit.is_none()), ("requests_per_unit", requests.is_none())];
            for (field, _) in missing.into_iter().filter(|(_, is_missing)| *is_missing) {
                findings.say(format!("missing field `{field}`"));
            }
            None
        }
    }
}

fn read_unit(unit: &str) -> Result<Window, &'static str> {
    let expected = "SECOND, MINUTE, HOUR, DAY, WEEK, MONTH or YEAR";
    let word = unit.to_ascii_lowercase();
    let is_unit = ["second", "minute", "hour", "day", "week", "month", "year"].contains(&word.as_str());
    if is_unit { Window::parse(&word).map_err(|_| expected) } else { Err(expected) }
}

fn read_cost(raw: &RawHitsAddend, findings: &mut Findings) -> Option<Cost> {
    if raw.is_negative_hits == Some(true) {
        let message = "what was counted is not given back; it stops counting when its window has passed";
        findings.within("is_negative_hits", |findings| findings.say(message.to_owned()));
    }
    match (raw.number, raw.format.as_deref()) {
        (Some(number), None) => {
            let hits = u32::try_from(number.0).ok().filter(|_| number.0 <= HITS_MAX).and_then(NonZeroU32::new);
            let hits = hits.ok_or_else(|| format!("1 to {HITS_MAX} hits"));
            findings.within("number", |findings| findings.check(number.0, hits)).map(Cost::Hits)
        }
        (None, Some(format)) => {
            let expected =
                "the value of a request header, as in %REQ(x-items)%: nothing else is known before the answer";
            let header = header_of_format(format).and_then(|name| text::header_name(name).ok()).ok_or(expected);
            findings.within("format", |findings| findings.check(format, header)).map(Cost::Header)
        }
        _ => {
            findings.say("expected exactly one of number and format".to_owned());
            None
        }
    }
}

/// The header in Envoy's `%REQ(x)%`, or `%REQUEST_HEADER(x)%` as it is called since Envoy 1.37.
fn header_of_format(format: &str) -> Option<&str> {
    let command = format.strip_prefix('%')?.strip_suffix(")%")?;
    command.strip_prefix("REQ(").or_else(|| command.strip_prefix("REQUEST_HEADER("))
}
