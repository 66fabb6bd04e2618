//! What those who do not behave cost others, and the server: the latency of a good client on each port beside 500 slow connections to
//! each, and the CPU that a KiB of each flood takes, beside a KiB of good calls. They are those of `tests/it/slow_connections.rs` and
//! `tests/it/floods.rs`. The server has a core of its own; whoever talks to it shares the other.
//!
//! `cargo bench --bench slow`; calls of the good client in TIERFLOW_BENCH_CALLS=3000, the time of each flood in
//! TIERFLOW_BENCH_SECONDS=1

#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::indexing_slicing, clippy::unwrap_used)]
#![allow(clippy::panic, reason = "a benchmark prints times, and ends where something is missing")]

#[path = "../tests/it/floods/kinds.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod flood_kinds;
#[path = "load/generator.rs"]
#[allow(dead_code, reason = "`turns` uses a part of it")]
mod generator;
#[path = "load/process.rs"]
mod process;
#[path = "../tests/it/slow_connections/kinds.rs"]
mod slow_kinds;
#[path = "load/tierflow.rs"]
mod tierflow_server;
#[path = "load/turns.rs"]
mod turns;

/// As the tests have it.
mod floods {
    pub(crate) use crate::flood_kinds as kinds;
}

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use flood_kinds::{
    DATA, END_STREAM, Flood, GET, HEADERS, POLICIES, PREFACE, SETTINGS, WINDOW_UPDATE, begun_call, block_of,
    decision_call, floods, frame, question, stream,
};
use h2::client::SendRequest;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::process::Process;
use crate::tierflow_server::Ports;

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SERVER_CORES: &str = "0";
const GENERATOR_CORE: usize = 1;
/// To each port.
const SLOW: usize = 500;
/// Before a good client asks beside them: what they begin with has come by then.
const SETTLES: Duration = Duration::from_secs(2);
const ADS: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const LISTENERS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const DECISION: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
/// Good calls that are under way at the same time on a connection: as many as the xDS port takes.
const UNDER_WAY: u32 = 16;
/// What is written at once of a flood. Less, and with a pause after it, where its connection ends soon: most of what is counted
/// would never be read.
const PIECE: (usize, Duration) = (32 * 1024, Duration::ZERO);
const PIECE_OF_FEW: (usize, Duration) = (2 * 1024, Duration::from_millis(1));

fn main() {
    turns::stay_on(&[GENERATOR_CORE]);
    let folder = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let program = Path::new(env!("CARGO_BIN_EXE_tierflow"));
    let server = tierflow_server::serve_with(program, folder.path(), POLICIES, SERVER_CORES, &[], ports);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    println!("{:<34} {:<22} {:>7} {:>9} {:>9} {:>9}", "a good client", "beside", "calls", "p50 us", "p99 us", "p99.9");
    good_client(&runtime, ports, "nobody");
    let slow = slow_connections(ports);
    std::thread::sleep(SETTLES);
    good_client(&runtime, ports, "500 slow to each port");
    drop(slow);
    costs(&runtime, ports, &server);
}

/// Slow connections to each port, on a thread of their own.
fn slow_connections(ports: Ports) -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for port in [ports.xds, ports.rls, ports.admin] {
        for number in 0..SLOW {
            runtime.spawn(async move {
                if let Ok(io) = TcpStream::connect(port).await {
                    slow_kinds::keep_one(io, port, number).await;
                }
            });
        }
    }
    runtime
}

fn good_client(runtime: &Runtime, ports: Ports, beside: &str) {
    let calls = turns::variable("TIERFLOW_BENCH_CALLS").unwrap_or(3000);
    let row = |name: &str, mut took: Vec<Duration>| {
        took.sort_unstable();
        let at = |share: f64| took[(share * (took.len() - 1) as f64).round() as usize].as_secs_f64() * 1e6;
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(at);
        println!("{name:<34} {beside:<22} {:>7} {p50:>9.0} {p99:>9.0} {p999:>9.0}", took.len());
    };
    row("xDS, a stream's first answer", runtime.block_on(times(calls, async || resources(ports.xds).await)));
    let decisions = async || {
        let send = connect(ports.rls).await;
        times(calls, async || call(&send, DECISION, &question()).await).await
    };
    row("rate limit, a call", runtime.block_on(decisions()));
    let first = async || call(&connect(ports.rls).await, DECISION, &question()).await;
    row("rate limit, a connection's first", runtime.block_on(times(calls, first)));
    row("admin, /readyz", runtime.block_on(times(calls, async || readiness(ports.admin).await)));
}

/// How long each call takes, one after the other.
async fn times(count: usize, mut call: impl AsyncFnMut()) -> Vec<Duration> {
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let asked = Instant::now();
        call().await;
        took.push(asked.elapsed());
    }
    took
}

async fn connect(to: SocketAddr) -> SendRequest<Bytes> {
    let io = TcpStream::connect(to).await.unwrap();
    io.set_nodelay(true).unwrap();
    let (send, connection) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    send
}

