//! The bootstrap of an Envoy: who it is and where its Tierflow listens. All the rest it gets from there.

use serde_json::{Value, json};

use crate::compile::HostPort;
use crate::policy::gateway::Gateway;
use crate::snapshot::render;

/// What a bootstrap is made from.
#[derive(Clone, Copy, Debug)]
pub struct Bootstrap<'a> {
    /// The gateway that the Envoy is to serve: its `nodes` will select the Envoy.
    pub gateway: &'a Gateway,
    /// `None`: an id that the gateway's `nodes.ids` selects, else the gateway's name and `-1`.
    pub node_id: Option<&'a str>,
    /// Where Tierflow's xDS port is.
    pub server: &'a HostPort,
    /// Where Envoy's own admin interface listens. `None`: nowhere.
    pub envoy_admin: Option<&'a HostPort>,
    pub xds: XdsVariant,
}

/// The variant of the xDS protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum XdsVariant {
    Sotw,
    #[default]
    Delta,
}

impl Bootstrap<'_> {
    /// Fails where the gateway would not select the node.
    pub fn to_json(&self) -> Result<Value, String> {
        let api_type = match self.xds {
            XdsVariant::Sotw => "GRPC",
            XdsVariant::Delta => "DELTA_GRPC",
        };
        let from_ads = json!({ "resource_api_version": "V3", "ads": {} });
        let mut bootstrap = json!({
            "node": self.node()?,
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
            "layered_runtime": render::runtime(),
            "static_resources": { "clusters": [xds_cluster(self.server)] },
        });
        if let (Some(admin), Some(fields)) = (self.envoy_admin, bootstrap.as_object_mut()) {
            fields.insert("admin".to_owned(), json!({ "address": address(admin) }));
        }
        Ok(bootstrap)
    }

    fn node(&self) -> Result<Value, String> {
        let Gateway { name, nodes, .. } = self.gateway;
        let default_id = || nodes.ids.first().map_or_else(|| format!("{name}-1"), |pattern| pattern.example());
        let id = self.node_id.map_or_else(default_id, str::to_owned);
        let cluster = nodes.clusters.first().map_or_else(|| name.to_string(), |pattern| pattern.example());
        if !nodes.selects(&id, &cluster, &nodes.metadata) {
            return Err(format!("the node id {id:?} is not one that `nodes` of Gateway {name} selects"));
        }
        Ok(json!({ "id": id, "cluster": cluster, "metadata": nodes.metadata }))
    }
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
