//! The shop: everything that runs for the demo. It ends with its owner, whatever happens in between.

mod policies;
mod ports;
mod sale;

use std::net::SocketAddr;
use std::path::Path;

use tempfile::TempDir;
use tierflow::bootstrap::{Bootstrap, DOWNSTREAM_CONNECTIONS_MAX, XdsVariant};
use tierflow::clock::{Clock, Timestamp};
use tierflow::compile::HostPort;
use tierflow::config::{Config, CountersConfig, SourceConfig};
use tierflow::live::Generation;
use tierflow::nodes::Node;
use tierflow::serve::{self, Running};
use tokio::runtime::Runtime;

use crate::kit::client::{Answer, Client};
use crate::kit::envoy::Envoy;
use crate::kit::tools;
use crate::kit::upstream::Upstream;
use ports::Ports;

pub(crate) use policies::Policies;
pub(crate) use ports::UPSTREAM_PORTS;
pub(crate) use sale::{SALE_MAY, Sale};

/// Fields are dropped in this order: who asks goes before who answers.
pub(crate) struct Shop {
    envoys: Vec<Envoy>,
    pub(crate) tierflow: Running,
    /// What it takes for it may not be had here.
    pub(crate) sale: Result<Sale, String>,
    _upstreams: Vec<Upstream>,
    pub(crate) ports: Ports,
    pub(crate) policies: Policies,
    client: Client,
    pub(crate) customer: Customer,
    pub(crate) clock: Clock,
    /// When the Envoys were started.
    pub(crate) opened_at: Timestamp,
    _folder: TempDir,
}

impl Shop {
    /// Must not be called from within a runtime.
    pub(crate) fn open(runtime: &Runtime) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("tierflow-").tempdir();
        let folder = folder.map_err(|error| format!("temporary folder: {error}; TMPDIR says where it is made"))?;
        let ports = Ports::find()?;
        let policies = Policies::copy_to(folder.path().join("policies"), &ports)?;
        let upstreams = runtime.block_on(start_upstreams(&ports))?;
        let tierflow = serve::start(&config(&policies.folder, &ports)).map_err(|error| error.to_string())?;
        let clock = Clock::start();
        let opened_at = clock.now();
        let mut envoys = Vec::new();
        for (gateway, admin) in [("shop", Some(ports.envoy_admin)), ("inventory-sidecar", None)] {
            let bootstrap = bootstrap(&tierflow, gateway, admin.map(host_port).as_ref())?;
            envoys.push(Envoy::start(folder.path(), gateway, &bootstrap)?);
        }
        let sale = Sale::open(folder.path(), &ports);
        let client = Client::default();
        let customer = Customer { client: client.clone(), shop: ports.shop };
        Ok(Self {
            envoys,
            tierflow,
            sale,
            _upstreams: upstreams,
            ports,
            policies,
            client,
            customer,
            clock,
            opened_at,
            _folder: folder,
        })
    }

    /// Must not be called from within a runtime.
    pub(crate) fn close(self) {
        drop(self.envoys);
        if let Ok(sale) = self.sale {
            sale.close();
        }
        self.tierflow.stop();
    }

    pub(crate) fn generation(&self) -> u64 {
        self.tierflow.live.generation().map_or(0, |generation| generation.number)
    }

    /// The Envoys that are connected to Tierflow.
    pub(crate) fn nodes(&self) -> Vec<Node> {
        self.tierflow.nodes.all()
    }

    /// How many xDS responses Tierflow has sent, to all Envoys together.
    pub(crate) async fn pushes(&self) -> Result<u64, String> {
        let metrics = self.client.get(&format!("http://{}/metrics", self.ports.admin)).await?.text();
        let of_type =
            |line: &str| line.strip_prefix("tierflow_xds_push_total")?.rsplit(' ').next()?.parse::<u64>().ok();
        Ok(metrics.lines().filter_map(of_type).sum())
    }

    /// A statistic of the shop's Envoy, in Envoy's own words.
    pub(crate) async fn envoy_stat(&self, name: &str) -> Result<u64, String> {
        let url = format!("http://{}/stats?filter=^{name}$", self.ports.envoy_admin);
        let text = self.client.get(&url).await?.text();
        let value = text.trim().rsplit(' ').next().and_then(|value| value.parse().ok());
        value.ok_or_else(|| format!("Envoy has no statistic {name}"))
    }

    /// What the shop's Envoy wrote of each request.
    pub(crate) fn access_log(&self) -> Result<String, String> {
        let path = self.policies.access_log();
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Says so if an Envoy has ended by itself.
    pub(crate) fn ended_envoy(&mut self) -> Option<String> {
        let status = self.envoys.iter_mut().find_map(Envoy::ended)?;
        Some(format!("an Envoy ended by itself ({status}){}", self.last_words()))
    }

    /// What the Envoys logged last, for whoever has to find out what is wrong with them.
    pub(crate) fn last_words(&self) -> String {
        let logs = self.envoys.iter().map(Envoy::log).collect::<Vec<_>>();
        let last = |log: &String| log.lines().rev().take(4).map(|line| format!("\n  {line}")).collect::<Vec<_>>();
        let words: String = logs.iter().flat_map(|log| last(log).into_iter().rev()).collect();
        let program = tools::envoy().map(|path| path.display().to_string()).unwrap_or_default();
        match words.is_empty() {
            true => format!("; {program} logged nothing: is it an Envoy? ENVOY_BIN names another"),
            false => format!("; the last of its log:{words}"),
        }
    }
}

