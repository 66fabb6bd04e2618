//! `tierflow bootstrap`

use std::path::PathBuf;

use super::Failure;
use super::output::{self, Format};
use crate::bootstrap::{Bootstrap, XdsVariant};
use crate::compile::{HostPort, RateLimitService};
use crate::config::parse_host_port;

/// Print the bootstrap of an Envoy that connects to this server. Its node is one that the gateway selects.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The gateway that the Envoy is to serve.
    #[arg(long, value_name = "NAME")]
    gateway: String,
    /// Where Tierflow's xDS port is.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:18000", value_parser = parse_host_port, env = "TIERFLOW_SERVER")]
    server: HostPort,
    /// The Envoy's node id. Default: one that the gateway's `nodes.ids` selects, else the gateway's name and `-1`.
    #[arg(long, value_name = "ID")]
    node_id: Option<String>,
    /// Where Envoy's own admin interface listens. Default: nowhere.
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_host_port)]
    envoy_admin: Option<HostPort>,
    /// The variant of the xDS protocol.
    #[arg(long, value_enum, default_value_t)]
    xds: XdsVariant,
    /// Folder of policies that has the gateway.
    #[arg(long, value_name = "DIR", default_value = "policies", env = "TIERFLOW_POLICIES")]
    policies: PathBuf,
    #[arg(short, long, value_enum, default_value = "yaml")]
    output: Format,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let generation = output::load(&args.policies, RateLimitService { addresses: Vec::new() })?;
    let gateways = &generation.policies.gateways;
    let gateway = gateways.get(args.gateway.as_str()).ok_or_else(|| {
        let names = gateways.keys().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        format!("no Gateway is called {:?}; there are: {names}", args.gateway)
    })?;
    let bootstrap = Bootstrap {
        gateway,
        node_id: args.node_id.as_deref(),
        server: &args.server,
        envoy_admin: args.envoy_admin.as_ref(),
        xds: args.xds,
    };
    output::print_value(&bootstrap.to_json()?, args.output)
}
