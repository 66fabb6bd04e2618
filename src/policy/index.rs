//! Policies found by something that they name: by what several have in common, in the order of their names.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::names::Name;
use crate::shared_map::SharedMap;

/// Ordered under each key, so that whatever is made from it is the same on every replica.
pub(super) type Index<V> = SharedMap<Name, Arc<BTreeMap<Name, V>>>;

/// Changes what is kept under a key. What is empty is not kept.
pub(super) fn change<V: Clone>(index: &mut Index<V>, key: &Name, change: impl FnOnce(&mut BTreeMap<Name, V>)) {
    match index.get_mut(key) {
        Some(entries) => {
            let entries = Arc::make_mut(entries);
            change(entries);
            if entries.is_empty() {
                index.remove(key);
            }
        }
        None => {
            let mut entries = BTreeMap::new();
            change(&mut entries);
            index.insert(key.clone(), Arc::new(entries));
        }
    }
}
