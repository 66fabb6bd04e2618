//! `tierflow fmt`

mod form;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Failure;
use super::checked::{Check, Typed};
use super::output::{self, Streams};
use crate::document::Document;
use crate::policy::parse;
use crate::policy::problem::Problem;
use crate::{shown, source};

/// Write policies in one form: indentation, spaces, quotes and the ends of lines. Comments, the order of fields and what the
/// policies mean stay as they are.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Files, and folders of which every .yaml and .yml file is meant. Those that have another form are written anew, and told.
    /// `-` is standard input, which is written to standard output.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Write nothing. Tell what has another form, and exit with 1 where something has.
    #[arg(long)]
    check: bool,
}

impl Check for Args {
    fn check(&mut self, _: &Typed) -> Result<(), String> {
        output::read_once(&self.paths)
    }
}

/// What became of all texts.
#[derive(Default)]
struct Tally {
    others: usize,
    failed: usize,
}

pub(super) fn run(args: &Args, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let mut tally = Tally::default();
    for path in &args.paths {
        match path.as_os_str() == "-" {
            true => of_standard_input(args.check, &mut tally, streams)?,
            false => of_path(path, args.check, &mut tally, streams)?,
        }
    }
    let texts = |count| if count == 1 { "1 text".to_owned() } else { format!("{count} texts") };
    match tally {
        Tally { failed: 1.., .. } => Err(format!("{} cannot be formatted, and not changed", texts(tally.failed))),
        Tally { others: 1.., .. } if args.check => {
            Err(format!("{} not in the form of `tierflow fmt`", texts(tally.others)))
        }
        _ => Ok(()),
    }
}

fn of_standard_input(is_check: bool, tally: &mut Tally, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let text = output::read_standard_input()?;
    let formed = match form::of(&"standard input".into(), &text) {
        Ok(formed) => formed,
        // Whoever writes it back over the text has lost nothing.
        Err(problems) => {
            tally.failed += 1;
            streams.tell(&problems);
            return if is_check { Ok(()) } else { streams.print_bytes(&text) };
        }
    };
    match is_check {
        true if formed.as_bytes() == text => Ok(()),
        true => {
            tally.others += 1;
            streams.print("standard input\n")
        }
        false => streams.print_bytes(formed.as_bytes()),
    }
}

fn of_path(path: &Path, is_check: bool, tally: &mut Tally, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let reading = source::dir::read(path).map_err(|error| error.to_string())?;
    reading.warnings.iter().for_each(|warning| streams.complain(&format!("warning: {warning}")));
    let names: Vec<Arc<str>> = reading.files.iter().map(|file| shown::path(file).into()).collect();
    let is_unread = |document: &&Document| !names.contains(document.origin.container());
    for document in reading.documents.iter().filter(is_unread) {
        tally.failed += 1;
        streams.tell(&parse::written(document).err().unwrap_or_default());
    }
    for (file, name) in reading.files.iter().zip(&names) {
        // JSON has one form for programs, and no comments.
        if file.extension().is_some_and(|ending| ending == "json") {
            continue;
        }
        match of_file(file, name, is_check) {
            Ok(false) => {}
            Ok(true) => {
                tally.others += 1;
                streams.print(&format!("{name}\n"))?;
            }
            Err(problems) => {
                tally.failed += 1;
                streams.tell(&problems);
            }
        }
    }
    Ok(())
}

/// Whether the file has another form than it ought to, or had.
fn of_file(file: &Path, name: &Arc<str>, is_check: bool) -> Result<bool, Vec<Problem>> {
    let failed = |error: io::Error| vec![form::problem(name, &error.to_string())];
    let text = fs::read(file).map_err(failed)?;
    let formed = form::of(name, &text)?;
    let is_other = formed.as_bytes() != text;
    if is_other && !is_check {
        replace(file, formed.as_bytes()).map_err(failed)?;
    }
    Ok(is_other)
}

/// As a whole or not at all: somebody may be reading it, such as a server.
fn replace(file: &Path, text: &[u8]) -> io::Result<()> {
    // A link stays one.
    let file = fs::canonicalize(file)?;
    let folder = file.parent().unwrap_or(Path::new("/"));
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let beside = folder.join(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let mut new = fs::OpenOptions::new().write(true).create_new(true).open(&beside)?;
        new.write_all(text)?;
        new.set_permissions(fs::metadata(&file)?.permissions())?;
        new.sync_all()?;
        fs::rename(&beside, &file)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}
