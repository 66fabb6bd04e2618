//! The bootstrap of an Envoy: who it is and where its Tierflow listens. All the rest it gets from there.

use std::path::Path;

use serde_json::{Value, json};

use crate::compile::{AUTHORITY_SECRET, HostPort, IDENTITY_SECRET, ServerTls, xds_cluster};
use crate::policy::gateway::Gateway;
use crate::snapshot::render;
use crate::snapshot::resource::ResourceType;

/// The most connections of clients that an Envoy takes, unless it is said otherwise: as in Envoy's guide to edges.
pub const DOWNSTREAM_CONNECTIONS_MAX: u32 = 50_000;

/// The choices that a bootstrap is made from.
#[derive(Clone, Copy, Debug)]
pub struct Bootstrap<'a> {
    /// The gateway that the Envoy is to serve: its `nodes` will select the Envoy.
    pub gateway: &'a Gateway,
    /// `None`: an id that the gateway's `nodes.ids` selects, else the gateway's name and `-1`.
    pub node_id: Option<&'a str>,
    /// The address of Tierflow's xDS port.
    pub server: &'a HostPort,
    /// TLS with Tierflow's ports. `None`: plain text.
    pub tls: Option<EnvoyTls<'a>>,
    /// The address of Envoy's own admin interface. `None`: it has none.
    pub envoy_admin: Option<&'a HostPort>,
    pub xds: XdsVariant,
    /// The most connections of clients, of all listeners together.
    pub downstream_connections_max: u32,
}

/// PEM files on the Envoy's host.
#[derive(Clone, Copy, Debug)]
pub struct EnvoyTls<'a> {
    /// The authority that signed the certificate of Tierflow's ports.
    pub ca: &'a Path,
    /// The certificate that Envoy shows to them, and its private key.
    pub identity: Option<(&'a Path, &'a Path)>,
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
            "static_resources": self.static_resources(),
            "overload_manager": self.overload_manager(),
        });
        if let (Some(admin), Some(fields)) = (self.envoy_admin, bootstrap.as_object_mut()) {
            fields.insert("admin".to_owned(), json!({ "address": address(admin), "ignore_global_conn_limit": true }));
        }
        Ok(bootstrap)
    }

    /// Envoy has no bound of its own ("Configuring Envoy as an edge proxy"): without one, clients that open connections and
    /// leave them open take all its memory and files.
    fn overload_manager(&self) -> Value {
        let max = self.downstream_connections_max.to_string();
        json!({ "resource_monitors": [{
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": max,
            },
        }] })
    }

    fn static_resources(&self) -> Value {
        let cluster = |tls| render::to_json(ResourceType::Cluster, &xds_cluster(self.server, tls));
        match &self.tls {
            None => json!({ "clusters": [cluster(ServerTls::None)] }),
            Some(files) => json!({ "clusters": [cluster(files.satisfies())], "secrets": files.secrets() }),
        }
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

impl EnvoyTls<'_> {
    fn satisfies(&self) -> ServerTls {
        self.identity.map_or(ServerTls::Server, |_| ServerTls::Mutual)
    }

    /// The secrets that this cluster refers to, and that of the rate limit service, which comes over it.
    fn secrets(&self) -> Value {
        let ca = json!({ "trusted_ca": { "filename": self.ca } });
        let mut secrets = vec![json!({ "name": AUTHORITY_SECRET, "validation_context": ca })];
        if let Some((certificate, key)) = self.identity {
            let identity =
                json!({ "certificate_chain": { "filename": certificate }, "private_key": { "filename": key } });
            secrets.push(json!({ "name": IDENTITY_SECRET, "tls_certificate": identity }));
        }
        secrets.into()
    }
}

fn address(address: &HostPort) -> Value {
    json!({ "socket_address": { "address": address.host, "port_value": address.port } })
}
