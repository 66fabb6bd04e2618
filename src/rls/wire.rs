//! Envoy's rate limit request as far as it is read, in place: a wire-compatible view of
//! `envoy/service/ratelimit/v3/rls.proto` and `envoy/extensions/common/ratelimit/v3/ratelimit.proto`.
//!
//! Values are bytes here, not text: Envoy passes on what a client sends, and a request must not go uncounted because it is
//! no UTF-8. A test holds the view equal to envoy-types.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use smallvec::SmallVec;

use crate::limiter::matcher::Described;
use crate::names::gateway_of_domain;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RateLimitRequest<'a> {
    pub(super) domain: &'a [u8],
    pub(super) descriptors: SmallVec<[Descriptor<'a>; 2]>,
    pub(super) hits_addend: u32,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Descriptor<'a> {
    /// Key and value of each.
    pub(super) entries: SmallVec<[(&'a [u8], &'a [u8]); 8]>,
    pub(super) hits_addend: Option<u64>,
    pub(super) is_negative_hits: bool,
}

/// Bytes that are no such message.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("the message is no RateLimitRequest")]
pub(super) struct Malformed;

impl<'a> RateLimitRequest<'a> {
    /// Takes in the fields of a message. It is filled where it is: to move it costs more than to read most messages.
    pub(super) fn merge(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut fields = Fields(message);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Bytes(domain)) => self.domain = domain,
                (2, Value::Bytes(descriptor)) => {
                    self.descriptors.push(Descriptor::default());
                    if let Some(last) = self.descriptors.last_mut() {
                        last.merge(descriptor)?;
                    }
                }
                // As in all of protobuf, a field of 32 bits takes the lower half of a larger number.
                (3, Value::Number(hits)) => self.hits_addend = hits as u32,
                (1..=3, _) => return Err(Malformed),
                _ => {}
            }
        }
        Ok(())
    }

    /// `None`: a domain that is none of ours.
    pub(super) fn gateway(&self) -> Option<&'a str> {
        gateway_of_domain(std::str::from_utf8(self.domain).ok()?)
    }

    /// The descriptors as the matcher hears of them.
    pub(super) fn described(&self) -> SmallVec<[Described<'_>; 2]> {
        let descriptors = self.descriptors.iter();
        descriptors.map(|one| Described { entries: &one.entries, hits: self.hits(one) }).collect()
    }

    /// Envoy rate_limit.proto: a descriptor's own hits go before the request's, and 0 asks without counting; the
    /// request's are 1 where they are not set. Nothing here gives hits back, so negative ones ask too.
    fn hits(&self, descriptor: &Descriptor<'_>) -> u32 {
        match descriptor.hits_addend {
            Some(_) if descriptor.is_negative_hits => 0,
            Some(hits) => u32::try_from(hits).unwrap_or(u32::MAX),
            None => self.hits_addend.max(1),
        }
    }
}

impl<'a> Descriptor<'a> {
    fn merge(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut fields = Fields(message);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Bytes(entry)) => self.entries.push(decode_entry(entry)?),
                (3, Value::Bytes(hits)) => {
                    // A message that comes twice is one, of which the later fields count.
                    let hits = decode_uint64(hits)?.or(self.hits_addend);
                    self.hits_addend = Some(hits.unwrap_or_default());
                }
                (4, Value::Number(is_negative)) => self.is_negative_hits = is_negative != 0,
                (1 | 3 | 4, _) => return Err(Malformed),
                _ => {}
            }
        }
        Ok(())
    }
}

fn decode_entry(message: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (mut key, mut value) = (&[][..], &[][..]);
    let mut fields = Fields(message);
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Bytes(bytes)) => key = bytes,
            (2, Value::Bytes(bytes)) => value = bytes,
            (1 | 2, _) => return Err(Malformed),
            _ => {}
        }
    }
    Ok((key, value))
}

/// `google.protobuf.UInt64Value`
fn decode_uint64(message: &[u8]) -> Result<Option<u64>, Malformed> {
    let mut value = None;
    let mut fields = Fields(message);
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Number(number)) => value = Some(number),
            (1, _) => return Err(Malformed),
            _ => {}
        }
    }
    Ok(value)
}

/// The fields of a message, in the order of its bytes.
struct Fields<'a>(&'a [u8]);

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a kind that no field here has.
    Other,
}

