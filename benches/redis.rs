//! What a decision costs with counters in a Redis that replicas share: `tierflow serve` with and without leases, against one
//! with counters in memory, a tonic server that answers OK at once, and peers where their programs are named. Each is
//! a process of its own, as are Redis and the generator; all servers are on one core, Redis and the generator on the other.
//! The servers take turns in each round, and medians of the rounds are printed. On a shared machine the CPU that a call
//! takes says more than how many calls there were, and a ratio of two says more than either.
//!
//! `cargo bench --bench redis`; with envoyproxy/ratelimit in RATELIMIT_BIN, and another build of Tierflow in
//! TIERFLOW_BENCH_BEFORE; for a look, with fewer rounds and shorter turns in TIERFLOW_BENCH_ROUNDS=1 and
//! TIERFLOW_BENCH_SECONDS=0.2, and with only the loads whose names contain TIERFLOW_BENCH_LOAD='2 limits'

#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::indexing_slicing, clippy::unwrap_used)]
#![allow(clippy::panic, reason = "a benchmark prints times, and ends where something is missing")]

#[path = "load/answers_ok.rs"]
mod answers_ok;
#[path = "redis/asked.rs"]
mod asked;
#[path = "load/generator.rs"]
mod generator;
#[path = "../examples/envoy/kit.rs"]
mod kit;
#[path = "load/process.rs"]
mod process;
#[path = "redis/ratelimit.rs"]
mod ratelimit;
#[path = "redis/replicas.rs"]
mod replicas;
#[path = "redis/tierflow.rs"]
mod tierflow;
#[path = "load/tierflow.rs"]
mod tierflow_server;
#[path = "load/turns.rs"]
mod turns;

use std::net::TcpStream;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use crate::asked::{Asked, Calls, Keys};
use crate::generator::{Load, Pace};
use crate::kit::redis::Redis;
use crate::process::{Process, free_address};
use crate::ratelimit::Pipeline;
use crate::tierflow::Tierflow;
use crate::turns::{Measured, Medians, Turns};

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SERVER_CORES: &str = "0";
/// Also of Redis, which is started from here.
const GENERATOR_CORE: usize = 1;
/// Nobody gives up: on a core that has more to do than it can, calls take long.
const LOAD: Load =
    Load { connections: 4, pace: Pace::InFlight(32), timeout: "10S", gives_up: None, under_way_max: usize::MAX };
const STORE_TIMEOUT: &str = "--counters-timeout=1s";

/// A server, and the calls that ask it.
struct Server {
    name: String,
    process: Rc<Process>,
    calls: fn(Asked) -> Calls,
    /// Where it is one.
    tierflow: Option<Tierflow>,
}

fn main() {
    if answers_ok::serve_if_asked() {
        return;
    }
    turns::stay_on(&[GENERATOR_CORE]);
    let folder = tempfile::tempdir().unwrap();
    let redis = Redis::start(&folder.path().join("redis"), free_address(), &[]).expect("a Redis");
    while TcpStream::connect(redis.address).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let turns = Turns::from_environment().with_store(redis.id());
    let counters = format!("--counters=redis://{}", redis.address);
    let store = [counters.as_str(), STORE_TIMEOUT];
    let servers = servers(folder.path(), &redis, &store);
    let wanted = std::env::var("TIERFLOW_BENCH_LOAD").unwrap_or_default();
    print_head();
    for asked in loads().filter(|asked| asked.name().contains(&wanted)) {
        measure(asked, &servers, &turns);
    }
    drop(servers);
    replicas::print(folder.path(), &store, &turns);
}

fn loads() -> impl Iterator<Item = Asked> {
    let [hot, uniform] = [Keys::Hot, Keys::Uniform(10_000)].map(|keys| [1, 2, 4].map(|limits| Asked { keys, limits }));
    let zipf = [2, 4].map(|limits| Asked { keys: Keys::Zipf(1_000), limits });
    hot.into_iter().chain(uniform).chain(zipf)
}

