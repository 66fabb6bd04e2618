//! gRPC's frames (PROTOCOL-HTTP2, "Length-Prefixed-Message"): messages out of a request's body, and into a response's.
//! For streams of which there are thousands; what is called once in a while has the codec of tonic.
//!
//! A general codec keeps the buffer that the largest request needed for as long as the stream lives, and copies a
//! response as a whole for each stream, which it then holds until its peer has read it. Here the buffer of a request lives
//! as long as the message in it, and a response is cut to chunks that are made when the transport asks for them, and that
//! share the bytes which the message shares.

mod chunks;
mod requests;

pub use chunks::{Chunk, Chunks, Parts, SHARED_BYTES_MIN, with_guard};
pub use requests::Requests;
