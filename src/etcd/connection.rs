//! One connection to one member of etcd, and what is asked over it. Every question has a deadline.

use std::fmt;
use std::time::Duration;

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, GetOptions, Identity, KeyValue, PutOptions, TlsOptions,
    Txn, TxnOp, TxnOpResponse, WatchOptions, WatchResponse, WatchStream,
};
use tokio::time::timeout;
use tonic::Code;

use super::{EtcdSettings, Tls};

/// For a question that etcd answers from memory.
const ANSWER: Duration = Duration::from_secs(1);
/// For a transaction, which has to be written to disk.
const WRITE: Duration = Duration::from_secs(2);
/// A key that is never there.
const NEVER: &str = "\0";
/// For a page of a listing.
const PAGE: Duration = Duration::from_secs(5);
/// Keys of a page. Their values have at most 1.5 MiB each, etcd's own limit.
const PAGE_KEYS: i64 = 1000;
/// The largest answer: a page of the largest values.
const ANSWER_BYTES_MAX: usize = 1000 * 1536 * 1024;
/// etcd refuses pings that come more often than every 5 s ("too_many_pings").
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    /// When it was changed last.
    pub revision: u64,
}

/// What happened to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub key: Vec<u8>,
    /// `None`: deleted.
    pub value: Option<Vec<u8>>,
    pub revision: u64,
}

#[derive(Clone)]
pub struct Connection {
    client: Client,
    pub endpoint: String,
}

/// What any answer tells of the store as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub cluster: u64,
    pub revision: u64,
}

/// A key under a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leased {
    pub value: Vec<u8>,
    /// 0: under none.
    pub lease: i64,
    pub create_revision: i64,
}

/// Why there is no answer that helps, in words for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody knows whether what was asked for was done.
    Unanswered(String),
    /// etcd said no, or what it said means no.
    Refused(String),
}

impl Failure {
    /// For what was held, and is not any more.
    pub fn lost(why: &str) -> Self {
        Self::Refused(why.to_owned())
    }

    fn nonsense(what: &str) -> Self {
        Self::Refused(format!("an answer without {what}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unanswered(why) | Self::Refused(why) => f.write_str(why),
        }
    }
}

impl From<etcd_client::Error> for Failure {
    fn from(error: etcd_client::Error) -> Self {
        use std::error::Error as _;
        let etcd_client::Error::GRpcStatus(status) = &error else { return Self::Unanswered(error.to_string()) };
        // What lies behind "transport error" is what an operator needs.
        let source = status.source().map(|source| format!(": {source}")).unwrap_or_default();
        let why = format!("{}{source}", status.message());
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal => {
                Self::Unanswered(why)
            }
            _ => Self::Refused(why),
        }
    }
}

