//! Policies from etcd: one key for each document, `<prefix>/policies/<Kind>/<name>`.
//!
//! ```text
//! connect -> list -> watch from the next revision -> events --> mirror -> Documents
//!    ^                 | probe every second (a linearizable read)
//!    |                 | all keys every half minute, compared with the mirror
//!    +--- any doubt ---+
//! ```
//!
//! A doubt is whatever makes it possible that something was missed: a watch that ended or was cancelled, a compaction,
//! a revision that went backwards, another cluster, an unanswered probe, keys that no event told of. All doubts have the
//! same cure: everything is listed again. Meanwhile what was handed over goes on being served.

mod fleet;
mod mirror;
mod registry;
mod required;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use self::mirror::{Listing, Mirror};
use super::board::Board;
use crate::clock::{Clock, Timestamp};
use crate::document::Documents;
use crate::etcd::connection::{Connection, Seen};
use crate::etcd::events::{Told, Watch};
use crate::etcd::failure::Failure;
use crate::etcd::{EtcdSettings, Section, root};
use crate::metrics::{Metrics, ReasonLabels};
use crate::names::Revision;

/// Period of the question whether etcd is there.
const PROBE_PERIOD: Duration = Duration::from_secs(1);
/// Period of the comparison with a listing of all keys. With the time that events get to catch up, and with jitter, what a
/// watch left out is noticed within half a minute.
const COMPARE_PERIOD: Duration = Duration::from_secs(27);
/// Time for events to catch up with a listing.
const CATCH_UP: Duration = Duration::from_secs(1);
/// Time that listings have to be older than what is known before they are believed.
const OLDER_BELIEVED_AFTER: Duration = Duration::from_secs(5);
/// Between attempts to connect: the first wait, doubled up to the longest.
const BACKOFF: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Longer than anything that is waited for.
const FAR_AWAY: Duration = Duration::from_secs(86_400);
/// The first version without the loss of events and leases that those before it are known for.
const VERSION_MIN: (u64, u64, u64) = (3, 4, 42);

pub struct Etcd {
    settings: EtcdSettings,
    mirror: Mirror,
    feed: Option<Feed>,
    /// The number of the endpoint that is tried next.
    turn: usize,
    /// The cluster that was listed last.
    cluster: Option<u64>,
    /// The first time that a listing was older than what is known.
    older_since: Option<Instant>,
    /// True where etcd could not be reached since it was listed.
    is_lost: bool,
    /// Attempts in a row that led to nothing.
    failures: u32,
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

/// Why what is held may not be what etcd holds.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    #[error("{0}")]
    Unreachable(Failure),
    #[error("the watch broke: {0}")]
    Broken(Failure),
    #[error("the watch was cancelled: {0}")]
    Cancelled(String),
    #[error("the watch fell behind the compaction at revision {0}")]
    Compacted(u64),
    #[error("the revision went backwards, from {from} to {to}")]
    Backwards { from: u64, to: u64 },
    #[error("this is another cluster than before")]
    OtherCluster,
    #[error("{0} keys are not as events told")]
    Diverged(usize),
    #[error("a large change was taken away or replaced before it was in place")]
    Torn,
}

impl Doubt {
    /// The labels of the metric.
    pub const REASONS: [&str; 8] = [
        "unreachable",
        "watch_broken",
        "watch_cancelled",
        "compacted",
        "revision_backwards",
        "other_cluster",
        "diverged",
        "torn",
    ];

    fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Broken(_) => "watch_broken",
            Self::Cancelled(_) => "watch_cancelled",
            Self::Compacted(_) => "compacted",
            Self::Backwards { .. } => "revision_backwards",
            Self::OtherCluster => "other_cluster",
            Self::Diverged(_) => "diverged",
            Self::Torn => "torn",
        }
    }
}

