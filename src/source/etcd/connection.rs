//! One connection to one member of etcd, and what is asked over it. Every question has a deadline.

use std::fmt;
use std::time::Duration;

use etcd_client::{
    Certificate, Client, ConnectOptions, GetOptions, Identity, KeyValue, TlsOptions, WatchOptions, WatchResponse,
    WatchStream,
};
use tokio::time::timeout;

use super::mirror::{Entry, Event, Listing};
use super::{EtcdSettings, Tls};

/// For a question that etcd answers from memory.
const ANSWER: Duration = Duration::from_secs(1);
/// For a page of a listing.
const PAGE: Duration = Duration::from_secs(5);
/// Keys of a page. Their values have at most 1.5 MiB each, etcd's own limit.
const PAGE_KEYS: i64 = 1000;
/// The largest answer: a page of the largest values.
const ANSWER_BYTES_MAX: usize = 1000 * 1536 * 1024;
/// etcd refuses pings that come more often than every 5 s ("too_many_pings").
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(super) struct Connection {
    client: Client,
    pub(super) endpoint: String,
}

/// What any answer tells of the store as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) cluster: u64,
    pub(super) revision: u64,
}

/// Why a question has no answer, in words for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure(pub(super) String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<etcd_client::Error> for Failure {
    fn from(error: etcd_client::Error) -> Self {
        use std::error::Error as _;
        let source = |status: &etcd_client::Error| match status {
            etcd_client::Error::GRpcStatus(status) => Some((status.message().to_owned(), status.source()?.to_string())),
            _ => None,
        };
        // What lies behind "transport error" is what an operator needs.
        Self(source(&error).map_or_else(|| error.to_string(), |(message, source)| format!("{message}: {source}")))
    }
}

impl Connection {
    pub(super) async fn open(settings: &EtcdSettings, endpoint: &str) -> Result<Self, Failure> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(ANSWER)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some((user, password)) = &settings.user {
            options = options.with_user(user, password);
        }
        if let Some(tls) = &settings.tls {
            options = options.with_tls(tls_options(tls)?);
        }
        let client = within(ANSWER, Client::connect([endpoint], Some(options))).await?;
        Ok(Self { client, endpoint: endpoint.to_owned() })
    }

    /// The member's version, like `3.4.23`.
    pub(super) async fn version(&self) -> Result<String, Failure> {
        let mut maintenance = self.client.maintenance_client();
        Ok(within(ANSWER, maintenance.status()).await?.version().to_owned())
    }

    /// Whether etcd answers now: a linearizable read, so not from a member that is cut off from the others.
    pub(super) async fn probe(&self, key: &str) -> Result<Seen, Failure> {
        let mut kv = self.client.kv_client();
        let answer = within(ANSWER, kv.get(key, Some(GetOptions::new().with_keys_only()))).await?;
        seen(answer.header())
    }

    /// Everything below the prefix at one revision.
    pub(super) async fn list(&self, prefix: &str) -> Result<(Seen, Vec<Entry>), Failure> {
        let mut entries = Vec::new();
        let seen = self.pages(prefix, GetOptions::new(), |kv| {
            let revision = unsigned(kv.mod_revision());
            let (key, value) = kv.into_key_value();
            entries.push(Entry { key, value, revision });
        });
        Ok((seen.await?, entries))
    }

    /// All keys below the prefix at one revision.
    pub(super) async fn list_keys(&self, prefix: &str) -> Result<(Seen, Listing), Failure> {
        let mut keys = Vec::new();
        let seen = self.pages(prefix, GetOptions::new().with_keys_only(), |kv| {
            let revision = unsigned(kv.mod_revision());
            keys.push((kv.into_key_value().0, revision));
        });
        let seen = seen.await?;
        Ok((seen, Listing { revision: seen.revision, keys }))
    }

    async fn pages(&self, prefix: &str, options: GetOptions, mut take: impl FnMut(KeyValue)) -> Result<Seen, Failure> {
        let mut kv = self.client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
        let options = options.with_range(end_of(prefix)).with_limit(PAGE_KEYS);
        let mut from = prefix.as_bytes().to_vec();
        let mut first: Option<Seen> = None;
        loop {
            // The first page says at which revision the others are read.
            let options = match first {
                Some(first) => options.clone().with_revision(i64::try_from(first.revision).unwrap_or(i64::MAX)),
                None => options.clone(),
            };
            let mut page = within(PAGE, kv.get(from.clone(), Some(options))).await?;
            let first = *first.get_or_insert(seen(page.header())?);
            let kvs = page.take_kvs();
            let last = kvs.last().map(|kv| kv.key().to_vec());
            kvs.into_iter().for_each(&mut take);
            match last {
                Some(last) if page.more() => from = [last, vec![0]].concat(),
                _ => return Ok(first),
            }
        }
    }

    /// What happens below the prefix from a revision on. The watch is known to stand when this returns.
    pub(super) async fn watch(&self, prefix: &str, from: u64) -> Result<Watch, Failure> {
        let mut client = self.client.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX);
        let from = i64::try_from(from).unwrap_or(i64::MAX);
        let options = WatchOptions::new().with_range(end_of(prefix)).with_start_revision(from);
        let mut stream = within(ANSWER, client.watch(prefix, Some(options))).await?;
        let first = within(ANSWER, stream.message()).await?.ok_or(Failure("the watch ended at once".to_owned()))?;
        Ok(Watch { stream, first: Some(first) })
    }
}

