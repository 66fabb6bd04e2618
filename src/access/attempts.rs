//! Wrong secrets, by the address that they come from: whoever shows many has to wait, and is not looked at meanwhile.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use parking_lot::Mutex;

use super::token::TokenHash;
use crate::clock::Timestamp;

/// Wrong secrets that may come at once.
const BURST: u32 = 10;
/// After them, one in so long.
const PAUSE: Duration = Duration::from_secs(5);
/// The addresses that are remembered. Where more come, the one goes that has to wait the least.
const ADDRESSES_MAX: usize = 4096;
/// The right secrets that are remembered, by their hashes. Where more come, the oldest goes.
const RIGHT_MAX: usize = 256;

/// The generic cell rate algorithm for each address: the time at which it would have its whole burst again.
#[derive(Debug, Default)]
pub struct Attempts {
    wrong: Mutex<HashMap<IpAddr, Timestamp>>,
    /// Of those that showed a right secret lately. They are let through to be looked at, so that nobody who shares an address
    /// with somebody who guesses (that of a proxy, say) is kept out.
    right: Mutex<VecDeque<TokenHash>>,
}

impl Attempts {
    /// The time that whoever shows this has to wait; `None` where it is looked at now.
    pub(super) fn wait(&self, peer: IpAddr, shown: &TokenHash, now: Timestamp) -> Option<Duration> {
        let whole_again = *self.wrong.lock().get(&network(peer))?;
        let wait = whole_again.since(now).checked_sub(PAUSE * (BURST - 1)).filter(|wait| !wait.is_zero())?;
        (!self.right.lock().contains(shown)).then_some(wait)
    }

    pub(super) fn failed(&self, peer: IpAddr, now: Timestamp) {
        let mut wrong = self.wrong.lock();
        let peer = network(peer);
        if wrong.len() >= ADDRESSES_MAX && !wrong.contains_key(&peer) {
            wrong.retain(|_, whole_again| *whole_again > now);
            let least = wrong.iter().min_by_key(|(_, whole_again)| **whole_again).map(|(address, _)| *address);
            if let Some(least) = least.filter(|_| wrong.len() >= ADDRESSES_MAX) {
                wrong.remove(&least);
            }
        }
        let whole_again = wrong.entry(peer).or_insert(now);
        *whole_again = (*whole_again).max(now) + PAUSE;
    }

    pub(super) fn succeeded(&self, shown: TokenHash) {
        let mut right = self.right.lock();
        if !right.contains(&shown) {
            if right.len() >= RIGHT_MAX {
                right.pop_front();
            }
            right.push_back(shown);
        }
    }
}

/// Of IPv6 the first 64 bits: whoever has one address has all of these (RFC 6177).
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(1_000_000_000 * (1_000_000 + seconds))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn after_a_burst_of_wrong_secrets_an_address_waits_and_others_do_not() {
        let attempts = Attempts::default();
        let (guesser, other, shown) = (address("10.0.0.7"), address("10.0.0.8"), TokenHash::of("guess"));
        for _ in 0..BURST {
            assert_eq!(attempts.wait(guesser, &shown, at(0)), None);
            attempts.failed(guesser, at(0));
        }
        assert_eq!(attempts.wait(guesser, &shown, at(0)), Some(PAUSE));
        assert_eq!(attempts.wait(address("::ffff:10.0.0.7"), &shown, at(0)), Some(PAUSE), "it is the same address");
        assert_eq!(attempts.wait(guesser, &shown, at(3)), Some(PAUSE - Duration::from_secs(3)));
        assert_eq!(attempts.wait(other, &shown, at(0)), None);
        // One more, and it waits again.
        assert_eq!(attempts.wait(guesser, &shown, at(5)), None);
        attempts.failed(guesser, at(5));
        assert_eq!(attempts.wait(guesser, &shown, at(5)), Some(PAUSE));
        // In the end it is as if nothing had happened.
        for _ in 0..BURST {
            assert_eq!(attempts.wait(guesser, &shown, at(1000)), None);
            attempts.failed(guesser, at(1000));
        }
    }

    #[test]
    fn whoever_showed_a_right_secret_lately_is_not_kept_out_by_a_neighbour_who_guesses() {
        let attempts = Attempts::default();
        let proxy = address("10.0.0.7");
        let [right, wrong] = ["right", "wrong"].map(TokenHash::of);
        attempts.succeeded(right);
        for _ in 0..2 * BURST {
            attempts.failed(proxy, at(0));
        }
        assert!(attempts.wait(proxy, &wrong, at(0)).is_some());
        assert_eq!(attempts.wait(proxy, &right, at(0)), None);
    }

    #[test]
    fn of_ipv6_a_network_is_one_address() {
        assert_eq!(network(address("2001:db8:0:1:a:b:c:d")), network(address("2001:db8:0:1::7")));
        assert_ne!(network(address("2001:db8:0:1::7")), network(address("2001:db8:0:2::7")));
    }

    #[test]
    fn failed_logins_take_no_more_memory_than_so_much() {
        let attempts = Attempts::default();
        let worst = address("10.0.0.7");
        for _ in 0..2 * BURST {
            attempts.failed(worst, at(0));
        }
        for number in 0..u32::try_from(ADDRESSES_MAX).unwrap() + 300 {
            attempts.failed(IpAddr::from(std::net::Ipv4Addr::from_bits(0x0b00_0000 + number)), at(0));
            attempts.succeeded(TokenHash::of(&number.to_string()));
        }
        assert_eq!((attempts.wrong.lock().len(), attempts.right.lock().len()), (ADDRESSES_MAX, RIGHT_MAX));
        assert!(attempts.wait(worst, &TokenHash::of("guess"), at(0)).is_some(), "a flood washes nobody's guesses away");
        // Those who need not wait any more go first.
        attempts.failed(address("10.0.0.9"), at(20));
        assert_eq!(attempts.wrong.lock().len(), 2);
    }
}
