//! The bootstrap of an Envoy: who it is and where its Tierflow listens. All the rest it gets from there.

use std::path::Path;

use serde_json::{Value, json};

use crate::compile::{AUTHORITY_SECRET, HostPort, IDENTITY_SECRET, Secrets, ServerTls, secret_file, xds_cluster};
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
    /// The folder that has [`EnvoyTls::files`], on the Envoy's host. `None`: the secrets are in the bootstrap alone, and read
    /// once.
    pub sds_dir: Option<&'a str>,
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
        let secrets = Secrets::of(self.sds_dir);
        let cluster = |tls| render::to_json(ResourceType::Cluster, &xds_cluster(self.server, tls, secrets));
        match &self.tls {
            None => json!({ "clusters": [cluster(ServerTls::None)] }),
            Some(files) => json!({ "clusters": [cluster(files.asked())], "secrets": files.secrets() }),
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
    /// What a server may ask of an Envoy with these files.
    pub fn asked(&self) -> ServerTls {
        self.identity.map_or(ServerTls::Server, |_| ServerTls::Mutual)
    }

    /// The secrets that this cluster refers to, and that of the rate limit service, which comes over it.
    pub fn secrets(&self) -> Vec<Value> {
        let ca = json!({ "trusted_ca": { "filename": self.ca } });
        let mut secrets = vec![json!({ "name": AUTHORITY_SECRET, "validation_context": ca })];
        if let Some((certificate, key)) = self.identity {
            let identity =
                json!({ "certificate_chain": { "filename": certificate }, "private_key": { "filename": key } });
            secrets.push(json!({ "name": IDENTITY_SECRET, "tls_certificate": identity }));
        }
        secrets
    }

    /// The same as files, by their names in [`Bootstrap::sds_dir`]: Envoy watches each file that has a secret, and the folders
    /// of the PEM files that it names. Those are followed only where a secret comes from elsewhere than the bootstrap.
    pub fn files(&self) -> Vec<(String, Value)> {
        let paths = [Some(self.ca), self.identity.map(|(certificate, _)| certificate)];
        let secrets = self.secrets().into_iter().zip(paths.into_iter().flatten());
        let file = |(mut secret, path): (Value, &Path)| {
            let name = secret_file(secret.get("name").and_then(Value::as_str).unwrap_or_default());
            let watched = json!({ "path": path.parent().unwrap_or(Path::new("/")) });
            for kind in ["validation_context", "tls_certificate"] {
                if let Some(fields) = secret.get_mut(kind).and_then(Value::as_object_mut) {
                    fields.insert("watched_directory".to_owned(), watched.clone());
                }
            }
            if let Some(fields) = secret.as_object_mut() {
                fields.insert("@type".to_owned(), ResourceType::Secret.type_url().into());
            }
            (name, json!({ "resources": [secret] }))
        };
        secrets.map(file).collect()
    }
}

