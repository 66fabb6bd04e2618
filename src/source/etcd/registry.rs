//! Instances that registered themselves, and which of them may take traffic. Pure.
//!
//! An instance that leaves is gone at once. One that comes and goes is delayed when it comes again, longer each time:
//! each of its comings would send its share of the traffic to something that is about to go.
//!
//! When etcd could not be reached, its instances may not have reached it either: their leases ran out, and yet they are
//! well. Those that are missing after that get some time to register again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Deserialize;

use crate::clock::Timestamp;
use crate::document::Instance;
use crate::shown;

/// Time that a departure is remembered.
const MEMORY_NANOS: u64 = 60_000_000_000;
/// Departures within that time that nobody minds: a restart, and another one because the first was not enough.
const DEPARTURES_FREE: usize = 2;
/// Delay of an instance after one more, doubled with each.
const BACKOFF_NANOS: u64 = 2_000_000_000;
const BACKOFF_NANOS_MAX: u64 = 60_000_000_000;
/// Time that an instance which is missing after an outage is waited for.
const GRACE_NANOS: u64 = 10_000_000_000;
/// The most instances whose departures are remembered; beyond it the others are.
const REMEMBERED_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Registry {
    registered: BTreeMap<Name, Registration>,
    departures: HashMap<Name, VecDeque<Timestamp>>,
}

/// Service and instance.
type Name = (Arc<str>, Arc<str>);

#[derive(Debug)]
struct Registration {
    instance: Result<Instance, String>,
    revision: u64,
    ready_at: Timestamp,
    /// The end of the wait for an instance that is not in etcd any more.
    missing_until: Option<Timestamp>,
}

/// An instance's value, where it says more than an address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Long {
    address: SocketAddr,
    weight: Option<u32>,
    zone: Option<String>,
}

impl Registry {
    pub(super) fn put(&mut self, service: &Arc<str>, name: &Arc<str>, value: &[u8], revision: u64, now: Timestamp) {
        let name = (Arc::clone(service), Arc::clone(name));
        // One that is there and changes is not coming.
        let ready_at = self.registered.get(&name).map(|known| known.ready_at);
        let ready_at = ready_at.unwrap_or_else(|| now.plus_nanos(self.backoff(&name, now)));
        let registered = Registration { instance: parse(value), revision, ready_at, missing_until: None };
        self.registered.insert(name, registered);
    }

    /// False if it was not there.
    pub(super) fn remove(&mut self, service: &Arc<str>, name: &Arc<str>, now: Timestamp) -> bool {
        let name = (Arc::clone(service), Arc::clone(name));
        let was_there = self.registered.remove(&name).is_some();
        if was_there {
            self.departures.retain(|_, departures| departures.back().is_some_and(|last| is_remembered(*last, now)));
            if self.departures.len() < REMEMBERED_MAX || self.departures.contains_key(&name) {
                let departures = self.departures.entry(name).or_default();
                departures.push_back(now);
                // More of them would make no difference.
                departures.drain(..departures.len().saturating_sub(16));
            }
        }
        was_there
    }

    /// Waits for an instance that was not there any more when etcd could be reached again.
    pub(super) fn miss(&mut self, service: &Arc<str>, name: &Arc<str>, now: Timestamp) {
        if let Some(registered) = self.registered.get_mut(&(Arc::clone(service), Arc::clone(name))) {
            registered.missing_until = registered.missing_until.or(Some(now.plus_nanos(GRACE_NANOS)));
        }
    }

    /// The instances that may take traffic, in the order of their names.
    pub(super) fn ready(&mut self, now: Timestamp) -> BTreeMap<Arc<str>, Vec<Instance>> {
        let is_over = |registered: &Registration| registered.missing_until.is_some_and(|until| until <= now);
        let over = self.registered.iter().filter(|(_, registered)| is_over(registered)).map(|(name, _)| name.clone());
        for (service, name) in over.collect::<Vec<_>>() {
            self.remove(&service, &name, now);
        }
        let mut ready = BTreeMap::<_, Vec<_>>::new();
        for ((service, _), registered) in self.registered.iter().filter(|(_, registered)| registered.ready_at <= now) {
            if let Ok(instance) = &registered.instance {
                ready.entry(Arc::clone(service)).or_default().push(instance.clone());
            }
        }
        ready
    }

    /// The next time that a delayed instance may take traffic, or that a missing one is given up.
    pub(super) fn next_ready(&self, now: Timestamp) -> Option<Timestamp> {
        let times = self.registered.values().flat_map(|one| [Some(one.ready_at), one.missing_until]);
        times.flatten().filter(|at| *at > now).min()
    }

    pub(super) fn revision(&self, service: &Arc<str>, name: &Arc<str>) -> Option<u64> {
        let registered = self.registered.get(&(Arc::clone(service), Arc::clone(name)));
        registered.filter(|one| one.missing_until.is_none()).map(|one| one.revision)
    }

    /// The instances that are in etcd.
    pub(super) fn names(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        let there = self.registered.iter().filter(|(_, registered)| registered.missing_until.is_none());
        there.map(|((service, name), _)| (service, name))
    }

