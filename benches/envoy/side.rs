//! An Envoy with the gateway of a Tierflow, and the rate limit service that it asks.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::{Process, free_address};
use crate::tierflow_server::{Ports, serve_with};
use crate::{ENVOY_CORES, OTHERS_CORES, answers_ok, client, tools};

pub(crate) struct Side {
    pub(crate) name: &'static str,
    envoy: Process,
    tierflow: Process,
    /// Another that is asked instead of Tierflow.
    answers_ok: Option<Process>,
    _folder: TempDir,
}

/// What a turn came to. Times are in microseconds.
pub(crate) struct Turn {
    pub(crate) per_second: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// What a request took of the processor time of each.
    pub(crate) service_cpu: f64,
    pub(crate) envoy_cpu: f64,
    pub(crate) not_ok: f64,
}

impl Side {
    pub(crate) fn tierflow(upstream: SocketAddr) -> Self {
        Self::start("Tierflow", upstream, None)
    }

    pub(crate) fn answers_ok(upstream: SocketAddr) -> Self {
        Self::start("OK, tonic", upstream, Some(answers_ok::start("tonic", OTHERS_CORES)))
    }

    /// Its answer is Tierflow's: Envoy writes `x-ratelimit` headers of what it says of the limits.
    pub(crate) fn answers_ok_of_limits(upstream: SocketAddr) -> Self {
        Self::start("OK of limits, tonic", upstream, Some(answers_ok::start("tonic-limits", OTHERS_CORES)))
    }

    fn start(name: &'static str, upstream: SocketAddr, answers_ok: Option<Process>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (program, ports, listen) = (Path::new(env!("CARGO_BIN_EXE_tierflow")), Ports::free(), free_address());
        let advertised = answers_ok.as_ref().map_or(ports.rls, |process| process.address);
        let flags = format!("--rls-advertise={advertised}");
        let policies = policies(listen, upstream);
        let tierflow = serve_with(program, folder.path(), &policies, OTHERS_CORES, &[&flags], ports);
        let bootstrap = Command::new(program)
            .args(["bootstrap", "--gateway=shop"])
            .arg(format!("--policies={}", folder.path().join("policies").display()))
            .arg(format!("--server={}", ports.xds))
            .output()
            .unwrap();
        assert!(bootstrap.status.success(), "{bootstrap:?}");
        let config = folder.path().join("envoy.yaml");
        std::fs::write(&config, bootstrap.stdout).unwrap();
        let mut envoy = Command::new(tools::envoy().unwrap());
        // Envoys of one machine share memory for hot restarts unless their base ids differ.
        envoy.args(["--concurrency", "1", "--log-level", "off", "--base-id", &listen.port().to_string()]);
        envoy.arg("--config-path").arg(config);
        let envoy = Process::start(&envoy, ENVOY_CORES, listen);
        let side = Self { name, envoy, tierflow, answers_ok, _folder: folder };
        side.warm_up();
        side
    }

    /// Until the service is known to be well, and asked.
    fn warm_up(&self) {
        let asked = || self.service().cpu();
        let started = Instant::now();
        loop {
            let before = asked();
            let requests = client::run(self.envoy.address, 1, Duration::from_millis(500));
            let each = (asked() - before) / u32::try_from(requests.latencies.len()).unwrap().max(1);
            if requests.not_ok == 0 && each > Duration::from_micros(2) {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{}: the service is not asked", self.name);
        }
    }

    fn service(&self) -> &Process {
        self.answers_ok.as_ref().unwrap_or(&self.tierflow)
    }

    pub(crate) fn turn(&self, connections: usize, time: Duration) -> Turn {
        client::run(self.envoy.address, connections, time / 10);
        let before = (self.service().cpu(), self.envoy.cpu());
        let requests = client::run(self.envoy.address, connections, time);
        let count = requests.latencies.len();
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / count as f64;
        let percentile =
            |share: f64| requests.latencies[(share * (count - 1) as f64).round() as usize].as_secs_f64() * 1e6;
        Turn {
            per_second: count as f64 / time.as_secs_f64(),
            p50: percentile(0.5),
            p99: percentile(0.99),
            service_cpu: each(self.service().cpu() - before.0),
            envoy_cpu: each(self.envoy.cpu() - before.1),
            not_ok: requests.not_ok as f64,
        }
    }
}

/// Two limits, one of the Api and one of the tenant, which nothing reaches.
fn policies(listen: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "{{kind: Gateway, name: shop, nodes: {{clusters: [edge]}}, listen: '{listen}',
          tenant: {{from: {{header: x-tenant-id}}, default_plan: standard}}}}
---
{{kind: Service, name: order, endpoints: ['{upstream}']}}
---
{{kind: Api, name: open, gateway: shop, match: {{path: /open}}, service: order, limits: [{{rate: 1000000000/m}}]}}
---
{{kind: Plan, name: standard, limits: [{{rate: 1000000000/m}}]}}
"
    )
}
