//! Where counters are kept, and the one question that they answer: may this request pass?
//!
//! A request is charged to every enforced limit that applies to it, or to none. Limits in shadow are judged
//! and charged as if each stood alone, whatever the others say, and never deny.
//!
//! A store knows keys, cells and time. It knows no policy, and it reads no clock.

pub mod memory;

use smallvec::SmallVec;

pub use crate::limiter::OnNoRoom;
use crate::limiter::Verdict;

/// What a request is told.
#[derive(Clone, Debug)]
pub struct Admission {
    pub admitted: bool,
    /// One for each charge, in the order asked.
    pub outcomes: SmallVec<[Outcome; 4]>,
}

/// What one limit said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// If the hits were counted, the verdict is `allowed` and its numbers are those after the charge. A verdict
    /// of an enforced limit can be `allowed` in a request that another limit denied: then nothing was counted.
    Judged(Verdict),
    /// The limit has room, but the store has none to count in: nothing was counted for this limit.
    NoRoom,
}
