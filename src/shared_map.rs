//! A map whose copies share what they have in common: a copy costs one reference, the first change of a copy the
//! references to its shards, a change of one entry one shard, and two maps that came from one another are compared by looking at the shards that differ.
//!
//! That is what makes a change of one document among a hundred thousand a small one, from the source to the
//! limiter, although each of them sees a whole and unchanging set.
//!
//! The persistent maps that are kept well (rpds, imbl) have no difference of two hash maps that passes over what they
//! share; imbl has one of ordered maps, whose lookups compare long keys at each step.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Enough that a shard of a million entries is copied within microseconds, few enough to be counted through.
const SHARDS: usize = 1024;

pub struct SharedMap<K, V> {
    /// Those that hold nothing are one and the same.
    shards: Arc<[Shard<K, V>]>,
    len: usize,
}

type Shard<K, V> = Arc<HashTable<(K, V)>>;

impl<K: Hash + Eq + Clone, V: Clone> SharedMap<K, V> {
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let hash = hash(key);
        self.shards.get(shard_of(hash))?.find(hash, |(own, _)| own.borrow() == key).map(|(_, value)| value)
    }

    /// Copies the shard of the key, if it is shared and has the key.
    pub fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.get(key)?;
        let hash = hash(key);
        self.shard_mut(hash)?.find_mut(hash, |(own, _)| own.borrow() == key).map(|(_, value)| value)
    }

    pub fn contains_key<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Gives the value that the key had before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let hash = hash(&key);
        match self.shard_mut(hash)?.entry(hash, |(own, _)| *own == key, |(own, _)| self::hash(own)) {
            Entry::Occupied(mut entry) => Some(std::mem::replace(entry.get_mut(), (key, value)).1),
            Entry::Vacant(entry) => {
                entry.insert((key, value));
                self.len += 1;
                None
            }
        }
    }

    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        // A shard is not copied for a key that is not in it.
        self.get(key)?;
        let hash = hash(key);
        let ((_, value), _) = self.shard_mut(hash)?.find_entry(hash, |(own, _)| own.borrow() == key).ok()?.remove();
        self.len -= 1;
        Some(value)
    }

    /// The keys whose values differ from those of `before`, and those that only one of the two has.
    pub fn changed_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a K>
    where
        V: PartialEq,
    {
        let shards = self.shards.iter().zip(&*before.shards).filter(|(new, old)| !Arc::ptr_eq(new, old));
        shards.flat_map(move |(new, old)| {
            let changed = new.iter().filter(|(key, value)| before.get(key) != Some(value));
            changed.chain(old.iter().filter(|(key, _)| !self.contains_key(key))).map(|(key, _)| key)
        })
    }

    fn shard_mut(&mut self, hash: u64) -> Option<&mut HashTable<(K, V)>> {
        Arc::make_mut(&mut self.shards).get_mut(shard_of(hash)).map(Arc::make_mut)
    }
}

impl<K, V> SharedMap<K, V> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// In no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|(key, value)| (key, value))
    }

    /// In no order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// In no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

fn hash<Q: Hash + ?Sized>(key: &Q) -> u64 {
    // The same in every map, so that an entry is in the same shard everywhere.
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// By bits that the table inside does not look at first.
fn shard_of(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        let empty = Arc::new(HashTable::new());
        Self { shards: vec![empty; SHARDS].into(), len: 0 }
    }
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self { shards: Arc::clone(&self.shards), len: self.len }
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Hash + Eq + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        map.extend(entries);
        map
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Extend<(K, V)> for SharedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        entries.into_iter().for_each(|(key, value)| drop(self.insert(key, value)));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn sorted(map: &SharedMap<u32, u32>) -> BTreeMap<u32, u32> {
        map.iter().map(|(key, value)| (*key, *value)).collect()
    }

    proptest! {
        /// Against a plain map: every step of a history, and the difference to where it began.
        #[test]
        fn a_copy_keeps_what_it_had_and_the_difference_is_found(
            first in prop::collection::vec((0..500_u32, 0..3_u32), 0..300),
            then in prop::collection::vec((0..500_u32, prop::option::of(0..3_u32)), 0..300),
        ) {
            let before: SharedMap<u32, u32> = first.iter().copied().collect();
            let expected_before: BTreeMap<u32, u32> = first.into_iter().collect();
            let (mut map, mut expected) = (before.clone(), expected_before.clone());
            for (key, value) in then {
                match value {
                    Some(value) => prop_assert_eq!(map.insert(key, value), expected.insert(key, value)),
                    None => prop_assert_eq!(map.remove(&key), expected.remove(&key)),
                }
                prop_assert_eq!(map.len(), expected.len());
            }
            prop_assert_eq!(sorted(&before), expected_before.clone());
            prop_assert_eq!(sorted(&map), expected.clone());
            let changed: BTreeSet<u32> = map.changed_since(&before).copied().collect();
            let keys = expected.keys().chain(expected_before.keys());
            let differing = keys.filter(|key| expected.get(key) != expected_before.get(key)).copied().collect();
            prop_assert_eq!(changed, differing);
        }
    }

    #[test]
    fn a_change_copies_one_shard_and_a_copy_none() {
        let before: SharedMap<u32, u32> = (0..100_000).map(|key| (key, key)).collect();
        let mut after = before.clone();
        after.remove(&1_000_000);
        assert!(Arc::ptr_eq(&before.shards, &after.shards));
        after.insert(7, 0);
        let copied = before.shards.iter().zip(&*after.shards).filter(|(a, b)| !Arc::ptr_eq(a, b));
        assert_eq!(copied.count(), 1);
    }
}
