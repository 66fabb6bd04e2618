//! `tierflow get`

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::checked::Checked;
use super::output::{self, Format, Streams};
use super::server::{Question, ServerArgs, path_of};
use super::{Failure, complete};
use crate::names::Kind;

/// Show the documents of a running server: all of them, those of a kind (in a table), or one with its text.
#[derive(clap::Args)]
pub(super) struct Args {
    #[arg(value_name = "KIND", value_parser = parse_kind, add = complete::kinds())]
    kind: Option<Kind>,
    #[arg(value_name = "NAME", requires = "kind", add = complete::documents_of_kind())]
    name: Option<String>,
    #[command(flatten)]
    server: Checked<ServerArgs>,
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

/// Documents that are asked for at once: as many as a server gives.
const PAGE: usize = 1000;

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

pub(super) fn run(args: &Args, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let answer = match (args.kind, &args.name) {
        (Some(kind), Some(name)) => args.server.ask(Question::get(&path_of(kind, name)))?,
        (Some(kind), None) => args.server.ask_pages(&format!("/v1/policies?limit={PAGE}&kind={kind}"), "documents")?,
        (None, _) => args.server.ask_pages(&format!("/v1/policies?limit={PAGE}"), "documents")?,
    };
    match args.output {
        Output::Json => streams.print_value(&answer, Format::Json),
        Output::Yaml => streams.print_value(&answer, Format::Yaml),
        Output::Table if args.name.is_some() => {
            let document = document(&read(answer)?);
            // No document that is served has control characters; without them it is the data that `apply` takes.
            let has_some = document.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'));
            if has_some { streams.print(&document) } else { streams.print_bytes(document.as_bytes()) }
        }
        Output::Table => {
            let documents = answer.get("documents").cloned().unwrap_or_default();
            streams.print(&table(&read::<Vec<Row>>(documents)?))
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(row: Value) -> Row {
        read(row).unwrap()
    }

    #[test]
    fn a_table_says_of_each_document_what_became_of_it() {
        let rows = [
            json!({ "kind": "Plan", "name": "gold", "revision": 12, "origin": "/tierflow/policies/Plan/gold", "served": true }),
            json!({ "kind": "Plan", "name": "free", "revision": 7, "origin": "a.yaml:1", "served": true, "refused": {} }),
            json!({ "kind": null, "name": null, "revision": null, "origin": "a.yaml:9", "served": false, "refused": {} }),
        ];
        let expected = "\
KIND  NAME  REVISION  STATE                                    ORIGIN
Plan  gold  12        served                                   /tierflow/policies/Plan/gold
Plan  free  7         refused, its last good version is served  a.yaml:1
-     -     -         refused                                  a.yaml:9
";
        let expected: Vec<Vec<&str>> = expected
            .lines()
            .map(|line| line.split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect())
            .collect();
        let table = table(&rows.map(row));
        let shown: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect())
            .collect();
        assert_eq!(shown, expected, "{table}");
        assert_eq!(super::table(&[]).lines().count(), 1, "the header");
    }

    /// What is shown is what `apply` takes.
    #[test]
    fn a_document_is_shown_as_the_base_of_its_next_change() {
        let of = |revision: Option<u64>, text: &str| {
            document(&row(json!({ "origin": "x", "served": true, "revision": revision, "text": text })))
        };
        assert_eq!(of(Some(41), "kind: Plan\n"), "# base version 41\nkind: Plan\n");
        assert_eq!(of(Some(41), "kind: Plan"), "# base version 41\nkind: Plan\n");
        assert_eq!(of(None, "kind: Plan"), "kind: Plan\n", "files have no revision");
    }
}