impl<'a> Fields<'a> {
    /// The next one, by its number.
    fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (number, wire_type) = decode_key(&mut self.0).map_err(|_| Malformed)?;
        let value = match wire_type {
            WireType::Varint => Value::Number(decode_varint(&mut self.0).map_err(|_| Malformed)?),
            WireType::LengthDelimited => {
                let length = decode_varint(&mut self.0).map_err(|_| Malformed)?;
                let length = usize::try_from(length).map_err(|_| Malformed)?;
                let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
                self.0 = rest;
                Value::Bytes(bytes)
            }
            other => {
                skip_field(other, number, &mut self.0, DecodeContext::default()).map_err(|_| Malformed)?;
                Value::Other
            }
        };
        Ok(Some((number, value)))
    }
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

    impl<'a> RateLimitRequest<'a> {
        fn decode(message: &'a [u8]) -> Result<Self, Malformed> {
            let mut request = Self::default();
            request.merge(message).map(|()| request)
        }
    }

    fn descriptors() -> impl Strategy<Value = Vec<(Entries, Option<u64>, bool)>> {
        let entries = prop::collection::vec((any::<String>(), any::<String>()), 0..5);
        prop::collection::vec((entries, any::<Option<u64>>(), any::<bool>()), 0..4)
    }

    fn sent(domain: &str, hits_addend: u32, descriptors: &[(Entries, Option<u64>, bool)]) -> envoy::RateLimitRequest {
        let entry =
            |(key, value): &(String, String)| rate_limit_descriptor::Entry { key: key.clone(), value: value.clone() };
        let descriptor = |(entries, hits, is_negative_hits): &(Entries, Option<u64>, bool)| RateLimitDescriptor {
            entries: entries.iter().map(entry).collect(),
            limit: Some(Default::default()),
            hits_addend: hits.map(|value| UInt64Value { value }),
            is_negative_hits: *is_negative_hits,
        };
        let descriptors = descriptors.iter().map(descriptor).collect();
        envoy::RateLimitRequest { domain: domain.to_owned(), hits_addend, descriptors }
    }

    /// What a message of Envoy's own types means in the view.
    fn meaning(message: &envoy::RateLimitRequest) -> RateLimitRequest<'_> {
        RateLimitRequest {
            domain: message.domain.as_bytes(),
            descriptors: message.descriptors.iter().map(meaning_of_descriptor).collect(),
            hits_addend: message.hits_addend,
        }
    }

    fn meaning_of_descriptor(descriptor: &RateLimitDescriptor) -> Descriptor<'_> {
        Descriptor {
            entries: descriptor.entries.iter().map(|entry| (entry.key.as_bytes(), entry.value.as_bytes())).collect(),
            hits_addend: descriptor.hits_addend.map(|hits| hits.value),
            is_negative_hits: descriptor.is_negative_hits,
        }
    }

    proptest! {
        /// The bytes that Envoy's own types write are read as what they mean.
        #[test]
        fn the_view_reads_what_envoy_writes(domain: String, hits_addend: u32, descriptors in descriptors()) {
            let sent = sent(&domain, hits_addend, &descriptors);
            let bytes = sent.encode_to_vec();
            prop_assert_eq!(RateLimitRequest::decode(&bytes), Ok(meaning(&sent)));
        }

        /// Bytes that Envoy's own types read are read as what they mean, whatever order, repetition or unknown field is in
        /// them; what those refuse is refused, but for text that is no UTF-8.
        #[test]
        fn what_the_view_reads_is_what_envoy_types_read(domain: String, descriptors in descriptors(), noise: Vec<u8>, place: prop::sample::Index) {
            let mut bytes = sent(&domain, 1, &descriptors).encode_to_vec();
            let place = place.index(bytes.len().max(1));
            bytes.splice(place.min(bytes.len())..place.min(bytes.len()), noise);
            if let Ok(message) = envoy::RateLimitRequest::decode(&*bytes) {
                prop_assert_eq!(RateLimitRequest::decode(&bytes), Ok(meaning(&message)));
            }
        }

        /// No bytes make it panic.
        #[test]
        fn any_bytes_are_read_or_refused(noise: Vec<u8>) {
            let _ = RateLimitRequest::decode(&noise);
        }
    }

    fn descriptor(hits_addend: Option<u64>, is_negative_hits: bool) -> Descriptor<'static> {
        Descriptor { hits_addend, is_negative_hits, ..Default::default() }
    }

    /// Envoy rate_limit.proto, `hits_addend` of a request and of a descriptor.
    #[test]
    fn the_hits_of_a_descriptor_go_before_those_of_its_request() {
        let hits_of = |of_request, of_descriptor, is_negative| {
            let descriptors = SmallVec::from_iter([descriptor(of_descriptor, is_negative)]);
            RateLimitRequest { domain: b"tierflow/edge", descriptors, hits_addend: of_request }.described()[0].hits
        };
        assert_eq!(hits_of(0, None, false), 1, "where nothing is said");
        assert_eq!(hits_of(7, None, false), 7);
        assert_eq!(hits_of(7, Some(3), false), 3);
        assert_eq!(hits_of(7, Some(0), false), 0, "asks without counting");
        assert_eq!(hits_of(7, Some(3), true), 0, "nothing is given back");
        assert_eq!(hits_of(0, Some(u64::MAX), false), u32::MAX, "more than any limit allows");
    }

    #[test]
    fn a_domain_names_a_gateway_or_is_none_of_ours() {
        let named = |domain| RateLimitRequest { domain, ..Default::default() }.gateway();
        assert_eq!(named(b"tierflow/edge"), Some("edge"));
        for other in [&b"edge"[..], b"", b"Tierflow/edge", b"tierflow/\xff", b"\xff"] {
            assert_eq!(named(other), None, "{other:?}");
        }
    }

    #[test]
    fn values_need_not_be_text() {
        let entry = [0x0a, 1, 0xff, 0x12, 2, 0xc3, 0x28];
        let message: Vec<u8> = [&[0x12, 9, 0x0a, 7][..], &entry].concat();
        let request = RateLimitRequest::decode(&message).unwrap();
        assert_eq!(request.descriptors[0].entries.as_slice(), [(&[0xff][..], &[0xc3, 0x28][..])]);
    }
}
