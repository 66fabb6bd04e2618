//! The keys that a counter has in the store.
//!
//! What stands between the braces is the counter's home: a Cluster keeps keys that have it in common on one node.

use super::slots;
use crate::limiter::key::CounterKey;

const REST_BITS: u32 = 112;

pub fn head(prefix: &str, key: CounterKey) -> String {
    let rest = key.as_u128() & ((1 << REST_BITS) - 1);
    format!("{prefix}{{{:04x}}}{rest:028x}", key.home())
}

pub fn ring(prefix: &str, key: CounterKey) -> String {
    head(prefix, key) + ":ring"
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
        assert_eq!(head("p:", first).len(), "p:".len() + 34);
    }
}
