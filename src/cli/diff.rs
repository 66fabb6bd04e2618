//! `tierflow diff`

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Failure;
use super::checked::{Check, Checked, Typed};
use super::get::Output;
use super::output::{self, Format, Streams};
use super::server::{Question, ServerArgs};
use crate::compile::RateLimitService;
use crate::diff::{CounterChange, Difference, FieldChange, LimitChange};

/// Say what changes when one set of policies takes the place of another: documents, limits and what becomes of their
/// counters, and what each gateway's Envoys would be sent. Nothing is changed.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A file or folder of policies, as it is. With only one, a running server's policies are what it is compared with.
    #[arg(value_name = "A")]
    first: PathBuf,
    /// As it is to be.
    #[arg(value_name = "B")]
    second: Option<PathBuf>,
    #[command(flatten)]
    server: Checked<ServerArgs>,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

impl Check for Args {
    fn check(&mut self, typed: &Typed) -> Result<(), String> {
        let Some(second) = &self.second else { return Ok(()) };
        if let Some(flag) = typed.first_in::<ServerArgs>() {
            let expected = format!("{flag} is about a running server, and two sets are compared without one");
            return Err(format!("{expected}: expected one set, as in `diff A {flag} ...`, or no {flag}"));
        }
        output::read_once([&self.first, second])
    }
}

pub(super) fn run(args: &Args, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let difference = match &args.second {
        Some(second) => {
            let mut load = |path: &Path| output::load(path, RateLimitService::default(), streams);
            let (before, after) = (load(&args.first)?, load(second)?);
            serde_json::to_value(before.difference(&after)).map_err(|error| error.to_string())?
        }
        None => of_server(args, streams)?,
    };
    match args.output {
        Output::Json => streams.print_value(&difference, Format::Json),
        Output::Yaml => streams.print_value(&difference, Format::Yaml),
        Output::Table => streams.print(&told(difference)?),
    }
}

/// A difference as a server or files tell it, for people.
pub(super) fn told(difference: Value) -> Result<String, Failure> {
    let told = serde_json::from_value(difference).map_err(|error| error.to_string())?;
    Ok(table(&told))
}

/// From what the server has to what the file or folder has.
fn of_server(args: &Args, streams: &mut Streams<'_>) -> Result<Value, Failure> {
    let documents = output::read_documents(std::slice::from_ref(&args.first), streams)?;
    let mut body = Vec::new();
    for (_, document) in documents.documents.sorted() {
        let content = document.content.as_deref().map_err(|error| format!("{}: {error}", document.origin))?;
        body.extend_from_slice(b"---\n");
        body.extend_from_slice(content);
        body.push(b'\n');
    }
    args.server.ask(Question { method: "POST", body, ..Question::get("/v1/diff") })
}

fn table(told: &Difference) -> String {
    let mut parts = Vec::new();
    let documents = told
        .documents
        .iter()
        .map(|document| [document.change.as_str().to_owned(), document.kind.to_string(), document.name.clone()]);
    parts.extend(output::table(["DOCUMENT", "KIND", "NAME"], documents));
    let limits = told.limits.iter().map(|limit| {
        [limit.change.as_str(), &limit.of, &limit.limit, &fields(limit), counters(limit.counters)].map(str::to_owned)
    });
    parts.extend(output::table(["LIMIT", "OF", "NAME", "WHAT", "COUNTERS"], limits));
    let pushes = told.pushes.iter().map(|push| {
        let resources = [("+", &push.added), ("~", &push.changed), ("-", &push.removed)];
        let named = resources.iter().flat_map(|(sign, names)| names.iter().map(move |name| format!("{sign}{name}")));
        let named: Vec<String> = named.collect();
        [push.gateway.clone(), push.resource_type.clone(), crate::shown::few(&named, " ")]
    });
    parts.extend(output::table(["GATEWAY", "RESOURCES", "SENT: + NEW, ~ CHANGED, - GONE"], pushes));
    match (told.documents.is_empty(), told.pushes.is_empty()) {
        (true, true) => parts.push("Nothing changes.\n".to_owned()),
        (false, true) => parts.push("Nothing is sent to any Envoy.\n".to_owned()),
        _ => {}
    }
    parts.join("\n")
}

fn fields(limit: &LimitChange) -> String {
    let told = |FieldChange { field, from, to }: &FieldChange| match (from.as_str(), to.as_str()) {
        ("", to) => format!("{field} {to}"),
        (from, "") => format!("{field} {from}"),
        (from, to) => format!("{field} {from} -> {to}"),
    };
    limit.fields.iter().map(told).collect::<Vec<_>>().join(", ")
}

fn counters(change: CounterChange) -> &'static str {
    match change {
        CounterChange::Kept => "go on counting",
        CounterChange::New => "start from nothing",
        CounterChange::Dropped => "are left to fade",
    }
}
