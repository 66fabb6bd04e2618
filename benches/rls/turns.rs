//! Servers that take turns under the same load, and the medians of what each did.

use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::generator::{self, Load};
use crate::process::own_cpu;
use crate::servers::Measured;

pub(crate) struct Turns {
    rounds: usize,
    time: Duration,
}

/// What a server did in its turn.
struct Turn {
    per_second: f64,
    percentiles: [Duration; 3],
    /// Microseconds that a call took of the server's processor time, and of the generator's.
    server_cpu: f64,
    generator_cpu: f64,
    denied: f64,
    failed: f64,
}

impl Turns {
    pub(crate) fn from_environment() -> Self {
        let rounds = variable("TIERFLOW_BENCH_ROUNDS").unwrap_or(5);
        let seconds = variable("TIERFLOW_BENCH_SECONDS").unwrap_or(1.0);
        Self { rounds, time: Duration::from_secs_f64(seconds) }
    }

    pub(crate) fn print_head(&self) {
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

    /// Measures all servers under a load, and prints a line for each. Ratios are to the first, round by round.
    pub(crate) fn print(&self, name: &str, load: Load, servers: &[Measured]) {
        let rounds: Vec<Vec<Turn>> =
            (0..self.rounds).map(|_| servers.iter().map(|server| self.turn(server, load)).collect()).collect();
        for (place, server) in servers.iter().enumerate() {
            let median = |of: &dyn Fn(&Turn) -> f64| middle(rounds.iter().map(|round| of(&round[place])));
            let ratio = middle(rounds.iter().map(|round| round[place].server_cpu / round[0].server_cpu));
            let [p50, p99, p999] = [0, 1, 2].map(|i| median(&|turn: &Turn| turn.percentiles[i].as_secs_f64() * 1e6));
            println!(
                "{name:<14} {:<28} {:>9.0} {p50:>8.0} {p99:>8.0} {p999:>8.0} {:>11.2} {ratio:>6.2} {:>10.2} {:>6.1}% {:>6.1}%",
                server.name,
                median(&|turn| turn.per_second),
                median(&|turn| turn.server_cpu),
                median(&|turn| turn.generator_cpu),
                median(&|turn| turn.denied),
                median(&|turn| turn.failed),
            );
        }
    }

    fn turn(&self, server: &Measured, load: Load) -> Turn {
        // Connections are opened, and what was swapped out comes back.
        generator::run(server.process.address, load, &server.bodies, self.time / 10);
        let (server_before, generator_before, started) = (server.process.cpu(), own_cpu(), Instant::now());
        let calls = generator::run(server.process.address, load, &server.bodies, self.time);
        let took = started.elapsed();
        let count = calls.latencies.len() as f64;
        let per_call = |cpu: Duration| cpu.as_secs_f64() * 1e6 / count;
        Turn {
            per_second: count / took.as_secs_f64(),
            percentiles: [0.5, 0.99, 0.999].map(|share| calls.percentile(share)),
            server_cpu: per_call(server.process.cpu() - server_before),
            generator_cpu: per_call(own_cpu() - generator_before),
            denied: calls.denied as f64 * 100.0 / count,
            failed: calls.failed as f64 * 100.0 / count,
        }
    }
}

/// Keeps this thread, and those that it starts, on one core.
pub(crate) fn stay_on(core: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores).unwrap();
}

fn variable<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
