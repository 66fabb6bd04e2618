//! `tierflow status`

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::Failure;
use super::checked::Checked;
use super::get::Output;
use super::output::{self, Format, Streams};
use super::server::{Question, ServerArgs};
use crate::nodes::state::NodeState;
use crate::shown;

/// Show what a running server serves, where its policies come from, and which Envoy has what. Exits with 1 if nothing is
/// served yet, if something of it is refused, held, late or stale, if the source or the store of counters is away, if a
/// certificate has ended, or if a row of health says what failed, as of the audit log or the files of who may ask.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    server: Checked<ServerArgs>,
    /// The form of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// A source that was not heard for longer is stale (the threshold of `/readyz`).
const LAG_SECONDS_MAX: f64 = 3.0;

/// The server's account of itself, as far as it is shown here.
#[derive(Deserialize)]
struct Status {
    at: String,
    generation: Option<u64>,
    revision: Option<u64>,
    documents: u64,
    /// The rows of `/readyz`; an older server tells of none here.
    #[serde(default)]
    checks: Vec<Check>,
    source: Source,
    refused: Vec<Document>,
    /// The number of those that are not among them, as of the other lists.
    #[serde(default)]
    refused_more: u64,
    nodes: Nodes,
    held: Vec<Hold>,
    #[serde(default)]
    held_more: u64,
    counters: Counters,
    #[serde(default)]
    denied: Vec<Denied>,
    #[serde(default)]
    gateways_without_envoys: Vec<String>,
    #[serde(default)]
    certificates: Vec<Certificate>,
}

/// Something that the server looks at.
#[derive(Deserialize)]
struct Check {
    name: String,
    ok: bool,
    value: Value,
    threshold: Value,
    unit: Option<String>,
    /// What failed.
    reason: Option<String>,
}

/// Somebody whose certificate is not for a gateway.
#[derive(Deserialize)]
struct Denied {
    port: String,
    node: Option<String>,
    reason: String,
    times: u64,
    last_at: String,
}

/// One that the server shows or trusts.
#[derive(Deserialize)]
struct Certificate {
    flag: String,
    path: String,
    not_after: String,
    validity: String,
}

#[derive(Deserialize)]
struct Counters {
    /// The store that replicas share; none where counters are in memory.
    redis: Option<Redis>,
}

#[derive(Deserialize)]
struct Redis {
    address: String,
    connections: u64,
    connections_open: u64,
    trouble: Option<String>,
    nodes: Vec<RedisNode>,
    replicas: Option<u64>,
    #[serde(default)]
    counts_alone: bool,
}

#[derive(Deserialize)]
struct RedisNode {
    address: Option<String>,
    connections_open: u64,
}

#[derive(Deserialize)]
struct Source {
    place: Option<String>,
    lag_seconds: Option<f64>,
    trouble: Option<String>,
    serves_last_good_of_earlier_run: bool,
}

#[derive(Deserialize)]
struct Document {
    kind: Option<String>,
    name: Option<String>,
    origin: Option<String>,
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    problems: Vec<ToldProblem>,
    #[serde(default)]
    problems_more: u64,
}

#[derive(Deserialize)]
struct ToldProblem {
    location: String,
    message: String,
}

#[derive(Deserialize)]
struct Nodes {
    states: BTreeMap<NodeState, u64>,
    connected: u64,
    live: u64,
    refusing: u64,
    late: u64,
    selected_by_no_gateway: u64,
    behind: Vec<Behind>,
    too_old: Vec<TooOld>,
    #[serde(default)]
    too_old_more: u64,
}

/// An Envoy that is offered what it does not know.
#[derive(Deserialize)]
struct TooOld {
    id: String,
    envoy: String,
    too_old_for: Vec<Need>,
}

#[derive(Deserialize)]
struct Need {
    feature: String,
    since: String,
    older: String,
    documents: Vec<String>,
    others: usize,
}

#[derive(Deserialize)]
struct Behind {
    id: String,
    groups: Vec<String>,
    state: NodeState,
    reason: String,
    since: String,
    generation: u64,
}

#[derive(Deserialize)]
struct Hold {
    gateway: String,
    documents: Vec<Document>,
    #[serde(default)]
    documents_more: u64,
    reasons: Vec<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    node: String,
    r#type: String,
    resources: Vec<String>,
    message: String,
    since: String,
}

