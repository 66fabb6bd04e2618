//! How many streams there may be, and how quickly they may come.
//!
//! When a thousand Envoys reconnect at once, each costs a comparison of all it has. They are let in one after the other
//! at a steady rate; those who would have to wait for too long are told to come back (xDS rule 93).

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::clock::{Clock, Timestamp};

/// The longest that a stream waits to be let in.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Bounds of open and of new streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Streams at the same time.
    pub streams_max: usize,
    /// New streams in a second, at a steady rate. Half a second's worth may come at once.
    pub streams_per_second: u32,
}

/// Lets streams in.
#[derive(Debug)]
pub struct Admission {
    limits: AdmissionLimits,
    clock: Clock,
    places: Arc<Semaphore>,
    line: Mutex<Line>,
}

/// A stream's place. It is free again once this is dropped.
pub(super) type Place = OwnedSemaphorePermit;

/// Whoever comes takes the next place of a line that moves on at a steady rate.
#[derive(Debug, Default)]
struct Line {
    /// The time at which the next one would be let in if nobody was ever let in early.
    next: Timestamp,
}

impl Line {
    /// The newcomer's wait. `None`: too long, and it has taken no place.
    fn join(&mut self, now: Timestamp, interval: Duration, burst: Duration) -> Option<Duration> {
        let next = self.next.max(now);
        let wait = next.since(now).saturating_sub(burst);
        (wait <= WAIT_MAX).then(|| {
            self.next = next + interval;
            wait
        })
    }
}

impl Admission {
    pub fn new(limits: AdmissionLimits, clock: Clock) -> Self {
        Self { limits, clock, places: Arc::new(Semaphore::new(limits.streams_max)), line: Mutex::default() }
    }

    pub(super) async fn admit(&self) -> Result<Place, Status> {
        let AdmissionLimits { streams_max, streams_per_second } = self.limits;
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{streams_max} streams are open, which is as many as there may be"))
        })?;
        let interval = Duration::from_secs(1) / streams_per_second.max(1);
        let wait = self.line.lock().join(self.clock.now(), interval, Duration::from_millis(500)).ok_or_else(|| {
            Status::resource_exhausted(format!("{streams_per_second} streams a second are let in; come back later"))
        })?;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_let_in_at_once_and_the_rest_one_by_one() {
        let mut line = Line::default();
        let now = Timestamp::from_nanos(1_000_000_000_000);
        let ms = Duration::from_millis;
        let waits: Vec<_> = (0..54).map(|_| line.join(now, ms(10), ms(500)).unwrap()).collect();
        assert!(waits[..51].iter().all(Duration::is_zero));
        assert_eq!(waits[51..], [ms(10), ms(20), ms(30)]);
        assert_eq!(line.join(now + ms(1000), ms(10), ms(500)), Some(Duration::ZERO));
    }

    #[test]
    fn whoever_would_wait_too_long_takes_no_place() {
        let mut line = Line::default();
        let now = Timestamp::from_nanos(1_000_000_000_000);
        let second = Duration::from_secs(1);
        let admitted = (0..100).filter(|_| line.join(now, second, Duration::ZERO).is_some()).count();
        assert_eq!(admitted, 6);
        assert_eq!(line.join(now + second, second, Duration::ZERO), Some(WAIT_MAX));
    }
}
