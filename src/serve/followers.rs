//! Those who follow single decisions, and the tasks that work for them.

use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::StartError;
use crate::config::Config;
use crate::denial_log::{DenialLog, Target};
use crate::metrics::Metrics;
use crate::rls::Followers;
use crate::traces::Traces;

/// Opens what is written to, and has it written on the runtime.
pub(super) fn open(
    config: &Config,
    metrics: &Arc<Metrics>,
    (tasks, runtime): (&mut JoinSet<Result<(), String>>, &Handle),
    shutdown: &CancellationToken,
) -> Result<Followers, StartError> {
    let mut followers = Followers::default();
    if let Some(settings) = &config.traces {
        // A connection belongs to a runtime.
        let _runtime = runtime.enter();
        let (traces, exporter) = Traces::new(settings, metrics)?;
        followers.traces = Some(traces);
        let run = exporter.run(shutdown.clone());
        tasks.spawn_on(ends_well(run), runtime);
    }
    if let Some(settings) = &config.denial_log {
        let unusable = |error| StartError::DenialLog(path(&settings.target).to_owned(), error);
        let (log, writer) = DenialLog::open(settings.clone(), metrics).map_err(unusable)?;
        followers.denial_log = Some(log);
        let run = writer.run(shutdown.clone());
        tasks.spawn_on(ends_well(run), runtime);
    }
    Ok(followers)
}

fn path(target: &Target) -> &Path {
    match target {
        Target::StandardOutput => Path::new("-"),
        Target::File(path, _) => path,
    }
}

async fn ends_well(run: impl Future<Output = ()>) -> Result<(), String> {
    run.await;
    Ok(())
}
