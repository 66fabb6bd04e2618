//! Clients of an Envoy, each on a connection of its own that makes one request after the other; and their upstream.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

/// Tenants whose requests take turns.
const TENANTS: usize = 1_000;

#[derive(Default)]
pub(crate) struct Requests {
    /// How long each took, ascending.
    pub(crate) latencies: Vec<Duration>,
    /// Answered with anything but 200.
    pub(crate) not_ok: usize,
}

/// Requests at `address` from so many clients for `time`.
pub(crate) fn run(address: SocketAddr, connections: usize, time: Duration) -> Requests {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let requests = Rc::<RefCell<Requests>>::default();
    runtime.block_on(LocalSet::new().run_until(async {
        let ends = Instant::now() + time;
        let mut clients = Vec::new();
        for number in 0..connections {
            clients.push(spawn_local(client(connect(address).await, number, ends, Rc::clone(&requests))));
        }
        for client in clients {
            client.await.unwrap();
        }
    }));
    let mut requests = requests.take();
    requests.latencies.sort_unstable();
    requests
}

async fn connect(address: SocketAddr) -> SendRequest<Empty<Bytes>> {
    let socket = TcpStream::connect(address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let (send, connection) = http1::handshake(TokioIo::new(socket)).await.unwrap();
    spawn_local(connection);
    send
}

async fn client(mut send: SendRequest<Empty<Bytes>>, number: usize, ends: Instant, requests: Rc<RefCell<Requests>>) {
    for tenant in (number * 7919..).map(|number| number % TENANTS) {
        let began = Instant::now();
        if began >= ends {
            return;
        }
        let request = Request::get("/open")
            .header("host", "shop.example")
            .header("x-tenant-id", format!("tenant-{tenant}"))
            .body(Empty::new())
            .unwrap();
        send.ready().await.unwrap();
        let answer = send.send_request(request).await.unwrap();
        let is_ok = answer.status() == StatusCode::OK;
        answer.into_body().collect().await.unwrap();
        let mut requests = requests.borrow_mut();
        requests.latencies.push(began.elapsed());
        requests.not_ok += usize::from(!is_ok);
    }
}

/// Starts a server on a thread of its own that answers everything with a few bytes.
pub(crate) fn serve() -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(LocalSet::new().run_until(async {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                let answer = service_fn(async |_| Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello\n"))));
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer);
                spawn_local(connection);
            }
        }));
    });
    address
}
