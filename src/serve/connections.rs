//! Connections of the ports: taken in, limited, renewed, and closed so that nobody is cut off in mid-sentence.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use super::listen::Listener;
use super::protocol::{Protocol, Speaking};
use super::tls::{Accepted, Acceptor};
use super::workers::Places;
use crate::clock::wall;
use crate::names::certificate::ClientCertificate;
use crate::xds::Connection;

/// The time that a connection may be open before it is used...
const UNUSED_MAX: Duration = Duration::from_secs(20);
/// ...and where all places are taken and somebody waits for one: whoever asks for something asks sooner.
const UNUSED_FULL_MAX: Duration = Duration::from_millis(500);
/// The time that the calls of a connection may go on once it is time to go.
const CLOSING_MAX: Duration = Duration::from_secs(3);
/// At the end each connection waits up to this long for every other one, so that not all come back at once.
const SPREAD_EACH: Duration = Duration::from_millis(1);
const SPREAD_MAX: Duration = Duration::from_secs(1);
/// After a connection could not be taken in, most often because there are too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Limits {
    /// More wait until one of these closes. The oldest that has asked for nothing makes room.
    pub(super) connections_max: usize,
    /// The age at which a connection is renewed, so that Envoys spread over replicas again. It happens within a tenth
    /// of it before or after, or Envoys that came together would go together for ever (xDS rule 94).
    pub(super) age_max: Option<Duration>,
}

/// The bytes of a connection, in plain text or within TLS.
pub(super) type Io = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// The other end of a connection.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// What its certificate says of it, where it had to show one.
    pub(super) certificate: Option<Arc<ClientCertificate>>,
    pub(super) connection: Connection,
    /// True once it has asked for something.
    pub(super) is_heard: Arc<AtomicBool>,
}

impl Peer {
    pub(super) fn new(address: SocketAddr, certificate: Option<Arc<ClientCertificate>>) -> Self {
        Self { address, certificate, connection: Connection::default(), is_heard: Arc::default() }
    }
}

/// A connection that had asked for nothing when it was last looked at.
#[derive(Clone)]
struct Newcomer {
    since: Instant,
    is_heard: Arc<AtomicBool>,
    /// Tells it to make room.
    leave: CancellationToken,
}

impl Newcomer {
    fn new() -> Self {
        Self { since: Instant::now(), is_heard: Arc::default(), leave: CancellationToken::new() }
    }

    fn is_one(&self) -> bool {
        let is_open = Arc::strong_count(&self.is_heard) > 1;
        is_open && !self.is_heard.load(Ordering::Relaxed)
    }
}

/// Newcomers from the oldest to the newest.
#[derive(Default)]
struct Newcomers(VecDeque<Newcomer>);

impl Newcomers {
    fn oldest(&mut self) -> Option<&Newcomer> {
        while self.0.front().is_some_and(|oldest| !oldest.is_one()) {
            self.0.pop_front();
        }
        self.0.front()
    }

    /// Adds one more. There are no more of them than connections.
    fn add(&mut self, newcomer: Newcomer, connections_max: usize) {
        if self.0.len() >= connections_max {
            self.0.retain(Newcomer::is_one);
        }
        self.0.push_back(newcomer);
    }
}

