//! A network that misbehaves on command, between Tierflow and what it depends on.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::harness::eventually;

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
    met: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (fault, faults) = watch::channel(Fault::None);
        let met = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn({
            let faults = Faults { now: faults, met: Arc::clone(&met) };
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(carry(client, target, faults.clone()));
                }
            }
        });
        Self { address, fault, met, task }
    }

    pub(crate) fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Sets a fault until a connection was refused for it, or data kept back.
    pub(crate) async fn set_until_met(&self, fault: Fault) {
        let before = self.met.load(Ordering::Relaxed);
        self.set(fault);
        eventually("somebody meets the fault", async || (self.met.load(Ordering::Relaxed) > before).then_some(()))
            .await;
        self.set(Fault::None);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Faults {
    now: watch::Receiver<Fault>,
    /// How often something was refused or kept back.
    met: Arc<AtomicUsize>,
}

impl Faults {
    fn is(&self, fault: Fault) -> bool {
        *self.now.borrow() == fault
    }

    fn meet(&self) {
        self.met.fetch_add(1, Ordering::Relaxed);
    }
}

async fn carry(client: TcpStream, target: SocketAddr, mut faults: Faults) {
    if faults.is(Fault::Cut) {
        faults.meet();
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
        _ = faults.now.wait_for(|fault| *fault == Fault::Cut) => {}
    }
    ended.0.abort();
    ended.1.abort();
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut faults: Faults,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        if faults.is(Fault::Blackhole) {
            faults.meet();
            let _ = faults.now.wait_for(|fault| *fault != Fault::Blackhole).await;
        }
        let fault = *faults.now.borrow();
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