/// Somebody who sends requests to the shop.
#[derive(Clone)]
pub(crate) struct Customer {
    client: Client,
    shop: SocketAddr,
}

impl Customer {
    pub(crate) async fn ask(&self, method: &str, path: &str, tenant: Option<&str>) -> Result<Answer, String> {
        let tenant = tenant.map(|tenant| ("x-tenant-id", tenant));
        self.client.send(method, &format!("http://{}{path}", self.shop), tenant.as_slice()).await
    }
}

async fn start_upstreams(ports: &Ports) -> Result<Vec<Upstream>, String> {
    let mut upstreams = Vec::new();
    for address in ports.upstreams {
        let upstream = Upstream::start(&format!("upstream {}", address.port()), address).await;
        upstreams.push(upstream.map_err(|error| format!("{address}: {error}"))?);
    }
    Ok(upstreams)
}

fn config(policies: &Path, ports: &Ports) -> Config {
    Config {
        source: SourceConfig::Dir(policies.to_owned()),
        state_dir: None,
        xds_listen: ports.xds,
        xds_limits: Default::default(),
        rls_listen: ports.rls,
        admin_listen: ports.admin,
        tls: None,
        rls_advertise: Vec::new(),
        replica_id: None,
        admin_access: Default::default(),
        admin_metrics_open: false,
        audit_log: None,
        denial_log: None,
        traces: None,
        counters: CountersConfig::Memory { keys_max: 100_000 },
        allow_empty: false,
    }
}

/// What `tierflow bootstrap --gateway G` would print.
fn bootstrap(tierflow: &Running, gateway: &str, envoy_admin: Option<&HostPort>) -> Result<String, String> {
    let generation = tierflow.live.generation().ok_or("no policies are served")?;
    let Generation { policies, .. } = &*generation;
    let gateway = policies.gateways.get(gateway).ok_or_else(|| format!("policies/ has no Gateway {gateway}"))?;
    let server = host_port(tierflow.listeners.xds);
    let bootstrap = Bootstrap {
        gateway,
        node_id: None,
        server: &server,
        tls: None,
        sds_dir: None,
        envoy_admin,
        xds: XdsVariant::Delta,
        downstream_connections_max: DOWNSTREAM_CONNECTIONS_MAX,
    };
    Ok(bootstrap.to_json()?.to_string())
}

fn host_port(address: SocketAddr) -> HostPort {
    HostPort { host: address.ip().to_string(), port: address.port() }
}
