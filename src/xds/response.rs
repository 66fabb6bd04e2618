//! Responses of both variants, encoded resource by resource.
//!
//! The fields of a protobuf message may stand in any order, and those of a repeated field between others. So what is of
//! the response itself goes first; each resource follows as some bytes of this response, and then the bytes of the
//! resource, which all streams share (xDS rule 96).

use std::sync::Arc;

use prost::bytes::{BufMut, Bytes, BytesMut};
use prost::{Message, encode_length_delimiter, length_delimiter_len};

use crate::frames::Parts;
use crate::nodes::Protocol;
use crate::snapshot::resource::Resource;

/// Field numbers of `DiscoveryResponse` and `DeltaDiscoveryResponse`...
const RESOURCES: u8 = 2;
const REMOVED_RESOURCES: u8 = 6;
/// ...of `Resource`...
const RESOURCE_VERSION: u8 = 1;
const RESOURCE_RESOURCE: u8 = 2;
const RESOURCE_NAME: u8 = 3;
/// ...and of `google.protobuf.Any`.
const ANY_TYPE_URL: u8 = 1;
const ANY_VALUE: u8 = 2;

/// A response of either variant, as far as it is not encoded yet.
#[derive(Debug)]
pub(super) struct Response {
    protocol: Protocol,
    /// The fields that are no lists, encoded.
    head: Option<Vec<u8>>,
    type_url: &'static str,
    resources: std::vec::IntoIter<Arc<Resource>>,
    removed: std::vec::IntoIter<Arc<str>>,
}

impl Response {
    pub(super) fn new(
        protocol: Protocol,
        head: &impl Message,
        type_url: &'static str,
        resources: Vec<Arc<Resource>>,
        removed: Vec<Arc<str>>,
    ) -> Self {
        let (resources, removed) = (resources.into_iter(), removed.into_iter());
        Self { protocol, head: Some(head.encode_to_vec()), type_url, resources, removed }
    }

    /// The lengths of a resource and of the `Any` in it.
    fn lengths(&self, resource: &Resource) -> (usize, usize) {
        let any = field_len(self.type_url.len()) + field_len(resource.body.len());
        let text = |text: &str| field_len(text.len());
        (text(&resource.version.to_string()) + field_len(any) + text(&resource.name), any)
    }

    fn encode_head_of(&self, resource: &Resource, own: &mut BytesMut) {
        let (length, length_of_any) = self.lengths(resource);
        match self.protocol {
            Protocol::StateOfTheWorld => put_key(RESOURCES, length_of_any, own),
            Protocol::Delta => {
                put_key(RESOURCES, length, own);
                put_text(RESOURCE_VERSION, &resource.version.to_string(), own);
                put_text(RESOURCE_NAME, &resource.name, own);
                put_key(RESOURCE_RESOURCE, length_of_any, own);
            }
        }
        put_text(ANY_TYPE_URL, self.type_url, own);
        put_key(ANY_VALUE, resource.body.len(), own);
    }
}

impl Parts for Response {
    fn encoded_len(&self) -> usize {
        let length_of = |resource: &Arc<Resource>| match (self.protocol, self.lengths(resource)) {
            (Protocol::StateOfTheWorld, (_, any)) => field_len(any),
            (Protocol::Delta, (resource, _)) => field_len(resource),
        };
        let resources: usize = self.resources.as_slice().iter().map(length_of).sum();
        let removed: usize = self.removed.as_slice().iter().map(|name| field_len(name.len())).sum();
        self.head.as_ref().map_or(0, Vec::len) + resources + removed
    }

    fn encode_next(&mut self, own: &mut BytesMut) -> Option<Bytes> {
        if let Some(head) = self.head.take() {
            own.put_slice(&head);
            return Some(Bytes::new());
        }
        if let Some(resource) = self.resources.next() {
            self.encode_head_of(&resource, own);
            return Some(resource.body.clone());
        }
        put_text(REMOVED_RESOURCES, &self.removed.next()?, own);
        Some(Bytes::new())
    }
}

/// The length of a field with so many bytes: a key of one byte, a length and the bytes.
fn field_len(bytes: usize) -> usize {
    1 + length_delimiter_len(bytes) + bytes
}