fn address(address: &HostPort) -> Value {
    json!({ "socket_address": { "address": address.host, "port_value": address.port } })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::document::split;
    use crate::policy::parse::{Policy, parse};

    fn gateway(nodes: &str) -> Arc<Gateway> {
        let text = format!("{{kind: Gateway, name: shop, nodes: {nodes}, listen: '127.0.0.1:1'}}");
        let document = Arc::new(split(&"p.yaml".into(), text.as_bytes()).remove(0));
        match &parse(&document).unwrap().policy {
            Policy::Gateway(gateway) => Arc::clone(gateway),
            _ => unreachable!("it is a Gateway"),
        }
    }

    fn server() -> HostPort {
        HostPort { host: "tierflow.internal".to_owned(), port: 18000 }
    }

    fn bootstrap<'a>(gateway: &'a Gateway, server: &'a HostPort) -> Bootstrap<'a> {
        Bootstrap {
            gateway,
            node_id: None,
            server,
            tls: None,
            sds_dir: None,
            envoy_admin: None,
            xds: XdsVariant::Delta,
            downstream_connections_max: 7,
        }
    }

    /// Whatever selects nodes, there is a node that it selects; but not every id is one.
    #[test]
    fn the_node_is_one_that_the_gateway_selects() {
        for (nodes, id, cluster) in [
            ("{clusters: [edge]}", "shop-1", "edge"),
            ("{clusters: [edge, other]}", "shop-1", "edge"),
            ("{ids: [one, two]}", "one", "shop"),
            ("{ids: ['edge-*'], clusters: ['eu-*']}", "edge-1", "eu-1"),
        ] {
            let (gateway, server) = (gateway(nodes), server());
            let json = bootstrap(&gateway, &server).to_json().unwrap();
            let node = &json["node"];
            assert!(gateway.nodes.selects(
                node["id"].as_str().unwrap(),
                node["cluster"].as_str().unwrap(),
                &gateway.nodes.metadata
            ));
            assert_eq!((&node["id"], &node["cluster"]), (&json!(id), &json!(cluster)), "{nodes}");
        }
        let (gateway, server) = (gateway("{ids: ['edge-*']}"), server());
        let named = |node_id| Bootstrap { node_id: Some(node_id), ..bootstrap(&gateway, &server) }.to_json();
        assert_eq!(named("edge-7").unwrap()["node"]["id"], "edge-7");
        assert_eq!(
            named("core-7").unwrap_err(),
            "the node id \"core-7\" is not one that `nodes` of Gateway shop selects"
        );
    }

    #[test]
    fn everything_but_the_cluster_of_tierflow_comes_from_there() {
        let (gateway, server) = (gateway("{clusters: [edge]}"), server());
        let json = bootstrap(&gateway, &server).to_json().unwrap();
        let ads = &json["dynamic_resources"]["ads_config"];
        assert_eq!((&ads["api_type"], &ads["transport_api_version"]), (&json!("DELTA_GRPC"), &json!("V3")));
        assert_eq!(ads["grpc_services"][0]["envoy_grpc"]["cluster_name"], "tierflow:xds");
        for config in ["cds_config", "lds_config"] {
            assert_eq!(json["dynamic_resources"][config], json!({ "resource_api_version": "V3", "ads": {} }));
        }
        let resources = &json["static_resources"];
        assert_eq!((resources["clusters"].as_array().map(Vec::len), resources.get("secrets")), (Some(1), None));
        assert_eq!(resources["clusters"][0]["name"], "tierflow:xds");
        let endpoint = resources["clusters"][0].pointer("/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address");
        assert_eq!(endpoint.unwrap()["socket_address"]["address"], "tierflow.internal");
        assert_eq!(
            json.pointer("/overload_manager/resource_monitors/0/typed_config/max_active_downstream_connections"),
            Some(&json!("7"))
        );
        let sotw = Bootstrap { xds: XdsVariant::Sotw, ..bootstrap(&gateway, &server) }.to_json().unwrap();
        assert_eq!(sotw["dynamic_resources"]["ads_config"]["api_type"], "GRPC");
    }

    #[test]
    fn an_admin_interface_is_there_where_it_is_asked_for_and_always_answers() {
        let (gateway, server) = (gateway("{clusters: [edge]}"), server());
        assert_eq!(bootstrap(&gateway, &server).to_json().unwrap().get("admin"), None);
        let admin = HostPort { host: "::1".to_owned(), port: 9901 };
        let json = Bootstrap { envoy_admin: Some(&admin), ..bootstrap(&gateway, &server) }.to_json().unwrap();
        let address = json!({ "socket_address": { "address": "::1", "port_value": 9901 } });
        // However many connections clients have.
        assert_eq!(json["admin"], json!({ "address": address, "ignore_global_conn_limit": true }));
    }

    #[test]
    fn with_tls_the_envoy_has_the_files_as_secrets() {
        let (gateway, server) = (gateway("{clusters: [edge]}"), server());
        let resources = |identity| {
            let tls = Some(EnvoyTls { ca: Path::new("/ca.crt"), identity });
            let mut json = Bootstrap { tls, ..bootstrap(&gateway, &server) }.to_json().unwrap();
            json["static_resources"].take()
        };
        let ca = json!({ "name": "tierflow:ca", "validation_context": { "trusted_ca": { "filename": "/ca.crt" } } });
        let of_server = resources(None);
        assert_eq!(of_server["secrets"], json!([ca]));
        assert!(of_server["clusters"][0].to_string().contains("tierflow:ca"));
        assert!(!of_server["clusters"][0].to_string().contains("tierflow:identity"), "it has none to show");
        let mutual = resources(Some((Path::new("/envoy.crt"), Path::new("/envoy.key"))));
        let identity = json!({ "name": "tierflow:identity", "tls_certificate": {
            "certificate_chain": { "filename": "/envoy.crt" }, "private_key": { "filename": "/envoy.key" },
        } });
        assert_eq!(mutual["secrets"], json!([ca, identity]));
        assert!(mutual["clusters"][0].to_string().contains("tierflow:identity"));
    }

    #[test]
    fn with_a_folder_of_secrets_the_envoy_watches_their_files() {
        let (gateway, server) = (gateway("{clusters: [edge]}"), server());
        let identity = Some((Path::new("/pki/envoy.crt"), Path::new("/pki/envoy.key")));
        let tls = EnvoyTls { ca: Path::new("/ca/ca.crt"), identity };
        let folder = Bootstrap { tls: Some(tls), sds_dir: Some("/etc/envoy/sds"), ..bootstrap(&gateway, &server) };
        let cluster = folder.to_json().unwrap()["static_resources"]["clusters"][0].to_string();
        for file in ["/etc/envoy/sds/tierflow_ca.yaml", "/etc/envoy/sds/tierflow_identity.yaml"] {
            let source = json!({ "path": file, "watched_directory": { "path": "/etc/envoy/sds" } }).to_string();
            assert!(cluster.contains(&source), "{cluster}");
        }
        let secret = |kind: &str, name: &str, fields: Value| {
            json!({ "resources": [{
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "name": name, kind: fields,
            }] })
        };
        let ca = json!({ "trusted_ca": { "filename": "/ca/ca.crt" }, "watched_directory": { "path": "/ca" } });
        let own = json!({
            "certificate_chain": { "filename": "/pki/envoy.crt" }, "private_key": { "filename": "/pki/envoy.key" },
            "watched_directory": { "path": "/pki" },
        });
        let expected = [
            ("tierflow_ca.yaml".to_owned(), secret("validation_context", "tierflow:ca", ca)),
            ("tierflow_identity.yaml".to_owned(), secret("tls_certificate", "tierflow:identity", own)),
        ];
        assert_eq!(tls.files(), expected);
    }
}
