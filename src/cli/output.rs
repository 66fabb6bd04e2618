//! How verbs print: data to standard output, everything else to standard error.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annotate_snippets::Renderer;
use clap::ValueEnum;
use serde_json::Value;

use super::Failure;
use crate::compile::RateLimitService;
use crate::document::Documents;
use crate::limiter::key::KeyHasher;
use crate::live::{Generation, Settings};
use crate::names::{Name, Revision};
use crate::policy::problem::Problem;
use crate::shared_map::SharedMap;
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

/// The state of something that takes long, in the place of what was said of it before. Empty: it is done.
pub(super) fn complain_in_place(text: &str) {
    let _ = write!(std::io::stderr().lock(), "\r\x1b[K{text}");
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

/// What is meant of what each gateway has one of: that of the gateway that is named, or of the only one there is.
pub(super) fn of_gateway<'a, T>(all: &'a SharedMap<Name, Arc<T>>, name: Option<&str>) -> Result<&'a T, Failure> {
    let names = || all.sorted().into_iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let found = match name {
        Some(name) => all.get(name).ok_or_else(|| format!("no Gateway is called {name:?}; there are: {}", names()))?,
        None => match all.values().collect::<Vec<_>>().as_slice() {
            [only] => *only,
            [] => return Err("there is no Gateway".to_owned()),
            _ => return Err(format!("there are several gateways, choose one with --gateway: {}", names())),
        },
    };
    Ok(found)
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
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other_and_lines_end_with_a_letter() {
        let rows = [["a", "bcd", ""], ["abcde", "", "x"], ["", "\u{fc}", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(aligned(&rows), ["a      bcd", "abcde       x", "       \u{fc}"]);
        assert_eq!(aligned::<2>(&[]), Vec::<String>::new());
    }

    #[test]
    fn a_column_is_as_wide_as_its_widest_cell_looks() {
        let rows = [["\u{fc}\u{fc}\u{fc}\u{fc}", "x"], ["abcd", "y"]].map(|row| row.map(str::to_owned));
        assert_eq!(aligned(&rows), ["\u{fc}\u{fc}\u{fc}\u{fc}  x", "abcd  y"]);
    }

    #[test]
    fn one_problem_is_one() {
        assert_eq!(summary(&[]), "0 problems");
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.yaml"), "{kind: Plan, name: a}").unwrap();
        assert_eq!(load(folder.path(), RateLimitService::default()).unwrap_err(), "1 problem");
    }

    #[test]
    fn several_paths_are_one_set() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let paths: Vec<PathBuf> = folders.iter().map(|folder| folder.path().to_owned()).collect();
        for (path, text) in
            paths.iter().zip(["{kind: Plan, name: a, limits: [{rate: 1/m}]}", "{kind: Tenant, name: t, plan: a}"])
        {
            std::fs::write(path.join("p.yaml"), text).unwrap();
        }
        let build_of = |paths: &[PathBuf]| build(&read_documents(paths).unwrap(), RateLimitService::default());
        assert_eq!(build_of(&paths).unwrap().documents.len(), 2);
        assert_eq!(build_of(&paths[1..]).unwrap_err(), "1 problem", "the plan is missing");
    }
}
