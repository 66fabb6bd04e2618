//! TLS of the ports: one certificate for all of them, taken anew when its files change.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

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

use crate::config::TlsFiles;
use crate::metrics::{Metrics, ReloadLabels};
use crate::pem::{PemFile, Unusable};
use crate::shown;

/// Between two looks at the files. They are small, and unlike a watch a look works on every file system.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// The time that a handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(3);
/// Between two lines of the log about clients that there is no TLS with: whoever knocks must not fill it.
const TOLD_INTERVAL: Duration = Duration::from_secs(10);

/// The certificate that is shown now.
pub(super) struct Tls {
    files: TlsFiles,
    serving: ArcSwap<Serving>,
    metrics: Arc<Metrics>,
    /// The moment at which the log was last told of a client.
    told: Mutex<Option<Instant>>,
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

impl Tls {
    pub(super) fn load(files: &TlsFiles, metrics: Arc<Metrics>) -> Result<Arc<Self>, Unusable> {
        let serving = ArcSwap::from_pointee(Serving::new(Content::read(files)?)?);
        Ok(Arc::new(Self { files: files.clone(), serving, metrics, told: Mutex::default() }))
    }

    pub(super) fn acceptor(self: &Arc<Self>, within: Within) -> Acceptor {
        Acceptor { tls: Arc::clone(self), within }
    }

    /// Looks at the files again and again. What cannot be used changes nothing, and is told of once.
    pub(super) async fn follow(self: Arc<Self>, shutdown: CancellationToken) -> Result<(), String> {
        let count = |result| self.metrics.tls_reloads.get_or_create(&ReloadLabels { result }).inc();
        let mut told = None;
        while shutdown.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_some() {
            let tls = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || tls.look()).await.map_err(|error| error.to_string())?;
            match looked {
                Ok(true) => {
                    count("ok");
                    tracing::info!("--tls-cert {}: changed, and served", shown::path(&self.files.certificate));
                }
                Ok(false) => {}
                Err(ref unusable) if told.as_ref() == Some(&unusable.to_string()) => {}
                Err(ref unusable) => {
                    count("refused");
                    tracing::error!("{unusable}; the certificate of before is served on");
                }
            }
            told = looked.err().map(|unusable| unusable.to_string());
        }
        Ok(())
    }

    fn tell(&self, client: SocketAddr, error: &str) {
        let (now, mut told) = (Instant::now(), self.told.lock());
        if told.is_none_or(|told| now - told >= TOLD_INTERVAL) {
            *told = Some(now);
            tracing::warn!(%client, error, "no TLS with this client");
        }
    }

    /// Looks at the files again. True where there was something new.
    fn look(&self) -> Result<bool, Unusable> {
        let content = Content::read(&self.files)?;
        if content == self.serving.load().content {
            return Ok(false);
        }
        self.serving.store(Arc::new(Serving::new(content)?));
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

    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, Unusable> {
        let Some(client_ca) = &self.client_ca else { return Ok(Arc::new(NoClientAuth)) };
        let authorities = Arc::new(client_ca.authorities()?);
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(authorities, provider).build();
        verifier.map(|verifier| verifier as Arc<dyn ClientCertVerifier>).map_err(|error| client_ca.unusable(error))
    }
}

impl Acceptor {
    /// `None` where it came to nothing.
    pub(super) async fn accept(&self, stream: TcpStream, client: SocketAddr) -> Option<TlsStream<TcpStream>> {
        let config = {
            let serving = self.tls.serving.load();
            Arc::clone(match self.within {
                Within::Grpc => &serving.grpc,
                Within::Http => &serving.http,
            })
        };
        let handshake = TlsAcceptor::from(config).accept(stream);
        let error = match tokio::time::timeout(HANDSHAKE_MAX, handshake).await {
            Ok(Ok(accepted)) => return Some(accepted),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no handshake within {HANDSHAKE_MAX:?}"),
        };
        self.tls.metrics.tls_handshake_failures.inc();
        self.tls.tell(client, &error);
        None
    }
}
