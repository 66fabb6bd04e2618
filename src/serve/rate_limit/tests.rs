use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

use super::receiving::{CALL_BYTES, REQUEST_MAX};
use super::*;
use crate::budget::{ALLOWANCE_BYTES, Allowance, Budget, use_up};
use crate::clock::Clock;
use crate::compile::RateLimitService;
use crate::counters::Counters;
use crate::denials::Denials;
use crate::limiter::key::KeyHasher;
use crate::live::{Live, Settings};
use crate::metrics::{Metrics, PortLabels};
use crate::rls::{Failures, Followers, Rls};
use crate::serve::activity::Activity;
use crate::serve::keep_alive::{PING_INTERVAL, PING_TIMEOUT};
use crate::serve::turns::{self, InTurns, Turn, Turns};

/// RFC 9113, section 6: types of frames, and two of their flags.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// What an Envoy takes a call back with.
const CANCEL: [u8; 4] = 8_u32.to_be_bytes();
/// A message without a domain: it is answered at once, and said to be invalid.
const MESSAGE: [u8; 5] = [0; 5];
/// More calls than are read before some are decided.
const UNDER_WAY_MAX: u32 = 16_384;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header as HPACK has it that is not of its tables (RFC 7541, section 6.2.2).
fn header(name: &[u8], value: &str) -> Vec<u8> {
    [name, &[u8::try_from(value.len()).unwrap()], value.as_bytes()].concat()
}

/// The frame of a call's headers, with these at their end.
fn head(stream: u32, more: &[u8]) -> Vec<u8> {
    let (post, http) = (0x83, 0x86);
    let block = [&[post, http], &*header(&[0x04], RateLimitServer::PATH), &*header(&[0x01], "rls"), more].concat();
    frame(HEADERS, END_HEADERS, stream, &block)
}

fn call(stream: u32) -> Vec<u8> {
    [head(stream, &[]), frame(DATA, END_STREAM, stream, &MESSAGE)].concat()
}

/// The other end of a connection.
struct Client {
    io: DuplexStream,
    metrics: Arc<Metrics>,
    activity: Arc<Activity>,
    budget: Arc<Budget>,
    allowance: Arc<Allowance>,
}

/// A connection whose client has sent its preface and these frames before anything of it is read.
fn connect(frames: &[u8]) -> (Client, Calls<DuplexStream>) {
    let (mut client, connection) = open();
    client.begin(frames);
    (client, connection)
}

/// The same, of which so much is read in a turn.
fn connect_in_turns(frames: &[u8]) -> (Client, Turns<Calls<InTurns<DuplexStream>>>) {
    let (mut client, server, rate_limit, peer) = ends();
    client.begin(frames);
    let activity = Arc::clone(&peer.activity);
    let speak = |io: InTurns<DuplexStream>| {
        let turn = io.turn();
        rate_limit.speak_on(io, turn, peer)
    };
    (client, turns::take(server, &activity, speak))
}

fn open() -> (Client, Calls<DuplexStream>) {
    let (client, server, rate_limit, peer) = ends();
    (client, rate_limit.speak_on(server, Turn::new(), peer))
}

fn ends() -> (Client, DuplexStream, RateLimit, Peer) {
    let settings = Settings {
        rate_limit_service: RateLimitService::default(),
        counter_keys: KeyHasher::seeded([0; 16]),
        allow_empty: false,
    };
    let (clock, metrics) = (Clock::start(), Arc::<Metrics>::default());
    let rls = Rls {
        live: Live::new(settings).0,
        counters: Counters::Away,
        failures: Failures::new(Arc::clone(&metrics), clock),
        denials: Arc::new(Denials::new(Arc::clone(&metrics), clock)),
        metrics: Arc::clone(&metrics),
        top: Arc::default(),
        clock,
        followers: Followers::default(),
    };
    let rate_limit = RateLimit { service: rls.into_service(), others: Routes::default(), streams_max: UNDER_WAY_MAX };
    let (client, server) = tokio::io::duplex(1 << 21);
    let budget = Budget::new(&metrics, "rls", ALLOWANCE_BYTES);
    let allowance = budget.allowance();
    let peer = Peer { allowance: Arc::clone(&allowance), ..Peer::new(([127, 0, 0, 1], 1).into(), None) };
    let activity = Arc::clone(&peer.activity);
    (Client { io: client, metrics, activity, budget, allowance }, server, rate_limit, peer)
}

