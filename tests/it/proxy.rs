//! A network that misbehaves on command, between Tierflow and what it depends on.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What it does to every connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Each piece of data waits for so long.
    Delay(Duration),
    /// Connections are taken, and nothing goes through any more.
    Blackhole,
    /// All connections end, and new ones are refused.
    Cut,
    /// A few bytes at a time.
    Trickle,
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    fault: watch::Sender<Fault>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (fault, faults) = watch::channel(Fault::None);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, target, faults.clone()));
            }
        });
        Self { address, fault, task }
    }

    pub(crate) fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(client: TcpStream, target: SocketAddr, mut faults: watch::Receiver<Fault>) {
    if *faults.borrow() == Fault::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let there = tokio::spawn(pump(client_read, server_write, faults.clone()));
    let back = tokio::spawn(pump(server_read, client_write, faults.clone()));
    let ended = (there.abort_handle(), back.abort_handle());
    tokio::select! {
        _ = there => {}
        _ = back => {}
        _ = faults.wait_for(|fault| *fault == Fault::Cut) => {}
    }
    ended.0.abort();
    ended.1.abort();
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut faults: watch::Receiver<Fault>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let _ = faults.wait_for(|fault| *fault != Fault::Blackhole).await;
        let fault = *faults.borrow();
        match fault {
            Fault::Delay(delay) => tokio::time::sleep(delay).await,
            Fault::Trickle => {
                for few in buffer[..read].chunks(16) {
                    to.write_all(few).await?;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                continue;
            }
            _ => {}
        }
        to.write_all(&buffer[..read]).await?;
    }
}
