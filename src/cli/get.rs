//! `tierflow get`

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Failure;
use super::output::{self, Format};
use super::server::{Question, ServerArgs, path_of};
use crate::names::Kind;

/// Show the documents of a running server: all of them, those of a kind (in a table), or one with its text.
#[derive(clap::Args)]
pub(super) struct Args {
    #[arg(value_name = "KIND", value_parser = parse_kind)]
    kind: Option<Kind>,
    #[arg(value_name = "NAME", requires = "kind")]
    name: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
    /// The form of the output. A table of one document is the document itself.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Output {
    Table,
    Json,
    Yaml,
}

pub(super) fn parse_kind(text: &str) -> Result<Kind, String> {
    let is_meant = |kind: &Kind| kind.as_str().eq_ignore_ascii_case(text);
    let kinds = || Kind::ALL.map(Kind::as_str).join(", ");
    Kind::ALL.into_iter().find(is_meant).ok_or_else(|| format!("expected one of {}", kinds()))
}

/// The server's account of a document.
#[derive(Deserialize)]
struct Row {
    kind: Option<String>,
    name: Option<String>,
    revision: Option<u64>,
    origin: String,
    served: bool,
    refused: Option<Value>,
    text: Option<String>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let path = match (args.kind, &args.name) {
        (Some(kind), Some(name)) => path_of(kind, name),
        _ => "/v1/policies".to_owned(),
    };
    let answer = args.server.ask(Question::get(&path))?;
    match args.output {
        Output::Json => output::print_value(&answer, Format::Json),
        Output::Yaml => output::print_value(&answer, Format::Yaml),
        Output::Table if args.name.is_some() => output::print(&document(&read(answer)?)),
        Output::Table => {
            let documents = answer.get("documents").cloned().unwrap_or_default();
            let mut rows: Vec<Row> = read(documents)?;
            rows.retain(|row| args.kind.is_none_or(|kind| row.kind.as_deref() == Some(kind.as_str())));
            output::print(&table(&rows))
        }
    }
}

fn read<T: DeserializeOwned>(answer: Value) -> Result<T, Failure> {
    serde_json::from_value(answer).map_err(|error| format!("the server answers something else than documents: {error}"))
}

/// The text, under a line that says which version it is: that is the base of a change of it.
fn document(row: &Row) -> String {
    let text = row.text.as_deref().unwrap_or_default();
    let version = row.revision.map(|revision| format!("# base version {revision}\n")).unwrap_or_default();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    format!("{version}{text}{end}")
}

fn table(rows: &[Row]) -> String {
    let header = ["KIND", "NAME", "REVISION", "STATE", "ORIGIN"].map(str::to_owned);
    let cells = |row: &Row| {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let state = match (row.served, row.refused.is_some()) {
            (true, false) => "served",
            (true, true) => "refused, its last good version is served",
            (false, _) => "refused",
        };
        let revision = row.revision.map(|revision| revision.to_string());
        let [kind, name, revision] = [row.kind.clone(), row.name.clone(), revision].map(or_dash);
        [kind, name, revision, state.to_owned(), row.origin.clone()]
    };
    let lines: Vec<[String; 5]> = std::iter::once(header).chain(rows.iter().map(cells)).collect();
    output::aligned(&lines).join("\n") + "\n"
}
