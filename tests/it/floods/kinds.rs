//! Floods of HTTP/2, as the frames that a client sends. Also for `benches/slow.rs`.

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry};
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use prost::Message;

/// RFC 9113, section 6: types of frames, and flags.
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// Section 5.5: one that nobody knows.
const UNKNOWN: u8 = 0xbe;
const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Streams that a connection to the rate limit port can have open, and a few less.
const STREAMS: u32 = 4000;

/// Where [`question`] is answered with a decision.
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

pub(crate) fn block_of(method: u8, path: &[u8]) -> Vec<u8> {
    let http = 0x86;
    [&[method, http, 0x04, u8::try_from(path.len()).unwrap()], path, &[0x01, 1, b'a']].concat()
}

/// A whole question for a decision, whose answer has a body.
pub(crate) fn decision_call(stream: u32) -> Vec<u8> {
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
pub(crate) const GET: u8 = 0x82;

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
pub(crate) struct Flood {
    pub(crate) name: &'static str,
    pub(crate) begin: Vec<u8>,
    pub(crate) more: fn(u32) -> Vec<u8>,
    pub(crate) ends: [bool; 3],
}

pub(crate) fn stream(number: u32) -> u32 {
    2 * number + 1
}

/// On all ports, on none, on those where a connection has few streams, and on the one that gives decisions.
const ALL: [bool; 3] = [true; 3];
const NONE: [bool; 3] = [false; 3];
const WITH_FEW_STREAMS: [bool; 3] = [true, false, true];
const FOR_DECISIONS: [bool; 3] = [false, true, false];

pub(crate) fn floods() -> Vec<Flood> {
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