pub(super) fn run(args: &Args, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let answer = args.server.ask(Question::get("/v1/status"))?;
    let status: Status = serde_json::from_value(answer.clone())
        .map_err(|error| format!("the server answers something else than its status: {error}"))?;
    print(&status, &answer, args.output, streams)?;
    // What is wrong was printed.
    if status.is_well() { Ok(()) } else { Err(String::new()) }
}

fn print(status: &Status, answer: &Value, output: Output, streams: &mut Streams<'_>) -> Result<(), Failure> {
    match output {
        Output::Json => streams.print_value(answer, Format::Json),
        Output::Yaml => streams.print_value(answer, Format::Yaml),
        Output::Table => {
            let table = status.table(streams.colours.out);
            streams.print_bytes(table.as_bytes())
        }
    }
}

impl Status {
    fn is_well(&self) -> bool {
        let is_fresh = self.source.lag_seconds.is_some_and(|lag| lag <= LAG_SECONDS_MAX);
        let is_complete = self.generation.is_some() && self.refused.is_empty() && self.held.is_empty();
        let has_counters = self.counters.redis.as_ref().is_none_or(Redis::is_whole);
        let has_certificates = self.certificates.iter().all(|certificate| certificate.validity != "expired");
        is_complete
            && is_fresh
            && has_certificates
            && self.gateways_without_envoys.is_empty()
            && has_counters
            && self.source.trouble.is_none()
            && self.checks.iter().all(|check| check.reason.is_none())
            && self.nodes.refusing == 0
            && self.nodes.late == 0
    }

    fn table(&self, is_coloured: bool) -> String {
        let mut text = self.nodes.summary(self.generation, self.revision) + "\n";
        let _ = writeln!(text, "{}", self.source.summary(self.documents));
        if let Some(redis) = &self.counters.redis {
            let _ = writeln!(text, "{}", redis.summary());
        }
        for Check { name, reason, .. } in &self.checks {
            let reason = reason.iter().map(|reason| format!("{name}: {}\n", shown::text(reason)));
            text.extend(reason);
        }
        for document in &self.refused {
            let _ = writeln!(text, "\nrefused document: {}", document.shown());
            for ToldProblem { location, message } in &document.problems {
                let _ = writeln!(text, "  {}: {}", shown::text(location), shown::text(message));
            }
            if document.problems_more > 0 {
                let _ = writeln!(text, "  and {} more", document.problems_more);
            }
        }
        text.extend(more(self.refused_more, "refused documents, which `tierflow get` lists"));
        for Hold { gateway, documents, documents_more, reasons } in &self.held {
            let documents: Vec<String> = documents.iter().map(Document::shown).collect();
            let documents = match (documents.as_slice(), documents_more) {
                ([], _) => "everything".to_owned(),
                (documents, 0) => documents.join(", "),
                (documents, more) => format!("{} and {more} more", documents.join(", ")),
            };
            let _ = writeln!(text, "\nheld for gateway {gateway}: {documents}");
            for Reason { node, r#type, resources, message, since } in reasons {
                let _ = writeln!(
                    text,
                    "  {} refused {type} {} at {since}: {}",
                    shown::text(node),
                    resources.join(", "),
                    shown::text(message)
                );
            }
        }
        text.extend(more(self.held_more, "gateways that are held"));
        for TooOld { id, envoy, too_old_for } in &self.nodes.too_old {
            let _ = writeln!(text, "\ntoo old: {}, which is Envoy {}", shown::text(id), shown::text(envoy));
            for Need { feature, since, older, documents, others } in too_old_for {
                let others = if *others > 0 { format!(" and {others} more") } else { String::new() };
                let documents = documents.join(", ");
                let _ = writeln!(text, "  {older} {feature}, which Envoy has since {since}: {documents}{others}");
            }
        }
        text.extend(more(self.nodes.too_old_more, "Envoys that are too old"));
        for certificate in self.certificates.iter().filter(|certificate| certificate.validity != "valid") {
            let _ = writeln!(text, "\n{}", certificate.summary(&self.at));
        }
        if !self.gateways_without_envoys.is_empty() {
            let gateways = shown::few(&self.gateways_without_envoys, ", ");
            let _ = writeln!(
                text,
                "\nno Envoy can have {gateways}: only some certificates may, and this server asks for none (--tls-client-ca)"
            );
        }
        for denied in &self.denied {
            let _ = writeln!(text, "\n{}", denied.summary(&self.at));
        }
        // Tables show names as they are shown there, and one has colours.
        text = shown::lines(&text).into_owned();
        if !self.checks.is_empty() {
            let _ = write!(text, "\n{}", health(&self.checks));
        }
        if !self.nodes.behind.is_empty() {
            let _ = write!(text, "\n{}", self.nodes.table(&self.at, is_coloured));
        }
        text
    }
}

