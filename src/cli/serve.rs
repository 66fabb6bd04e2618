//! `tierflow serve`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::Failure;
use super::counters::CountersArgs;
use super::etcd::EtcdArgs;
use crate::compile::HostPort;
use crate::config::{Config, SourceConfig, TlsFiles, XdsLimits, parse_host_port};
use crate::serve;
use crate::telemetry::{self, LogFormat};
use crate::xds::AdmissionLimits;

/// Serve policies to Envoys and decide their requests.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Folder of policies: every .yaml, .yml and .json file below it. It is watched.
    #[arg(long, value_name = "DIR", default_value = "policies", conflicts_with = "etcd", env = "TIERFLOW_POLICIES")]
    policies: PathBuf,
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Folder that the last good set of policies is kept in. It is served when the source cannot be heard at the
    /// start, and it is what documents go back to that the source has broken meanwhile.
    #[arg(long, value_name = "DIR", env = "TIERFLOW_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// The address for Envoys' xDS streams (gRPC). Port 0 takes a free one, which is logged and shown by /v1/status.
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:18000", env = "TIERFLOW_XDS_LISTEN")]
    xds_listen: SocketAddr,
    /// The most ADS streams at the same time. Each takes some 40 KiB, with TLS 60.
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000), env = "TIERFLOW_XDS_STREAMS_MAX")]
    xds_streams_max: u32,
    /// The number of new ADS streams that are let in per second. Half a second's worth may come at once; who would
    /// wait for more than 5 s is told to come back (RESOURCE_EXHAUSTED).
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000), env = "TIERFLOW_XDS_STREAMS_PER_SECOND")]
    xds_streams_per_second: u32,
    /// The age at which an Envoy's connection is renewed, within a tenth of this before or after, so that Envoys
    /// spread over replicas again. 0s: never.
    #[arg(long, value_name = "DURATION", default_value = "10h", value_parser = humantime::parse_duration, env = "TIERFLOW_XDS_CONNECTION_AGE")]
    xds_connection_age: Duration,
    /// The address for Envoys that ask for decisions (gRPC).
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:8081", env = "TIERFLOW_RLS_LISTEN")]
    rls_listen: SocketAddr,
    /// The address of the admin API (HTTP).
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080", env = "TIERFLOW_ADMIN_LISTEN")]
    admin_listen: SocketAddr,
    /// PEM file of the certificate that all three ports show, with those between it and its authority. With it they speak
    /// TLS only. Its files are read again when they change.
    #[arg(long, value_name = "FILE", requires = "tls_key", env = "TIERFLOW_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// PEM file of that certificate's private key.
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "TIERFLOW_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// PEM file of the authorities whose certificates clients must show, at all three ports. Default: they show none.
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "TIERFLOW_TLS_CLIENT_CA")]
    tls_client_ca: Option<PathBuf>,
    /// The addresses under which Envoys reach this rate limit service, comma-separated. With --etcd Envoys are given those
    /// of all live replicas. Default: the bound address; loopback and the bound port, where that is 0.0.0.0 or [::].
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = parse_host_port, env = "TIERFLOW_RLS_ADVERTISE")]
    rls_advertise: Vec<HostPort>,
    /// The name of this replica in etcd. Two with one name do not both write. Default: the host's name and a random
    /// part.
    #[arg(long, value_name = "NAME", value_parser = parse_replica_id, env = "TIERFLOW_REPLICA_ID")]
    replica_id: Option<String>,
    /// File of the tokens that changes through the admin API need, one NAME:TOKEN a line. Without it changes are taken
    /// from this machine only.
    #[arg(long, value_name = "FILE", env = "TIERFLOW_ADMIN_TOKEN_FILE")]
    admin_token_file: Option<PathBuf>,
    /// File that changes are noted in, as JSON lines. Without it they are noted in the log.
    #[arg(long, value_name = "FILE", env = "TIERFLOW_AUDIT_LOG")]
    audit_log: Option<PathBuf>,
    #[command(flatten)]
    counters: CountersArgs,
    /// Serve nothing when the source holds no document. Without it what was served stays.
    #[arg(long, env = "TIERFLOW_ALLOW_EMPTY")]
    allow_empty: bool,
    /// The filter of the log, like `info` or `tierflow=debug,warn`.
    #[arg(long, value_name = "FILTER", default_value = "info", env = "TIERFLOW_LOG")]
    log: String,
    /// The format of the log.
    #[arg(long, value_enum, default_value_t, env = "TIERFLOW_LOG_FORMAT")]
    log_format: LogFormat,
}

fn parse_replica_id(text: &str) -> Result<String, String> {
    let is_well_formed = (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
    is_well_formed.then(|| text.to_owned()).ok_or_else(|| "expected 1 to 128 printable characters without /".to_owned())
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    telemetry::init(&args.log, args.log_format)?;
    let source = match args.etcd.settings()? {
        Some(settings) => SourceConfig::Etcd(settings),
        None => SourceConfig::Dir(args.policies),
    };
    let tls = args.tls_cert.zip(args.tls_key);
    let config = Config {
        source,
        state_dir: args.state_dir,
        xds_listen: args.xds_listen,
        xds_limits: XdsLimits {
            admission: AdmissionLimits {
                streams_max: args.xds_streams_max as usize,
                streams_per_second: args.xds_streams_per_second,
            },
            connection_age: Some(args.xds_connection_age).filter(|age| !age.is_zero()),
        },
        rls_listen: args.rls_listen,
        admin_listen: args.admin_listen,
        tls: tls.map(|(certificate, key)| TlsFiles { certificate, key, client_ca: args.tls_client_ca }),
        rls_advertise: args.rls_advertise,
        replica_id: args.replica_id,
        admin_token_file: args.admin_token_file,
        audit_log: args.audit_log,
        counters: args.counters.config()?,
        allow_empty: args.allow_empty,
    };
    let signals = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let mut running = serve::start(&config).map_err(|error| error.to_string())?;
    let ended = signals.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
        tokio::select! {
            failure = running.failure() => Err(failure),
            _ = terminate.recv() => Ok(()),
            interrupted = tokio::signal::ctrl_c() => interrupted.map_err(|error| error.to_string()),
        }
    });
    tracing::info!("stopping");
    running.stop();
    ended
}
