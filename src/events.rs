//! What happens, for whoever follows it: the last events in a ring that all followers read from at their own pace. Nothing is kept
//! for a follower, so that a slow one costs as much as any other: it misses seconds of traffic, and, where the ring has moved
//! on, is told that it missed something.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock::Timestamp;

/// The events that are kept, by their number and by the bytes of their texts.
pub const EVENTS_MAX: usize = 1000;
pub const BYTES_MAX: usize = 4 * 1024 * 1024;

/// An id that no event of this process has: those begin with the time.
const BEFORE_ALL: u64 = 0;

#[derive(Debug)]
pub struct Events {
    ring: Mutex<Ring>,
    /// Wakes followers.
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// The id of the event that came last.
    newest: u64,
    /// That of the last second, with its number.
    traffic: Option<(u64, Arc<Event>)>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    /// `None`: it is of the moment, and nobody asks for it later.
    pub id: Option<u64>,
    pub name: &'static str,
    /// In one line.
    pub data: String,
}

/// A place in the events.
#[derive(Debug)]
pub struct Follower {
    events: Arc<Events>,
    changed: watch::Receiver<()>,
    /// The id of the event that it had last.
    last: u64,
    /// The number of the second that it had last.
    last_second: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Followed {
    Event(Arc<Event>),
    /// Events that it did not have are gone. The next one comes after this id.
    Lost(u64),
}

impl Events {
    /// Ids begin with the time in microseconds: what a client knows from an earlier process is older than all of them. They are
    /// whole numbers that a browser can hold.
    pub fn new(now: Timestamp) -> Self {
        let newest = now.as_nanos() / 1000;
        let ring = Ring { events: VecDeque::new(), bytes: 0, newest, traffic: None };
        Self { ring: Mutex::new(ring), changed: watch::Sender::default() }
    }

    pub fn publish(&self, name: &'static str, data: String) {
        self.ring.lock().push(name, data);
        self.changed.send_replace(());
    }

    /// The event of a second, in the place of the one before.
    pub fn publish_traffic(&self, data: String) {
        let mut ring = self.ring.lock();
        let number = ring.traffic.as_ref().map_or(1, |(number, _)| number + 1);
        ring.traffic = Some((number, Arc::new(Event { id: None, name: "traffic", data })));
        drop(ring);
        self.changed.send_replace(());
    }

    /// Follows from after the event with this id; 0: from the oldest that is kept; `None`: from now on. Who has one that was never
    /// given has it from another process, and nobody knows what it missed.
    pub fn follow(self: &Arc<Self>, after: Option<u64>) -> Follower {
        let ring = self.ring.lock();
        let last = match after {
            Some(0) => ring.before_oldest(),
            Some(after) if after > ring.newest => BEFORE_ALL,
            Some(after) => after,
            None => ring.newest,
        };
        let last_second = ring.traffic.as_ref().map_or(0, |(number, _)| *number);
        Follower { events: Arc::clone(self), changed: self.changed.subscribe(), last, last_second }
    }
}

impl Ring {
    fn push(&mut self, name: &'static str, data: String) {
        self.newest += 1;
        self.bytes += data.len();
        self.events.push_back(Arc::new(Event { id: Some(self.newest), name, data }));
        while self.events.len() > EVENTS_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.events.pop_front() else { return };
            self.bytes -= oldest.data.len();
        }
    }

    /// The id of the event before the oldest.
    fn before_oldest(&self) -> u64 {
        self.newest - self.events.len() as u64
    }

    /// The oldest event that comes after an id.
    fn after(&self, id: u64) -> Option<Followed> {
        if id >= self.newest {
            return None;
        }
        let before_oldest = self.before_oldest();
        if id < before_oldest {
            return Some(Followed::Lost(before_oldest));
        }
        let event = usize::try_from(id - before_oldest).ok().and_then(|index| self.events.get(index));
        event.map(|event| Followed::Event(Arc::clone(event)))
    }
}