/// The key of a field of bytes, and how many follow. Keys of fields up to the fifteenth are one byte.
fn put_key(field: u8, bytes: usize, own: &mut BytesMut) {
    const LENGTH_DELIMITED: u8 = 2;
    own.put_u8(field << 3 | LENGTH_DELIMITED);
    // It cannot fail: the buffer grows.
    let _ = encode_length_delimiter(bytes, own);
}

fn put_text(field: u8, text: &str, own: &mut BytesMut) {
    put_key(field, text.len(), own);
    own.put_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3 as core;
    use envoy_types::pb::envoy::service::discovery::v3 as pb;
    use envoy_types::pb::google::protobuf as google;

    use super::*;
    use crate::frames::{Chunk, Chunks};
    use crate::names::Version;
    use crate::snapshot::resource::ResourceType;
    use crate::xds::session::Outgoing;
    use crate::xds::variant::{Delta, Sotw, Variant};

    /// Bodies of which some are shared and some are too small for that.
    fn resources() -> Vec<Arc<Resource>> {
        let sizes = [("none", 0), ("small", 3), ("large", 200_000), ("medium", 5000)];
        sizes.into_iter().map(|(name, size)| Arc::new(Resource::new(name, vec![7; size]))).collect()
    }

    fn response(resources: &[Arc<Resource>]) -> Outgoing {
        Outgoing {
            resource_type: ResourceType::Route,
            version: Version::of(b"all"),
            resources: resources.to_vec(),
            changed: Vec::new(),
            removed: vec!["gone".into(), "too".into()],
            nonce: 7,
        }
    }

    fn chunks<V: Variant>(resources: &[Arc<Resource>]) -> Vec<Bytes> {
        let mut chunks = Chunks::new(V::encode(response(resources), &Bytes::from_static(b"me")));
        std::iter::from_fn(|| chunks.next_chunk().map(Chunk::into_bytes)).collect()
    }

    fn message<V: Variant, M: Message + Default>() -> M {
        let frame = chunks::<V>(&resources()).concat();
        let length = u32::from_be_bytes(frame[1..5].try_into().unwrap());
        assert_eq!(length as usize, frame.len() - 5);
        M::decode(&frame[5..]).unwrap()
    }

    fn any(resource: &Resource) -> google::Any {
        let type_url = ResourceType::Route.type_url().to_owned();
        google::Any { type_url, value: resource.body.to_vec() }
    }

    #[test]
    fn responses_are_written_as_envoy_reads_them() {
        let resources = resources();
        let control_plane = Some(core::ControlPlane { identifier: "me".into() });
        let sotw = pb::DiscoveryResponse {
            version_info: Version::of(b"all").to_string(),
            resources: resources.iter().map(|resource| any(resource)).collect(),
            type_url: ResourceType::Route.type_url().into(),
            nonce: "7".into(),
            control_plane: control_plane.clone(),
            ..Default::default()
        };
        assert_eq!(message::<Sotw, pb::DiscoveryResponse>(), sotw);
        let resource = |resource: &Arc<Resource>| pb::Resource {
            name: resource.name.to_string(),
            version: resource.version.to_string(),
            resource: Some(any(resource)),
            ..Default::default()
        };
        let delta = pb::DeltaDiscoveryResponse {
            system_version_info: Version::of(b"all").to_string(),
            resources: resources.iter().map(resource).collect(),
            type_url: ResourceType::Route.type_url().into(),
            removed_resources: vec!["gone".into(), "too".into()],
            nonce: "7".into(),
            control_plane,
            ..Default::default()
        };
        assert_eq!(message::<Delta, pb::DeltaDiscoveryResponse>(), delta);
    }

    /// Looks behind the frames: whose memory is it that they hand to the transport?
    #[test]
    fn xds_rule_96_the_bytes_of_a_resource_are_there_once_for_all_streams() {
        let resources = resources();
        for chunks in [chunks::<Sotw>(&resources), chunks::<Sotw>(&resources), chunks::<Delta>(&resources)] {
            let is_shared = |chunk: &&Bytes| resources.iter().any(|r| r.body.as_ptr_range().contains(&chunk.as_ptr()));
            let shared: usize = chunks.iter().filter(is_shared).map(Bytes::len).sum();
            let own: usize = chunks.iter().filter(|chunk| !is_shared(chunk)).map(Bytes::len).sum();
            assert_eq!(shared, 205_000);
            assert!(own < 1000, "{own}");
        }
    }
}
