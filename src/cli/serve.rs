//! `tierflow serve`

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::checked::{Check, Checked, Typed};
use super::counters::CountersArgs;
use super::etcd::EtcdArgs;
use super::traces::TracesArgs;
use super::{Failure, STANDARD_STREAM, parse_log_filter};
use crate::access::file::AccessFiles;
use crate::audit::AuditSettings;
use crate::compile::HostPort;
use crate::config::{Config, SourceConfig, TlsFiles, XdsLimits, parse_host_port};
use crate::denial_log::{DenialLogSettings, Target};
use crate::rotation::{self, Rotation};
use crate::serve::{self, Running};
use crate::shown;
use crate::source::dir::has_policy_ending;
use crate::telemetry::{self, LogFormat};
use crate::xds::{AdmissionLimits, UNREAD_BYTES_MAX};

/// Serve policies to Envoys and decide their requests.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Folder of policies: every .yaml, .yml and .json file below it. It is watched.
    #[arg(long, value_name = "DIR", default_value = "policies", conflicts_with = "etcd", env = "TIERFLOW_POLICIES")]
    policies: PathBuf,
    #[command(flatten)]
    etcd: Checked<EtcdArgs>,
    /// Folder that the last good set of policies is kept in. It is served when the source cannot be heard at the
    /// start, and it is what documents go back to that the source has broken meanwhile. It is outside of the folder of
    /// policies.
    #[arg(long, value_name = "DIR", env = "TIERFLOW_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// The address for Envoys' xDS streams (gRPC). Port 0 takes a free one, which is logged and shown by /v1/status.
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:18000", env = "TIERFLOW_XDS_LISTEN")]
    xds_listen: SocketAddr,
    /// The most ADS streams at the same time, 1 to 1000000. Each takes some 40 KiB, with TLS 60.
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000), env = "TIERFLOW_XDS_STREAMS_MAX")]
    xds_streams_max: u32,
    /// The number of new ADS streams that are let in per second, 1 to 1000000. Half a second's worth may come at once; who would
    /// wait for more than 5 s is told to come back (RESOURCE_EXHAUSTED).
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000), env = "TIERFLOW_XDS_STREAMS_PER_SECOND")]
    xds_streams_per_second: u32,
    /// The age at which an Envoy's connection is renewed, within a tenth of this before or after, so that Envoys
    /// spread over replicas again. 1s to 30days; 0s: never.
    #[arg(long, value_name = "DURATION", default_value = "10h", value_parser = parse_connection_age, env = "TIERFLOW_XDS_CONNECTION_AGE")]
    xds_connection_age: Duration,
    /// The most bytes that responses which Envoys have not read may take. While there are more, the connection of an Envoy that
    /// does not read is closed after 2 s instead of 30.
    #[arg(long, value_name = "N", default_value_t = UNREAD_BYTES_MAX, value_parser = clap::value_parser!(u64).range(1..=1 << 40), env = "TIERFLOW_XDS_UNREAD_BYTES_MAX")]
    xds_unread_bytes_max: u64,
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
    /// The time for which everything is served on after SIGTERM, while its health says that it leaves, so that Envoys go on with
    /// other replicas: they know within 1.5 s. 0s to 1h; 0s where there is no other. After SIGINT (Ctrl-C) it is 0s.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_drain_time, env = "TIERFLOW_DRAIN_TIME")]
    drain_time: Duration,
    /// The addresses under which Envoys reach this rate limit service, comma-separated. With --etcd Envoys are given those
    /// of all live replicas. Default: the bound address; loopback and the bound port, where that is 0.0.0.0 or [::].
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = parse_host_port, env = "TIERFLOW_RLS_ADVERTISE")]
    rls_advertise: Vec<HostPort>,
    /// The name of this replica in etcd. Two with one name do not both write. Default: the host's name and a random
    /// part.
    #[arg(long, value_name = "NAME", value_parser = parse_replica_id, env = "TIERFLOW_REPLICA_ID")]
    replica_id: Option<String>,
    /// YAML file of who may ask the admin port for what: hashes of tokens, names in certificates, an issuer of JWTs; and of the
    /// names that the port is asked by. It is read again when it changes. Without it only this machine is answered.
    #[arg(long, value_name = "FILE", env = "TIERFLOW_ADMIN_ACCESS")]
    admin_access: Option<PathBuf>,
    /// File of tokens that may do everything through the admin port, one NAME:TOKEN a line. It is read again when it changes.
    /// Without --admin-access, this machine may read without a token.
    #[arg(long, value_name = "FILE", env = "TIERFLOW_ADMIN_TOKEN_FILE")]
    admin_token_file: Option<PathBuf>,
    /// Anybody may read /metrics, without a token or a certificate.
    #[arg(long, env = "TIERFLOW_ADMIN_METRICS_OPEN")]
    admin_metrics_open: bool,
    /// File that changes are noted in, as JSON lines. Without it they are noted in the log. It is none that would be read as a
    /// policy.
    #[arg(long, value_name = "FILE", env = "TIERFLOW_AUDIT_LOG")]
    audit_log: Option<PathBuf>,
    /// The size in bytes from which on the audit log is moved away, to FILE.1, and a new one begun. 1 to 1099511627776 (1 TiB).
    /// Default: it grows.
    #[arg(long, value_name = "N", value_parser = parse_bytes_max, requires = "audit_log", env = "TIERFLOW_AUDIT_LOG_BYTES_MAX")]
    audit_log_bytes_max: Option<NonZeroU64>,
    /// The number of audit logs that were moved away and are kept, 1 to 1000. Older ones are deleted.
    #[arg(long, value_name = "N", default_value = "10", value_parser = parse_files_max, requires = "audit_log", env = "TIERFLOW_AUDIT_LOG_FILES_MAX")]
    audit_log_files_max: NonZeroU32,
    /// File that requests which were denied are noted in, as JSON lines; `-` is the standard output. It is none that would be read
    /// as a policy.
    #[arg(long, value_name = "FILE", env = "TIERFLOW_DENIALS_LOG")]
    denials_log: Option<PathBuf>,
    /// The most denials that are noted in a second, 1 to 100000. The file says how many it leaves out.
    #[arg(long, value_name = "N", default_value = "100", value_parser = parse_per_second, requires = "denials_log", env = "TIERFLOW_DENIALS_LOG_PER_SECOND")]
    denials_log_per_second: NonZeroU32,
    /// The size in bytes from which on the log of denials is moved away, to FILE.1, and a new one begun. 1 to 1099511627776
    /// (1 TiB). Default: it grows.
    #[arg(long, value_name = "N", value_parser = parse_bytes_max, requires = "denials_log", env = "TIERFLOW_DENIALS_LOG_BYTES_MAX")]
    denials_log_bytes_max: Option<NonZeroU64>,
    /// The number of logs of denials that were moved away and are kept, 1 to 1000. Older ones are deleted.
    #[arg(
        long,
        value_name = "N",
        default_value = "10",
        value_parser = parse_files_max,
        requires = "denials_log",
        env = "TIERFLOW_DENIALS_LOG_FILES_MAX"
    )]
    denials_log_files_max: NonZeroU32,
    #[command(flatten)]
    traces: Checked<TracesArgs>,
    #[command(flatten)]
    counters: Checked<CountersArgs>,
    /// Serve nothing when the source holds no document. Without it what was served stays.
    #[arg(long, env = "TIERFLOW_ALLOW_EMPTY")]
    allow_empty: bool,
    /// The filter of the log, like `info` or `tierflow=debug,warn`.
    #[arg(long, value_name = "FILTER", default_value = "info", value_parser = parse_log_filter, env = "TIERFLOW_LOG")]
    log: String,
    /// The format of the log.
    #[arg(long, value_enum, default_value_t, env = "TIERFLOW_LOG_FORMAT")]
    log_format: LogFormat,
}

