//! The composition root: every listener, runtime and task of a running Tierflow is started here.
//!
//! ```text
//! source (own task) -> live
//! xDS runtime:   ADS, health, reflection
//! limit runtime: rate limit service, health, reflection, health follows live
//! admin runtime: HTTP API, sweeping of counters
//! ```
//!
//! Each server has a runtime of its own, so that a storm of pushes or of admin calls does not delay decisions.

mod listen;
mod servers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, Listeners};
use crate::clock::Clock;
use crate::compile::{HostPort, RateLimitService};
use crate::config::Config;
use crate::counters::memory::{Memory, MemoryLimits};
use crate::document::Documents;
use crate::live::{Adopted, Live, Settings, Writer};
use crate::metrics::{Metrics, ReloadLabels, TypeLabels};
use crate::names::Revision;
use crate::nodes::Nodes;
use crate::rls::Rls;
use crate::snapshot::resource::ResourceType;
use crate::source::dir::Watcher;
use crate::xds::Xds;

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
    let mut loader = Loader { writer, live: Arc::clone(&live), metrics: Arc::clone(&metrics), clock };
    let documents = crate::source::dir::read(&config.policies).map_err(StartError::Policies)?;
    loader.load(&Documents::new(Revision::default(), documents));

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
    let admin = Admin {
        live: Arc::clone(&live),
        nodes: Arc::clone(&nodes),
        counters: Arc::clone(&counters),
        metrics,
        clock,
        listeners,
    };
    tasks.spawn_on(servers::admin(admin, admin_listener, shutdown.clone()), admin_runtime.handle());
    tasks.spawn_on(sweep(counters, clock, shutdown.clone()), admin_runtime.handle());
    tasks.spawn_on(follow(config.policies.clone(), loader, shutdown.clone()), admin_runtime.handle());
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

async fn follow(policies: std::path::PathBuf, mut loader: Loader, shutdown: CancellationToken) -> Result<(), String> {
    let mut watcher = Watcher::new(&policies);
    while let Some(documents) = shutdown.run_until_cancelled(watcher.next()).await {
        loader.load(&documents);
    }
    Ok(())
}

/// Takes documents from a source to what is served, and says what became of them.
struct Loader {
    writer: Writer,
    live: Arc<Live>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl Loader {
    fn load(&mut self, documents: &Documents) {
        let refused_before = self.live.refused();
        let adopted = self.writer.adopt(documents, self.clock.now());
        let refused = self.live.refused();
        for refusal in refused.iter().filter(|refusal| !refused_before.contains(refusal)) {
            for problem in &refusal.problems {
                tracing::warn!(is_served = refusal.is_served, "document refused: {problem}");
            }
        }
        let result = match adopted {
            Adopted::Served => "served",
            Adopted::Unchanged => "unchanged",
            Adopted::Empty => "empty",
        };
        let generation = self.live.generation().map_or(0, |generation| generation.number);
        match adopted {
            Adopted::Empty => tracing::warn!(
                "the source holds no document; what was served stays (--allow-empty takes it at its word)"
            ),
            _ => {
                tracing::info!(generation, revision = %documents.revision, refused = refused.len(), "policies {result}")
            }
        }
        self.metrics.reloads.get_or_create(&ReloadLabels { result }).inc();
        self.metrics.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.metrics.refused_documents.set(i64::try_from(refused.len()).unwrap_or(i64::MAX));
    }
}
