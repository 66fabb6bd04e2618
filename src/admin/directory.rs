//! The served documents in the order of their kinds and names, so that a page of them costs what is on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::names::DocumentId;
use crate::policy::parse::Parsed;
use crate::policy::set::ParsedById;

pub(super) type Sorted = BTreeMap<DocumentId, Arc<Parsed>>;

/// Kept from one question to the next: what changed in between is found by the parts that differ.
#[derive(Debug, Default)]
pub struct Directory(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    documents: ParsedById,
    sorted: Sorted,
}

impl Directory {
    /// Others wait meanwhile.
    pub(super) fn read<T>(&self, documents: &ParsedById, read: impl FnOnce(&Sorted) -> T) -> T {
        let mut kept = self.0.lock();
        let Kept { documents: known, sorted } = &mut *kept;
        for id in documents.differing(known, Arc::ptr_eq) {
            match documents.get(id) {
                Some(parsed) => drop(sorted.insert(id.clone(), Arc::clone(parsed))),
                None => drop(sorted.remove(id)),
            }
        }
        *known = documents.clone();
        read(sorted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Documents, split};
    use crate::live::{Generation, Settings};
    use crate::names::Revision;

    #[test]
    fn it_follows_whatever_it_is_asked_about() {
        let set = |names: &[&str], rate: u32| {
            let plan = |name: &&str| format!("{{kind: Plan, name: {name}, limits: [{{rate: {rate}/m}}]}}");
            let text = names.iter().map(plan).collect::<Vec<_>>().join("\n---\n");
            let documents = Documents::new(Revision(1), split(&"p.yaml".into(), text.as_bytes()));
            let settings = Settings {
                rate_limit_service: Default::default(),
                counter_keys: crate::limiter::key::KeyHasher::seeded([0; 16]),
                allow_empty: true,
            };
            Generation::build(&documents, &settings).unwrap().documents
        };
        let directory = Directory::default();
        let sets = [set(&["c", "a"], 1), set(&[], 1), set(&["b", "a", "d"], 2), set(&["a"], 3)];
        for documents in sets.iter().chain(sets.iter().rev()) {
            let expected: Vec<(DocumentId, Arc<Parsed>)> =
                documents.sorted().into_iter().map(|(id, parsed)| (id.clone(), Arc::clone(parsed))).collect();
            let sorted: Vec<_> = directory.read(documents, |sorted| sorted.clone().into_iter().collect());
            assert!(sorted == expected && sorted.iter().zip(&expected).all(|(own, one)| Arc::ptr_eq(&own.1, &one.1)));
        }
    }
}
