//! From the source to what is served, and what is said of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::StartError;
use super::series::READINGS;
use crate::clock::Clock;
use crate::config::SourceConfig;
use crate::document::{Documents, Instances};
use crate::last_good::{Kept, StateDir};
use crate::live::{Adopted, Generation, Live, Refusal, Writer};
use crate::metrics::{Metrics, ReloadLabels};
use crate::names::Revision;
use crate::shown;
use crate::source::board::{Board, EMPTIED};
use crate::source::{self, Source};

/// The time that a source may be silent before what was kept from an earlier run is served...
const SILENCE: Duration = Duration::from_millis(500);
/// ...and how long it may take to tell everything, if it answers. What was kept may be old: an Envoy that has newer
/// resources would go back to it for a moment.
const TELLING: Duration = Duration::from_secs(10);

/// The problems of one loading that are logged.
const TOLD_MAX: usize = 100;

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
        tell(refused.iter());
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
        tell(refused.new_since(&refused_before));
        let generation = self.live.generation();
        let number = generation.as_ref().map_or(0, |generation| generation.number);
        let [served, unchanged, empty] = READINGS;
        let result = match adopted {
            Adopted::Served => served,
            Adopted::Unchanged => unchanged,
            Adopted::Empty => empty,
        };
        match adopted {
            Adopted::Empty => tracing::warn!("{EMPTIED}"),
            _ => tracing::info!(
                generation = number, revision = %documents.revision, refused = refused.len(), "policies {result}"
            ),
        }
        let is_emptied = adopted == Adopted::Empty;
        self.board.holds(documents.documents.len(), is_emptied);
        if !is_emptied {
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

/// Somebody who breaks ten thousand documents at once is told where to begin.
fn tell<'a>(refused: impl Iterator<Item = &'a Arc<Refusal>>) {
    let mut refused: Vec<_> = refused.collect();
    refused.sort_by(|a, b| (&a.origin, &a.id).cmp(&(&b.origin, &b.id)));
    let problems_of = |refusal: &'a Arc<Refusal>| refusal.problems.iter().map(move |problem| (refusal, problem));
    let mut problems = refused.into_iter().flat_map(problems_of);
    for (refusal, problem) in problems.by_ref().take(TOLD_MAX) {
        match refusal.revision {
            Some(revision) => {
                tracing::warn!(is_served = refusal.is_served, %revision, "document refused: {problem}");
            }
            None => tracing::warn!(is_served = refusal.is_served, "document refused: {problem}"),
        }
    }
    let more = problems.count();
    if more > 0 {
        tracing::warn!(
            "{more} more problems of refused documents: `tierflow get` and /v1/policies?refused=true tell all"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::keep;
    use super::*;
    use crate::compile::RateLimitService;
    use crate::document::split;
    use crate::limiter::key::KeyHasher;
    use crate::live::Settings;

    const PLAN: &str = "{kind: Plan, name: gold, limits: [{rate: 1/m}]}";
    const BROKEN: &str = "{kind: Plan, name: gold, limits: [{rate: often}]}";

    fn loader() -> (Loader, watch::Receiver<Option<Arc<Generation>>>) {
        let (rate_limit_service, counter_keys) = (RateLimitService::default(), KeyHasher::seeded([0; 16]));
        let (live, writer) = Live::new(Settings { rate_limit_service, counter_keys, allow_empty: false });
        let (keep, kept) = watch::channel(None);
        let (metrics, board, clock) = (Arc::default(), Arc::default(), Clock::start());
        (Loader { writer, live, metrics, board, clock, keep }, kept)
    }

    fn load(loader: &mut Loader, text: &str) {
        loader.load(&Documents::new(Revision(7), split(&"p.yaml".into(), text.as_bytes())));
    }

    /// The values of these metrics.
    fn measured<const N: usize>(loader: &Loader, names: [&str; N]) -> [Option<String>; N] {
        let text = loader.metrics.render();
        let value = |name: &str| text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
        names.map(value)
    }

    fn counted(loader: &Loader) -> [u64; 5] {
        let names = [
            "tierflow_reload_total{result=\"served\"}",
            "tierflow_reload_total{result=\"unchanged\"}",
            "tierflow_reload_total{result=\"empty\"}",
            "tierflow_generation ",
            "tierflow_refused_documents ",
        ];
        measured(loader, names).map(|value| value.map_or(0, |value| value.parse().unwrap()))
    }

    #[test]
    fn readings_are_counted_by_what_became_of_them() {
        let (mut loader, _kept) = loader();
        assert_eq!(counted(&loader), [0; 5]);
        load(&mut loader, PLAN);
        assert_eq!(counted(&loader), [1, 0, 0, 1, 0]);
        load(&mut loader, PLAN);
        assert_eq!(counted(&loader), [1, 1, 0, 1, 0]);
        load(&mut loader, BROKEN);
        assert_eq!(counted(&loader), [1, 2, 0, 1, 1], "the last good version goes on");
        load(&mut loader, "");
        assert_eq!(counted(&loader), [1, 2, 1, 1, 0], "what is not there any more is not refused");
        load(&mut loader, &PLAN.replace("1/m", "2/m"));
        assert_eq!(counted(&loader), [2, 2, 1, 2, 0]);
    }

    #[test]
    fn a_source_that_holds_nothing_is_in_trouble_until_it_holds_something() {
        let (mut loader, _kept) = loader();
        load(&mut loader, &format!("{PLAN}\n---\n{{kind: Gateway, name: often}}"));
        let told = |loader: &Loader| {
            let (health, refused) = (loader.board.read(), loader.live.refused());
            let trouble = health.trouble().is_some();
            (health.held, trouble, refused.len(), refused.may_miss_gateways())
        };
        assert_eq!(told(&loader), (Some(2), false, 1, true));
        load(&mut loader, "");
        assert_eq!(told(&loader), (Some(0), true, 0, true), "whether a gateway is missing is known no better");
        load(&mut loader, &format!("{PLAN}\n---\n{{kind: Gateway, name: often}}"));
        assert_eq!(told(&loader), (Some(2), false, 1, true), "as if nothing had been");
        load(&mut loader, "");
        load(&mut loader, PLAN);
        assert_eq!(told(&loader), (Some(1), false, 0, false));
    }

    #[test]
    fn each_generation_is_kept_and_a_reading_that_makes_none_is_not() {
        let (mut loader, mut kept) = loader();
        let mut is_kept = |loader: &mut Loader, text: &str| {
            load(loader, text);
            let is_new = kept.has_changed().unwrap();
            kept.borrow_and_update().as_ref().filter(|_| is_new).map(|generation| generation.number)
        };
        assert_eq!(is_kept(&mut loader, PLAN), Some(1));
        assert_eq!(is_kept(&mut loader, PLAN), None);
        assert_eq!(is_kept(&mut loader, ""), None);
        assert_eq!(is_kept(&mut loader, BROKEN), None);
        assert_eq!(is_kept(&mut loader, &PLAN.replace("1/m", "2/m")), Some(2));
    }

    /// A folder in which an earlier run kept the plan.
    fn kept(folder: &std::path::Path) -> StateDir {
        let state = StateDir::open(folder, "files /p".to_owned()).unwrap();
        let (mut loader, _kept) = loader();
        load(&mut loader, PLAN);
        keep::save(&state, &loader.live.generation().unwrap()).unwrap();
        state
    }

    #[test]
    fn what_an_earlier_run_kept_is_served_where_the_source_has_nothing_and_it_is_said_so() {
        let folder = tempfile::tempdir().unwrap();
        let state = kept(folder.path());
        for (text, is_restored) in [("", true), (BROKEN, false), (PLAN, false)] {
            let (mut loader, _kept) = loader();
            assert_eq!(loader.restore(&state), Some(()));
            assert!(loader.live.generation().is_none(), "the source is waited for");
            load(&mut loader, text);
            assert_eq!(loader.live.generation().unwrap().documents.len(), 1, "{text}");
            assert_eq!(loader.board.read().is_restored, is_restored, "{text}");
            assert_eq!(counted(&loader)[3], 1, "{text}");
            load(&mut loader, &PLAN.replace("1/m", "3/m"));
            assert!(!loader.board.read().is_restored, "it has something now");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_read_is_an_error_of_the_command_unless_something_was_kept() {
        let folder = tempfile::tempdir().unwrap();
        let state = kept(folder.path());
        let nowhere = SourceConfig::Dir("/nonexistent/policies".into());
        let Err(StartError::Policies(error)) = first(loader().0, None, &nowhere) else { panic!("it starts") };
        assert!(error.to_string().contains("/nonexistent/policies"), "{error}");
        assert!(first(loader().0, Some(&state), &nowhere).is_ok());
        let empty = StateDir::open(&folder.path().join("other"), "files /p".to_owned()).unwrap();
        assert!(first(loader().0, Some(&empty), &nowhere).is_err());
    }

    #[test]
    fn a_set_on_disk_is_that_of_its_source() {
        let etcd = |prefix: &str| {
            let (endpoints, prefix) = (vec!["http://a:1".to_owned()], prefix.to_owned());
            SourceConfig::Etcd(crate::etcd::EtcdSettings { endpoints, prefix, user: None, tls: None })
        };
        assert_eq!(identity(&etcd("/shop")), "etcd /shop", "whichever member answers");
        assert_ne!(identity(&etcd("/shop")), identity(&etcd("/side")));
        let relative = identity(&SourceConfig::Dir("policies".into()));
        assert_eq!(relative, format!("files {}", std::env::current_dir().unwrap().join("policies").to_str().unwrap()));
        assert_eq!(identity(&SourceConfig::Dir("/a".into())), "files /a");
    }
}
