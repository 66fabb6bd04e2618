//! The composition root: every listener, runtime and task of a running Tierflow is started here.
//!
//! ```text
//! source (own task) -> live -> last good set on disk (own task)
//! xDS runtime:   ADS, health, reflection
//! limit runtime: rate limit service, health, reflection, health follows live
//! admin runtime: HTTP API, sweeping of counters
//! ```
//!
//! Each server has a runtime of its own, so that a storm of pushes or of admin calls does not delay decisions.

mod keep;
mod listen;
mod load;
mod replica;
mod servers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::access::Access;
use crate::admin::{Admin, Listeners};
use crate::audit::Audit;
use crate::clock::Clock;
use crate::compile::{HostPort, RateLimitService};
use crate::config::{Config, SourceConfig};
use crate::counters::memory::{Memory, MemoryLimits};
use crate::document::Documents;
use crate::editor::Editor;
use crate::etcd::link::Link;
use crate::last_good::{StateDir, Unusable};
use crate::live::{Live, Settings};
use crate::metrics::{Metrics, TypeLabels};
use crate::names::Revision;
use crate::nodes::Nodes;
use crate::rls::Rls;
use crate::snapshot::resource::ResourceType;
use crate::source::board::{Board, Replica};
use crate::source::dir::Watcher;
use crate::source::etcd::Etcd;
use crate::source::{self, Source};
use crate::xds::Xds;
use load::Loader;

/// How long calls under way may take to end once it is time to go.
const GRACE: Duration = Duration::from_secs(4);
/// Between two steps of the sweep through the counters. A round takes some ten seconds.
const SWEEP_PAUSE: Duration = Duration::from_millis(50);

