//! What a replay tells, as tables.

use super::Told;
use super::value::{busiest, minute, time};
use crate::cli::output::table;
use crate::replay::peaks::{Limit, Peaks};
use crate::replay::report::Tally;
use crate::shown;

pub(super) fn of(told: &Told, top: usize) -> String {
    let report = &told.report;
    let mut parts = vec![head(told)];
    let apis = report.apis.iter().map(|(api, tally)| row(api, tally));
    parts.extend(tallies("API", apis));
    parts.extend(limits(told));
    let tenants = busiest(report.tenants.known.iter(), top);
    let others = (report.tenants.others.requests > 0).then(|| row("all that came later", &report.tenants.others));
    parts.extend(tallies("TENANT", tenants.iter().map(|(name, tally)| row(name, tally)).chain(others)));
    let minutes = busiest(report.minutes.known.iter(), top);
    let others = (report.minutes.others.requests > 0).then(|| row("all that came later", &report.minutes.others));
    parts.extend(tallies("MINUTE", minutes.iter().map(|(at, tally)| row(&minute(**at), tally)).chain(others)));
    parts.extend(told.peaks.as_ref().map(suggestions));
    parts.join("\n")
}

fn head(told: &Told) -> String {
    let report = &told.report;
    let mut lines = vec![format!("gateway   {}", told.gateway)];
    let times = report.from.zip(report.to).map(|(from, to)| format!(" from {} to {}", time(from), time(to)));
    lines.push(format!("requests  {}{}", report.total.requests, times.unwrap_or_default()));
    let Tally { requests, denied, over_in_shadow, denied_in_log } = report.total;
    lines.push(format!("denied    {denied} ({}); in the log {denied_in_log}", share(denied, requests)));
    if over_in_shadow > 0 {
        lines.push(format!("shadow    {over_in_shadow} more would be denied ({})", share(over_in_shadow, requests)));
    }
    lines.extend(report.answers.iter().map(|(answer, count)| format!("answer    {count} x {answer}")));
    for (why, unread) in &told.reading.unread {
        lines.push(format!("not read  {} lines: {why} (the first is {})", unread.count, unread.first));
    }
    let noted = [
        (told.reading.without_request, "lines are about connections on which no request came"),
        (report.late, "requests came too late to be counted in the order of their begin"),
        (report.uncounted, "requests could not be counted: there are more counters than are kept"),
        (report.without_client, "requests have no address of a client: they are one client's here"),
    ];
    lines.extend(noted.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("note      {count} {what}")));
    if !told.unseen.is_empty() {
        let names = shown::few(&told.unseen, ", ");
        lines.push(format!("note      policies look at headers that no request in the log has: {names}"));
    }
    lines.join("\n") + "\n"
}

fn row(name: &str, tally: &Tally) -> [String; 6] {
    let Tally { requests, denied, over_in_shadow, denied_in_log } = *tally;
    [
        name.to_owned(),
        requests.to_string(),
        denied.to_string(),
        share(denied, requests),
        over_in_shadow.to_string(),
        denied_in_log.to_string(),
    ]
}

fn tallies(name: &str, rows: impl Iterator<Item = [String; 6]>) -> Option<String> {
    table([name, "REQUESTS", "DENIED", "SHARE", "IN SHADOW", "IN THE LOG"], rows)
}

fn limits(told: &Told) -> Option<String> {
    let rows = told.report.limits.iter().map(|(name, tally)| {
        [
            name.tier.to_owned(),
            name.api.clone().unwrap_or_else(|| "-".to_owned()),
            name.limit.clone(),
            name.rate.clone(),
            name.mode.to_owned(),
            tally.requests.to_string(),
            tally.over_limit.to_string(),
            share(tally.over_limit, tally.requests),
        ]
    });
    table(["TIER", "API", "LIMIT", "RATE", "MODE", "REQUESTS", "OVER LIMIT", "SHARE"], rows)
}

fn suggestions(peaks: &Peaks) -> String {
    let rows = peaks.summaries().map(|summary| {
        let (what, rate) = match &summary.limit {
            Limit::Existing(name) => (format!("{} {}", name.tier, name.limit), name.rate.clone()),
            Limit::Possible { api, by: "" } => (format!("{api}: all requests"), "-/minute".to_owned()),
            Limit::Possible { api, by } => (format!("{api}: by {by}"), "-/minute".to_owned()),
        };
        let counters = match summary.one_of {
            1 => summary.counters.to_string(),
            one_of => format!("{} of {}", summary.counters, summary.counters as u64 * one_of),
        };
        let suggested = summary.suggested().to_string();
        let [p50, p90, p99, most] = [summary.p50, summary.p90, summary.p99, summary.most].map(|hits| hits.to_string());
        [what, rate, counters, p50, p90, p99, most, suggested]
    });
    let rows =
        table(["LIMIT", "RATE", "COUNTERS", "50 %", "90 %", "99 %", "MOST", "SUGGESTED"], rows).unwrap_or_default();
    let cut = if peaks.is_cut { "There are more limits than are looked at.\n" } else { "" };
    format!(
        "The busiest window of each counter, in hits. With the number suggested, 99 of 100 would have been denied nothing.\n{rows}{cut}"
    )
}

fn share(part: u64, whole: u64) -> String {
    format!("{:.1} %", if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 })
}
