//! Whoever sends frames of HTTP/2 without end keeps nobody else from an answer, on any of the three ports, and makes the process no
//! larger than so much. Where that takes it, the connection is ended.

use std::io::Write;
use std::net::SocketAddr;

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry};
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use prost::Message;
use tierflow::snapshot::resource::ResourceType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, timeout};

use crate::ads::{Sotw, first};
use crate::harness::{DEADLINE, Tierflow, eventually};
use crate::kit::client::Client;

/// RFC 9113, section 6: types of frames, and flags.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// Section 5.5: one that nobody knows.
const UNKNOWN: u8 = 0xbe;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Connections that flood each port at once.
const FLOODING: usize = 4;
/// The answers that a good client gets on each port meanwhile.
const ANSWERS: usize = 3;
/// More than the process may take with all floods together.
const RESIDENT_MAX: u64 = 400 << 20;
/// More than the log may tell of all of them.
const LOG_MAX: u64 = 1 << 20;
/// What a flood may send on one connection before that is ended, where it is.
const SENT_MAX: usize = 32 << 20;
/// Streams that a connection to the rate limit port can have open, and a few less.
const STREAMS: u32 = 4000;

pub(crate) const POLICIES: &str = "
kind: Gateway
name: edge
nodes: { clusters: [edge] }
listen: 127.0.0.1:1
---
kind: Service
name: order
endpoints: [127.0.0.1:9101]
---
kind: Api
name: pay
gateway: edge
match: { path: /pay }
service: order
limits: [{ rate: 1000000/h }]
";

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header as HPACK has it that is not of its tables (RFC 7541, section 6.2.2), of less than 16 KiB.
fn header(name: &[u8], value: &[u8]) -> Vec<u8> {
    let length = value.len() - 127;
    let [low, high] = [(length & 0x7f) | 0x80, length >> 7].map(|byte| u8::try_from(byte).unwrap());
    [&[0, u8::try_from(name.len()).unwrap()], name, &[0x7f, low, high], value].concat()
}

/// `POST` or `GET` of a path that the ports for Envoys have.
fn block(method: u8) -> Vec<u8> {
    block_of(method, b"/grpc.health.v1.Health/Check")
}

fn block_of(method: u8, path: &[u8]) -> Vec<u8> {
    let http = 0x86;
    [&[method, http, 0x04, u8::try_from(path.len()).unwrap()], path, &[0x01, 1, b'a']].concat()
}

/// A whole question for a decision, whose answer has a body.
fn decision_call(stream: u32) -> Vec<u8> {
    let path = b"/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
    let message = question().encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let body = [&[0], &length[..], &message].concat();
    [frame(HEADERS, END_HEADERS, stream, &block_of(POST, path)), frame(DATA, END_STREAM, stream, &body)].concat()
}

pub(crate) fn question() -> RateLimitRequest {
    let entry = Entry { key: "api".to_owned(), value: "pay/".to_owned() };
    let descriptors = vec![RateLimitDescriptor { entries: vec![entry], ..Default::default() }];
    RateLimitRequest { domain: "tierflow/edge".to_owned(), descriptors, hits_addend: 1 }
}

const POST: u8 = 0x83;
const GET: u8 = 0x82;

/// A call that asks for something, of which more is to come.
pub(crate) fn begun_call(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(POST))
}

fn initial_window(bytes: u16) -> Vec<u8> {
    let [high, low] = bytes.to_be_bytes();
    frame(SETTINGS, 0, 0, &[0, 4, 0, 0, high, low])
}

/// What a flood begins with, what it sends from then on, by a number that grows, and on which of the ports for xDS, for decisions and
/// for administration its connection is ended.
struct Flood {
    name: &'static str,
    begin: Vec<u8>,
    more: fn(u32) -> Vec<u8>,
    ends: [bool; 3],
}

fn stream(number: u32) -> u32 {
    2 * number + 1
}

/// On all ports, on none, on those where a connection has few streams, and on the one that gives decisions.
const ALL: [bool; 3] = [true; 3];
const NONE: [bool; 3] = [false; 3];
const WITH_FEW_STREAMS: [bool; 3] = [true, false, true];
const FOR_DECISIONS: [bool; 3] = [false, true, false];

