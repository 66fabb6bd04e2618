//! A name server that knows one name, and an Envoy that asks it (RFC 1035, section 4).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::net::UdpSocket;
use tokio::sync::watch;

/// It gives these addresses, or fails.
pub(crate) struct NameServer {
    pub(crate) addresses: watch::Sender<Option<Vec<IpAddr>>>,
    address: SocketAddr,
}

const HEADER: usize = 12;
const IPV4: u16 = 1;
const IPV6: u16 = 28;
const SERVER_FAILURE: u16 = 2;
const NAME_ERROR: u16 = 3;

impl NameServer {
    /// `name` is whole, and without a dot at its end.
    pub(crate) async fn start(name: &'static str, addresses: &[&str]) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let (addresses, known) = watch::channel(Some(addresses.iter().map(|ip| ip.parse().unwrap()).collect()));
        tokio::spawn(async move {
            let mut query = [0; 512];
            loop {
                let (length, asker) = socket.recv_from(&mut query).await.unwrap();
                let answer = answer(&query[..length], name, known.borrow().as_deref());
                socket.send_to(&answer, asker).await.unwrap();
            }
        });
        Self { addresses, address }
    }

    /// What makes an Envoy ask it, in its bootstrap.
    pub(crate) fn bootstrap(&self) -> String {
        let (ip, port) = (self.address.ip(), self.address.port());
        format!(
            "typed_dns_resolver_config:
  name: envoy.network.dns_resolver.cares
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig
    resolvers: [{{ socket_address: {{ address: {ip}, port_value: {port} }} }}]
    dns_resolver_options: {{ no_default_search_domain: true }}
"
        )
    }
}

fn answer(query: &[u8], name: &str, known: Option<&[IpAddr]>) -> Vec<u8> {
    let end = HEADER + query[HEADER..].iter().position(|byte| *byte == 0).unwrap() + 1;
    let question = &query[HEADER..end + 4];
    let labels: Vec<u8> =
        name.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).chain([0]).collect();
    let asked_type = u16::from_be_bytes([query[end], query[end + 1]]);
    let (code, records) = match known {
        None => (SERVER_FAILURE, Vec::new()),
        Some(_) if query[HEADER..end] != labels => (NAME_ERROR, Vec::new()),
        Some(known) => (0, known.iter().filter_map(|ip| record(*ip, asked_type)).collect()),
    };
    // It is an answer, recursion was wanted and is available.
    let numbers = [0x8180 | code, 1, records.len() as u16, 0, 0];
    let numbers = numbers.into_iter().flat_map(u16::to_be_bytes).collect::<Vec<_>>();
    [&query[..2], &numbers, question, &records.concat()].concat()
}

/// The address as an answer to the first question, good for an hour.
fn record(ip: IpAddr, asked_type: u16) -> Option<Vec<u8>> {
    let (record_type, data) = match ip {
        IpAddr::V4(ip) => (IPV4, ip.octets().to_vec()),
        IpAddr::V6(ip) => (IPV6, ip.octets().to_vec()),
    };
    let fields = [0xc000 | HEADER as u16, record_type, 1, 0, 3600, data.len() as u16];
    let fields = fields.into_iter().flat_map(u16::to_be_bytes).collect::<Vec<_>>();
    (record_type == asked_type).then(|| [fields, data].concat())
}