impl Connection {
    pub async fn open(settings: &EtcdSettings, endpoint: &str) -> Result<Self, Failure> {
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
    pub async fn version(&self) -> Result<String, Failure> {
        let mut maintenance = self.client.maintenance_client();
        Ok(within(ANSWER, maintenance.status()).await?.version().to_owned())
    }

    /// Whether etcd answers now: a linearizable read, so not from a member that is cut off from the others.
    pub async fn probe(&self, key: &str) -> Result<Seen, Failure> {
        let mut kv = self.client.kv_client();
        let answer = within(ANSWER, kv.get(key, Some(GetOptions::new().with_keys_only()))).await?;
        seen(answer.header())
    }

    /// Everything below the prefixes, all at one revision.
    pub async fn list(&self, prefixes: &[String]) -> Result<(Seen, Vec<Entry>), Failure> {
        let mut entries = Vec::new();
        let seen = self.pages(prefixes, GetOptions::new(), |kv| {
            let revision = unsigned(kv.mod_revision());
            let (key, value) = kv.into_key_value();
            entries.push(Entry { key, value, revision });
        });
        Ok((seen.await?, entries))
    }

    /// All keys below the prefixes and when each was changed last, all at one revision.
    pub async fn list_keys(&self, prefixes: &[String]) -> Result<(Seen, Vec<(Vec<u8>, u64)>), Failure> {
        let mut keys = Vec::new();
        let seen = self.pages(prefixes, GetOptions::new().with_keys_only(), |kv| {
            let revision = unsigned(kv.mod_revision());
            keys.push((kv.into_key_value().0, revision));
        });
        Ok((seen.await?, keys))
    }

    async fn pages(
        &self,
        prefixes: &[String],
        options: GetOptions,
        mut take: impl FnMut(KeyValue),
    ) -> Result<Seen, Failure> {
        let mut kv = self.client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
        let mut first: Option<Seen> = None;
        for prefix in prefixes {
            let mut from = Some(prefix.as_bytes().to_vec());
            while let Some(key) = from {
                let options = options.clone().with_range(end_of(prefix)).with_limit(PAGE_KEYS);
                // The first page says at which revision all others are read.
                let options = match first {
                    Some(first) => options.with_revision(i64::try_from(first.revision).unwrap_or(i64::MAX)),
                    None => options,
                };
                let mut page = within(PAGE, kv.get(key, Some(options))).await?;
                first.get_or_insert(seen(page.header())?);
                let kvs = page.take_kvs();
                from = kvs.last().filter(|_| page.more()).map(|last| [last.key(), &[0]].concat());
                kvs.into_iter().for_each(&mut take);
            }
        }
        first.ok_or(Failure::Refused("there is nothing to list".to_owned()))
    }

    /// What happens below the prefix from a revision on. The watch is known to stand when this returns.
    pub async fn watch(&self, prefix: &str, from: u64) -> Result<Watch, Failure> {
        let mut client = self.client.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX);
        let from = i64::try_from(from).unwrap_or(i64::MAX);
        let options = WatchOptions::new().with_range(end_of(prefix)).with_start_revision(from);
        let mut stream = within(ANSWER, client.watch(prefix, Some(options))).await?;
        let first = within(ANSWER, stream.message())
            .await?
            .ok_or_else(|| Failure::Unanswered("the watch ended at once".to_owned()))?;
        Ok(Watch { stream, first: Some(first) })
    }
}

/// What is done as a whole, if everything is as it has to be.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// Keys, and when each has to have been changed last; 0: it must not be there.
    pub unchanged: Vec<(String, u64)>,
    /// A key that has to be there since this revision, where there is one.
    pub fence: Option<(String, i64)>,
    /// Keys, values and leases; 0: none.
    pub puts: Vec<(String, Vec<u8>, i64)>,
    pub deletes: Vec<String>,
}

/// Changes of keys.
impl Connection {
    /// Some keys, all at one revision, in their order.
    pub async fn read(&self, keys: &[String]) -> Result<(Seen, Vec<Option<Entry>>), Failure> {
        // A condition that always holds.
        let always = [Compare::version(NEVER, CompareOp::Equal, 0)];
        let gets: Vec<_> = keys.iter().map(|key| TxnOp::get(key.as_str(), None)).collect();
        let mut kv = self.client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
        let answer = within(WRITE, kv.txn(Txn::new().when(always).and_then(gets))).await?;
        let entry = |kv: &KeyValue| Entry {
            key: kv.key().to_vec(),
            value: kv.value().to_vec(),
            revision: unsigned(kv.mod_revision()),
        };
        let entries: Vec<_> = answer
            .op_responses()
            .into_iter()
            .filter_map(|response| match response {
                TxnOpResponse::Get(get) => Some(get.kvs().first().map(entry)),
                _ => None,
            })
            .collect();
        let is_whole = entries.len() == keys.len();
        if is_whole { Ok((seen(answer.header())?, entries)) } else { Err(Failure::nonsense("all keys")) }
    }

    pub async fn existed_at(&self, key: &str, revision: u64) -> Result<bool, Failure> {
        let revision = i64::try_from(revision).unwrap_or(i64::MAX);
        let options = GetOptions::new().with_revision(revision).with_keys_only();
        Ok(!within(ANSWER, self.client.kv_client().get(key, Some(options))).await?.kvs().is_empty())
    }

