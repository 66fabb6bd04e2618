//! What the source holds, parsed. It is kept up to date by what changed, so that one document among many costs what
//! one document costs.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use crate::document::{Document, Origin};
use crate::names::DocumentId;
use crate::policy::parse::{Parsed, Refused, parse};
use crate::policy::problem::Problem;
use crate::policy::set::{ParsedById, doubled};
use crate::shared_map::SharedMap;

/// So many documents are parsed sooner than a thread is started.
const DOCUMENTS_OF_THREAD_MIN: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Offered {
    documents: SharedMap<Origin, Arc<Document>>,
    parsed: HashMap<Origin, Arc<Parsed>>,
    /// More than one where several claim to be the same, in the order of their places.
    by_id: HashMap<DocumentId, Vec<Arc<Parsed>>>,
    broken: Broken,
}

/// Documents that make no sense by themselves.
#[derive(Debug, Default)]
struct Broken {
    by_origin: BTreeMap<Origin, Refused>,
    by_id: HashMap<DocumentId, BTreeSet<Origin>>,
    /// By what holds them, as a file does.
    by_container: HashMap<Arc<str>, BTreeSet<Origin>>,
}

/// Changes that an update made.
#[derive(Debug, Default)]
pub(super) struct Updated {
    /// The documents of which something changed.
    pub(super) ids: BTreeSet<DocumentId>,
    /// Where broken documents stood that are gone or changed, and where they stand that are new or changed.
    pub(super) no_longer_broken: Vec<Origin>,
    pub(super) newly_broken: Vec<Origin>,
}

impl Offered {
    /// Takes over what the source holds now. What is `known` already with the same content is not parsed again.
    pub(super) fn update(&mut self, documents: &SharedMap<Origin, Arc<Document>>, known: &ParsedById) -> Updated {
        let changed: Vec<Origin> = documents.changed_since(&self.documents).cloned().collect();
        let mut updated = Updated::default();
        changed.iter().for_each(|origin| self.take_out(origin, &mut updated));
        let new: Vec<&Arc<Document>> = changed.iter().filter_map(|origin| documents.get(origin)).collect();
        for parsed in parse_all(&new, known) {
            self.put_in(parsed, &mut updated);
        }
        self.documents = documents.clone();
        updated
    }

    /// Every document that claims to be this one and makes sense by itself.
    pub(super) fn of(&self, id: &DocumentId) -> &[Arc<Parsed>] {
        self.by_id.get(id).map_or(&[], Vec::as_slice)
    }

    /// The documents that make no sense by themselves, in the order of their places.
    pub(super) fn broken(&self) -> impl Iterator<Item = &Refused> {
        self.broken.by_origin.values()
    }

    pub(super) fn broken_at(&self, origin: &Origin) -> Option<&Refused> {
        self.broken.by_origin.get(origin)
    }

    /// Where broken documents stand that claim to be this one.
    pub(super) fn broken_claims(&self, id: &DocumentId) -> impl Iterator<Item = &Origin> {
        self.broken.by_id.get(id).into_iter().flatten()
    }

    /// The broken documents in a container, as a file is one.
    pub(super) fn broken_in(&self, container: &str) -> impl Iterator<Item = &Refused> {
        let origins = self.broken.by_container.get(container).into_iter().flatten();
        origins.filter_map(|origin| self.broken.by_origin.get(origin))
    }

