//! How long counters in memory keep a lock at the longest, while keys come and while those that count nothing are dropped:
//! so long a request may have to wait. It must not grow with the number of keys.
//!
//! `cargo bench --bench counters`, with 2 GB to spare. Times are the thread's own: a machine that does other things besides
//! does not make them longer.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tierflow::clock::{Clock, Timestamp};
use tierflow::counters::memory::{Memory, MemoryLimits};
use tierflow::limiter::key::KeyHasher;
use tierflow::limiter::{Charge, OnError};
use tierflow::policy::limit::{Algorithm, Mode};
use tierflow::policy::rate::Rate;

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    println!("{:>10} {:>14} {:>14} {:>14} {:>12}", "keys", "longest admit", "longest sweep", "a round", "left");
    for keys in [100_000, 1_000_000, 10_000_000] {
        measure(keys);
    }
}

/// Every other key counts nothing any more when it is swept.
fn measure(keys: u64) {
    let memory = Memory::new(MemoryLimits { keys_max: keys as usize * 11 / 10 });
    let start = Clock::start().now();
    let rates = ["1000/minute", "1000/hour"].map(|rate| Rate::parse(rate).expect("a rate"));
    let hasher = KeyHasher::seeded([7; 16]);
    let mut longest_admit = Duration::ZERO;
    for (key, rate) in (0..keys).zip(rates.into_iter().cycle()) {
        let key = hasher.clone().part(&key.to_le_bytes()).finish();
        let charge =
            Charge { key, rate, algorithm: Algorithm::SlidingWindow, mode: Mode::Enforce, hits: 20, is_exact: false };
        let took = timed(|| assert!(memory.admit(&[charge], start, OnError::Deny).admitted));
        longest_admit = longest_admit.max(took);
    }
    let later = start.plus_nanos(90_000_000_000);
    let (mut longest_sweep, mut round) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..memory.sweeps_per_round() {
        let took = timed(|| sweep(&memory, later));
        longest_sweep = longest_sweep.max(took);
        round += took;
    }
    println!("{keys:>10} {longest_admit:>14.1?} {longest_sweep:>14.1?} {round:>14.1?} {:>12}", memory.len());
}

fn sweep(memory: &Memory, now: Timestamp) {
    memory.sweep(now);
}

/// What the thread itself took for it.
fn timed(work: impl FnOnce()) -> Duration {
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
    };
    let began = now();
    work();
    now() - began
}
