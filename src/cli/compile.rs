//! `tierflow compile`

use std::path::PathBuf;

use super::bootstrap::EnvoyTlsArgs;
use super::output::{self, Format, Streams};
use super::{Failure, complete};
use crate::bootstrap::EnvoyTls;
use crate::compile::{HostPort, RateLimitService};
use crate::config::parse_host_port;
use crate::snapshot::render;

/// Print the xDS that a gateway's Envoys would get, as a bootstrap that stands by itself:
/// `envoy --mode validate -c` takes it, and so does an Envoy without a control plane.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A file or folder of policies.
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Only this gateway. Default: the only one there is.
    #[arg(long, value_name = "NAME", add = complete::gateways())]
    gateway: Option<String>,
    /// The addresses under which Envoys reach the rate limit service.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8081", value_delimiter = ',', value_parser = parse_host_port, env = "TIERFLOW_RLS_ADVERTISE")]
    rls_advertise: Vec<HostPort>,
    #[command(flatten)]
    tls: EnvoyTlsArgs,
    #[arg(short, long, value_enum, default_value = "yaml")]
    output: Format,
}

pub(super) fn run(args: &Args, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let envoy_tls = args.tls.envoy_tls();
    let tls = envoy_tls.as_ref().map(EnvoyTls::asked).unwrap_or_default();
    let limiter = RateLimitService { addresses: args.rls_advertise.clone(), has_replicas: false, tls };
    let generation = output::load(&args.path, limiter, streams)?;
    let resources = output::of_gateway(&generation.snapshot.groups, args.gateway.as_deref())?;
    let gateway = output::of_gateway(&generation.policies.gateways, args.gateway.as_deref())?;
    if !gateway.identities.is_empty() {
        let identities: Vec<String> = gateway.identities.iter().map(ToString::to_string).collect();
        let identities = identities.join(" or ");
        streams.complain(&format!("Gateway {} is for Envoys with a certificate of {identities} only", gateway.name));
    }
    let secrets = envoy_tls.map(|tls| tls.secrets()).unwrap_or_default();
    streams.print_value(&render::to_static_bootstrap(resources, secrets), args.output)
}
