//! Series that are there before anything was counted in them. An alarm on what happens for the first time needs one that
//! stands at 0, and who finds none cannot tell what never happened from what is not measured.

use crate::audit::Unnoted;
use crate::counters::redis::Failure;
use crate::limiter::matcher::Tier;
use crate::metrics::totals::{OF_LIMITS, OF_REQUESTS};
use crate::metrics::{Decided, FormLabels, Metrics, ReasonLabels, ReloadLabels, TypeLabels};
use crate::rls::FORMS;
use crate::snapshot::resource::ResourceType;
use crate::source::etcd::Doubt;

/// Results of readings of the source...
pub(super) const READINGS: [&str; 3] = ["served", "unchanged", "empty"];
/// ...and of the ports' certificate.
pub(super) const CERTIFICATES: [&str; 2] = ["ok", "refused"];

/// Begins what is counted by words of Tierflow's own. What is also counted by names that policies choose begins once without
/// a name; for the rest there is no series before there is a name.
pub(super) fn begin(metrics: &Metrics) {
    let decisions = OF_REQUESTS.map(|result| ("", result));
    let of_limits = Tier::ALL.iter().flat_map(|tier| OF_LIMITS.map(|result| (tier.as_str(), result)));
    for (tier, result) in decisions.into_iter().chain(of_limits) {
        metrics.decisions.begin(&Decided { gateway: None, api: None, tier, limit: None, result });
    }
    for form in FORMS {
        drop(metrics.decision_forms.get_or_create(&FormLabels { form }));
    }
    for (family, results) in [(&metrics.reloads, READINGS.as_slice()), (&metrics.tls_reloads, &CERTIFICATES)] {
        for result in results {
            drop(family.get_or_create(&ReloadLabels { result }));
        }
    }
    let errors = (&metrics.counter_store_errors, Failure::REASONS.as_slice());
    let unnoted = (&metrics.audit_lines_unnoted, Unnoted::REASONS.as_slice());
    for (family, reasons) in [errors, unnoted, (&metrics.source_resyncs, &Doubt::REASONS)] {
        for reason in reasons {
            drop(family.get_or_create(&ReasonLabels { reason }));
        }
    }
    let of_types = [&metrics.xds_pushes, &metrics.xds_push_bytes, &metrics.xds_nacks, &metrics.xds_stale_nonces];
    for resource_type in ResourceType::ALL {
        for family in of_types {
            drop(family.get_or_create(&TypeLabels { r#type: resource_type.as_str() }));
        }
    }
}
