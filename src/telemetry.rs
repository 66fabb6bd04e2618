//! Logs. They go to standard error, so that what verbs print can be piped.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

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
        LogFormat::Text => builder.with_target(false).with_ansi(is_terminal).try_init(),
        LogFormat::Json => builder.json().try_init(),
    }
    .map_err(|error| error.to_string())
}