/// Until the first byte of an answer is there.
async fn call(send: &SendRequest<Bytes>, path: &str, message: &impl Message) {
    let request = http::Request::post(format!("http://tierflow{path}")).header("content-type", "application/grpc");
    let (answer, mut body) =
        send.clone().ready().await.unwrap().send_request(request.body(()).unwrap(), false).unwrap();
    let length = u32::try_from(message.encoded_len()).unwrap().to_be_bytes();
    body.send_data([&[0], &length[..], &message.encode_to_vec()].concat().into(), path != ADS).unwrap();
    let mut answer = answer.await.unwrap().into_body();
    assert!(answer.data().await.expect("an answer").unwrap().len() > 5);
}

async fn resources(to: SocketAddr) {
    let node = Node { id: "good".to_owned(), cluster: "edge".to_owned(), ..Default::default() };
    let request = DiscoveryRequest { node: Some(node), type_url: LISTENERS.to_owned(), ..Default::default() };
    call(&connect(to).await, ADS, &request).await;
}

async fn readiness(to: SocketAddr) {
    let mut io = TcpStream::connect(to).await.unwrap();
    io.write_all(b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    io.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

/// What a KiB takes of the server's CPU on each port: of good calls, and of each flood as a multiple of that.
fn costs(runtime: &Runtime, ports: Ports, server: &Process) {
    let time = Duration::from_secs_f64(turns::variable("TIERFLOW_BENCH_SECONDS").unwrap_or(1.0));
    let addresses = [ports.xds, ports.rls, ports.admin];
    let cost = |sending: &dyn Fn() -> usize| {
        let before = server.cpu();
        let bytes = sending();
        (server.cpu() - before).as_secs_f64() * 1e6 / (bytes as f64 / 1024.0)
    };
    println!("\n{:<40} {:>10} {:>10} {:>10}", "CPU us per KiB", "xDS", "rate limit", "admin");
    let good: Vec<f64> = addresses
        .into_iter()
        .zip([health_call, decision_call, probe])
        .map(|(to, one)| cost(&|| runtime.block_on(good_calls(to, one, time)).unwrap()))
        .collect();
    println!("{:<40} {:>10.1} {:>10.1} {:>10.1}", "good calls", good[0], good[1], good[2]);
    println!("\n{:<40} {:>10} {:>10} {:>10}", "as many times of it", "xDS", "rate limit", "admin");
    for flood in floods() {
        let times = [0, 1, 2].map(|port| {
            let piece = if flood.ends[port] { PIECE_OF_FEW } else { PIECE };
            cost(&|| runtime.block_on(flood_for(addresses[port], &flood, piece, time))) / good[port]
        });
        println!("{:<40} {:>10.2} {:>10.2} {:>10.2}", flood.name, times[0], times[1], times[2]);
    }
}

fn health_call(stream: u32) -> Vec<u8> {
    [begun_call(stream), frame(DATA, END_STREAM, stream, &[0; 5])].concat()
}

fn probe(stream: u32) -> Vec<u8> {
    const END_HEADERS: u8 = 4;
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block_of(GET, b"/healthz"))
}

/// Makes calls on one connection, some at a time, and reads their answers: the bytes that were sent.
async fn good_calls(to: SocketAddr, one: fn(u32) -> Vec<u8>, time: Duration) -> std::io::Result<usize> {
    let mut io = tokio::io::BufReader::new(TcpStream::connect(to).await?);
    io.get_ref().set_nodelay(true)?;
    let windows =
        [frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]), frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0, 0])];
    io.write_all(&[PREFACE, &windows.concat()].concat()).await?;
    let (ends, mut all) = (Instant::now() + time, 0);
    let mut number = 0;
    while Instant::now() < ends {
        let calls: Vec<u8> = (number..number + UNDER_WAY).flat_map(|number| one(stream(number))).collect();
        number += UNDER_WAY;
        io.write_all(&calls).await?;
        all += calls.len();
        let mut answered = 0;
        while answered < UNDER_WAY {
            let mut head = [0; 9];
            io.read_exact(&mut head).await?;
            let [high, middle, low, kind, flags, ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
            io.read_exact(&mut payload).await?;
            answered += u32::from([DATA, HEADERS].contains(&kind) && flags & END_STREAM != 0);
        }
    }
    Ok(all)
}

/// Floods for so long, on one connection after the other where each is ended: the bytes that were sent.
async fn flood_for(to: SocketAddr, flood: &Flood, (piece, pause): (usize, Duration), time: Duration) -> usize {
    let (ends, mut all) = (Instant::now() + time, 0);
    while Instant::now() < ends {
        let mut io = TcpStream::connect(to).await.unwrap();
        io.set_nodelay(true).unwrap();
        let (mut reading, mut writing) = io.split();
        let read = async {
            let mut heard = vec![0; 64 * 1024];
            while reading.read(&mut heard).await.is_ok_and(|length| length > 0) {}
        };
        let write = async {
            let mut sent = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &flood.begin].concat();
            for number in 0.. {
                sent.extend((flood.more)(number));
                if sent.len() > piece {
                    if Instant::now() >= ends || writing.write_all(&sent).await.is_err() {
                        break;
                    }
                    all += sent.len();
                    sent.clear();
                    tokio::time::sleep(pause).await;
                }
            }
        };
        tokio::select! {
            () = read => {}
            () = write => {}
        }
    }
    all
}
