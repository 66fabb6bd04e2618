//! Protobuf messages, written field by field into one buffer (protobuf.dev, "Encoding").

use std::fmt::{self, Write as _};

use smallvec::SmallVec;

/// Room for nearly all answers, without the heap.
pub(super) type Buffer = SmallVec<[u8; 512]>;

/// How a field's value is written: as a number, or as so many bytes.
const VARINT: u32 = 0;
const LENGTH_DELIMITED: u32 = 2;

/// The end of a buffer that a message is written to.
pub(super) struct Message<'a>(&'a mut Buffer);

impl<'a> Message<'a> {
    pub(super) fn at_end_of(buffer: &'a mut Buffer) -> Self {
        Self(buffer)
    }

    /// A number; 0 is what a field that is left out means.
    pub(super) fn number(&mut self, tag: u32, number: u64) {
        if number != 0 {
            self.key(tag, VARINT);
            self.varint(number);
        }
    }

    pub(super) fn text(&mut self, tag: u32, text: &str) {
        self.key(tag, LENGTH_DELIMITED);
        self.varint(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(super) fn display(&mut self, tag: u32, text: &dyn fmt::Display) {
        self.message(tag, |message| {
            // A buffer in memory takes all that is written.
            let _ = write!(message, "{text}");
        });
    }

    /// A message within this one. Its length is known once it is written, and goes before it.
    pub(super) fn message(&mut self, tag: u32, write: impl FnOnce(&mut Message<'_>)) {
        self.key(tag, LENGTH_DELIMITED);
        // Nearly all are shorter than what one byte can say.
        self.0.push(0);
        let start = self.0.len();
        write(&mut Message(self.0));
        let length = self.0.len() - start;
        match (u8::try_from(length), self.0.get_mut(start - 1)) {
            (Ok(short @ 0..0x80), Some(place)) => *place = short,
            _ => {
                let written: Buffer = self.0.drain(start..).collect();
                self.0.truncate(start - 1);
                self.varint(length as u64);
                self.0.extend_from_slice(&written);
            }
        }
    }

    fn key(&mut self, tag: u32, wire_type: u32) {
        self.varint(u64::from(tag << 3 | wire_type));
    }

    /// Seven bits a byte, the lowest first; the eighth says that there are more.
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }
}

impl fmt::Write for Message<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Tree {
        #[prost(uint64, tag = "1")]
        number: u64,
        #[prost(string, tag = "2")]
        text: String,
        #[prost(message, repeated, tag = "16")]
        within: Vec<Tree>,
    }

    fn write(tree: &Tree, message: &mut Message<'_>) {
        message.number(1, tree.number);
        match tree.number % 2 {
            0 => message.text(2, &tree.text),
            _ => message.display(2, &tree.text),
        }
        for tree in &tree.within {
            message.message(16, |message| write(tree, message));
        }
    }

    #[test]
    fn messages_of_all_lengths_are_read_as_they_were_written() {
        let leaf = |number: u64, length| Tree { number, text: "x".repeat(length), within: Vec::new() };
        for length in [0, 1, 100, 120, 125, 126, 127, 128, 129, 130, 16_383, 16_384, 70_000] {
            let branch = Tree { within: vec![leaf(0, length), leaf(u64::MAX, length)], ..leaf(300, 3) };
            let tree = Tree { within: vec![branch, leaf(1, length)], ..leaf(2, length) };
            let mut bytes = Buffer::new();
            write(&tree, &mut Message::at_end_of(&mut bytes));
            assert_eq!(Tree::decode(&*bytes), Ok(tree), "{length}");
        }
    }
}
