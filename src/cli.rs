//! The command line: one file a verb. A verb prints what was asked for on standard output and problems on
//! standard error; it exits with 0, with 1 where it found something wrong, and with 2 where it was used wrongly.

mod bootstrap;
mod check;
mod compile;
mod counters;
mod edit;
mod etcd;
mod explain;
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
mod usage;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// A flow control plane for Envoy: declarative policies in, xDS and tiered rate limits out.
#[derive(Parser)]
#[command(name = "tierflow", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Serve(Box<serve::Args>),
    Check(check::Args),
    Compile(compile::Args),
    Explain(explain::Args),
    Bootstrap(bootstrap::Args),
    Get(get::Args),
    Apply(edit::ApplyArgs),
    Delete(edit::DeleteArgs),
    Register(register::Args),
    Replay(replay::Args),
    Status(status::Args),
    Counters(usage::Args),
    Schema(schema::Args),
    /// Print the completions of a shell.
    Completions {
        shell: clap_complete::Shell,
    },
}

/// The reason of a failure, already in words for the operator. Empty where it was said before.
type Failure = String;

pub fn run() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Serve(args) => serve::run(*args),
        Verb::Check(args) => check::run(&args),
        Verb::Compile(args) => compile::run(&args),
        Verb::Explain(args) => explain::run(&args),
        Verb::Bootstrap(args) => bootstrap::run(&args),
        Verb::Get(args) => get::run(&args),
        Verb::Apply(args) => edit::apply(&args),
        Verb::Delete(args) => edit::delete(&args),
        Verb::Register(args) => register::run(&args),
        Verb::Replay(args) => replay::run(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Counters(args) => usage::run(&args),
        Verb::Schema(args) => schema::run(&args),
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "tierflow", &mut std::io::stdout());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_empty() {
                output::complain(&format!("error: {failure}"));
            }
            ExitCode::FAILURE
        }
    }
}
