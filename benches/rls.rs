//! What a decision costs over gRPC: `tierflow serve` against servers of the same transport that answer OK at once. Each is
//! a process of its own on a core of its own, as is the generator; they take turns in each round, and medians of the
//! rounds are printed. On a shared machine the ratio of two is worth more than the figure of one, and the CPU that a
//! call takes more than how many calls there were.
//!
//! `cargo bench --bench rls`; for a look, with fewer rounds and shorter turns in TIERFLOW_BENCH_ROUNDS=1 and
//! TIERFLOW_BENCH_SECONDS=0.2

#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::indexing_slicing, clippy::unwrap_used)]
#![allow(clippy::panic, reason = "a benchmark prints times, and ends where something is missing")]

#[path = "rls/answers_ok.rs"]
mod answers_ok;
#[path = "rls/generator.rs"]
mod generator;
#[path = "rls/process.rs"]
mod process;
#[path = "rls/servers.rs"]
mod servers;
#[path = "rls/turns.rs"]
mod turns;

use crate::generator::{Load, Pace};
use crate::servers::Measured;
use crate::turns::Turns;

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SERVER_CORES: &str = "0";
const GENERATOR_CORE: usize = 1;
/// Tenants that are always in the processor's caches, and more than fit into them.
const HOT: usize = 1_000;
const MANY: usize = 200_000;

fn main() {
    if answers_ok::serve_if_asked() {
        return;
    }
    turns::stay_on(GENERATOR_CORE);
    let folder = tempfile::tempdir().unwrap();
    let turns = Turns::from_environment();
    let hot = servers::bodies("open", HOT);
    let tierflow = |name: &str, bodies| Measured {
        name: name.to_owned(),
        process: servers::tierflow(folder.path(), SERVER_CORES),
        bodies,
    };
    let servers = [
        servers::answers_ok("tonic", &hot),
        servers::answers_ok("h2", &hot),
        tierflow("Tierflow", hot.clone()),
        tierflow("Tierflow, 200 000 tenants", servers::bodies("open", MANY)),
        tierflow("Tierflow, denied", servers::bodies("shut", HOT)),
    ];
    turns.print_head();
    for (connections, in_flight) in [(1, 1), (1, 32), (4, 32), (16, 8)] {
        let load = Load { connections, pace: Pace::InFlight(in_flight) };
        turns.print(&format!("{connections} x {in_flight}"), load, &servers);
    }
    for per_second in [5_000, 20_000] {
        let load = Load { connections: 4, pace: Pace::PerSecond(per_second) };
        turns.print(&format!("{per_second} a second"), load, &servers);
    }
}