/// A row for each check; those that are not as they should be come first.
fn health(checks: &[Check]) -> String {
    let header = ["HEALTH", "", "VALUE", "THRESHOLD", "UNIT"].map(str::to_owned);
    let mut checks: Vec<&Check> = checks.iter().collect();
    checks.sort_by_key(|check| check.ok);
    let rows: Vec<[String; 5]> = std::iter::once(header).chain(checks.into_iter().map(Check::row)).collect();
    output::aligned(&rows).join("\n") + "\n"
}

impl Check {
    fn row(&self) -> [String; 5] {
        let value = |value: &Value| match value {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            // The age of the source is measured to the nanosecond.
            Value::Number(number) if number.is_f64() => format!("{:.1}", number.as_f64().unwrap_or_default()),
            other => other.to_string(),
        };
        let word = if self.ok { "ok" } else { "NOT OK" };
        let unit = self.unit.clone().unwrap_or_default();
        [self.name.clone(), word.to_owned(), value(&self.value), value(&self.threshold), unit]
    }
}

/// What a list leaves out.
fn more(number: u64, what: &str) -> Option<String> {
    (number > 0).then(|| format!("\nand {number} more {what}\n"))
}

impl Certificate {
    /// As in "--tls-cert tls.crt: the certificate ends in 12days 3h, at 2026-12-11T10:00:00Z".
    fn summary(&self, at: &str) -> String {
        let Self { flag, path, not_after, validity } = self;
        let path = shown::text(path);
        match validity.as_str() {
            "expired" => format!("{flag} {path}: the certificate ended {} ago, at {not_after}", age(at, not_after)),
            _ => format!("{flag} {path}: the certificate ends in {}, at {not_after}", age(not_after, at)),
        }
    }
}

impl Denied {
    /// As in "denied: edge-1 on port xds, 12 times, 3s ago: gateway shop is not for the certificate of edge.other".
    fn summary(&self, at: &str) -> String {
        let Self { port, node, reason, times, last_at } = self;
        let node = node.as_deref().map_or("somebody".into(), shown::text);
        let times = if *times == 1 { "once".to_owned() } else { format!("{times} times") };
        format!("denied: {node} on port {port}, {times}, {} ago: {}", age(at, last_at), shown::text(reason))
    }
}

impl Redis {
    fn is_whole(&self) -> bool {
        !self.nodes.is_empty() && self.nodes.iter().all(|node| node.connections_open > 0)
    }

    /// As in "counters in redis://10.0.0.6:6379, 4 of 4 connections open, shared by 3 replicas".
    fn summary(&self) -> String {
        let Self { address, connections, connections_open, trouble, nodes, replicas, counts_alone } = self;
        let nodes = nodes_summary(address, nodes);
        let trouble = trouble.as_ref().map(|trouble| format!(": {}", shown::text(trouble))).unwrap_or_default();
        let sharing = match (counts_alone, replicas) {
            (false, Some(replicas)) => format!(", shared by {replicas} replicas"),
            (false, None) => String::new(),
            (true, Some(replicas)) => format!("; on_error local: limit / {replicas}, of {replicas} replicas"),
            (true, None) => "; on_error local: the whole limit, no other replicas are known yet".to_owned(),
        };
        format!("counters in {address}, {connections_open} of {connections} connections open{nodes}{trouble}{sharing}")
    }
}

/// As in " to 3 nodes, none to 10.0.0.6:6379". Nothing where the store's address says it all.
fn nodes_summary(address: &str, nodes: &[RedisNode]) -> String {
    match nodes {
        // A master that Sentinels know.
        [RedisNode { address: Some(node), .. }] if !address.contains(node) => format!(" to {node}"),
        [] | [_] => String::new(),
        nodes => {
            let is_away = |node: &&RedisNode| node.connections_open == 0;
            let away: Vec<_> = nodes.iter().filter(is_away).filter_map(|node| node.address.as_deref()).collect();
            let none = if away.is_empty() { String::new() } else { format!(", none to {}", away.join(", ")) };
            format!(" to {} nodes{none}", nodes.len())
        }
    }
}

