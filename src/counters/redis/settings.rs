//! How the store is reached.

use std::path::PathBuf;
use std::time::Duration;

use redis::{Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, TlsCertificates};

use super::Failure;

#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// `redis://HOST:PORT/DB` or `rediss://` for TLS. It has no password in it.
    pub url: String,
    pub user: Option<RedisUser>,
    pub tls: RedisTls,
    /// The first part of all keys.
    pub prefix: String,
    /// 1 or more.
    pub connections: u8,
    /// The time that a question may take.
    pub deadline: Duration,
}

#[derive(Clone, Debug)]
pub struct RedisUser {
    /// `None`: the default user.
    pub name: Option<String>,
    /// Read anew for each connection.
    pub password_file: PathBuf,
}

/// PEM files, read anew for each connection.
#[derive(Clone, Debug, Default)]
pub struct RedisTls {
    /// The authority of the store's certificate. `None`: the machine's own list.
    pub ca: Option<PathBuf>,
    /// A certificate to show, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl RedisSettings {
    pub const CONNECTIONS: u8 = 4;
    pub const DEADLINE: Duration = Duration::from_millis(5);
    pub const PREFIX: &'static str = "tierflow:";

    /// A client with the password and the certificates as they are now.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let mut info = self.connection_info().map_err(Failure::Refused)?;
        if let Some(user) = &self.user {
            let password = read(&user.password_file)?;
            let password = String::from_utf8_lossy(&password);
            let mut settings = info.redis_settings().clone().set_password(password.trim_end_matches(['\r', '\n']));
            if let Some(name) = &user.name {
                settings = settings.set_username(name);
            }
            info = info.set_redis_settings(settings);
        }
        let client = match info.addr() {
            ConnectionAddr::TcpTls { .. } => Client::build_with_tls(info, self.certificates()?),
            _ => Client::open(info),
        };
        client.map_err(Failure::Refused)
    }

    /// Says what is wrong with the URL, or with a file from the start.
    pub fn check(&self) -> Result<(), String> {
        // The URL is in no message: it may have a password in it.
        let expected = || "expected memory, redis://HOST:PORT or rediss://HOST:PORT".to_owned();
        let info = self.connection_info().map_err(|_| expected())?;
        if self.url.contains(['?', '#']) {
            return Err("it has parameters, and there are none; flags say what else there is to say".to_owned());
        }
        let settings = info.redis_settings();
        if settings.password().is_some() || settings.username().is_some() {
            return Err(
                "it names a user, whom every list of processes would show; use --counters-password-file".to_owned()
            );
        }
        if !matches!(info.addr(), ConnectionAddr::Tcp(..) | ConnectionAddr::TcpTls { .. }) {
            return Err(expected());
        }
        let has_certificates = self.tls.ca.is_some() || self.tls.identity.is_some();
        if has_certificates && !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            return Err("--counters-ca and --counters-cert need rediss://".to_owned());
        }
        self.client().map(drop).map_err(|failure| failure.to_string())
    }

    fn connection_info(&self) -> Result<ConnectionInfo, redis::RedisError> {
        self.url.as_str().into_connection_info()
    }

    fn certificates(&self) -> Result<TlsCertificates, Failure> {
        let client_tls = match &self.tls.identity {
            Some((certificate, key)) => {
                Some(ClientTlsConfig { client_cert: read(certificate)?, client_key: read(key)? })
            }
            None => None,
        };
        let root_cert = self.tls.ca.as_ref().map(read).transpose()?;
        Ok(TlsCertificates { client_tls, root_cert })
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::File(format!("{}: {error}", path.display())))
}
