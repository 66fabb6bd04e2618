//! TLS of the ports: one certificate for all of them, taken anew when its files change.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::series::CERTIFICATES;
use crate::certificates::{Certificates, Holds};
use crate::clock::wall;
use crate::config::TlsFiles;
use crate::metrics::{Metrics, ReloadLabels};
use crate::names::certificate::ClientCertificate;
use crate::pem::{PemFile, Unusable};
use crate::trouble::Trouble;
use crate::{shown, x509};

/// Between two looks at the files. They are small, and unlike a watch a look works on every file system.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// The time that a handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(3);
/// Between two lines of the log about clients that there is no TLS with: whoever knocks must not fill it.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The certificate that is shown now.
pub(super) struct Tls {
    files: TlsFiles,
    serving: ArcSwap<Serving>,
    told: Told,
    /// The moment at which the log was last told of a client.
    logged: Mutex<Option<Instant>>,
}

/// Whom it tells how it is.
pub(super) struct Told {
    pub(super) metrics: Arc<Metrics>,
    pub(super) certificates: Arc<Certificates>,
    /// Why the newest version of the files is not in use.
    pub(super) trouble: Trouble,
}

struct Serving {
    content: Content,
    grpc: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
}

#[derive(PartialEq, Eq)]
struct Content {
    certificate: PemFile,
    key: PemFile,
    client_ca: Option<PemFile>,
}

/// The protocol within TLS (RFC 7301, ALPN).
#[derive(Clone, Copy, Debug)]
pub(super) enum Within {
    Grpc,
    Http,
}

/// Takes clients through their handshakes, each with the certificate of the moment.
#[derive(Clone)]
pub(super) struct Acceptor {
    tls: Arc<Tls>,
    within: Within,
}

/// A client whose handshake is done.
pub(super) struct Accepted {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) certificate: Option<Arc<ClientCertificate>>,
}

impl Tls {
    pub(super) fn load(files: &TlsFiles, told: Told) -> Result<Arc<Self>, Unusable> {
        let serving = Serving::new(Content::read(files)?)?;
        serving.content.note(&told.certificates);
        let serving = ArcSwap::from_pointee(serving);
        Ok(Arc::new(Self { files: files.clone(), serving, told, logged: Mutex::default() }))
    }

    pub(super) fn acceptor(self: &Arc<Self>, within: Within) -> Acceptor {
        Acceptor { tls: Arc::clone(self), within }
    }

