//! Ports, bound before anything is served, so that a taken port is an error at the start.

use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};

use super::StartError;

/// Connections that wait to be taken in. The system allows as many; with the standard library's 128 most of a thousand
/// Envoys that reconnect at once are refused, and come back after a second.
const BACKLOG: i32 = 4096;

pub(super) struct Listener {
    pub(super) address: SocketAddr,
    listener: TcpListener,
}

pub(super) fn bind(flag: &'static str, address: SocketAddr) -> Result<Listener, StartError> {
    let bound = (|| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        // As the standard library does: a restart does not wait for connections of the last run to be forgotten.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        listener.set_nonblocking(true)?;
        Ok(Listener { address: listener.local_addr()?, listener })
    })();
    bound.map_err(|error| StartError::Listen { flag, address, error })
}

impl Listener {
    /// Must be called within a runtime.
    pub(super) fn into_tokio(self) -> Result<tokio::net::TcpListener, String> {
        tokio::net::TcpListener::from_std(self.listener).map_err(|error| format!("{}: {error}", self.address))
    }
}
