//! Names of counters: 128 bits instead of the strings that a limit counts by.

use std::fmt;
use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher13};

/// The name of one counter: a keyed hash of what the limit is and of what it counts by.
///
/// 128 bits are taken as unique, so the parts themselves need not be kept or compared. That holds against
/// clients who choose the parts only while they don't know the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CounterKey(u128);

impl CounterKey {
    pub fn as_u128(self) -> u128 {
        self.0
    }
}

/// Makes a [`CounterKey`] from parts. A clone continues from the parts so far, so what many keys begin with
/// is hashed once.
#[derive(Clone)]
pub struct KeyHasher(SipHasher13);

/// The state holds the seed, which is nobody's business.
impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHasher(..)")
    }
}

impl KeyHasher {
    /// Replicas that share counters share the seed.
    pub fn new(seed: [u8; 16]) -> Self {
        Self(SipHasher13::new_with_key(&seed))
    }

    /// The length goes before the bytes: the parts `ab`, `c` are not the parts `a`, `bc`.
    #[must_use]
    pub fn part(mut self, bytes: &[u8]) -> Self {
        self.0.write(&(bytes.len() as u64).to_le_bytes());
        self.0.write(bytes);
        self
    }

    pub fn finish(&self) -> CounterKey {
        CounterKey(self.0.finish128().as_u128())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(parts: &[&str]) -> CounterKey {
        parts.iter().fold(KeyHasher::new([1; 16]), |hasher, part| hasher.part(part.as_bytes())).finish()
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
        assert_ne!(KeyHasher::new([1; 16]).part(b"a").finish(), KeyHasher::new([2; 16]).part(b"a").finish());
    }

    #[test]
    fn a_clone_continues_from_the_parts_so_far() {
        let order = KeyHasher::new([1; 16]).part(b"order");
        assert_eq!(order.clone().part(b"acme").finish(), key(&["order", "acme"]));
        assert_eq!(order.part(b"bolt").finish(), key(&["order", "bolt"]));
    }
}
