//! What counters in memory take of it: how much the process grows by for each key, and whether a flood of keys that come once
//! stays within what was set aside.
//!
//! `cargo bench --bench memory`, with 1 GB to spare. Each row is a process of its own, for an allocator keeps what it had.

#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::unwrap_used)]
#![allow(clippy::panic, reason = "a benchmark prints figures, and ends where something is missing")]

use std::process::Command;

use tierflow::clock::{Clock, Timestamp};
use tierflow::counters::memory::{Memory, MemoryLimits};
use tierflow::limiter::key::KeyHasher;
use tierflow::limiter::{Charge, OnError};
use tierflow::policy::limit::{Algorithm, Mode};
use tierflow::policy::rate::Rate;

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// With a number of keys in it, the benchmark's program fills one row.
const VARIABLE: &str = "TIERFLOW_BENCH_KEYS";
/// Some shards are full before others, so a store for so many keys is a little larger.
const SPARE: f64 = 1.25;
/// A ring of sub-buckets, as every counter of a limit below 65 536 is that has seen more than a few.
const HITS: u32 = 1_000;
const FLOOD: u64 = 10_000_000;

fn main() {
    if let Ok(keys) = std::env::var(VARIABLE) {
        return row(keys.parse().unwrap());
    }
    println!("{:>10} {:>14} {:>16} {:>18}", "keys", "bytes a key", "after a flood", "bytes of keys_max");
    for keys in [1_000, 100_000, 1_000_000_u64] {
        let row = Command::new(std::env::current_exe().unwrap()).env(VARIABLE, keys.to_string()).status();
        assert!(row.unwrap().success());
    }
}

fn row(keys: u64) {
    let now = Clock::start().now();
    let before = resident();
    let keys_max = (keys as f64 * SPARE) as usize;
    let memory = Memory::new(MemoryLimits { keys_max });
    (0..keys).for_each(|key| assert!(admit(&memory, key, "60000/hour", HITS, now)));
    assert_eq!(memory.len(), keys as usize);
    let each = (resident() - before) as f64 / keys as f64;

    let victim = u64::MAX;
    assert!(admit(&memory, victim, "5/hour", 5, now));
    for stranger in keys..keys + FLOOD {
        admit(&memory, stranger, "60000/hour", HITS, now);
        assert!(!stranger.is_multiple_of(1000) || !admit(&memory, victim, "5/hour", 1, now), "its quota is back");
    }
    assert!(memory.len() <= keys_max);
    let (grown, bytes) = (resident() - before, keys_max as f64 * 192.0);
    println!("{keys:>10} {each:>14.0} {:>13.1} MB {:>15.1} MB", grown as f64 / 1e6, bytes / 1e6);
}

fn admit(memory: &Memory, key: u64, rate: &str, hits: u32, now: Timestamp) -> bool {
    let key = KeyHasher::seeded([7; 16]).part(&key.to_le_bytes()).finish();
    let rate = Rate::parse(rate).unwrap();
    let charge = Charge { key, rate, algorithm: Algorithm::SlidingWindow, mode: Mode::Enforce, hits, is_exact: false };
    memory.admit(&[charge], now, OnError::Deny).admitted
}

/// The bytes of this process that are in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
