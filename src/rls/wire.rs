//! Envoy's rate limit request as far as it is read: a wire-compatible view of `envoy/service/ratelimit/v3/rls.proto` and
//! `envoy/extensions/common/ratelimit/v3/ratelimit.proto`.
//!
//! Values are bytes here, not text: Envoy passes on what a client sends, and a request must not go uncounted because it is
//! no UTF-8. A test holds the view equal to envoy-types.

use prost::bytes::Bytes;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RateLimitRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) domain: Bytes,
    #[prost(message, repeated, tag = "2")]
    pub(super) descriptors: Vec<Descriptor>,
    #[prost(uint32, tag = "3")]
    pub(super) hits_addend: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Descriptor {
    #[prost(message, repeated, tag = "1")]
    pub(super) entries: Vec<Entry>,
    #[prost(message, optional, tag = "3")]
    pub(super) hits_addend: Option<UInt64>,
    #[prost(bool, tag = "4")]
    pub(super) is_negative_hits: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Entry {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) value: Bytes,
}

/// `google.protobuf.UInt64Value`
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct UInt64 {
    #[prost(uint64, tag = "1")]
    pub(super) value: u64,
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor};
    use envoy_types::pb::envoy::service::ratelimit::v3 as envoy;
    use envoy_types::pb::google::protobuf::UInt64Value;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    type Entries = Vec<(String, String)>;

    fn descriptors() -> impl Strategy<Value = Vec<(Entries, Option<u64>, bool)>> {
        let entries = prop::collection::vec((any::<String>(), any::<String>()), 0..5);
        prop::collection::vec((entries, any::<Option<u64>>(), any::<bool>()), 0..4)
    }

    proptest! {
        /// The bytes that Envoy's own types write are read as what they mean.
        #[test]
        fn the_view_reads_what_envoy_writes(domain: String, hits_addend: u32, descriptors in descriptors()) {
            let sent = envoy::RateLimitRequest {
                domain: domain.clone(),
                hits_addend,
                descriptors: descriptors.iter().map(|(entries, hits, is_negative_hits)| RateLimitDescriptor {
                    entries: entries.iter().map(|(key, value)| rate_limit_descriptor::Entry { key: key.clone(), value: value.clone() }).collect(),
                    limit: Some(Default::default()),
                    hits_addend: hits.map(|value| UInt64Value { value }),
                    is_negative_hits: *is_negative_hits,
                }).collect(),
            };
            let view = RateLimitRequest {
                domain: domain.into(),
                hits_addend,
                descriptors: descriptors.into_iter().map(|(entries, hits, is_negative_hits)| Descriptor {
                    entries: entries.into_iter().map(|(key, value)| Entry { key: key.into(), value: value.into() }).collect(),
                    hits_addend: hits.map(|value| UInt64 { value }),
                    is_negative_hits,
                }).collect(),
            };
            prop_assert_eq!(RateLimitRequest::decode(&*sent.encode_to_vec()).unwrap(), view);
        }

        /// No bytes make it panic, and none that are well-formed but for their text are refused.
        #[test]
        fn any_bytes_are_values(key: Vec<u8>, value: Vec<u8>, noise: Vec<u8>) {
            let entry = Entry { key: key.into(), value: value.into() };
            let descriptor = Descriptor { entries: vec![entry], ..Default::default() };
            let request = RateLimitRequest { descriptors: vec![descriptor], ..Default::default() };
            prop_assert_eq!(RateLimitRequest::decode(&*request.encode_to_vec()), Ok(request));
            let _ = RateLimitRequest::decode(&*noise);
        }
    }
}
