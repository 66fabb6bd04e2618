//! Requests that do not come to their end, on many connections and many streams of each: what they take of memory is bounded over all
//! of a port's connections, what comes beyond is refused and counted, and a good client is served meanwhile, on each port.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::floods::kinds::{PING, PREFACE, SETTINGS, WINDOW_UPDATE, frame};
use crate::floods::{Others, assert_answers, resident_max, start};
use crate::harness::{Tierflow, eventually};

const DECISION: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
const ADS: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

/// Connections, and requests on each, that hang: 900 MB of them to each port.
const CONNECTIONS: usize = 20;
const REQUESTS: usize = 3;
/// What comes of each. A decision's request has 16 MiB at most, and so has a body of the admin port.
const BYTES: usize = 15 << 20;
static MESSAGE: LazyLock<Bytes> = LazyLock::new(|| {
    let announced = u32::try_from(BYTES).unwrap().to_be_bytes();
    [&[0], &announced[..], &vec![b'#'; BYTES - 6]].concat().into()
});
const RESOURCE_EXHAUSTED: &str = "8";
/// More than each port may hold: those that are refused are counted until they are.
const HELD_MAX: u64 = 300 << 20;
/// More than the process may take: what a port may hold, twice, because the memory of one port's is not all given back when the next
/// is asked.
const RESIDENT_MAX: u64 = 600 << 20;
/// The answers that a good client gets on each port meanwhile.
const ANSWERS: usize = 10;

/// Begins a request on each of some streams of a connection, and counts those that are refused.
async fn hang(to: SocketAddr, path: &'static str, refused: Arc<AtomicUsize>) {
    let Ok(io) = TcpStream::connect(to).await else { return };
    let Ok((send, connection)) = h2::client::handshake(io).await else { return };
    let requests = (0..REQUESTS).map(|_| hang_on(send.clone(), to, path, &refused));
    tokio::select! {
        _ = connection => {}
        _ = futures_util::future::join_all(requests) => std::future::pending().await,
    }
}

async fn hang_on(send: SendRequest<Bytes>, to: SocketAddr, path: &str, refused: &AtomicUsize) -> Option<()> {
    let request = http::Request::post(format!("http://{to}{path}")).header("content-type", "application/grpc");
    let (answer, mut stream) = send.ready().await.ok()?.send_request(request.body(()).unwrap(), false).ok()?;
    let mut message = MESSAGE.clone();
    let sending = async {
        while !message.is_empty() {
            stream.reserve_capacity(message.len().min(64 * 1024));
            let room = std::future::poll_fn(|context| stream.poll_capacity(context)).await?.ok()?;
            stream.send_data(message.split_to(room.min(message.len())), false).ok()?;
        }
        std::future::pending::<Option<()>>().await
    };
    let answered = async {
        let (head, mut body) = answer.await.ok()?.into_parts();
        while let Some(data) = body.data().await {
            data.ok()?;
        }
        let trailers = body.trailers().await.ok()?.unwrap_or_default();
        let status = head.headers.get("grpc-status").or_else(|| trailers.get("grpc-status"))?;
        refused.fetch_add(usize::from(status == RESOURCE_EXHAUSTED), Ordering::Relaxed);
        Some(())
    };
    tokio::pin!(answered);
    tokio::select! {
        _ = sending => {}
        answer = &mut answered => return answer,
    }
    // The stream was closed while it was sent on, and why may still come.
    answered.await
}

/// The same with bodies, on connections of HTTP/1.1.
async fn hang_with_body(to: SocketAddr, refused: Arc<AtomicUsize>) {
    let Ok(mut io) = TcpStream::connect(to).await else { return };
    let (mut reading, mut writing) = io.split();
    let head = format!("POST /v1/apply HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {}\r\n\r\n", BYTES + 1);
    let sending = async {
        let sent = writing.write_all(head.as_bytes()).await.is_ok() && writing.write_all(&MESSAGE).await.is_ok();
        if sent {
            std::future::pending::<()>().await;
        }
    };
    let answered = async {
        let mut status = [0; 12];
        if reading.read_exact(&mut status).await.is_ok() {
            refused.fetch_add(usize::from(&status == b"HTTP/1.1 503"), Ordering::Relaxed);
        }
    };
    tokio::join!(answered, sending);
}

