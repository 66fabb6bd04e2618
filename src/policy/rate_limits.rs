//! A list of Envoy rate limit actions with a limit each, taken as it is.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::limit::{Algorithm, Cost, Limit, Mode, made_name};
use super::problem::Findings;
use super::rate::{LIMIT_MAX, Rate};
use super::raw::{RawAction, RawActionLimit, RawHeaderMatcher, RawRateLimit, RawRateLimits};
use super::text;
use crate::names::Name;

/// The most entries of a list: each is a descriptor of every request.
const ENTRIES_MAX: usize = 16;

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
    /// Already in the words of Envoy's RateLimit.Action, and kept in them.
    pub actions: Vec<RawAction>,
    pub limit: Arc<Limit>,
}

impl RateLimits {
    pub fn read(raw: &RawRateLimits, name_of_place: &str, findings: &mut Findings) -> Option<Self> {
        text::requires(findings, raw.requires.as_deref());
        let name = match &raw.name {
            Some(name) => text::name(findings, "name", name).map(|name| name.as_str().into()),
            None => Some(name_of_place.into()),
        };
        let gateway = raw.gateway.as_deref().map(|gateway| text::name(findings, "gateway", gateway));
        text::not_empty(findings, "rate_limits", Some(&raw.rate_limits));
        let entries = findings.within("rate_limits", |findings| {
            if raw.rate_limits.len() > ENTRIES_MAX {
                findings.say(format!("has {} entries, expected at most {ENTRIES_MAX}", raw.rate_limits.len()));
            }
            let read = |(index, raw)| findings.within(index, |findings| RateLimitEntry::read(raw, findings));
            let entries: Vec<_> = raw.rate_limits.iter().enumerate().map(read).collect();
            entries.into_iter().collect::<Option<Vec<_>>>()
        });
        Some(Self { name: name?, gateway: text::optional(gateway)?, entries: entries? })
    }
}

impl RateLimitEntry {
    fn read(raw: &RawRateLimit, findings: &mut Findings) -> Option<Self> {
        text::not_empty(findings, "actions", Some(&raw.actions));
        findings.within("actions", |findings| {
            for (index, action) in raw.actions.iter().enumerate() {
                findings.within(index, |findings| check_action(action, findings));
            }
        });
        let rate = findings.within("limit", |findings| read_rate(&raw.limit, findings))?;
        let keys = raw.actions.iter().map(descriptor_key);
        let limit = Limit {
            name: made_name("rate_limits", rate, keys, Mode::Enforce),
            rate,
            by: Vec::new(),
            algorithm: Algorithm::SlidingWindow,
            mode: Mode::Enforce,
            status: 429,
            cost: Cost::Hits(NonZeroU32::MIN),
        };
        Some(Self { actions: raw.actions.clone(), limit: Arc::new(limit) })
    }
}

fn read_rate(raw: &RawActionLimit, findings: &mut Findings) -> Option<Rate> {
    let unit = raw.unit.to_ascii_lowercase();
    let known = ["second", "minute", "hour", "day", "week", "month", "year"].contains(&unit.as_str());
    let unit = known.then_some(unit).ok_or("SECOND, MINUTE, HOUR, DAY, WEEK, MONTH or YEAR");
    let unit = findings.within("unit", |findings| findings.check(&raw.unit, unit));
    let requests = text::number_within(findings, "requests_per_unit", Some(raw.requests_per_unit), 0, 0..=LIMIT_MAX);
    Rate::parse(&format!("{}/{}", requests?, unit?)).ok()
}

/// Envoy's bounds (route_components.proto), so that it does not have to refuse what passes here.
fn check_action(action: &RawAction, findings: &mut Findings) {
    let mut at_least_one = |field: &str, text: &str| {
        findings.within(field, |findings| findings.check(text, text::plain(text)));
    };
    match action {
        RawAction::RequestHeaders(action) => {
            at_least_one("descriptor_key", &action.descriptor_key);
            check_header_name(&action.header_name, "header_name", findings);
        }
        RawAction::QueryParameters(action) => {
            at_least_one("descriptor_key", &action.descriptor_key);
            at_least_one("query_parameter_name", &action.query_parameter_name);
        }
        RawAction::GenericKey(action) => at_least_one("descriptor_value", &action.descriptor_value),
        RawAction::HeaderValueMatch(action) => {
            at_least_one("descriptor_value", &action.descriptor_value);
            text::not_empty(findings, "headers", Some(&action.headers));
            findings.within("headers", |findings| {
                for (index, matcher) in action.headers.iter().enumerate() {
                    findings.within(index, |findings| check_matcher(matcher, findings));
                }
            });
        }
        RawAction::MaskedRemoteAddress(action) => {
            text::number_within(findings, "v4_prefix_mask_len", action.v4_prefix_mask_len, 32, 0..=32);
            text::number_within(findings, "v6_prefix_mask_len", action.v6_prefix_mask_len, 128, 0..=128);
        }
        RawAction::RemoteAddress(_) | RawAction::SourceCluster(_) | RawAction::DestinationCluster(_) => {}
    }
}

fn check_matcher(matcher: &RawHeaderMatcher, findings: &mut Findings) {
    check_header_name(&matcher.name, "name", findings);
    if matcher.present_match.is_some() == matcher.string_match.is_some() {
        findings.say("expected exactly one of present_match and string_match".to_owned());
    }
}

/// Other than in Tierflow's own documents, HTTP/2's pseudo headers are headers here, as in Envoy.
fn check_header_name(name: &str, field: &str, findings: &mut Findings) {
    let plain_name = name.strip_prefix(':').unwrap_or(name);
    findings.within(field, |findings| findings.check(name, text::header_name(plain_name)));
}

/// The key of the descriptor entry that Envoy makes of an action.
fn descriptor_key(action: &RawAction) -> String {
    let or = |key: &Option<String>, default: &str| key.clone().unwrap_or_else(|| default.to_owned());
    match action {
        RawAction::RequestHeaders(action) => action.descriptor_key.clone(),
        RawAction::QueryParameters(action) => action.descriptor_key.clone(),
        RawAction::RemoteAddress(_) => "remote_address".to_owned(),
        RawAction::MaskedRemoteAddress(_) => "masked_remote_address".to_owned(),
        RawAction::GenericKey(action) => or(&action.descriptor_key, "generic_key"),
        RawAction::HeaderValueMatch(action) => or(&action.descriptor_key, "header_match"),
        RawAction::SourceCluster(_) => "source_cluster".to_owned(),
        RawAction::DestinationCluster(_) => "destination_cluster".to_owned(),
    }
}