fn floods() -> Vec<Flood> {
    let flood = |name, ends, more| Flood { name, ends, more, begin: Vec::new() };
    let with = |begin, flood| Flood { begin, ..flood };
    let open_calls = || (0..STREAMS).flat_map(|number| begun_call(stream(number))).collect::<Vec<u8>>();
    vec![
        flood("rapid reset", WITH_FEW_STREAMS, |number| {
            [begun_call(stream(number)), frame(RST_STREAM, 0, stream(number), &[0, 0, 0, 8])].concat()
        }),
        flood("settings", ALL, |_| initial_window(1)),
        with(
            open_calls(),
            flood("windows of many streams", ALL, |number| initial_window(100 + u16::from(number % 2 == 0))),
        ),
        with(
            open_calls(),
            flood("the end of many streams", ALL, |_| frame(GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0])),
        ),
        flood("pings", NONE, |number| frame(PING, 0, 0, &u64::from(number).to_be_bytes())),
        flood("answers to pings that were not sent", NONE, |_| frame(PING, ACK, 0, &[0; 8])),
        with(begun_call(1), flood("empty data", ALL, |_| frame(DATA, 0, 1, &[]))),
        with(
            frame(HEADERS, 0, 1, &block(GET)),
            flood("continuation", ALL, |_| frame(CONTINUATION, 0, 1, &header(b"x", &[b'a'; 8000]))),
        ),
        with(frame(HEADERS, 0, 1, &block(GET)), flood("empty continuation", ALL, |_| frame(CONTINUATION, 0, 1, &[]))),
        flood("huge headers", NONE, |number| {
            let huge = [block(GET), header(b"x", &[b'a'; 16_000])].concat();
            frame(HEADERS, END_HEADERS | END_STREAM, stream(number), &huge)
        }),
        flood("window updates", NONE, |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        flood("priorities", NONE, |number| frame(PRIORITY, 0, stream(number % 1000), &[0, 0, 0, 0, 1])),
        flood("frames that nobody knows", NONE, |_| frame(UNKNOWN, 0, 0, &[])),
        // No byte of an answer may be sent (section 6.5.2, SETTINGS_INITIAL_WINDOW_SIZE).
        with(
            initial_window(0),
            flood("answers that nobody reads", WITH_FEW_STREAMS, |number| {
                frame(HEADERS, END_HEADERS | END_STREAM, stream(number), &block(GET))
            }),
        ),
        with(
            initial_window(0),
            flood("decisions that nobody reads", FOR_DECISIONS, |number| decision_call(stream(number))),
        ),
        flood("calls without an end", ALL, |number| begun_call(stream(number))),
    ]
}

/// Floods on one connection, until it is ended or so much is sent. It reads what comes, so that nothing but the server slows it.
/// True where it was ended.
async fn send(to: SocketAddr, flood: &Flood, sent_max: usize) -> bool {
    let Ok(mut io) = TcpStream::connect(to).await else { return true };
    let (mut reading, mut writing) = io.split();
    let read = async {
        let mut heard = vec![0; 64 * 1024];
        while reading.read(&mut heard).await.is_ok_and(|length| length > 0) {}
    };
    let write = async {
        let settings = frame(SETTINGS, 0, 0, &[]);
        let mut sent = [PREFACE, &settings, &flood.begin].concat();
        let mut all = 0;
        for number in 0.. {
            sent.extend((flood.more)(number));
            if sent.len() > 32 * 1024 {
                if all > sent_max || writing.write_all(&sent).await.is_err() {
                    break;
                }
                all += sent.len();
                sent.clear();
            }
        }
        all > sent_max
    };
    tokio::select! {
        () = read => true,
        is_open = write => !is_open,
    }
}

pub(crate) async fn start() -> (tempfile::TempDir, Tierflow) {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    std::fs::write(policies.join("policies.yaml"), POLICIES).unwrap();
    let tierflow = Tierflow::start(&policies).await;
    eventually("it is ready", async || (tierflow.ask("/readyz").await.status == 200).then_some(())).await;
    (folder, tierflow)
}

/// Those who do what a good client does not. They have a thread of their own, so that nobody waits for them but the server.
pub(crate) struct Others(Option<Runtime>);

impl Others {
    pub(crate) fn start() -> Self {
        Self(Some(Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()))
    }

