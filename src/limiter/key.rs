//! Names of counters: 128 bits instead of the strings that a limit counts by.

use std::fmt;

use ring::digest;
use siphasher::sip128::SipHasher13;

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
/// is hashed once; and a part that many keys continue with is hashed once where it is a [`KeyPart`].
#[derive(Clone)]
pub struct KeyHasher {
    hash: Hash,
    /// `None`: each key is at home by itself.
    home: Option<u16>,
}

#[derive(Clone)]
enum Hash {
    Seeded(Seeded),
    /// The first half of SHA-256, which has no secret that replicas would have to share.
    Shared(Box<digest::Context>),
}

/// For keys that do not leave the process: each part is hashed by itself with SipHash, which is safe while nobody knows
/// its seed, and a key is the polynomial in [`ODD`] whose coefficients are the hashes. Keys of different parts differ in
/// such a coefficient, and so by a number that is as good as random to whoever chooses the parts.
#[derive(Clone, Copy)]
struct Seeded {
    seed: (u64, u64),
    sum: u128,
}

/// Of 128 bits, drawn once. It is 3 modulo 8: so the powers that a list of parts has differ in their low bits, and parts that
/// change places give another key.
const ODD: u128 = 0x9e6c_63d0_876a_3f6b_d1a3_5c0e_94b3_82e3;

/// A part that many keys have, hashed beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPart {
    bytes: Box<[u8]>,
    /// By the seed of the [`KeyHasher`] that made it, where that has one.
    hash: u128,
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
        let seed = SipHasher13::new_with_key(&seed).keys();
        Self { hash: Hash::Seeded(Seeded { seed, sum: 0 }), home: None }
    }

    /// Keys that are the same on all replicas.
    pub fn shared() -> Self {
        Self { hash: Hash::Shared(Box::new(digest::Context::new(&digest::SHA256))), home: None }
    }

    /// The length goes before the bytes: the parts `ab`, `c` are not the parts `a`, `bc`.
    #[must_use]
    pub fn part(mut self, bytes: &[u8]) -> Self {
        match &mut self.hash {
            Hash::Seeded(seeded) => seeded.add(seeded.hash(bytes)),
            Hash::Shared(context) => {
                context.update(&(bytes.len() as u64).to_le_bytes());
                context.update(bytes);
            }
        }
        self
    }

    /// A part to continue with, from here or from wherever the same beginning led.
    pub fn prepare(&self, bytes: &[u8]) -> KeyPart {
        let hash = match &self.hash {
            Hash::Seeded(seeded) => seeded.hash(bytes),
            Hash::Shared(_) => 0,
        };
        KeyPart { bytes: bytes.into(), hash }
    }

    /// The same as [`KeyHasher::part`] of the part's bytes.
    #[must_use]
    pub fn prepared(mut self, part: &KeyPart) -> Self {
        match &mut self.hash {
            Hash::Seeded(seeded) => {
                seeded.add(part.hash);
                self
            }
            Hash::Shared(_) => self.part(&part.bytes),
        }
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
            Hash::Seeded(seeded) => seeded.sum,
            Hash::Shared(context) => {
                let digest = context.as_ref().clone().finish();
                let half = digest.as_ref().first_chunk().copied();
                u128::from_le_bytes(half.unwrap_or_default())
            }
        });
        self.home.map_or(key, |home| key.at_home(home))
    }
}

impl Seeded {
    fn hash(&self, bytes: &[u8]) -> u128 {
        SipHasher13::new_with_keys(self.seed.0, self.seed.1).hash(bytes).as_u128()
    }

    fn add(&mut self, hash: u128) {
        self.sum = self.sum.wrapping_mul(ODD).wrapping_add(hash);
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
    fn parts_that_change_places_give_other_keys() {
        let parts: Vec<String> = (0..64).map(|number| format!("p{number}")).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let first = key(&parts);
        for other in 1..parts.len() {
            let mut changed = parts.clone();
            changed.swap(0, other);
            // Also in the bits that a table looks at.
            assert_ne!(key(&changed).as_u128() as u32, first.as_u128() as u32, "{other}");
        }
    }

    #[test]
    fn a_part_that_was_hashed_beforehand_is_the_same_part() {
        for hasher in [KeyHasher::seeded([1; 16]), KeyHasher::shared()] {
            let part = hasher.prepare(b"per-minute");
            for scope in [&b"order"[..], b"", b"acme"] {
                let (key, prepared) = (hasher.clone().part(scope), hasher.clone().part(scope));
                assert_eq!(prepared.prepared(&part).part(b"x").finish(), key.part(b"per-minute").part(b"x").finish());
            }
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
