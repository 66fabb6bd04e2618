//! The `tierflow` command: maps what a verb returns to an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    tierflow::cli::run()
}
