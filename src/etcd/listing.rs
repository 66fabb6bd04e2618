//! Listings: everything below some prefixes, at one revision.

use std::time::Duration;

use etcd_client::{GetOptions, KeyValue};

use super::connection::{ANSWER_BYTES_MAX, Connection, Seen, end_of, seen, unsigned, within};
use super::failure::Failure;

/// The deadline of a page of a listing.
const PAGE: Duration = Duration::from_secs(5);
const PAGE_KEYS: i64 = 1000;

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    /// The revision that it was changed at last.
    pub revision: u64,
    pub create_revision: u64,
    /// The number of changes since it was created, counted from 1.
    pub version: u64,
}

impl Connection {
    /// Lists the keys below the prefixes with their values, all at one revision.
    pub async fn list(&self, prefixes: &[String]) -> Result<(Seen, Vec<Entry>), Failure> {
        let mut entries = Vec::new();
        let seen = self.pages(prefixes, GetOptions::new(), |kv| {
            let (revision, create_revision) = (unsigned(kv.mod_revision()), unsigned(kv.create_revision()));
            let version = unsigned(kv.version());
            let (key, value) = kv.into_key_value();
            entries.push(Entry { key, value, revision, create_revision, version });
        });
        Ok((seen.await?, entries))
    }

    /// Lists the keys below the prefixes and when each was changed last, all at one revision.
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
}
