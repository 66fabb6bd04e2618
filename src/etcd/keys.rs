//! Single keys: read together, committed together, and held under leases.

use std::time::Duration;

use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse};

use super::connection::{ANSWER, ANSWER_BYTES_MAX, Connection, Seen, seen, unsigned, within};
use super::failure::Failure;
use super::listing::Entry;

/// The deadline of a transaction, which has to be written to disk.
const WRITE: Duration = Duration::from_secs(2);

/// A key under a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leased {
    pub value: Vec<u8>,
    /// 0: under none.
    pub lease: i64,
    pub create_revision: i64,
}

/// A transaction: comparisons, and the operations that are done together if all of them hold.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// Keys, and when each has to have been changed last; 0: it must not be there.
    pub unchanged: Vec<(String, u64)>,
    /// A key that has to be there since this revision, where there is one.
    pub fence: Option<(String, i64)>,
    /// The prefix of keys of which none may be under a lease.
    pub unleased: Option<String>,
    /// Keys that are taken off their leases and stay as they are. They have to be there: compare them too.
    pub detached: Vec<String>,
    /// Keys, values and leases; 0: none.
    pub puts: Vec<(String, Vec<u8>, i64)>,
    pub deletes: Vec<String>,
    /// The prefix of keys of which none may have changed after a revision.
    pub none_after: Option<(String, u64)>,
    /// The prefix of keys that are all deleted.
    pub delete_all: Option<String>,
}

impl Connection {
    /// Reads some keys, all at one revision, in their order.
    pub async fn read(&self, keys: &[String]) -> Result<(Seen, Vec<Option<Entry>>), Failure> {
        self.get_all(keys, &GetOptions::new()).await
    }

    /// Reads some keys as they were at a revision, in their order.
    pub async fn read_at(&self, keys: &[String], revision: u64) -> Result<Vec<Option<Entry>>, Failure> {
        Ok(self.get_all(keys, &at(revision)).await?.1)
    }

    /// Reads when some keys were changed last at a revision, in their order, and leaves their values out.
    pub async fn read_keys_at(&self, keys: &[String], revision: u64) -> Result<Vec<Option<Entry>>, Failure> {
        Ok(self.get_all(keys, &at(revision).with_keys_only()).await?.1)
    }

    async fn get_all(&self, keys: &[String], options: &GetOptions) -> Result<(Seen, Vec<Option<Entry>>), Failure> {
        // Without a condition: a user would need the right to read what is compared.
        let gets: Vec<_> = keys.iter().map(|key| TxnOp::get(key.as_str(), Some(options.clone()))).collect();
        let mut kv = self.client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
        let answer = within(WRITE, kv.txn(Txn::new().and_then(gets))).await?;
        let entry = |kv: &KeyValue| Entry {
            key: kv.key().to_vec(),
            value: kv.value().to_vec(),
            revision: unsigned(kv.mod_revision()),
            create_revision: unsigned(kv.create_revision()),
            version: unsigned(kv.version()),
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

    /// The revision of the commit; `None` if something is other than it has to be.
    pub async fn commit(&self, commit: &Commit) -> Result<Option<u64>, Failure> {
        let unchanged = commit.unchanged.iter().map(|(key, revision)| {
            Compare::mod_revision(key.as_str(), CompareOp::Equal, i64::try_from(*revision).unwrap_or(i64::MAX))
        });
        let fence = commit.fence.iter().map(|(key, at)| Compare::create_revision(key.as_str(), CompareOp::Equal, *at));
        let unleased = commit.unleased.iter();
        let unleased = unleased.map(|prefix| Compare::lease(prefix.as_str(), CompareOp::Equal, 0).with_prefix());
        let detached = commit.detached.iter();
        let detached =
            detached.map(|key| TxnOp::put(key.as_str(), [], Some(PutOptions::new().with_lease(0).with_ignore_value())));
        let puts = commit.puts.iter().map(|(key, value, lease)| {
            TxnOp::put(key.as_str(), value.clone(), Some(PutOptions::new().with_lease(*lease)))
        });
        let deletes = commit.deletes.iter().map(|key| TxnOp::delete(key.as_str(), None));
        let none_after = commit.none_after.iter().map(|(prefix, revision)| {
            let next = i64::try_from(*revision).unwrap_or(i64::MAX).saturating_add(1);
            Compare::mod_revision(prefix.as_str(), CompareOp::Less, next).with_prefix()
        });
        let all = |prefix: &String| TxnOp::delete(prefix.as_str(), Some(DeleteOptions::new().with_prefix()));
        let delete_all = commit.delete_all.iter().map(all);
        let txn = Txn::new()
            .when(unchanged.chain(fence).chain(none_after).chain(unleased).collect::<Vec<_>>())
            .and_then(detached.chain(puts).chain(deletes).chain(delete_all).collect::<Vec<_>>());
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

fn at(revision: u64) -> GetOptions {
    GetOptions::new().with_revision(i64::try_from(revision).unwrap_or(i64::MAX))
}

fn leased(kv: &KeyValue) -> Leased {
    Leased { value: kv.value().to_vec(), lease: kv.lease(), create_revision: kv.create_revision() }
}
