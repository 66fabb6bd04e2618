//! With TIERFLOW_BENCH_TLS=1: TLS between the Envoys and the servers, with certificates on both sides.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use rustls::ClientConfig;
use rustls::crypto::ring;
use tierflow::pem::PemFile;
use tokio_rustls::TlsConnector;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

const VARIABLE: &str = "TIERFLOW_BENCH_TLS";

fn is_wanted() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|value| value == "1")
}

/// Those of the tests, for 127.0.0.1.
fn file(name: &str) -> String {
    format!("{}/tests/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Of `tierflow serve`.
pub(crate) fn flags() -> Vec<String> {
    let flags = [("cert", "server.crt"), ("key", "server.key"), ("client-ca", "authority.crt")];
    let flags = flags.map(|(flag, name)| format!("--tls-{flag}={}", file(name)));
    if is_wanted() { flags.into() } else { Vec::new() }
}

/// The same of the floor.
pub(crate) fn of_floor() -> Option<ServerTlsConfig> {
    let read = |name| std::fs::read(file(name)).unwrap();
    let identity = || Identity::from_pem(read("server.crt"), read("server.key"));
    let client_ca = || Certificate::from_pem(read("authority.crt"));
    is_wanted().then(|| ServerTlsConfig::new().identity(identity()).client_ca_root(client_ca()))
}

/// Of an Envoy.
pub(crate) fn connector() -> Option<TlsConnector> {
    static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
        let [ca, certificate, key] = ["authority.crt", "client.crt", "client.key"]
            .map(|name| PemFile::read("the bench's", Path::new(&file(name))).unwrap());
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(ca.authorities().unwrap());
        let mut config =
            config.with_client_auth_cert(certificate.certificates().unwrap(), key.private_key().unwrap()).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Each is an Envoy of its own, which has not been here before.
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    });
    is_wanted().then(|| TlsConnector::from(Arc::clone(&CONFIG)))
}
