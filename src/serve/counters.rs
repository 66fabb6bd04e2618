//! The store of counters that the configuration asks for.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::sweep;
use crate::clock::Clock;
use crate::config::CountersConfig;
use crate::counters::Counters;
use crate::counters::memory::{Memory, MemoryLimits};
use crate::counters::redis::Redis;
use crate::limiter::key::KeyHasher;
use crate::metrics::Metrics;

/// The store, and the hasher of its keys: one that replicas agree on without a word, where they share the store.
pub(super) fn open(config: &CountersConfig, clock: Clock, metrics: &Arc<Metrics>) -> (Counters, KeyHasher) {
    match config {
        CountersConfig::Memory { keys_max } => {
            let memory = Memory::new(MemoryLimits { keys_max: *keys_max });
            (Counters::Memory(Arc::new(memory)), KeyHasher::seeded(random_seed()))
        }
        CountersConfig::Redis(settings) => {
            let redis = Redis::new(Arc::clone(settings), clock, Arc::clone(metrics));
            (Counters::Redis(Arc::new(redis)), KeyHasher::shared())
        }
    }
}

/// Sweeps counters in memory, and keeps the connections to a shared store open.
pub(super) async fn keep(counters: Counters, clock: Clock, shutdown: CancellationToken) -> Result<(), String> {
    match counters {
        Counters::Memory(memory) => {
            let sweep = || _ = memory.sweep(clock.now());
            sweep::sweep(|| memory.sweeps_per_round(), sweep, shutdown).await;
        }
        Counters::Redis(redis) => {
            let sweeps = sweep::sweep(|| redis.sweeps_per_round(), || redis.sweep(), shutdown.clone());
            tokio::join!(redis.keep(shutdown), sweeps);
        }
        #[cfg(test)]
        Counters::Away => {}
    }
    Ok(())
}

/// From the randomness that the standard library seeds its hash maps with.
fn random_seed() -> [u8; 16] {
    use std::hash::{BuildHasher, RandomState};
    let random = || RandomState::new().hash_one(0).to_le_bytes();
    let mut seed = [0; 16];
    seed.iter_mut().zip(random().into_iter().chain(random())).for_each(|(seed, random)| *seed = random);
    seed
}