    /// Everything that is wrong with single documents, and with those that claim the same name.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let broken = self.broken().flat_map(|refused| refused.problems.iter().cloned());
        let doubled = self.by_id.values().flat_map(|parsed| doubled(parsed));
        let mut problems: Vec<_> = doubled.chain(broken).collect();
        problems.sort_by(|a, b| (&a.origin, a.place_in_text()).cmp(&(&b.origin, b.place_in_text())));
        problems
    }

    fn take_out(&mut self, origin: &Origin, updated: &mut Updated) {
        if let Some(refused) = self.broken.remove(origin) {
            updated.no_longer_broken.push(origin.clone());
            updated.ids.extend(refused.id);
            return;
        }
        let Some(parsed) = self.parsed.remove(origin) else { return };
        if let Some(all) = self.by_id.get_mut(&parsed.id) {
            if let Ok(position) = all.binary_search_by(|other| other.document.origin.cmp(origin)) {
                all.remove(position);
            }
            if all.is_empty() {
                self.by_id.remove(&parsed.id);
            }
        }
        updated.ids.insert(parsed.id.clone());
    }

    fn put_in(&mut self, parsed: Result<Arc<Parsed>, Refused>, updated: &mut Updated) {
        match parsed {
            Ok(parsed) => {
                let origin = &parsed.document.origin;
                let all = self.by_id.entry(parsed.id.clone()).or_default();
                if let Err(position) = all.binary_search_by(|other| other.document.origin.cmp(origin)) {
                    all.insert(position, Arc::clone(&parsed));
                }
                updated.ids.insert(parsed.id.clone());
                self.parsed.insert(origin.clone(), parsed);
            }
            Err(refused) => {
                updated.newly_broken.push(refused.document.origin.clone());
                updated.ids.extend(refused.id.clone());
                self.broken.insert(refused);
            }
        }
    }
}

impl Broken {
    fn insert(&mut self, refused: Refused) {
        let origin = &refused.document.origin;
        if let Some(id) = &refused.id {
            self.by_id.entry(id.clone()).or_default().insert(origin.clone());
        }
        self.by_container.entry(Arc::clone(origin.container())).or_default().insert(origin.clone());
        self.by_origin.insert(origin.clone(), refused);
    }

    fn remove(&mut self, origin: &Origin) -> Option<Refused> {
        let refused = self.by_origin.remove(origin)?;
        if let Some(id) = &refused.id {
            remove_of(&mut self.by_id, id, origin);
        }
        remove_of(&mut self.by_container, origin.container(), origin);
        Some(refused)
    }
}