    /// The revision of the commit; `None` if something is other than it has to be.
    pub async fn commit(&self, commit: &Commit) -> Result<Option<u64>, Failure> {
        let unchanged = commit.unchanged.iter().map(|(key, revision)| {
            Compare::mod_revision(key.as_str(), CompareOp::Equal, i64::try_from(*revision).unwrap_or(i64::MAX))
        });
        let fence = commit.fence.iter().map(|(key, at)| Compare::create_revision(key.as_str(), CompareOp::Equal, *at));
        let puts = commit.puts.iter().map(|(key, value, lease)| {
            TxnOp::put(key.as_str(), value.clone(), Some(PutOptions::new().with_lease(*lease)))
        });
        let deletes = commit.deletes.iter().map(|key| TxnOp::delete(key.as_str(), None));
        let txn = Txn::new()
            .when(unchanged.chain(fence).collect::<Vec<_>>())
            .and_then(puts.chain(deletes).collect::<Vec<_>>());
        let answer = within(WRITE, self.client.kv_client().txn(txn)).await?;
        let revision = seen(answer.header())?.revision;
        Ok(answer.succeeded().then_some(revision))
    }
}

/// Keys under leases.
impl Connection {
    /// A new lease.
    pub async fn grant(&self, ttl: Duration) -> Result<i64, Failure> {
        let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).max(1);
        let mut leases = self.client.lease_client();
        Ok(within(ANSWER, leases.grant(ttl, None)).await?.id())
    }

    /// False if there is no such lease any more.
    pub async fn keep_alive(&self, lease: i64) -> Result<bool, Failure> {
        let mut leases = self.client.lease_client();
        let (mut keeper, mut answers) = within(ANSWER, leases.keep_alive(lease)).await?;
        within(ANSWER, keeper.keep_alive()).await?;
        let answer = within(ANSWER, answers.message()).await?;
        Ok(answer.ok_or_else(|| Failure::Unanswered("the stream of leases ended".to_owned()))?.ttl() > 0)
    }

    /// With all keys that are under it.
    pub async fn revoke(&self, lease: i64) -> Result<(), Failure> {
        let mut leases = self.client.lease_client();
        within(ANSWER, leases.revoke(lease)).await.map(drop)
    }

    pub async fn leased(&self, key: &str) -> Result<Option<Leased>, Failure> {
        let mut kv = self.client.kv_client();
        Ok(within(ANSWER, kv.get(key, None)).await?.kvs().first().map(leased))
    }

    /// Puts a key that is not there. Gives what is there otherwise.
    pub async fn create_leased(&self, key: &str, value: &str, lease: i64) -> Result<Option<Leased>, Failure> {
        let is_absent = Compare::create_revision(key, CompareOp::Equal, 0);
        let put = TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)));
        let txn = Txn::new().when([is_absent]).and_then([put]).or_else([TxnOp::get(key, None)]);
        let answer = within(ANSWER, self.client.kv_client().txn(txn)).await?;
        if answer.succeeded() {
            return Ok(None);
        }
        let there = answer.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(get) => get.kvs().first().map(leased),
            _ => None,
        });
        there.map(Some).ok_or_else(|| Failure::nonsense("the key that is there"))
    }

    /// Puts a key that is under this lease and was created at this revision. False if it is another one, or none.
    pub async fn put_leased(
        &self,
        key: &str,
        value: &str,
        (lease, create_revision): (i64, i64),
        new_lease: i64,
    ) -> Result<bool, Failure> {
        let is_same = [
            Compare::create_revision(key, CompareOp::Equal, create_revision),
            Compare::lease(key, CompareOp::Equal, lease),
        ];
        let put = TxnOp::put(key, value, Some(PutOptions::new().with_lease(new_lease)));
        let txn = Txn::new().when(is_same).and_then([put]);
        Ok(within(ANSWER, self.client.kv_client().txn(txn)).await?.succeeded())
    }
}

fn leased(kv: &KeyValue) -> Leased {
    Leased { value: kv.value().to_vec(), lease: kv.lease(), create_revision: kv.create_revision() }
}

pub struct Watch {
    stream: WatchStream,
    first: Option<WatchResponse>,
}

/// What a watch says.
pub enum Told {
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
    pub async fn next(&mut self) -> Result<Told, Failure> {
        let response = match self.first.take() {
            Some(first) => first,
            None => self.stream.message().await?.ok_or_else(|| Failure::Unanswered("the watch ended".to_owned()))?,
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
        Err(_) => Err(Failure::Unanswered(format!("no answer within {deadline:?}"))),
    }
}

fn seen(header: Option<&etcd_client::ResponseHeader>) -> Result<Seen, Failure> {
    let header = header.ok_or_else(|| Failure::nonsense("a header"))?;
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
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|error| Failure::Refused(format!("{}: {error}", path.display())))
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
