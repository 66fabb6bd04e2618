use std::sync::Barrier;
use std::sync::atomic::AtomicU32;
use std::thread;
use std::time::Duration;

use super::*;
use crate::limiter::fixture::charge;

const NOW: Timestamp = Timestamp::from_nanos(1_759_999_999_123_456_789);

fn memory(keys_max: usize) -> Memory {
    Memory::new(MemoryLimits { keys_max })
}

fn many_shards() -> Memory {
    let memory = Memory::new(MemoryLimits::default());
    assert_eq!(memory.shards.len(), SHARDS);
    memory
}

fn admit(memory: &Memory, charges: &[Charge]) -> Admission {
    memory.admit(charges, NOW, OnError::Deny)
}

fn remaining(memory: &Memory, charge: &Charge) -> u32 {
    memory.peek(charge, NOW).remaining
}

#[test]
fn a_denied_tenant_charges_nothing_to_the_api() {
    let memory = many_shards();
    let (api, tenant) = (charge(1, "100/minute"), charge(2, "5/minute"));
    for charges in [[api, tenant], [tenant, api]] {
        let admitted = (0..20).filter(|_| admit(&memory, &charges).admitted).count();
        let left = remaining(&memory, &api);
        assert_eq!((admitted, left), if charges[0].key == api.key { (5, 95) } else { (0, 95) });
    }
}

#[test]
fn outcomes_come_in_the_order_asked_and_tell_what_is_left_after_the_charge() {
    let memory = many_shards();
    let charges = [charge(1, "100/minute").hits(10), charge(2, "15/minute").hits(10)];
    let left = |admission: Admission| admission.outcomes.iter().map(|o| verdict(*o).remaining).collect::<Vec<_>>();
    assert_eq!(left(admit(&memory, &charges)), [90, 5]);
    let denied = admit(&memory, &charges);
    assert!(!denied.admitted);
    assert!(verdict(denied.outcomes[0]).allowed, "the first limit had room");
    assert_eq!(verdict(denied.outcomes[1]).retry_after, Some(Duration::from_secs(60)));
    assert_eq!(left(denied), [90, 5]);
}

fn verdict(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Judged(verdict) => verdict,
        Outcome::NoRoom => panic!("no room"),
    }
}

#[test]
fn a_shadow_limit_never_denies_and_counts_as_if_it_stood_alone() {
    let memory = many_shards();
    let (enforced, shadow) = (charge(1, "3/minute"), charge(2, "5/minute").shadow());
    let admissions: Vec<_> = (0..8).map(|_| admit(&memory, &[shadow, enforced])).collect();
    assert_eq!(admissions.iter().filter(|a| a.admitted).count(), 3);
    assert_eq!(admissions.iter().filter(|a| verdict(a.outcomes[0]).allowed).count(), 5);

    let full_shadow = admit(&memory, &[shadow, charge(3, "1/minute")]);
    assert!(full_shadow.admitted && !verdict(full_shadow.outcomes[0]).allowed);
}

#[test]
fn a_request_without_limits_is_admitted() {
    assert!(admit(&many_shards(), &[]).admitted);
}

#[test]
fn a_key_that_is_named_twice_is_judged_by_both() {
    let memory = many_shards();
    let twice = [charge(1, "3/minute"), charge(1, "3/minute")];
    assert!(admit(&memory, &twice).admitted);
    assert!(!admit(&memory, &twice).admitted);
    assert_eq!(remaining(&memory, &twice[0]), 1);
    let with_shadow = [charge(1, "3/minute"), charge(1, "3/minute").shadow()];
    assert!(!admit(&memory, &with_shadow).admitted);
    assert_eq!(remaining(&memory, &twice[0]), 1);
}

