//! The composition root: every listener, runtime and task of a running Tierflow is started here.
//!
//! ```text
//! source runtime: source -> live -> last good set on disk; older forms, the ports' certificate, who may ask, sweeping of counters, the pulse; the
//!                 export of spans, the log of denials
//! lease runtime:  this replica's key in etcd
//! xDS runtime:    ADS, health, reflection
//! admin runtime:  HTTP API
//! limit workers:  rate limit service, health, reflection, health follows live; connections to a shared counter store
//! ```
//!
//! Each server has runtimes of its own, the rate limit service one for each core ([`workers`] says why), so that a storm of
//! pushes or of admin calls does not delay decisions. So have the source and the lease: whatever the servers are busy with,
//! this replica hears of changes and stays registered. What takes long, or waits for a disk, is done on the threads that
//! runtimes keep for blocking.

mod access;
mod activity;
mod beside;
mod certificates;
mod connections;
mod counters;
mod files;
mod followers;
mod forms;
mod frames;
mod keep;
mod keep_alive;
mod listen;
mod load;
mod one_buffer;
mod protocol;
mod pulse;
mod rate_limit;
mod replica;
mod room;
mod routed;
mod series;
mod servers;
pub mod supervisor;
mod sweep;
mod tls;
mod turns;
mod workers;

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::access::{Access, Port};
use crate::admin::events::Following;
use crate::admin::events::observer::Observer;
use crate::admin::extract::Turns;
use crate::admin::{self, Admin, Listeners};
use crate::audit::Audit;
use crate::certificates::Certificates;
use crate::clock::Clock;
use crate::compile::{HostPort, RateLimitService, ServerTls};
use crate::config::{Config, SourceConfig, TlsFiles};
use crate::counters::Counters;
use crate::crowding::Crowding;
use crate::denials::Denials;
use crate::editor::Editor;
use crate::events::Events;
use crate::last_good::{Keeping, StateDir, Unusable};
use crate::live::{Generation, Live, Settings, Writer};
use crate::metrics::Metrics;
use crate::nodes::Nodes;
use crate::pem;
use crate::rls::{Failures, Followers, Rls};
use crate::rollout::Rollout;
use crate::shown;
use crate::source::Source;
use crate::source::board::Board;
use crate::source::dir::Watcher;
use crate::source::etcd::Etcd;
use crate::top::Top;
use crate::traces;
use crate::traffic::Traffic;
use crate::trouble::Trouble;
use crate::version::VERSION;
use crate::xds::{Admission, Unread, Xds};
use keep::Keeper;
use load::Loader;
use servers::Ending;
use tls::{Tls, Told, Within};
use workers::{EVENT_INTERVAL, Places, Workers};

