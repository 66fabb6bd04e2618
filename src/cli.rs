//! The command line: one file a verb. A verb prints what was asked for on standard output and problems on
//! standard error; it exits with 0, with 1 where it found something wrong, and with 2 where it was used wrongly.

mod audit;
mod bootstrap;
mod check;
mod checked;
mod compile;
mod complete;
mod counters;
mod diff;
mod edit;
mod etcd;
mod explain;
mod fmt;
mod get;
mod output;
mod register;
mod replay;
mod schema;
mod serve;
mod server;
#[cfg(test)]
mod stand_in;
mod status;
#[cfg(test)]
mod tests;
mod token;
mod top;
mod traces;
mod usage;

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use self::checked::Checked;
use self::output::{Colours, Streams};
use crate::{shown, version};

/// A flow control plane for Envoy: declarative policies in, xDS and tiered rate limits out.
#[derive(Parser)]
#[command(name = "tierflow", version = version::LONG, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Serve(Box<Checked<serve::Args>>),
    Check(Checked<check::Args>),
    Compile(compile::Args),
    Diff(Checked<diff::Args>),
    Explain(Checked<explain::Args>),
    Fmt(Checked<fmt::Args>),
    Bootstrap(bootstrap::Args),
    Get(get::Args),
    Apply(Checked<edit::ApplyArgs>),
    Delete(edit::DeleteArgs),
    Register(register::Args),
    Replay(Checked<replay::Args>),
    Status(status::Args),
    Counters(usage::Args),
    Top(top::Args),
    Token(token::Args),
    Audit(audit::Args),
    Schema(schema::Args),
    /// Print what a shell runs to complete verbs, flags and the names that a running server knows, as in
    /// `source <(tierflow completions bash)`.
    Completions {
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder, which is made where there is none, as in `man -l FOLDER/tierflow-serve.1`.
    Man {
        folder: PathBuf,
    },
}

/// As a file, standard input or output, by the convention of most programs.
const STANDARD_STREAM: &str = "-";

/// Without any directive errors alone would be logged, which nobody means who says nothing.
fn parse_log_filter(text: &str) -> Result<String, String> {
    let has_words = text.split(',').any(|directive| !directive.trim().is_empty());
    has_words.then(|| text.to_owned()).ok_or_else(|| "expected a filter, as in info or tierflow=debug,warn".to_owned())
}

/// The reason of a failure, already in words for the operator. Empty where it was said before.
type Failure = String;

pub fn run() -> ExitCode {
    complete::answer();
    let (mut stdin, mut out, mut err) = (BufReader::new(std::io::stdin()), std::io::stdout(), std::io::stderr());
    let answers = std::io::stdin().is_terminal().then_some(&mut stdin as &mut dyn BufRead);
    let is_watched = std::io::stderr().is_terminal();
    let colours = Colours::of(&out, &err, |variable| std::env::var_os(variable));
    let mut streams = Streams { answers, out: &mut out, err: &mut err, is_watched, colours };
    let cli = parse(std::env::args_os()).unwrap_or_else(|error| exit(error, &mut streams));
    match cli.verb.run(&mut streams) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_empty() {
                streams.complain(&format!("error: {}", shown::without_secrets(&failure)));
            }
            ExitCode::FAILURE
        }
    }
}

/// Tells what is wrong with what somebody typed, and ends. What may be a secret in a URL is not shown.
fn exit(mut error: clap::Error, streams: &mut Streams<'_>) -> ! {
    conceal_url(&mut error);
    let told = error.to_string();
    match shown::without_secrets(&told) {
        Cow::Borrowed(_) => error.exit(),
        Cow::Owned(told) => {
            streams.complain(told.trim_end());
            std::process::exit(error.exit_code())
        }
    }
}

/// What was typed for a flag that takes a URL is one also where it has no scheme.
fn conceal_url(error: &mut clap::Error) {
    let is_url =
        matches!(error.get(ContextKind::InvalidArg), Some(ContextValue::String(flag)) if flag.contains("<URL>"));
    if let (true, Some(ContextValue::String(typed))) = (is_url, error.get(ContextKind::InvalidValue))
        // One that has a scheme is found in the whole of what is told.
        && !typed.contains("://")
    {
        let shown = shown::address(typed).into_owned();
        error.insert(ContextKind::InvalidValue, ContextValue::String(shown));
    }
}

/// What somebody typed. An error ends with how the verb is used that it is about.
fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    let mut matches = command.try_get_matches_from_mut(line)?;
    let verb = matches.subcommand_name().unwrap_or_default().to_owned();
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| match command.find_subcommand_mut(&verb) {
        Some(verb) => error.format(verb),
        None => error.format(&mut command),
    })
}

impl Verb {
    fn run(self, streams: &mut Streams<'_>) -> Result<(), Failure> {
        match self {
            Self::Serve(args) => serve::run(args.0),
            Self::Check(args) => check::run(&args, streams),
            Self::Compile(args) => compile::run(&args, streams),
            Self::Diff(args) => diff::run(&args, streams),
            Self::Explain(args) => explain::run(&args, streams),
            Self::Fmt(args) => fmt::run(&args, streams),
            Self::Bootstrap(args) => bootstrap::run(&args, streams),
            Self::Get(args) => get::run(&args, streams),
            Self::Apply(args) => edit::apply(&args, streams),
            Self::Delete(args) => edit::delete(&args, streams),
            Self::Register(args) => register::run(&args),
            Self::Replay(args) => replay::run(&args, streams),
            Self::Status(args) => status::run(&args, streams),
            Self::Counters(args) => usage::run(&args, streams),
            Self::Top(args) => top::run(&args, streams),
            Self::Token(args) => token::run(&args, streams),
            Self::Audit(args) => audit::run(&args, streams),
            Self::Schema(args) => schema::run(&args, streams),
            Self::Completions { shell } => streams.print_bytes(&complete::script(shell)?),
            Self::Man { folder } => {
                let written =
                    std::fs::create_dir_all(&folder).and_then(|()| clap_mangen::generate_to(Cli::command(), &folder));
                written.map_err(|error| format!("{}: {error}", shown::path(&folder)))
            }
        }
    }
}
