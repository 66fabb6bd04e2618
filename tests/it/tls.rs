//! Certificates to serve and to trust. They are good for a hundred years, and guard nothing.

#[path = "../tls/authority.rs"]
mod authority;

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower_service::Service;

pub(crate) use authority::{Authority, Certificate, in_days};

/// One of `tests/tls`. Those of `server` and `client` are for 127.0.0.1, and signed by `authority`.
pub(crate) fn certificate(name: &str) -> String {
    format!("{}/tests/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Puts one of the two certificates for `edge.test`, which signed themselves, where it is looked for: `tls.crt` and
/// `tls.key`.
pub(crate) fn install(name: &str, folder: &Path) {
    for ending in ["key", "crt"] {
        std::fs::copy(certificate(&format!("{name}.{ending}")), folder.join("new")).unwrap();
        std::fs::rename(folder.join("new"), folder.join("tls").with_extension(ending)).unwrap();
    }
}

/// Python is there wherever Envoy was fetched, and knows TLS.
const CLIENT: &str = "
import socket, ssl, sys
host, port, certificate, path = sys.argv[1:]
context = ssl.create_default_context(cafile=certificate)
context.set_alpn_protocols(['http/1.1'])
with context.wrap_socket(socket.create_connection((host, int(port))), server_hostname='edge.test') as connection:
    connection.sendall(f'GET {path} HTTP/1.1\\r\\nhost: localhost\\r\\nconnection: close\\r\\n\\r\\n'.encode())
    while data := connection.recv(65536):
        sys.stdout.buffer.write(data)
";

/// What is answered to a GET, if the certificate is the one that lies in the folder.
pub(crate) fn get(folder: &Path, address: SocketAddr, path: &str) -> Option<String> {
    let output = Command::new("python3")
        .args(["-c", CLIENT, &address.ip().to_string(), &address.port().to_string()])
        .arg(folder.join("tls.crt"))
        .arg(path)
        .output()
        .unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Certificate {
    /// Puts `NAME.key` and `NAME.crt` in the places of those before, one after the other.
    pub(crate) fn write(&self, folder: &Path, name: &str) {
        for (ending, text) in [("key", &self.key), ("crt", &self.certificate)] {
            std::fs::write(folder.join("new"), text).unwrap();
            std::fs::rename(folder.join("new"), folder.join(name).with_extension(ending)).unwrap();
        }
    }
}

/// A gRPC client that shows a certificate.
#[derive(Clone)]
pub(crate) struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    pub(crate) fn new(authority: &Authority, shown: &Certificate) -> Self {
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let mut authorities = RootCertStore::empty();
        authorities.add(der(&authority.pem())).unwrap();
        let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(authorities)
            .with_client_auth_cert(vec![der(&shown.certificate)], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self(Arc::new(config))
    }

    pub(crate) async fn connect(&self, address: SocketAddr) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        endpoint.connect_with_connector(self.clone()).await.unwrap()
    }
}

impl Service<Uri> for TlsClient {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = TlsConnector::from(Arc::clone(&self.0));
        Box::pin(async move {
            let stream = TcpStream::connect(uri.authority().unwrap().as_str()).await?;
            let connected = connector.connect("127.0.0.1".try_into().unwrap(), stream).await?;
            Ok(TokioIo::new(connected))
        })
    }
}
