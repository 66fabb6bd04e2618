//! Protobuf messages, written field by field into one buffer (protobuf.dev, "Encoding").

use std::fmt::{self, Write as _};

use prost::bytes::{BufMut, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint};

/// The end of a buffer that a message is written to.
pub(super) struct Message<'a>(&'a mut BytesMut);

impl<'a> Message<'a> {
    pub(super) fn at_end_of(buffer: &'a mut BytesMut) -> Self {
        Self(buffer)
    }

    /// A number; 0 is what a field that is left out means.
    pub(super) fn number(&mut self, tag: u32, number: u64) {
        if number != 0 {
            encode_key(tag, WireType::Varint, self.0);
            encode_varint(number, self.0);
        }
    }

    pub(super) fn text(&mut self, tag: u32, text: &str) {
        encode_key(tag, WireType::LengthDelimited, self.0);
        encode_varint(text.len() as u64, self.0);
        self.0.put_slice(text.as_bytes());
    }

    pub(super) fn display(&mut self, tag: u32, text: &dyn fmt::Display) {
        self.message(tag, |message| {
            // A buffer in memory takes all that is written.
            let _ = write!(message.0, "{text}");
        });
    }

    /// A message within this one. Its length is known once it is written, and goes before it.
    pub(super) fn message(&mut self, tag: u32, write: impl FnOnce(&mut Message<'_>)) {
        encode_key(tag, WireType::LengthDelimited, self.0);
        // Nearly all are shorter than what one byte can say.
        self.0.put_u8(0);
        let start = self.0.len();
        write(&mut Message(self.0));
        let length = self.0.len() - start;
        match (u8::try_from(length), self.0.get_mut(start - 1)) {
            (Ok(short @ 0..0x80), Some(place)) => *place = short,
            _ => {
                let written = self.0.split_off(start);
                self.0.truncate(start - 1);
                encode_varint(length as u64, self.0);
                self.0.put_slice(&written);
            }
        }
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
            let mut bytes = BytesMut::new();
            write(&tree, &mut Message::at_end_of(&mut bytes));
            assert_eq!(Tree::decode(bytes.freeze()), Ok(tree), "{length}");
        }
    }
}
