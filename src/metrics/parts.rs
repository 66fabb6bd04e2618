//! Metrics that every decision writes. Each thread writes to a part of its own, and a scrape adds the parts up: threads
//! that shared a number would wait for each other's caches.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

use super::exemplars::Exemplars;

/// A counter in parts.
#[derive(Clone, Debug, Default)]
pub(super) struct PartedCounter(Arc<Mutex<Parts>>);

#[derive(Debug, Default)]
struct Parts {
    /// The sum of the parts that nobody adds to any more.
    ended: u64,
    parts: Vec<Arc<AtomicU64>>,
}

/// A thread's part of a counter. What it counted stays counted when it is dropped.
#[derive(Debug)]
pub(super) struct Part(Arc<AtomicU64>);

impl PartedCounter {
    /// A new part, which starts at 0.
    pub(super) fn part(&self) -> Part {
        let part = Arc::<AtomicU64>::default();
        let mut parts = self.0.lock();
        parts.fold_ended();
        parts.parts.push(Arc::clone(&part));
        Part(part)
    }

    pub(super) fn get(&self) -> u64 {
        let parts = self.0.lock();
        parts.ended + parts.parts.iter().map(|part| part.load(Ordering::Relaxed)).sum::<u64>()
    }
}

impl Parts {
    fn fold_ended(&mut self) {
        let Self { ended, parts } = self;
        parts.retain(|part| {
            // The other one is the thread's. Once that is gone nothing is added, and all that was is seen here.
            let is_held = Arc::strong_count(part) > 1;
            if !is_held {
                std::sync::atomic::fence(Ordering::Acquire);
                *ended += part.load(Ordering::Relaxed);
            }
            is_held
        });
    }
}

impl Part {
    pub(super) fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl TypedMetric for PartedCounter {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for PartedCounter {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.encode_counter::<NoLabelSet, _, u64>(&self.get(), None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// Threads that a histogram has room for. More of them share.
const STRIPES: usize = 16;

/// A histogram of durations, in parts. Its buckets double from one to the next.
#[derive(Clone, Debug)]
pub struct PartedHistogram {
    /// The upper bounds, ascending.
    bounds: Arc<[Duration]>,
    stripes: Arc<[Stripe]>,
    exemplars: Arc<Exemplars>,
}

/// Of one thread. Aligned to two lines of the processor's cache, which it fetches in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Stripe {
    /// One for each bound, and one for what is above all.
    counts: Box<[AtomicU64]>,
    nanos: AtomicU64,
}

impl PartedHistogram {
    pub fn doubling(first: Duration, buckets: usize) -> Self {
        let bounds: Arc<[Duration]> =
            std::iter::successors(Some(first), |bound| Some(*bound * 2)).take(buckets).collect();
        let counts = || (0..=buckets).map(|_| AtomicU64::new(0)).collect();
        let stripes = (0..STRIPES).map(|_| Stripe { counts: counts(), nanos: AtomicU64::new(0) }).collect();
        Self { bounds, stripes, exemplars: Arc::new(Exemplars::of(buckets + 1)) }
    }

    pub fn observe(&self, duration: Duration) {
        let bucket = self.bucket(duration);
        let stripe = self.stripes.get(stripe_of_thread());
        if let Some((stripe, count)) = stripe.and_then(|stripe| Some((stripe, stripe.counts.get(bucket)?))) {
            count.fetch_add(1, Ordering::Relaxed);
            stripe.nanos.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// Keeps the trace of one of the durations that were observed, which ended so long after 1970.
    pub fn exemplify(&self, trace: String, duration: Duration, at: Duration) {
        self.exemplars.keep(self.bucket(duration), trace, duration, at);
    }

    pub(super) fn exemplars(&self) -> &Exemplars {
        &self.exemplars
    }

    fn bucket(&self, duration: Duration) -> usize {
        self.bounds.partition_point(|bound| *bound < duration)
    }

    /// The upper bounds of its buckets, ascending; what is above all has a bucket of its own.
    pub(super) fn bounds(&self) -> &Arc<[Duration]> {
        &self.bounds
    }

    /// The counts of all stripes by bucket.
    pub(super) fn counts(&self) -> Vec<u64> {
        let of_bucket = |bucket: usize| {
            let of_stripe =
                |stripe: &Stripe| stripe.counts.get(bucket).map_or(0, |count| count.load(Ordering::Relaxed));
            self.stripes.iter().map(of_stripe).sum()
        };
        (0..=self.bounds.len()).map(of_bucket).collect()
    }
}

fn stripe_of_thread() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static STRIPE: Cell<usize> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES);
    }
    STRIPE.get()
}

impl TypedMetric for PartedHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for PartedHistogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let nanos: u64 = self.stripes.iter().map(|stripe| stripe.nanos.load(Ordering::Relaxed)).sum();
        let counts = self.counts();
        let bounds = self.bounds.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
        encoder.encode_histogram::<NoLabelSet>(nanos as f64 / 1e9, counts.iter().sum(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn a_counter_is_the_sum_of_its_parts_and_keeps_those_of_threads_that_ended() {
        let counter = PartedCounter::default();
        let kept = counter.part();
        kept.increment();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let part = counter.part();
                std::thread::spawn(move || (0..1000).for_each(|_| part.increment()))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(counter.get(), 4001);
        let another = counter.part();
        another.increment();
        assert_eq!(counter.get(), 4002);
        assert_eq!(counter.0.lock().parts.len(), 2, "those that ended are one number");
    }

    #[test]
    fn a_histogram_has_cumulative_buckets_as_prometheus_wants_them() {
        let histogram = PartedHistogram::doubling(Duration::from_micros(2), 3);
        let observe = |micros| histogram.observe(Duration::from_micros(micros));
        observe(1);
        observe(2);
        std::thread::scope(|scope| drop(scope.spawn(|| observe(3))));
        observe(1000);
        let mut registry = Registry::default();
        registry.register("it", "help", histogram.clone());
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "it_sum 0.001006",
            "it_count 4",
            "it_bucket{le=\"0.000002\"} 2",
            "it_bucket{le=\"0.000004\"} 3",
            "it_bucket{le=\"0.000008\"} 3",
            "it_bucket{le=\"+Inf\"} 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
