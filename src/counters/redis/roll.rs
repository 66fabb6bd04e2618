//! The roll of the replicas that share the counters, which is kept in the store: how many there are, and which one this
//! is.
//!
//! Each replica is there about every second; who was not for five is gone. What was said last holds on while the store is
//! away.
//!
//! | answer | bytes |
//! |---|---|
//! | the store's time | f64 |
//! | rank, number of replicas | u32 each |
//! | time from which all replicas ask the store again | f64 |

use std::num::NonZeroU32;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use redis::{Cmd, Script};

use crate::clock::Timestamp;
use crate::limiter::peers::Peers;

pub(super) const TEXT: &str = include_str!("roll.lua");

/// The name that Redis gives the script.
pub(super) fn hash() -> &'static str {
    static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(TEXT));
    SCRIPT.get_hash()
}

const NANOS_PER_MICRO: u64 = 1000;

/// The roll's key.
pub(super) fn key(prefix: &str) -> String {
    format!("{prefix}replicas")
}

/// The reason to go there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    Stay,
    /// After it decided by itself, as others may have, too.
    Return,
    Leave,
}

/// What is told there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Entry {
    /// The store's time.
    pub(super) at: Timestamp,
    pub(super) peers: Peers,
    /// On the store's clock. A time that has passed asks nobody to wait.
    pub(super) asks_from: Timestamp,
}

impl Entry {
    /// By the counters' time, where the store's clock has a skew.
    pub(super) fn less(self, skew: i64) -> Self {
        let nanos = skew.saturating_mul(1000).saturating_neg();
        let less = |at: Timestamp| Timestamp::from_nanos(at.as_nanos().saturating_add_signed(nanos));
        Self { at: less(self.at), asks_from: less(self.asks_from), ..self }
    }
}

#[derive(Debug)]
pub(super) struct Roll {
    /// A random name for this process.
    id: String,
    /// The rank, then the count.
    peers: AtomicU64,
    is_met: AtomicBool,
    /// The store's clock less ours, in nanoseconds: less than that by no more than the answer took.
    ahead: AtomicI64,
}

impl Roll {
    pub(super) fn new() -> Self {
        let id = format!("{:032x}", fastrand::u128(..));
        Self { id, peers: AtomicU64::new(1), is_met: AtomicBool::new(false), ahead: AtomicI64::new(0) }
    }

    pub(super) fn command(&self, verb: &'static str, script: &str, key: &str, errand: Errand) -> Cmd {
        let errand = match errand {
            Errand::Stay => "stay",
            Errand::Return => "return",
            Errand::Leave => "leave",
        };
        let mut command = redis::cmd(verb);
        command.arg(script).arg(1).arg(key).arg(&self.id).arg(errand);
        command
    }

    /// Takes down what was told at this time on our clock.
    pub(super) fn note(&self, entry: &Entry, now: Timestamp) {
        let Peers { rank, count } = entry.peers;
        self.peers.store(u64::from(rank) << 32 | u64::from(count.get()), Ordering::Relaxed);
        self.ahead.store(entry.at.as_nanos().wrapping_sub(now.as_nanos()).cast_signed(), Ordering::Relaxed);
        self.is_met.store(true, Ordering::Relaxed);
    }

    /// As it was when the store was last there; alone before it ever was.
    pub(super) fn peers(&self) -> Peers {
        let peers = self.peers.load(Ordering::Relaxed);
        let count = NonZeroU32::new(peers as u32).unwrap_or(NonZeroU32::MIN);
        Peers { rank: (peers >> 32) as u32, count }
    }

    pub(super) fn is_met(&self) -> bool {
        self.is_met.load(Ordering::Relaxed)
    }

    /// The time on the store's clock, as far as is known.
    pub(super) fn at_store(&self, now: Timestamp) -> Timestamp {
        Timestamp::from_nanos(now.as_nanos().saturating_add_signed(self.ahead.load(Ordering::Relaxed)))
    }
}

/// Reads the script's answer. None where it is none of this script.
pub(super) fn read(answer: &[u8]) -> Option<Entry> {
    let (at, rest) = answer.split_first_chunk()?;
    let (rank, rest) = rest.split_first_chunk()?;
    let (count, rest) = rest.split_first_chunk()?;
    let peers = Peers { rank: u32::from_le_bytes(*rank), count: NonZeroU32::new(u32::from_le_bytes(*count))? };
    Some(Entry { at: time(*at), peers, asks_from: time(rest.try_into().ok()?) })
}

fn time(micros: [u8; 8]) -> Timestamp {
    Timestamp::from_nanos((f64::from_le_bytes(micros) as u64).saturating_mul(NANOS_PER_MICRO))
}
