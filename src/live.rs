//! What is served now: one generation, swapped whole.
//!
//! ```text
//! source --Documents--> Writer --adopt--> Generation --swap--> Live <-- xds, rls, admin
//! ```
//!
//! There is one writer. Readers load the generation once and keep it to the end of what they do, so the routes
//! that an Envoy has and the limits that its requests meet never come from different sets.

mod adopt;
mod affected;
mod forms;
mod generation;
mod offered;
mod refusals;
mod waiting;

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock::Timestamp;
use crate::document::{Documents, Instances, Registered};
use crate::names::{DocumentId, Revision};
use crate::policy::set::PolicySet;

use adopt::{Adopter, Adoption};
use generation::Parts;

pub use crate::policy::parse::Parsed;
pub use forms::Forms;
pub use generation::{Generation, Group, Memberships, Settings};
pub use refusals::{Refusal, Refusals};

/// The served state, for its readers.
#[derive(Debug)]
pub struct Live {
    /// Swapped whole: whoever sees that a document is no longer refused finds it served.
    served: ArcSwap<Served>,
    /// The number of the generation; 0 before the first.
    changed: watch::Sender<u64>,
    /// The revision up to which everything that the source told was looked at.
    adopted: watch::Sender<Revision>,
    /// The empty generation, served to nobody, before there is another.
    empty: Arc<Generation>,
    /// Documents that this replica is about to write, until the next set is adopted.
    announced: Mutex<Vec<Arc<Parsed>>>,
    /// Forms of older generations: by them requests are counted that come by older routes.
    pub forms: Arc<Forms>,
}

impl Live {
    /// The two ends: what readers share, and the only one that changes it.
    pub fn new(settings: Settings) -> (Arc<Self>, Writer) {
        let base = Arc::new(Generation::empty(&settings));
        let live = Arc::new(Self {
            served: ArcSwap::default(),
            changed: watch::Sender::new(0),
            adopted: watch::Sender::new(Revision::default()),
            empty: Arc::clone(&base),
            announced: Mutex::default(),
            forms: Arc::default(),
        });
        (Arc::clone(&live), Writer { live, settings, base, instances: None, adopter: Adopter::default() })
    }

    /// As [`Live::served`], for who keeps it for a moment only and has no time to count itself among its holders.
    pub fn load(&self) -> Guard<Arc<Served>> {
        self.served.load()
    }

    /// The served generation and the refusals, at one moment.
    pub fn served(&self) -> Arc<Served> {
        self.served.load_full()
    }

    /// `None` until a first set is loaded: then nothing is answered, which is safer than answering "nothing".
    pub fn generation(&self) -> Option<Arc<Generation>> {
        self.served.load().generation.clone()
    }

    /// The served generation, or the empty one that nobody is served.
    pub fn latest(&self) -> Arc<Generation> {
        self.generation().unwrap_or_else(|| Arc::clone(&self.empty))
    }

    /// Takes documents that this replica is about to write, as they were parsed to be checked. Where the source tells of
    /// them next, they are not parsed again.
    pub fn announce(&self, documents: Vec<Arc<Parsed>>) {
        *self.announced.lock() = documents;
    }

    /// The revision up to which everything that the source told was looked at, be it served or refused.
    pub fn adopted(&self) -> watch::Receiver<Revision> {
        self.adopted.subscribe()
    }

    /// The documents that are refused now, each until it is mended.
    pub fn refused(&self) -> Arc<Refusals> {
        Arc::clone(&self.served.load().refused)
    }

