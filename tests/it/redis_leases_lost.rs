//! Leases of replicas that die, and leases that live while the store is away.

use tierflow::counters::StoreAway;
use tierflow::limiter::Charge;

use crate::harness::eventually;
use crate::redis_leases::{Replica, charge, left, remaining};
use crate::redis_store::Server;

/// Asks for a counter until so many of its hits are leased that nobody has used yet. Tells how many passed.
async fn lease(replica: &Replica, hot: &Charge, unused: u64) -> u32 {
    let metrics = &replica.metrics.leases;
    let gone = || replica.by_lease() + metrics.hits_given_back.get();
    let mut passed = 0;
    loop {
        let (leased, gone_before) = (replica.leased(), gone());
        assert!(replica.admit(&[*hot]).await.admitted);
        passed += 1;
        // Just leased: nothing of it has ended yet.
        if replica.leased() > leased + unused && gone() == gone_before {
            return passed;
        }
    }
}

#[tokio::test]
async fn a_replica_that_is_killed_withholds_what_it_had_leased_until_the_window_has_passed() {
    let server = Server::start(&[]);
    let replica = Replica::start(&server).await;
    let (hour, seconds) = (charge("hour", "100000/h"), charge("seconds", "100000/6s"));
    let passed = lease(&replica, &hour, 100).await;
    lease(&replica, &seconds, 10).await;
    let leases = &replica.metrics.leases;
    let (leased, by_lease, given_back) = (replica.leased(), replica.by_lease(), leases.hits_given_back.get());
    replica.kill().await;
    let withheld = 100_000 - passed - left(&server, &hour).await;
    assert!(withheld > 0, "it gave everything back");
    assert!(u64::from(withheld) <= leased - by_lease - given_back, "{withheld} of {leased}, {by_lease}, {given_back}");
    eventually("the window passes", async || (left(&server, &seconds).await == 100_000).then_some(())).await;
    assert_eq!(left(&server, &hour).await, 100_000 - passed - withheld);
}

#[tokio::test]
async fn leases_answer_until_they_end_while_the_store_hangs_and_nothing_passes_beside_them() {
    // More than are asked for while a lease lives.
    const UNUSED: u64 = 200;
    let server = Server::start(&[]);
    let replica = Replica::start(&server).await;
    let hot = charge("hot", "100000/h");
    let (mut passed, mut away) = (0, 0);
    // On a machine that is busy a lease may be over before the store hangs.
    while away == 0 {
        passed += lease(&replica, &hot, UNUSED).await;
        server.signal("STOP");
        let (by_lease, leased) = (replica.by_lease(), replica.leased());
        eventually("the lease ends", async || match replica.store.admit(&[hot]).await {
            Ok(admission) => {
                assert!(admission.admitted);
                away += 1;
                None
            }
            Err(StoreAway) => Some(()),
        })
        .await;
        assert_eq!((replica.by_lease(), replica.leased()), (by_lease + u64::from(away), leased));
        assert!(u64::from(away) < UNUSED, "the lease was used up before it ended");
        server.signal("CONT");
        eventually("the store answers", async || replica.store.admit(&[hot]).await.ok()).await;
        passed += away + 1;
    }
    let left = left(&server, &hot).await;
    assert!(left <= 100_000 - passed, "{left} are left after {passed}");
}

/// A replica that answers from a lease hears nothing of what the others take meanwhile, to use it or in advance.
#[tokio::test]
async fn replicas_that_go_on_alone_beside_leases_admit_what_was_left_and_their_part_of_what_they_have_not_heard_of() {
    const LIMIT: u32 = 20_000;
    for unheard in [0, 2_000] {
        let mut server = Server::start(&[]);
        let replicas = [Replica::start(&server).await, Replica::start(&server).await];
        for replica in &replicas {
            replica.knows(2).await;
        }
        let hot = charge("hot", "20000/h");
        let mut admitted = 0;
        for replica in &replicas {
            admitted += spend(replica, &hot, 300).await;
        }
        let look = [Charge { hits: 0, is_exact: true, ..hot }];
        let left_before = remaining(&replicas[1].store.admit_or_decide(&look).await);
        admitted += spend(&replicas[0], &hot, unheard).await;
        let left = remaining(&replicas[0].store.admit_or_decide(&look).await);
        server.redis.kill();
        for replica in &replicas {
            admitted += spend(replica, &hot, LIMIT).await;
            let alone = replica.metrics.counter_store_decided_alone.get();
            assert!(alone > u64::from(left) / 4, "{alone} were decided alone of {left}");
        }
        let too_many = left_before.saturating_sub(left).div_ceil(2);
        assert!(admitted <= LIMIT + too_many, "{admitted}, where one heard of {left_before} left and one of {left}");
        assert!(admitted > LIMIT * 3 / 4, "{admitted}");
    }
}

/// Asks so often, or until it is denied. Tells how many passed.
async fn spend(replica: &Replica, hot: &Charge, times: u32) -> u32 {
    for spent in 0..times {
        if !replica.store.admit_or_decide(&[*hot]).await.admitted {
            return spent;
        }
    }
    times
}
