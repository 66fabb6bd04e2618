//! `tierflow serve` with a store, and what it counts.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::rc::Rc;

use crate::SERVER_CORES;
use crate::asked::{Asked, Calls};
use crate::process::Process;
use crate::tierflow_server::{Ports, call, id_of, serve_with};

/// Limits that nothing reaches.
const RATES: [&str; 4] = ["1000000000/m", "1000000000/h", "1000000000/d", "1000000000/10m"];

pub(crate) struct Tierflow {
    pub(crate) process: Rc<Process>,
    admin: SocketAddr,
}

/// What it counted since it was started.
#[derive(Clone, Copy)]
pub(crate) struct Decisions {
    pub(crate) by_lease: f64,
    pub(crate) by_store: f64,
    /// Those that the store gave no answer for, too.
    pub(crate) all: f64,
}

impl Tierflow {
    pub(crate) fn start(program: &Path, folder: &Path, flags: &[&str]) -> Self {
        let ports = Ports::free();
        let process = serve_with(program, folder, &policies(), SERVER_CORES, flags, ports);
        Self { process: Rc::new(process), admin: ports.admin }
    }

    pub(crate) fn decisions(&self) -> Decisions {
        let metrics = self.metrics();
        let sum = |name: &str| -> f64 {
            let lines = metrics.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
            lines.map(|(_, count)| count.parse::<f64>().unwrap()).sum()
        };
        let by = |by: &str| sum(&format!("tierflow_counter_decisions_total{{by=\"{by}\"}}"));
        let away = sum("tierflow_counter_store_errors_total");
        let (by_lease, asked) = (by("lease"), by("store"));
        Decisions { by_lease, by_store: asked - away, all: by_lease + asked }
    }

    fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Decisions {
    /// The shares of all decisions since an earlier time: those by a lease, and those without an answer of the store.
    pub(crate) fn shares_since(self, earlier: Self) -> (f64, f64) {
        let all = (self.all - earlier.all).max(1.0);
        let [by_lease, by_store] = [self.by_lease - earlier.by_lease, self.by_store - earlier.by_store];
        let away = self.all - earlier.all - by_lease - by_store;
        (by_lease / all, away.max(0.0) / all)
    }
}

impl std::ops::Add for Decisions {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let (by_lease, by_store) = (self.by_lease + other.by_lease, self.by_store + other.by_store);
        Self { by_lease, by_store, all: self.all + other.all }
    }
}

/// The calls that ask Tierflow.
pub(crate) fn calls(asked: Asked) -> Calls {
    let gateway = gateway(asked.api_limits(), asked.limits - asked.api_limits());
    let id = id_of(&policies(), &gateway, &gateway);
    asked.calls(|tenant, hits| call(&gateway, &id, tenant, hits))
}

/// A gateway has one Api, which has its name.
fn gateway(api_limits: usize, tenant_limits: usize) -> String {
    format!("api-{api_limits}-tenant-{tenant_limits}")
}

fn policies() -> String {
    let gateways = [(0, 1), (0, 2), (0, 4), (1, 1), (2, 2)].map(|(api_limits, tenant_limits)| {
        let gateway = gateway(api_limits, tenant_limits);
        let limits = |count: usize| {
            let limits: Vec<_> = RATES[..count].iter().map(|rate| format!("{{rate: {rate}}}")).collect();
            if limits.is_empty() { String::new() } else { format!(", limits: [{}]", limits.join(", ")) }
        };
        format!(
            "{{kind: Gateway, name: {gateway}, nodes: {{clusters: [{gateway}]}}, listen: '127.0.0.1:1',\n \
             tenant: {{from: {{header: x-tenant-id}}, default_plan: {gateway}}}}}\n---\n\
             {{kind: Api, name: {gateway}, gateway: {gateway}, match: {{path: /}}, service: order{}}}\n---\n\
             {{kind: Plan, name: {gateway}{}}}\n",
            limits(api_limits),
            limits(tenant_limits),
        )
    });
    let service = "{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}\n".to_owned();
    std::iter::once(service).chain(gateways).collect::<Vec<_>>().join("---\n")
}
