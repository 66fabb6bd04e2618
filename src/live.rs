//! What is served now: one generation, swapped whole.
//!
//! ```text
//! source --Documents--> Writer --adopt--> Generation --swap--> Live <-- xds, rls, admin
//! ```
//!
//! There is one writer. Readers load the generation once and keep it to the end of what they do, so the routes
//! that an Envoy has and the limits that its requests meet never come from different sets.

mod adopt;
mod generation;

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;

use crate::clock::Timestamp;
use crate::document::Documents;

pub use adopt::Refusal;
pub use generation::{Generation, Settings};

/// The served state, for its readers.
#[derive(Debug)]
pub struct Live {
    generation: ArcSwapOption<Generation>,
    refused: ArcSwap<Vec<Refusal>>,
    /// The number of the generation; 0 before the first.
    changed: watch::Sender<u64>,
}

impl Live {
    /// The two ends: what readers share, and the only one that changes it.
    pub fn new(settings: Settings) -> (Arc<Self>, Writer) {
        let live = Arc::new(Self {
            generation: ArcSwapOption::empty(),
            refused: ArcSwap::default(),
            changed: watch::Sender::new(0),
        });
        (Arc::clone(&live), Writer { live, settings })
    }

    /// `None` until a first set is loaded: then nothing is answered, which is safer than answering "nothing".
    pub fn generation(&self) -> Option<Arc<Generation>> {
        self.generation.load_full()
    }

    /// The documents that are refused now, each until it is mended.
    pub fn refused(&self) -> Arc<Vec<Refusal>> {
        self.refused.load_full()
    }

    /// Wakes when a new generation is served.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// The one that changes what is served.
#[derive(Debug)]
pub struct Writer {
    live: Arc<Live>,
    settings: Settings,
}

/// What became of a set of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// A new generation is served.
    Served,
    /// All that could change is refused, or nothing changed.
    Unchanged,
    /// There is no document at all. What was served goes on: an empty folder is more often an accident than a wish.
    Empty,
}

impl Writer {
    /// Serves as much of the documents as fits together; what does not keeps its last good version.
    pub fn adopt(&mut self, documents: &Documents, now: Timestamp) -> Adopted {
        let served = self.live.generation();
        if documents.documents.is_empty() && !self.settings.allow_empty {
            return Adopted::Empty;
        }
        let refused_before = self.live.refused();
        let adoption = adopt::adopt(served.as_deref(), documents, &refused_before, now);
        self.live.refused.store(Arc::new(adoption.refused));
        let is_same = served.as_ref().is_some_and(|served| served.has_documents(&adoption.documents));
        if is_same {
            return Adopted::Unchanged;
        }
        let number = served.map_or(0, |served| served.number) + 1;
        let generation =
            Generation::new(number, documents.revision, adoption.documents, adoption.policies, &self.settings);
        self.live.generation.store(Some(Arc::new(generation)));
        self.live.changed.send_replace(number);
        Adopted::Served
    }
}
