//! Ten million tenants that come once each: what they take of memory, whether a tenant that has used up its limit gets it back,
//! and what they do to the others' latency. The server has a core of its own; the others, and who floods it, share one.
//!
//! `cargo bench --bench flood`; for a look with fewer tenants in TIERFLOW_BENCH_TENANTS=100000

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

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::generator::{Calls, Load, Pace};
use crate::process::Process;

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SERVER_CORES: &str = "0";
const GENERATOR_CORE: usize = 1;
const KEYS_MAX: u64 = 1_000_000;
/// What `docs/performance.md` promises of a key.
const BYTES_OF_KEY: u64 = 192;
/// Tenants who come all the time, and the calls that they make a second.
const REGULARS: usize = 1_000;
const REGULAR_CALLS: usize = 2_000;
/// The one of them that has used up its limit.
const USED_UP: usize = REGULARS;
const LIMIT: u32 = 60_000;
/// The calls of a flood that are made ready at a time.
const PIECE: usize = 500_000;

/// A tenant's limit is below 65 536, as is usual; it is for a day, so nothing of it comes back meanwhile.
const POLICIES: &str = "\
{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1',
 tenant: {from: {header: x-tenant-id}, default_plan: standard}}
---
{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}
---
{kind: Api, name: open, gateway: shop, match: {path: /open}, service: order, limits: [{rate: 1000000000/m}]}
---
{kind: Plan, name: standard, limits: [{rate: 60000/d}]}
";

fn main() {
    turns::stay_on(&[GENERATOR_CORE]);
    let tenants = turns::variable("TIERFLOW_BENCH_TENANTS").unwrap_or(10_000_000);
    let folder = tempfile::tempdir().unwrap();
    let keys = format!("--counter-keys-max={KEYS_MAX}");
    let server = tierflow_server::serve(folder.path(), POLICIES, SERVER_CORES, &[&keys]);
    let call = |tenant: usize, hits: u32| {
        let id = tierflow_server::id_of(POLICIES, "shop", "open");
        generator::run_once(server.address, &[tierflow_server::call("shop", &id, tenant, hits)])
    };
    assert_eq!(call(USED_UP, LIMIT).denied, 0, "it has its whole limit");
    assert_eq!(call(USED_UP, 1).denied, 1, "and has used it up");
    print_head();
    print("alone", &server, &regulars(server.address, || std::thread::sleep(Duration::from_secs(5))));
    // As many calls, made alike.
    let known =
        regulars(server.address, || call_all(server.address, tenants.min(2_000_000), |number| number % REGULARS));
    print("beside known tenants", &server, &known);
    let before = server.rss();
    let flood = regulars(server.address, || call_all(server.address, tenants, |number| 2 * REGULARS + number));
    print("beside the flood", &server, &flood);
    let grown = server.rss().saturating_sub(before);
    println!(
        "{tenants} tenants: {} MB more, of {} MB set aside; who had used up its limit {}",
        grown / 1_000_000,
        KEYS_MAX * BYTES_OF_KEY / 1_000_000,
        if call(USED_UP, 1).denied == 1 { "is still denied" } else { "GOT IT BACK" },
    );
}

/// So many calls, as fast as one connection makes them.
fn call_all(server: SocketAddr, count: usize, tenant: impl Fn(usize) -> usize) {
    for first in (0..count).step_by(PIECE) {
        let piece = calls((first..count.min(first + PIECE)).map(&tenant));
        assert_eq!(generator::run_once(server, &piece).failed, 0);
    }
}

fn calls(tenants: impl Iterator<Item = usize>) -> Rc<Vec<bytes::Bytes>> {
    let id = tierflow_server::id_of(POLICIES, "shop", "open");
    Rc::new(tenants.map(|tenant| tierflow_server::call("shop", &id, tenant, 1)).collect())
}

/// The calls of the regular tenants while something else goes on.
fn regulars(server: SocketAddr, meanwhile: impl FnOnce()) -> Calls {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let regular = scope.spawn(|| {
            let (bodies, mut all) = (calls(0..REGULARS), Calls::default());
            let load = Load { connections: 1, pace: Pace::PerSecond(REGULAR_CALLS), ..Load::default() };
            while !is_over.load(Ordering::Relaxed) {
                all.add(generator::run(&[server], load, &bodies, Duration::from_secs(1)));
            }
            all
        });
        meanwhile();
        is_over.store(true, Ordering::Relaxed);
        regular.join().unwrap()
    })
}

fn print_head() {
    println!(
        "{:<22} {:>9} {:>8} {:>8} {:>8} {:>7} {:>7} {:>8}",
        "regular tenants", "calls", "p50 us", "p99 us", "p99.9", "denied", "failed", "RSS MB"
    );
}

fn print(name: &str, server: &Process, calls: &Calls) {
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| calls.percentile(share).as_secs_f64() * 1e6);
    println!(
        "{name:<22} {:>9} {p50:>8.0} {p99:>8.0} {p999:>8.0} {:>7} {:>7} {:>8}",
        calls.made(),
        calls.denied,
        calls.failed,
        server.rss() / 1_000_000
    );
}
