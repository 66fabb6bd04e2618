//! Exemplars of a histogram: for each bucket the last decision in it whose trace is recorded (OpenMetrics 1.0, "Exemplars").
//! prometheus-client has them for a histogram of its own alone, so they are added to the text that it makes.

use std::fmt::Write as _;
use std::time::Duration;

use parking_lot::Mutex;

/// By bucket.
#[derive(Debug)]
pub(super) struct Exemplars(Mutex<Box<[Option<Exemplar>]>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Exemplar {
    trace: String,
    took: Duration,
    /// Since 1970.
    at: Duration,
}

impl Exemplars {
    pub(super) fn of(buckets: usize) -> Self {
        Self(Mutex::new(vec![None; buckets].into()))
    }

    pub(super) fn keep(&self, bucket: usize, trace: String, took: Duration, at: Duration) {
        if let Some(place) = self.0.lock().get_mut(bucket) {
            *place = Some(Exemplar { trace, took, at });
        }
    }

    /// The text with what is known of the buckets of this metric, which stand in their order.
    pub(super) fn add_to(&self, text: String, metric: &str) -> String {
        let exemplars = self.0.lock().clone();
        if exemplars.iter().all(Option::is_none) {
            return text;
        }
        let mut exemplars = exemplars.iter();
        let mut annotated = String::with_capacity(text.len() + 2048);
        for line in text.lines() {
            annotated.push_str(line);
            let is_bucket = line.strip_prefix(metric).is_some_and(|rest| rest.starts_with("_bucket{"));
            if is_bucket && let Some(Some(Exemplar { trace, took, at })) = exemplars.next() {
                let (took, at) = (took.as_secs_f64(), at.as_secs_f64());
                let _ = write!(annotated, " # {{trace_id=\"{trace}\"}} {took} {at:.3}");
            }
            annotated.push('\n');
        }
        annotated
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn each_bucket_shows_the_last_trace_that_was_kept_for_it() {
        let metrics = Metrics::default();
        let plain = metrics.render();
        let at = Duration::from_millis(1_520_879_607_789);
        metrics.decision_seconds.observe(Duration::from_micros(3));
        for (trace, micros) in [("a", 3), ("b", 4), ("c", 10_000_000)] {
            metrics.decision_seconds.exemplify(trace.to_owned(), Duration::from_micros(micros), at);
        }
        let text = metrics.render();
        let buckets: Vec<&str> = text.lines().filter(|line| line.contains(" # {")).collect();
        let expected = [
            "tierflow_decision_seconds_bucket{le=\"0.000004\"} 1 # {trace_id=\"b\"} 0.000004 1520879607.789",
            "tierflow_decision_seconds_bucket{le=\"+Inf\"} 1 # {trace_id=\"c\"} 10 1520879607.789",
        ];
        assert_eq!(buckets, expected);
        let others = |text: &str| -> Vec<String> {
            text.lines().filter(|line| !line.starts_with("tierflow_decision_seconds")).map(str::to_owned).collect()
        };
        assert_eq!(others(&text), others(&plain));
        assert!(text.ends_with("# EOF\n"));
    }
}