    /// Wakes when a new generation is served, and when what is missing from it is known at last.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// One moment of it.
#[derive(Debug, Default)]
pub struct Served {
    /// `None` until a first set is loaded.
    pub generation: Option<Arc<Generation>>,
    /// The documents that are refused, each until it is mended.
    pub refused: Arc<Refusals>,
    /// When the documents that it comes from were read.
    pub read_at: Timestamp,
}

/// The one that changes what is served.
#[derive(Debug)]
pub struct Writer {
    live: Arc<Live>,
    settings: Settings,
    /// The generation that is served, or that was restored and waits to be; the empty one before either.
    base: Arc<Generation>,
    /// What is registered in `base` comes from. `None`: nothing that the source has told yet.
    instances: Option<Instances>,
    adopter: Adopter,
}

/// Outcome of the adoption of a set of documents.
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
        let adopted = self.take(documents, now);
        self.live.adopted.send_replace(documents.revision);
        adopted
    }

    fn take(&mut self, documents: &Documents, now: Timestamp) -> Adopted {
        let is_empty = documents.documents.is_empty();
        if is_empty && !self.settings.allow_empty {
            self.forget_refused();
            return Adopted::Empty;
        }
        let announced = std::mem::take(&mut *self.live.announced.lock());
        let Adoption { documents: adopted, policies, changed, refusals: refused, .. } =
            self.adopter.adopt(&self.base, documents, &announced, now);
        let registered = self.registered(documents.instances.clone().unwrap_or_default(), &policies, &changed);
        // A first set of which nothing can be served is no set: Envoys keep what they have.
        let rate_limit_service = self.settings.rate_limit_service.with_replicas(&documents.limiters);
        let is_first = self.live.generation().is_none() && (is_empty || !adopted.is_empty());
        let is_same = registered == self.base.registered && rate_limit_service == self.base.rate_limit_service;
        if changed.is_empty() && is_same && !is_first {
            // The documents may stand in other places now.
            self.base = Arc::new(Generation { documents: adopted, ..Generation::clone(&self.base) });
            let generation = self.live.generation().map(|_| Arc::clone(&self.base));
            let may_miss_gateways = refused.may_miss_gateways();
            let before = self.live.served.swap(Arc::new(Served { generation, refused, read_at: now }));
            if before.refused.may_miss_gateways() != may_miss_gateways {
                // An Envoy that no gateway selects may have waited for one that was broken.
                self.live.changed.send_replace(self.base.number);
            }
            return Adopted::Unchanged;
        }
        let number = self.base.number + 1;
        let revision = documents.revision;
        let parts = Parts { revision, documents: adopted, policies, registered, rate_limit_service };
        let next = Arc::new(self.base.next(number, parts, &changed));
        self.publish(next, refused, now);
        Adopted::Served
    }

    /// What is not there any more is not refused. What was made of the set before is gone on with once there is another.
    fn forget_refused(&self) {
        let served = self.live.served();
        if !served.refused.is_empty() {
            let (generation, refused) = (served.generation.clone(), Arc::new(served.refused.forgotten()));
            self.live.served.store(Arc::new(Served { generation, refused, read_at: served.read_at }));
        }
    }

    fn registered(&mut self, instances: Instances, policies: &PolicySet, changed: &BTreeSet<DocumentId>) -> Registered {
        let before = self.instances.as_ref();
        let mut services = generation::services_reached(policies, changed, before, &instances);
        if before.is_none() {
            services.extend(self.base.registered.keys().cloned());
        }
        let registered = generation::registered(policies, &instances, &self.base.registered, services);
        self.instances = Some(instances);
        registered
    }

    /// Begins with a set that was good once, without serving it: documents that the source has no good version of
    /// keep theirs from it. Gives what of it cannot be used any more.
    pub fn restore(&mut self, documents: &Documents, registered: Registered, now: Timestamp) -> Arc<Refusals> {
        let adoption = Adopter::default().adopt(&self.base, documents, &[], now);
        let Adoption { documents: adopted, policies, changed, refusals, .. } = adoption;
        let rate_limit_service = self.settings.rate_limit_service.clone();
        let revision = documents.revision;
        let parts = Parts { revision, documents: adopted, policies, registered, rate_limit_service };
        self.base = Arc::new(self.base.next(0, parts, &changed));
        self.adopter = Adopter::after(&self.base);
        refusals
    }

    /// Serves what was restored, where nothing is served yet. False if there is nothing.
    pub fn serve_restored(&mut self, now: Timestamp) -> bool {
        if self.live.generation().is_some() || self.base.documents.is_empty() {
            return false;
        }
        let first = Arc::new(Generation { number: 1, ..Generation::clone(&self.base) });
        self.publish(first, Arc::default(), now);
        true
    }

    fn publish(&mut self, next: Arc<Generation>, refused: Arc<Refusals>, read_at: Timestamp) {
        // Envoys have the routes of the generation before for a while yet.
        self.live.forms.advance(&self.live.latest(), &self.base, &next, read_at);
        self.base = next;
        let generation = Some(Arc::clone(&self.base));
        self.live.served.store(Arc::new(Served { generation, refused, read_at }));
        self.live.changed.send_replace(self.base.number);
    }
}
