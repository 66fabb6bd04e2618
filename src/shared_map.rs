//! A map whose copies share what they have in common: a copy costs one reference, a change of one entry one shard and the
//! references on the way to it, and two maps that came from one another are compared by looking at the shards that differ.
//!
//! That is what makes a change of one document among a hundred thousand a small one, from the source to the
//! limiter, although each of them sees a whole and unchanging set.
//!
//! The persistent maps that are kept well (rpds, imbl) have no difference of two hash maps that passes over what they
//! share; imbl has one of ordered maps, whose lookups compare long keys at each step.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher as _, Hash};
use std::sync::{Arc, LazyLock};

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// So many branches has a map, and so many shards a branch. A shard of a million entries is copied within microseconds,
/// and all shards are counted through as soon. References are in two layers, because each that is copied is counted in
/// memory of its own: for 1024 at once a change would wait longer than for all else.
const WIDTH: usize = 32;

pub struct SharedMap<K, V> {
    branches: Arc<[Branch<K, V>]>,
    len: usize,
}

/// Those that hold nothing are one and the same.
type Branch<K, V> = Arc<[Shard<K, V>]>;
type Shard<K, V> = Arc<HashTable<(K, V)>>;

impl<K: Hash + Eq + Clone, V: Clone> SharedMap<K, V> {
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.get_key_value(key).map(|(_, value)| value)
    }

    pub fn get_key_value<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let hash = hash(key);
        let (branch, shard) = place_of(hash);
        let entry = self.branches.get(branch)?.get(shard)?.find(hash, |(own, _)| own.borrow() == key);
        entry.map(|(key, value)| (key, value))
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
        self.differing(before, V::eq)
    }

    /// The keys whose values are not the `same` as those of `before`, and those that only one of the two has.
    pub fn differing<'a>(&'a self, before: &'a Self, same: fn(&V, &V) -> bool) -> impl Iterator<Item = &'a K> {
        let branches = self.branches.iter().zip(&*before.branches).filter(|(new, old)| !Arc::ptr_eq(new, old));
        let shards = branches.flat_map(|(new, old)| new.iter().zip(&**old));
        shards.filter(|(new, old)| !Arc::ptr_eq(new, old)).flat_map(move |(new, old)| {
            let is_same = move |key, value| before.get(key).is_some_and(|before| same(value, before));
            let changed = new.iter().filter(move |(key, value)| !is_same(key, value));
            changed.chain(old.iter().filter(|(key, _)| !self.contains_key(key))).map(|(key, _)| key)
        })
    }

    fn shard_mut(&mut self, hash: u64) -> Option<&mut HashTable<(K, V)>> {
        let (branch, shard) = place_of(hash);
        let branch = Arc::make_mut(&mut self.branches).get_mut(branch)?;
        Arc::make_mut(branch).get_mut(shard).map(Arc::make_mut)
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
        let shards = self.branches.iter().flat_map(|branch| branch.iter());
        shards.flat_map(|shard| shard.iter()).map(|(key, value)| (key, value))
    }

    /// In no order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// In no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// In the order of the keys, for what people see and what is to be the same on every replica.
    pub fn sorted(&self) -> Vec<(&K, &V)>
    where
        K: Ord,
    {
        let mut entries: Vec<_> = self.iter().collect();
        entries.sort_unstable_by_key(|(key, _)| *key);
        entries
    }
}

fn hash<Q: Hash + ?Sized>(key: &Q) -> u64 {
    // The same in every map, so that an entry is in the same shard everywhere.
    static STATE: LazyLock<RandomState> = LazyLock::new(RandomState::default);
    STATE.hash_one(key)
}

/// The branch and the shard in it, by bits that the table inside does not look at first.
fn place_of(hash: u64) -> (usize, usize) {
    let bits = (hash >> 32) as usize;
    (bits / WIDTH % WIDTH, bits % WIDTH)
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        let shard: Shard<K, V> = Arc::new(HashTable::new());
        let branch: Branch<K, V> = vec![shard; WIDTH].into();
        Self { branches: vec![branch; WIDTH].into(), len: 0 }
    }
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self { branches: Arc::clone(&self.branches), len: self.len }
    }
}

impl<K: Hash + Eq + Clone, V: Clone + PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.changed_since(other).next().is_none()
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
            prop_assert_eq!(&changed, &differing);
            prop_assert_eq!(map == before, differing.is_empty());
        }
    }

    #[test]
    fn a_change_copies_one_shard_and_a_copy_none() {
        let before: SharedMap<u32, u32> = (0..100_000).map(|key| (key, key)).collect();
        let mut after = before.clone();
        after.remove(&1_000_000);
        assert!(Arc::ptr_eq(&before.branches, &after.branches));
        after.insert(7, 0);
        let [old, new] = [&before, &after].map(|map| map.branches.iter().flat_map(|branch| branch.iter()));
        assert_eq!(old.zip(new).filter(|(old, new)| !Arc::ptr_eq(old, new)).count(), 1);
    }

    #[test]
    fn every_shard_has_a_place_of_its_own() {
        let places: BTreeSet<_> = (0..100_000_u32).map(|key| place_of(hash(&key))).collect();
        assert_eq!(places.len(), WIDTH * WIDTH);
        let map: SharedMap<u32, u32> = (0..1000).map(|key| (key, 0)).collect();
        assert!(map.sorted().into_iter().map(|(key, _)| *key).eq(0..1000));
    }
}
