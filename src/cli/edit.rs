//! `tierflow apply` and `tierflow delete`

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::checked::{Check, Checked, Typed};
use super::get::parse_kind;
use super::output::{self, Streams};
use super::server::{Question, ServerArgs, Told, encoded, path_of};
use super::{Failure, complete, diff};
use crate::names::Kind;
use crate::{regular_file, shown};

/// Change documents of a running server: all of the files' documents together, or none.
#[derive(clap::Args)]
pub(super) struct ApplyArgs {
    /// Files of documents; `-` is standard input.
    #[arg(short, long, required = true, value_name = "FILE")]
    file: Vec<PathBuf>,
    #[command(flatten)]
    edit: EditArgs,
}

/// Delete a document of a running server.
#[derive(clap::Args)]
pub(super) struct DeleteArgs {
    #[arg(value_name = "KIND", value_parser = parse_kind, add = complete::kinds())]
    kind: Kind,
    #[arg(value_name = "NAME", add = complete::documents_of_kind())]
    name: String,
    #[command(flatten)]
    edit: EditArgs,
}

#[derive(clap::Args)]
struct EditArgs {
    /// The revision that the change was made from: if one of the documents has changed since, nothing is done. Default:
    /// the one that the files name in a line `# base version N`, as `get` prints it, else the newest.
    #[arg(long, value_name = "REVISION")]
    base: Option<u64>,
    /// Why it is to be done although it takes away more than is usual.
    #[arg(long, value_name = "REASON")]
    force: Option<String>,
    /// A name for this change: sent again with the same name, it is not done twice.
    #[arg(long, value_name = "NAME")]
    idempotency_key: Option<String>,
    /// Say what would change, as `diff` does, and change nothing.
    #[arg(long, conflicts_with_all = ["base", "force", "idempotency_key"])]
    dry_run: bool,
    #[command(flatten)]
    server: Checked<ServerArgs>,
}

impl Check for ApplyArgs {
    fn check(&mut self, _: &Typed) -> Result<(), String> {
        output::read_once(&self.file)
    }
}

/// The server's answer to a change that is made.
#[derive(serde::Deserialize)]
struct Done {
    revision: u64,
    replayed: bool,
    shown: bool,
    waiting: Vec<Waiting>,
}

/// A document that is written and not served yet.
#[derive(serde::Deserialize)]
struct Waiting {
    kind: Option<String>,
    name: Option<String>,
    /// True where an earlier version is.
    served: bool,
    problems: Vec<Told>,
}

impl Waiting {
    fn line(&self) -> String {
        let names = [&self.kind, &self.name].into_iter().flatten().map(|name| shown::text(name));
        let document = names.collect::<Vec<_>>().join(" ");
        let what = if self.served { "its version before is served" } else { "is not served" };
        let why: Vec<&str> = self.problems.iter().map(|problem| problem.message.as_str()).collect();
        format!("{document} waits, and {what} until then: {}\n", why.join("; "))
    }
}

pub(super) fn apply(args: &ApplyArgs, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let texts = args.file.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?;
    let named = texts.iter().flat_map(|text| text.lines()).filter_map(base_version).min();
    let body = texts.join("\n---\n").into_bytes();
    if args.edit.dry_run {
        return args.edit.difference("merge=true", body, streams);
    }
    args.edit.send("POST", "/v1/apply".to_owned(), named, body, streams)
}

pub(super) fn delete(args: &DeleteArgs, streams: &mut Streams<'_>) -> Result<(), Failure> {
    if args.edit.dry_run {
        let document = encoded(&format!("{}/{}", args.kind, args.name));
        return args.edit.difference(&format!("delete={document}"), Vec::new(), streams);
    }
    args.edit.send("DELETE", path_of(args.kind, &args.name), None, Vec::new(), streams)
}

fn read(file: &Path) -> Result<String, Failure> {
    let text = if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        regular_file::read_input(file)
    };
    text.map_err(|error| format!("{}: {error}", shown::path(file)))
}

fn base_version(line: &str) -> Option<u64> {
    line.strip_prefix("# base version ")?.trim().parse().ok()
}

impl EditArgs {
    fn difference(&self, change: &str, body: Vec<u8>, streams: &mut Streams<'_>) -> Result<(), Failure> {
        let question = Question { method: "POST", body, ..Question::get(&format!("/v1/diff?{change}")) };
        let difference = self.server.ask(question)?;
        streams.print(&diff::told(difference)?)
    }

    fn send(
        &self,
        method: &'static str,
        path: String,
        named: Option<u64>,
        body: Vec<u8>,
        streams: &mut Streams<'_>,
    ) -> Result<(), Failure> {
        let base = match self.base.or(named) {
            Some(base) => base,
            None => self.newest()?,
        };
        let base = base.to_string();
        let path = match &self.force {
            Some(reason) => format!("{path}?force={}", encoded(reason)),
            None => path,
        };
        let mut headers = vec![("x-config-base-version", base.as_str())];
        headers.extend(self.idempotency_key.as_deref().map(|key| ("idempotency-key", key)));
        let answer = self.server.ask(Question { method, path, headers, body })?;
        let done: Done = serde_json::from_value(answer).map_err(|error| format!("the server's answer: {error}"))?;
        let how = if done.replayed { "was done before, at" } else { "done at" };
        let not_shown = if done.shown { "" } else { ", which this replica does not show yet" };
        let waiting: String = done.waiting.iter().map(Waiting::line).collect();
        streams.print(&format!("{how} revision {}{not_shown}\n{waiting}", done.revision))
    }

    fn newest(&self) -> Result<u64, Failure> {
        let status = self.server.ask(Question::get("/v1/status"))?;
        status
            .pointer("/source/revision")
            .and_then(Value::as_u64)
            .ok_or_else(|| "the server has no revision".to_owned())
    }
}
