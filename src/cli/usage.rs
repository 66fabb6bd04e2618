//! `tierflow counters` and `tierflow counters reset`

use serde::Deserialize;
use serde_json::Value;

use super::checked::Checked;
use super::get::Output;
use super::output::{self, Format, Streams};
use super::server::{Question, ServerArgs, encoded};
use super::{Failure, complete};

/// Show the counters of a running server: what is used of each limit, what is left, and when more frees up. Nothing is
/// counted.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    server: Checked<ServerArgs>,
    /// The form of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Forget what was counted, on all replicas that share the counters.
    Reset(ResetArgs),
}

#[derive(clap::Args)]
struct ResetArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    /// Do not ask first. It is needed where standard input is no terminal.
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    server: Checked<ServerArgs>,
    /// The form of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// A counter is meant where everything that is given has a part in it.
#[derive(clap::Args)]
struct SelectionArgs {
    #[arg(long, value_name = "NAME", add = complete::gateways())]
    gateway: Option<String>,
    /// Counters of this Api alone; with --tenant, also those of the tenant that requests to it are counted by.
    #[arg(long, value_name = "NAME", add = complete::apis())]
    api: Option<String>,
    #[arg(long, value_name = "NAME", add = complete::tenants())]
    tenant: Option<String>,
    /// The limit's name, as denials and metrics have it.
    #[arg(long, value_name = "NAME", add = complete::limits())]
    limit: Option<String>,
    /// api, tenant or rate_limits.
    #[arg(long, value_name = "TIER")]
    tier: Option<String>,
    /// What a limit counts by, as in client_ip=10.0.0.7, header.x-user=42, query.q=, cookie.c=1, jwt_claim.sub=ann, path=/a,
    /// method=GET or host=shop.example; may be given several times. An empty value is that of requests that lack it.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_key)]
    key: Vec<(String, String)>,
}

fn parse_key(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE, as in client_ip=10.0.0.7")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// The server's account of a counter.
#[derive(Deserialize)]
struct Row {
    gateway: String,
    api: Option<String>,
    tenant: Option<String>,
    tier: String,
    limit: String,
    rate: String,
    mode: String,
    by: Vec<Part>,
    missing: Vec<String>,
    used: Option<u64>,
    remaining: Option<u64>,
    frees_after_seconds: Option<f64>,
}

#[derive(Deserialize)]
struct Part {
    dimension: String,
    value: Option<String>,
}

pub(super) fn run(args: &Args, streams: &mut Streams<'_>) -> Result<(), Failure> {
    if let Some(Verb::Reset(args)) = &args.verb {
        return reset(args, streams);
    }
    let counters = args.selection.ask_all(&args.server)?;
    match args.output {
        Output::Json => streams.print_value(&counters, Format::Json),
        Output::Yaml => streams.print_value(&counters, Format::Yaml),
        Output::Table => streams.print(&table(&read(counters)?)),
    }
}

fn reset(args: &ResetArgs, streams: &mut Streams<'_>) -> Result<(), Failure> {
    if !args.yes && !is_confirmed(args, streams)? {
        return Err("nothing was reset".to_owned());
    }
    let question = Question { method: "DELETE", ..Question::get(&args.selection.path(0)) };
    let answer = args.server.ask(question)?;
    match args.output {
        Output::Json => streams.print_value(&answer, Format::Json),
        Output::Yaml => streams.print_value(&answer, Format::Yaml),
        Output::Table => {
            let named = answer.get("counters").and_then(Value::as_array).map_or(0, Vec::len);
            let reset = answer.get("reset").and_then(Value::as_u64).unwrap_or_default();
            streams.print(&format!("{named} counters are at zero now, {reset} of which had counted something\n"))
        }
    }
}

fn is_confirmed(args: &ResetArgs, streams: &mut Streams<'_>) -> Result<bool, Failure> {
    if streams.answers.is_none() {
        return Err("standard input is no terminal, so that nobody can be asked: say --yes".to_owned());
    }
    let mut rows = read(args.selection.ask_all(&args.server)?)?;
    rows.retain(|row| row.missing.is_empty());
    streams.complain(&table(&rows));
    streams.complain(&format!("Forget what these {} counters have counted? [y/N]", rows.len()));
    let mut answer = String::new();
    if let Some(answers) = &mut streams.answers {
        answers.read_line(&mut answer).map_err(|error| format!("standard input: {error}"))?;
    }
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}

impl SelectionArgs {
    /// All counters, page by page.
    fn ask_all(&self, server: &ServerArgs) -> Result<Value, Failure> {
        let mut all = Vec::new();
        let mut offset = 0;
        loop {
            let mut answer = server.ask(Question::get(&self.path(offset)))?;
            if let Some(Value::Array(page)) = answer.get_mut("counters").map(Value::take) {
                all.extend(page);
            }
            match answer.get("next_offset").and_then(Value::as_u64).filter(|next| *next > offset) {
                Some(next) => offset = next,
                None => return Ok(Value::Array(all)),
            }
        }
    }

    fn path(&self, offset: u64) -> String {
        let named = [
            ("gateway", &self.gateway),
            ("api", &self.api),
            ("tenant", &self.tenant),
            ("limit", &self.limit),
            ("tier", &self.tier),
        ];
        let named = named.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let keys = self.key.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut pairs: Vec<String> =
            named.chain(keys).map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        if offset > 0 {
            pairs.push(format!("offset={offset}"));
        }
        format!("/v1/counters?{}", pairs.join("&"))
    }
}

fn read(counters: Value) -> Result<Vec<Row>, Failure> {
    serde_json::from_value(counters)
        .map_err(|error| format!("the server answers something else than counters: {error}"))
}

/// The time until a counter has more left; nothing where nothing is used.
pub(super) fn more_in(seconds: f64) -> String {
    if seconds == 0.0 { "-".to_owned() } else { format!("{seconds:.1} s") }
}

fn table(rows: &[Row]) -> String {
    let header = ["GATEWAY", "TIER", "API", "TENANT", "LIMIT", "RATE", "COUNTED BY", "USED", "LEFT", "MORE IN"]
        .map(str::to_owned);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let cells = |row: &Row| {
        let part = |part: &Part| format!("{}={}", part.dimension, part.value.as_deref().unwrap_or("?"));
        let by: Vec<String> = row.by.iter().map(part).collect();
        let limit = if row.mode == "shadow" { format!("{} (shadow)", row.limit) } else { row.limit.clone() };
        let more = match row.frees_after_seconds {
            None => format!("needs {}", row.missing.join(", ")),
            Some(seconds) => more_in(seconds),
        };
        [
            row.gateway.clone(),
            row.tier.clone(),
            or_dash(row.api.clone()),
            or_dash(row.tenant.clone()),
            limit,
            row.rate.clone(),
            if by.is_empty() { "-".to_owned() } else { by.join(" ") },
            or_dash(row.used.map(|used| used.to_string())),
            or_dash(row.remaining.map(|left| left.to_string())),
            more,
        ]
    };
    let lines: Vec<[String; 10]> = std::iter::once(header).chain(rows.iter().map(cells)).collect();
    output::aligned(&lines).join("\n") + "\n"
}