fn parse_replica_id(text: &str) -> Result<String, String> {
    let is_well_formed = (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
    is_well_formed.then(|| text.to_owned()).ok_or_else(|| "expected 1 to 128 printable characters without /".to_owned())
}

/// Younger than a second, connections would do little else than begin; none is older than a month.
fn parse_connection_age(text: &str) -> Result<Duration, String> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let is_age = |age: &Duration| age.is_zero() || (Duration::from_secs(1)..=30 * DAY).contains(age);
    let age = humantime::parse_duration(text).ok().filter(is_age);
    age.ok_or_else(|| "expected a duration of 1s to 30days, or 0s for never".to_owned())
}

/// Nobody who ends a process waits for it for longer.
fn parse_drain_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).ok().filter(|time| *time <= Duration::from_secs(3600));
    time.ok_or_else(|| "expected a duration of 0s to 1h".to_owned())
}

fn parse_bytes_max(text: &str) -> Result<NonZeroU64, String> {
    let number = text.parse().ok().filter(|number: &NonZeroU64| number.get() <= 1 << 40);
    number.ok_or_else(|| "expected a number of 1 to 1099511627776 bytes".to_owned())
}

/// At each move all of them get other names.
fn parse_files_max(text: &str) -> Result<NonZeroU32, String> {
    let number = text.parse().ok().filter(|number: &NonZeroU32| number.get() <= 1000);
    number.ok_or_else(|| "expected a number of 1 to 1000".to_owned())
}