impl Follower {
    /// Waits for what comes next.
    pub async fn next(&mut self) -> Followed {
        loop {
            self.changed.mark_unchanged();
            if let Some(followed) = self.take() {
                return followed;
            }
            if self.changed.changed().await.is_err() {
                // Nothing will happen any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// What comes next, if it is there. Traffic comes after all else.
    fn take(&mut self) -> Option<Followed> {
        let ring = self.events.ring.lock();
        if let Some(followed) = ring.after(self.last) {
            self.last = match &followed {
                Followed::Event(event) => event.id.unwrap_or(self.last),
                Followed::Lost(last) => *last,
            };
            return Some(followed);
        }
        let (number, event) = ring.traffic.as_ref()?;
        if *number == self.last_second {
            return None;
        }
        self.last_second = *number;
        Some(Followed::Event(Arc::clone(event)))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const FIRST: u64 = 1_700_000_000_000_000;

    fn events() -> Arc<Events> {
        Arc::new(Events::new(Timestamp::from_nanos(FIRST * 1000)))
    }

    /// All that is there, as `id name data`.
    fn told(follower: &mut Follower) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(followed) = follower.next().now_or_never() {
            told.push(match followed {
                Followed::Lost(id) => format!("lost up to {}", id - FIRST),
                Followed::Event(event) => match event.id {
                    Some(id) => format!("{} {} {}", id - FIRST, event.name, event.data),
                    None => format!("{} {}", event.name, event.data),
                },
            });
        }
        told
    }

    #[test]
    fn who_follows_has_each_event_once_and_from_where_it_left_off() {
        let events = events();
        events.publish("node", "a".to_owned());
        let mut follower = events.follow(None);
        assert_eq!(told(&mut follower), [""; 0], "what was before is not told");
        events.publish("node", "b".to_owned());
        events.publish("change", "c".to_owned());
        assert_eq!(told(&mut follower), ["2 node b", "3 change c"]);
        assert_eq!(told(&mut follower), [""; 0]);
        assert_eq!(told(&mut events.follow(Some(FIRST + 1))), ["2 node b", "3 change c"]);
        assert_eq!(told(&mut events.follow(Some(FIRST + 3))), [""; 0]);
        assert_eq!(told(&mut events.follow(Some(0))), ["1 node a", "2 node b", "3 change c"]);
    }

    #[test]
    fn who_comes_back_from_an_earlier_process_is_told_that_it_missed_something() {
        let events = events();
        assert_eq!(told(&mut events.follow(Some(7))), ["lost up to 0"]);
        events.publish("node", "a".to_owned());
        assert_eq!(told(&mut events.follow(Some(7))), ["lost up to 0", "1 node a"]);
    }

    /// Of a replica that started later, or of one whose clock was ahead before it started again.
    #[test]
    fn who_comes_back_with_an_id_that_was_never_given_is_told_that_it_missed_something() {
        let events = events();
        events.publish("node", "a".to_owned());
        for never_given in [FIRST + 2, FIRST + 3_600_000_000, u64::MAX] {
            let mut follower = events.follow(Some(never_given));
            assert_eq!(told(&mut follower), ["lost up to 0", "1 node a"], "{never_given}");
            assert_eq!(told(&mut follower), [""; 0], "once");
        }
        let mut follower = events.follow(Some(FIRST + 2));
        events.publish("node", "b".to_owned());
        assert_eq!(told(&mut follower), ["lost up to 0", "1 node a", "2 node b"], "be it given by then");
    }

    #[test]
    fn a_slow_follower_misses_seconds_first_and_is_told_when_it_misses_more() {
        let events = events();
        let mut follower = events.follow(None);
        for second in 0..5 {
            events.publish("node", second.to_string());
            events.publish_traffic(second.to_string());
        }
        assert_eq!(told(&mut follower), ["1 node 0", "2 node 1", "3 node 2", "4 node 3", "5 node 4", "traffic 4"]);
        (0..EVENTS_MAX + 10).for_each(|number| events.publish("node", number.to_string()));
        let told = told(&mut follower);
        assert_eq!((told.len(), &*told[0], &*told[1]), (EVENTS_MAX + 1, "lost up to 15", "16 node 10"));
    }

    #[test]
    fn the_ring_has_a_bound_in_bytes_too() {
        let events = events();
        let large = "x".repeat(BYTES_MAX / 10);
        (0..100).for_each(|_| events.publish("refused", large.clone()));
        let ring = events.ring.lock();
        assert_eq!((ring.events.len(), ring.bytes), (10, 10 * large.len()));
        drop(ring);
        events.publish("refused", "x".repeat(2 * BYTES_MAX));
        assert_eq!(events.ring.lock().bytes, 0, "it is larger than all of it");
        assert_eq!(told(&mut events.follow(Some(FIRST))).len(), 1, "and lost to everybody");
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let events = events();
        let mut follower = events.follow(None);
        let waiting = tokio::spawn(async move { follower.next().await });
        tokio::task::yield_now().await;
        events.publish_traffic("1".to_owned());
        assert!(matches!(waiting.await.unwrap(), Followed::Event(event) if event.data == "1"));
    }
}
