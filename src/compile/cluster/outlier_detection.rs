//! Which instances are left out for a while because of how they answered, or because nobody could ask them.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::OutlierDetection as OutlierDetectionPb;

use crate::compile::pb;
use crate::policy::service::{OutlierDetection, Service};

/// So many connections in a row that could not be made, and an address is passed over. Before that, requests that met
/// it have gone on to another one.
const FAILED_CONNECTIONS_MAX: u32 = 3;
/// The time that an address is passed over the first time; then twice as long and so on, up to Envoy's five minutes.
const EJECTION: Duration = Duration::from_secs(30);

pub(super) fn outlier_detection(service: &Service) -> Option<OutlierDetectionPb> {
    let outlier = service.outlier_detection.as_ref().map(by_answers);
    if !service.discovery.may_have_dead_addresses() {
        return outlier;
    }
    Some(OutlierDetectionPb {
        // What an instance answers is one thing, that it cannot be reached another.
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: pb::uint32(FAILED_CONNECTIONS_MAX),
        enforcing_consecutive_local_origin_failure: pb::uint32(100),
        ..outlier.unwrap_or_else(by_nothing)
    })
}

fn by_answers(outlier: &OutlierDetection) -> OutlierDetectionPb {
    OutlierDetectionPb {
        consecutive_5xx: pb::uint32(outlier.consecutive_5xx),
        interval: pb::duration(outlier.interval),
        base_ejection_time: pb::duration(outlier.base_ejection_time),
        max_ejection_percent: pb::uint32(outlier.max_ejection_percent),
        ..Default::default()
    }
}

/// Leaves nobody out for their answers: that has to be asked for.
fn by_nothing() -> OutlierDetectionPb {
    OutlierDetectionPb {
        base_ejection_time: pb::duration(EJECTION),
        max_ejection_percent: pb::uint32(100),
        enforcing_consecutive_5xx: pb::uint32(0),
        enforcing_consecutive_gateway_failure: pb::uint32(0),
        enforcing_success_rate: pb::uint32(0),
        enforcing_local_origin_success_rate: pb::uint32(0),
        ..Default::default()
    }
}
