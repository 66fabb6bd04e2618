//! One connection to one member of etcd. What is asked over it stands in `listing`, `events` and `keys`; every question
//! has a deadline.

use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, GetOptions, Identity, TlsOptions};
use tokio::time::timeout;

use super::failure::Failure;
use super::{EtcdSettings, Tls};

use crate::{regular_file, shown};

/// The deadline of a question that etcd answers from memory.
pub(super) const ANSWER: Duration = Duration::from_secs(1);
/// The largest answer: a page of a listing with the largest values, 1.5 MiB each (etcd's own limit).
pub(super) const ANSWER_BYTES_MAX: usize = 1000 * 1536 * 1024;
/// etcd refuses pings that come more often than every 5 s ("too_many_pings").
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct Connection {
    pub(super) client: Client,
    pub endpoint: String,
}

/// The state of the store as a whole, which every answer tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub cluster: u64,
    pub revision: u64,
}

impl Connection {
    pub async fn open(settings: &EtcdSettings, endpoint: &str) -> Result<Self, Failure> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(ANSWER)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(user) = &settings.user {
            options = options.with_user(&user.name, user.password()?);
        }
        if let Some(tls) = &settings.tls {
            options = options.with_tls(tls_options(tls)?);
        }
        let client = within(ANSWER, Client::connect([endpoint], Some(options))).await?;
        Ok(Self { client, endpoint: endpoint.to_owned() })
    }

    /// The member's version, like `3.4.23`.
    pub async fn version(&self) -> Result<String, Failure> {
        let mut maintenance = self.client.maintenance_client();
        Ok(within(ANSWER, maintenance.status()).await?.version().to_owned())
    }

    /// Asks whether etcd is there: a linearizable read, so not from a member that is cut off from the others.
    pub async fn probe(&self, key: &str) -> Result<Seen, Failure> {
        let mut kv = self.client.kv_client();
        let answer = within(ANSWER, kv.get(key, Some(GetOptions::new().with_keys_only()))).await?;
        seen(answer.header())
    }
}

pub(super) async fn within<T>(
    deadline: Duration,
    question: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, Failure> {
    match timeout(deadline, question).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::Unanswered(format!("no answer within {deadline:?}"))),
    }
}

pub(super) fn seen(header: Option<&etcd_client::ResponseHeader>) -> Result<Seen, Failure> {
    let header = header.ok_or_else(|| Failure::nonsense("a header"))?;
    Ok(Seen { cluster: header.cluster_id(), revision: unsigned(header.revision()) })
}

/// etcd counts revisions from 1 in signed numbers.
pub(super) fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

/// The end of the range of keys that begin with the prefix: its last byte, which is ASCII, one higher.
pub(super) fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// Read anew for each connection, so that files that were renewed are taken.
fn tls_options(tls: &Tls) -> Result<TlsOptions, Failure> {
    let read = |path: &std::path::Path| {
        regular_file::read(path).map_err(|error| Failure::Refused(format!("{}: {error}", shown::path(path))))
    };
    let mut options = TlsOptions::new();
    if let Some(ca) = &tls.ca {
        options = options.ca_certificate(Certificate::from_pem(read(ca)?));
    }
    if let Some((certificate, key)) = &tls.identity {
        options = options.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(options)
}
