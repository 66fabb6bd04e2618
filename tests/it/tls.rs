//! Certificates to serve and to trust. They are good for a hundred years, and guard nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

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
    connection.sendall(f'GET {path} HTTP/1.1\\r\\nhost: edge.test\\r\\nconnection: close\\r\\n\\r\\n'.encode())
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
