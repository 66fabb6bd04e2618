//! Servers that take turns under the same load, and the medians of what each did.

#![allow(dead_code, reason = "each benchmark uses a part of it")]

use std::rc::Rc;
use std::str::FromStr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::generator::{self, Load};
use crate::process::{Process, cpu_of, own_cpu};

/// A server that is measured, and what it is asked.
pub(crate) struct Measured {
    pub(crate) name: String,
    pub(crate) process: Rc<Process>,
    pub(crate) bodies: Rc<Vec<Bytes>>,
}

pub(crate) struct Turns {
    rounds: usize,
    time: Duration,
    /// The process of the store that servers ask.
    store: Option<String>,
}

/// What a server did in its turn.
struct Turn {
    per_second: f64,
    percentiles: [Duration; 3],
    server_cpu: f64,
    store_cpu: f64,
    generator_cpu: f64,
    denied: f64,
    failed: f64,
    given_up: f64,
}

/// The medians of a server's turns. Times are in microseconds.
pub(crate) struct Medians {
    /// Calls that were answered.
    pub(crate) per_second: f64,
    /// That half of the calls, 99 % and 99.9 % did not exceed.
    pub(crate) percentiles: [f64; 3],
    /// What a call took of the processor time of each.
    pub(crate) server_cpu: f64,
    pub(crate) store_cpu: f64,
    /// Of both together.
    pub(crate) cpu: f64,
    pub(crate) generator_cpu: f64,
    /// In percent of all calls.
    pub(crate) denied: f64,
    pub(crate) failed: f64,
    pub(crate) given_up: f64,
    /// Of `cpu`, to each of the servers in the same round.
    pub(crate) ratios: Vec<f64>,
}

impl Turns {
    pub(crate) fn from_environment() -> Self {
        let rounds = variable("TIERFLOW_BENCH_ROUNDS").unwrap_or(5);
        let seconds = variable("TIERFLOW_BENCH_SECONDS").unwrap_or(1.0);
        Self { rounds, time: Duration::from_secs_f64(seconds), store: None }
    }

    pub(crate) fn with_store(self, process: u32) -> Self {
        Self { store: Some(process.to_string()), ..self }
    }

    pub(crate) fn time(&self) -> Duration {
        self.time
    }

    /// Measures all servers under a load.
    pub(crate) fn measure(&self, load: Load, servers: &[Measured]) -> Vec<Medians> {
        let rounds: Vec<Vec<Turn>> =
            (0..self.rounds).map(|_| servers.iter().map(|server| self.turn(server, load)).collect()).collect();
        (0..servers.len()).map(|place| medians(&rounds, place)).collect()
    }

    fn turn(&self, server: &Measured, load: Load) -> Turn {
        // Connections are opened, and what was swapped out comes back.
        generator::run(&[server.process.address], load, &server.bodies, self.time / 10);
        let store_cpu = || self.store.as_ref().map_or(Duration::ZERO, |process| cpu_of(process));
        let (server_before, store_before) = (server.process.cpu(), store_cpu());
        let (generator_before, started) = (own_cpu(), Instant::now());
        let calls = generator::run(&[server.process.address], load, &server.bodies, self.time);
        let took = started.elapsed();
        let count = calls.made() as f64;
        let per_call = |cpu: Duration| cpu.as_secs_f64() * 1e6 / count;
        Turn {
            per_second: calls.latencies.len() as f64 / took.as_secs_f64(),
            percentiles: [0.5, 0.99, 0.999].map(|share| calls.percentile(share)),
            server_cpu: per_call(server.process.cpu() - server_before),
            store_cpu: per_call(store_cpu() - store_before),
            generator_cpu: per_call(own_cpu() - generator_before),
            denied: calls.denied as f64 * 100.0 / count,
            failed: calls.failed as f64 * 100.0 / count,
            given_up: calls.given_up as f64 * 100.0 / count,
        }
    }
}

fn medians(rounds: &[Vec<Turn>], place: usize) -> Medians {
    let median = |of: &dyn Fn(&Turn) -> f64| middle(rounds.iter().map(|round| of(&round[place])));
    let cpu = |turn: &Turn| turn.server_cpu + turn.store_cpu;
    let ratio = |to: usize| middle(rounds.iter().map(|round| cpu(&round[place]) / cpu(&round[to])));
    Medians {
        per_second: median(&|turn| turn.per_second),
        percentiles: [0, 1, 2].map(|i| median(&|turn: &Turn| turn.percentiles[i].as_secs_f64() * 1e6)),
        server_cpu: median(&|turn| turn.server_cpu),
        store_cpu: median(&|turn| turn.store_cpu),
        cpu: median(&cpu),
        generator_cpu: median(&|turn| turn.generator_cpu),
        denied: median(&|turn| turn.denied),
        failed: median(&|turn| turn.failed),
        given_up: median(&|turn| turn.given_up),
        ratios: (0..rounds[0].len()).map(ratio).collect(),
    }
}

/// Keeps this thread, and those that it starts, on some cores.
pub(crate) fn stay_on(cores: &[usize]) {
    let mut set = rustix::thread::CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    rustix::thread::sched_setaffinity(None, &set).unwrap();
}

pub(crate) fn variable<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

pub(crate) fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
