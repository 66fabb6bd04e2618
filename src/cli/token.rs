//! `tierflow token`

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use serde_json::json;

use super::Failure;
use super::output::Streams;
use crate::access::Role;
use crate::access::token::{self, TokenHash};
use crate::shown;

/// Make a token for the admin port of a server, and print the line that makes it known there: an entry of `tokens` in the file
/// of `serve --admin-access`. The line has no secret.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Whose it is, as the audit log will name it.
    #[arg(value_name = "NAME")]
    name: String,
    /// What whoever shows it may do.
    #[arg(long, value_name = "ROLE", value_parser = PossibleValuesParser::new(Role::ALL.map(Role::as_str)))]
    role: String,
    /// The file to write the token to, readable by its owner alone. It must not be there yet. Default: the token is printed on
    /// standard error.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &Args, streams: &mut Streams<'_>) -> Result<(), Failure> {
    token::name(&args.name).map_err(|expected| format!("NAME: found {:?}, expected {expected}", args.name))?;
    let token = token::make().ok_or("the system has no random numbers")?;
    match &args.out {
        Some(path) => {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            let written = file.and_then(|mut file| writeln!(file, "{token}"));
            written.map_err(|error| format!("{}: {error}", shown::path(path)))?;
        }
        None => streams.complain(&format!("the token, which is shown this once: {token}")),
    }
    // JSON is YAML, and quotes whatever a name may hold.
    let name = json!(args.name);
    streams.print(&format!("- {{name: {name}, role: {}, sha256: \"{}\"}}\n", args.role, TokenHash::of(&token).to_hex()))
}