impl Etcd {
    pub fn new(settings: EtcdSettings, board: Arc<Board>, metrics: Arc<Metrics>, clock: Clock) -> Self {
        let mirror = Mirror::new(&settings.prefix);
        // Replicas that start together do not all ask the same member.
        let turn = fastrand::usize(..);
        Self {
            settings,
            mirror,
            feed: None,
            turn,
            cluster: None,
            older_since: None,
            is_lost: false,
            failures: 0,
            board,
            metrics,
            clock,
        }
    }

    /// Reads the documents once.
    pub async fn read(settings: &EtcdSettings) -> Result<Documents, String> {
        let mut mirror = Mirror::new(&settings.prefix);
        let prefixes = prefixes(settings);
        let now = Timestamp::default();
        let mut trouble = "there is no endpoint".to_owned();
        for endpoint in &settings.endpoints {
            let listed = async { Connection::open(settings, endpoint).await?.list(&prefixes).await };
            match listed.await {
                Ok((seen, entries)) => {
                    mirror.replace(seen.revision, entries, false, now);
                    return Ok(mirror.documents(now));
                }
                Err(failure) => trouble = format!("{endpoint}: {failure}"),
            }
        }
        Err(trouble)
    }

    /// Waits for the next set of documents: one that differs from what was handed over before.
    pub async fn next(&mut self) -> Documents {
        loop {
            let Some(feed) = &mut self.feed else {
                match self.connect().await {
                    Ok(mut feed) => match feed.resolve_required(&mut self.mirror).await {
                        Ok(_) => {
                            self.feed = Some(feed);
                            self.failures = 0;
                            return self.documents();
                        }
                        Err(doubt) => self.doubt(&doubt),
                    },
                    Err(failure) => self.wait_after(&failure).await,
                }
                continue;
            };
            let turned = match feed.turn(&mut self.mirror, &self.board, &self.metrics, self.clock).await {
                Ok(is_changed) => feed.resolve_required(&mut self.mirror).await.map(|resolved| is_changed | resolved),
                doubt => doubt,
            };
            match turned {
                Ok(true) => return self.documents(),
                Ok(false) => {}
                Err(doubt) => self.doubt(&doubt),
            }
        }
    }

    fn documents(&mut self) -> Documents {
        self.board.set_replicas(self.mirror.replicas());
        self.board.set_strange_instances(self.mirror.strange_instances());
        self.board.set_unreadable_change(self.mirror.unreadable_change());
        self.mirror.documents(self.clock.now())
    }

    async fn connect(&mut self) -> Result<Feed, Failure> {
        let endpoints = &self.settings.endpoints;
        let endpoint = endpoints.get(self.turn % endpoints.len().max(1)).cloned();
        let endpoint = endpoint.ok_or_else(|| Failure::Unanswered("there is no endpoint".to_owned()))?;
        let tell = |failure: Failure| Failure::Unanswered(format!("{endpoint}: {failure}"));
        let connection = Connection::open(&self.settings, &endpoint).await.map_err(tell)?;
        let prefixes = prefixes(&self.settings);
        let root = root(&self.settings.prefix);
        let seen = connection.probe(&root).await.map_err(tell)?;
        let is_first = self.board.read().heard_at.is_none();
        self.board.heard(Revision(seen.revision), self.clock.now());
        let version = connection.version().await.unwrap_or_else(|_| "unknown".to_owned());
        let (seen, entries) = connection.list(&prefixes).await.map_err(tell)?;
        self.believe(seen).map_err(tell)?;
        let watch = connection.watch(&root, seen.revision + 1).await.map_err(tell)?;
        if is_first {
            tell_version(&endpoint, &version);
        }
        self.mirror.replace(seen.revision, entries, self.is_lost, self.clock.now());
        self.is_lost = false;
        self.board.at(format!("{endpoint} (etcd {version})"));
        self.board.compared(Revision(seen.revision), self.clock.now());
        Ok(Feed::new(connection, watch, seen.cluster, root, prefixes))
    }