fn parse_per_second(text: &str) -> Result<NonZeroU32, String> {
    let number = text.parse().ok().filter(|number: &NonZeroU32| number.get() <= 100_000);
    number.ok_or_else(|| "expected a number of 1 to 100000".to_owned())
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    telemetry::init(&args.log, args.log_format)?;
    write_no_core_dump();
    let drain_time = args.drain_time;
    let config = args.config()?;
    let signals = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let mut running = serve::start(&config).map_err(|error| error.to_string())?;
    let ended = signals.block_on(until_told(&mut running, drain_time));
    running.end();
    ended
}

/// Serves until it is told to end, and ends: at once when it is told again.
async fn until_told(running: &mut Running, drain_time: Duration) -> Result<(), Failure> {
    let listen = |kind| signal(kind).map_err(|error| error.to_string());
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    // A file that may not grow any more is an error for whoever writes it, as a full disk is, and no end of the process.
    let _heard = listen(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?;
    let attended = running.attend();
    let (ended, drain_time) = tokio::select! {
        failure = running.failure() => (Err(failure), Duration::ZERO),
        _ = terminate.recv() => (Ok(()), drain_time),
        // Somebody at a terminal, who waits for it.
        _ = interrupt.recv() => (Ok(()), Duration::ZERO),
        never = attended => match never {},
    };
    tracing::info!("stopping");
    serve::supervisor::stopping();
    let ending = async {
        running.drain(drain_time).await;
        running.finish().await;
    };
    tokio::select! {
        () = ending => {}
        _ = terminate.recv() => tracing::warn!("told to end again: calls under way are cut off"),
        _ = interrupt.recv() => tracing::warn!("told to end again: calls under way are cut off"),
    }
    ended
}

impl Check for Args {
    fn check(&mut self, typed: &Typed) -> Result<(), String> {
        let is_standard_output = self.denials_log.as_ref().is_some_and(|path| path.as_os_str() == STANDARD_STREAM);
        match typed.first_of(&["denials_log_bytes_max", "denials_log_files_max"]) {
            Some(flag) if is_standard_output => {
                return Err(format!("{flag} needs --denials-log with a file: nothing else can be moved away"));
            }
            _ => {}
        }
        if let (Some(audit), Some(denials)) = (&self.audit_log, &self.denials_log)
            && !is_standard_output
            && rotation::meet(audit, denials)
        {
            return Err(
                "--audit-log and --denials-log: each needs a file of its own, which the other one is not moved to"
                    .to_owned(),
            );
        }
        self.check_policies_are_apart()?;
        let rotations = [
            ("audit_log_files_max", "--audit-log-bytes-max", self.audit_log_bytes_max),
            ("denials_log_files_max", "--denials-log-bytes-max", self.denials_log_bytes_max),
        ];
        for (flag, needed, bytes_max) in rotations {
            if let (Some(flag), None) = (typed.first_of(&[flag]), bytes_max) {
                return Err(format!("{flag} needs {needed}: without it no file is moved away"));
            }
        }
        match typed.first_of(&["replica_id"]) {
            Some(flag) if self.etcd.etcd.is_empty() => {
                Err(format!("{flag} needs --etcd: replicas know each other by it"))
            }
            _ => Ok(()),
        }
    }
}

/// A core dump would hold passwords, keys and tokens, and whoever may read it may not be who may read these. One that cannot be
/// ruled out is no reason not to serve.
fn write_no_core_dump() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // The limit is none for a program that core dumps are piped to, as systemd-coredump is (core(5)).
    let ruled_out = setrlimit(Resource::Core, none).and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = ruled_out {
        tracing::warn!("core dumps cannot be ruled out: {error}");
    }
}

