//! HTTP/2 connections of the gRPC ports: taken in, limited, renewed, and closed so that nobody is cut off in mid-sentence.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tower_service::Service;

use super::listen::Listener;
use crate::xds::Connection;

/// Peers that are gone are noticed within 25 s: 10 s to the next ping, 15 s for its answer.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a connection may be open before it is used.
const UNUSED_MAX: Duration = Duration::from_secs(20);
/// How long the calls of a connection may go on once it is time to go.
const CLOSING_MAX: Duration = Duration::from_secs(3);
/// At the end each connection waits up to this long for every other one, so that not all come back at once.
const SPREAD_EACH: Duration = Duration::from_millis(1);
const SPREAD_MAX: Duration = Duration::from_secs(1);
/// RFC 9113, section 10.5.1: what all headers of a request may take.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// After a connection could not be taken in, most often because there are too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// More wait until one of these closes.
    pub(super) connections_max: usize,
    /// Calls under way on one connection.
    pub(super) streams_max: u32,
    /// When a connection is renewed, so that Envoys spread over replicas again. It happens within a tenth of it before or
    /// after, or Envoys that came together would go together for ever (xDS rule 94).
    pub(super) age_max: Option<Duration>,
}

/// Serves until shutdown, and then until the last connection is closed.
pub(super) async fn serve(
    listener: Listener,
    routes: Routes,
    limits: Limits,
    shutdown: CancellationToken,
) -> Result<(), String> {
    let listener = listener.into_tokio()?;
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let connections = TaskTracker::new();
    while let Some(taken) = shutdown.run_until_cancelled(take(&listener, &places)).await {
        match taken {
            Ok((stream, place)) => {
                let all = connections.clone();
                let ending = ending(limits.age_max, move || spread(all.len()), shutdown.clone());
                connections.spawn(connection(stream, routes.clone(), limits, ending, place));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken in");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
    Ok(())
}

async fn take(
    listener: &tokio::net::TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    // Otherwise an answer waits for the acknowledgement of the one before, up to 40 ms: longer than Envoy does.
    stream.set_nodelay(true)?;
    Ok((stream, place))
}

/// Comes when it is time for a connection to go.
async fn ending(age_max: Option<Duration>, spread: impl Fn() -> Duration, shutdown: CancellationToken) {
    let aged = async {
        match age_max {
            Some(age) => sleep(age.mul_f64(0.9 + 0.2 * fastrand::f64())).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = aged => {}
        () = shutdown.cancelled() => sleep(spread().mul_f64(fastrand::f64())).await,
    }
}

fn spread(connections: usize) -> Duration {
    SPREAD_EACH.saturating_mul(u32::try_from(connections).unwrap_or(u32::MAX)).min(SPREAD_MAX)
}

async fn connection(
    stream: TcpStream,
    routes: Routes,
    limits: Limits,
    ending: impl Future<Output = ()>,
    _place: OwnedSemaphorePermit,
) {
    let shared = Connection::default();
    let is_used = Arc::new(AtomicBool::new(false));
    let service = TowerToHyperService::new(Calls { routes, shared: shared.clone(), is_used: Arc::clone(&is_used) });
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_concurrent_streams(limits.streams_max)
        .serve_connection(TokioIo::new(stream), service);
    let unused = async {
        sleep(UNUSED_MAX).await;
        if is_used.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let (mut serving, mut ending, mut unused) =
        (std::pin::pin!(serving), std::pin::pin!(ending), std::pin::pin!(unused));
    tokio::select! {
        ended = &mut serving => return note(ended),
        () = shared.stuck.cancelled() => return tracing::warn!("an Envoy did not read what it was sent; its connection is closed"),
        () = &mut unused => return,
        () = &mut ending => {}
    }
    shared.closing.cancel();
    serving.as_mut().graceful_shutdown();
    if let Ok(ended) = tokio::time::timeout(CLOSING_MAX, serving).await {
        note(ended);
    }
}

fn note(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Calls of one connection, each of which knows what connection it is on.
#[derive(Clone)]
struct Calls {
    routes: Routes,
    shared: Connection,
    is_used: Arc<AtomicBool>,
}

impl Service<http::Request<Incoming>> for Calls {
    type Response = <Routes as Service<http::Request<Incoming>>>::Response;
    type Error = <Routes as Service<http::Request<Incoming>>>::Error;
    type Future = <Routes as Service<http::Request<Incoming>>>::Future;

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        <Routes as Service<http::Request<Incoming>>>::poll_ready(&mut self.routes, context)
    }

    fn call(&mut self, mut request: http::Request<Incoming>) -> Self::Future {
        self.is_used.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(self.shared.clone());
        self.routes.call(request)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    async fn lasts(age_max: Option<Duration>, connections: usize, shutdown: &CancellationToken) -> Duration {
        let started = Instant::now();
        ending(age_max, || spread(connections), shutdown.clone()).await;
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn xds_rule_94_ages_differ_within_a_tenth() {
        let age = Duration::from_secs(100);
        let mut ages = Vec::new();
        for _ in 0..100 {
            ages.push(lasts(Some(age), 1, &CancellationToken::new()).await);
        }
        let [shortest, longest] = [ages.iter().min().unwrap(), ages.iter().max().unwrap()];
        assert!(*shortest >= age.mul_f64(0.9) && *longest <= age.mul_f64(1.1) + Duration::from_millis(1));
        assert!(*longest - *shortest > Duration::from_secs(10), "{shortest:?} to {longest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn xds_rule_94_not_all_connections_end_at_once() {
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        let mut ends = std::collections::BTreeSet::new();
        for _ in 0..100 {
            ends.insert(lasts(None, 10_000, &shutdown).await);
        }
        assert!(ends.len() > 50 && ends.last().is_some_and(|last| *last <= SPREAD_MAX + Duration::from_millis(1)));
        assert!(lasts(None, 1, &shutdown).await <= Duration::from_millis(2), "a few need no spread");
    }
}
