//! The generator of calls: connections as Envoy opens them, over the h2 crate, with messages encoded beforehand.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::client::SendRequest;
use tokio::net::TcpStream;
use tokio::task::{LocalSet, spawn_local};

/// How calls are made.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) pace: Pace,
    /// The time that a caller waits for an answer, as gRPC has it.
    pub(crate) timeout: &'static str,
    /// The time after which it takes its call back. `None`: never.
    pub(crate) gives_up: Option<Duration>,
    /// The calls of a connection that may be under way in an open loop: an Envoy fails more by itself, by its circuit
    /// breaker.
    pub(crate) under_way_max: usize,
}

impl Default for Load {
    fn default() -> Self {
        let pace = Pace::InFlight(32);
        Self { connections: 4, pace, timeout: "10S", gives_up: None, under_way_max: usize::MAX }
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// A closed loop: so many are under way on each connection, and another is made as soon as one is answered.
    InFlight(usize),
    /// An open loop: so many are due each second over all connections, and each is timed from when it was due.
    PerSecond(usize),
}

/// The calls of one turn.
#[derive(Default)]
pub(crate) struct Calls {
    /// How long each took that was answered, ascending.
    pub(crate) latencies: Vec<Duration>,
    /// Calls answered OVER_LIMIT.
    pub(crate) denied: usize,
    /// Calls that were answered with an error, or could not be made.
    pub(crate) failed: usize,
    /// Calls that were taken back, or not made because too many were under way.
    pub(crate) given_up: usize,
}

impl Calls {
    /// All of them, however they ended.
    pub(crate) fn made(&self) -> usize {
        self.latencies.len() + self.failed + self.given_up
    }

    #[allow(dead_code, reason = "not every benchmark makes its calls in pieces")]
    pub(crate) fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.latencies.sort_unstable();
        self.denied += other.denied;
        self.failed += other.failed;
        self.given_up += other.given_up;
    }

    /// The latency that a share of all calls did not exceed.
    pub(crate) fn percentile(&self, share: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((share * last as f64).round() as usize).copied().unwrap_or_default()
    }
}

/// Calls the `addresses` for `time`, with one of the `bodies` after the other; connections take turns with the addresses.
pub(crate) fn run(addresses: &[SocketAddr], load: Load, bodies: &Rc<Vec<Bytes>>, time: Duration) -> Calls {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let calls = Rc::<RefCell<Calls>>::default();
    runtime.block_on(LocalSet::new().run_until(async {
        let ends = Instant::now() + time;
        let mut tasks = Vec::new();
        for (number, address) in (0..load.connections).zip(addresses.iter().cycle()) {
            let connection = connect(*address).await;
            let worker = Worker { connection, bodies: Rc::clone(bodies), calls: Rc::clone(&calls), ends, load };
            let first = bodies.len() / load.connections * number;
            match load.pace {
                Pace::InFlight(each) => {
                    tasks.extend((0..each).map(|i| spawn_local(worker.clone().closed(first + 7919 * i))));
                }
                Pace::PerSecond(all) => tasks.push(spawn_local(worker.open(first, all / load.connections))),
            }
        }
        for task in tasks {
            task.await.unwrap();
        }
    }));
    let mut calls = calls.take();
    calls.latencies.sort_unstable();
    calls
}

/// Makes each of the calls once, some at a time.
#[allow(dead_code, reason = "not every benchmark has something to do beforehand")]
pub(crate) fn run_once(address: SocketAddr, bodies: &[Bytes]) -> Calls {
    const IN_FLIGHT: usize = 64;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let calls = Rc::<RefCell<Calls>>::default();
    runtime.block_on(LocalSet::new().run_until(async {
        let bodies = Rc::new(bodies.to_vec());
        let connection = connect(address).await;
        let (ends, load) = (Instant::now(), Load::default());
        let worker = Worker { connection, bodies: Rc::clone(&bodies), calls: Rc::clone(&calls), ends, load };
        let each = |number| worker.call(number, Instant::now());
        futures_util::stream::iter(0..bodies.len()).for_each_concurrent(IN_FLIGHT, each).await;
    }));
    calls.take()
}

async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    let socket = TcpStream::connect(address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let mut builder = h2::client::Builder::new();
    // An answer to a call that was taken back meanwhile is no error to an Envoy; h2 closes the connection after 1024 of them.
    builder.max_local_error_reset_streams(None);
    let (send, connection) = builder.handshake(socket).await.unwrap();
    spawn_local(connection);
    send
}

#[derive(Clone)]
struct Worker {
    connection: SendRequest<Bytes>,
    bodies: Rc<Vec<Bytes>>,
    calls: Rc<RefCell<Calls>>,
    ends: Instant,
    load: Load,
}

impl Worker {
    async fn closed(self, first: usize) {
        for number in first.. {
            let due = Instant::now();
            if due >= self.ends {
                return;
            }
            self.call(number, due).await;
        }
    }

    async fn open(self, first: usize, per_second: usize) {
        let begins = Instant::now();
        let mut under_way = FuturesUnordered::new();
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        let mut made = 0;
        while Instant::now() < self.ends {
            tokio::select! {
                _ = ticks.tick() => {}
                Some(()) = under_way.next(), if !under_way.is_empty() => {}
            }
            let due_now = (begins.elapsed().as_secs_f64() * per_second as f64) as usize;
            for number in made..due_now {
                let due = begins + Duration::from_secs_f64(number as f64 / per_second as f64);
                if under_way.len() < self.load.under_way_max {
                    under_way.push(self.call(first + number, due));
                } else {
                    self.calls.borrow_mut().given_up += 1;
                }
            }
            made = made.max(due_now);
        }
        while under_way.next().await.is_some() {}
    }

    /// Makes a call and notes how it ended.
    async fn call(&self, number: usize, due: Instant) {
        let body = self.bodies[number % self.bodies.len()].clone();
        let asking = ask(self.connection.clone(), body, self.load.timeout);
        let answer = match self.load.gives_up {
            None => Some(asking.await),
            Some(time) => tokio::time::timeout_at((due + time).into(), asking).await.ok(),
        };
        let mut calls = self.calls.borrow_mut();
        match answer {
            Some(Ok(Answer::Passed)) => {}
            Some(Ok(Answer::Denied)) => calls.denied += 1,
            Some(Ok(Answer::Failed) | Err(_)) => calls.failed += 1,
            None => calls.given_up += 1,
        }
        if matches!(answer, Some(Ok(Answer::Passed | Answer::Denied))) {
            calls.latencies.push(due.elapsed());
        }
    }
}

enum Answer {
    Passed,
    Denied,
    Failed,
}

async fn ask(connection: SendRequest<Bytes>, body: Bytes, timeout: &'static str) -> Result<Answer, h2::Error> {
    let mut connection = connection.ready().await?;
    let request = http::Request::post("http://rls/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
        .body(())
        .unwrap();
    let (response, mut stream) = connection.send_request(request, false)?;
    stream.send_data(body, true)?;
    let mut body = response.await?.into_body();
    let mut answer = Answer::Failed;
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        // The message's length, and its first field: `overall_code`.
        match data.get(5..7) {
            Some([0x08, 1]) => answer = Answer::Passed,
            Some([0x08, 2]) => answer = Answer::Denied,
            _ => {}
        }
    }
    let _grpc_status = body.trailers().await?;
    Ok(answer)
}
