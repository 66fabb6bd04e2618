//! The rate limit services of all replicas: those that Envoys ask for decisions. Pure.
//!
//! A fleet that restarts comes and goes, one by one, at the same addresses. One that is gone is kept for a moment, for its
//! return; Envoys find out by themselves that it does not answer, long before. One that comes waits for others that come
//! with it. Where all are gone the last ones stay: nobody to ask is worse than somebody who may be back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::clock::Timestamp;

/// The time that one which comes waits for others.
const COMING_NANOS: u64 = 1_000_000_000;
/// The time that one which is gone is kept.
const GOING_NANOS: u64 = 5_000_000_000;

#[derive(Debug, Default)]
pub(super) struct Fleet {
    members: BTreeMap<Arc<str>, Standing>,
    /// The addresses that were handed over last.
    addresses: Arc<[Arc<str>]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// A member from this time on.
    Coming(Timestamp),
    There,
    /// No member any more from this time on.
    Going(Timestamp),
}

impl Fleet {
    /// Takes the addresses that replicas announce now.
    pub(super) fn take<'a>(&mut self, announced: impl Iterator<Item = &'a str>, now: Timestamp) {
        let announced: BTreeSet<&str> = announced.collect();
        // The first are waited for by everybody.
        let is_first = self.members.is_empty();
        for address in &announced {
            match self.members.get_mut(*address) {
                Some(Standing::Coming(_) | Standing::There) => {}
                Some(going) => *going = Standing::There,
                None => {
                    let standing =
                        if is_first { Standing::There } else { Standing::Coming(now.plus_nanos(COMING_NANOS)) };
                    self.members.insert((*address).into(), standing);
                }
            }
        }
        self.members.retain(|address, standing| {
            let is_announced = announced.contains(&**address);
            match standing {
                Standing::Coming(_) => return is_announced,
                Standing::There if !is_announced => *standing = Standing::Going(now.plus_nanos(GOING_NANOS)),
                Standing::There | Standing::Going(_) => {}
            }
            true
        });
    }

    /// The addresses of the members, in their order.
    pub(super) fn addresses(&self) -> &Arc<[Arc<str>]> {
        &self.addresses
    }

    /// Lets those whose time has come be members, or no members any more. True if the addresses are others than before.
    pub(super) fn refresh(&mut self, now: Timestamp) -> bool {
        for standing in self.members.values_mut() {
            if matches!(standing, Standing::Coming(at) if *at <= now) {
                *standing = Standing::There;
            }
        }
        if self.members.values().any(|standing| *standing == Standing::There) {
            self.members.retain(|_, standing| !matches!(standing, Standing::Going(at) if *at <= now));
        }
        let members = self.members.iter().filter(|(_, standing)| !matches!(standing, Standing::Coming(_)));
        let addresses: Arc<[Arc<str>]> = members.map(|(address, _)| Arc::clone(address)).collect();
        let is_changed = addresses != self.addresses;
        self.addresses = addresses;
        is_changed
    }

    /// The next time that a member comes or goes.
    pub(super) fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let times = self.members.values().filter_map(|standing| match standing {
            Standing::Coming(at) | Standing::Going(at) => Some(*at),
            Standing::There => None,
        });
        times.filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(1_000_000_000_000).plus_nanos(millis * 1_000_000)
    }

    fn addresses(fleet: &mut Fleet, announced: &[&str], millis: u64) -> String {
        fleet.take(announced.iter().copied(), at(millis));
        fleet.refresh(at(millis));
        fleet.addresses().join(" ")
    }

    #[test]
    fn one_that_comes_waits_for_others_and_one_that_goes_is_kept_for_its_return() {
        let mut fleet = Fleet::default();
        assert_eq!(addresses(&mut fleet, &["a:1"], 0), "a:1", "nobody waits for the first");
        assert_eq!(addresses(&mut fleet, &["b:1", "a:1"], 100), "a:1");
        assert_eq!(fleet.next(at(100)), Some(at(1100)));
        assert_eq!(addresses(&mut fleet, &["a:1", "b:1", "c:1"], 1100), "a:1 b:1");
        assert_eq!(addresses(&mut fleet, &["a:1", "b:1"], 1200), "a:1 b:1");
        assert_eq!(fleet.next(at(1200)), None, "c was gone before it came");
        assert_eq!(addresses(&mut fleet, &["a:1"], 2000), "a:1 b:1");
        assert_eq!(addresses(&mut fleet, &["a:1", "b:1"], 6999), "a:1 b:1");
        assert_eq!(addresses(&mut fleet, &["a:1", "b:1"], 9000), "a:1 b:1", "it is back");
        assert_eq!(addresses(&mut fleet, &["b:1"], 10_000), "a:1 b:1");
        assert_eq!(addresses(&mut fleet, &["b:1"], 15_000), "b:1");
    }

    #[test]
    fn a_fleet_that_is_gone_as_a_whole_stays() {
        let mut fleet = Fleet::default();
        addresses(&mut fleet, &["a:1", "b:1"], 0);
        for millis in [1, 60_000] {
            assert_eq!(addresses(&mut fleet, &[], millis), "a:1 b:1");
        }
        assert_eq!(fleet.next(at(60_000)), None);
        assert_eq!(addresses(&mut fleet, &["c:1"], 61_000), "a:1 b:1");
        assert_eq!(addresses(&mut fleet, &["c:1"], 62_000), "c:1");
    }

    #[test]
    fn it_is_said_whether_members_changed() {
        let mut fleet = Fleet::default();
        fleet.take(["a:1"].into_iter(), at(0));
        assert_eq!([fleet.refresh(at(0)), fleet.refresh(at(1))], [true, false]);
        fleet.take(["b:1"].into_iter(), at(1));
        assert_eq!([fleet.refresh(at(2)), fleet.refresh(at(1001)), fleet.refresh(at(5001))], [false, true, true]);
    }
}