    pub(crate) fn spawn(&self, one: impl Future<Output = ()> + Send + 'static) {
        drop(self.0.as_ref().unwrap().spawn(one));
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        // It may not be waited for within another runtime.
        self.0.take().unwrap().shutdown_background();
    }
}

/// What a good client asks the three ports for, on a connection of its own: whether the answer is right.
async fn resources(tierflow: &Tierflow) -> bool {
    let mut stream = Sotw::open(tierflow).await;
    stream.say(first("good", ResourceType::Listener, &[])).await;
    stream.hear().await.is_ok_and(|response| response.resources.len() == 1)
}

async fn decision(tierflow: &Tierflow) -> bool {
    let Ok(mut client) = RateLimitServiceClient::connect(format!("http://{}", tierflow.rls)).await else {
        return false;
    };
    let answer = client.should_rate_limit(question()).await.map(tonic::Response::into_inner);
    answer.is_ok_and(|answer| answer.overall_code == Code::Ok as i32 && answer.statuses.len() == 1)
}

async fn readiness(tierflow: &Tierflow) -> bool {
    let answer = Client::default().get(&format!("http://{}/readyz", tierflow.admin())).await;
    answer.is_ok_and(|answer| answer.status == 200)
}

/// For people to look at.
fn tell(figures: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{figures}");
}

/// A good client gets the right answer on each port every time that it asks. How long it takes is for people to look at.
pub(crate) async fn assert_answers(tierflow: &Tierflow, times: usize, meanwhile: &str) {
    let mut took = [(); 3].map(|()| Vec::new());
    for _ in 0..times {
        let [xds, rls, admin] = &mut took;
        for (port, took, is_right) in [
            ("xDS", xds, Box::pin(resources(tierflow)) as std::pin::Pin<Box<dyn Future<Output = bool>>>),
            ("rate limit", rls, Box::pin(decision(tierflow))),
            ("admin", admin, Box::pin(readiness(tierflow))),
        ] {
            let asked = Instant::now();
            let is_right = timeout(DEADLINE, is_right).await;
            took.push(asked.elapsed());
            assert_eq!(is_right, Ok(true), "{meanwhile}: the answer on the {port} port");
        }
    }
    for (port, mut took) in ["xDS", "rate limit", "admin"].into_iter().zip(took) {
        took.sort();
        let [median, p99] = [50, 99].map(|percent| took[took.len() * percent / 100]);
        tell(format_args!("{meanwhile}, {port}: median {median:?}, p99 {p99:?}, max {:?}", took.last().unwrap()));
    }
}

/// The most memory that a process has had, in bytes.
fn resident_max(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    kilobytes.unwrap().trim().parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_floods_a_port_keeps_nobody_from_an_answer_and_takes_no_more_memory_than_so_much() {
    let (folder, tierflow) = start().await;
    for flood in floods() {
        let name = flood.name;
        let flood = std::sync::Arc::new(flood);
        let others = Others::start();
        for port in tierflow.addresses() {
            for _ in 0..FLOODING {
                let flood = std::sync::Arc::clone(&flood);
                others.spawn(async move {
                    loop {
                        send(port, &flood, usize::MAX).await;
                    }
                });
            }
        }
        assert_answers(&tierflow, ANSWERS, name).await;
        let resident = resident_max(tierflow.process());
        tell(format_args!("{name}: {} MB", resident >> 20));
        assert!(resident < RESIDENT_MAX, "{name}: {resident} bytes");
        let logged = std::fs::metadata(folder.path().join("policies.log")).unwrap().len();
        assert!(logged < LOG_MAX, "{name}: {logged} bytes of log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_that_costs_more_than_its_bytes_ends_its_connection() {
    let (_folder, tierflow) = start().await;
    for flood in floods() {
        for (port, ends) in tierflow.addresses().into_iter().zip(flood.ends).filter(|(_, ends)| *ends) {
            let asked = Instant::now();
            let ended = timeout(DEADLINE, send(port, &flood, SENT_MAX)).await;
            tell(format_args!("{}, {port}: {ended:?} after {:?}", flood.name, asked.elapsed()));
            assert_eq!(ended, Ok(ends), "{}, {port}", flood.name);
        }
    }
}
