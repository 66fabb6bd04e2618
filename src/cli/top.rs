//! `tierflow top`

use std::io::IsTerminal as _;
use std::time::Duration;

use serde_json::Value;

use super::checked::Checked;
use super::get::Output;
use super::output::{self, Format, Streams};
use super::server::{Question, ServerArgs, encoded};
use super::{Failure, complete};
use crate::admin::top::{Busiest, BusyKey, BusyTenant};
use crate::shown;

/// Show the busiest, or the most denied, tenants and counters of the last minute of a running server.
#[derive(clap::Args)]
pub(super) struct Args {
    /// What the largest are the first by.
    #[arg(long, value_enum, default_value = "decisions")]
    by: By,
    #[arg(long, value_name = "NAME", add = complete::gateways())]
    gateway: Option<String>,
    /// The most tenants, and the most counters, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Show them anew every 2 s, until Ctrl-C. It needs a terminal.
    #[arg(short, long, conflicts_with = "output")]
    watch: bool,
    #[command(flatten)]
    server: Checked<ServerArgs>,
    /// The form of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum By {
    Decisions,
    Denied,
}

/// The pause between two looks.
const PAUSE: Duration = Duration::from_secs(2);
/// Puts what follows in the place of what is on a terminal.
const CLEAR: &str = "\x1b[H\x1b[J";

pub(super) fn run(args: &Args, streams: &mut Streams<'_>) -> Result<(), Failure> {
    if args.watch {
        if !std::io::stdout().is_terminal() {
            return Err("--watch needs a terminal: standard output is none".to_owned());
        }
        return watch(
            streams,
            || args.ask(),
            || {
                std::thread::sleep(PAUSE);
                true
            },
        );
    }
    let answer = args.ask()?;
    match args.output {
        Output::Json => streams.print_value(&answer, Format::Json),
        Output::Yaml => streams.print_value(&answer, Format::Yaml),
        Output::Table => streams.print(&table(answer)?),
    }
}

/// Until a pause says that it was the last. A server that cannot be asked may be there again at the next look.
fn watch(
    streams: &mut Streams<'_>,
    mut ask: impl FnMut() -> Result<Value, Failure>,
    mut pause: impl FnMut() -> bool,
) -> Result<(), Failure> {
    loop {
        let shown = ask().and_then(table).unwrap_or_else(|failure| format!("error: {failure}\n"));
        streams.print_bytes(format!("{CLEAR}{}", shown::lines(&shown)).as_bytes())?;
        if !pause() {
            return Ok(());
        }
    }
}

impl Args {
    fn ask(&self) -> Result<Value, Failure> {
        let by = match self.by {
            By::Decisions => "decisions",
            By::Denied => "denied",
        };
        let gateway = self.gateway.as_deref().map(|gateway| format!("&gateway={}", encoded(gateway)));
        let path = format!("/v1/top?by={by}&limit={}{}", self.limit, gateway.unwrap_or_default());
        self.server.ask(Question::get(&path))
    }
}

fn table(answer: Value) -> Result<String, Failure> {
    let top: Busiest = serde_json::from_value(answer)
        .map_err(|error| format!("the server answers something else than the busiest: {error}"))?;
    let how = if top.exact { "" } else { ", estimates" };
    let head = format!("since {}{how}\n", top.since);
    let tenants = output::table(["GATEWAY", "TENANT", "DECISIONS", "DENIED"], top.tenants.iter().map(of_tenant));
    let keys = output::table(
        ["GATEWAY", "API", "TIER", "LIMIT", "TENANT", "COUNTED BY", "DECISIONS", "OVER LIMIT"],
        top.keys.iter().map(of_key),
    );
    let tables: Vec<String> = [tenants, keys].into_iter().flatten().collect();
    if tables.is_empty() {
        return Ok(format!("{head}nothing\n"));
    }
    let more = match (top.tenants_more, top.keys_more) {
        (0, 0) => None,
        (tenants, keys) => Some(format!("and {tenants} more tenants and {keys} more counters: --limit\n")),
    };
    Ok(std::iter::once(head).chain(tables).chain(more).collect::<Vec<_>>().join("\n"))
}