/// Serves until shutdown, and then until the last connection is closed.
pub(super) async fn serve(
    listener: Listener,
    protocol: impl Protocol,
    limits: Limits,
    tls: Option<Acceptor>,
    places: Places,
    shutdown: CancellationToken,
) -> Result<(), String> {
    let listener = listener.into_tokio()?;
    let permits = Arc::new(Semaphore::new(limits.connections_max));
    let mut newcomers = Newcomers::default();
    while let Some(taken) = shutdown.run_until_cancelled(take(&listener, &permits, &mut newcomers)).await {
        match taken {
            Ok((stream, address, permit)) => {
                let all = places.clone();
                let ending = ending(limits.age_max, move || spread(all.len()), shutdown.clone());
                let (protocol, tls) = (protocol.clone(), tls.clone());
                let newcomer = Newcomer::new();
                newcomers.add(newcomer.clone(), limits.connections_max);
                places.spawn(async move {
                    let _permit = permit;
                    let Newcomer { is_heard, leave, .. } = newcomer;
                    // It belongs to the runtime that it is served on.
                    let Ok(stream) = TcpStream::from_std(stream) else { return };
                    if let Some(Some((io, certificate))) = leave.run_until_cancelled(secure(stream, address, tls)).await
                    {
                        let peer = Peer { is_heard, ..Peer::new(address, certificate) };
                        talk(io, peer, protocol, ending, &leave).await;
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken in");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    places.closed().await;
    Ok(())
}

async fn take(
    listener: &tokio::net::TcpListener,
    permits: &Arc<Semaphore>,
    newcomers: &mut Newcomers,
) -> std::io::Result<(std::net::TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let (stream, address) = listener.accept().await?;
    let permit = place(permits, newcomers).await.map_err(std::io::Error::other)?;
    // Otherwise an answer waits for the acknowledgement of the one before, up to 40 ms: longer than Envoy does.
    stream.set_nodelay(true)?;
    Ok((stream.into_std()?, address, permit))
}

/// Waits for a place. As long as there is none, whoever has one and asks for nothing leaves: idle connections would keep a probe
/// from being answered, and that is how they would have a process killed that is well.
async fn place(permits: &Arc<Semaphore>, newcomers: &mut Newcomers) -> Result<OwnedSemaphorePermit, AcquireError> {
    let mut free = pin!(Arc::clone(permits).acquire_owned());
    while let Some(oldest) = newcomers.oldest() {
        tokio::select! {
            biased;
            permit = &mut free => return permit,
            () = sleep_until(oldest.since + UNUSED_FULL_MAX) => {}
        }
        // It may have asked for something meanwhile.
        if let Some(oldest) = newcomers.0.pop_front().filter(Newcomer::is_one) {
            oldest.leave.cancel();
            // One that leaves makes room for one, and needs a moment for that.
            if let Ok(permit) = timeout(UNUSED_FULL_MAX, &mut free).await {
                return permit;
            }
        }
    }
    free.await
}

async fn secure(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<Acceptor>,
) -> Option<(Io, Option<Arc<ClientCertificate>>)> {
    let Some(tls) = tls else { return Some((Either::Left(stream), None)) };
    // On the heap, or each connection keeps room for a handshake as long as it lives.
    let Accepted { stream, certificate } = Box::pin(tls.accept(stream, address)).await?;
    Some((Either::Right(Box::new(stream)), certificate))
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

/// Comes when the client's certificate is not valid any more: nobody stays longer than a certificate lets them in.
async fn expired(certificate: Option<&ClientCertificate>) {
    let Some(not_after) = certificate.and_then(|certificate| certificate.not_after) else {
        return std::future::pending().await;
    };
    sleep(not_after.duration_since(wall()).unwrap_or_default()).await;
}

async fn talk(
    io: Io,
    peer: Peer,
    protocol: impl Protocol,
    ending: impl Future<Output = ()>,
    leave: &CancellationToken,
) {
    // On the heap: a future that holds this one would set aside room for it twice.
    let mut speaking = Box::pin(protocol.speak(io, peer.clone()));
    let unused = async {
        leave.run_until_cancelled(sleep(UNUSED_MAX)).await;
        if peer.is_heard.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = &mut speaking => return note(ended),
        () = peer.connection.stuck.cancelled() => return tracing::warn!("an Envoy did not read what it was sent; its connection is closed"),
        () = unused => return,
        () = ending => {}
        () = expired(peer.certificate.as_deref()) => {}
    }
    peer.connection.closing.cancel();
    speaking.as_mut().graceful_shutdown();
    if let Ok(ended) = tokio::time::timeout(CLOSING_MAX, speaking).await {
        note(ended);
    }
}

fn note(ended: Result<(), impl std::fmt::Display>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    /// A connection as its task has it: it goes when it is told to.
    fn connect(permits: &Arc<Semaphore>, newcomers: &mut Newcomers) -> Newcomer {
        let (permit, newcomer) = (Arc::clone(permits).try_acquire_owned().unwrap(), Newcomer::new());
        newcomers.add(newcomer.clone(), 3);
        let of_task = newcomer.clone();
        tokio::spawn(async move {
            of_task.leave.cancelled().await;
            drop((permit, of_task));
        });
        newcomer
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_places_are_taken_the_oldest_that_asks_for_nothing_makes_room() {
        let (permits, mut newcomers) = (Arc::new(Semaphore::new(3)), Newcomers::default());
        let [heard, oldest, newest] = std::array::from_fn(|_| connect(&permits, &mut newcomers));
        heard.is_heard.store(true, Ordering::Relaxed);
        let left = || [&heard, &oldest, &newest].map(|newcomer| newcomer.leave.is_cancelled());
        let started = Instant::now();
        drop(place(&permits, &mut newcomers).await.unwrap());
        assert_eq!(left(), [false, true, false]);
        let waited = started.elapsed();
        assert!((UNUSED_FULL_MAX..UNUSED_FULL_MAX * 2).contains(&waited), "it has the time to ask: {waited:?}");
        drop(place(&permits, &mut newcomers).await.unwrap());
        assert_eq!(left(), [false, true, false], "as long as there is a place nobody has to go");
        let _taken = place(&permits, &mut newcomers).await.unwrap();
        drop(place(&permits, &mut newcomers).await.unwrap());
        assert_eq!(left(), [false, true, true]);
        let _taken = place(&permits, &mut newcomers).await.unwrap();
        let waiting = tokio::time::timeout(UNUSED_MAX * 2, place(&permits, &mut newcomers));
        assert!(waiting.await.is_err(), "who asked for something stays");
    }

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
    async fn nobody_stays_longer_than_a_certificate_lets_them_in() {
        let until = |end| ClientCertificate { sans: Vec::new(), not_after: Some(end) };
        let lasts = async |certificate: &ClientCertificate| {
            let started = Instant::now();
            expired(Some(certificate)).await;
            started.elapsed()
        };
        let hour = Duration::from_secs(3600);
        let lasted = lasts(&until(wall() + hour)).await;
        assert!(lasted <= hour + Duration::from_secs(1) && lasted > hour / 2, "{lasted:?}");
        assert!(lasts(&until(SystemTime::UNIX_EPOCH)).await <= Duration::from_millis(1));
        let unread = ClientCertificate { sans: Vec::new(), not_after: None };
        for certificate in [None, Some(&unread)] {
            tokio::time::timeout(hour * 24 * 365, expired(certificate)).await.unwrap_err();
        }
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