pub(super) struct Watch {
    stream: WatchStream,
    first: Option<WatchResponse>,
}

/// What a watch says.
pub(super) enum Told {
    Events(Vec<Event>),
    /// It will say nothing more.
    Cancelled {
        reason: String,
        /// The oldest revision that there is, where that is the reason.
        compacted: Option<u64>,
    },
}

impl Watch {
    /// Can be dropped while it waits.
    pub(super) async fn next(&mut self) -> Result<Told, Failure> {
        let response = match self.first.take() {
            Some(first) => first,
            None => self.stream.message().await?.ok_or(Failure("the watch ended".to_owned()))?,
        };
        if response.canceled() {
            let compacted = Some(unsigned(response.compact_revision())).filter(|revision| *revision > 0);
            return Ok(Told::Cancelled { reason: response.cancel_reason().to_owned(), compacted });
        }
        let event = |kv: &KeyValue| Event {
            key: kv.key().to_vec(),
            // A deletion has no version. The event's type would say the same, but for types that are not known yet.
            value: (kv.version() != 0).then(|| kv.value().to_vec()),
            revision: unsigned(kv.mod_revision()),
        };
        Ok(Told::Events(response.events().iter().filter_map(|e| e.kv()).map(event).collect()))
    }
}

async fn within<T>(
    deadline: Duration,
    question: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, Failure> {
    match timeout(deadline, question).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure(format!("no answer within {deadline:?}"))),
    }
}

fn seen(header: Option<&etcd_client::ResponseHeader>) -> Result<Seen, Failure> {
    let header = header.ok_or(Failure("an answer without a header".to_owned()))?;
    Ok(Seen { cluster: header.cluster_id(), revision: unsigned(header.revision()) })
}

/// etcd counts revisions from 1 in signed numbers.
fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

/// The end of the range of keys that begin with the prefix, which ends with a slash: `/` + 1 is `0`.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// Read anew for each connection, so that files that were renewed are taken.
fn tls_options(tls: &Tls) -> Result<TlsOptions, Failure> {
    let read =
        |path: &std::path::Path| std::fs::read(path).map_err(|error| Failure(format!("{}: {error}", path.display())));
    let mut options = TlsOptions::new();
    if let Some(ca) = &tls.ca {
        options = options.ca_certificate(Certificate::from_pem(read(ca)?));
    }
    if let Some((certificate, key)) = &tls.identity {
        options = options.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(options)
}