#[test]
fn threads_on_one_key_admit_exactly_the_limit() {
    let memory = many_shards();
    let admitted = AtomicU32::new(0);
    let start = Barrier::new(64);
    thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                start.wait();
                let passed = (0..100).filter(|_| admit(&memory, &[charge(1, "1000/minute")]).admitted).count();
                admitted.fetch_add(passed as u32, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(admitted.into_inner(), 1000);
}

/// Every thread asks for its own mixture of the same six counters, in its own order.
#[test]
fn threads_on_many_keys_charge_all_or_nothing() {
    let memory = many_shards();
    let limits = ["50/minute", "200/minute", "300/minute", "400/minute", "800/minute", "5000/minute"];
    let counted: [AtomicU32; 6] = Default::default();
    let start = Barrier::new(16);
    thread::scope(|scope| {
        for thread in 0..16 {
            let (memory, counted, start) = (&memory, &counted, &start);
            scope.spawn(move || {
                start.wait();
                for round in 0..200 {
                    let keys = [(thread + round) % 6, (thread * 5 + round * 3 + 1) % 6, (round * 7 + 2) % 6];
                    let mut keys = SmallVec::<[usize; 3]>::from_slice(&keys);
                    keys.dedup();
                    let hits = 1 + (round as u32) % 3;
                    let charges: Vec<_> = keys.iter().map(|&key| charge(key as u64, limits[key]).hits(hits)).collect();
                    if admit(memory, &charges).admitted {
                        keys.iter().for_each(|&key| {
                            counted[key].fetch_add(hits, Ordering::Relaxed);
                        });
                    }
                }
            });
        }
    });
    for (key, counted) in counted.into_iter().enumerate() {
        let charge = charge(key as u64, limits[key]);
        assert_eq!(charge.rate.limit - remaining(&memory, &charge), counted.into_inner(), "key {key}");
    }
}

#[test]
fn a_question_and_a_denial_make_no_key() {
    let memory = many_shards();
    memory.peek(&charge(1, "5/minute"), NOW);
    admit(&memory, &[charge(1, "5/minute").hits(0)]);
    admit(&memory, &[charge(1, "5/minute").hits(6)]);
    admit(&memory, &[charge(1, "5/minute"), charge(2, "0/minute")]);
    assert!(memory.is_empty());
}

#[test]
fn a_removed_key_starts_anew() {
    let memory = many_shards();
    let charge = charge(1, "1/minute");
    assert!(admit(&memory, &[charge]).admitted);
    assert!(memory.remove(charge.key));
    assert!(!memory.remove(charge.key));
    assert!(admit(&memory, &[charge]).admitted);
}

#[test]
fn a_round_of_sweeps_drops_every_key_that_counts_nothing() {
    let memory = many_shards();
    let sweep_round = |now| (0..memory.sweeps_per_round()).map(|_| memory.sweep(now)).sum::<usize>();
    for key in 0..1000 {
        let rate = if key % 4 == 0 { "1/hour" } else { "1/minute" };
        admit(&memory, &[charge(key, rate)]);
    }
    sweep_round(NOW.plus_nanos(59_999_999_999));
    assert_eq!(memory.len(), 1000);
    sweep_round(NOW.plus_nanos(60_000_000_000));
    assert_eq!(memory.len(), 250);
}

#[test]
fn a_sweep_looks_at_a_bounded_number_of_places() {
    let memory =
        Memory { shards: [Mutex::new(Shard::new(20_000))].into(), swept: AtomicUsize::new(0), keys_max: 20_000 };
    (0..10_000).for_each(|key| assert!(admit(&memory, &[charge(key, "1/minute")]).admitted));
    let later = NOW.plus_nanos(60_000_000_000);
    let places: Vec<_> = (0..memory.sweeps_per_round()).map(|_| memory.sweep(later)).collect();
    assert!(places.iter().all(|places| *places <= 1024), "{places:?}");
    assert_eq!((places.len(), places.iter().sum::<usize>(), memory.len()), (10, 10_000, 0));
}

/// Requests of new keys push idle ones out between the steps of a sweep, which moves others about.
#[test]
fn a_round_of_sweeps_meets_every_key_whatever_requests_do_meanwhile() {
    let memory =
        Memory { shards: [Mutex::new(Shard::new(10_000))].into(), swept: AtomicUsize::new(0), keys_max: 10_000 };
    let idle: Vec<_> = (0..10_000).map(|key| charge(key, "9/minute")).collect();
    assert!(idle.iter().all(|charge| admit(&memory, &[*charge]).admitted));
    let later = NOW.plus_nanos(60_000_000_000);
    let mut strangers = 10_000..;
    for _ in 0..memory.sweeps_per_round() {
        for key in strangers.by_ref().take(300) {
            assert!(memory.admit(&[charge(key, "9/minute")], later, OnError::Deny).admitted);
        }
        memory.sweep(later);
    }
    assert!(idle.iter().all(|charge| !memory.remove(charge.key)), "every idle key is gone");
    assert_eq!(memory.len(), 3000, "and no other");
}

#[test]
fn shards_are_many_enough_for_each_to_be_small_and_are_all_used() {
    for (keys_max, shards) in [(0, 1), (2_000, 1), (1_000_000, 256), (4_194_304, 256), (100_000_000, 6104)] {
        assert_eq!(memory(keys_max).shards.len(), shards, "{keys_max}");
    }
    let memory = memory(100_000_000);
    (0..100_000).for_each(|key| assert!(admit(&memory, &[charge(key, "1/minute")]).admitted));
    let keys: Vec<_> = memory.shards.iter().map(|shard| shard.lock().len()).collect();
    let (fewest, most) = (keys.iter().min(), keys.iter().max());
    assert!(fewest > Some(&0) && most < Some(&50), "16 on average: {fewest:?} to {most:?}");
}

#[test]
fn a_thread_whose_clock_was_read_before_a_sweep_finds_no_refund() {
    let memory = memory(10);
    let charge = charge(1, "1/minute");
    assert!(admit(&memory, &[charge]).admitted);
    let swept_at = NOW.plus_nanos(60_000_000_000);
    memory.sweep(swept_at);
    let earlier = memory.admit(&[charge], NOW.plus_nanos(59_000_000_000), OnError::Deny);
    assert!(earlier.admitted, "time never runs backwards: it is counted at the time of the sweep");
    assert!(!memory.admit(&[charge], swept_at.plus_nanos(59_999_999_999), OnError::Deny).admitted);
    assert!(memory.admit(&[charge], swept_at.plus_nanos(60_000_000_000), OnError::Deny).admitted);
}

#[test]
fn without_room_the_caller_decides_whether_the_others_do() {
    let memory = memory(1);
    let (held, stranger) = (charge(1, "2/minute"), charge(2, "9/minute"));
    assert!(admit(&memory, &[held]).admitted);
    assert!(admit(&memory, &[held]).admitted);

    let denied = memory.admit(&[stranger], NOW, OnError::Deny);
    assert_eq!((denied.admitted, denied.outcomes[0]), (false, Outcome::NoRoom));
    let passed = memory.admit(&[stranger], NOW, OnError::Allow);
    assert_eq!((passed.admitted, passed.outcomes[0]), (true, Outcome::NoRoom));
    assert!(!memory.admit(&[stranger, held], NOW, OnError::Allow).admitted, "the other limit still decides");
    assert!(memory.admit(&[stranger.shadow()], NOW, OnError::Deny).admitted, "a shadow limit never denies");
    assert_eq!(memory.len(), 1);
}

#[test]
fn a_request_that_finds_no_room_for_one_limit_charges_none() {
    let memory = memory(2);
    let (full, known, stranger) = (charge(1, "1/minute"), charge(2, "9/minute"), charge(3, "9/minute"));
    assert!(admit(&memory, &[full]).admitted);
    assert!(admit(&memory, &[known]).admitted);
    for charges in [[known, stranger], [stranger, known]] {
        assert!(!admit(&memory, &charges).admitted, "a request's own keys make no room for each other");
        assert_eq!(remaining(&memory, &known), 8);
    }
}

#[test]
fn a_store_for_no_keys_has_no_room() {
    assert_eq!(admit(&memory(0), &[charge(1, "1/minute")]).outcomes[0], Outcome::NoRoom);
}

#[test]
fn idle_keys_make_room_first_then_the_one_furthest_from_its_limit() {
    let memory = memory(4);
    let [idle, low, lower, full] =
        [charge(1, "9/second"), charge(2, "9/minute").hits(3), charge(3, "9/minute").hits(2), charge(4, "1/minute")];
    for charge in [idle, low, lower, full] {
        assert!(admit(&memory, &[charge]).admitted);
    }
    let later = NOW.plus_nanos(2_000_000_000);
    let is_held = |charge: &Charge| memory.peek(charge, later).remaining < charge.rate.limit;
    for (stranger, held) in [(5, [true, true, true]), (6, [true, false, true]), (7, [false, false, true])] {
        assert!(memory.admit(&[charge(stranger, "1/minute")], later, OnError::Deny).admitted);
        assert_eq!([&low, &lower, &full].map(is_held), held);
    }
    assert!(!memory.admit(&[charge(8, "1/minute")], later, OnError::Deny).admitted);
}

#[test]
fn a_flood_of_new_keys_is_bounded_and_gives_no_full_key_its_hits_back() {
    const KEYS_MAX: usize = 4096;
    let memory = memory(KEYS_MAX);
    let full: Vec<_> = (0..500).map(|key| charge(key, "3/minute").hits(3)).collect();
    assert!(full.iter().all(|charge| admit(&memory, &[*charge]).admitted));
    for stranger in 1_000..40_000 {
        assert!(admit(&memory, &[charge(stranger, "100/minute")]).admitted);
        assert!(stranger % 100 != 0 || memory.len() <= KEYS_MAX);
    }
    assert!(memory.len() > KEYS_MAX * 9 / 10, "what is there is used: {}", memory.len());
    assert!(full.iter().all(|charge| remaining(&memory, charge) == 0));
}

#[test]
fn a_flood_of_full_keys_ends_in_no_room() {
    let memory = memory(100);
    let admitted = (0..1000).filter(|key| admit(&memory, &[charge(*key, "1/minute")]).admitted).count();
    assert_eq!((admitted, memory.len()), (100, 100));
    let later = NOW.plus_nanos(60_000_000_000);
    let admitted =
        (1000..1100).filter(|key| memory.admit(&[charge(*key, "1/minute")], later, OnError::Deny).admitted).count();
    assert_eq!((admitted, memory.len()), (100, 100), "a window later, they have made room");
}
