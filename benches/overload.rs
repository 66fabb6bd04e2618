//! What becomes of calls when more come than a server can answer: how many are still answered in time, and how late. Callers
//! behave as Envoy does: they take a call back after 20 ms, and make none while too many are under way.
//!
//! One server, on a core of its own, with 16 limits a call so that the generator, on the other core, can make several times
//! as many calls as it can answer. Medians of some turns. `cargo bench --bench overload`; with another build of Tierflow
//! in TIERFLOW_BENCH_BEFORE, which takes its turns with this one.

#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::indexing_slicing, clippy::unwrap_used)]
#![allow(clippy::panic, reason = "a benchmark prints times, and ends where something is missing")]

#[path = "load/generator.rs"]
mod generator;
#[path = "load/process.rs"]
mod process;
#[path = "load/tierflow.rs"]
mod tierflow_server;
#[path = "load/turns.rs"]
mod turns;

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use crate::generator::{Load, Pace};
use crate::turns::{Measured, Medians, Turns};

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SERVER_CORES: &str = "0";
const GENERATOR_CORE: usize = 1;
const TENANTS: usize = 1_000;
const LIMITS_OF_API: usize = 15;
/// How many Envoys there are, and the calls that the circuit breaker of each lets be under way.
const ENVOYS: [(usize, usize); 4] = [(4, 1024), (4, 256), (16, 256), (16, 64)];
/// Envoy's own default.
const TIMEOUT: (&str, Duration) = ("20m", Duration::from_millis(20));
/// Of what saturates the server.
const SHARES: [f64; 5] = [0.5, 0.9, 1.25, 2.0, 4.0];

fn main() {
    turns::stay_on(&[GENERATOR_CORE]);
    let folder = tempfile::tempdir().unwrap();
    let policies = policies();
    let id = tierflow_server::id_of(&policies, "shop", "open");
    let bodies: Rc<Vec<Bytes>> =
        Rc::new((0..TENANTS).map(|tenant| tierflow_server::call("shop", &id, tenant, 1)).collect());
    let server = |program: &Path, name: &str| {
        let ports = tierflow_server::Ports::free();
        let process = tierflow_server::serve_with(program, folder.path(), &policies, SERVER_CORES, &[], ports);
        Measured { name: name.to_owned(), process: Rc::new(process), bodies: Rc::clone(&bodies) }
    };
    let mut servers = vec![server(Path::new(env!("CARGO_BIN_EXE_tierflow")), "Tierflow")];
    if let Some(before) = std::env::var_os("TIERFLOW_BENCH_BEFORE") {
        servers.push(server(Path::new(&before), "before"));
    }
    let turns = Turns::from_environment();
    let saturated = turns.measure(Load::default(), &servers);
    print_head();
    servers.iter().zip(&saturated).for_each(|(server, medians)| print("4 x 32", "", server, medians));
    for (connections, under_way_max) in ENVOYS {
        for share in SHARES {
            let pace = Pace::PerSecond((share * saturated[0].per_second) as usize);
            let load = Load { connections, pace, timeout: TIMEOUT.0, gives_up: Some(TIMEOUT.1), under_way_max };
            for (server, medians) in servers.iter().zip(turns.measure(load, &servers)) {
                print(&format!("{share} x that"), &format!("{connections} x {under_way_max}"), server, &medians);
            }
        }
    }
}

/// Limits that nothing reaches, each with a window of its own.
fn policies() -> String {
    let limits: Vec<String> = (1..=LIMITS_OF_API).map(|minutes| format!("{{rate: 1000000000/{minutes}m}}")).collect();
    format!(
        "{{kind: Gateway, name: shop, nodes: {{clusters: [edge]}}, listen: '127.0.0.1:1',
          tenant: {{from: {{header: x-tenant-id}}, default_plan: standard}}}}
---
{{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}}
---
{{kind: Api, name: open, gateway: shop, match: {{path: /open}}, service: order, limits: [{}]}}
---
{{kind: Plan, name: standard, limits: [{{rate: 1000000000/m}}]}}
",
        limits.join(", ")
    )
}

fn print_head() {
    println!(
        "{:<12} {:<10} {:<10} {:>11} {:>9} {:>9} {:>8} {:>8} {:>8} {:>14} {:>10}",
        "load",
        "Envoys",
        "server",
        "answered/s",
        "refused",
        "given up",
        "p50 us",
        "p99 us",
        "p99.9",
        "CPU us a call",
        "generator"
    );
}

fn print(load: &str, envoys: &str, server: &Measured, medians: &Medians) {
    let [p50, p99, p999] = medians.percentiles;
    println!(
        "{load:<12} {envoys:<10} {:<10} {:>11.0} {:>8.1}% {:>8.1}% {p50:>8.0} {p99:>8.0} {p999:>8.0} {:>14.2} {:>10.2}",
        server.name, medians.per_second, medians.failed, medians.given_up, medians.server_cpu, medians.generator_cpu,
    );
}