impl Args {
    /// What is written where policies come from would be read again, or noticed, as if it were policies; and written into them.
    fn check_policies_are_apart(&self) -> Result<(), String> {
        if !self.etcd.etcd.is_empty() {
            return Ok(());
        }
        let (policies, shown_policies) = (rotation::resolved(&self.policies), shown::path(&self.policies));
        if let Some(state_dir) = self.state_dir.as_ref().filter(|dir| rotation::resolved(dir).starts_with(&policies)) {
            let state_dir = shown::path(state_dir);
            return Err(format!("--state-dir {state_dir}: expected a folder outside of --policies {shown_policies}"));
        }
        for (flag, log) in [("--audit-log", &self.audit_log), ("--denials-log", &self.denials_log)] {
            let Some(log) = log else { continue };
            let file = rotation::resolved(log);
            // A file that was moved away ends with its number, and is never read.
            let is_policy = file == policies || file.starts_with(&policies) && has_policy_ending(&file);
            if is_policy {
                let log = shown::path(log);
                return Err(format!(
                    "{flag} {log}: would be read as a policy; expected a file outside of --policies {shown_policies}, or one \
                     with another ending than .yaml, .yml and .json"
                ));
            }
        }
        Ok(())
    }

    fn config(self) -> Result<Config, Failure> {
        let source = match self.etcd.settings()? {
            Some(settings) => SourceConfig::Etcd(settings),
            None => SourceConfig::Dir(self.policies),
        };
        let traces = self.traces.0.settings(self.replica_id.as_deref())?;
        let tls = self.tls_cert.zip(self.tls_key);
        let of_denials = Rotation { bytes_max: self.denials_log_bytes_max, files_max: self.denials_log_files_max };
        Ok(Config {
            source,
            state_dir: self.state_dir,
            xds_listen: self.xds_listen,
            xds_limits: XdsLimits {
                admission: AdmissionLimits {
                    streams_max: self.xds_streams_max as usize,
                    streams_per_second: self.xds_streams_per_second,
                },
                connection_age: Some(self.xds_connection_age).filter(|age| !age.is_zero()),
                unread_bytes_max: self.xds_unread_bytes_max,
            },
            rls_listen: self.rls_listen,
            admin_listen: self.admin_listen,
            tls: tls.map(|(certificate, key)| TlsFiles { certificate, key, client_ca: self.tls_client_ca }),
            rls_advertise: self.rls_advertise,
            replica_id: self.replica_id,
            admin_access: AccessFiles { file: self.admin_access, token_file: self.admin_token_file },
            admin_metrics_open: self.admin_metrics_open,
            audit_log: self.audit_log.map(|path| AuditSettings {
                path,
                rotation: Rotation { bytes_max: self.audit_log_bytes_max, files_max: self.audit_log_files_max },
            }),
            denial_log: self.denials_log.map(|path| DenialLogSettings {
                target: match path.as_os_str() == STANDARD_STREAM {
                    true => Target::StandardOutput,
                    false => Target::File(path, of_denials),
                },
                per_second: self.denials_log_per_second,
            }),
            traces,
            counters: self.counters.0.config()?,
            allow_empty: self.allow_empty,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Verb};
    use crate::compile::server::UNWELL_WITHIN;
    use crate::config::CountersConfig;
    use crate::counters::redis::RedisSettings;

    fn args(flags: &str) -> Args {
        let cli = Cli::try_parse_from(["tierflow", "serve"].into_iter().chain(flags.split_whitespace()));
        let Verb::Serve(args) = cli.unwrap_or_else(|error| panic!("{flags}: {error}")).verb else { unreachable!() };
        args.0
    }

    fn config(flags: &str) -> Result<Config, Failure> {
        args(flags).config()
    }

    /// The demo and the tests take the bounds from `Default`, and operators read of them in `--help`.
    #[test]
    fn without_flags_the_bounds_are_the_default_ones() {
        let config = config("").unwrap();
        let (bounds, defaults) = (config.xds_limits, XdsLimits::default());
        assert_eq!(bounds.admission.streams_max, defaults.admission.streams_max);
        assert_eq!(bounds.admission.streams_per_second, defaults.admission.streams_per_second);
        assert_eq!(bounds.connection_age, defaults.connection_age);
        assert_eq!(bounds.unread_bytes_max, defaults.unread_bytes_max);
        assert!(args("").drain_time > UNWELL_WITHIN, "Envoys know before it ends");
        assert!(matches!(&config.source, SourceConfig::Dir(folder) if folder.as_os_str() == "policies"));
        assert!(matches!(config.counters, CountersConfig::Memory { keys_max: 1_000_000 }));
        assert_eq!(config.admin_listen.to_string(), "127.0.0.1:8080", "nobody else may ask without TLS and tokens");
        assert!(config.tls.is_none() && config.state_dir.is_none() && !config.allow_empty);
    }

    #[test]
    fn flags_come_to_what_they_say() {
        let config = config(
            "--etcd=10.0.0.5:2379,http://10.0.0.6:2379/ --etcd-prefix=/shop/ --xds-connection-age=0s
             --tls-cert=a.crt --tls-key=a.key --tls-client-ca=ca.crt --rls-advertise=limiter:1,[::1]:2
             --counters=redis://10.0.0.7:6379 --counters-connections=7 --counters-timeout=20ms --counters-prefix=shop:
             --xds-streams-max=9 --xds-streams-per-second=8 --xds-unread-bytes-max=7 --replica-id=one --allow-empty",
        );
        let config = config.unwrap();
        let SourceConfig::Etcd(etcd) = &config.source else { panic!("{:?}", config.source) };
        assert_eq!(etcd.endpoints, ["http://10.0.0.5:2379", "http://10.0.0.6:2379"]);
        assert_eq!((&*etcd.prefix, etcd.tls.is_some(), etcd.user.is_some()), ("/shop", false, false));
        assert_eq!(config.xds_limits.connection_age, None, "never");
        assert_eq!(config.xds_limits.admission.streams_max, 9);
        assert_eq!(config.xds_limits.admission.streams_per_second, 8);
        assert_eq!(config.xds_limits.unread_bytes_max, 7);
        let tls = config.tls.as_ref().unwrap();
        let names = [Some(&tls.certificate), Some(&tls.key), tls.client_ca.as_ref()];
        assert_eq!(
            names.map(|path| path.and_then(|path| path.to_str())),
            [Some("a.crt"), Some("a.key"), Some("ca.crt")]
        );
        let advertised: Vec<String> = config.rls_advertise.iter().map(ToString::to_string).collect();
        assert_eq!(advertised, ["limiter:1", "[::1]:2"]);
        let CountersConfig::Redis(redis) = &config.counters else { panic!("{:?}", config.counters) };
        assert_eq!((&*redis.url.to_string(), &*redis.prefix), ("redis://10.0.0.7:6379", "shop:"));
        assert_eq!((redis.connections, redis.deadline), (7, Duration::from_millis(20)));
        assert!(config.allow_empty && config.replica_id.as_deref() == Some("one"));
    }

    #[test]
    fn a_store_of_counters_is_checked_before_anything_starts() {
        let redis = "expected memory, redis://HOST:PORT";
        let names_a_user = "it names a user, whom every list of processes would show; use --counters-password-file";
        let needs_tls = "--counters-ca and --counters-cert need rediss://";
        for (flags, expected) in [
            ("--counters=postgres://a:1", redis),
            ("--counters=redis", redis),
            ("--counters=unix:///run/redis.sock", redis),
            ("--counters=redis://ann:secret@a:1", names_a_user),
            ("--counters=redis://:secret@a:1", names_a_user),
            ("--counters=redis://a:1?protocol=resp3", "it has parameters, and there are none"),
            ("--counters=redis://a:1 --counters-ca=x", needs_tls),
            ("--counters=redis://a:1 --counters-cert=x --counters-key=y", needs_tls),
            ("--counters=redis://a:1 --counters-password-file=/nonexistent/x", "/nonexistent/x: "),
            ("--counters=rediss://a:1 --counters-ca=/nonexistent/x", "/nonexistent/x: "),
            ("--counters-ca=x", "--counters-ca needs --counters"),
            ("--counters-password-file=x", "--counters-password-file needs --counters"),
        ] {
            let told = config(flags).expect_err(flags);
            assert!(told.contains(expected), "{flags}: {told}");
            assert!(!told.contains("secret"), "{flags}: {told}");
        }
        for good in ["redis://a:1", "redis://a", "redis://[::1]:1/3", "rediss://a:1/2"] {
            assert!(config(&format!("--counters={good}")).is_ok(), "{good}");
        }
        let CountersConfig::Redis(redis) = config("--counters=redis://a:1").unwrap().counters else { unreachable!() };
        let defaults = (RedisSettings::CONNECTIONS, RedisSettings::DEADLINE, RedisSettings::PREFIX);
        assert_eq!((redis.connections, redis.deadline, &*redis.prefix), defaults);
    }
}
