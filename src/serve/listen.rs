//! Ports, bound before anything is served, so that a taken port is an error at the start.

use std::net::{SocketAddr, TcpListener};

use super::StartError;

pub(super) struct Listener {
    pub(super) address: SocketAddr,
    listener: TcpListener,
}

pub(super) fn bind(flag: &'static str, address: SocketAddr) -> Result<Listener, StartError> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(Listener { address: listener.local_addr()?, listener })
    });
    bound.map_err(|error| StartError::Listen { flag, address, error })
}

impl Listener {
    /// Must be called within a runtime.
    pub(super) fn into_tokio(self) -> Result<tokio::net::TcpListener, String> {
        tokio::net::TcpListener::from_std(self.listener).map_err(|error| format!("{}: {error}", self.address))
    }
}
