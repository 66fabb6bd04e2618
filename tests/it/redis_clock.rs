//! The clock of a real Redis jumps: counters go on as if it had not.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;
use tierflow::clock::Clock;
use tierflow::counters::Outcome;
use tierflow::counters::redis::Redis;
use tierflow::limiter::Charge;
use tierflow::limiter::key::KeyHasher;
use tierflow::policy::limit::{Algorithm, Mode};
use tierflow::policy::rate::Rate;

use crate::harness::eventually;
use crate::redis_store::{Server, is_there, opening, settings};

/// A Redis whose clock is off by the seconds in a file.
struct Shifted {
    server: Server,
    shift: PathBuf,
    _folder: TempDir,
}

impl Shifted {
    fn start(shift: i64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/shifted_clock.c");
        let library = folder.path().join("shifted_clock.so");
        let cc = Command::new("cc").args(["-shared", "-fPIC", "-O1", source, "-o"]).arg(&library).status().unwrap();
        assert!(cc.success());
        let file = folder.path().join("shift");
        std::fs::write(&file, shift.to_string()).unwrap();
        let env = [("LD_PRELOAD", &library), ("SHIFTED_CLOCK", &file)];
        let server = Server::start_with(&[], &env.map(|(name, path)| (name.to_owned(), path.display().to_string())));
        Self { server, shift: file, _folder: folder }
    }

    fn jump(&self, seconds: i64) {
        let before: i64 = std::fs::read_to_string(&self.shift).unwrap().parse().unwrap();
        // Not half of it at any time.
        let new = self.shift.with_extension("new");
        std::fs::write(&new, (before + seconds).to_string()).unwrap();
        std::fs::rename(new, &self.shift).unwrap();
    }

    /// What all replicas take off its time.
    async fn skew(&self) -> String {
        let mut connection = self.server.connection().await;
        redis::cmd("GET").arg("tierflow:{0000}skew").query_async(&mut connection).await.unwrap()
    }

    async fn store(&self) -> Arc<Redis> {
        let store = opening(settings(&self.server.url()));
        is_there(&store).await;
        store
    }
}

fn charge(name: &str, rate: &str, algorithm: Algorithm, hits: u32) -> Charge {
    let key = KeyHasher::shared().part(name.as_bytes()).part(rate.as_bytes()).finish();
    Charge { key, rate: Rate::parse(rate).unwrap(), algorithm, mode: Mode::Enforce, hits, is_exact: false }
}

async fn left(store: &Redis, charge: Charge) -> u32 {
    let look = [Charge { hits: 0, ..charge }];
    let told = eventually("the store decides", async || store.admit(&look).await.ok()).await;
    let Outcome::Judged(verdict) = told.outcomes[0] else { panic!("no room") };
    verdict.remaining
}

async fn spend(store: &Redis, charge: Charge) -> u32 {
    assert!(store.admit(&[charge]).await.unwrap().admitted);
    left(store, charge).await
}

#[tokio::test]
async fn a_clock_that_jumps_over_a_window_refunds_nothing() {
    const DAY: u64 = 86_400;
    // Five minutes before midnight, when windows of a day end.
    let now = Clock::start().now().as_secs();
    let server = Shifted::start((DAY - now % DAY) as i64 - 300);
    let store = server.store().await;
    let few = charge("few", "100/d", Algorithm::SlidingWindow, 10);
    let many = charge("many", "100/d", Algorithm::SlidingWindow, 40);
    let fixed = charge("fixed", "100/d", Algorithm::FixedWindow, 10);
    let burst = NonZeroU32::new(100).unwrap();
    let bucket = charge("bucket", "100/d", Algorithm::TokenBucket { burst }, 10);
    for (charge, jump) in [(fixed, 900), (few, 87_100), (many, 87_100), (bucket, 9000)] {
        let before = spend(&store, charge).await;
        assert_eq!(before, 100 - charge.hits);
        let skew = server.skew().await;
        server.jump(jump);
        assert_eq!(left(&store, charge).await, before, "{charge:?} {jump}");
        let is_found = async || (server.skew().await != skew).then_some(());
        eventually("the jump is found", is_found).await;
        assert_eq!(left(&store, charge).await, before, "{charge:?} {jump}");
        // A replica that begins now has seen no jump.
        let second = server.store().await;
        assert_eq!(left(&second, charge).await, before, "{charge:?} {jump}");
        assert_eq!(spend(&second, Charge { hits: 1, ..charge }).await, before - 1);
    }
}

#[tokio::test]
async fn a_clock_that_goes_back_keeps_no_hit_for_longer_than_its_window() {
    let server = Shifted::start(0);
    let store = server.store().await;
    let few = charge("few", "10/s", Algorithm::SlidingWindow, 10);
    let many = charge("many", "40/s", Algorithm::SlidingWindow, 40);
    for (charge, jump) in [(few, -3600), (many, -7200)] {
        assert!(store.admit(&[charge]).await.unwrap().admitted);
        server.jump(jump);
        let free = async || (left(&store, charge).await == charge.rate.limit).then_some(());
        eventually("it is free again", free).await;
    }
}

#[tokio::test]
async fn what_a_store_is_asked_right_before_its_clock_jumps_is_decided_again_soon() {
    let server = Shifted::start(0);
    let store = server.store().await;
    let counter = charge("few", "100/d", Algorithm::SlidingWindow, 1);
    for (jump, spent) in [(5, 1), (-5, 2), (7200, 3), (-86_400, 4)] {
        server.jump(jump);
        let admitted = async || store.admit(&[counter]).await.ok();
        assert!(eventually("it decides", admitted).await.admitted);
        assert_eq!(left(&store, counter).await, 100 - spent, "what was refused as too late was not charged");
    }
}
