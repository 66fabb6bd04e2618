//! Loopback ports that nobody uses: the documented ones where they are free, so that what the README says holds.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// The ports of `upstream` in policies/services.yaml.
pub(crate) const UPSTREAM_PORTS: [u16; 2] = [9101, 9102];

/// Any port that is free.
const ANY: u16 = 0;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    /// Where the gateway `shop` listens.
    pub(crate) shop: SocketAddr,
    /// Where the gateway `inventory-sidecar` listens.
    pub(crate) sidecar: SocketAddr,
    pub(crate) upstreams: [SocketAddr; 2],
    pub(crate) xds: SocketAddr,
    pub(crate) rls: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Where the shop's Envoy has its own admin interface.
    pub(crate) envoy_admin: SocketAddr,
    /// Where the gateway `sale` listens.
    pub(crate) sale: SocketAddr,
    pub(crate) redis: SocketAddr,
    /// Where the replicas behind the sale decide.
    pub(crate) replicas: [SocketAddr; 2],
}

impl Ports {
    pub(crate) fn find() -> Result<Self, String> {
        let [first, second] = UPSTREAM_PORTS;
        let documented = [10000, 10001, first, second, 18000, 8081, 8080, 9901, 10002, ANY, ANY, ANY];
        // All are held until the last is found, so that none is found twice.
        let held = documented.map(hold);
        let found = held.each_ref().map(|held| held.as_ref().map(|(address, _)| *address).map_err(Clone::clone));
        let [shop, sidecar, first, second, xds, rls, admin, envoy_admin, sale, redis, one, other] = found;
        let upstreams = [first?, second?];
        Ok(Self {
            shop: shop?,
            sidecar: sidecar?,
            upstreams,
            xds: xds?,
            rls: rls?,
            admin: admin?,
            envoy_admin: envoy_admin?,
            sale: sale?,
            redis: redis?,
            replicas: [one?, other?],
        })
    }
}

fn hold(port: u16) -> Result<(SocketAddr, TcpListener), String> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let listener = bind(port).or_else(|_| bind(0)).map_err(|error| format!("no free port on 127.0.0.1: {error}"))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    Ok((address, listener))
}
