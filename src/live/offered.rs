//! What the source holds, parsed. It is kept up to date by what changed, so that one document among many costs what
//! one document costs.

use std::collections::{BTreeMap, BTreeSet};
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
    parsed: SharedMap<Origin, Arc<Parsed>>,
    /// More than one where several claim to be the same, in the order of their places.
    by_id: SharedMap<DocumentId, Vec<Arc<Parsed>>>,
    broken: BTreeMap<Origin, Refused>,
}

impl Offered {
    /// Takes over what the source holds now. Gives everybody of whom something changed. What is `known` already
    /// with the same content is not parsed again.
    pub(super) fn update(
        &mut self,
        documents: &SharedMap<Origin, Arc<Document>>,
        known: &ParsedById,
    ) -> BTreeSet<DocumentId> {
        let changed: Vec<Origin> = documents.changed_since(&self.documents).cloned().collect();
        let mut ids: BTreeSet<DocumentId> = changed.iter().filter_map(|origin| self.take_out(origin)).collect();
        let new: Vec<&Arc<Document>> = changed.iter().filter_map(|origin| documents.get(origin)).collect();
        for parsed in parse_all(&new, known) {
            ids.extend(self.put_in(parsed));
        }
        self.documents = documents.clone();
        ids
    }

    /// Every document that claims to be this one and makes sense by itself.
    pub(super) fn of(&self, id: &DocumentId) -> &[Arc<Parsed>] {
        self.by_id.get(id).map_or(&[], Vec::as_slice)
    }

    /// The documents that make no sense by themselves.
    pub(super) fn broken(&self) -> impl Iterator<Item = &Refused> {
        self.broken.values()
    }

    /// Everything that is wrong with single documents, and with those that claim the same name.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let broken = self.broken.values().flat_map(|refused| refused.problems.iter().cloned());
        let doubled = self.by_id.values().flat_map(|parsed| doubled(parsed));
        let mut problems: Vec<_> = doubled.chain(broken).collect();
        problems.sort_by(|a, b| (&a.origin, a.place_in_text()).cmp(&(&b.origin, b.place_in_text())));
        problems
    }

    fn take_out(&mut self, origin: &Origin) -> Option<DocumentId> {
        if let Some(refused) = self.broken.remove(origin) {
            return refused.id;
        }
        let id = self.parsed.remove(origin)?.id.clone();
        let mut others = self.by_id.remove(&id).unwrap_or_default();
        others.retain(|parsed| parsed.document.origin != *origin);
        if !others.is_empty() {
            self.by_id.insert(id.clone(), others);
        }
        Some(id)
    }

    fn put_in(&mut self, parsed: Result<Arc<Parsed>, Refused>) -> Option<DocumentId> {
        match parsed {
            Ok(parsed) => {
                let id = parsed.id.clone();
                let mut all = self.by_id.get(&id).cloned().unwrap_or_default();
                all.push(Arc::clone(&parsed));
                all.sort_by(|a, b| a.document.origin.cmp(&b.document.origin));
                self.by_id.insert(id.clone(), all);
                self.parsed.insert(parsed.document.origin.clone(), parsed);
                Some(id)
            }
            Err(refused) => {
                let id = refused.id.clone();
                self.broken.insert(refused.document.origin.clone(), refused);
                id
            }
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

/// What a key held before, where only its revision is another one.
fn reuse(document: &Arc<Document>, known: &ParsedById) -> Option<Arc<Parsed>> {
    let known = known.get(document.origin.id()?).filter(|known| known.document.content == document.content)?;
    Some(Arc::new(Parsed { document: Arc::clone(document), ..Parsed::clone(known) }))
}
