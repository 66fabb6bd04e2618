//! The rules of the protocol that docs/xds.md numbers, each a test with its number in the name. Those about sockets,
//! connections and real Envoys are in tests/it.

mod delta;
mod model;
mod order;
mod refusal;
mod sotw;
mod talk;
mod wildcard;
