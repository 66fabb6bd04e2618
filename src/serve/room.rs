//! Room for one connection more. Where all places are taken, one that does nothing leaves at once: whoever only connects
//! would keep a probe from being answered, and that is how they would have a process killed that is well.
//!
//! First those go that have not asked for anything yet, the oldest of them first, however much of a question they have sent.
//! Then those go whose calls have all been answered. With a call under way nobody goes.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{AcquireError, Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::activity::Activity;
use crate::crowding::Crowding;

/// The time that one has to leave before another is told to, and between two looks where nobody can.
const LEAVING_MAX: Duration = Duration::from_millis(100);

pub(super) struct Room {
    places: usize,
    crowding: Arc<Crowding>,
    permits: Arc<Semaphore>,
    /// Those that had not asked for anything when they were last looked at, from the oldest.
    newcomers: VecDeque<Guest>,
    /// The others, from the one that was looked at the longest ago.
    others: VecDeque<Guest>,
}

/// A connection, as who looks for room has it.
#[derive(Clone, Default)]
struct Guest {
    activity: Arc<Activity>,
    leave: Arc<Notify>,
}

/// The place of a connection, for as long as it is open.
pub(super) struct Place {
    guest: Guest,
    crowding: Arc<Crowding>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.guest.activity
    }

    /// Comes when it is to make room. A call that came meanwhile is answered.
    pub(super) async fn wanted(&self) {
        loop {
            self.guest.leave.notified().await;
            if self.guest.activity.is_idle() {
                self.crowding.sent_away();
                return;
            }
        }
    }
}

impl Guest {
    fn is_here(&self) -> bool {
        Arc::strong_count(&self.leave) > 1
    }
}

impl Room {
    pub(super) fn new(places: usize, crowding: Arc<Crowding>) -> Self {
        let permits = Arc::new(Semaphore::new(places));
        Self { places, crowding, permits, newcomers: VecDeque::new(), others: VecDeque::new() }
    }

