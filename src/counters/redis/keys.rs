//! The keys that a counter has in the store.
//!
//! What stands between the braces is the counter's home: a Cluster keeps keys that have it in common on one node.

use std::ops::Range;

use super::slots;
use crate::limiter::key::CounterKey;

const KEY_BITS: u32 = 128;
const REST_BITS: u32 = 112;
const RING: &str = ":ring";

/// A command has these names of each counter, so they are written without what formatting takes.
pub fn head(prefix: &str, key: CounterKey) -> String {
    let mut name = String::with_capacity(prefix.len() + 2 + KEY_BITS as usize / 4 + RING.len());
    name.push_str(prefix);
    name.push('{');
    push_digits(&mut name, key, REST_BITS..KEY_BITS);
    name.push('}');
    push_digits(&mut name, key, 0..REST_BITS);
    name
}

pub fn ring(prefix: &str, key: CounterKey) -> String {
    ring_of(head(prefix, key))
}

/// The ring's name, by that of the head.
pub(super) fn ring_of(head: String) -> String {
    head + RING
}

/// Some bits of a key as hexadecimal digits.
fn push_digits(name: &mut String, key: CounterKey, bits: Range<u32>) {
    let digit = |from: u32| char::from_digit((key.as_u128() >> from) as u32 & 0xf, 16);
    name.extend(bits.step_by(4).rev().filter_map(digit));
}

/// The slot of a Cluster that both are in. A prefix with braces of its own puts all counters into one.
pub(super) fn slot(prefix: &str, key: CounterKey) -> u16 {
    slots::slot_of(head(prefix, key).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limiter::key::KeyHasher;

    #[test]
    fn all_keys_of_a_counter_and_all_counters_of_a_home_have_one_slot() {
        let home = KeyHasher::shared().part(b"acme").home();
        let [first, second] = [b"hour", b"days"].map(|limit| home.clone().part(limit).finish());
        let slot_of = |name: String| slots::slot_of(name.as_bytes());
        for prefix in ["tierflow:", "{shop}:", "}{"] {
            let slot = slot(prefix, first);
            assert_eq!([slot_of(head(prefix, first)), slot_of(ring(prefix, first))], [slot; 2]);
            assert_eq!(super::slot(prefix, second), slot);
        }
        assert_ne!(head("", first), head("", second));
        let rest = first.as_u128() & ((1 << REST_BITS) - 1);
        assert_eq!(head("p:", first), format!("p:{{{:04x}}}{rest:028x}", first.home()));
    }
}
