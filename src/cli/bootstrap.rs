//! `tierflow bootstrap`

use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::{Value, json};

use super::Failure;
use super::output::{self, Format};
use crate::compile::{HostPort, RateLimitService};
use crate::config::parse_host_port;
use crate::policy::gateway::NodeSelector;

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
    #[arg(long, value_enum, default_value = "delta")]
    xds: Variant,
    /// Folder of policies that has the gateway.
    #[arg(long, value_name = "DIR", default_value = "policies", env = "TIERFLOW_POLICIES")]
    policies: PathBuf,
    #[arg(short, long, value_enum, default_value = "yaml")]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Variant {
    Sotw,
    Delta,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let generation = output::load(&args.policies, RateLimitService { addresses: Vec::new() })?;
    let gateways = &generation.policies.gateways;
    let gateway = gateways.get(args.gateway.as_str()).ok_or_else(|| {
        let names = gateways.keys().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        format!("no Gateway is called {:?}; there are: {names}", args.gateway)
    })?;
    let node = node(&gateway.nodes, &args.gateway, args.node_id.as_deref())?;
    output::print_value(&bootstrap(&node, args), args.output)
}

fn node(selector: &NodeSelector, gateway: &str, id: Option<&str>) -> Result<Value, Failure> {
    let default_id = || selector.ids.first().map_or_else(|| format!("{gateway}-1"), |pattern| pattern.example());
    let id = id.map_or_else(default_id, str::to_owned);
    let cluster = selector.clusters.first().map_or_else(|| gateway.to_owned(), |pattern| pattern.example());
    if !selector.selects(&id, &cluster, &selector.metadata) {
        return Err(format!("the node id {id:?} is not one that `nodes` of Gateway {gateway} selects"));
    }
    Ok(json!({ "id": id, "cluster": cluster, "metadata": selector.metadata }))
}

fn bootstrap(node: &Value, args: &Args) -> Value {
    let api_type = match args.xds {
        Variant::Sotw => "GRPC",
        Variant::Delta => "DELTA_GRPC",
    };
    let from_ads = json!({ "resource_api_version": "V3", "ads": {} });
    let mut bootstrap = json!({
        "node": node,
        "dynamic_resources": {
            "ads_config": {
                "api_type": api_type,
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "tierflow:xds" } }],
            },
            "cds_config": from_ads,
            "lds_config": from_ads,
        },
        "static_resources": { "clusters": [xds_cluster(&args.server)] },
    });
    if let (Some(admin), Some(fields)) = (&args.envoy_admin, bootstrap.as_object_mut()) {
        fields.insert("admin".to_owned(), json!({ "address": address(admin) }));
    }
    bootstrap
}

/// Pings tell a dead control plane from an idle one; without them only TCP would notice, after a quarter of an hour.
fn xds_cluster(server: &HostPort) -> Value {
    let is_address = server.host.parse::<std::net::IpAddr>().is_ok();
    json!({
        "name": "tierflow:xds",
        "type": if is_address { "STATIC" } else { "STRICT_DNS" },
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "tierflow:xds",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(server) } }] }],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {
                    "http2_protocol_options": { "connection_keepalive": { "interval": "30s", "timeout": "5s" } },
                },
            },
        },
    })
}

fn address(address: &HostPort) -> Value {
    json!({ "socket_address": { "address": address.host, "port_value": address.port } })
}
