//! Connections of the ports: taken in, limited, renewed, and closed so that nobody is cut off in mid-sentence.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use super::activity::Activity;
use super::listen::Listener;
use super::protocol::Protocol;
use super::room::{Place, Room};
use super::tls::{Accepted, Acceptor};
use super::turns::{self, InTurns};
use super::workers::Places;
use crate::budget::{Allowance, Budget};
use crate::clock::wall;
use crate::crowding::Crowding;
use crate::names::certificate::ClientCertificate;
use crate::xds::Connection;

/// The time that a connection may be open before it is used.
const UNUSED_MAX: Duration = Duration::from_secs(20);
/// The time that the calls of a connection may go on once it is time to go.
pub(super) const CLOSING_MAX: Duration = Duration::from_secs(3);
/// At the end each connection waits up to this long for every other one, so that not all come back at once.
const SPREAD_EACH: Duration = Duration::from_millis(1);
pub(super) const SPREAD_MAX: Duration = Duration::from_secs(1);
/// After a connection could not be taken in, most often because there are too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Limits {
    /// For one more, one of these [makes room](Room).
    pub(super) connections_max: usize,
    pub(super) crowding: Arc<Crowding>,
    /// The age at which a connection is renewed, so that Envoys spread over replicas again. It happens within a tenth
    /// of it before or after, or Envoys that came together would go together for ever (xDS rule 94).
    pub(super) age_max: Option<Duration>,
    /// What all of them hold of requests that have not come to their end.
    pub(super) budget: Arc<Budget>,
}

/// The bytes of a connection, in plain text or within TLS...
type Bytes = Either<TcpStream, Box<TlsStream<TcpStream>>>;
/// ...of which a protocol reads so many in a turn.
pub(super) type Io = InTurns<Bytes>;

/// The other end of a connection.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// What its certificate says of it, where it had to show one.
    pub(super) certificate: Option<Arc<ClientCertificate>>,
    pub(super) connection: Connection,
    pub(super) activity: Arc<Activity>,
    pub(super) allowance: Arc<Allowance>,
}

impl Peer {
    pub(super) fn new(address: SocketAddr, certificate: Option<Arc<ClientCertificate>>) -> Self {
        let (connection, activity, allowance) = Default::default();
        Self { address, certificate, connection, activity, allowance }
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
    let mut room = Room::new(limits.connections_max, limits.crowding);
    while let Some(taken) = shutdown.run_until_cancelled(take(&listener, &mut room)).await {
        match taken {
            Ok((stream, address, place)) => {
                let all = places.clone();
                let ending = ending(limits.age_max, move || spread(all.len()), shutdown.clone());
                let (protocol, tls, allowance) = (protocol.clone(), tls.clone(), limits.budget.allowance());
                places.spawn(async move {
                    // It belongs to the runtime that it is served on.
                    let Ok(stream) = TcpStream::from_std(stream) else { return };
                    let secured = tokio::select! {
                        secured = secure(stream, address, tls) => secured,
                        () = place.wanted() => None,
                    };
                    if let Some((bytes, certificate)) = secured {
                        let activity = Arc::clone(place.activity());
                        let peer = Peer { activity, allowance, ..Peer::new(address, certificate) };
                        talk(bytes, peer, protocol, ending, &place).await;
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
    room: &mut Room,
) -> std::io::Result<(std::net::TcpStream, SocketAddr, Place)> {
    let (stream, address) = listener.accept().await?;
    let place = room.take().await.map_err(std::io::Error::other)?;
    // Otherwise an answer waits for the acknowledgement of the one before, up to 40 ms: longer than Envoy does.
    stream.set_nodelay(true)?;
    Ok((stream.into_std()?, address, place))
}

async fn secure(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<Acceptor>,
) -> Option<(Bytes, Option<Arc<ClientCertificate>>)> {
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

async fn talk(bytes: Bytes, peer: Peer, protocol: impl Protocol, ending: impl Future<Output = ()>, place: &Place) {
    let mut speaking = turns::take(bytes, &peer.activity, |io| protocol.speak(io, peer.clone()));
    let unused = async {
        sleep(UNUSED_MAX).await;
        if !peer.activity.is_new() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = &mut speaking => return note(ended),
        () = peer.connection.stuck.cancelled() => return tracing::warn!("an Envoy did not read what it was sent; its connection is closed"),
        () = unused => return,
        () = place.wanted() => return,
        () = ending => {}
        () = expired(peer.certificate.as_deref()) => {}
    }
    peer.connection.closing.cancel();
    speaking.graceful_shutdown();
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
