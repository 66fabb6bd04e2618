//! `tierflow bootstrap`

use std::path::PathBuf;

use super::checked::Checked;
use super::etcd::EtcdArgs;
use super::output::{self, Format, Streams};
use super::{Failure, complete};
use crate::bootstrap::{Bootstrap, DOWNSTREAM_CONNECTIONS_MAX, EnvoyTls, XdsVariant};
use crate::compile::{HostPort, RateLimitService};
use crate::config::parse_host_port;
use crate::document::Documents;
use crate::etcd::EtcdSettings;
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
    let bootstrap = Bootstrap {
        gateway,
        node_id: args.node_id.as_deref(),
        server: &args.server,
        tls: args
            .server_ca
            .as_deref()
            .map(|ca| EnvoyTls { ca, identity: args.server_cert.as_deref().zip(args.server_key.as_deref()) }),
        envoy_admin: args.envoy_admin.as_ref(),
        xds: args.xds,
        downstream_connections_max: args.downstream_connections_max,
    };
    streams.print_value(&bootstrap.to_json()?, args.output)
}
