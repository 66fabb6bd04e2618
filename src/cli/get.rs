//! `tierflow get`

use serde_json::Value;

use super::Failure;
use super::output::{self, Format};
use super::server::{Question, ServerArgs, path_of};
use crate::names::Kind;

/// Show the documents of a running server: all of them, those of a kind, or one with its text.
#[derive(clap::Args)]
pub(super) struct Args {
    #[arg(value_name = "KIND", value_parser = parse_kind)]
    kind: Option<Kind>,
    #[arg(value_name = "NAME", requires = "kind")]
    name: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
    /// How it is printed. A table of one document is the document itself.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
    Yaml,
}

pub(super) fn parse_kind(text: &str) -> Result<Kind, String> {
    let is_meant = |kind: &Kind| kind.as_str().eq_ignore_ascii_case(text);
    let kinds = || Kind::ALL.map(Kind::as_str).join(", ");
    Kind::ALL.into_iter().find(is_meant).ok_or_else(|| format!("expected one of {}", kinds()))
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let answer = match (args.kind, &args.name) {
        (Some(kind), Some(name)) => args.server.ask(Question::get(&path_of(kind, name)))?,
        (kind, _) => {
            let mut list = args.server.ask(Question::get("/v1/policies"))?;
            if let (Some(kind), Some(documents)) = (kind, list["documents"].as_array_mut()) {
                documents.retain(|document| document["kind"] == kind.as_str());
            }
            list
        }
    };
    match args.output {
        Output::Json => output::print_value(&answer, Format::Json),
        Output::Yaml => output::print_value(&answer, Format::Yaml),
        Output::Table if args.name.is_some() => output::print(&document(&answer)),
        Output::Table => output::print(&table(&answer)),
    }
}

/// The text, under a line that says which version it is: that is the base of a change of it.
fn document(answer: &Value) -> String {
    let text = answer["text"].as_str().unwrap_or_default();
    let version = match answer["revision"].as_u64() {
        Some(revision) => format!("# base version {revision}\n"),
        None => String::new(),
    };
    let end = if text.ends_with('\n') { "" } else { "\n" };
    format!("{version}{text}{end}")
}

fn table(answer: &Value) -> String {
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let header = ["KIND", "NAME", "REVISION", "STATE", "ORIGIN"].map(str::to_owned);
    let row = |document: &Value| {
        let state = match (document["served"].as_bool(), document["refused"].is_object()) {
            (Some(true), false) => "served",
            (Some(true), true) => "refused, its last good version is served",
            _ => "refused",
        };
        [
            text(&document["kind"]),
            text(&document["name"]),
            text(&document["revision"]),
            state.to_owned(),
            text(&document["origin"]),
        ]
    };
    let documents = answer["documents"].as_array().into_iter().flatten();
    let rows: Vec<[String; 5]> = std::iter::once(header).chain(documents.map(row)).collect();
    output::aligned(&rows).join("\n") + "\n"
}
