//! Resources as protobuf JSON, for people and for `envoy --mode validate`.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Map, Value, json};

use super::Resources;
use super::resource::{Resource, ResourceType};

/// Describes every message that a resource can hold.
static DESCRIPTORS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(DESCRIPTOR_SET).expect("the descriptor set is part of the program, and a test reads it")
});

/// A `google.protobuf.FileDescriptorSet` of the Envoy messages that are in use.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!("../../proto/envoy.binpb");

/// A resource with the field names of its `.proto` file. `Null` where the bytes are no such message.
pub fn to_json(resource_type: ResourceType, resource: &Resource) -> Value {
    let name = resource_type.type_url().rsplit('/').next().unwrap_or_default();
    let decoded = DESCRIPTORS
        .get_message_by_name(name)
        .and_then(|descriptor| DynamicMessage::decode(descriptor, resource.body.clone()).ok());
    let options = SerializeOptions::new().use_proto_field_name(true);
    decoded
        .and_then(|message| message.serialize_with_options(serde_json::value::Serializer, &options).ok())
        .unwrap_or(Value::Null)
}

/// The same as a `google.protobuf.Any`: with an `@type`.
pub fn to_any_json(resource_type: ResourceType, resource: &Resource) -> Value {
    let mut json = to_json(resource_type, resource);
    if let Some(fields) = json.as_object_mut() {
        fields.insert("@type".to_owned(), resource_type.type_url().into());
    }
    json
}

/// All resources as the `static_resources` of a bootstrap: what would come by ADS stands in its place. `own` are secrets that
/// the bootstrap of an Envoy has besides. An Envoy that is started with it serves the gateway as it is now, without a control
/// plane.
pub fn to_static_bootstrap(resources: &Resources, own: Vec<Value>) -> Value {
    let all = |resource_type| resources.of_type(resource_type).by_name.values().map(move |r| to_json(resource_type, r));
    let listeners: Vec<_> = all(ResourceType::Listener).map(|listener| inline_ads(listener, resources)).collect();
    let clusters = all(ResourceType::Cluster).map(|cluster| inline_ads(cluster, resources));
    let clusters: Vec<_> = clusters.map(|cluster| inline_endpoints(cluster, resources)).collect();
    let mut static_resources = json!({ "listeners": listeners, "clusters": clusters });
    let secrets: Vec<_> = own.into_iter().chain(all(ResourceType::Secret)).collect();
    if let (Some(fields), false) = (static_resources.as_object_mut(), secrets.is_empty()) {
        fields.insert("secrets".to_owned(), secrets.into());
    }
    json!({ "layered_runtime": runtime(), "static_resources": static_resources })
}

/// The runtime layers that Envoys need besides resources. They refuse regular expressions that compile to more than 100
/// steps unless they are told otherwise; `/[a-z]{1,64}` has more. How large one may be is decided when it is read.
/// The admin layer is for the `disable_key` of rate limits, which an operator sets with `/runtime_modify`.
pub fn runtime() -> Value {
    json!({ "layers": [
        { "name": "tierflow", "static_layer": { "re2.max_program_size.error_level": 1_000_000 } },
        { "name": "admin", "admin_layer": {} },
    ] })
}

/// Puts route configurations where a listener refers to them. Secrets of a bootstrap, of listeners and of clusters, are
/// found by their name alone.
fn inline_ads(mut value: Value, resources: &Resources) -> Value {
    match &mut value {
        Value::Object(fields) => {
            if let Some(routes) = fields.remove("rds").and_then(|rds| referred(&rds, resources)) {
                fields.insert("route_config".to_owned(), routes);
            }
            fields.remove("sds_config");
            let inlined = std::mem::take(fields).into_iter().map(|(key, value)| (key, inline_ads(value, resources)));
            *fields = inlined.collect::<Map<_, _>>();
        }
        Value::Array(items) => {
            *items = std::mem::take(items).into_iter().map(|item| inline_ads(item, resources)).collect();
        }
        _ => {}
    }
    value
}

fn referred(rds: &Value, resources: &Resources) -> Option<Value> {
    let name = rds.get("route_config_name")?.as_str()?;
    let routes = resources.of_type(ResourceType::Route).by_name.get(name)?;
    Some(to_json(ResourceType::Route, routes))
}

fn inline_endpoints(mut cluster: Value, resources: &Resources) -> Value {
    let endpoints = cluster.get("name").and_then(Value::as_str).and_then(|name| {
        let assignment = resources.of_type(ResourceType::Endpoint).by_name.get(name)?;
        Some(to_json(ResourceType::Endpoint, assignment))
    });
    if let (Some(endpoints), Some(fields)) = (endpoints, cluster.as_object_mut()) {
        fields.remove("eds_cluster_config");
        fields.insert("type".to_owned(), "STATIC".into());
        fields.insert("load_assignment".to_owned(), endpoints);
    }
    cluster
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_of_resource_is_described() {
        for resource_type in ResourceType::ALL {
            let empty = Resource::new("x", Vec::new());
            assert_eq!(to_json(resource_type, &empty), json!({}), "{resource_type}");
        }
    }

    #[test]
    fn bytes_that_are_no_message_are_null() {
        let broken = Resource::new("x", vec![0xff; 3]);
        assert_eq!(to_json(ResourceType::Listener, &broken), Value::Null);
    }
}
