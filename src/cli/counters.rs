//! How `serve` is told where counters are kept.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Failure;
use super::checked::{Check, Typed};
use crate::config::CountersConfig;
use crate::counters::redis::{RedisSettings, RedisTls, RedisUser};

#[derive(Clone, clap::Args)]
pub(super) struct CountersArgs {
    /// The store of the counters: `memory` of this process, or a Redis or Valkey that replicas share, as in
    /// redis://10.0.0.6:6379 or rediss://10.0.0.6:6379/2 (TLS, database 2);
    /// redis+sentinel://10.0.0.6:26379,10.0.0.7:26379/NAME is the master that these Sentinels know by that name, and
    /// redis+cluster://10.0.0.6:6379,10.0.0.7:6379 the Cluster that these nodes are of.
    #[arg(long, value_name = "STORE", default_value = "memory", env = "TIERFLOW_COUNTERS")]
    counters: String,
    /// The most counters that are kept in memory, 1024 to 100000000. Each takes at most 192 bytes while its limit is below
    /// 65536. With a store that replicas share these are the counters of gateways with `on_error: local`.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1024..=100_000_000), env = "TIERFLOW_COUNTER_KEYS_MAX")]
    counter_keys_max: u64,
    /// The first part of all of Tierflow's keys in the store.
    #[arg(long, value_name = "PREFIX", default_value = RedisSettings::PREFIX, value_parser = parse_prefix, env = "TIERFLOW_COUNTERS_PREFIX")]
    counters_prefix: String,
    /// The user to be in the store. Default: the store's default user.
    #[arg(long, value_name = "NAME", requires = "counters_password_file", env = "TIERFLOW_COUNTERS_USER")]
    counters_user: Option<String>,
    /// File that holds the user's password; read again for each connection.
    #[arg(long, value_name = "FILE", env = "TIERFLOW_COUNTERS_PASSWORD_FILE")]
    counters_password_file: Option<PathBuf>,
    /// File that holds the password of the Sentinels, where they have one of their own; read again for each connection.
    #[arg(long, value_name = "FILE", env = "TIERFLOW_COUNTERS_SENTINEL_PASSWORD_FILE")]
    counters_sentinel_password_file: Option<PathBuf>,
    /// PEM file of the authority that signed the store's certificate. Default: the authorities that this machine trusts.
    #[arg(long, value_name = "FILE", env = "TIERFLOW_COUNTERS_CA")]
    counters_ca: Option<PathBuf>,
    /// PEM file of the certificate to show to the store.
    #[arg(long, value_name = "FILE", requires = "counters_key", env = "TIERFLOW_COUNTERS_CERT")]
    counters_cert: Option<PathBuf>,
    /// PEM file of that certificate's private key.
    #[arg(long, value_name = "FILE", requires = "counters_cert", env = "TIERFLOW_COUNTERS_KEY")]
    counters_key: Option<PathBuf>,
    /// The time that the store may take for a decision, 1ms to 1s; then the gateway's `on_error` decides.
    #[arg(long, value_name = "DURATION", default_value = "5ms", value_parser = parse_deadline, env = "TIERFLOW_COUNTERS_TIMEOUT")]
    counters_timeout: Duration,
    /// The number of connections to each server of the store, 1 to 64.
    #[arg(long, value_name = "N", default_value_t = RedisSettings::CONNECTIONS, value_parser = clap::value_parser!(u8).range(1..=64), env = "TIERFLOW_COUNTERS_CONNECTIONS")]
    counters_connections: u8,
    /// Whether hits of counters that are asked for often are taken in advance, to answer most requests without the store.
    /// A limit with `exact: true` never is.
    #[arg(long, value_name = "SWITCH", default_value = "on", env = "TIERFLOW_COUNTERS_LEASES")]
    counters_leases: Switch,
}

/// What most flags are about.
const SHARED: &str = "redis://HOST:PORT or another store that replicas share";

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

impl Check for CountersArgs {
    fn check(&mut self, typed: &Typed) -> Result<(), String> {
        let of_a_store = ["counters_prefix", "counters_timeout", "counters_connections", "counters_leases"];
        match typed.first_of(&of_a_store) {
            Some(flag) if self.counters == "memory" => return Err(format!("{flag} needs --counters={SHARED}")),
            _ => {}
        }
        let is_cluster = self.counters.starts_with("redis+cluster:") || self.counters.starts_with("rediss+cluster:");
        match typed.first_of(&["counters_leases"]) {
            Some(flag) if is_cluster && self.counters_leases == Switch::On => {
                Err(format!("{flag} is on, and a Redis Cluster has no leases"))
            }
            _ => Ok(()),
        }
    }
}

impl CountersArgs {
    pub(super) fn config(self) -> Result<CountersConfig, Failure> {
        let keys_max = usize::try_from(self.counter_keys_max).unwrap_or(usize::MAX);
        if self.counters == "memory" {
            let files = [
                ("--counters-password-file", &self.counters_password_file),
                ("--counters-sentinel-password-file", &self.counters_sentinel_password_file),
                ("--counters-ca", &self.counters_ca),
                ("--counters-cert", &self.counters_cert),
            ];
            if let Some((flag, _)) = files.iter().find(|(_, file)| file.is_some()) {
                return Err(format!("{flag} needs --counters={SHARED}"));
            }
            return Ok(CountersConfig::Memory { keys_max });
        }
        let settings = RedisSettings {
            url: self.counters.parse().map_err(|error| format!("--counters: {error}"))?,
            user: self
                .counters_password_file
                .map(|password_file| RedisUser { name: self.counters_user, password_file }),
            sentinel_password_file: self.counters_sentinel_password_file,
            tls: RedisTls { ca: self.counters_ca, identity: self.counters_cert.zip(self.counters_key) },
            prefix: self.counters_prefix,
            connections: self.counters_connections,
            deadline: self.counters_timeout,
            local_keys_max: keys_max,
            leases: self.counters_leases == Switch::On,
        };
        settings.check().map_err(|error| format!("--counters: {error}"))?;
        Ok(CountersConfig::Redis(Arc::new(settings)))
    }
}

fn parse_prefix(text: &str) -> Result<String, String> {
    let is_well_formed = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    is_well_formed
        .then(|| text.to_owned())
        .ok_or_else(|| "expected 1 to 64 printable characters, as in shop:".to_owned())
}

fn parse_deadline(text: &str) -> Result<Duration, String> {
    let deadline = humantime::parse_duration(text).ok();
    let is_in_bounds = |deadline: &Duration| (Duration::from_millis(1)..=Duration::from_secs(1)).contains(deadline);
    deadline.filter(is_in_bounds).ok_or_else(|| "expected a duration of 1ms to 1s".to_owned())
}
