//! Names of counters: 128 bits instead of the strings that a limit counts by.

use std::fmt;
use std::hash::Hasher as _;

use ring::digest;
use siphasher::sip128::{Hasher128 as _, SipHasher13};

/// The name of one counter: a hash of what the limit is and of what it counts by.
///
/// The first 16 bits are its *home*: a store of several servers keeps counters of one home together. The others alone are
/// taken as unique, so the parts themselves need not be kept or compared; [`KeyHasher`] says why clients, who
/// choose some of the parts, cannot make one key another's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CounterKey(u128);

impl CounterKey {
    pub fn as_u128(self) -> u128 {
        self.0
    }

    pub fn home(self) -> u16 {
        (self.0 >> HOME_SHIFT) as u16
    }

    #[must_use]
    pub fn at_home(self, home: u16) -> Self {
        let rest = self.0 & ((1 << HOME_SHIFT) - 1);
        Self(u128::from(home) << HOME_SHIFT | rest)
    }
}

const HOME_SHIFT: u32 = 112;

/// Makes a [`CounterKey`] from parts. A clone continues from the parts so far, so what many keys begin with
/// is hashed once.
#[derive(Clone)]
pub struct KeyHasher {
    hash: Hash,
    /// `None`: each key is at home by itself.
    home: Option<u16>,
}

#[derive(Clone)]
enum Hash {
    /// SipHash, safe while nobody knows its seed: for keys that do not leave the process.
    Seeded(SipHasher13),
    /// The first half of SHA-256, which has no secret that replicas would have to share.
    Shared(Box<digest::Context>),
}

/// The state holds the seed, which is nobody's business.
impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHasher(..)")
    }
}

impl KeyHasher {
    /// Keys that mean nothing outside of who knows the seed.
    pub fn seeded(seed: [u8; 16]) -> Self {
        Self { hash: Hash::Seeded(SipHasher13::new_with_key(&seed)), home: None }
    }

    /// Keys that are the same on all replicas.
    pub fn shared() -> Self {
        Self { hash: Hash::Shared(Box::new(digest::Context::new(&digest::SHA256))), home: None }
    }

    /// The length goes before the bytes: the parts `ab`, `c` are not the parts `a`, `bc`.
    #[must_use]
    pub fn part(mut self, bytes: &[u8]) -> Self {
        let length = (bytes.len() as u64).to_le_bytes();
        match &mut self.hash {
            Hash::Seeded(hasher) => {
                hasher.write(&length);
                hasher.write(bytes);
            }
            Hash::Shared(context) => {
                context.update(&length);
                context.update(bytes);
            }
        }
        self
    }

    /// The parts so far are the home of all keys that continue from here. Keys that do not leave the process have no use
    /// for one.
    #[must_use]
    pub fn home(mut self) -> Self {
        if let Hash::Shared(_) = self.hash {
            self.home = None;
            self.home = Some(self.finish().home());
        }
        self
    }

    pub fn finish(&self) -> CounterKey {
        let key = CounterKey(match &self.hash {
            Hash::Seeded(hasher) => hasher.finish128().as_u128(),
            Hash::Shared(context) => {
                let digest = context.as_ref().clone().finish();
                let half = digest.as_ref().first_chunk().copied();
                u128::from_le_bytes(half.unwrap_or_default())
            }
        });
        self.home.map_or(key, |home| key.at_home(home))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(hasher: KeyHasher, parts: &[&str]) -> CounterKey {
        parts.iter().fold(hasher, |hasher, part| hasher.part(part.as_bytes())).finish()
    }

    fn key(parts: &[&str]) -> CounterKey {
        key_of(KeyHasher::seeded([1; 16]), parts)
    }

    #[test]
    fn replicas_have_the_same_shared_keys() {
        let shared = |parts| key_of(KeyHasher::shared(), parts);
        // Another value would be another counter on a replica of another version.
        assert_eq!(shared(&["order", "acme"]).as_u128(), 0xb223_5e8a_ea80_2010_69ac_50e6_e614_4681);
        assert_ne!(shared(&["order", "acme"]), shared(&["ordera", "cme"]));
        assert_ne!(shared(&["order", "acme"]), key(&["order", "acme"]));
    }

    #[test]
    fn equal_parts_have_equal_keys() {
        assert_eq!(key(&["order", "acme"]), key(&["order", "acme"]));
    }

    #[test]
    fn where_a_part_ends_matters() {
        let keys = [
            key(&[]),
            key(&[""]),
            key(&["", ""]),
            key(&["abc"]),
            key(&["ab", "c"]),
            key(&["a", "bc"]),
            key(&["abc", ""]),
            key(&["", "abc"]),
            key(&["c", "ab"]),
            key(&["\u{1}\0\0\0\0\0\0\0a"]),
            key(&["a"]),
        ];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys.iter().skip(i + 1).all(|b| a != b), "{i}");
        }
    }

    #[test]
    fn another_seed_gives_other_keys() {
        assert_ne!(KeyHasher::seeded([1; 16]).part(b"a").finish(), KeyHasher::seeded([2; 16]).part(b"a").finish());
    }

    #[test]
    fn what_continues_from_a_home_has_it_in_common_and_nothing_else() {
        let acme = KeyHasher::shared().part(b"acme").home();
        let keys = [b"hour", b"days"].map(|limit| acme.clone().part(limit).finish());
        assert_eq!(keys.map(CounterKey::home), [acme.finish().home(); 2]);
        assert_ne!(keys[0], keys[1]);
        let bolt = KeyHasher::shared().part(b"bolt").home();
        assert_ne!(bolt.finish().home(), acme.finish().home());
        assert_eq!(keys[0].at_home(7).home(), 7);
        assert_eq!(keys[0].at_home(7).at_home(keys[0].home()), keys[0]);
    }

    #[test]
    fn a_clone_continues_from_the_parts_so_far() {
        let order = KeyHasher::seeded([1; 16]).part(b"order");
        assert_eq!(order.clone().part(b"acme").finish(), key(&["order", "acme"]));
        assert_eq!(order.part(b"bolt").finish(), key(&["order", "bolt"]));
    }
}
