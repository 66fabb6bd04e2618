//! How verbs print: data to standard output, everything else to standard error.

use std::ffi::OsString;
use std::io::{BufRead, IsTerminal, Read as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annotate_snippets::Renderer;
use clap::ValueEnum;
use serde_json::Value;

use super::{Failure, STANDARD_STREAM};
use crate::compile::RateLimitService;
use crate::document::{self, Documents};
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

/// The standard streams, or what stands in their places.
pub(super) struct Streams<'a> {
    /// Answers to questions. `None`: nobody can be asked, standard input is no terminal.
    pub(super) answers: Option<&'a mut dyn BufRead>,
    pub(super) out: &'a mut dyn Write,
    pub(super) err: &'a mut dyn Write,
    /// Somebody sits in front of standard error.
    pub(super) is_watched: bool,
    pub(super) colours: Colours,
}

/// Which of the streams show colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Colours {
    pub(super) out: bool,
    pub(super) err: bool,
}

impl Colours {
    /// Terminals do, unless their user wants none (no-color.org) or they are dumb.
    pub(super) fn of(
        out: &impl IsTerminal,
        err: &impl IsTerminal,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Self {
        let is_wanted = variable("NO_COLOR").is_none_or(|value| value.is_empty());
        let is_able = variable("TERM").is_none_or(|terminal| terminal != "dumb");
        let shows = |is_terminal| is_terminal && is_wanted && is_able;
        Self { out: shows(out.is_terminal()), err: shows(err.is_terminal()) }
    }
}

impl Streams<'_> {
    /// Prints a text for people, in which names and values from outside may stand: none of it does anything to a terminal.
    pub(super) fn print(&mut self, text: &str) -> Result<(), Failure> {
        self.print_bytes(shown::lines(text).as_bytes())
    }

    /// Prints data as it is, or a text that was made for a terminal.
    pub(super) fn print_bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self.out.write_all(bytes).and_then(|()| self.out.flush()) {
            // Whoever read it has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(|error| format!("standard output: {error}")),
        }
    }

    pub(super) fn print_value(&mut self, value: &Value, format: Format) -> Result<(), Failure> {
        match format {
            Format::Json => self.print_bytes(shown::json(&format!("{value:#}\n")).as_bytes()),
            Format::Yaml => {
                let yaml = serde_yaml::to_string(value).map_err(|error| error.to_string())?;
                // It escapes what controls a terminal in its texts.
                self.print_bytes(yaml.as_bytes())
            }
        }
    }

    pub(super) fn complain(&mut self, text: &str) {
        self.complain_as_it_is(&shown::lines(text));
    }

    fn complain_as_it_is(&mut self, text: &str) {
        // There is nowhere to complain about a closed standard error.
        let _ = writeln!(self.err, "{text}");
    }

    /// The state of something that takes long, in the place of what was said of it before. Empty: it is done.
    pub(super) fn complain_in_place(&mut self, text: &str) {
        if self.is_watched {
            let _ = write!(self.err, "\r\x1b[K{text}");
        }
    }

    pub(super) fn tell(&mut self, problems: &[Problem]) {
        let renderer = if self.colours.err { Renderer::styled() } else { Renderer::plain() };
        for problem in problems {
            // It is coloured, and shows no control characters of what it quotes.
            self.complain_as_it_is(&format!("{}\n", problem.render(&renderer)));
        }
    }
}

/// The most that is read of standard input, in bytes: as of a file.
const INPUT_BYTES_MAX: u64 = 64 * 1024 * 1024;

pub(super) fn read_standard_input() -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("standard input: {error}"))?;
    match bytes.len() as u64 > INPUT_BYTES_MAX {
        true => Err("standard input: is larger than 64 MiB".to_owned()),
        false => Ok(bytes),
    }
}

/// Whoever came second would find nothing in it.
pub(super) fn read_once<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<(), String> {
    match paths.into_iter().filter(|path| path.as_os_str() == STANDARD_STREAM).count() {
        0 | 1 => Ok(()),
        many => {
            Err(format!("found `-`, which is standard input, {many} times: expected it once, for it has one content"))
        }
    }
}

/// All documents of the paths as `serve` would read them. `-` is standard input.
pub(super) fn read_documents(paths: &[PathBuf], streams: &mut Streams<'_>) -> Result<Documents, Failure> {
    let mut documents = Vec::new();
    for path in paths {
        if path.as_os_str() == STANDARD_STREAM {
            documents.extend(document::split(&"standard input".into(), &read_standard_input()?));
            continue;
        }
        let reading = source::dir::read(path).map_err(|error| error.to_string())?;
        reading.warnings.iter().for_each(|warning| streams.complain(&format!("warning: {warning}")));
        documents.extend(reading.documents);
    }
    Ok(Documents::new(Revision::default(), documents))
}

/// The set that the path holds; where it is refused, every problem is told.
pub(super) fn load(
    path: &Path,
    rate_limit_service: RateLimitService,
    streams: &mut Streams<'_>,
) -> Result<Generation, Failure> {
    build(&read_documents(&[path.to_owned()], streams)?, rate_limit_service, streams)
}

