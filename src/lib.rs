//! Tierflow: a flow control plane for Envoy. Declarative policies go in; xDS resources and decisions about
//! requests come out.
//!
//! ```text
//!  policies/*.yaml -+
//!                   +-> source --Documents--> live --> rollout -----------> xds --> Envoy (ADS: SotW and delta)
//!  etcd prefix -----+                         | Generation (Arc, swapped)
//!    ^                      pure:             | = PolicySet                 rls <-- Envoy (ShouldRateLimit)
//!    |        raw -> PolicySet -> compile -> Snapshot (xDS bytes)            \-> counters (memory | Redis)
//!    |                        \-> limiter::Matcher (what a request meets)
//!    +-- editor <---------------------------------------------------------- admin <-- operator
//! ```
//!
//! - Configuration flows one way: bytes, a raw document, a policy set with every cross-check done, and from that
//!   snapshot and matcher of one generation. `live` swaps one `Arc`; each stream compares what its Envoy has with
//!   what it should have, and sends the difference.
//! - A request flows one way: converted, matched, admitted over all its limits in one step, answered.
//! - A rate is not in the xDS bytes. Routes say what a request is counted by, the rate limit service knows how much
//!   that may be. So a changed number is effective at once and pushes nothing.
//!
//! # Words
//!
//! *document*: one YAML mapping, and where it came from. *problem*: why a document is refused: place, what was
//! found, what was expected. *policy set*: all policies at once, cross-checked. *generation*: a policy set with its
//! snapshot and matcher. *revision*: what the source calls its state. *version*: content hash of resources. *form*: what
//! a route reports for limits, named by a content hash.
//! *tier*: 1 for limits of an API, 2 for limits of a tenant. *rate*: N per window. *hit*, *counter*, *decision*:
//! what a request costs, where that is counted, what came of it. *node*: a connected Envoy. *group*: the nodes
//! that one gateway selects. *ack*, *nack*: a node's answer to a response. *offer*: the resources that each group is to
//! have at one moment. *hold*: documents of a group that stay at versions which its nodes have acknowledged. *draft*: a document as somebody wants it to be. *edit*: drafts that count together.
//! *staging*: the blobs of a large edit before its *manifest* makes them count. *record*: what an edit leaves of its
//! request.
//!
//! # Invariants
//!
//! 1. Pure modules (`policy`, `compile`, `snapshot`, `limiter`, `explain`, `diff`) never await, spawn, log, read a clock or
//!    touch a file. They fail only by returning problems.
//! 2. `compile` is total and deterministic to the byte: equal policy sets give equal snapshots on every replica.
//! 3. `live` has one writer. A generation is swapped whole. Envoys have the routes of older generations for a while: a
//!    route says in which form it reports, and the limiter keeps what fits each form that an Envoy may still have.
//! 4. A refused document changes nothing that is served, and stays visible until it is mended.
//! 5. A handler loads the generation once and keeps it to its end.
//! 6. Protobuf types live in `compile`, `xds` and `rls` only.
//! 7. ADS sessions are values in, values out; the stream only carries them.
//! 8. Every queue, map, document and name has a written maximum with a named outcome.
//! 9. Nothing panics: no policy, packet or dependency can bring the process down.
//! 10. xDS, rate limit service and admin have a listener and runtimes of their own, the rate limit service one for each
//!     core; so have the source and the lease in etcd a runtime. What waits for a disk or computes for long is done on threads for blocking.
//!
//! Which module may name which is kept by `tests/it/tidy.rs`.

// words
pub mod bulk;
pub mod clock;
pub mod document;
pub mod metrics;
pub mod names;
pub mod shared_map;
pub mod shown;
pub mod trouble;
pub mod version;
pub mod x509;
// policy: what the operator means (pure)
pub mod policy;
// results (pure)
pub mod compile;
pub mod snapshot;
// limiter (pure; time is an argument)
pub mod diff;
pub mod explain;
pub mod limiter;
// the outside, behind narrow seams
pub mod budget;
pub mod counters;
pub mod denial_log;
pub mod etcd;
pub mod last_good;
pub mod pem;
pub mod regular_file;
pub mod rotation;
pub mod source;
pub mod traces;
// who may ask the admin port (time is an argument)
pub mod access;
// the served state
pub mod audit;
pub mod certificates;
pub mod crowding;
pub mod denials;
pub mod editor;
pub mod events;
pub mod live;
pub mod nodes;
pub mod rollout;
pub mod top;
pub mod traffic;
// servers: each translates, none knows another
pub mod admin;
pub mod frames;
pub mod rls;
pub mod xds;
// without a server
pub mod replay;
// shell
pub mod bootstrap;
pub mod cli;
pub mod config;
pub mod serve;
pub mod telemetry;

#[cfg(test)]
#[path = "../tests/tls/authority.rs"]
mod made_certificates;