    /// A listing that is older than what is known comes from a member that was paused (etcd before 3.4.42 answers reads
    /// with what it knew then), or from a store that was set back. The one mends itself within moments; the other is
    /// believed when it goes on.
    fn believe(&mut self, seen: Seen) -> Result<(), Failure> {
        let known = self.mirror.revision();
        let is_older = self.cluster == Some(seen.cluster) && seen.revision < known;
        let since = *self.older_since.get_or_insert_with(Instant::now);
        if is_older && since.elapsed() < OLDER_BELIEVED_AFTER {
            let revision = seen.revision;
            return Err(Failure::Unanswered(format!("it is at revision {revision}, where {known} was known before")));
        }
        self.older_since = None;
        self.cluster = Some(seen.cluster);
        Ok(())
    }

    /// Nothing is taken from this feed any more.
    fn doubt(&mut self, doubt: &Doubt) {
        let endpoint = self.feed.take().map(|feed| feed.connection.endpoint).unwrap_or_default();
        let reason = doubt.reason();
        debug_assert!(Doubt::REASONS.contains(&reason), "{reason}");
        self.metrics.source_resyncs.get_or_create(&ReasonLabels { reason }).inc();
        tracing::warn!(endpoint, "etcd is listed anew: {doubt}");
        if let Doubt::Unreachable(failure) | Doubt::Broken(failure) = doubt {
            self.board.lost(format!("{endpoint}: {failure}"));
            self.is_lost = true;
            self.turn = self.turn.wrapping_add(1);
        }
    }

    async fn wait_after(&mut self, failure: &Failure) {
        if self.failures == 0 {
            tracing::warn!("etcd does not answer, and nothing is changed: {failure}");
        }
        self.board.lost(failure.to_string());
        self.failures = self.failures.saturating_add(1);
        self.turn = self.turn.wrapping_add(1);
        // Every endpoint is tried once before the wait grows.
        let rounds = self.failures / u32::try_from(self.settings.endpoints.len()).unwrap_or(1).max(1);
        let longest = BACKOFF.saturating_mul(1 << rounds.min(16)).min(BACKOFF_MAX);
        sleep(longest.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    }
}

/// One connection and its watch, for as long as neither is in doubt.
struct Feed {
    connection: Connection,
    watch: Watch,
    cluster: u64,
    /// The beginning of all keys, which is watched.
    root: String,
    /// The prefixes that are listed.
    prefixes: Vec<String>,
    probe_at: Instant,
    compare_at: Instant,
    /// A listing that told other than events did, and when events have to have caught up with it.
    suspect: Option<(Instant, Listing)>,
    /// Probes and listings under way: a slow answer keeps no event waiting.
    questions: JoinSet<Answer>,
}

/// The answer to a question, and the revision that was known when it was asked.
struct Answer {
    known: u64,
    told: Result<(Seen, Option<Listing>), Failure>,
}

impl Feed {
    fn new(connection: Connection, watch: Watch, cluster: u64, root: String, prefixes: Vec<String>) -> Self {
        let now = Instant::now();
        let (probe_at, compare_at) = (now + PROBE_PERIOD, now + jittered(COMPARE_PERIOD));
        let questions = JoinSet::new();
        Self { connection, watch, cluster, root, prefixes, probe_at, compare_at, suspect: None, questions }
    }