/// The first one is what ratios to memory are to, the last one what ratios to the peer are to.
fn servers(folder: &Path, redis: &Redis, store: &[&str]) -> Vec<Server> {
    let this = Path::new(env!("CARGO_BIN_EXE_tierflow"));
    let tierflow = |program: &Path, name: &str, flags: &[&str]| {
        let tierflow = Tierflow::start(program, folder, flags);
        Server {
            name: name.to_owned(),
            process: Rc::clone(&tierflow.process),
            calls: tierflow::calls,
            tierflow: Some(tierflow),
        }
    };
    let shared = |program: &Path, name: &str, prefix: &str, leases: &str| {
        let own = [format!("--counters-prefix={prefix}:"), format!("--counters-leases={leases}")];
        let flags = [store, &own.each_ref().map(String::as_str)].concat();
        tierflow(program, name, &flags)
    };
    let mut servers = vec![
        tierflow(this, "Tierflow, memory", &[]),
        shared(this, "Tierflow, leases", "on", "on"),
        shared(this, "Tierflow, no leases", "off", "off"),
    ];
    if let Some(before) = std::env::var_os("TIERFLOW_BENCH_BEFORE") {
        let before = Path::new(&before);
        servers.push(tierflow(before, "before, memory", &[]));
        servers.push(shared(before, "before, leases", "before-on", "on"));
        servers.push(shared(before, "before, no leases", "before-off", "off"));
    }
    let other = |name: &str, process: Process, calls| Server {
        name: name.to_owned(),
        process: Rc::new(process),
        calls,
        tierflow: None,
    };
    servers.push(other("answers OK, tonic", answers_ok::start("tonic", SERVER_CORES), tierflow::calls));
    if let Some(program) = std::env::var_os("RATELIMIT_BIN") {
        for (name, pipeline) in [
            ("ratelimit", Pipeline { window: "0", limit: "0" }),
            ("ratelimit, pipelined", Pipeline { window: "75us", limit: "0" }),
        ] {
            let process = ratelimit::start(&program, folder, redis.address, &pipeline);
            servers.push(other(name, process, ratelimit::calls));
        }
    }
    servers
}

/// Measures all servers under a load, and prints a line for each.
fn measure(asked: Asked, servers: &[Server], turns: &Turns) {
    let measured: Vec<_> = servers.iter().map(|server| server.measured(asked)).collect();
    let decisions =
        || -> Vec<_> { servers.iter().map(|server| server.tierflow.as_ref().map(Tierflow::decisions)).collect() };
    let before = decisions();
    let medians = turns.measure(LOAD, &measured);
    let after = decisions();
    for (place, server) in measured.iter().enumerate() {
        let shares = after[place].zip(before[place]).map(|(after, before)| after.shares_since(before));
        print(&asked.name(), server, &medians[place], shares.unwrap_or_default());
    }
}

impl Server {
    fn measured(&self, asked: Asked) -> Measured {
        let calls = (self.calls)(asked);
        generator::run_once(self.process.address, &calls.first);
        Measured { name: self.name.clone(), process: Rc::clone(&self.process), bodies: calls.bodies }
    }
}

fn print_head() {
    println!(
        "{:<21} {:<20} {:>7} {:>6} {:>7} {:>7} {:>6} {:>6} {:>6} {:>8} {:>8} {:>6} {:>9} {:>6}",
        "load",
        "server",
        "calls/s",
        "p50 us",
        "p99 us",
        "service",
        "store",
        "sum",
        "memory",
        "the last",
        "by lease",
        "away",
        "generator",
        "failed"
    );
}

/// Times are in microseconds. `sum` is the CPU that a call takes of the service and of the store, `memory` and `the last` are
/// ratios of it.
fn print(load: &str, server: &Measured, medians: &Medians, (by_lease, away): (f64, f64)) {
    let [p50, p99, _] = medians.percentiles;
    println!(
        "{load:<21} {:<20} {:>7.0} {p50:>6.0} {p99:>7.0} {:>7.2} {:>6.2} {:>6.2} {:>6.2} {:>8.2} {:>7.1}% {:>5.1}% {:>9.2} {:>5.1}%",
        server.name,
        medians.per_second,
        medians.server_cpu,
        medians.store_cpu,
        medians.cpu,
        medians.ratios[0],
        medians.ratios.last().copied().unwrap_or_default(),
        by_lease * 100.0,
        away * 100.0,
        medians.generator_cpu,
        medians.failed,
    );
}