    /// Waits for a place, which there is soon as long as somebody can leave.
    pub(super) async fn take(&mut self) -> Result<Place, AcquireError> {
        let permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.make().await?,
        };
        let guest = Guest::default();
        if self.newcomers.len() + self.others.len() >= 2 * self.places {
            self.newcomers.retain(Guest::is_here);
            self.others.retain(Guest::is_here);
        }
        self.newcomers.push_back(guest.clone());
        Ok(Place { guest, crowding: Arc::clone(&self.crowding), _permit: permit })
    }

    async fn make(&mut self) -> Result<OwnedSemaphorePermit, AcquireError> {
        let mut free = pin!(Arc::clone(&self.permits).acquire_owned());
        loop {
            self.crowding.is_full(self.places);
            if let Some(next) = self.next() {
                next.leave.notify_one();
            }
            if let Ok(permit) = timeout(LEAVING_MAX, &mut free).await {
                return permit;
            }
        }
    }

    /// Who is to leave next.
    fn next(&mut self) -> Option<Guest> {
        while let Some(oldest) = self.newcomers.pop_front() {
            if !oldest.is_here() {
                continue;
            }
            if oldest.activity.is_new() {
                // It needs a moment to leave.
                self.newcomers.push_back(oldest.clone());
                return Some(oldest);
            }
            self.others.push_back(oldest);
        }
        self.others.retain(Guest::is_here);
        // By the second time each has been looked at once.
        for _ in 0..2 * self.others.len() {
            let other = self.others.pop_front()?;
            self.others.push_back(other.clone());
            if other.activity.stays_idle() {
                return Some(other);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::clock::Clock;
    use crate::metrics::Metrics;
    use crate::serve::activity::UnderWay;

    fn room(places: usize) -> Room {
        let [port, ..] = Crowding::of_ports(&Metrics::default(), Clock::start());
        Room::new(places, port)
    }

    /// A connection as its task has it: it goes when its place is wanted.
    struct Connection {
        activity: Arc<Activity>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Connection {
        fn begin(&self) -> UnderWay {
            self.activity.begin()
        }

        fn is_open(&self) -> bool {
            !self.task.is_finished()
        }
    }

    /// One that comes, and has a place at once: by a paused clock no time passes.
    async fn come(room: &mut Room) -> Connection {
        let started = Instant::now();
        let place = room.take().await.unwrap();
        assert_eq!(started.elapsed(), Duration::ZERO, "it waited");
        let activity = Arc::clone(place.activity());
        // Its end is seen before the one that takes its place goes on.
        let task = tokio::spawn(async move { place.wanted().await });
        tokio::task::yield_now().await;
        Connection { activity, task }
    }

    async fn full<const N: usize>() -> (Room, [Connection; N]) {
        let mut room = room(N);
        let mut connections = Vec::new();
        for _ in 0..N {
            connections.push(come(&mut room).await);
        }
        (room, connections.try_into().ok().unwrap())
    }

    fn open<const N: usize>(connections: &[Connection; N]) -> [bool; N] {
        connections.each_ref().map(Connection::is_open)
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_places_are_taken_the_oldest_that_asks_for_nothing_makes_room_at_once() {
        let (mut room, connections) = full::<3>().await;
        drop(connections[0].begin());
        let newest = come(&mut room).await;
        assert_eq!(open(&connections), [true, false, true]);
        newest.task.abort();
        let _ = newest.task.await;
        come(&mut room).await;
        assert_eq!(open(&connections), [true, false, true], "as long as there is a place nobody has to go");
        come(&mut room).await;
        assert_eq!(open(&connections), [true, false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_got_all_answers_goes_after_those_that_never_asked_and_before_those_that_wait_for_one() {
        let (mut room, connections) = full::<4>().await;
        let _waits = [connections[0].begin(), connections[3].begin()];
        drop(connections[1].begin());
        let newest = come(&mut room).await;
        assert_eq!(open(&connections), [true, true, false, true]);
        let _newest_waits = newest.begin();
        let newest = come(&mut room).await;
        assert_eq!(open(&connections), [true, false, false, true]);
        let _newest_waits = newest.begin();
        timeout(Duration::from_secs(3600), room.take()).await.map(drop).expect_err("nobody can leave");
        assert_eq!(open(&connections), [true, false, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_now_and_then_stays_longer_than_who_asked_once() {
        let (mut room, connections) = full::<3>().await;
        drop(connections.each_ref().map(Connection::begin));
        drop(come(&mut room).await.begin());
        assert_eq!(open(&connections), [false, true, true]);
        drop(connections[1].begin());
        come(&mut room).await;
        assert_eq!(open(&connections), [false, true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_gets_a_place_as_soon_as_a_call_is_answered_where_all_were_under_way() {
        let (mut room, connections) = full::<2>().await;
        let [first, _second] = connections.each_ref().map(Connection::begin);
        timeout(LEAVING_MAX * 10, room.take()).await.map(drop).expect_err("nobody can leave");
        drop(first);
        timeout(LEAVING_MAX * 2, room.take()).await.expect("one left").map(drop).unwrap();
        assert_eq!(open(&connections), [false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_comes_when_its_connection_is_told_to_leave_is_answered() {
        let (mut room, connections) = full::<1>().await;
        let [one] = &connections;
        drop(one.begin());
        let mut taking = std::pin::pin!(room.take());
        assert!(futures_util::poll!(&mut taking).is_pending());
        let call = one.begin();
        timeout(LEAVING_MAX * 10, &mut taking).await.map(drop).expect_err("it has a call under way");
        drop(call);
        timeout(LEAVING_MAX * 3, taking).await.expect("it left").map(drop).unwrap();
        assert!(!one.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn of_connections_that_are_gone_nothing_is_kept() {
        let mut room = room(4);
        for _ in 0..1000 {
            drop(room.take().await.unwrap());
        }
        assert!(room.newcomers.len() + room.others.len() <= 2 * 4);
    }
}