impl Nodes {
    /// As in "generation 41 is live on 998 of 1000 Envoys, 1 REFUSED, 1 STALE".
    fn summary(&self, generation: Option<u64>, revision: Option<u64>) -> String {
        let Some(generation) = generation else { return "no policy set is loaded yet".to_owned() };
        let revision = revision.map(|revision| format!(" (revision {revision})")).unwrap_or_default();
        let mut summary =
            format!("generation {generation}{revision} is live on {} of {} Envoys", self.live, self.connected);
        for (state, count) in self.states.iter().filter(|(state, count)| **state != NodeState::Synced && **count > 0) {
            let _ = write!(summary, ", {count} {}", state.as_str());
            if *state == NodeState::Stale && self.late > 0 {
                let _ = write!(summary, " (of which {} for more than 15 s)", self.late);
            }
        }
        if self.selected_by_no_gateway > 0 {
            let _ = write!(summary, ", {} selected by no gateway", self.selected_by_no_gateway);
        }
        summary
    }

    /// The state is the first word of each line; its colour says nothing that the word does not.
    fn table(&self, at: &str, is_coloured: bool) -> String {
        let header = ["STATE", "FOR", "NODE", "HAS", "GATEWAYS", "REASON"].map(str::to_owned);
        let row = |node: &Behind| {
            [
                node.state.as_str().to_owned(),
                age(at, &node.since),
                node.id.clone(),
                format!("generation {}", node.generation),
                node.groups.join(","),
                node.reason.clone(),
            ]
        };
        let rows: Vec<[String; 6]> = std::iter::once(header).chain(self.behind.iter().map(row)).collect();
        let mut lines = output::aligned(&rows);
        if is_coloured {
            for (line, node) in lines.iter_mut().skip(1).zip(&self.behind) {
                let word = node.state.as_str();
                *line = line.replacen(word, &format!("\x1b[{}m{word}\x1b[0m", colour(node.state)), 1);
            }
        }
        lines.join("\n") + "\n"
    }
}

