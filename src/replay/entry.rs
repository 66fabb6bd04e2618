//! A request of a log, as a gateway would meet it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::format::{Record, Unread};
use crate::clock::Timestamp;
use crate::explain::Request;
use crate::policy::gateway::{ClientIp, Gateway};

/// Envoy's flag of a request that its rate limit filter denied (`%RESPONSE_FLAGS%`).
const RATE_LIMITED: [&str; 2] = ["RL", "RateLimited"];

#[derive(Clone, Debug)]
pub struct Entry {
    pub at: Timestamp,
    pub request: Request,
    /// A rate limit denied it, as the log has it.
    pub was_denied: bool,
    /// False where the log does not tell whose request it is: it is taken for 0.0.0.0's then.
    pub is_client_known: bool,
}

impl Entry {
    /// `None`: the line is about a connection on which no request came.
    pub fn of(record: Record, gateway: &Gateway) -> Result<Option<Self>, Unread> {
        let at = record.at.ok_or(Unread::NoTime)?;
        let (Some(method), Some(path)) = (record.method.clone(), record.path.clone()) else { return Ok(None) };
        let client = client(&record, gateway);
        let flags = record.flags.as_deref().unwrap_or_default();
        let was_denied = flags.split(',').any(|flag| RATE_LIMITED.contains(&flag));
        let request = Request {
            method,
            path,
            host: record.host.unwrap_or_default(),
            headers: record.headers,
            client_ip: client.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
        };
        Ok(Some(Self { at, request, was_denied, is_client_known: client.is_some() }))
    }
}

/// The address that the gateway would take for the client's.
fn client(record: &Record, gateway: &Gateway) -> Option<IpAddr> {
    if let Some(remote) = &record.remote {
        let address = remote.parse::<SocketAddr>().map(|address| address.ip());
        return address.ok().or_else(|| remote.trim_matches(['[', ']']).parse().ok());
    }
    let ClientIp::TrustedHops(hops) = gateway.client_ip else { return None };
    let (_, forwarded) = record.headers.iter().find(|(name, _)| name == "x-forwarded-for")?;
    let addresses: Vec<&str> = forwarded.split(',').map(str::trim).collect();
    // Envoy has put the address of the connection at the end before it wrote the line.
    let of_connection = addresses.len().checked_sub(1)?;
    let place = of_connection.checked_sub(hops as usize).unwrap_or(of_connection);
    addresses.get(place)?.parse().ok()
}
