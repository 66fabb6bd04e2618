//! What a request through a real Envoy costs with the limits on: against the same Envoy whose rate limit service answers OK
//! at once through tonic, with what is left of two limits, of which Envoy makes headers, and without. Envoy, of one worker, has
//! a core of its own; the service, the upstream and the client share the other. They take turns in each round, and medians
//! of the rounds are printed.
//!
//! `cargo bench --bench envoy`; for a look, with fewer rounds and shorter turns in TIERFLOW_BENCH_ROUNDS=1 and
//! TIERFLOW_BENCH_SECONDS=0.2

#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::indexing_slicing, clippy::unwrap_used)]
#![allow(clippy::panic, reason = "a benchmark prints times, and ends where something is missing")]

#[path = "load/answers_ok.rs"]
mod answers_ok;
#[path = "envoy/client.rs"]
mod client;
#[allow(dead_code, reason = "its clients are Envoys")]
#[path = "load/generator.rs"]
mod generator;
#[path = "load/process.rs"]
mod process;
#[path = "envoy/side.rs"]
mod side;
#[path = "load/tierflow.rs"]
mod tierflow_server;
#[allow(dead_code, unreachable_pub, reason = "the tests use the rest of it")]
#[path = "../examples/envoy/kit/tools.rs"]
mod tools;
#[path = "load/turns.rs"]
mod turns;

use crate::side::{Side, Turn};
use crate::turns::{middle, variable};

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ENVOY_CORES: &str = "0";
const OTHERS_CORES: &str = "1";
const CONNECTIONS: [usize; 3] = [1, 16, 64];

fn main() {
    if answers_ok::serve_if_asked() {
        return;
    }
    turns::stay_on(&[OTHERS_CORES.parse().unwrap()]);
    let rounds = variable("TIERFLOW_BENCH_ROUNDS").unwrap_or(7);
    let time = std::time::Duration::from_secs_f64(variable("TIERFLOW_BENCH_SECONDS").unwrap_or(2.0));
    let upstream = client::serve();
    let sides = [Side::answers_ok_of_limits(upstream), Side::answers_ok(upstream), Side::tierflow(upstream)];
    println!(
        "{:<12} {:<20} {:>10} {:>8} {:>8} {:>8} {:>12} {:>14} {:>10} {:>9}",
        "connections",
        "service",
        "requests/s",
        "ratio",
        "p50 us",
        "p99 us",
        "p99 ratio",
        "service us",
        "Envoy us",
        "not 200"
    );
    for connections in CONNECTIONS {
        let rounds: Vec<Vec<Turn>> =
            (0..rounds).map(|_| sides.iter().map(|side| side.turn(connections, time)).collect()).collect();
        for (place, side) in sides.iter().enumerate() {
            let median = |of: &dyn Fn(&Turn) -> f64| middle(rounds.iter().map(|round| of(&round[place])));
            let ratio =
                |of: &dyn Fn(&Turn) -> f64| middle(rounds.iter().map(|round| of(&round[place]) / of(&round[0])));
            println!(
                "{connections:<12} {:<20} {:>10.0} {:>8.2} {:>8.0} {:>8.0} {:>12.2} {:>14.2} {:>10.2} {:>9.0}",
                side.name,
                median(&|turn| turn.per_second),
                ratio(&|turn| turn.per_second),
                median(&|turn| turn.p50),
                median(&|turn| turn.p99),
                ratio(&|turn| turn.p99),
                median(&|turn| turn.service_cpu),
                median(&|turn| turn.envoy_cpu),
                median(&|turn| turn.not_ok),
            );
        }
    }
}