impl Client {
    /// Sends the preface and these frames.
    fn begin(&mut self, frames: &[u8]) {
        let sent = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &*frame(SETTINGS, 0, 0, &[]), frames].concat();
        let writing = futures_util::FutureExt::now_or_never(self.io.write_all(&sent));
        writing.expect("there is room for all of it").unwrap();
    }

    /// The next frame of a stream: its type, its stream, and what it says.
    async fn next(&mut self) -> (u8, u32, Vec<u8>) {
        loop {
            let mut head = [0; 9];
            self.io.read_exact(&mut head).await.expect("a frame");
            let [_, high, low, kind, _, on @ ..] = head;
            let mut payload = vec![0; usize::from(u16::from_be_bytes([high, low]))];
            self.io.read_exact(&mut payload).await.expect("a payload");
            assert_ne!(kind, GOAWAY, "{}", String::from_utf8_lossy(&payload));
            let stream = u32::from_be_bytes(on);
            if stream > 0 {
                return (kind, stream, payload);
            }
        }
    }

    fn failed(&self, code: &str) -> u64 {
        failed(&self.metrics, code)
    }
}

/// Calls that ended with this status.
fn failed(metrics: &Metrics, code: &str) -> u64 {
    let text = metrics.render();
    let name = format!("tierflow_decision_errors_total{{code=\"{code}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

/// Ends with what comes first: what a client waits for.
async fn during<T>(connection: impl Future<Output = Result<(), h2::Error>>, client: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        told = client => told,
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
}

/// What a service that was busy finds when it reads again.
#[tokio::test]
async fn who_takes_back_calls_that_were_not_read_yet_keeps_its_connection() {
    let (mut sent, last) = (Vec::new(), 2001);
    for stream in (1..last).step_by(2) {
        sent.extend(head(stream, &[]));
        sent.extend(frame(RST_STREAM, 0, stream, &CANCEL));
    }
    sent.extend(call(last));
    let (mut client, connection) = connect(&sent);
    let (kind, stream, _) = during(connection, client.next()).await;
    assert_eq!((kind, stream, client.failed("CANCELLED")), (HEADERS, last, 1000));
}

#[tokio::test]
async fn as_many_calls_as_may_be_under_way_are_all_answered() {
    let sent: Vec<u8> = (0..UNDER_WAY_MAX).flat_map(|number| call(2 * number + 1)).collect();
    let (mut client, connection) = connect(&sent);
    let answers = async {
        let mut answers = BTreeSet::new();
        while answers.len() < UNDER_WAY_MAX as usize {
            answers.insert(client.next().await.1);
        }
    };
    during(connection, answers).await;
    assert_eq!(client.failed("UNAVAILABLE"), u64::from(UNDER_WAY_MAX));
}

#[tokio::test]
async fn of_more_calls_than_have_a_turn_the_newest_are_answered_first() {
    let count = u32::try_from(3 * TURN).unwrap();
    let sent: Vec<u8> = (0..count).flat_map(|number| call(2 * number + 1)).collect();
    let (mut client, connection) = connect(&sent);
    let answers = async {
        let mut answers = Vec::new();
        for _ in 0..count {
            answers.push(client.next().await.1);
        }
        answers
    };
    let newest_first: Vec<u32> = (0..count).rev().map(|number| 2 * number + 1).collect();
    assert_eq!(during(connection, answers).await, newest_first);
}

/// As h2's own client sends what is asked of it at once: the headers of all calls before their messages.
#[tokio::test]
async fn calls_whose_messages_come_later_wait_with_the_others() {
    let streams = |count: usize| (0..u32::try_from(count).unwrap()).map(|number| 2 * number + 1);
    let late = header(b"\0\x0cgrpc-timeout", "1n");
    let heads = streams(3 * TURN).flat_map(|stream| head(stream, if stream == 1 { &late } else { &[] }));
    let (mut client, mut connection) = connect(&heads.collect::<Vec<u8>>());
    assert!(futures_util::poll!(&mut connection).is_pending(), "all headers are read");
    let messages: Vec<u8> = streams(3 * TURN).flat_map(|stream| frame(DATA, END_STREAM, stream, &MESSAGE)).collect();
    client.io.write_all(&messages).await.unwrap();
    let answers = async {
        let mut answers = Vec::new();
        for _ in 0..3 * TURN {
            answers.push(client.next().await);
        }
        answers
    };
    let answers = during(connection, answers).await;
    let answered: Vec<u32> =
        answers.iter().filter(|(kind, ..)| *kind == HEADERS).map(|(_, stream, _)| *stream).collect();
    let newest_first: Vec<u32> = streams(3 * TURN).rev().filter(|stream| *stream > 1).collect();
    assert_eq!(answered, newest_first);
    assert_eq!((client.failed("DEADLINE_EXCEEDED"), client.failed("UNAVAILABLE")), (1, 3 * TURN as u64 - 1));
}

/// Which of so many calls, all of which are there before any is read, are answered before the newest: their streams, in order.
async fn answered_before_the_newest(count: u32) -> Vec<u32> {
    let sent: Vec<u8> = (0..count).flat_map(|number| call(2 * number + 1)).collect();
    let (mut client, connection) = connect_in_turns(&sent);
    let answers = async {
        let mut before = Vec::new();
        loop {
            match client.next().await.1 {
                newest if newest == 2 * count - 1 => return before,
                older => before.push(older),
            }
        }
    };
    during(connection, answers).await
}

/// What waits in the socket is newer than what was read of it.
#[tokio::test]
async fn of_more_calls_than_are_read_in_a_turn_the_newest_are_answered_first() {
    assert_eq!(answered_before_the_newest(1000).await, [0; 0]);
}

#[tokio::test]
async fn a_connection_that_always_has_more_to_read_is_answered_now_and_then() {
    let before = answered_before_the_newest(UNDER_WAY_MAX).await;
    let is_turn = before.windows(TURN).any(|turn| turn.is_sorted_by(|newer, older| *newer == older + 2));
    assert!(is_turn, "{before:?}");
}

#[tokio::test]
async fn calls_that_wait_for_their_turn_are_counted_until_they_are_answered_or_their_connection_is_gone() {
    let count = u32::try_from(3 * TURN).unwrap();
    let sent: Vec<u8> = (0..count).flat_map(|number| call(2 * number + 1)).collect();
    let mut context = Context::from_waker(std::task::Waker::noop());
    let waiting = |client: &Client| client.metrics.decision_calls_waiting.get();
    let (client, mut connection) = connect(&sent);
    assert!(Pin::new(&mut connection).poll(&mut context).is_pending());
    assert_eq!(waiting(&client), i64::from(count), "a turn of them wait for a store, the others for their turn");
    drop(connection);
    let told = async {
        while waiting(&client) > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(30), told).await.expect("nobody waits any more");
    let (mut client, connection) = connect(&sent);
    let answers = async {
        for _ in 0..count {
            client.next().await;
        }
        waiting(&client)
    };
    assert_eq!(during(connection, answers).await, 0);
}

/// It is charged nothing, and takes none of the time of those that are waited for.
#[tokio::test]
async fn a_call_that_nobody_waits_for_any_more_is_closed_and_not_decided() {
    let late = [head(1, &header(b"\0\x0cgrpc-timeout", "1n")), frame(DATA, END_STREAM, 1, &MESSAGE)].concat();
    let (mut client, connection) = connect(&[late, call(3)].concat());
    let told = async { [client.next().await, client.next().await] };
    let mut told = during(connection, told).await;
    told.sort();
    let [answered, closed] = told;
    assert_eq!((answered.0, answered.1), (HEADERS, 3));
    assert_eq!(closed, (RST_STREAM, 1, CANCEL.to_vec()));
    assert_eq!((client.failed("DEADLINE_EXCEEDED"), client.failed("UNAVAILABLE")), (1, 1));
}

#[tokio::test]
async fn a_request_that_comes_in_pieces_is_answered_when_all_of_it_came() {
    let (mut client, connection) = connect(&[head(1, &[]), frame(DATA, 0, 1, &MESSAGE[..2])].concat());
    let answer = async {
        client.io.write_all(&call(3)).await.unwrap();
        assert_eq!(client.next().await.1, 3, "others do not wait for it");
        client.io.write_all(&frame(DATA, 0, 1, &MESSAGE[2..])).await.unwrap();
        client.io.write_all(&frame(DATA, END_STREAM, 1, &[])).await.unwrap();
        client.next().await
    };
    let (kind, stream, _) = during(connection, answer).await;
    assert_eq!((kind, stream, client.failed("UNAVAILABLE")), (HEADERS, 1, 2));
}

#[tokio::test]
async fn a_call_is_under_way_until_it_is_answered() {
    let (mut client, connection) = connect(&[head(1, &[]), frame(DATA, 0, 1, &MESSAGE[..2]), call(3)].concat());
    let answers = async {
        assert!(client.activity.is_new());
        assert_eq!(client.next().await.1, 3);
        assert!(!client.activity.is_new() && !client.activity.is_idle(), "the first has not come to its end");
        client.io.write_all(&frame(DATA, END_STREAM, 1, &MESSAGE[2..])).await.unwrap();
        assert_eq!(client.next().await.1, 1);
        assert!(client.activity.is_idle());
    };
    during(connection, answers).await;
}

#[tokio::test]
async fn a_call_that_waits_for_its_turn_is_under_way() {
    let count = 2 * TURN as u64;
    let sent: Vec<u8> = (0..2 * TURN as u32).flat_map(|number| call(2 * number + 1)).collect();
    let (client, mut connection) = connect(&sent);
    let answered = async |calls: u64| {
        while client.failed("UNAVAILABLE") < calls {
            tokio::task::yield_now().await;
        }
    };
    for (calls, is_idle) in [(count / 2, false), (count, true)] {
        assert!(futures_util::poll!(&mut connection).is_pending());
        timeout(Duration::from_secs(30), answered(calls)).await.expect("a turn of them is answered");
        assert_eq!(client.activity.is_idle(), is_idle, "{calls} of {count} are answered");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_come_to_its_end_is_left() {
    let (client, connection) = open();
    let asking = async {
        let (mut send, answering) = h2::client::handshake(client.io).await.unwrap();
        let request = http::Request::post(format!("http://rls{}", RateLimitServer::PATH)).body(()).unwrap();
        let (answer, _request) = send.send_request(request, false).unwrap();
        tokio::select! {
            answer = answer => answer.unwrap_err().reason(),
            ended = answering => panic!("the client's side ended: {ended:?}"),
        }
    };
    let closed = timeout(REQUEST_MAX * 2, during(connection, asking)).await.unwrap();
    assert_eq!((closed, failed(&client.metrics, "CANCELLED")), (Some(h2::Reason::CANCEL), 1));
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_not_whole_take_no_more_of_a_connection_than_so_much() {
    const REQUEST_BYTES: usize = 12 << 20;
    let (client, connection) = open();
    let asking = async {
        let (send, answering) = h2::client::handshake(client.io).await.unwrap();
        let calls = async {
            let (mut answers, mut streams) = (Vec::new(), Vec::new());
            for _ in 0..6 {
                let request = http::Request::post(format!("http://rls{}", RateLimitServer::PATH)).body(()).unwrap();
                let (answer, mut stream) = send.clone().ready().await.unwrap().send_request(request, false).unwrap();
                stream.send_data(vec![0; REQUEST_BYTES].into(), false).unwrap();
                answers.push(answer);
                streams.push(stream);
            }
            let (answer, ..) = futures_util::future::select_all(answers).await;
            answer.expect("it is answered").headers()["grpc-status"].clone()
        };
        tokio::select! {
            status = calls => status,
            ended = answering => panic!("the client's side ended: {ended:?}"),
        }
    };
    assert_eq!(during(connection, asking).await, "8");
}

/// Where nothing more may be held, neither by this connection nor by all others, which of these is answered by a decision: a call
/// that comes at once, in one frame or in several, and one of which more has to come.
#[tokio::test]
async fn only_calls_of_which_more_has_to_come_are_held() {
    let in_frames = |stream| {
        let [first, second] = [&MESSAGE[..2], &MESSAGE[2..]].map(|part| frame(DATA, 0, stream, part));
        [head(stream, &[]), first, second, frame(DATA, END_STREAM, stream, &[])].concat()
    };
    let in_part = |stream| [head(stream, &[]), frame(DATA, 0, stream, &MESSAGE[..2])].concat();
    let (mut client, connection) = connect(&[call(1), in_frames(3), in_part(5)].concat());
    let _others = use_up(&client.budget);
    let mut own = client.allowance.held();
    own.set(ALLOWANCE_BYTES).expect("each connection has so much");
    let answers = async {
        let mut answered = BTreeSet::new();
        while answered.len() < 3 {
            answered.insert(client.next().await.1);
        }
        answered
    };
    assert_eq!(during(connection, answers).await, BTreeSet::from([1, 3, 5]));
    assert_eq!((client.failed("UNAVAILABLE"), client.failed("RESOURCE_EXHAUSTED")), (2, 1));
}

/// One that came as a whole later, one that was taken back and one whose connection is gone.
#[tokio::test]
async fn what_was_held_of_calls_is_given_back_however_they_end() {
    let pieces = |stream| [head(stream, &[]), frame(DATA, 0, stream, &[0; 2000])].concat();
    let sent: Vec<u8> = (0..30).flat_map(|number| pieces(2 * number + 1)).collect();
    let (mut client, connection) = connect(&sent);
    let metrics = Arc::clone(&client.metrics);
    let bytes = move || metrics.unfinished_request_bytes.get_or_create(&PortLabels { port: "rls" }).get();
    let ends = async {
        let less_than = async |most: i64| {
            while bytes() == 0 || bytes() >= most {
                tokio::task::yield_now().await;
            }
            bytes()
        };
        let all = less_than(i64::MAX).await;
        client.io.write_all(&frame(DATA, END_STREAM, 1, &[])).await.unwrap();
        let fewer = less_than(all).await;
        client.io.write_all(&frame(RST_STREAM, 0, 3, &CANCEL)).await.unwrap();
        less_than(fewer).await
    };
    let held = timeout(Duration::from_secs(30), during(connection, ends)).await.expect("it is given back");
    assert!(held >= 28 * (2000 + CALL_BYTES as i64) - ALLOWANCE_BYTES as i64, "{held}");
    let nothing = async {
        while bytes() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(30), nothing).await.expect("all of it is given back");
}

#[tokio::test(start_paused = true)]
async fn who_gives_no_sign_of_life_is_left() {
    let (_client, connection) = connect(&[]);
    let lasts = PING_INTERVAL + PING_TIMEOUT;
    tokio::pin!(connection);
    timeout(lasts - Duration::from_millis(10), &mut connection).await.expect_err("it has time to answer");
    timeout(Duration::from_secs(1), connection).await.expect("the connection is closed").unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn who_answers_pings_stays() {
    let (client, connection) = open();
    let (_send, answering) = h2::client::handshake(client.io).await.unwrap();
    tokio::select! {
        ended = timeout(20 * PING_INTERVAL, connection) => ended.expect_err("it stays").to_string(),
        ended = answering => panic!("the client's side ended: {ended:?}"),
    };
}