    /// Looks at the files again and again. What cannot be used changes nothing, and is told of once.
    pub(super) async fn follow(self: Arc<Self>, shutdown: CancellationToken) -> Result<(), String> {
        let Told { metrics, trouble, .. } = &self.told;
        let count = |result| metrics.tls_reloads.get_or_create(&ReloadLabels { result }).inc();
        let [ok, refused] = CERTIFICATES;
        while shutdown.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_some() {
            let tls = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || tls.look()).await.map_err(|error| error.to_string())?;
            let is_other_trouble = trouble.set(looked.as_ref().err().map(ToString::to_string));
            match looked {
                Ok(true) => {
                    count(ok);
                    tracing::info!("--tls-cert {}: changed, and served", shown::path(&self.files.certificate));
                }
                Err(unusable) if is_other_trouble => {
                    count(refused);
                    tracing::error!("{unusable}; the certificate of before is served on");
                }
                Ok(false) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn tell(&self, client: SocketAddr, what: &str, error: &str) {
        let (now, mut logged) = (Instant::now(), self.logged.lock());
        if logged.is_none_or(|logged| now - logged >= LOG_INTERVAL) {
            *logged = Some(now);
            tracing::warn!(%client, error, "{what}");
        }
    }

    /// Looks at the files again. True where there was something new.
    fn look(&self) -> Result<bool, Unusable> {
        let content = Content::read(&self.files)?;
        let before = self.serving.load();
        if content == before.content {
            return Ok(false);
        }
        content.check_end(&before.content, wall())?;
        let serving = Serving::new(content)?;
        serving.content.note(&self.told.certificates);
        self.serving.store(Arc::new(serving));
        Ok(true)
    }
}

impl Content {
    fn read(files: &TlsFiles) -> Result<Self, Unusable> {
        let client_ca = files.client_ca.as_deref();
        Ok(Self {
            certificate: PemFile::read("--tls-cert", &files.certificate)?,
            key: PemFile::read("--tls-key", &files.key)?,
            client_ca: client_ca.map(|path| PemFile::read("--tls-client-ca", path)).transpose()?,
        })
    }
}

impl Serving {
    fn new(content: Content) -> Result<Self, Unusable> {
        let grpc = content.config(&["h2"])?;
        let http = content.config(&["h2", "http/1.1"])?;
        Ok(Self { content, grpc, http })
    }
}

impl Content {
    fn config(&self, protocols: &[&str]) -> Result<Arc<ServerConfig>, Unusable> {
        let (chain, key, verifier) = (self.certificate.certificates()?, self.key.private_key()?, self.verifier()?);
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_client_cert_verifier(verifier).with_single_cert(chain, key))
            .map_err(|error| self.certificate.unusable(format_args!("cannot be used with the key: {error}")))?;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// A certificate that has ended does not take the place of one that has not: whoever looks at it would be turned away.
    fn check_end(&self, before: &Self, now: SystemTime) -> Result<(), Unusable> {
        let ended = |content: &Self| Holds::Chain.end(&content.certificate, now).filter(|end| *end < now);
        match (ended(self), ended(before)) {
            (Some(end), None) => {
                let end = humantime::format_rfc3339_seconds(end);
                Err(self.certificate.unusable(format_args!("the certificate is not valid since {end}")))
            }
            _ => Ok(()),
        }
    }

    /// Tells until when it can be used.
    fn note(&self, certificates: &Certificates) {
        let now = wall();
        certificates.note(&self.certificate, Holds::Chain, now);
        if let Some(client_ca) = &self.client_ca {
            certificates.note(client_ca, Holds::Authorities, now);
        }
    }

    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, Unusable> {
        let Some(client_ca) = &self.client_ca else { return Ok(Arc::new(NoClientAuth)) };
        let authorities = Arc::new(client_ca.authorities()?);
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(authorities, provider).build();
        verifier.map(|verifier| verifier as Arc<dyn ClientCertVerifier>).map_err(|error| client_ca.unusable(error))
    }
}

impl Acceptor {
    /// The connection, and what the client's certificate says of it where it had to show one. `None` where it came to
    /// nothing.
    pub(super) async fn accept(&self, stream: TcpStream, client: SocketAddr) -> Option<Accepted> {
        let config = {
            let serving = self.tls.serving.load();
            Arc::clone(match self.within {
                Within::Grpc => &serving.grpc,
                Within::Http => &serving.http,
            })
        };
        let handshake = TlsAcceptor::from(config).accept(stream);
        let error = match tokio::time::timeout(HANDSHAKE_MAX, handshake).await {
            Ok(Ok(stream)) => {
                let certificate = self.certificate(&stream, client);
                return Some(Accepted { stream, certificate });
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no handshake within {HANDSHAKE_MAX:?}"),
        };
        self.tls.told.metrics.tls_handshake_failures.inc();
        self.tls.tell(client, "no TLS with this client", &error);
        None
    }

    /// What the certificate says that rustls has verified. One that cannot be read is a certificate still, but nobody's.
    fn certificate(&self, stream: &TlsStream<TcpStream>, client: SocketAddr) -> Option<Arc<ClientCertificate>> {
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates()?.first()?;
        let read = x509::client_certificate(certificate).unwrap_or_else(|error| {
            self.tls.tell(client, "this client's certificate cannot be read", &error.to_string());
            ClientCertificate { sans: Vec::new(), not_after: None }
        });
        Some(Arc::new(read))
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ClientConfig, RootCertStore};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::made_certificates::{Authority, Certificate, in_days};
    use crate::names::certificate::San;

    /// Two certificates that signed themselves, put where they are looked for one after the other.
    struct World {
        folder: tempfile::TempDir,
        metrics: Arc<Metrics>,
        trouble: Trouble,
    }

    fn of_tests(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
    }

    impl World {
        fn new() -> Self {
            let world =
                Self { folder: tempfile::tempdir().unwrap(), metrics: Arc::default(), trouble: Trouble::default() };
            world.put("tls.crt", &std::fs::read(of_tests("first.crt")).unwrap());
            world.put("tls.key", &std::fs::read(of_tests("first.key")).unwrap());
            world
        }

        /// One whose certificate is signed by `authority.crt`.
        fn signed() -> Self {
            let world = Self::new();
            world.put_other("tls.crt", "server.crt");
            world.put_other("tls.key", "server.key");
            world
        }

        fn put(&self, name: &str, content: &[u8]) {
            std::fs::write(self.path(name), content).unwrap();
        }

        fn put_other(&self, name: &str, other: &str) {
            self.put(name, &std::fs::read(of_tests(other)).unwrap());
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn load(&self, client_ca: Option<PathBuf>) -> Result<Arc<Tls>, Unusable> {
            let files = TlsFiles { certificate: self.path("tls.crt"), key: self.path("tls.key"), client_ca };
            let metrics = Arc::clone(&self.metrics);
            let told = Told { metrics, certificates: Arc::default(), trouble: self.trouble.clone() };
            Tls::load(&files, told)
        }

        fn reloads(&self) -> [u64; 2] {
            ["ok", "refused"].map(|result| self.metrics.tls_reloads.get_or_create(&ReloadLabels { result }).get())
        }
    }

    fn is_same(tls: &Tls, before: &Arc<ServerConfig>) -> bool {
        Arc::ptr_eq(&tls.serving.load().grpc, before)
    }

    #[test]
    fn a_changed_certificate_is_shown_and_one_that_cannot_be_used_is_not() {
        let world = World::new();
        let tls = world.load(None).unwrap();
        let first = Arc::clone(&tls.serving.load().grpc);
        assert!(!tls.look().unwrap() && is_same(&tls, &first), "nothing is new");
        // Between one file and the other they do not fit.
        world.put_other("tls.crt", "second.crt");
        let told = tls.look().unwrap_err().to_string();
        assert!(told.starts_with("--tls-cert ") && told.contains("tls.crt: cannot be used with the key: "), "{told}");
        assert!(is_same(&tls, &first));
        world.put_other("tls.key", "second.key");
        assert!(tls.look().unwrap() && !is_same(&tls, &first));
        let second = Arc::clone(&tls.serving.load().grpc);
        for (name, content, expected) in [
            ("tls.key", &b""[..], "tls.key: expected a PRIVATE KEY in PEM"),
            ("tls.crt", b"", "tls.crt: expected a CERTIFICATE in PEM"),
            ("tls.crt", b"-----BEGIN CERTIFICATE-----\n", "tls.crt: "),
        ] {
            world.put(name, content);
            let told = tls.look().unwrap_err().to_string();
            assert!(told.contains(expected), "{told}");
        }
        std::fs::remove_file(world.path("tls.key")).unwrap();
        assert!(tls.look().unwrap_err().to_string().starts_with("--tls-key "));
        assert!(is_same(&tls, &second));
        world.put_other("tls.crt", "second.crt");
        world.put_other("tls.key", "second.key");
        assert!(!tls.look().unwrap() && is_same(&tls, &second), "it is what is shown already");
    }

    #[test]
    fn what_is_wrong_from_the_start_is_an_error() {
        let world = World::new();
        assert!(world.load(Some(of_tests("authority.crt"))).is_ok());
        let told = |client_ca: &str| world.load(Some(client_ca.into())).map(drop).unwrap_err().to_string();
        assert!(told("/nonexistent/ca.crt").starts_with("--tls-client-ca /nonexistent/ca.crt: "));
        let key = of_tests("server.key").to_str().unwrap().to_owned();
        assert_eq!(told(&key), format!("--tls-client-ca {key}: expected a CERTIFICATE in PEM"));
        world.put_other("tls.key", "second.key");
        assert!(world.load(None).map(drop).unwrap_err().to_string().contains("cannot be used with the key"));
    }

    #[test]
    fn each_port_speaks_what_it_can() {
        let tls = World::new().load(None).unwrap();
        let serving = tls.serving.load();
        assert_eq!(serving.grpc.alpn_protocols, [b"h2"]);
        assert_eq!(serving.http.alpn_protocols, [&b"h2"[..], b"http/1.1"]);
    }

    /// What the server hears of a client that shows these PEM files.
    async fn accepted(acceptor: Acceptor, shown: Option<(&str, &str)>) -> Option<Accepted> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut authorities = RootCertStore::empty();
        authorities.add(CertificateDer::from_pem_file(of_tests("authority.crt")).unwrap()).unwrap();
        let builder = builder.with_root_certificates(authorities);
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, address) = listener.accept().await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let connecting = connector.connect("127.0.0.1".try_into().unwrap(), client);
        tokio::join!(acceptor.accept(server, address), connecting).0
    }

    #[test]
    fn a_certificate_that_has_ended_takes_the_place_of_none_that_has_not() {
        let (world, authority) = (World::new(), Authority::new());
        let long_ago = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000 + days * 24 * 3600);
        let put = |end: SystemTime| {
            let issued = authority.issue(&["tierflow.internal"], end);
            world.put("tls.crt", issued.certificate.as_bytes());
            world.put("tls.key", issued.key.as_bytes());
        };
        put(long_ago(1));
        let tls = world.load(None).unwrap();
        put(long_ago(0));
        assert!(tls.look().unwrap(), "there is none that is better");
        put(in_days(3));
        assert!(tls.look().unwrap());
        let valid = Arc::clone(&tls.serving.load().grpc);
        put(long_ago(2));
        let told = tls.look().unwrap_err().to_string();
        assert!(told.contains("tls.crt: the certificate is not valid since 20"), "{told}");
        assert!(is_same(&tls, &valid));
    }

    #[tokio::test]
    async fn what_a_certificate_says_of_a_client_is_known_once_it_is_verified() {
        let world = World::signed();
        let (authority, stranger) = (Authority::new(), Authority::new());
        world.put("ca.crt", authority.pem().as_bytes());
        let tls = world.load(Some(world.path("ca.crt"))).unwrap();
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(4_102_444_800);
        let shown = authority.issue(&["spiffe://shop/edge", "edge.shop"], end);
        let accepted = async |shown: &Certificate| {
            accepted(tls.acceptor(Within::Grpc), Some((&shown.certificate, &shown.key))).await
        };
        let certificate = accepted(&shown).await.unwrap().certificate.unwrap();
        let sans = ["spiffe://shop/edge", "edge.shop"].map(|name| San::parse(name).unwrap());
        assert_eq!(*certificate, ClientCertificate { sans: sans.to_vec(), not_after: Some(end) });
        let forged = stranger.issue(&["spiffe://shop/edge"], end);
        assert!(accepted(&forged).await.is_none());
        let expired = authority.issue(&["spiffe://shop/edge"], SystemTime::UNIX_EPOCH + Duration::from_secs(1));
        assert!(accepted(&expired).await.is_none());
    }

    #[tokio::test]
    async fn where_no_certificate_is_asked_for_none_is_known() {
        let world = World::signed();
        let tls = world.load(None).unwrap();
        let shown = Authority::new().issue(&["spiffe://shop/edge"], in_days(1));
        let shown = Some((&*shown.certificate, &*shown.key));
        for shown in [None, shown] {
            let accepted = accepted(tls.acceptor(Within::Grpc), shown).await.unwrap();
            assert_eq!(accepted.certificate, None);
        }
    }

    /// Time stands still but for what is waited for.
    #[tokio::test(start_paused = true)]
    async fn each_change_and_each_new_trouble_is_counted_once() {
        let world = World::new();
        let tls = world.load(None).unwrap();
        let shutdown = CancellationToken::new();
        let following = tokio::spawn(Arc::clone(&tls).follow(shutdown.clone()));
        let counted = async |expected: [u64; 2]| {
            let looks = async {
                while world.reloads() != expected {
                    tokio::time::sleep(LOOK_INTERVAL).await;
                }
                // It is not counted again.
                tokio::time::sleep(LOOK_INTERVAL * 3).await;
            };
            tokio::time::timeout(LOOK_INTERVAL * 1000, looks).await.unwrap_or_else(|_| panic!("{:?}", world.reloads()));
            assert_eq!(world.reloads(), expected);
        };
        world.put("tls.crt", b"");
        counted([0, 1]).await;
        world.put_other("tls.crt", "second.crt");
        counted([0, 2]).await;
        let why = world.trouble.get().unwrap();
        assert!(why.starts_with("--tls-cert ") && why.contains("cannot be used with the key"), "{why}");
        world.put_other("tls.key", "second.key");
        counted([1, 2]).await;
        assert_eq!(world.trouble.get(), None);
        world.put("tls.crt", b"");
        counted([1, 3]).await;
        shutdown.cancel();
        following.await.unwrap().unwrap();
    }
}
