//! Logs. They go to standard error, so that what verbs print can be piped.

use std::fmt;
use std::io::IsTerminal;

use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::shown;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// `filter` is a tracing filter like `info` or `tierflow=debug,warn`.
pub fn init(filter: &str, format: LogFormat) -> Result<(), String> {
    // The crate that watches folders tells of each of its watches that went with its folder, as they do at each switch of a
    // ConfigMap. A filter that names it has the last word.
    // What is noted of changes is no matter of how much somebody wants to read.
    // Of what comes on connections the crates below tell frame by frame, and whoever floods a port would fill the disk.
    let filter = EnvFilter::try_new(format!("notify=warn,h2=error,hyper=error,rustls=error,audit=info,{filter}"))
        .map_err(|error| format!("log filter {filter:?}: {error}"))?;
    // A line that cannot be written is lost. To tell of it, on the same standard error, would end the process.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    let is_terminal = std::io::stderr().is_terminal();
    match format {
        LogFormat::Text => {
            let lines = tracing_subscriber::fmt::format().with_target(false).with_ansi(is_terminal);
            builder.event_format(OneLine { lines, is_coloured: is_terminal }).try_init()
        }
        LogFormat::Json => builder.json().try_init(),
    }
    .map_err(|error| error.to_string())
}

/// An event is one line, whatever stands in it: what others say, as the reasons of a store, would else look like events.
struct OneLine<F> {
    lines: F,
    is_coloured: bool,
}

impl<S, N, F> FormatEvent<S, N> for OneLine<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.lines.format_event(context, Writer::new(&mut line), event)?;
        let line = line.trim_end_matches('\n');
        match self.is_coloured {
            true => writeln!(writer, "{}", coloured(line)),
            false => writeln!(writer, "{}", shown::text(line)),
        }
    }
}

/// Colours stay, which are all that may be told to a terminal.
fn coloured(line: &str) -> String {
    let mut parts = line.split('\x1b');
    let mut shown = shown::text(parts.next().unwrap_or_default()).into_owned();
    for part in parts {
        match is_colour(part) {
            true => shown.extend(["\x1b", &*shown::text(part)]),
            false => shown.push_str(&shown::text(&format!("\x1b{part}"))),
        }
    }
    shown
}

/// True behind the escape character of SGR (ECMA-48), as in `[33m`.
fn is_colour(part: &str) -> bool {
    let numbers = part.strip_prefix('[').map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';'));
    numbers.is_some_and(|rest| rest.starts_with('m'))
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing_subscriber::fmt::format;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(is_terminal: bool) -> String {
        let written = Written::default();
        let writer = written.clone();
        let lines = format().with_target(false).without_time().with_ansi(is_terminal);
        let logs = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .event_format(OneLine { lines, is_coloured: is_terminal });
        let logs = logs.finish();
        tracing::subscriber::with_default(logs, || {
            let reason = "away\n INFO all is well\u{1b}[2J\u{202e}\r";
            tracing::warn!(%reason, "the store: {reason}");
            tracing::info!("größe C:\\a");
        });
        let written = written.0.lock().clone();
        String::from_utf8(written).unwrap()
    }

    #[test]
    fn an_event_is_one_line_whatever_stands_in_it() {
        let plain = logged(false);
        let lines: Vec<&str> = plain.split('\n').collect();
        assert_eq!(lines.len(), 3, "{plain:?}");
        assert!(lines[0].contains(r"the store: away\n INFO all is well"), "{plain:?}");
        assert!(lines[1].ends_with(r"INFO größe C:\a"), "what is plain stays as it is: {plain:?}");
        let escaped = |c: char| matches!(c, '\u{1b}' | '\u{202e}' | '\r');
        assert!(!plain.contains(escaped), "{plain:?}");
        let coloured = logged(true);
        assert!(coloured.matches('\n').count() == 2 && !coloured.contains(['\u{202e}', '\r']), "{coloured:?}");
        assert!(coloured.contains("\x1b[33m") && !coloured.contains("\x1b[2J"), "{coloured:?}");
    }
}