/// From one moment to a later one, in its two largest units.
fn age(at: &str, since: &str) -> String {
    let moment = |text| humantime::parse_rfc3339(text).ok();
    let Some((at, since)) = moment(at).zip(moment(since)) else { return "-".to_owned() };
    let seconds = at.duration_since(since).unwrap_or_default().as_secs();
    let units = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    units.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// In SGR's numbers (ECMA-48).
fn colour(state: NodeState) -> u8 {
    match state {
        NodeState::Refused => 31,
        NodeState::Held | NodeState::Stale => 33,
        NodeState::Gone => 90,
        NodeState::Synced => 32,
    }
}

impl Source {
    fn summary(&self, documents: u64) -> String {
        let place = self.place.as_deref().map_or("the source".into(), shown::text);
        let heard = self.lag_seconds.map_or("not heard yet".to_owned(), |lag| format!("heard {lag:.1} s ago"));
        let mut summary = format!("{documents} documents from {place}, {heard}");
        if self.serves_last_good_of_earlier_run {
            summary.push_str("; what is served is the last good set of an earlier run");
        }
        if let Some(trouble) = &self.trouble {
            let _ = write!(summary, "; {}", shown::text(trouble));
        }
        summary
    }
}

impl Document {
    fn shown(&self) -> String {
        let who = [self.kind.as_deref(), self.name.as_deref()].into_iter().flatten().map(shown::text);
        let who = who.collect::<Vec<_>>().join(" ");
        let origin = self.origin.as_deref().map(|origin| format!(" ({})", shown::text(origin))).unwrap_or_default();
        let deleted = if self.deleted { " (deleted)" } else { "" };
        format!("{who}{origin}{deleted}").trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(change: impl FnOnce(&mut Value)) -> Status {
        let mut status = json!({
            "at": "2026-11-29T07:00:00.000Z", "generation": 41, "revision": 812, "documents": 12, "refused": [], "held": [],
            "counters": { "store": "memory", "keys": 3, "keys_max": 1000 },
            "source": { "place": "etcd", "lag_seconds": 0.4, "trouble": null, "serves_last_good_of_earlier_run": false },
            "nodes": {
                "states": {"SYNCED": 1000}, "connected": 1000, "live": 1000, "refusing": 0, "late": 0,
                "selected_by_no_gateway": 0, "behind": [], "too_old": [],
            },
        });
        change(&mut status);
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn the_first_line_says_who_has_the_generation() {
        let first = |late: u64| {
            let status = status(|status| {
                status["nodes"]["live"] = json!(997);
                status["nodes"]["late"] = json!(late);
                status["nodes"]["states"] = json!({"SYNCED": 997, "STALE": 2, "REFUSED": 1, "HELD": 0, "GONE": 4});
            });
            status.table(false).lines().next().unwrap().to_owned()
        };
        let live = "generation 41 (revision 812) is live on 997 of 1000 Envoys";
        assert_eq!(first(0), format!("{live}, 1 REFUSED, 2 STALE, 4 GONE"));
        assert_eq!(first(1), format!("{live}, 1 REFUSED, 2 STALE (of which 1 for more than 15 s), 4 GONE"));
    }

    #[test]
    fn who_is_not_synced_has_a_line_with_its_state_its_age_and_the_reason() {
        let node = |state: &str, since: &str| {
            json!({
                "id": "edge-1", "groups": ["edge", "inner"], "state": state, "reason": format!("why {state}"),
                "since": since, "generation": 40,
            })
        };
        let behind = [("REFUSED", "2026-11-29T04:48:01.000Z"), ("GONE", "2026-11-29T06:59:59.500Z"), ("STALE", "?")];
        let behind = json!(behind.map(|(state, since)| node(state, since)));
        let status = status(|status| status["nodes"]["behind"] = behind.clone());
        let table = |is_coloured| status.table(is_coloured).split_once("\n\n").unwrap().1.to_owned();
        let expected = "\
STATE    FOR     NODE    HAS            GATEWAYS    REASON
REFUSED  2h 11m  edge-1  generation 40  edge,inner  why REFUSED
GONE     0s      edge-1  generation 40  edge,inner  why GONE
STALE    -       edge-1  generation 40  edge,inner  why STALE
";
        assert_eq!(table(false), expected);
        let coloured = table(true);
        let words = ["\x1b[31mREFUSED\x1b[0m  2h 11m", "\x1b[90mGONE\x1b[0m     0s", "\x1b[33mSTALE\x1b[0m    -"];
        assert!(words.iter().all(|words| coloured.contains(words)), "{coloured:?}");
        assert!(coloured.ends_with("why STALE\n"), "the word alone has a colour");
    }

    #[test]
    fn a_store_of_counters_that_is_away_is_told_of() {
        let told = |open: u64, trouble: Option<&str>, replicas: Option<u64>, counts_alone: bool| {
            let status = status(|status| {
                let redis = json!({
                    "address": "redis://a:1", "connections": 4, "connections_open": open, "trouble": trouble,
                    "replicas": replicas, "counts_alone": counts_alone,
                    "nodes": [{ "address": "a:1", "connections_open": open }],
                });
                status["counters"] = json!({ "store": "redis", "redis": redis });
            });
            assert_eq!(status.is_well(), open > 0);
            status.table(false).lines().nth(2).unwrap().to_owned()
        };
        assert_eq!(
            told(0, Some("timed out"), Some(3), true),
            "counters in redis://a:1, 0 of 4 connections open: timed out; on_error local: limit / 3, of 3 replicas"
        );
        assert_eq!(
            told(0, Some("refused"), None, true),
            "counters in redis://a:1, 0 of 4 connections open: refused; on_error local: the whole limit, no other replicas \
             are known yet"
        );
        assert_eq!(
            told(4, None, Some(3), false),
            "counters in redis://a:1, 4 of 4 connections open, shared by 3 replicas"
        );
    }

    /// What others say would else look like what is told here.
    #[test]
    fn a_reason_of_several_lines_is_told_on_one() {
        let forged = "away\nall is well\u{1b}[2J";
        let status = status(|status| {
            let nodes = json!([{ "address": "a:1", "connections_open": 0 }]);
            status["counters"] = json!({ "store": "redis", "redis": {
                "address": "redis://a:1", "connections": 4, "connections_open": 0, "trouble": forged, "nodes": nodes,
            }});
            status["source"]["trouble"] = json!(forged);
            status["source"]["place"] = json!(forged);
            let row = json!({ "name": "audit_log", "ok": false, "value": 1, "threshold": 256, "reason": forged });
            status["checks"] = json!([row]);
        });
        let table = status.table(false);
        assert_eq!((table.lines().count(), table.matches(r"away\nall is well").count()), (7, 4), "{table}");
        assert!(!table.contains('\u{1b}'), "{table:?}");
    }

    #[test]
    fn the_nodes_of_a_store_are_told_of() {
        let told = |address: &str, nodes: &[(&str, u64)]| {
            let open: u64 = nodes.iter().map(|(_, open)| open).sum();
            let node = |(address, open): &(&str, u64)| json!({ "address": address, "connections_open": open });
            let nodes: Vec<_> = nodes.iter().map(node).collect();
            let redis = json!({
                "address": address, "connections": 4, "connections_open": open, "trouble": null, "nodes": nodes,
            });
            let status = status(|status| status["counters"] = json!({ "store": "redis", "redis": redis }));
            (status.is_well(), status.table(false).lines().nth(2).unwrap().to_owned())
        };
        let sentinel = "counters in redis+sentinel://s:1/m, 4 of 4 connections open to a:1";
        assert_eq!(told("redis+sentinel://s:1/m", &[("a:1", 4)]), (true, sentinel.to_owned()));
        let cluster = "counters in redis+cluster://a:1, 4 of 4 connections open to 2 nodes";
        assert_eq!(told("redis+cluster://a:1", &[("a:1", 2), ("b:1", 2)]), (true, cluster.to_owned()));
        let cut = "counters in redis+cluster://a:1, 2 of 4 connections open to 2 nodes, none to b:1";
        assert_eq!(told("redis+cluster://a:1", &[("a:1", 2), ("b:1", 0)]), (false, cut.to_owned()));
        let unknown = "counters in redis+cluster://a:1, 0 of 4 connections open";
        assert_eq!(told("redis+cluster://a:1", &[]), (false, unknown.to_owned()));
    }

    #[test]
    fn who_was_denied_and_which_certificates_end_is_told() {
        let end = |flag: &str, not_after: &str, validity: &str| json!({ "flag": flag, "path": "tls.crt", "not_after": not_after, "validity": validity });
        let denied = |node: Option<&str>, times: u64| {
            json!({
                "port": "xds", "gateway": "shop", "node": node, "reason": "gateway shop is not for it", "times": times,
                "first_at": "2026-11-29T06:00:00.000Z", "last_at": "2026-11-29T06:59:57.000Z",
            })
        };
        let told = status(|status| {
            status["certificates"] = json!([
                end("--etcd-cert", "2026-11-29T05:00:00Z", "expired"),
                end("--tls-cert", "2026-12-11T10:00:00Z", "expiring"),
                end("--tls-client-ca", "2036-12-11T10:00:00Z", "valid"),
            ]);
            status["denied"] = json!([denied(Some("edge\u{1b}-1"), 12), denied(None, 1)]);
            status["gateways_without_envoys"] = json!(["shop", "side"]);
        });
        let expected = "
--etcd-cert tls.crt: the certificate ended 2h ago, at 2026-11-29T05:00:00Z

--tls-cert tls.crt: the certificate ends in 12days 3h, at 2026-12-11T10:00:00Z

no Envoy can have shop, side: only some certificates may, and this server asks for none (--tls-client-ca)

denied: edge\\u{1b}-1 on port xds, 12 times, 3s ago: gateway shop is not for it

denied: somebody on port xds, once, 3s ago: gateway shop is not for it
";
        assert_eq!(told.table(false).split_once("0.4 s ago\n").unwrap().1, expected);
    }

    #[test]
    fn what_is_refused_late_or_stale_is_not_well() {
        assert!(status(|_| {}).is_well());
        let unwell: [fn(&mut Value); 9] = [
            |status| status["gateways_without_envoys"] = json!(["shop"]),
            |status| {
                let expired = json!({ "flag": "f", "path": "p", "not_after": "", "validity": "expired" });
                status["certificates"] = json!([expired]);
            },
            |status| status["generation"] = json!(null),
            |status| status["refused"] = json!([{ "kind": "Api", "name": "a", "origin": "a.yaml:1" }]),
            |status| status["held"] = json!([{ "gateway": "a", "documents": [], "reasons": [] }]),
            |status| status["nodes"]["refusing"] = json!(1),
            |status| status["nodes"]["late"] = json!(1),
            |status| status["source"]["lag_seconds"] = json!(3.5),
            |status| {
                let full = json!({
                    "name": "audit_log", "ok": false, "value": 1, "threshold": 256, "unit": "lines",
                    "reason": "No space left on device",
                });
                status["checks"] = json!([full]);
            },
        ];
        for change in unwell {
            assert!(!status(change).is_well());
        }
    }
}
