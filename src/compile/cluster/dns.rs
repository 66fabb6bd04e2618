//! Clusters whose instances are the addresses of a name, each address one instance.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, CustomClusterType};
use envoy_types::pb::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily;
use envoy_types::pb::envoy::extensions::clusters::dns::v3::DnsCluster;
use envoy_types::pb::envoy::extensions::clusters::dns::v3::dns_cluster::RefreshRate;

use crate::compile::{any, pb};
use crate::policy::service::DnsFamily;

/// Whatever the time to live of an answer is: instances come and go faster than most of those say.
const REFRESH: Duration = Duration::from_secs(5);
/// So that Envoys that were started together do not ask together for ever.
const JITTER: Duration = Duration::from_secs(1);
/// After a name server failed, and after it failed again and again.
const FAILURE_REFRESH: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];

pub(in crate::compile) fn dns(family: DnsFamily) -> ClusterDiscoveryType {
    let [base_interval, max_interval] = FAILURE_REFRESH.map(pb::duration);
    let config = DnsCluster {
        dns_lookup_family: match family {
            DnsFamily::All => DnsLookupFamily::All,
            DnsFamily::Auto => DnsLookupFamily::Auto,
            DnsFamily::V4 => DnsLookupFamily::V4Only,
            DnsFamily::V6 => DnsLookupFamily::V6Only,
        } as i32,
        dns_refresh_rate: pb::duration(REFRESH),
        dns_jitter: pb::duration(JITTER),
        dns_failure_refresh_rate: Some(RefreshRate { base_interval, max_interval }),
        ..Default::default()
    };
    let name = "envoy.clusters.dns".to_owned();
    ClusterDiscoveryType::ClusterType(CustomClusterType { name, typed_config: Some(any(&config)) })
}
