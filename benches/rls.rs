//! What a decision costs over gRPC: `tierflow serve` against servers of the same transport that answer OK at once. Each is
//! a process of its own on a core of its own, as is the generator; they take turns in each round, and medians of the
//! rounds are printed. On a shared machine the ratio of two is worth more than the figure of one, and the CPU that a
//! call takes more than how many calls there were.
//!
//! `cargo bench --bench rls`; with Kuadrant's limitador in LIMITADOR_BIN, and another build of Tierflow in
//! TIERFLOW_BENCH_BEFORE, which take their turns with the others; for a look, with fewer rounds and shorter turns in
//! TIERFLOW_BENCH_ROUNDS=1 and TIERFLOW_BENCH_SECONDS=0.2

#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::indexing_slicing, clippy::unwrap_used)]
#![allow(clippy::panic, reason = "a benchmark prints times, and ends where something is missing")]

#[path = "load/answers_ok.rs"]
mod answers_ok;
#[path = "load/generator.rs"]
mod generator;
#[path = "rls/limitador.rs"]
mod limitador;
#[path = "load/process.rs"]
mod process;
#[path = "load/tierflow.rs"]
mod tierflow_server;
#[path = "load/turns.rs"]
mod turns;

use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;

use crate::generator::{Load, Pace};
use crate::tierflow_server::Ports;
use crate::turns::{Measured, Medians, Turns};

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SERVER_CORES: &str = "0";
const GENERATOR_CORE: usize = 1;
/// Tenants that are always in the processor's caches, and more than fit into them.
const HOT: usize = 1_000;
const MANY: usize = 200_000;

/// Two limits, one of the Api and one of the tenant, which nothing reaches; and the same, used up by the first call.
const POLICIES: &str = "\
{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1',
 tenant: {from: {header: x-tenant-id}, default_plan: standard}}
---
{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}
---
{kind: Api, name: open, gateway: shop, match: {path: /open}, service: order, limits: [{rate: 1000000000/m}]}
---
{kind: Api, name: shut, gateway: shop, match: {path: /shut}, service: order, limits: [{rate: 1/d}]}
---
{kind: Plan, name: standard, limits: [{rate: 1000000000/m}]}
";

fn main() {
    if answers_ok::serve_if_asked() {
        return;
    }
    turns::stay_on(&[GENERATOR_CORE]);
    let folder = tempfile::tempdir().unwrap();
    let turns = Turns::from_environment();
    let hot = calls("open", HOT);
    let answers_ok = |transport: &str| Measured {
        name: format!("answers OK, {transport}"),
        process: Rc::new(answers_ok::start(transport, SERVER_CORES)),
        bodies: Rc::clone(&hot),
    };
    let tierflow_of = |program: &Path, name: &str, bodies| {
        let process = tierflow_server::serve_with(program, folder.path(), POLICIES, SERVER_CORES, &[], Ports::free());
        Measured { name: name.to_owned(), process: Rc::new(process), bodies }
    };
    let tierflow = |name: &str, bodies| tierflow_of(Path::new(env!("CARGO_BIN_EXE_tierflow")), name, bodies);
    let mut servers = vec![
        answers_ok("tonic"),
        answers_ok("h2"),
        tierflow("Tierflow", Rc::clone(&hot)),
        tierflow("Tierflow, 200 000 tenants", calls("open", MANY)),
        tierflow("Tierflow, denied", calls("shut", HOT)),
    ];
    if let Some(before) = std::env::var_os("TIERFLOW_BENCH_BEFORE") {
        let before = Path::new(&before);
        servers.push(tierflow_of(before, "before", Rc::clone(&hot)));
        servers.push(tierflow_of(before, "before, denied", calls("shut", HOT)));
    }
    if let Some(program) = std::env::var_os("LIMITADOR_BIN") {
        let id = tierflow_server::id_of(POLICIES, "shop", "open");
        let process = limitador::start(&program, folder.path(), &id, SERVER_CORES);
        servers.push(Measured { name: "limitador".to_owned(), process: Rc::new(process), bodies: Rc::clone(&hot) });
    }
    print_head();
    let print = |name: &str, load: Load| {
        for (server, medians) in servers.iter().zip(turns.measure(load, &servers)) {
            print(name, server, &medians);
        }
    };
    // Envoy's own default.
    let timeout = "20m";
    for (connections, in_flight) in [(1, 1), (1, 32), (4, 32), (16, 8)] {
        let load = Load { connections, pace: Pace::InFlight(in_flight), timeout, ..Load::default() };
        print(&format!("{connections} x {in_flight}"), load);
    }
    for per_second in [5_000, 20_000] {
        let load = Load { pace: Pace::PerSecond(per_second), timeout, ..Load::default() };
        print(&format!("{per_second} a second"), load);
    }
    on_two_cores(folder.path(), &turns, &hot);
}

/// Whether calls cost more where two threads serve them at once. Both cores are shared with the generator, so it is CPU a call
/// that tells, and not how many calls there are.
fn on_two_cores(folder: &Path, turns: &Turns, bodies: &Rc<Vec<Bytes>>) {
    turns::stay_on(&[0, 1]);
    let program = Path::new(env!("CARGO_BIN_EXE_tierflow"));
    let servers = ["0", "0,1"].map(|cores| Measured {
        name: format!("Tierflow, cores {cores}"),
        process: Rc::new(tierflow_server::serve_with(program, folder, POLICIES, cores, &[], Ports::free())),
        bodies: Rc::clone(bodies),
    });
    let load = Load { connections: 16, pace: Pace::InFlight(8), ..Load::default() };
    for (server, medians) in servers.iter().zip(turns.measure(load, &servers)) {
        print("16 x 8", server, &medians);
    }
}

/// Calls about an Api, by so many tenants in turn.
fn calls(api: &str, tenants: usize) -> Rc<Vec<Bytes>> {
    let id = tierflow_server::id_of(POLICIES, "shop", api);
    Rc::new((0..tenants).map(|tenant| tierflow_server::call("shop", &id, tenant, 1)).collect())
}

fn print_head() {
    println!(
        "{:<14} {:<28} {:>9} {:>8} {:>8} {:>8} {:>11} {:>6} {:>10} {:>7} {:>7}",
        "load",
        "server",
        "calls/s",
        "p50 us",
        "p99 us",
        "p99.9",
        "CPU us/call",
        "ratio",
        "generator",
        "denied",
        "failed"
    );
}

/// The ratio is to the first server.
fn print(load: &str, server: &Measured, medians: &Medians) {
    let [p50, p99, p999] = medians.percentiles;
    println!(
        "{load:<14} {:<28} {:>9.0} {p50:>8.0} {p99:>8.0} {p999:>8.0} {:>11.2} {:>6.2} {:>10.2} {:>6.1}% {:>6.1}%",
        server.name,
        medians.per_second,
        medians.server_cpu,
        medians.ratios[0],
        medians.generator_cpu,
        medians.denied,
        medians.failed,
    );
}
