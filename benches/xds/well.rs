//! Envoys that behave well: what it takes to connect them, to tell all of them of a change, and to have all of them
//! back at once.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tierflow::bootstrap::XdsVariant;
use tierflow::snapshot::resource::ResourceType;

use crate::board::within;
use crate::envoy::Envoy;
use crate::fleet::Fleet;
use crate::floor;
use crate::process::{Process, own_cpu};
use crate::programs;
use crate::store::Store;

/// Connections without a first response: as many as come when a few Envoys start, not when all come back.
const AT_ONCE: usize = 100;
/// After so long nothing of a response or of an end is under way.
const IDLE: Duration = Duration::from_secs(3);

pub(crate) struct Figures {
    pub(crate) streams: usize,
    pub(crate) connected: Connected,
    pub(crate) routes: Changes,
    /// None of the floor.
    pub(crate) endpoints: Option<Changes>,
    pub(crate) reconnected: Option<Reconnected>,
}

pub(crate) struct Connected {
    pub(crate) time: Duration,
    pub(crate) cpu_per_stream: Duration,
    pub(crate) rss_per_stream: u64,
    pub(crate) rss: u64,
}

pub(crate) struct Changes {
    /// Until all Envoys have acknowledged the change.
    pub(crate) times: Vec<Duration>,
    pub(crate) bytes: usize,
    pub(crate) server_cpu_per_push: Duration,
    pub(crate) envoys_cpu_per_push: Duration,
}

pub(crate) struct Reconnected {
    pub(crate) time: Duration,
    pub(crate) cpu_per_stream: Duration,
    pub(crate) responses_per_stream: f64,
    pub(crate) retries: u64,
}

pub(crate) async fn tierflow(
    store: &Store,
    server: &Process,
    variant: XdsVariant,
    streams: usize,
    is_reconnected: bool,
) -> Figures {
    let envoys = (0..streams).map(|number| Envoy::new(number, variant)).collect();
    let (fleet, connected) = connect(server, envoys, async |fleet| fleet.all_are_current().await).await;
    let change_route = async || {
        store.change_route().await;
    };
    let count = changes_of(streams);
    let routes = changes(&fleet, server, ResourceType::Route, count, change_route).await;
    let change_endpoint = async || store.change_endpoint().await;
    let endpoints = changes(&fleet, server, ResourceType::Endpoint, count, change_endpoint).await;
    let reconnected = if is_reconnected { Some(reconnect(store, server, fleet).await) } else { None };
    Figures { streams, connected, routes, endpoints: Some(endpoints), reconnected }
}

/// The same of a server that does nothing else.
pub(crate) async fn bare(streams: usize, bytes: usize) -> Figures {
    let mut server = programs::floor(bytes);
    let mut stdin = server.take_stdin();
    warm_up(&server, Envoy::of_routes).await;
    let envoys = (0..streams).map(Envoy::of_routes).collect();
    let current = async |fleet: &Fleet| fleet.board.after_rounds(ResourceType::Route, 0).await;
    let (fleet, connected) = connect(&server, envoys, current).await;
    let change = async || floor::change(&mut stdin);
    let routes = changes(&fleet, &server, ResourceType::Route, changes_of(streams), change).await;
    Figures { streams, connected, routes, endpoints: None, reconnected: None }
}

/// Waits until the server serves, and has done all that it does once.
pub(crate) async fn warm_up(server: &Process, envoy: impl Fn(usize) -> Envoy) {
    let listens = async {
        while tokio::net::TcpStream::connect(server.address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(|| "the server does not listen".to_owned(), listens).await;
    let fleet = Fleet::connect(server.address, vec![envoy(0)], 1);
    fleet.board.after_rounds(ResourceType::Route, 0).await;
    fleet.disconnect().await;
}

async fn connect(
    server: &Process,
    envoys: Vec<Envoy>,
    all_are_current: impl AsyncFnOnce(&Fleet),
) -> (Fleet, Connected) {
    let streams = envoys.len();
    let (rss, cpu, started) = (server.rss(), server.cpu(), Instant::now());
    let fleet = Fleet::connect(server.address, envoys, AT_ONCE);
    all_are_current(&fleet).await;
    let time = started.elapsed();
    let cpu_per_stream = (server.cpu() - cpu) / streams as u32;
    tokio::time::sleep(IDLE).await;
    let rss_per_stream = server.rss().saturating_sub(rss) / streams as u64;
    (fleet, Connected { time, cpu_per_stream, rss_per_stream, rss: server.rss() })
}

/// One after the other, each from the call that makes it.
pub(crate) async fn changes(
    fleet: &Fleet,
    server: &Process,
    resource_type: ResourceType,
    count: usize,
    mut change: impl AsyncFnMut(),
) -> Changes {
    let board = &fleet.board;
    let responses = board.responses(resource_type);
    let (server_cpu, envoys_cpu) = (server.cpu(), own_cpu());
    let mut times = Vec::new();
    for _ in 0..count {
        let rounds = board.rounds(resource_type);
        let started = Instant::now();
        let effective = async {
            board.after_rounds(resource_type, rounds).await;
            started.elapsed()
        };
        times.push(tokio::join!(effective, change()).0);
    }
    let pushes = (board.responses(resource_type) - responses) as u32;
    Changes {
        times,
        bytes: board.bytes(resource_type),
        server_cpu_per_push: (server.cpu() - server_cpu) / pushes,
        envoys_cpu_per_push: (own_cpu() - envoys_cpu) / pushes,
    }
}

/// While nobody is connected a route is changed: who has acknowledged it is current, whatever else it was sent.
async fn reconnect(store: &Store, server: &Process, fleet: Fleet) -> Reconnected {
    let envoys = fleet.disconnect().await;
    store.change_route().await;
    tokio::time::sleep(IDLE).await;
    let streams = envoys.len();
    let (cpu, started) = (server.cpu(), Instant::now());
    let fleet = Fleet::connect(server.address, envoys, streams);
    fleet.board.after_rounds(ResourceType::Route, 0).await;
    let time = started.elapsed();
    let responses: u64 = ResourceType::ALL.into_iter().map(|one| fleet.board.responses(one)).sum();
    let figures = Reconnected {
        time,
        cpu_per_stream: (server.cpu() - cpu) / streams as u32,
        responses_per_stream: responses as f64 / streams as f64,
        retries: fleet.board.retries.load(Ordering::Relaxed),
    };
    fleet.disconnect().await;
    figures
}

/// The more Envoys, the less one of them makes the time.
fn changes_of(streams: usize) -> usize {
    if streams < 10_000 { 50 } else { 10 }
}
