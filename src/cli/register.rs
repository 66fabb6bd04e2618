//! `tierflow register`

use std::net::SocketAddr;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::checked::Checked;
use super::etcd::EtcdArgs;
use super::{Failure, parse_log_filter};
use crate::document::Instance;
use crate::etcd::Section;
use crate::etcd::lease::{self, Wanted};
use crate::etcd::link::Link;
use crate::names::Name;
use crate::telemetry::{self, LogFormat};

/// Register an instance of a service in etcd for as long as this runs.
///
/// The instance is a key under a lease: when this ends it is gone at once, when this is killed it is gone after the
/// lease's time, and when etcd cannot be reached for longer than that it is registered again as soon as it can.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The name that services refer to as their `registry`.
    #[arg(long, value_name = "NAME", value_parser = parse_name, env = "TIERFLOW_SERVICE")]
    service: Name,
    /// The address that takes the instance's requests.
    #[arg(long, value_name = "IP:PORT", env = "TIERFLOW_ADDRESS")]
    address: SocketAddr,
    /// The instance's name. Default: its address.
    #[arg(long, value_name = "NAME", env = "TIERFLOW_INSTANCE")]
    instance: Option<String>,
    /// Its share of the traffic against the others', 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000), env = "TIERFLOW_WEIGHT")]
    weight: u32,
    /// The zone that the instance is in.
    #[arg(long, value_name = "NAME", env = "TIERFLOW_ZONE")]
    zone: Option<String>,
    /// The time that the instance stays registered when this is killed, in seconds, 2 to 3600.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=3600), env = "TIERFLOW_TTL")]
    ttl: u64,
    #[command(flatten)]
    etcd: Checked<EtcdArgs>,
    /// The filter of the log, like `info` or `tierflow=debug,warn`.
    #[arg(long, value_name = "FILTER", default_value = "info", value_parser = parse_log_filter, env = "TIERFLOW_LOG")]
    log: String,
    /// The format of the log.
    #[arg(long, value_enum, default_value_t, env = "TIERFLOW_LOG_FORMAT")]
    log_format: LogFormat,
}

fn parse_name(text: &str) -> Result<Name, String> {
    Name::parse(text).ok_or_else(|| format!("expected {}", Name::EXPECTED))
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    telemetry::init(&args.log, args.log_format)?;
    let settings = args.etcd.settings()?.ok_or("--etcd is needed: that is where instances register")?;
    let services = Section::Services.prefix(&settings.prefix);
    let instance = args.instance.clone().unwrap_or_else(|| args.address.to_string());
    let wanted = Wanted {
        key: format!("{services}{}/{instance}", args.service),
        ttl: Duration::from_secs(args.ttl),
        // What holds the key may be an earlier run that was killed.
        takes_over: true,
    };
    let value = Instance { address: args.address, weight: args.weight, zone: args.zone.clone() };
    let value = serde_json::to_string(&value).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(register(Link::new(settings), wanted, value))
}

async fn register(link: Link, wanted: Wanted, value: String) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let shutdown = CancellationToken::new();
    // The value does not change, and nobody asks whether it is held: the log says so.
    let (_value, values) = watch::channel(value);
    let (claim, _claims) = watch::channel(None);
    let claiming = tokio::spawn(lease::claim(link, wanted, values, claim, shutdown.clone()));
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(|error| error.to_string()),
    };
    shutdown.cancel();
    claiming.await.map_err(|error| error.to_string())?;
    ended
}
