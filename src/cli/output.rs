//! How verbs print: data to standard output, everything else to standard error.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use annotate_snippets::Renderer;
use clap::ValueEnum;
use serde_json::Value;

use super::Failure;
use crate::compile::RateLimitService;
use crate::document::Documents;
use crate::limiter::key::KeyHasher;
use crate::live::{Generation, Settings};
use crate::names::Revision;
use crate::policy::problem::Problem;
use crate::shown;
use crate::source;

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Json,
    Yaml,
}

pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // Whoever read it has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| format!("standard output: {error}")),
    }
}

pub(super) fn print_value(value: &Value, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => print(&format!("{value:#}\n")),
        Format::Yaml => {
            let yaml = serde_yaml::to_string(value).map_err(|error| error.to_string())?;
            print(&yaml)
        }
    }
}

pub(super) fn complain(text: &str) {
    // There is nowhere to complain about a closed standard error.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// All documents of the paths as `serve` would read them.
pub(super) fn read_documents(paths: &[PathBuf]) -> Result<Documents, Failure> {
    let mut documents = Vec::new();
    for path in paths {
        let reading = source::dir::read(path).map_err(|error| error.to_string())?;
        reading.warnings.iter().for_each(|warning| complain(&format!("warning: {warning}")));
        documents.extend(reading.documents);
    }
    Ok(Documents::new(Revision::default(), documents))
}

/// The set that the path holds; where it is refused, every problem is told.
pub(super) fn load(path: &Path, rate_limit_service: RateLimitService) -> Result<Generation, Failure> {
    build(&read_documents(&[path.to_owned()])?, rate_limit_service)
}

/// The set that documents make; where it is refused, every problem is told.
pub(super) fn build(documents: &Documents, rate_limit_service: RateLimitService) -> Result<Generation, Failure> {
    let settings = Settings { rate_limit_service, counter_keys: KeyHasher::seeded([0; 16]), allow_empty: true };
    Generation::build(documents, &settings).map_err(|problems| {
        tell(&problems);
        summary(&problems)
    })
}

pub(super) fn tell(problems: &[Problem]) {
    let renderer = if std::io::stderr().is_terminal() { Renderer::styled() } else { Renderer::plain() };
    for problem in problems {
        complain(&format!("{}\n", problem.render(&renderer)));
    }
}

pub(super) fn summary(problems: &[Problem]) -> String {
    match problems.len() {
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
    }
}

/// Rows whose columns stand below each other. Cells are texts from outside, such as the id that an Envoy gives itself.
pub(super) fn aligned<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let shown = |row: &[String; N]| row.each_ref().map(|cell| shown::text(cell).into_owned());
    let rows: Vec<[String; N]> = rows.iter().map(shown).collect();
    let widths: Vec<usize> = (0..N)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0))
        .collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}
