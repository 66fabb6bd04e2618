//! The decisions of all time as a few numbers, and what two of these differ by: how much was decided in between, and how
//! fast.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Metrics;
use crate::names::Name;

/// The results that are counted once for a request. Those of its limits are counted for each of them.
pub const OF_REQUESTS: [&str; 8] =
    ["ok", "denied", "tenant_missing", "tenant_unknown", "tenant_suspended", "store_away", "uncountable", "no_match"];
/// The results of the limits of a request.
pub const OF_LIMITS: [&str; 3] = ["over_limit", "shadow_over_limit", "no_room"];
const DENIED: [&str; 4] = ["denied", "tenant_missing", "tenant_unknown", "tenant_suspended"];
/// No counter had a part in what became of the request, or of one of its limits.
const FAILED: [&str; 3] = ["store_away", "uncountable", "no_room"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Requests that were decided.
    pub decisions: u64,
    /// Of these, those that a limit denied, or whose tenant is not served.
    pub denied: u64,
    /// Those that no counter, or not that of each limit, decided; and those that were answered with an error instead.
    pub failed: u64,
    bounds: Arc<[Duration]>,
    /// By their time, as the bounds have it.
    timed: Vec<u64>,
}

impl Metrics {
    /// The decisions up to now. A decision that comes meanwhile is in some of the numbers and not in others.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals {
            decisions: 0,
            denied: 0,
            failed: self.decision_errors_all.get(),
            bounds: Arc::clone(self.decision_seconds.bounds()),
            timed: self.decision_seconds.counts(),
        };
        self.decisions.for_each(|labels, count| {
            let of = |results: &[&str]| if results.contains(&labels.result) { count } else { 0 };
            totals.decisions += of(&OF_REQUESTS);
            totals.denied += of(&DENIED);
            totals.failed += of(&FAILED);
        });
        totals
    }
}

/// The same by gateway, Api and limit. `None` in the place of an Api is all of them.
#[derive(Debug, Default)]
pub struct ByLimit {
    limits: HashMap<LimitLabels, OverLimit>,
    decisions: HashMap<(Arc<str>, Option<Arc<str>>), u64>,
}

/// Gateway, Api, tier and limit.
type LimitLabels = (Arc<str>, Option<Arc<str>>, &'static str, Arc<str>);

/// The requests that were over a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverLimit {
    /// These it denied.
    pub enforced: u64,
    /// These it would have denied if it were enforced.
    pub shadow: u64,
}

impl Metrics {
    pub fn by_limit(&self) -> ByLimit {
        let mut all = ByLimit::default();
        self.decisions.for_each(|labels, count| {
            let Some(gateway) = &labels.gateway else { return };
            let apis = [None].into_iter().chain(labels.api.iter().cloned().map(Some));
            if OF_REQUESTS.contains(&labels.result) {
                apis.for_each(|api| *all.decisions.entry((Arc::clone(gateway), api)).or_default() += count);
                return;
            }
            let (enforced, shadow) = match labels.result {
                "over_limit" => (count, 0),
                "shadow_over_limit" => (0, count),
                _ => return,
            };
            for (api, limit) in apis.zip(labels.limit.iter().cycle()) {
                let over = all.limits.entry((Arc::clone(gateway), api, labels.tier, Arc::clone(limit))).or_default();
                over.enforced += enforced;
                over.shadow += shadow;
            }
        });
        all
    }
}

impl ByLimit {
    pub fn over_limit(&self, gateway: &Name, api: Option<&Name>, tier: &'static str, limit: &Name) -> OverLimit {
        let id = (gateway.to_arc(), api.map(Name::to_arc), tier, limit.to_arc());
        self.limits.get(&id).copied().unwrap_or_default()
    }

    /// Requests that were decided.
    pub fn decisions(&self, gateway: &Name, api: Option<&Name>) -> u64 {
        self.decisions.get(&(gateway.to_arc(), api.map(Name::to_arc))).copied().unwrap_or_default()
    }
}

