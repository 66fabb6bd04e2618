//! The slots of a Cluster, and the nodes that serve them.
//! <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>

use std::sync::Arc;

use crc16::{State, XMODEM};
use redis::{FromRedisValue as _, ParsingError, Value};

use super::node::Node;
use super::url::ServerAddress;

pub(super) const SLOTS: u16 = 16384;

/// The slot of a key: by what stands between its first braces, where something does.
pub(super) fn slot_of(name: &[u8]) -> u16 {
    State::<XMODEM>::calculate(tag_of(name).unwrap_or(name)) % SLOTS
}

fn tag_of(name: &[u8]) -> Option<&[u8]> {
    let from = name.iter().position(|byte| *byte == b'{')? + 1;
    let rest = name.get(from..)?;
    let length = rest.iter().position(|byte| *byte == b'}').filter(|length| *length > 0)?;
    rest.get(..length)
}

/// The master of each slot.
#[derive(Clone, Debug)]
pub(super) struct SlotMap {
    /// By slot, the number of the node. None has [`UNSERVED`].
    numbers: Box<[u16]>,
    nodes: Vec<Arc<Node>>,
}

const UNSERVED: u16 = u16::MAX;

impl Default for SlotMap {
    fn default() -> Self {
        Self { numbers: vec![UNSERVED; SLOTS.into()].into(), nodes: Vec::new() }
    }
}

impl SlotMap {
    pub(super) fn node(&self, slot: u16) -> Option<&Arc<Node>> {
        let number = self.numbers.get(usize::from(slot))?;
        self.nodes.get(usize::from(*number))
    }

    pub(super) fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    pub(super) fn slots_of(&self, node: &Arc<Node>) -> impl Iterator<Item = u16> {
        let own = self.nodes.iter().position(|other| Arc::ptr_eq(other, node));
        let slots = self.numbers.iter().zip(0..);
        slots.filter_map(move |(number, slot)| (own == Some(usize::from(*number))).then_some(slot))
    }

    pub(super) fn set(&mut self, slots: std::ops::RangeInclusive<u16>, node: &Arc<Node>) {
        let known = self.nodes.iter().position(|other| Arc::ptr_eq(other, node));
        let number = known.unwrap_or(self.nodes.len());
        // More masters than slots cannot be.
        let Ok(number) = u16::try_from(number) else { return };
        if known.is_none() {
            self.nodes.push(Arc::clone(node));
        }
        for slot in slots {
            if let Some(place) = self.numbers.get_mut(usize::from(slot)) {
                *place = number;
            }
        }
    }
}

/// Slots, and their master.
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) master: ServerAddress,
}

/// Reads the answer to `CLUSTER SLOTS`. A server that does not know its own name is called as it was when it was asked.
pub(super) fn ranges(answer: Vec<Value>, asked: &ServerAddress) -> Result<Vec<Range>, ParsingError> {
    let range = |value: Value| {
        let mut parts = Vec::<Value>::from_redis_value(value)?.into_iter();
        let mut next = || parts.next().unwrap_or(Value::Nil);
        let (first, last) = (u16::from_redis_value(next())?, u16::from_redis_value(next())?);
        let mut master = Vec::<Value>::from_redis_value(next())?.into_iter();
        let host = Option::<String>::from_redis_value(master.next().unwrap_or(Value::Nil))?;
        let port = u16::from_redis_value(master.next().unwrap_or(Value::Nil))?;
        let host = host.filter(|host| !host.is_empty()).unwrap_or_else(|| asked.host.clone());
        Ok(Range { first, last, master: ServerAddress { host, port } })
    };
    answer.into_iter().map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // Of the specification, and of `CLUSTER KEYSLOT`.
        assert_eq!(State::<XMODEM>::calculate(b"123456789"), 0x31c3);
        let slot = |name: &str| slot_of(name.as_bytes());
        assert_eq!([slot("foo"), slot("{foo}bar"), slot("somekey")], [12182, 12182, 11058]);
        assert_eq!(slot("{user1000}.following"), slot("{user1000}.followers"));
        assert_ne!(slot("foo{}bar"), slot("foo{}baz"), "nothing between braces is no tag");
        assert_eq!(slot("foo{{bar}}zap"), slot("{bar"), "the first of each counts");
    }
}
