//! Completions of shells. A shell that has run what `tierflow completions` prints asks the program itself what may follow, and
//! that asks a running server for names. Where none answers at once, nothing is offered.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::time::Duration;

use clap::{Args as _, Command, CommandFactory as _, FromArgMatches as _};
use clap_complete::env::{CompleteEnv, Shells};
use clap_complete::{ArgValueCompleter, CompletionCandidate, Shell};
use serde_json::Value;

use super::get::parse_kind;
use super::server::{Question, ServerArgs, encoded};
use super::{Cli, Failure};
use crate::names::Kind;

/// The environment variable by which a shell asks.
const VARIABLE: &str = "TIERFLOW_COMPLETE";
/// Somebody has pressed a key and waits.
const DEADLINE: Duration = Duration::from_millis(300);
/// So many names are asked for. Whoever wants another one types more of it.
const NAMES_MAX: usize = 100;

/// Answers a shell and ends the process, where it is a shell that asks.
pub(super) fn answer() {
    CompleteEnv::with_factory(Cli::command).var(VARIABLE).complete();
}

/// What a shell runs so that it asks.
pub(super) fn script(shell: Shell) -> Result<Vec<u8>, Failure> {
    let shells = Shells::builtins();
    let completer = shells.completer(&shell.to_string()).ok_or_else(|| format!("{shell}: is not known"))?;
    let called = std::env::args_os().next().unwrap_or_else(|| OsString::from("tierflow"));
    let mut script = Vec::new();
    let written = absolute(Path::new(&called))
        .and_then(|program| completer.write_registration(VARIABLE, "tierflow", "tierflow", &program, &mut script));
    written.map_err(|error| error.to_string())?;
    Ok(script)
}

/// A program that was found in the PATH will be found there again.
fn absolute(program: &Path) -> io::Result<String> {
    let program = if program.components().count() > 1 { std::path::absolute(program)? } else { program.to_owned() };
    Ok(program.to_string_lossy().into_owned())
}

pub(super) fn kinds() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let typed = typed.to_string_lossy().to_ascii_lowercase();
        let kinds = Kind::ALL.into_iter().map(Kind::as_str);
        kinds.filter(|kind| kind.to_ascii_lowercase().starts_with(&typed)).map(CompletionCandidate::new).collect()
    })
}

pub(super) fn gateways() -> ArgValueCompleter {
    names(|part| vec![documents(Kind::Gateway, part)])
}

pub(super) fn apis() -> ArgValueCompleter {
    names(|part| vec![documents(Kind::Api, part)])
}

/// Those on the default plan of their gateway have no document, and are known by what they ask for.
pub(super) fn tenants() -> ArgValueCompleter {
    let busy =
        |part: &str| List { path: format!("/v1/top?search={part}&limit={NAMES_MAX}"), rows: "tenants", name: "tenant" };
    names(move |part| vec![documents(Kind::Tenant, part), busy(part)])
}

pub(super) fn limits() -> ArgValueCompleter {
    let path = |part: &str| format!("/v1/limits?search={part}&limit={NAMES_MAX}");
    names(move |part| vec![List { path: path(part), rows: "limits", name: "limit" }])
}

pub(super) fn node_ids() -> ArgValueCompleter {
    let path = |part: &str| format!("/v1/nodes?search={part}&limit={NAMES_MAX}");
    names(move |part| vec![List { path: path(part), rows: "nodes", name: "id" }])
}

/// Of the kind that stands before.
pub(super) fn documents_of_kind() -> ArgValueCompleter {
    names(|part| {
        let kind = words().find_map(|word| parse_kind(word.to_str()?).ok());
        kind.map(|kind| documents(kind, part)).into_iter().collect()
    })
}

/// A list of the admin API.
struct List {
    path: String,
    rows: &'static str,
    /// The member of a row that is its name.
    name: &'static str,
}

fn documents(kind: Kind, part: &str) -> List {
    List { path: format!("/v1/policies?kind={kind}&search={part}&limit={NAMES_MAX}"), rows: "documents", name: "name" }
}

/// Names that begin with what is typed.
fn names(lists: impl Fn(&str) -> Vec<List> + Send + Sync + 'static) -> ArgValueCompleter {
    ArgValueCompleter::new(move |typed: &OsStr| {
        let (Some(typed), Some(server)) = (typed.to_str(), server()) else { return Vec::new() };
        let mut found = BTreeSet::new();
        for list in lists(&encoded(typed)) {
            let Ok(answer) = server.ask_within(Question::get(&list.path), DEADLINE) else { return Vec::new() };
            let rows = answer.get(list.rows).and_then(Value::as_array).into_iter().flatten();
            let names = rows.filter_map(|row| row.get(list.name)?.as_str());
            found.extend(names.filter(|name| name.starts_with(typed) && is_word(name)).map(str::to_owned));
        }
        found.into_iter().map(CompletionCandidate::new).collect()
    })
}

/// Envoys and tenants choose their names, and a shell puts what is offered into the line as it stands: what it would take for
/// more than a word is not offered.
fn is_word(name: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._:/@%+=,-".contains(&b);
    !name.starts_with('-') && name.bytes().all(is_plain)
}

/// The words of the line that is completed.
fn words() -> impl Iterator<Item = OsString> {
    std::env::args_os().skip_while(|word| word != "--").skip(1)
}

/// The server that the line names, or the environment.
fn server() -> Option<ServerArgs> {
    let command = ServerArgs::augment_args(Command::new("server"));
    let flags: Vec<String> =
        command.get_arguments().filter_map(|argument| Some(format!("--{}", argument.get_long()?))).collect();
    let (mut line, mut words) = (vec![OsString::from("server")], words());
    while let Some(word) = words.next() {
        let (flag, value) = word.to_str().map_or(("", None), |word| match word.split_once('=') {
            Some((flag, value)) => (flag, Some(OsString::from(value))),
            None => (word, None),
        });
        if !flags.iter().any(|own| own == flag) {
            continue;
        }
        let flag = flag.to_owned();
        // Shells take `--flag=value` for three words.
        let value = value.or_else(|| words.next()).filter(|value| value != "=").or_else(|| words.next())?;
        // The server of `bootstrap` is another port.
        if flag != "--server" || value.to_string_lossy().contains("://") {
            line.extend([flag.into(), value]);
        }
    }
    let matches = command.try_get_matches_from(line).ok()?;
    ServerArgs::from_arg_matches(&matches).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_shell_would_take_for_more_than_a_word_is_not_offered() {
        for good in ["acme", "edge-1", "a.b_c:d/e@f", "10.0.0.7", "50%"] {
            assert!(is_word(good), "{good}");
        }
        for bad in ["a b", "$(reboot)", "`reboot`", "a;b", "a\nb", "a\u{b}b", "'a", "a\\", "-rf", "~root&", "a*", "é"]
        {
            assert!(!is_word(bad), "{bad}");
        }
    }
}