fn of_tenant(BusyTenant { gateway, tenant, decisions, denied }: &BusyTenant) -> [String; 4] {
    [gateway.clone(), tenant.clone(), decisions.to_string(), share(*denied, *decisions)]
}

fn of_key(key: &BusyKey) -> [String; 8] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let limit = if key.shadow { format!("{} (shadow)", key.limit) } else { key.limit.clone() };
    [
        key.gateway.clone(),
        or_dash(&key.api),
        key.tier.clone(),
        limit,
        or_dash(&key.tenant),
        if key.key.is_empty() { "-".to_owned() } else { key.key.join(" ") },
        key.decisions.to_string(),
        share(key.denied, key.decisions),
    ]
}

/// As in `7 (58%)`.
fn share(part: u64, all: u64) -> String {
    match part {
        0 => "0".to_owned(),
        _ => format!("{part} ({:.0}%)", 100.0 * part as f64 / all.max(1) as f64),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer() -> Value {
        json!({
            "since": "2026-11-29T07:00:00.000Z", "exact": false,
            "tenants": [
                { "gateway": "shop", "tenant": "noisy\u{1b}[31m", "decisions": 12, "denied": 7 },
                { "gateway": "shop", "tenant": "calm", "decisions": 2, "denied": 0 },
            ],
            "keys": [
                { "gateway": "shop", "api": null, "tier": "tenant", "limit": "plan", "tenant": "noisy", "key": [],
                  "shadow": false, "decisions": 12, "denied": 7 },
                { "gateway": "shop", "api": "look", "tier": "api", "limit": "network", "tenant": null,
                  "key": ["127.0.0.0/24", "ann"], "shadow": true, "decisions": 2, "denied": 1 },
            ],
        })
    }

    const TABLES: &str = "\
since 2026-11-29T07:00:00.000Z, estimates

GATEWAY  TENANT           DECISIONS  DENIED
shop     noisy\\u{1b}[31m  12         7 (58%)
shop     calm             2          0

GATEWAY  API   TIER    LIMIT             TENANT  COUNTED BY        DECISIONS  OVER LIMIT
shop     -     tenant  plan              noisy   -                 12         7 (58%)
shop     look  api     network (shadow)  -       127.0.0.0/24 ann  2          1 (50%)
";

    #[test]
    fn the_busiest_are_shown_in_tables_and_no_name_can_colour_them() {
        assert_eq!(table(answer()).unwrap(), TABLES);
        let mut cut = answer();
        cut["tenants_more"] = json!(3);
        let told = table(cut).unwrap();
        assert_eq!(told, format!("{TABLES}\nand 3 more tenants and 0 more counters: --limit\n"));
        let quiet = json!({ "since": "2026-11-29T07:00:00.000Z", "exact": true, "tenants": [], "keys": [] });
        assert_eq!(table(quiet).unwrap(), "since 2026-11-29T07:00:00.000Z\nnothing\n");
        assert!(table(json!({})).unwrap_err().starts_with("the server answers something else"));
    }

    #[test]
    fn who_watches_sees_the_newest_and_goes_on_where_the_server_was_away() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let colours = output::Colours::default();
        let mut streams = Streams { answers: None, out: &mut out, err: &mut err, is_watched: true, colours };
        let mut answers = [Ok(answer()), Err("it is away".to_owned()), Ok(answer())].into_iter();
        let mut pauses = [true, true, false].into_iter();
        watch(&mut streams, || answers.next().unwrap(), || pauses.next().unwrap()).unwrap();
        let shown = format!("{CLEAR}{TABLES}");
        assert_eq!(String::from_utf8(out).unwrap(), format!("{shown}{CLEAR}error: it is away\n{shown}"));
    }
}