impl Totals {
    /// What was decided since.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let timed = self.timed.iter().enumerate().map(|(bucket, count)| {
            let before = before.timed.get(bucket).copied().unwrap_or_default();
            count.saturating_sub(before)
        });
        Self {
            decisions: self.decisions.saturating_sub(before.decisions),
            denied: self.denied.saturating_sub(before.denied),
            failed: self.failed.saturating_sub(before.failed),
            bounds: Arc::clone(&self.bounds),
            timed: timed.collect(),
        }
    }

    /// The time that so many of a thousand decisions did not take longer than, as if those of a bucket were spread evenly over
    /// it. `None`: there was none.
    pub fn quantile(&self, permille: u64) -> Option<Duration> {
        let all: u64 = self.timed.iter().sum();
        let rank = (all * permille).div_ceil(1000).max(1);
        let (mut lower, mut before) = (Duration::ZERO, 0);
        for (bucket, count) in self.timed.iter().enumerate() {
            // Of those above all bounds nothing is known but that.
            let upper = self.bounds.get(bucket).copied().unwrap_or(lower);
            if before + count >= rank && *count > 0 {
                return Some(lower + (upper - lower).mul_f64((rank - before) as f64 / *count as f64));
            }
            (lower, before) = (upper, before + count);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Decided;
    use crate::names::Name;

    fn count(metrics: &Metrics, result: &'static str, times: usize) {
        let gateway = Name::parse("shop");
        let decided = Decided { gateway: gateway.as_ref(), api: None, tier: "", limit: None, result };
        (0..times).for_each(|_| metrics.decisions.count(&decided));
    }

    #[test]
    fn a_request_counts_once_whatever_its_limits_said() {
        let metrics = Metrics::default();
        let before = metrics.totals();
        assert_eq!((before.decisions, before.denied, before.failed, before.quantile(990)), (0, 0, 0, None));
        for (times, result) in OF_REQUESTS.into_iter().enumerate() {
            count(&metrics, result, times + 1);
        }
        for result in OF_LIMITS {
            count(&metrics, result, 100);
        }
        metrics.decision_errors_all.inc();
        let after = metrics.totals();
        let since = after.since(&before);
        assert_eq!((since.decisions, since.denied, since.failed), (36, 2 + 3 + 4 + 5, 6 + 7 + 100 + 1));
        count(&metrics, "denied", 2);
        let since = metrics.totals().since(&after);
        assert_eq!((since.decisions, since.denied, since.failed), (2, 2, 0));
    }

    #[test]
    fn a_quantile_lies_in_the_bucket_that_has_it() {
        let metrics = Metrics::default();
        let micros = |count: usize, micros| {
            (0..count).for_each(|_| metrics.decision_seconds.observe(Duration::from_micros(micros)));
        };
        micros(1000, 3);
        let before = metrics.totals();
        micros(98, 5);
        micros(2, 1000);
        let since = metrics.totals().since(&before);
        // From 4 to 8 microseconds, and from 512 to 1024.
        assert_eq!(since.quantile(490), Some(Duration::from_micros(6)));
        assert_eq!(since.quantile(980), Some(Duration::from_micros(8)));
        assert_eq!(since.quantile(990), Some(Duration::from_micros(768)));
        assert_eq!(since.quantile(1000), Some(Duration::from_micros(1024)));
        assert_eq!(before.quantile(500), Some(Duration::from_micros(3)));
        // What takes longer than the last bound took that long at least.
        micros(10_000, 10_000_000);
        assert_eq!(metrics.totals().since(&before).quantile(990), Some(Duration::from_micros(2 << 15)));
    }

    #[test]
    fn what_a_limit_of_a_tenant_denied_is_known_for_each_api_and_for_all() {
        let metrics = Metrics::default();
        let name = |text| Name::parse(text).unwrap();
        let [shop, pay, look, minute] = ["shop", "pay", "look", "minute"].map(name);
        let count = |api: Option<&Name>, tier, limit: Option<&Name>, result| {
            metrics.decisions.count(&Decided { gateway: Some(&shop), api, tier, limit, result });
        };
        for api in [Some(&pay), Some(&pay), Some(&look), None] {
            count(api, "tenant", Some(&minute), "over_limit");
            count(api, "tenant", Some(&minute), "shadow_over_limit");
            count(api, "", None, "denied");
        }
        count(Some(&pay), "api", Some(&minute), "over_limit");
        count(Some(&pay), "", None, "ok");
        let all = metrics.by_limit();
        let over = |api, tier| all.over_limit(&shop, api, tier, &minute);
        let both = |number| OverLimit { enforced: number, shadow: number };
        assert_eq!(
            [over(Some(&pay), "tenant"), over(Some(&look), "tenant"), over(None, "tenant")],
            [2, 1, 4].map(both)
        );
        assert_eq!(over(Some(&pay), "api"), OverLimit { enforced: 1, shadow: 0 });
        assert_eq!(over(Some(&look), "api"), OverLimit::default());
        let decisions = [Some(&pay), Some(&look), None].map(|api| all.decisions(&shop, api));
        assert_eq!(decisions, [3, 1, 5]);
    }
}