async fn measured(tierflow: &Tierflow, name: &str, port: &str) -> u64 {
    let name = format!("{name}{{port=\"{port}\"}} ");
    let metrics = tierflow.ask("/metrics").await.text();
    metrics.lines().find_map(|line| line.strip_prefix(&name)).expect("it is there").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_do_not_come_to_their_end_take_no_more_memory_than_so_much_over_all_connections() {
    let (_folder, tierflow) = start().await;
    let [xds, rls, admin] = tierflow.addresses();
    for (port, to, path) in [("rls", rls, Some(DECISION)), ("xds", xds, Some(ADS)), ("admin", admin, None)] {
        assert_eq!(measured(&tierflow, "tierflow_unfinished_requests_refused_total", port).await, 0);
        let (others, refused) = (Others::start(), Arc::<AtomicUsize>::default());
        for _ in 0..CONNECTIONS {
            match path {
                Some(path) => others.spawn(hang(to, path, Arc::clone(&refused))),
                None => (0..REQUESTS).for_each(|_| others.spawn(hang_with_body(to, Arc::clone(&refused)))),
            }
        }
        eventually(&format!("some are refused on {port}"), async || {
            (refused.load(Ordering::Relaxed) > CONNECTIONS).then_some(())
        })
        .await;
        let seen = refused.load(Ordering::Relaxed) as u64;
        let counted = measured(&tierflow, "tierflow_unfinished_requests_refused_total", port).await;
        assert!(counted >= seen, "{port}: {counted} of {seen}");
        let held = measured(&tierflow, "tierflow_unfinished_request_bytes", port).await;
        assert!((1 << 20..=HELD_MAX).contains(&held), "{port}: {held}");
        assert_answers(&tierflow, ANSWERS, &format!("requests that hang on {port}")).await;
        drop(others);
        eventually(&format!("nothing is held on {port}"), async || {
            (measured(&tierflow, "tierflow_unfinished_request_bytes", port).await == 0).then_some(())
        })
        .await;
    }
    let resident = resident_max(tierflow.process());
    assert!(resident < RESIDENT_MAX, "{resident} bytes");
}

/// RFC 9113, section 6.9: what each port lets a client send, on a stream and on all of a connection, before it reads any of it.
#[tokio::test]
async fn each_port_says_how_much_of_requests_may_come_before_it_is_read() {
    let (_folder, tierflow) = start().await;
    for (to, window) in tierflow.addresses().into_iter().zip([65_535, 1 << 20, 65_535]) {
        let mut io = TcpStream::connect(to).await.unwrap();
        io.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(PING, 0, 0, &[1; 8])].concat()).await.unwrap();
        let (mut of_stream, mut of_connection) = (None, 65_535);
        loop {
            let mut head = [0; 9];
            io.read_exact(&mut head).await.unwrap();
            let [high, middle, low, kind, ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
            io.read_exact(&mut payload).await.unwrap();
            match (kind, &*payload) {
                (SETTINGS, settings) => {
                    let mut settings = settings.chunks(6).map(|one| (one[1], &one[2..]));
                    of_stream = settings.find(|(name, _)| *name == 4).map(|(_, value)| number(value)).or(of_stream);
                }
                (WINDOW_UPDATE, more) => of_connection += number(more),
                // Whatever belongs to the beginning is said before the answer to what was asked after the first answer.
                (PING, [1, ..]) => io.write_all(&frame(PING, 0, 0, &[2; 8])).await.unwrap(),
                (PING, [2, ..]) => break,
                _ => {}
            }
        }
        assert_eq!((of_stream, of_connection), (Some(window), window), "{to}");
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().unwrap())
}
