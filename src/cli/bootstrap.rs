//! `tierflow bootstrap`

use std::path::{Path, PathBuf};

use super::checked::Checked;
use super::etcd::EtcdArgs;
use super::output::{self, Format, Streams};
use super::{Failure, complete};
use crate::bootstrap::{Bootstrap, DOWNSTREAM_CONNECTIONS_MAX, EnvoyTls, XdsVariant};
use crate::compile::{HostPort, RateLimitService};
use crate::config::parse_host_port;
use crate::document::Documents;
use crate::etcd::EtcdSettings;
use crate::shown;
use crate::source::etcd::Etcd;

/// Print the bootstrap of an Envoy that connects to this server. Its node is one that the gateway selects.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The gateway that the Envoy is to serve.
    #[arg(long, value_name = "NAME", add = complete::gateways())]
    gateway: String,
    /// The address of Tierflow's xDS port.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:18000", value_parser = parse_host_port, env = "TIERFLOW_SERVER")]
    server: HostPort,
    #[command(flatten)]
    tls: EnvoyTlsArgs,
    /// Folder on this host, which is to be the Envoy's: files are written there from which Envoy takes that certificate
    /// and that authority, anew whenever the PEM files are replaced by others that are moved into their places. For what the
    /// Envoy asks the rate limit service, the gateway needs the same `sds_dir`.
    #[arg(long, value_name = "DIR", requires = "server_ca")]
    sds_dir: Option<PathBuf>,
    /// The Envoy's node id. Default: one that the gateway's `nodes.ids` selects, else the gateway's name and `-1`.
    #[arg(long, value_name = "ID", add = complete::node_ids())]
    node_id: Option<String>,
    /// The address of Envoy's own admin interface. Default: it has none.
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_host_port)]
    envoy_admin: Option<HostPort>,
    /// The most connections of clients at the same time; more are closed at once. Each is an open file.
    #[arg(long, value_name = "N", default_value_t = DOWNSTREAM_CONNECTIONS_MAX, value_parser = clap::value_parser!(u32).range(1..))]
    downstream_connections_max: u32,
    /// The variant of the xDS protocol.
    #[arg(long, value_enum, default_value_t)]
    xds: XdsVariant,
    /// Folder of policies that has the gateway.
    #[arg(long, value_name = "DIR", default_value = "policies", conflicts_with = "etcd", env = "TIERFLOW_POLICIES")]
    policies: PathBuf,
    #[command(flatten)]
    etcd: Checked<EtcdArgs>,
    #[arg(short, long, value_enum, default_value = "yaml")]
    output: Format,
}

/// The files of an Envoy's TLS with Tierflow.
#[derive(clap::Args)]
pub(super) struct EnvoyTlsArgs {
    /// PEM file, on the Envoy's host, of the authority that signed the certificate of Tierflow's ports. Needed where they
    /// have one (`serve --tls-cert`).
    #[arg(long, value_name = "FILE", env = "TIERFLOW_SERVER_CA")]
    server_ca: Option<PathBuf>,
    /// PEM file, on the Envoy's host, of the certificate to show there. Needed where they ask for one
    /// (`serve --tls-client-ca`).
    #[arg(long, value_name = "FILE", requires_all = ["server_ca", "server_key"], env = "TIERFLOW_SERVER_CERT")]
    server_cert: Option<PathBuf>,
    /// PEM file, on the Envoy's host, of that certificate's private key.
    #[arg(long, value_name = "FILE", requires = "server_cert", env = "TIERFLOW_SERVER_KEY")]
    server_key: Option<PathBuf>,
}

impl EnvoyTlsArgs {
    /// `None`: plain text.
    pub(super) fn envoy_tls(&self) -> Option<EnvoyTls<'_>> {
        let identity = self.server_cert.as_deref().zip(self.server_key.as_deref());
        self.server_ca.as_deref().map(|ca| EnvoyTls { ca, identity })
    }
}

/// As Envoy is told of it, wherever that is started.
fn absolute(folder: &Path) -> Result<String, Failure> {
    let absolute = std::path::absolute(folder).map_err(|error| format!("--sds-dir: {error}"))?;
    let text = absolute.to_str().ok_or_else(|| format!("--sds-dir {}: expected UTF-8", shown::path(folder)))?;
    Ok(text.trim_end_matches('/').to_owned())
}

/// Each is there as a whole or not at all: an Envoy that runs may watch the folder.
fn write_secrets(folder: &Path, tls: &EnvoyTls<'_>) -> Result<(), Failure> {
    let wrong = |path: &Path, error: std::io::Error| format!("--sds-dir: {}: {error}", shown::path(path));
    std::fs::create_dir_all(folder).map_err(|error| wrong(folder, error))?;
    for (name, secret) in tls.files() {
        let text = serde_yaml::to_string(&secret).map_err(|error| error.to_string())?;
        let (path, new) = (folder.join(&name), folder.join(format!(".{name}.new")));
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &path));
        written.map_err(|error| wrong(&path, error))?;
    }
    Ok(())
}

fn read_etcd(settings: &EtcdSettings) -> Result<Documents, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(Etcd::read(settings))
}

pub(super) fn run(args: &Args, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let documents = match args.etcd.settings()? {
        Some(settings) => read_etcd(&settings)?,
        None => output::read_documents(std::slice::from_ref(&args.policies), streams)?,
    };
    let generation = output::build(&documents, RateLimitService::default(), streams)?;
    let gateway = output::of_gateway(&generation.policies.gateways, Some(&args.gateway))?;
    let tls = args.tls.envoy_tls();
    let sds_dir = args.sds_dir.as_deref().map(absolute).transpose()?;
    if let (Some(tls), Some(folder)) = (&tls, &sds_dir) {
        write_secrets(Path::new(folder), tls)?;
        if gateway.sds_dir.as_deref() != Some(folder) {
            let found = gateway.sds_dir.as_deref().map_or("none".to_owned(), |other| format!("{other:?}"));
            streams.complain(&format!(
                "warning: to ask for decisions with the certificate in these files, Gateway {} needs sds_dir {folder:?}: found {found}",
                gateway.name
            ));
        }
    }
    let bootstrap = Bootstrap {
        gateway,
        node_id: args.node_id.as_deref(),
        server: &args.server,
        tls,
        sds_dir: sds_dir.as_deref(),
        envoy_admin: args.envoy_admin.as_ref(),
        xds: args.xds,
        downstream_connections_max: args.downstream_connections_max,
    };
    streams.print_value(&bootstrap.to_json()?, args.output)
}
