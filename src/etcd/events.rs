//! Watches: what happens below a prefix.

use etcd_client::{KeyValue, WatchOptions, WatchResponse, WatchStream};

use super::connection::{ANSWER, ANSWER_BYTES_MAX, Connection, end_of, unsigned, within};
use super::failure::Failure;

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub key: Vec<u8>,
    /// `None`: deleted.
    pub value: Option<Vec<u8>>,
    pub revision: u64,
}

impl Connection {
    /// Watches a prefix from a revision on. The watch is known to stand when this returns.
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

pub struct Watch {
    stream: WatchStream,
    first: Option<WatchResponse>,
}

/// A message of a watch.
pub enum Told {
    Events(Vec<Event>),
    /// The watch ended.
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