/// The set that documents make; where it is refused, every problem is told.
pub(super) fn build(
    documents: &Documents,
    rate_limit_service: RateLimitService,
    streams: &mut Streams<'_>,
) -> Result<Generation, Failure> {
    try_build(documents, rate_limit_service).map_err(|problems| {
        streams.tell(&problems);
        summary(&problems)
    })
}

/// The set that documents make, or everything that is wrong with them.
pub(super) fn try_build(
    documents: &Documents,
    rate_limit_service: RateLimitService,
) -> Result<Generation, Vec<Problem>> {
    let settings = Settings { rate_limit_service, counter_keys: KeyHasher::seeded([0; 16]), allow_empty: true };
    Generation::build(documents, &settings)
}

/// What is meant of what each gateway has one of: that of the gateway that is named, or of the only one there is.
pub(super) fn of_gateway<'a, T>(all: &'a SharedMap<Name, Arc<T>>, name: Option<&str>) -> Result<&'a T, Failure> {
    let names = || all.sorted().into_iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let found = match name {
        Some(name) if all.is_empty() => return Err(format!("no Gateway is called {name:?}: there is none")),
        Some(name) => all.get(name).ok_or_else(|| format!("no Gateway is called {name:?}; there are: {}", names()))?,
        None => match all.values().collect::<Vec<_>>().as_slice() {
            [only] => *only,
            [] => return Err("there is no Gateway".to_owned()),
            _ => return Err(format!("there are several gateways, choose one with --gateway: {}", names())),
        },
    };
    Ok(found)
}

pub(super) fn summary(problems: &[Problem]) -> String {
    match problems.len() {
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
    }
}

/// Rows below a header, a line each. `None`: there are no rows.
pub(super) fn table<const N: usize>(header: [&str; N], rows: impl Iterator<Item = [String; N]>) -> Option<String> {
    let rows: Vec<[String; N]> = std::iter::once(header.map(str::to_owned)).chain(rows).collect();
    (rows.len() > 1).then(|| aligned(&rows).join("\n") + "\n")
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

    /// What is written to standard output and to standard error.
    fn printed(act: impl FnOnce(&mut Streams<'_>)) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        act(&mut Streams {
            answers: None,
            out: &mut out,
            err: &mut err,
            is_watched: false,
            colours: Colours::default(),
        });
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    /// A stream that takes nothing.
    struct Closed(std::io::ErrorKind);

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn whoever_reads_no_further_is_no_failure_and_a_full_disk_is() {
        let print = |kind| {
            let (mut out, mut err) = (Closed(kind), Closed(kind));
            let mut streams =
                Streams { answers: None, out: &mut out, err: &mut err, is_watched: false, colours: Colours::default() };
            streams.complain("nobody hears it");
            streams.print("x")
        };
        assert_eq!(print(std::io::ErrorKind::BrokenPipe), Ok(()));
        assert_eq!(print(std::io::ErrorKind::StorageFull), Err("standard output: no storage space".to_owned()));
    }

    #[test]
    fn how_far_it_is_is_told_to_whoever_sits_in_front_of_it_alone() {
        for (is_watched, expected) in [(true, "\r\u{1b}[K1 request\r\u{1b}[K"), (false, "")] {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let mut streams =
                Streams { answers: None, out: &mut out, err: &mut err, is_watched, colours: Colours::default() };
            streams.complain_in_place("1 request");
            streams.complain_in_place("");
            assert_eq!((String::from_utf8(err).unwrap().as_str(), out.is_empty()), (expected, true));
        }
    }

    #[test]
    fn values_are_printed_as_json_or_yaml_each_with_an_end_of_line() {
        let value = serde_json::json!({ "a": [1, "x: y"] });
        let (json, _) = printed(|streams| streams.print_value(&value, Format::Json).unwrap());
        assert_eq!(json, "{\n  \"a\": [\n    1,\n    \"x: y\"\n  ]\n}\n");
        let (yaml, _) = printed(|streams| streams.print_value(&value, Format::Yaml).unwrap());
        assert_eq!(serde_yaml::from_str::<Value>(&yaml).unwrap(), value);
        assert!(yaml.ends_with('\n') && !yaml.ends_with("\n\n"), "{yaml:?}");
    }

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
        let load = |streams: &mut Streams<'_>| load(folder.path(), RateLimitService::default(), streams);
        assert_eq!(printed(|streams| assert_eq!(load(streams).unwrap_err(), "1 problem")).0, "");
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
        let build_of = |paths: &[PathBuf], streams: &mut Streams<'_>| {
            build(&read_documents(paths, streams).unwrap(), RateLimitService::default(), streams)
        };
        let together = printed(|streams| assert_eq!(build_of(&paths, streams).unwrap().documents.len(), 2));
        assert_eq!(together, (String::new(), String::new()));
        let (_, err) = printed(|streams| assert_eq!(build_of(&paths[1..], streams).unwrap_err(), "1 problem"));
        assert!(err.starts_with("error: Tenant t, plan: no Plan is called \"a\""), "{err}");
    }
}
