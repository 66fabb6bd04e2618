//! `tierflow audit verify`

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::checked::{Check, Checked, Typed};
use super::output::{Streams, read_once};
use super::{Failure, STANDARD_STREAM};
use crate::audit::verify::{Verification, Verified};
use crate::{regular_file, shown};

/// Look at audit logs.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    Verify(Checked<VerifyArgs>),
}

/// Find lines that somebody changed, took out, put in or put elsewhere: each line says the SHA-256 of what stands before it. Exits
/// with 1 at the first line that does not follow.
#[derive(clap::Args)]
struct VerifyArgs {
    /// Files of `serve --audit-log`, in the order in which they were written: the oldest first. `-` is standard input.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// A hash that some line has to have, as the log of `serve` and /v1/status told it (`last_hash`). An end that was taken away is
    /// not found without one.
    #[arg(long, value_name = "HASH", value_parser = parse_hash)]
    expect: Option<String>,
    /// The hash of the line before the first one, where older files are elsewhere.
    #[arg(long, value_name = "HASH", value_parser = parse_hash)]
    after: Option<String>,
}

impl Check for VerifyArgs {
    fn check(&mut self, _: &Typed) -> Result<(), String> {
        read_once(&self.files)
    }
}

fn parse_hash(text: &str) -> Result<String, String> {
    let is_hash = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| text.to_owned()).ok_or_else(|| "expected the 64 hexadecimal digits of a SHA-256".to_owned())
}

pub(super) fn run(args: &Args, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let Verb::Verify(Checked(VerifyArgs { files, expect, after })) = &args.verb;
    let mut verification = Verification::new(after.as_deref(), expect.as_deref());
    let mut told = String::new();
    let mut tell = |text: String| told.push_str(&(text + "\n"));
    let mut verify = || {
        for path in files {
            let (name, file) = open(path)?;
            let read = verification.file(&name, BufReader::new(file), &mut tell);
            read.map_err(|broken| broken.to_string())?;
        }
        std::mem::take(&mut verification).end(&mut tell).map_err(|broken| broken.to_string())
    };
    let verified: Result<Verified, Failure> = verify();
    streams.print(&told)?;
    let Verified { lines, begin, last_hash, expected_at } = verified?;
    let mut summary = format!("{lines} lines follow each other, from {begin} on\nthe last hash is {last_hash}\n");
    if let Some(place) = expected_at {
        summary.push_str(&format!("{place} is the one that was expected\n"));
    }
    streams.print(&summary)
}

/// A file and its name.
fn open(path: &Path) -> Result<(String, Box<dyn Read>), Failure> {
    if path.as_os_str() == STANDARD_STREAM {
        return Ok(("standard input".to_owned(), Box::new(std::io::stdin())));
    }
    let file = regular_file::open_input(path).map_err(|error| format!("{}: {error}", shown::path(path)))?;
    Ok((shown::path(path), file))
}
