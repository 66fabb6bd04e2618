//! From the source to what is served, and what is said of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::StartError;
use crate::clock::Clock;
use crate::config::SourceConfig;
use crate::document::{Documents, Instances};
use crate::last_good::{Kept, StateDir};
use crate::live::{Adopted, Generation, Live, Refusal, Writer};
use crate::metrics::{Metrics, ReloadLabels};
use crate::names::Revision;
use crate::shown;
use crate::source::board::Board;
use crate::source::{self, Source};

/// The time that a source may be silent before what was kept from an earlier run is served...
const SILENCE: Duration = Duration::from_millis(500);
/// ...and how long it may take to tell everything, if it answers. What was kept may be old: an Envoy that has newer
/// resources would go back to it for a moment.
const TELLING: Duration = Duration::from_secs(10);

/// Takes documents from a source to what is served, and says what became of them.
pub(super) struct Loader {
    pub(super) writer: Writer,
    pub(super) live: Arc<Live>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) board: Arc<Board>,
    pub(super) clock: Clock,
    /// The generation that is to be kept for the next run.
    pub(super) keep: watch::Sender<Option<Arc<Generation>>>,
}

/// The name that a source's sets have on disk.
pub(super) fn identity(source: &SourceConfig) -> String {
    match source {
        SourceConfig::Dir(folder) => {
            let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.clone());
            format!("files {}", shown::path(&absolute))
        }
        SourceConfig::Etcd(settings) => format!("etcd {}", settings.prefix),
    }
}

/// Loads what can be loaded before anything is served: what an earlier run kept, and a folder.
pub(super) fn first(mut loader: Loader, state: Option<&StateDir>, config: &SourceConfig) -> Result<Loader, StartError> {
    let kept = state.and_then(|state| loader.restore(state));
    if let SourceConfig::Dir(folder) = config {
        // The first reading is part of the start: what is wrong with the path is an error of the command.
        match source::dir::read(folder) {
            Ok(reading) => loader.load(&Documents::new(Revision::default(), reading.documents)),
            Err(error) if kept.is_some() => tracing::warn!("policies: {error}"),
            Err(error) => return Err(StartError::Policies(error)),
        }
    }
    Ok(loader)
}

/// Loads whatever the source hands over, for as long as Tierflow runs.
pub(super) async fn follow(mut source: Source, mut loader: Loader, shutdown: CancellationToken) -> Result<(), String> {
    let first = {
        let board = Arc::clone(&loader.board);
        let next = source.next();
        tokio::pin!(next);
        tokio::select! {
            documents = &mut next => Some(documents),
            () = patience(&board) => {
                loader.serve_restored("the source is not heard");
                shutdown.run_until_cancelled(next).await
            }
            () = shutdown.cancelled() => None,
        }
    };
    let mut next = first;
    while let Some(documents) = next {
        loader = load(loader, documents).await?;
        next = shutdown.run_until_cancelled(source.next()).await;
    }
    Ok(())
}

/// A large set takes seconds to adopt, and the source goes on being heard meanwhile.
async fn load(mut loader: Loader, documents: Documents) -> Result<Loader, String> {
    let loaded = tokio::task::spawn_blocking(move || {
        loader.load(&documents);
        loader
    });
    loaded.await.map_err(|error| format!("the policies could not be loaded: {error}"))
}

/// Ends when it is no use to wait for the source any longer.
async fn patience(board: &Board) {
    sleep(SILENCE).await;
    if board.read().heard_at.is_some() {
        sleep(TELLING).await;
    }
}

impl Loader {
    /// Takes what an earlier run kept as the last good set, without serving it yet.
    pub(super) fn restore(&mut self, state: &StateDir) -> Option<()> {
        let (kept, unusable) = state.load();
        unusable.iter().for_each(|reason| tracing::warn!("a kept set cannot be used: {reason}"));
        let Kept { mut documents, registered, file } = kept?;
        // Where it came from there may have been a registry; what refers to one was good.
        documents.instances = Some(Instances::default());
        let refused = self.writer.restore(&documents, registered, self.clock.now());
        tracing::info!(
            file = %shown::path(&file), revision = %documents.revision, documents = documents.documents.len(),
            "the last good set of an earlier run is at hand"
        );
        refused.iter().for_each(|refusal| tell(refusal));
        Some(())
    }

    /// Serves what an earlier run kept, where nothing is served yet.
    fn serve_restored(&mut self, why: &str) {
        if self.writer.serve_restored(self.clock.now()) {
            self.board.restored(true);
            self.measure();
            tracing::warn!("{why}; the last good set of an earlier run is served");
        }
    }

    pub(super) fn load(&mut self, documents: &Documents) {
        let refused_before = self.live.refused();
        let adopted = self.writer.adopt(documents, self.clock.now());
        let refused = self.live.refused();
        refused.new_since(&refused_before).for_each(|refusal| tell(refusal));
        let generation = self.live.generation();
        let number = generation.as_ref().map_or(0, |generation| generation.number);
        let result = match adopted {
            Adopted::Served => "served",
            Adopted::Unchanged => "unchanged",
            Adopted::Empty => "empty",
        };
        match adopted {
            Adopted::Empty => tracing::warn!(
                "the source holds no document; what was served stays (--allow-empty takes it at its word)"
            ),
            _ => tracing::info!(
                generation = number, revision = %documents.revision, refused = refused.len(), "policies {result}"
            ),
        }
        if adopted != Adopted::Empty {
            self.board.restored(false);
        }
        if adopted == Adopted::Served {
            self.keep.send_replace(generation);
        }
        self.metrics.reloads.get_or_create(&ReloadLabels { result }).inc();
        self.measure();
        // Who was started anew does as who went on running.
        self.serve_restored("the source holds nothing that can be served");
    }

    fn measure(&self) {
        let number = self.live.generation().map_or(0, |generation| generation.number);
        self.metrics.generation.set(i64::try_from(number).unwrap_or(i64::MAX));
        self.metrics.refused_documents.set(i64::try_from(self.live.refused().len()).unwrap_or(i64::MAX));
    }
}

fn tell(refusal: &Refusal) {
    for problem in &refusal.problems {
        match refusal.revision {
            Some(revision) => {
                tracing::warn!(is_served = refusal.is_served, %revision, "document refused: {problem}");
            }
            None => tracing::warn!(is_served = refusal.is_served, "document refused: {problem}"),
        }
    }
}
