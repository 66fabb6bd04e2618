//! What `serve` is told, as meant. The command line is one way to say it, the demo and the tests are others.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::access::file::AccessFiles;
use crate::audit::AuditSettings;
use crate::compile::HostPort;
use crate::counters::redis::RedisSettings;
use crate::denial_log::DenialLogSettings;
use crate::etcd::EtcdSettings;
use crate::traces::TracesSettings;
use crate::xds::{AdmissionLimits, UNREAD_BYTES_MAX};

#[derive(Clone, Debug)]
pub struct Config {
    pub source: SourceConfig,
    /// The folder of the last good sets. `None`: none is kept.
    pub state_dir: Option<PathBuf>,
    pub xds_listen: SocketAddr,
    pub xds_limits: XdsLimits,
    pub rls_listen: SocketAddr,
    pub admin_listen: SocketAddr,
    /// TLS of all three ports. `None`: they speak plain text.
    pub tls: Option<TlsFiles>,
    /// The addresses under which Envoys reach the rate limit service; with etcd, those of this replica, to which the others'
    /// are added. Empty: the bound address, or loopback where that is no single one.
    pub rls_advertise: Vec<HostPort>,
    /// The name of this replica among others that share etcd. `None`: a name of its own for each run.
    pub replica_id: Option<String>,
    /// The files of those who may ask the admin port. None: whoever is on this machine.
    pub admin_access: AccessFiles,
    /// True where anybody may read the metrics.
    pub admin_metrics_open: bool,
    /// The audit log. `None`: changes are noted in the ordinary log.
    pub audit_log: Option<AuditSettings>,
    /// The log of denials. `None`: there is none.
    pub denial_log: Option<DenialLogSettings>,
    /// The spans of decisions. `None`: there are none.
    pub traces: Option<TracesSettings>,
    pub counters: CountersConfig,
    /// True where a source without any document means that nothing is to be served.
    pub allow_empty: bool,
}

/// The bounds of what Envoys may take of the xDS port.
#[derive(Clone, Copy, Debug)]
pub struct XdsLimits {
    pub admission: AdmissionLimits,
    /// The age at which a connection is renewed, within a tenth of it before or after. `None`: never.
    pub connection_age: Option<Duration>,
    /// Beyond so many bytes that Envoys have not read, those that do not read have less time.
    pub unread_bytes_max: u64,
}

impl Default for XdsLimits {
    fn default() -> Self {
        Self {
            admission: AdmissionLimits { streams_max: 20_000, streams_per_second: 2000 },
            connection_age: Some(Duration::from_secs(10 * 3600)),
            unread_bytes_max: UNREAD_BYTES_MAX,
        }
    }
}

/// PEM files, which are read again when they change.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate that the ports show, with those between it and its authority.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Authorities of the certificates that clients must show. `None`: they show none.
    pub client_ca: Option<PathBuf>,
}

/// The place that policies come from.
#[derive(Clone, Debug)]
pub enum SourceConfig {
    /// A folder.
    Dir(PathBuf),
    Etcd(EtcdSettings),
}

/// The place that counters are kept in.
#[derive(Clone, Debug)]
pub enum CountersConfig {
    /// This process.
    Memory {
        /// The most counters that are kept.
        keys_max: usize,
    },
    /// A store that replicas share.
    Redis(Arc<RedisSettings>),
}

/// A `host:port` as people write it.
pub fn parse_host_port(text: &str) -> Result<HostPort, String> {
    HostPort::parse(text).ok_or_else(|| format!("{text:?}: expected HOST:PORT, as in 10.0.0.7:8081"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_read_in_every_spelling() {
        let parsed = |text| parse_host_port(text).map(|address| (address.host, address.port));
        assert_eq!(parsed("10.0.0.7:8081"), Ok(("10.0.0.7".to_owned(), 8081)));
        assert_eq!(parsed("[::1]:8081"), Ok(("::1".to_owned(), 8081)));
        assert_eq!(parsed("limiter.internal:1"), Ok(("limiter.internal".to_owned(), 1)));
        for bad in ["", "host", ":80", "host:0", "host:99999", "a b:80"] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        /// What is printed can be typed.
        #[test]
        fn what_is_shown_of_an_address_is_read_as_the_same(
            host in "[a-z0-9.-]{1,20}|([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|::1",
            port in 1..=u16::MAX,
        ) {
            let address = HostPort { host, port };
            proptest::prop_assert_eq!(parse_host_port(&address.to_string()), Ok(address));
        }

        #[test]
        fn whatever_is_typed_is_an_address_or_an_error_that_shows_it(text in "\\PC{0,40}") {
            match parse_host_port(&text) {
                Ok(HostPort { host, port }) => proptest::prop_assert!(!host.is_empty() && port > 0),
                Err(told) => {
                    let shown = format!("{text:?}: expected HOST:PORT");
                    proptest::prop_assert!(told.starts_with(&shown), "{}", told);
                }
            }
        }
    }
}