    /// The instances whose values make no sense, and why.
    pub(super) fn strange(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.registered.iter().filter_map(|((service, name), registered)| {
            Some((&**service, &**name, registered.instance.as_ref().err()?.as_str()))
        })
    }

    fn backoff(&self, name: &Name, now: Timestamp) -> u64 {
        let departures = self.departures.get(name).into_iter().flatten();
        let departures = departures.filter(|left| is_remembered(**left, now)).count();
        match departures.checked_sub(DEPARTURES_FREE + 1) {
            Some(more) => (BACKOFF_NANOS << more.min(16)).min(BACKOFF_NANOS_MAX),
            None => 0,
        }
    }
}

fn is_remembered(left: Timestamp, now: Timestamp) -> bool {
    now.nanos_since(left) < MEMORY_NANOS
}

fn parse(value: &[u8]) -> Result<Instance, String> {
    let text = String::from_utf8_lossy(value);
    let text = text.trim();
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Instance { address, weight: 1, zone: None });
    }
    let long: Result<Long, _> = serde_json::from_str(text);
    let long = long.map_err(|error| {
        let what = "expected an IP address and port, as in 10.0.0.7:8080, or JSON with address, weight and zone";
        if text.starts_with('{') { format!("{error}; {what}") } else { format!("found {}, {what}", shown::value(text)) }
    })?;
    let weight = long.weight.unwrap_or(1);
    if !(1..=1000).contains(&weight) {
        return Err(format!("found the weight {weight}, expected 1 to 1000"));
    }
    Ok(Instance { address: long.address, weight, zone: long.zone })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(1_000_000_000_000).plus_nanos(seconds * 1_000_000_000)
    }

    fn name(text: &str) -> Arc<str> {
        text.into()
    }

    fn ready(registry: &mut Registry, seconds: u64) -> usize {
        registry.ready(at(seconds)).get("order").map_or(0, Vec::len)
    }

    #[test]
    fn an_instance_takes_traffic_at_once_and_leaves_at_once() {
        let mut registry = Registry::default();
        registry.put(&name("order"), &name("a"), b"10.0.0.7:80", 1, at(0));
        registry.put(&name("order"), &name("b"), b"10.0.0.8:80\n", 2, at(0));
        assert_eq!(ready(&mut registry, 0), 2);
        assert!(registry.remove(&name("order"), &name("a"), at(1)));
        assert!(!registry.remove(&name("order"), &name("a"), at(1)));
        assert_eq!(ready(&mut registry, 1), 1);
    }

    #[test]
    fn one_that_comes_and_goes_is_delayed_longer_each_time() {
        let mut registry = Registry::default();
        let mut come_and_tell = |seconds| {
            registry.put(&name("order"), &name("a"), b"10.0.0.7:80", 1, at(seconds));
            let next = registry.next_ready(at(seconds)).map_or(0, |at_| at_.nanos_since(at(seconds)) / 1_000_000_000);
            registry.remove(&name("order"), &name("a"), at(seconds));
            next
        };
        let delays: Vec<_> = (0..9).map(&mut come_and_tell).collect();
        assert_eq!(delays, [0, 0, 0, 2, 4, 8, 16, 32, 60]);
        assert_eq!(come_and_tell(100), 0, "it was quiet for a while");
    }

    #[test]
    fn one_that_is_missing_after_an_outage_is_waited_for() {
        let mut registry = Registry::default();
        for instance in ["a", "b"] {
            registry.put(&name("order"), &name(instance), b"10.0.0.7:80", 1, at(0));
            registry.miss(&name("order"), &name(instance), at(5));
        }
        assert_eq!((ready(&mut registry, 5), registry.names().count()), (2, 0));
        assert_eq!(registry.next_ready(at(5)), Some(at(15)));
        registry.put(&name("order"), &name("a"), b"10.0.0.7:80", 2, at(6));
        assert_eq!((ready(&mut registry, 14), registry.names().count()), (2, 1));
        assert_eq!((ready(&mut registry, 15), registry.next_ready(at(15))), (1, None));
    }

    #[test]
    fn a_change_is_no_coming() {
        let mut registry = Registry::default();
        for second in 0..10 {
            registry.put(&name("order"), &name("a"), b"10.0.0.7:80", second, at(second));
        }
        assert_eq!((ready(&mut registry, 10), registry.revision(&name("order"), &name("a"))), (1, Some(9)));
    }

    #[test]
    fn an_instance_may_say_its_weight_and_zone_and_nonsense_is_told() {
        let instance = parse(br#"{"address": "[::1]:80", "weight": 7, "zone": "a"}"#).unwrap();
        let address = "[::1]:80".parse().unwrap();
        assert_eq!(instance, Instance { address, weight: 7, zone: Some("a".to_owned()) });
        for bad in
            ["", "order.internal:80", "10.0.0.7", r#"{"address": "10.0.0.7:80", "weight": 0}"#, r#"{"adress": 1}"#]
        {
            assert!(parse(bad.as_bytes()).unwrap_err().contains("expected"), "{bad}");
        }
    }
}
