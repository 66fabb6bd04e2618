//! How the servers of the store are reached.

use std::path::{Path, PathBuf};
use std::time::Duration;

use redis::{Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, TlsCertificates};

use super::Failure;
use super::url::{RedisForm, RedisUrl, ServerAddress};

use crate::{regular_file, shown};

#[derive(Clone, Debug)]
pub struct RedisSettings {
    pub url: RedisUrl,
    pub user: Option<RedisUser>,
    /// The password of the Sentinels themselves, read anew for each connection. `None`: they have none.
    pub sentinel_password_file: Option<PathBuf>,
    pub tls: RedisTls,
    /// The first part of all keys.
    pub prefix: String,
    /// To each server. 1 or more.
    pub connections: u8,
    /// The time that a question may take.
    pub deadline: Duration,
    /// The most counters that this replica keeps in case that the store goes away.
    pub local_keys_max: usize,
    /// Replicas may take hits of counters that are asked for often in advance, and answer for them.
    pub leases: bool,
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

    /// A client of a server that keeps counters, with the password and the certificates as they are now.
    pub(super) fn client(&self, server: &ServerAddress) -> Result<Client, Failure> {
        let mut login = RedisConnectionInfo::default().set_db(self.url.database.into());
        if let Some(user) = &self.user {
            login = login.set_password(password(&user.password_file)?);
            if let Some(name) = &user.name {
                login = login.set_username(name);
            }
        }
        self.client_as(server, login)
    }

    /// A client of a Sentinel.
    pub(super) fn sentinel_client(&self, server: &ServerAddress) -> Result<Client, Failure> {
        let mut login = RedisConnectionInfo::default();
        if let Some(file) = &self.sentinel_password_file {
            login = login.set_password(password(file)?);
        }
        self.client_as(server, login)
    }

    fn client_as(&self, server: &ServerAddress, login: RedisConnectionInfo) -> Result<Client, Failure> {
        let (host, port) = (server.host.clone(), server.port);
        let address = match self.url.is_tls {
            true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            false => ConnectionAddr::Tcp(host, port),
        };
        let info = address.into_connection_info().map_err(Failure::Refused)?.set_redis_settings(login);
        let client =
            if self.url.is_tls { Client::build_with_tls(info, self.certificates()?) } else { Client::open(info) };
        client.map_err(Failure::Refused)
    }

    /// Says which flags do not fit together, or what is wrong with a file from the start.
    pub fn check(&self) -> Result<(), String> {
        let has_certificates = self.tls.ca.is_some() || self.tls.identity.is_some();
        if has_certificates && !self.url.is_tls {
            return Err("--counters-ca and --counters-cert need rediss://".to_owned());
        }
        let is_sentinel = matches!(self.url.form, RedisForm::Sentinel { .. });
        if self.sentinel_password_file.is_some() && !is_sentinel {
            return Err("--counters-sentinel-password-file needs redis+sentinel://".to_owned());
        }
        let opened = |client: Result<Client, Failure>| client.map(drop).map_err(|failure| failure.to_string());
        self.url.servers().iter().try_for_each(|server| {
            opened(self.client(server))?;
            if is_sentinel { opened(self.sentinel_client(server)) } else { Ok(()) }
        })
    }

    fn certificates(&self) -> Result<TlsCertificates, Failure> {
        let client_tls = match &self.tls.identity {
            Some((certificate, key)) => {
                Some(ClientTlsConfig { client_cert: read(certificate)?, client_key: read(key)? })
            }
            None => None,
        };
        let root_cert = self.tls.ca.as_deref().map(read).transpose()?;
        Ok(TlsCertificates { client_tls, root_cert })
    }
}

fn password(file: &Path) -> Result<String, Failure> {
    let password = read(file)?;
    Ok(String::from_utf8_lossy(&password).trim_end_matches(['\r', '\n']).to_owned())
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    regular_file::read(path).map_err(|error| Failure::File(format!("{}: {error}", shown::path(path))))
}
