//! The sale: an edge of its own, whose Envoy asks two replicas of Tierflow that share counters in one Redis.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tierflow::config::{Config, CountersConfig};
use tierflow::counters::redis::{RedisSettings, RedisTls};
use tierflow::serve::{self, Running};

use super::ports::Ports;
use super::{bootstrap, host_port};
use crate::kit::client::{Answer, Client};
use crate::kit::envoy::Envoy;
use crate::kit::redis::Redis;
use crate::kit::tools;

/// What the sale lets through in an hour, whichever replica decides.
pub(crate) const SALE_MAY: u64 = 100;

/// Fields are dropped in this order: who asks goes before who answers.
pub(crate) struct Sale {
    envoy: Envoy,
    replicas: [Running; 2],
    pub(crate) redis: Redis,
    client: Client,
    pub(crate) customer: SaleCustomer,
}

/// Somebody who sends requests to the sale.
#[derive(Clone)]
pub(crate) struct SaleCustomer {
    client: Client,
    edge: SocketAddr,
}

impl SaleCustomer {
    pub(crate) async fn ask(&self) -> Result<Answer, String> {
        self.client.get(&format!("http://{}/sale", self.edge)).await
    }

    /// Asks for what there is not, which is counted nowhere.
    pub(crate) async fn ask_beside(&self) -> Result<Answer, String> {
        self.client.get(&format!("http://{}/", self.edge)).await
    }
}

impl Sale {
    /// Must not be called from within a runtime.
    pub(super) fn open(folder: &Path, ports: &Ports) -> Result<Self, String> {
        tools::redis()?;
        let policies = folder.join("sale");
        std::fs::create_dir(&policies).map_err(|error| format!("{}: {error}", policies.display()))?;
        let file = policies.join("sale.yaml");
        std::fs::write(&file, documents(ports)).map_err(|error| format!("{}: {error}", file.display()))?;
        let redis = Redis::start(&folder.join("redis"), ports.redis, &[])?;
        let start =
            |replica: usize| serve::start(&config(&policies, ports, replica)?).map_err(|error| error.to_string());
        let replicas = [start(0)?, start(1)?];
        let [first, _] = &replicas;
        let envoy = Envoy::start(folder, "sale", &bootstrap(first, "sale", None)?)?;
        let client = Client::default();
        let customer = SaleCustomer { client: client.clone(), edge: ports.sale };
        Ok(Self { envoy, replicas, redis, client, customer })
    }

    /// Must not be called from within a runtime.
    pub(super) fn close(self) {
        drop(self.envoy);
        self.replicas.into_iter().for_each(Running::stop);
    }

    /// True where every replica has all its connections to Redis.
    pub(crate) async fn shares(&self) -> bool {
        for replica in &self.replicas {
            let status = self.client.get(&format!("http://{}/v1/status", replica.listeners.admin)).await;
            let status: Value =
                status.ok().and_then(|answer| serde_json::from_slice(&answer.body).ok()).unwrap_or_default();
            let of_redis = |field: &str| status.pointer(&format!("/counters/redis/{field}")).and_then(Value::as_u64);
            if of_redis("connections_open").is_none_or(|open| Some(open) != of_redis("connections")) {
                return false;
            }
        }
        true
    }

    /// How many requests each replica has decided.
    pub(crate) async fn decisions(&self) -> Result<[u64; 2], String> {
        let [first, second] = &self.replicas;
        Ok([self.decisions_of(first).await?, self.decisions_of(second).await?])
    }

    async fn decisions_of(&self, replica: &Running) -> Result<u64, String> {
        let metrics = self.client.get(&format!("http://{}/metrics", replica.listeners.admin)).await?.text();
        let count = |line: &str| line.strip_prefix("tierflow_decision_seconds_count ")?.parse::<u64>().ok();
        metrics.lines().find_map(count).ok_or_else(|| "Tierflow has no metric of decisions".to_owned())
    }
}

fn documents(ports: &Ports) -> String {
    let [upstream, _] = ports.upstreams;
    format!(
        "kind: Gateway
name: sale
nodes: {{ clusters: [sale-edge] }}
listen: {}
limiter: {{ timeout: 2s, on_error: deny }}
---
kind: Service
name: sale
endpoints: [{upstream}]
---
kind: Api
name: sale
gateway: sale
match: {{ path: /sale }}
service: sale
limits: [{{ rate: {SALE_MAY}/hour, exact: true }}]
",
        ports.sale
    )
}

/// As `tierflow serve --counters redis://... --rls-advertise` with the addresses of both.
fn config(policies: &Path, ports: &Ports, replica: usize) -> Result<Config, String> {
    let any_port = (Ipv4Addr::LOCALHOST, 0).into();
    let url = format!("redis://{}", ports.redis).parse();
    let [first, second] = ports.replicas;
    Ok(Config {
        xds_listen: any_port,
        rls_listen: if replica == 0 { first } else { second },
        admin_listen: any_port,
        rls_advertise: ports.replicas.map(host_port).to_vec(),
        counters: CountersConfig::Redis(Arc::new(RedisSettings {
            url: url?,
            user: None,
            sentinel_password_file: None,
            tls: RedisTls::default(),
            prefix: RedisSettings::PREFIX.to_owned(),
            connections: RedisSettings::CONNECTIONS,
            // A machine that is busy with other things must not make a replica give Redis up.
            deadline: Duration::from_secs(1),
            local_keys_max: 10_000,
            leases: true,
        })),
        ..super::config(policies, ports)
    })
}
