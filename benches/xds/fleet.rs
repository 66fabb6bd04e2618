//! Many fake Envoys in this process, each a task with a connection, and all of them told at once how to behave.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prost::bytes::Bytes;
use tierflow::snapshot::resource::ResourceType;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::board::{Board, within};
use crate::envoy::Envoy;
use crate::wire::Wire;

/// Source addresses to take turns with, each with 28 000 ports.
const ADDRESSES: usize = 200;
/// Envoy's pauses before it opens a stream again: up to so long, twice as long each time.
const RETRY_BASE: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Accepts,
    /// Refuses every response of a type.
    Refuses(ResourceType),
    /// Reads nothing, neither of the stream nor of its connection, and writes nothing.
    Stops,
    /// Closes its connection.
    Leaves,
}

pub(crate) struct Fleet {
    pub(crate) board: Arc<Board>,
    behaviour: watch::Sender<Behaviour>,
    envoys: JoinSet<Envoy>,
}

impl Fleet {
    /// Opens all connections, of which so many at once are without a first response.
    pub(crate) fn connect(server: SocketAddr, envoys: Vec<Envoy>, at_once: usize) -> Self {
        let board = Arc::new(Board::new(envoys.len()));
        let behaviour = watch::Sender::new(Behaviour::Accepts);
        let gate = Arc::new(Semaphore::new(at_once));
        let mut tasks = JoinSet::new();
        for envoy in envoys {
            let (board, gate, behaviour) = (Arc::clone(&board), Arc::clone(&gate), behaviour.subscribe());
            tasks.spawn(async move {
                let permit = gate.acquire_owned().await.ok();
                Task { envoy, board, behaviour, permit }.run(server).await
            });
        }
        Self { board, behaviour, envoys: tasks }
    }

    /// What all of them do from now on.
    pub(crate) fn behave(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// Waits until each has acknowledged all types of the shop.
    pub(crate) async fn all_are_current(&self) {
        for resource_type in
            [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Listener, ResourceType::Route]
        {
            self.board.after_rounds(resource_type, 0).await;
        }
    }

    /// Closes all connections. The Envoys keep what they have.
    pub(crate) async fn disconnect(self) -> Vec<Envoy> {
        self.behave(Behaviour::Leaves);
        within(|| "not all Envoys have left".to_owned(), self.envoys.join_all()).await
    }
}

struct Task {
    envoy: Envoy,
    board: Arc<Board>,
    behaviour: watch::Receiver<Behaviour>,
    /// Kept until the first response.
    permit: Option<OwnedSemaphorePermit>,
}

impl Task {
    async fn run(mut self, server: SocketAddr) -> Envoy {
        let mut pause = RETRY_BASE;
        while let Err(reason) = self.talk(server).await {
            // Where the queue of the port is full a connection does not come about, and Envoy tries again. After a
            // response it is the server that ended what it had taken on, which it has no reason for here.
            if self.permit.is_none() {
                self.board.lost(self.envoy.number, &reason);
                break;
            }
            self.board.retries.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(pause.mul_f64(fastrand::f64())).await;
            pause = RETRY_MAX.min(pause * 2);
        }
        self.envoy
    }

    async fn talk(&mut self, server: SocketAddr) -> Result<(), String> {
        let mut wire = Wire::connect(server, address_of(self.envoy.number), self.envoy.path()).await?;
        self.envoy.greet(&mut wire)?;
        loop {
            let behaviour = *self.behaviour.borrow_and_update();
            let changed = self.behaviour.changed();
            match behaviour {
                Behaviour::Leaves => return Ok(()),
                Behaviour::Stops => changed.await.map_err(|_| "nobody leads the fleet")?,
                Behaviour::Accepts | Behaviour::Refuses(_) => tokio::select! {
                    changed = changed => changed.map_err(|_| "nobody leads the fleet")?,
                    message = wire.message() => self.answer(&mut wire, message?, behaviour)?,
                },
            }
        }
    }

    fn answer(&mut self, wire: &mut Wire, message: Bytes, behaviour: Behaviour) -> Result<(), String> {
        let response = self.envoy.read(message)?;
        self.permit = None;
        self.board.received(&response);
        if behaviour == Behaviour::Refuses(response.resource_type) {
            return self.envoy.refuse(wire, &response);
        }
        self.envoy.accept(wire, &response)?;
        self.board.acknowledged(self.envoy.number, &response);
        Ok(())
    }
}

/// The server has 127.0.0.1 to itself.
pub(crate) fn address_of(envoy: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 2 + (envoy % ADDRESSES) as u8)
}
