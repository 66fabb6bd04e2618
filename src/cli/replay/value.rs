//! What a replay tells, as JSON.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::Told;
use crate::clock::Timestamp;
use crate::replay::peaks::{Limit, Summary};
use crate::replay::report::Tally;

pub(super) fn of(told: &Told, top: usize) -> Value {
    let report = &told.report;
    let unread = told
        .reading
        .unread
        .iter()
        .map(|(why, lines)| json!({ "reason": why.to_string(), "lines": lines.count, "first": lines.first }));
    let limits = report.limits.iter().map(|(name, tally)| merged(json!(name), json!(tally)));
    let apis = report.apis.iter().map(|(api, tally)| merged(json!({ "api": api }), json!(tally)));
    let tenants = busiest(report.tenants.known.iter(), top);
    let minutes = busiest(report.minutes.known.iter(), top);
    let mut value = json!({
        "gateway": told.gateway,
        "from": report.from.map(time),
        "to": report.to.map(time),
        "total": report.total,
        "answers": report.answers,
        "apis": apis.collect::<Vec<_>>(),
        "limits": limits.collect::<Vec<_>>(),
        "tenants": tenants.iter().map(|(name, tally)| merged(json!({ "tenant": name }), json!(tally))).collect::<Vec<_>>(),
        "tenants_beyond_the_bound": report.tenants.others,
        "minutes_beyond_the_bound": report.minutes.others,
        "minutes": minutes.iter().map(|(at, tally)| merged(json!({ "minute": minute(**at) }), json!(tally)))
            .collect::<Vec<_>>(),
        "log": {
            "lines": told.reading.lines,
            "without_request": told.reading.without_request,
            "unread": unread.collect::<Vec<_>>(),
            "broken": told.reading.broken,
            "late": report.late,
            "uncounted": report.uncounted,
            "without_client": report.without_client,
            "missing_headers": told.unseen,
        },
    });
    if let (Some(peaks), Some(object)) = (&told.peaks, value.as_object_mut()) {
        object.insert("suggestions".to_owned(), peaks.summaries().map(|summary| suggestion(&summary)).collect());
    }
    value
}

/// Those that were denied most, and of these the ones with most requests, in the order of their names.
pub(super) fn busiest<'a, K: Ord>(
    tallies: impl Iterator<Item = (&'a K, &'a Tally)>,
    top: usize,
) -> Vec<(&'a K, &'a Tally)> {
    let mut all: Vec<_> = tallies.collect();
    all.sort_by(|(a, x), (b, y)| {
        let order = |tally: &Tally| std::cmp::Reverse((tally.denied, tally.over_in_shadow, tally.requests));
        order(x).cmp(&order(y)).then_with(|| a.cmp(b))
    });
    all.truncate(top);
    all
}

fn suggestion(summary: &Summary) -> Value {
    let limit = match &summary.limit {
        Limit::Existing(name) => json!(name),
        Limit::Possible { api, by } => json!({ "api": api, "by": by, "rate": null }),
    };
    let numbers = json!({
        "counters": summary.counters, "one_of": summary.one_of, "p50": summary.p50, "p90": summary.p90,
        "p99": summary.p99, "most": summary.most, "suggested": summary.suggested(),
    });
    merged(limit, numbers)
}

fn merged(a: Value, b: Value) -> Value {
    match (a, b) {
        (Value::Object(mut a), Value::Object(b)) => {
            a.extend(b);
            Value::Object(a)
        }
        (a, _) => a,
    }
}

pub(super) fn time(at: Timestamp) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_nanos(at.as_nanos())).to_string()
}

pub(super) fn minute(minutes: u64) -> String {
    time(Timestamp::from_nanos(minutes.saturating_mul(60_000_000_000)))
}
