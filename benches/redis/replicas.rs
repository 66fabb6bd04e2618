//! How many calls of two replicas need no round trip to the store that they share.

use std::path::Path;

use crate::asked::{Asked, Keys};
use crate::generator::{self, Load, Pace};
use crate::tierflow::{self, Tierflow};
use crate::turns::Turns;

const TENANTS: usize = 1_000;

pub(crate) fn print(folder: &Path, flags: &[&str], turns: &Turns) {
    let asked = Asked { keys: Keys::Zipf(TENANTS), limits: 2 };
    let flags = [flags, &["--counters-prefix=replicas:"]].concat();
    let program = Path::new(env!("CARGO_BIN_EXE_tierflow"));
    let replicas = [(); 2].map(|()| Tierflow::start(program, folder, &flags));
    let addresses = replicas.each_ref().map(|replica| replica.process.address);
    let decisions = || replicas[0].decisions() + replicas[1].decisions();
    let calls = tierflow::calls(asked);
    generator::run_once(addresses[0], &calls.first);
    println!();
    println!("{:<16} {:>8} {:>10} {:>11} {:>7}", "two replicas", "calls/s", "by a lease", "store away", "failed");
    let paces = [1_000, 5_000, 20_000].map(|rate| (format!("{rate} a second"), Pace::PerSecond(rate)));
    for (name, pace) in paces.into_iter().chain([("4 x 32".to_owned(), Pace::InFlight(32))]) {
        let load = Load { pace, ..crate::LOAD };
        // A lease is as long as a second: by then it is known who is asked for often.
        generator::run(&addresses, load, &calls.bodies, 2 * turns.time());
        let before = decisions();
        let time = 5 * turns.time();
        let made = generator::run(&addresses, load, &calls.bodies, time);
        let (by_lease, away) = decisions().shares_since(before);
        let count = made.made() as f64;
        println!(
            "{name:<16} {:>8.0} {:>9.1}% {:>10.1}% {:>6.1}%",
            count / time.as_secs_f64(),
            by_lease * 100.0,
            away * 100.0,
            made.failed as f64 * 100.0 / count,
        );
    }
}
