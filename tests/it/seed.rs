//! What makes a random test the same test again.

use std::io::Write as _;

/// Tells after a failure how to throw the same dice again.
pub(crate) struct Seed {
    variable: &'static str,
    pub(crate) number: u64,
}

impl Seed {
    /// Another one each time, unless the environment asks for one.
    pub(crate) fn of(variable: &'static str) -> Self {
        let wanted = std::env::var(variable).ok();
        Self { variable, number: wanted.map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap()) }
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Nobody is left to be told that it cannot be told.
            let _ = writeln!(std::io::stderr(), "failed with {}={}", self.variable, self.number);
        }
    }
}
