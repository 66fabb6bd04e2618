//! Open ADS streams by group. A gateway that is served has a series from the start; one that is gone has none any more. A
//! series without a name is for Envoys that no gateway selects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};

use crate::names::Name;

/// As many series as there are gateways, and groups of gateways that are gone whose Envoys still have a stream.
#[derive(Clone, Debug, Default)]
pub struct StreamsByGroup(Arc<Mutex<Groups>>);

#[derive(Debug, Default)]
struct Groups {
    /// Those with a stream.
    open: BTreeMap<Option<Name>, i64>,
    served: BTreeSet<Name>,
}

/// A stream that is counted under its group for as long as this lives.
#[derive(Debug)]
pub struct CountedStream {
    streams: StreamsByGroup,
    group: Option<Name>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GroupLabels {
    group: String,
}

impl StreamsByGroup {
    pub fn count(&self, group: Option<&Name>) -> CountedStream {
        *self.0.lock().open.entry(group.cloned()).or_default() += 1;
        CountedStream { streams: self.clone(), group: group.cloned() }
    }

    /// The gateways that there are, in the place of those of before.
    pub fn serve(&self, gateways: BTreeSet<Name>) {
        self.0.lock().served = gateways;
    }

    fn counts(&self) -> BTreeMap<Option<Name>, i64> {
        let groups = self.0.lock();
        let served = groups.served.iter().cloned().map(Some);
        let mut counts: BTreeMap<Option<Name>, i64> = served.chain([None]).map(|group| (group, 0)).collect();
        counts.extend(groups.open.iter().map(|(group, count)| (group.clone(), *count)));
        counts
    }
}

impl CountedStream {
    pub fn group(&self) -> Option<&Name> {
        self.group.as_ref()
    }
}

impl Drop for CountedStream {
    fn drop(&mut self) {
        let mut groups = self.streams.0.lock();
        if let Some(count) = groups.open.get_mut(&self.group) {
            *count -= 1;
            if *count == 0 {
                groups.open.remove(&self.group);
            }
        }
    }
}

impl TypedMetric for StreamsByGroup {
    const TYPE: MetricType = MetricType::Gauge;
}

impl EncodeMetric for StreamsByGroup {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (group, count) in self.counts() {
            let labels = GroupLabels { group: group.map_or_else(String::new, |group| group.to_string()) };
            encoder.encode_family(&labels)?.encode_gauge(&count)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn gateways(names: &[&str]) -> BTreeSet<Name> {
        names.iter().filter_map(|name| Name::parse(name)).collect()
    }

    fn series(metrics: &Metrics) -> Vec<String> {
        let text = metrics.render();
        let lines = text.lines().filter_map(|line| line.strip_prefix("tierflow_xds_streams{group="));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn gateways_that_are_gone_have_no_series_once_their_last_stream_ends() {
        let metrics = Metrics::default();
        let [edge, shop] = ["edge", "shop"].map(|name| Name::parse(name).unwrap());
        metrics.xds_streams.serve(gateways(&["edge", "shop"]));
        let [first, second, other] = [&edge, &edge, &shop].map(|group| metrics.xds_streams.count(Some(group)));
        assert_eq!(series(&metrics), ["\"\"} 0", "\"edge\"} 2", "\"shop\"} 1"]);
        drop(first);
        metrics.xds_streams.serve(gateways(&["shop"]));
        assert_eq!(series(&metrics), ["\"\"} 0", "\"edge\"} 1", "\"shop\"} 1"], "an Envoy still has a stream");
        drop((second, other));
        assert_eq!(series(&metrics), ["\"\"} 0", "\"shop\"} 0"], "none is connected to what is served");
        for number in 0..1000 {
            drop(metrics.xds_streams.count(Name::parse(&format!("old-{number}")).as_ref()));
        }
        assert_eq!(metrics.xds_streams.0.lock().open.len(), 0, "what comes and goes leaves nothing");
        let _of_nobody = metrics.xds_streams.count(None);
        assert_eq!(series(&metrics), ["\"\"} 1", "\"shop\"} 0"]);
    }
}