/// The time that calls under way may take to end once it is time to go.
pub const GRACE: Duration = connections::SPREAD_MAX.saturating_add(connections::CLOSING_MAX);
/// The time between two looks at the holds.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// A Tierflow that serves. Dropping it ends it at once; [`Running::stop`] lets calls under way finish.
#[derive(Debug)]
pub struct Running {
    pub listeners: Listeners,
    pub live: Arc<Live>,
    pub nodes: Arc<Nodes>,
    leaving: CancellationToken,
    shutdown: CancellationToken,
    tasks: JoinSet<Result<(), String>>,
    /// Dropped last: tasks need them.
    runtimes: [Runtime; 4],
    workers: Workers,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("policies: {0}")]
    Policies(std::io::Error),
    #[error("--audit-log {file}: {error}", file = shown::path(.0), error = .1)]
    Audit(PathBuf, std::io::Error),
    #[error("--denials-log {file}: {error}", file = shown::path(.0), error = .1)]
    DenialLog(PathBuf, std::io::Error),
    #[error(transparent)]
    Traces(#[from] traces::Unusable),
    #[error("who may ask the admin port: {0}")]
    Access(String),
    #[error("--state-dir: {0}")]
    State(#[from] Unusable),
    #[error("{flag} {address}: {error}")]
    Listen { flag: &'static str, address: SocketAddr, error: std::io::Error },
    #[error("runtime: {0}")]
    Runtime(std::io::Error),
    #[error(transparent)]
    Tls(#[from] pem::Unusable),
    #[error("reflection: {0}")]
    Reflection(String),
}

/// Loads the policies, binds the ports and serves. Must not be called from within a runtime.
pub fn start(config: &Config) -> Result<Running, StartError> {
    files::allow_all();
    let xds_listener = listen::bind("--xds-listen", config.xds_listen)?;
    let rls_listener = listen::bind("--rls-listen", config.rls_listen)?;
    let admin_listener = listen::bind("--admin-listen", config.admin_listen)?;
    let listeners = Listeners { xds: xds_listener.address, rls: rls_listener.address, admin: admin_listener.address };
    let state = config.state_dir.as_deref().map(|folder| StateDir::open(folder, load::identity(&config.source)));
    let state = state.transpose()?;
    let (shared, writer) = Shared::new(config, listeners);
    let audit = match &config.audit_log {
        Some(settings) => Audit::open(settings.clone(), Arc::clone(&shared.metrics))
            .map_err(|error| StartError::Audit(settings.path.clone(), error))?,
        None => Audit::default(),
    };
    let port = Port { bound: listeners.admin, is_tls: config.tls.is_some() };
    let metrics = Arc::clone(&shared.metrics);
    let access = access::Followed::open(&config.admin_access, port, config.admin_metrics_open, metrics);
    let access = access.map_err(StartError::Access)?;
    let tls = config.tls.as_ref().map(|files| Tls::load(files, shared.told_of_tls())).transpose()?;
    let (keep, to_keep) = watch::channel(None);
    let loader = load::first(shared.loader(writer, keep), state.as_ref(), &config.source)?;

    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtimes = [runtime("xds", cores.min(4))?, runtime("admin", 2)?, runtime("source", 2)?, runtime("lease", 1)?];
    let [xds_runtime, admin_runtime, source_runtime, lease_runtime] = &runtimes;
    let workers = Workers::start("rls", cores).map_err(StartError::Runtime)?;
    let first_worker = workers.handles().first().unwrap_or(xds_runtime.handle());
    let on = |runtime: &Runtime| Places::over(std::slice::from_ref(runtime.handle()));
    let mut tasks = JoinSet::new();
    let shutdown = || shared.shutdown.clone();
    let acceptor = |within| tls.as_ref().map(|tls| tls.acceptor(within));
    let [grpc, http] = [Within::Grpc, Within::Http].map(acceptor);
    let ending = || Ending { leaving: shared.leaving.clone(), shutdown: shutdown() };
    let [xds_crowding, rls_crowding, admin_crowding] = shared.crowding.clone();
    let xds_port = (xds_listener, xds_crowding);
    let xds = servers::xds(shared.xds(), config.xds_limits, xds_port, grpc.clone(), on(xds_runtime), ending())?;
    tasks.spawn_on(xds, xds_runtime.handle());
    let places = Places::over(workers.handles());
    let followers = followers::open(config, &shared.metrics, (&mut tasks, source_runtime.handle()), &shared.shutdown)?;
    let rls_port = (rls_listener, rls_crowding);
    tasks.spawn_on(servers::rls(shared.rls(followers.clone()), rls_port, grpc, places, ending())?, first_worker);
    let on_source = source_runtime.handle();
    let editor = match &config.source {
        SourceConfig::Etcd(settings) => {
            let (editor, register) = replica::join(config, settings, &shared);
            tasks.spawn_on(register, lease_runtime.handle());
            let editor = Arc::new(editor);
            tasks.spawn_on(tend(Arc::clone(&editor), shutdown()), on_source);
            Some(editor)
        }
        SourceConfig::Dir(_) => None,
    };
    let admin = shared.admin(editor, audit, followers, Arc::clone(&access.access));
    tasks.spawn_on(access.follow(shutdown()), on_source);
    tasks.spawn_on(shared.pulse(Observer::new(&admin)), on_source);
    let admin = servers::admin(admin, (admin_listener, admin_crowding), http, on(admin_runtime), shutdown());
    tasks.spawn_on(admin, admin_runtime.handle());
    if let Some(tls) = tls {
        tasks.spawn_on(tls.follow(shutdown()), on_source);
    }
    let certificates = Arc::clone(&shared.certificates);
    tasks.spawn_on(certificates::follow(certificates, certificates::files(config), shutdown()), on_source);
    tasks.spawn_on(shared.forms().tend(shutdown()), on_source);
    tasks.spawn_on(retry(Arc::clone(&shared.rollout), shared.clock, shutdown()), on_source);
    let by_counters = if let Counters::Redis(_) = shared.counters { first_worker } else { on_source };
    tasks.spawn_on(counters::keep(shared.counters.clone(), shared.clock, shutdown()), by_counters);
    let source = {
        // Timers belong to a runtime.
        let _runtime = source_runtime.enter();
        shared.source(&config.source)
    };
    tasks.spawn_on(load::follow(source, loader, shutdown()), on_source);
    if let Some((state, keeping)) = state.zip(shared.keeping) {
        let keeper = Keeper { state, keeping, clock: shared.clock };
        tasks.spawn_on(keeper.keep(to_keep, shutdown()), on_source);
    }
    let is_secured = config.tls.is_some();
    tracing::info!(xds = %listeners.xds, rls = %listeners.rls, admin = %listeners.admin, tls = is_secured, "serving");
    let (scheme, admin) = (if is_secured { "https" } else { "http" }, from_here(listeners.admin));
    tracing::info!("see {scheme}://{admin}/, or `tierflow status --server {scheme}://{admin}`");
    let Shared { live, nodes, leaving, shutdown, .. } = shared;
    Ok(Running { listeners, live, nodes, leaving, shutdown, tasks, runtimes, workers })
}

/// The state that servers and tasks have in common, and how each is made of it.
struct Shared {
    live: Arc<Live>,
    rollout: Arc<Rollout>,
    nodes: Arc<Nodes>,
    denials: Arc<Denials>,
    certificates: Arc<Certificates>,
    tls_trouble: Trouble,
    /// `None`: what is served is not kept.
    keeping: Option<Arc<Keeping>>,
    /// Of the three ports.
    crowding: [Arc<Crowding>; 3],
    /// True where whoever connects has to show a certificate.
    asks_for_certificates: bool,
    admission: Arc<Admission>,
    unread: Arc<Unread>,
    counters: Counters,
    metrics: Arc<Metrics>,
    traffic: Arc<Traffic>,
    top: Arc<Top>,
    events: Arc<Events>,
    board: Arc<Board>,
    clock: Clock,
    listeners: Listeners,
    leaving: CancellationToken,
    shutdown: CancellationToken,
}

impl Shared {
    fn new(config: &Config, listeners: Listeners) -> (Self, Writer) {
        let metrics = Arc::new(Metrics::default());
        series::begin(&metrics);
        admin::start_series(&metrics);
        let clock = Clock::start();
        let (counters, counter_keys) = counters::open(&config.counters, clock, &metrics);
        let shutdown = CancellationToken::new();
        let (live, writer) = Live::new(Settings {
            rate_limit_service: rate_limit_service(config, listeners.rls),
            counter_keys,
            allow_empty: config.allow_empty,
        });
        let rollout = Arc::new(Rollout::new(Arc::clone(&live.forms)));
        let shared = Self {
            live,
            rollout,
            nodes: Arc::new(Nodes::new(clock)),
            denials: Arc::new(Denials::new(Arc::clone(&metrics), clock)),
            certificates: Arc::new(Certificates::new(Arc::clone(&metrics))),
            tls_trouble: Trouble::default(),
            keeping: config.state_dir.as_ref().map(|_| Arc::default()),
            crowding: Crowding::of_ports(&metrics, clock),
            asks_for_certificates: asked(config) == ServerTls::Mutual,
            admission: Arc::new(Admission::new(config.xds_limits.admission, clock)),
            unread: Arc::new(Unread::new(config.xds_limits.unread_bytes_max, Arc::clone(&metrics))),
            counters,
            metrics,
            traffic: Arc::default(),
            top: Arc::default(),
            events: Arc::new(Events::new(clock.now())),
            board: Arc::default(),
            clock,
            listeners,
            // Who ends leaves, too.
            leaving: shutdown.child_token(),
            shutdown,
        };
        (shared, writer)
    }

    fn loader(&self, writer: Writer, keep: watch::Sender<Option<Arc<Generation>>>) -> Loader {
        Loader {
            writer,
            live: Arc::clone(&self.live),
            metrics: Arc::clone(&self.metrics),
            board: Arc::clone(&self.board),
            clock: self.clock,
            keep,
        }
    }

    fn told_of_tls(&self) -> Told {
        Told {
            metrics: Arc::clone(&self.metrics),
            certificates: Arc::clone(&self.certificates),
            trouble: self.tls_trouble.clone(),
        }
    }

    fn xds(&self) -> Xds {
        Xds {
            live: Arc::clone(&self.live),
            rollout: Arc::clone(&self.rollout),
            nodes: Arc::clone(&self.nodes),
            denials: Arc::clone(&self.denials),
            metrics: Arc::clone(&self.metrics),
            admission: Arc::clone(&self.admission),
            unread: Arc::clone(&self.unread),
            clock: self.clock,
            identifier: format!("tierflow/{VERSION}/{}", std::process::id()).into(),
            shutdown: self.shutdown.clone(),
        }
    }

    fn rls(&self, followers: Followers) -> Rls {
        Rls {
            live: Arc::clone(&self.live),
            counters: self.counters.clone(),
            metrics: Arc::clone(&self.metrics),
            top: Arc::clone(&self.top),
            clock: self.clock,
            failures: Failures::new(Arc::clone(&self.metrics), self.clock),
            denials: Arc::clone(&self.denials),
            followers,
        }
    }

    fn forms(&self) -> forms::Forms {
        forms::Forms {
            live: Arc::clone(&self.live),
            board: Arc::clone(&self.board),
            metrics: Arc::clone(&self.metrics),
            clock: self.clock,
        }
    }

    fn pulse(&self, observer: Observer) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let pulse = pulse::Pulse {
            metrics: Arc::clone(&self.metrics),
            traffic: Arc::clone(&self.traffic),
            top: Arc::clone(&self.top),
            clock: self.clock,
            observer,
        };
        pulse.beat(self.live.subscribe(), self.shutdown.clone())
    }

    fn admin(
        &self,
        editor: Option<Arc<Editor>>,
        audit: Audit,
        Followers { traces, denial_log }: Followers,
        access: Arc<Access>,
    ) -> Admin {
        Admin {
            live: Arc::clone(&self.live),
            rollout: Arc::clone(&self.rollout),
            nodes: Arc::clone(&self.nodes),
            denials: Arc::clone(&self.denials),
            certificates: Arc::clone(&self.certificates),
            asks_for_certificates: self.asks_for_certificates,
            counters: self.counters.clone(),
            metrics: Arc::clone(&self.metrics),
            traffic: Arc::clone(&self.traffic),
            top: Arc::clone(&self.top),
            limits: Arc::default(),
            turns: Turns::default(),
            following: Following::new(Arc::clone(&self.events), self.shutdown.clone()),
            board: Arc::clone(&self.board),
            directory: Arc::default(),
            editor,
            audit: Arc::new(audit),
            keeping: self.keeping.clone(),
            tls_trouble: self.tls_trouble.clone(),
            crowding: self.crowding.clone(),
            traces,
            denial_log,
            access,
            clock: self.clock,
            listeners: self.listeners,
            xds_unread_bytes_max: self.unread.bytes_max(),
            leaving: self.leaving.clone(),
        }
    }

    fn source(&self, config: &SourceConfig) -> Source {
        let (board, metrics) = (Arc::clone(&self.board), Arc::clone(&self.metrics));
        match config {
            SourceConfig::Dir(folder) => Source::Dir(Watcher::new(folder, board, self.clock)),
            SourceConfig::Etcd(settings) => {
                Source::Etcd(Box::new(Etcd::new(settings.clone(), board, metrics, self.clock)))
            }
        }
    }
}

impl Running {
    /// Waits until a part of it ends, which none should: the error says which and why.
    pub async fn failure(&mut self) -> String {
        match self.tasks.join_next().await {
            Some(Ok(Ok(()))) => "a server ended by itself".to_owned(),
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => format!("a task failed: {error}"),
            None => "nothing runs".to_owned(),
        }
    }

    /// Tells the service manager how it is, for as long as it is asked. Never comes to an end.
    pub fn attend(&self) -> impl Future<Output = Infallible> + use<> {
        let runtimes = self.runtimes.iter().map(Runtime::handle).chain(self.workers.handles());
        supervisor::attend(self.live.subscribe(), runtimes.cloned().collect())
    }

    /// Serves on, and tells whoever wants to know that it leaves: its health, its readiness, and other replicas, whose Envoys are
    /// not sent here any more. Without that Envoys would go on asking, and be refused.
    pub async fn drain(&self, time: Duration) {
        self.leaving.cancel();
        tokio::time::sleep(time).await;
    }

    /// Takes no new calls, ends the streams, and lets calls under way finish for a few seconds.
    pub async fn finish(&mut self) {
        self.shutdown.cancel();
        let all_done = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, all_done).await.is_err() {
            tracing::warn!("calls were still under way after {GRACE:?}, and are cut off");
        }
    }

    /// Ends at once, with whatever is under way.
    pub fn end(self) {
        for runtime in self.runtimes {
            runtime.shutdown_background();
        }
        drop(self.workers);
    }

    /// Finishes, and ends.
    pub fn stop(mut self) {
        let [_, admin_runtime, ..] = &self.runtimes;
        let runtime = admin_runtime.handle().clone();
        runtime.block_on(self.finish());
        self.end();
    }
}

/// As long as no other replica is known.
fn rate_limit_service(config: &Config, bound: SocketAddr) -> RateLimitService {
    let has_replicas = matches!(config.source, SourceConfig::Etcd(_));
    let addresses = advertised(config, bound);
    if has_replicas && config.rls_advertise.is_empty() && bound.ip().is_unspecified() {
        tracing::warn!("Envoys are told to ask for decisions at loopback; those elsewhere need --rls-advertise");
    }
    RateLimitService { addresses, has_replicas, tls: asked(config) }.with_replicas(&[])
}

/// What this replica says of itself. Which of its host's addresses Envoys elsewhere reach, it cannot know.
fn advertised(config: &Config, bound: SocketAddr) -> Vec<HostPort> {
    if !config.rls_advertise.is_empty() {
        return config.rls_advertise.clone();
    }
    let address = from_here(bound);
    vec![HostPort { host: address.ip().to_string(), port: address.port() }]
}

/// How a bound address is reached from this host.
fn from_here(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

fn asked(config: &Config) -> ServerTls {
    match &config.tls {
        None => ServerTls::None,
        Some(TlsFiles { client_ca: None, .. }) => ServerTls::Server,
        Some(TlsFiles { client_ca: Some(_), .. }) => ServerTls::Mutual,
    }
}

fn runtime(name: &str, threads: usize) -> Result<Runtime, StartError> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(threads).thread_name(name).event_interval(EVENT_INTERVAL);
    builder.enable_all().build().map_err(StartError::Runtime)
}

async fn tend(editor: Arc<Editor>, shutdown: CancellationToken) -> Result<(), String> {
    editor.tend(shutdown).await;
    Ok(())
}

/// Offers again what is held, when it is time.
async fn retry(rollout: Arc<Rollout>, clock: Clock, shutdown: CancellationToken) -> Result<(), String> {
    while shutdown.run_until_cancelled(tokio::time::sleep(RETRY_PAUSE)).await.is_some() {
        for gateway in rollout.retry(clock.now()) {
            tracing::info!(gateway = gateway.as_str(), "what is held is offered again");
        }
    }
    Ok(())
}