/// Takes an item out of the set of a key, and the key with its last item.
pub(super) fn remove_of<K, Q, V>(sets: &mut HashMap<K, BTreeSet<V>>, key: &Q, item: &V)
where
    K: Borrow<Q> + Hash + Eq,
    Q: Hash + Eq + ?Sized,
    V: Ord,
{
    if let Some(set) = sets.get_mut(key) {
        set.remove(item);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

/// On all cores, where there is much to do: a set is read at the start, and people wait for it.
fn parse_all(documents: &[&Arc<Document>], known: &ParsedById) -> Vec<Result<Arc<Parsed>, Refused>> {
    let parse_some = |documents: &[&Arc<Document>]| -> Vec<_> {
        documents
            .iter()
            .map(|document| reuse(document, known).map_or_else(|| parse(document).map(Arc::new), Ok))
            .collect()
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = documents.len().div_ceil(threads).max(DOCUMENTS_OF_THREAD_MIN);
    if documents.len() <= share {
        return parse_some(documents);
    }
    std::thread::scope(|scope| {
        let shares: Vec<_> = documents.chunks(share).map(|share| scope.spawn(move || parse_some(share))).collect();
        let parsed =
            shares.into_iter().map(|share| share.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        parsed.flatten().collect()
    })
}

/// The document as it was parsed before, where only its revision is another one.
fn reuse(document: &Arc<Document>, known: &ParsedById) -> Option<Arc<Parsed>> {
    let known = known.get(document.origin.id()?).filter(|known| known.document.content == document.content)?;
    Some(Arc::new(Parsed { document: Arc::clone(document), ..Parsed::clone(known) }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::document::split;

    /// The files of a folder, each of some documents.
    fn documents(files: &[Vec<usize>]) -> SharedMap<Origin, Arc<Document>> {
        const DOCUMENTS: [&str; 6] = [
            "{kind: Plan, name: a, limits: [{rate: 1/m}]}",
            "{kind: Plan, name: a, limits: [{rate: 2/m}]}",
            "{kind: Plan, name: b, limits: [{rate: 1/m}]}",
            "{kind: Plan, name: a, limits: [{rate: often}]}",
            "{kind: Plan, name: B}",
            "{kind: ",
        ];
        let texts = files
            .iter()
            .map(|file| file.iter().map(|document| DOCUMENTS[*document]).collect::<Vec<_>>().join("\n---\n"));
        let all = texts.enumerate().flat_map(|(number, text)| split(&format!("{number}.yaml").into(), text.as_bytes()));
        all.map(|document| (document.origin.clone(), Arc::new(document))).collect()
    }

    /// Everything that is asked of it.
    fn told(offered: &Offered, origins: &SharedMap<Origin, Arc<Document>>) -> Vec<String> {
        let ids = ["a", "b", "B"].map(|name| DocumentId::new(crate::names::Kind::Plan, name));
        let of_ids = ids.iter().map(|id| {
            let places: Vec<String> = offered.of(id).iter().map(|parsed| parsed.document.origin.to_string()).collect();
            let claims: Vec<String> = offered.broken_claims(id).map(ToString::to_string).collect();
            format!("{id}: {places:?}, claimed at {claims:?}")
        });
        let of_files =
            (0..3).map(|number| format!("{number}.yaml: {}", offered.broken_in(&format!("{number}.yaml")).count()));
        let broken = offered.broken().map(|refused| format!("{:?} at {}", refused.id, refused.document.origin));
        let mut at: Vec<_> =
            origins.keys().filter(|origin| offered.broken_at(origin).is_some()).map(ToString::to_string).collect();
        at.sort();
        let problems = offered.problems().into_iter().map(|problem| format!("{}: {}", problem.origin, problem.message));
        of_ids.chain(of_files).chain(broken).chain(at).chain(problems).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However the files came to be what they are, it is known of them what is known when all are read at once.
        #[test]
        fn a_history_of_files_ends_where_its_last_folder_begins(
            history in prop::collection::vec(prop::collection::vec(prop::collection::vec(0..6_usize, 0..4), 3), 1..8),
        ) {
            let mut offered = Offered::default();
            for files in history {
                let documents = documents(&files);
                offered.update(&documents, &ParsedById::default());
                let mut fresh = Offered::default();
                fresh.update(&documents, &ParsedById::default());
                prop_assert_eq!(told(&offered, &documents), told(&fresh, &documents));
            }
        }
    }

    #[test]
    fn an_update_tells_of_what_changed_and_of_nothing_else() {
        let mut offered = Offered::default();
        let mut update = |files: &[Vec<usize>]| {
            let Updated { ids, no_longer_broken, newly_broken } =
                offered.update(&documents(files), &ParsedById::default());
            let ids: Vec<String> = ids.iter().map(|id| id.name.to_string()).collect();
            (ids.join(" "), no_longer_broken.len(), newly_broken.len())
        };
        assert_eq!(update(&[vec![0], vec![2]]), ("a b".to_owned(), 0, 0));
        assert_eq!(update(&[vec![0], vec![2]]), (String::new(), 0, 0));
        assert_eq!(update(&[vec![1], vec![2]]), ("a".to_owned(), 0, 0));
        assert_eq!(update(&[vec![3], vec![2]]), ("a".to_owned(), 0, 1), "it still says who it is");
        assert_eq!(update(&[vec![5], vec![2]]), ("a".to_owned(), 1, 1));
        assert_eq!(update(&[vec![], vec![2, 2]]), ("b".to_owned(), 1, 0));
        assert_eq!(update(&[vec![], vec![2]]), ("b".to_owned(), 0, 0));
    }

    #[test]
    fn many_documents_are_parsed_on_all_cores_in_their_order() {
        let text = (0..3000)
            .map(|n| format!("{{kind: Plan, name: p{n}, limits: [{{rate: 1/m}}]}}"))
            .collect::<Vec<_>>()
            .join("\n---\n");
        let documents: Vec<Arc<Document>> =
            split(&"p.yaml".into(), text.as_bytes()).into_iter().map(Arc::new).collect();
        let parsed = parse_all(&documents.iter().collect::<Vec<_>>(), &ParsedById::default());
        let names = parsed.iter().map(|parsed| parsed.as_ref().unwrap().id.name.to_string());
        assert!(names.eq((0..3000).map(|n| format!("p{n}"))));
    }
}