    /// Waits for whatever comes first. True if documents changed.
    async fn turn(
        &mut self,
        mirror: &mut Mirror,
        board: &Board,
        metrics: &Metrics,
        clock: Clock,
    ) -> Result<bool, Doubt> {
        let suspect_at = self.suspect.as_ref().map_or_else(far_away, |(at, _)| *at);
        let now = clock.now();
        let ready_in = mirror.next_ready(now).map_or(FAR_AWAY, |at| at.since(now));
        tokio::select! {
            told = self.watch.next() => match told.map_err(Doubt::Broken)? {
                Told::Events(events) => {
                    let applied = mirror.apply(events, clock.now());
                    metrics.source_old_events.inc_by(applied.old);
                    board.heard(Revision(mirror.revision()), clock.now());
                    if applied.has_other_replicas {
                        board.set_replicas(mirror.replicas());
                    }
                    return if applied.is_torn { Err(Doubt::Torn) } else { Ok(applied.is_changed) };
                }
                Told::Cancelled { compacted: Some(revision), .. } => return Err(Doubt::Compacted(revision)),
                Told::Cancelled { reason, .. } => return Err(Doubt::Cancelled(reason)),
            },
            Some(Ok(answer)) = self.questions.join_next() => {
                let (seen, listing) = answer.told.map_err(Doubt::Unreachable)?;
                self.check(seen, answer.known)?;
                board.heard(Revision(seen.revision), clock.now());
                match listing {
                    Some(listing) if mirror.differences(&listing) > 0 => {
                        self.suspect = Some((Instant::now() + CATCH_UP, listing));
                    }
                    Some(_) => board.compared(Revision(seen.revision), clock.now()),
                    None => {}
                }
            }
            () = sleep_until(self.probe_at) => {
                self.probe_at = Instant::now() + PROBE_PERIOD;
                let (connection, key) = (self.connection.clone(), self.root.clone());
                self.ask(mirror, async move { connection.probe(&key).await.map(|seen| (seen, None)) });
            }
            () = sleep_until(self.compare_at) => {
                self.compare_at = Instant::now() + jittered(COMPARE_PERIOD);
                mirror.expect_listing();
                let (connection, prefixes) = (self.connection.clone(), self.prefixes.clone());
                self.ask(mirror, async move {
                    let (seen, keys) = connection.list_keys(&prefixes).await?;
                    Ok((seen, Some(Listing { revision: seen.revision, keys })))
                });
            }
            () = sleep(ready_in) => return Ok(mirror.refresh(clock.now())),
            () = sleep_until(suspect_at) => {
                let differences = self.suspect.take().map_or(0, |(_, listing)| mirror.differences(&listing));
                if differences > 0 {
                    return Err(Doubt::Diverged(differences));
                }
                board.compared(Revision(mirror.revision()), clock.now());
            }
        }
        Ok(false)
    }

    /// Looks at what documents require. True if documents changed.
    async fn resolve_required(&mut self, mirror: &mut Mirror) -> Result<bool, Doubt> {
        let mut is_changed = false;
        while let Some((origin, keys)) = mirror.next_unresolved() {
            let (_, entries) = self.connection.read(&keys).await.map_err(Doubt::Unreachable)?;
            is_changed |= mirror.resolve(&origin, &entries);
        }
        Ok(is_changed)
    }

    fn ask(
        &mut self,
        mirror: &Mirror,
        question: impl Future<Output = Result<(Seen, Option<Listing>), Failure>> + Send + 'static,
    ) {
        let known = mirror.revision();
        self.questions.spawn(async move { Answer { known, told: question.await } });
    }

    /// Checks an answer: what is read now cannot be older than what was known when it was asked for.
    fn check(&self, seen: Seen, known: u64) -> Result<(), Doubt> {
        if seen.cluster != self.cluster {
            return Err(Doubt::OtherCluster);
        }
        if seen.revision < known {
            return Err(Doubt::Backwards { from: known, to: seen.revision });
        }
        Ok(())
    }
}

fn tell_version(endpoint: &str, version: &str) {
    let mut parts = version.split(['.', '-']).map(|part| part.parse::<u64>().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if found >= VERSION_MIN {
        tracing::info!(endpoint, version, "connected to etcd");
    } else {
        let (major, minor, patch) = VERSION_MIN;
        tracing::warn!(
            endpoint,
            version,
            "connected to an etcd that is known to lose events, which costs up to half a minute when it happens; \
             {major}.{minor}.{patch} and later do not"
        );
    }
}

/// Somewhat more or less, so that replicas do not ask all at once.
fn jittered(period: Duration) -> Duration {
    period.mul_f64(0.9 + fastrand::f64() / 5.0)
}

fn far_away() -> Instant {
    Instant::now() + FAR_AWAY
}

/// The keys that are listed.
fn prefixes(settings: &EtcdSettings) -> Vec<String> {
    Section::ALL.map(|section| section.prefix(&settings.prefix)).to_vec()
}
