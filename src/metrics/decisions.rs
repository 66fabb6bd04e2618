//! How many requests were decided, and by what.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::HashMap;
use parking_lot::RwLock;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};

use super::DecisionLabels;
use super::parts::{Part, PartedCounter};
use crate::names::Name;

/// Counters by their labels. A decision finds its counter by where the names of its labels lie in memory, without hashing
/// their text or waiting for a lock: a policy's names are there once, and are shared by all who use them.
#[derive(Debug)]
pub struct Decisions {
    pub(super) series: Series,
    series_max: usize,
    /// Tells it from every other in this process.
    id: u64,
}

/// The series of the metric. Those of policies that are gone stay, as Prometheus wants it of what only grows.
#[derive(Clone, Debug, Default)]
pub(super) struct Series(Arc<RwLock<HashMap<DecisionLabels, PartedCounter>>>);

/// The most series. What is decided by names beyond that is counted without them, or a fleet whose policies come and go
/// would fill the memory.
const SERIES_MAX: usize = 200_000;

/// The labels of a decision, by reference.
#[derive(Clone, Copy, Debug)]
pub struct Decided<'a> {
    pub gateway: Option<&'a Name>,
    pub api: Option<&'a Name>,
    pub tier: &'static str,
    pub limit: Option<&'a Name>,
    pub result: &'static str,
}

/// The addresses of the labels' texts. An entry keeps the texts alive, so that no other takes their place.
#[derive(PartialEq, Eq, Hash)]
struct Place {
    decisions: u64,
    texts: [usize; 5],
}

/// More than a set of policies usually has. Every new set has new names.
const PLACES_MAX: usize = 4096;

thread_local! {
    static PARTS: RefCell<HashMap<Place, (DecisionLabels, Part)>> = RefCell::default();
}

impl Default for Decisions {
    fn default() -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        Self { series: Series::default(), series_max: SERIES_MAX, id: IDS.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Decisions {
    pub fn count(&self, decided: &Decided<'_>) {
        let place = Place { decisions: self.id, texts: decided.addresses() };
        PARTS.with_borrow_mut(|parts| {
            if parts.len() >= PLACES_MAX && !parts.contains_key(&place) {
                parts.clear();
            }
            let (_, part) = parts.entry(place).or_insert_with(|| {
                let labels = decided.labels();
                let part = self.series.part(&labels, self.series_max);
                (labels, part)
            });
            part.increment();
        });
    }

    /// Shows it as counted 0 times, unless it was counted.
    pub fn begin(&self, decided: &Decided<'_>) {
        drop(self.series.part(&decided.labels(), self.series_max));
    }

    /// All that was counted, by its labels and in no order.
    pub fn for_each(&self, mut look: impl FnMut(&DecisionLabels, u64)) {
        self.series.0.read().iter().for_each(|(labels, counter)| look(labels, counter.get()));
    }
}

impl Series {
    /// A thread's part of the counter of these labels.
    fn part(&self, labels: &DecisionLabels, series_max: usize) -> Part {
        if let Some(counter) = self.0.read().get(labels) {
            return counter.part();
        }
        let mut series = self.0.write();
        let is_full = series.len() >= series_max && !series.contains_key(labels);
        let labels = if is_full { labels.without_names() } else { labels.clone() };
        series.entry(labels).or_default().part()
    }
}

impl DecisionLabels {
    fn without_names(&self) -> Self {
        Self { gateway: None, api: None, limit: None, ..self.clone() }
    }
}

impl TypedMetric for Series {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for Series {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        for (labels, counter) in &*self.0.read() {
            counter.encode(encoder.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl Decided<'_> {
    fn addresses(&self) -> [usize; 5] {
        let address = |text: &str| text.as_ptr().addr();
        let shared = |name: Option<&Name>| name.map_or(0, |name| address(name.as_str()));
        [shared(self.gateway), shared(self.api), address(self.tier), shared(self.limit), address(self.result)]
    }

    fn labels(&self) -> DecisionLabels {
        DecisionLabels {
            gateway: self.gateway.map(Name::to_arc),
            api: self.api.map(Name::to_arc),
            tier: self.tier,
            limit: self.limit.map(Name::to_arc),
            result: self.result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(decisions: &Decisions, gateway: &Name, result: &'static str) {
        let decided = Decided { gateway: Some(gateway), api: None, tier: "", limit: None, result };
        decisions.count(&decided);
    }

    fn counted(decisions: &Decisions, gateway: &str, result: &'static str) -> u64 {
        let gateway = Some(Arc::from(gateway));
        let labels = DecisionLabels { gateway, api: None, tier: "", limit: None, result };
        decisions.series.0.read().get(&labels).map_or(0, PartedCounter::get)
    }

    #[test]
    fn decisions_are_counted_by_their_labels_wherever_these_lie() {
        let [one, other] = [Decisions::default(), Decisions::default()];
        let name = |text| Name::parse(text).unwrap();
        let shop = name("shop");
        count(&one, &shop, "ok");
        count(&one, &shop, "ok");
        count(&one, &name("shop"), "ok");
        count(&one, &shop, "over_limit");
        count(&one, &name("mall"), "ok");
        count(&other, &shop, "ok");
        std::thread::scope(|scope| {
            scope.spawn(|| count(&one, &shop, "ok"));
        });
        assert_eq!(counted(&one, "shop", "ok"), 4);
        assert_eq!(
            [counted(&one, "shop", "over_limit"), counted(&one, "mall", "ok"), counted(&other, "shop", "ok")],
            [1; 3]
        );
    }

    #[test]
    fn names_that_come_and_go_are_forgotten_and_their_counts_are_not() {
        let decisions = Decisions::default();
        for _ in 0..2 * PLACES_MAX {
            count(&decisions, &Name::parse("shop").unwrap(), "ok");
        }
        assert_eq!(counted(&decisions, "shop", "ok"), 2 * PLACES_MAX as u64);
        assert!(PARTS.with_borrow(|parts| parts.len()) <= PLACES_MAX);
    }

    #[test]
    fn series_have_a_bound_and_what_comes_beyond_is_counted_without_names() {
        let decisions = Decisions { series_max: 10, ..Decisions::default() };
        for number in 0..100 {
            count(&decisions, &Name::parse(&format!("shop-{number}")).unwrap(), "ok");
        }
        count(&decisions, &Name::parse("shop-0").unwrap(), "ok");
        let (mut named, mut unnamed) = (Vec::new(), Vec::new());
        decisions.for_each(|labels, count| match labels.gateway {
            Some(_) => named.push(count),
            None => unnamed.push(count),
        });
        named.sort_unstable();
        assert_eq!((&named[..], &unnamed[..]), (&[1, 1, 1, 1, 1, 1, 1, 1, 1, 2][..], &[90][..]));
    }
}