/// A Tierflow that serves. Dropping it ends it at once; [`Running::stop`] lets calls under way finish.
#[derive(Debug)]
pub struct Running {
    pub listeners: Listeners,
    pub live: Arc<Live>,
    pub nodes: Arc<Nodes>,
    shutdown: CancellationToken,
    tasks: JoinSet<Result<(), String>>,
    /// Dropped last: tasks need them.
    runtimes: [Runtime; 3],
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("policies: {0}")]
    Policies(std::io::Error),
    #[error("--audit-log {file}: {error}", file = .0.display(), error = .1)]
    Audit(PathBuf, std::io::Error),
    #[error("--state-dir: {0}")]
    State(#[from] Unusable),
    #[error("{flag} {address}: {error}")]
    Listen { flag: &'static str, address: SocketAddr, error: std::io::Error },
    #[error("runtime: {0}")]
    Runtime(std::io::Error),
    #[error("reflection: {0}")]
    Reflection(String),
}

/// Loads the policies, binds the ports and serves. Must not be called from within a runtime.
pub fn start(config: &Config) -> Result<Running, StartError> {
    let xds_listener = listen::bind("--xds-listen", config.xds_listen)?;
    let rls_listener = listen::bind("--rls-listen", config.rls_listen)?;
    let admin_listener = listen::bind("--admin-listen", config.admin_listen)?;
    let listeners = Listeners { xds: xds_listener.address, rls: rls_listener.address, admin: admin_listener.address };

    let clock = Clock::start();
    let metrics = Arc::new(Metrics::default());
    for resource_type in ResourceType::ALL {
        // An alarm on refusals needs the series before the first one.
        let _ = metrics.xds_nacks.get_or_create(&TypeLabels { r#type: resource_type.as_str() });
    }
    let nodes = Arc::new(Nodes::default());
    let counters = Arc::new(Memory::new(MemoryLimits { keys_max: config.counter_keys_max }));
    let shutdown = CancellationToken::new();
    let (live, writer) = Live::new(Settings {
        rate_limit_service: RateLimitService { addresses: advertised(config, listeners.rls) },
        counter_seed: random_seed(),
        allow_empty: config.allow_empty,
    });
    let board = Arc::new(Board::default());
    let (keep, to_keep) = watch::channel(None);
    let mut loader = Loader {
        writer,
        live: Arc::clone(&live),
        metrics: Arc::clone(&metrics),
        board: Arc::clone(&board),
        clock,
        keep,
    };
    let state = config.state_dir.as_deref().map(|folder| StateDir::open(folder, load::identity(&config.source)));
    let state = state.transpose()?;
    let kept = state.as_ref().and_then(|state| loader.restore(state));
    if let SourceConfig::Dir(folder) = &config.source {
        // The first reading is part of the start: what is wrong with the path is an error of the command.
        match source::dir::read(folder) {
            Ok(documents) => loader.load(&Documents::new(Revision::default(), documents)),
            Err(error) if kept.is_some() => tracing::warn!("policies: {error}"),
            Err(error) => return Err(StartError::Policies(error)),
        }
    }

    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtimes = [runtime("xds", cores.min(4))?, runtime("rls", cores)?, runtime("admin", 2)?];
    let [xds_runtime, rls_runtime, admin_runtime] = &runtimes;
    let mut tasks = JoinSet::new();

    let xds = Xds {
        live: Arc::clone(&live),
        nodes: Arc::clone(&nodes),
        metrics: Arc::clone(&metrics),
        clock,
        identifier: format!("tierflow/{}/{}", env!("CARGO_PKG_VERSION"), std::process::id()).into(),
        shutdown: shutdown.clone(),
    };
    tasks.spawn_on(servers::xds(xds, xds_listener, shutdown.clone())?, xds_runtime.handle());
    let rls = Rls { live: Arc::clone(&live), counters: Arc::clone(&counters), metrics: Arc::clone(&metrics), clock };
    tasks.spawn_on(servers::rls(rls, rls_listener, shutdown.clone())?, rls_runtime.handle());
    let audit = match &config.audit_log {
        Some(path) => Audit::open(path).map_err(|error| StartError::Audit(path.clone(), error))?,
        None => Audit::default(),
    };
    let editor = match &config.source {
        SourceConfig::Etcd(settings) => {
            let link = Link::new(settings.clone());
            let replica = Replica {
                id: config.replica_id.clone().unwrap_or_else(replica::made_id),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                rls: advertised(config, listeners.rls).iter().map(ToString::to_string).collect(),
                ..Default::default()
            };
            let server_key = replica::key(&link, &replica.id);
            let (held, holding) = watch::channel(None);
            let register = replica::register(link.clone(), replica, Arc::clone(&live), held, shutdown.clone());
            tasks.spawn_on(register, admin_runtime.handle());
            Some(Arc::new(Editor::new(link, Arc::clone(&live), holding, server_key)))
        }
        SourceConfig::Dir(_) => None,
    };
    let admin = Admin {
        editor,
        audit: Arc::new(audit),
        access: Access { token_file: config.admin_token_file.clone() },
        live: Arc::clone(&live),
        nodes: Arc::clone(&nodes),
        counters: Arc::clone(&counters),
        metrics: Arc::clone(&metrics),
        board: Arc::clone(&board),
        clock,
        listeners,
    };
    tasks.spawn_on(servers::admin(admin, admin_listener, shutdown.clone()), admin_runtime.handle());
    tasks.spawn_on(sweep(counters, clock, shutdown.clone()), admin_runtime.handle());
    let source = {
        // Timers belong to a runtime.
        let _runtime = admin_runtime.enter();
        match &config.source {
            SourceConfig::Dir(folder) => Source::Dir(Watcher::new(folder, board, clock)),
            SourceConfig::Etcd(settings) => Source::Etcd(Box::new(Etcd::new(settings.clone(), board, metrics, clock))),
        }
    };
    tasks.spawn_on(load::follow(source, loader, shutdown.clone()), admin_runtime.handle());
    if let Some(state) = state {
        tasks.spawn_on(keep::keep(state, to_keep, shutdown.clone()), admin_runtime.handle());
    }
    tracing::info!(xds = %listeners.xds, rls = %listeners.rls, admin = %listeners.admin, "serving");
    Ok(Running { listeners, live, nodes, shutdown, tasks, runtimes })
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

    /// Takes no new calls, ends the streams, and lets calls under way finish for a few seconds.
    pub fn stop(mut self) {
        self.shutdown.cancel();
        let [_, _, admin_runtime] = &self.runtimes;
        admin_runtime.block_on(async {
            let all_done = async { while self.tasks.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(GRACE, all_done).await;
        });
        for runtime in self.runtimes {
            runtime.shutdown_background();
        }
    }
}

fn advertised(config: &Config, bound: SocketAddr) -> Vec<HostPort> {
    if config.rls_advertise.is_empty() {
        let loopback = if bound.is_ipv6() { "::1" } else { "127.0.0.1" };
        return vec![HostPort { host: loopback.to_owned(), port: bound.port() }];
    }
    config.rls_advertise.clone()
}

/// From the randomness that the standard library seeds its hash maps with.
fn random_seed() -> [u8; 16] {
    use std::hash::{BuildHasher, RandomState};
    let random = || RandomState::new().hash_one(0).to_le_bytes();
    let mut seed = [0; 16];
    seed.iter_mut().zip(random().into_iter().chain(random())).for_each(|(seed, random)| *seed = random);
    seed
}

fn runtime(name: &str, threads: usize) -> Result<Runtime, StartError> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(threads).thread_name(name).enable_all().build().map_err(StartError::Runtime)
}

async fn sweep(counters: Arc<Memory>, clock: Clock, shutdown: CancellationToken) -> Result<(), String> {
    while shutdown.run_until_cancelled(tokio::time::sleep(SWEEP_PAUSE)).await.is_some() {
        counters.sweep(clock.now());
    }
    Ok(())
}
