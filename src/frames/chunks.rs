//! A message into the body of a response, chunk by chunk.

use prost::bytes::{BufMut, Bytes, BytesMut};

/// Shared bytes of fewer than this are copied: a chunk of their own costs more than that.
pub const SHARED_BYTES_MIN: usize = 4 * 1024;
/// Copied bytes are sent once there are so many. So much, and a part more, is what a peer that does not read costs.
const COPIED_BYTES_MAX: usize = 12 * 1024;
/// The largest chunk of shared bytes. The transport is as long at a chunk as its peer is at reading it.
const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// A message that is encoded part by part. Each part has bytes of its own and, after them, bytes that it shares with other
/// messages.
pub trait Parts {
    /// The length of all parts together, before the first is encoded.
    fn encoded_len(&self) -> usize;
    /// Appends the own bytes of the next part, and gives its shared ones. `None` after the last part.
    fn encode_next(&mut self, own: &mut BytesMut) -> Option<Bytes>;
}

/// Bytes for the transport.
#[derive(Debug)]
pub enum Chunk {
    /// Made for this message.
    Copied(Bytes),
    /// Shared with other messages.
    Shared(Bytes),
}

/// The frame of a message, in chunks for the transport.
#[derive(Debug)]
pub struct Chunks<P> {
    parts: P,
    copied: BytesMut,
    /// Bytes that follow the copied ones.
    shared: Bytes,
}

impl<P: Parts> Chunks<P> {
    pub fn new(parts: P) -> Self {
        let mut copied = BytesMut::new();
        copied.put_u8(0);
        copied.put_u32(u32::try_from(parts.encoded_len()).unwrap_or(u32::MAX));
        Self { parts, copied, shared: Bytes::new() }
    }

    /// The next chunk; `None` after the last.
    pub fn next_chunk(&mut self) -> Option<Chunk> {
        while self.shared.is_empty() && self.copied.len() < COPIED_BYTES_MAX {
            let Some(shared) = self.parts.encode_next(&mut self.copied) else { break };
            match shared.len() < SHARED_BYTES_MIN {
                true => self.copied.extend_from_slice(&shared),
                false => self.shared = shared,
            }
        }
        if !self.copied.is_empty() {
            return Some(Chunk::Copied(std::mem::take(&mut self.copied).freeze()));
        }
        let chunk = self.shared.split_to(self.shared.len().min(CHUNK_BYTES_MAX));
        (!chunk.is_empty()).then_some(Chunk::Shared(chunk))
    }
}

impl Chunk {
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Copied(bytes) | Self::Shared(bytes) => bytes,
        }
    }
}

/// The same bytes, with something that is dropped with the last of them: once the transport has written or discarded them.
pub fn with_guard(bytes: Bytes, guard: impl Send + 'static) -> Bytes {
    struct Guarded<G> {
        bytes: Bytes,
        _guard: G,
    }
    impl<G> AsRef<[u8]> for Guarded<G> {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    Bytes::from_owner(Guarded { bytes, _guard: guard })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Parts with three own bytes each.
    struct Numbers(std::vec::IntoIter<Bytes>);

    impl Parts for Numbers {
        fn encoded_len(&self) -> usize {
            self.0.as_slice().iter().map(|shared| 3 + shared.len()).sum()
        }

        fn encode_next(&mut self, own: &mut BytesMut) -> Option<Bytes> {
            let shared = self.0.next()?;
            own.put_slice(b"own");
            Some(shared)
        }
    }

    fn chunks(shared: &[Bytes]) -> Vec<Bytes> {
        let mut chunks = Chunks::new(Numbers(Vec::from(shared).into_iter()));
        std::iter::from_fn(|| chunks.next_chunk().map(Chunk::into_bytes)).collect()
    }

    fn body(byte: u8, length: usize) -> Bytes {
        vec![byte; length].into()
    }

    #[test]
    fn chunks_are_the_frame_however_large_the_parts_are() {
        for lengths in [&[][..], &[0], &[1, 2, 3], &[5000, 1, 300_000, 0, 4096, 4095], &[100; 1000]] {
            let shared: Vec<_> = lengths.iter().map(|length| body(7, *length)).collect();
            let message: Vec<u8> = shared.iter().flat_map(|shared| [b"own", &shared[..]].concat()).collect();
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            assert_eq!(chunks(&shared).concat(), [&[0][..], &length, &message].concat(), "{lengths:?}");
        }
    }

    #[test]
    fn large_shared_bytes_are_not_copied() {
        let shared = [body(1, 200_000), body(2, SHARED_BYTES_MIN)];
        let all = chunks(&shared);
        for body in &shared {
            let inside: Vec<_> = all.iter().filter(|chunk| body.as_ptr_range().contains(&chunk.as_ptr())).collect();
            assert_eq!(inside.iter().map(|chunk| chunk.len()).sum::<usize>(), body.len());
            assert!(inside.iter().all(|chunk| chunk.len() <= CHUNK_BYTES_MAX));
        }
    }

    #[test]
    fn small_shared_bytes_are_sent_together_and_never_many_at_once() {
        let all = chunks(&vec![body(1, 1000); 1000]);
        assert!(all.len() < 100, "{}", all.len());
        assert!(all.iter().all(|chunk| chunk.len() < COPIED_BYTES_MAX + SHARED_BYTES_MIN));
        assert_eq!(chunks(&[body(1, 1000), body(2, 100)]).len(), 1);
    }

    #[test]
    fn a_guard_goes_with_the_last_of_the_bytes() {
        let (shared, guard) = (body(1, 10), Arc::new(()));
        let mut guarded = with_guard(shared.clone(), Arc::clone(&guard));
        assert_eq!(guarded.as_ptr(), shared.as_ptr());
        let first = guarded.split_to(5);
        drop(guarded);
        assert_eq!(Arc::strong_count(&guard), 2);
        drop(first);
        assert_eq!(Arc::strong_count(&guard), 1);
    }
}
