//! `proto/envoy.binpb` describes the Envoy messages that Tierflow prints as JSON and shows by reflection.
//! It is made from the `.proto` files of the envoy-types crate, and this test keeps it what they say.

use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message;

const ROOTS: [&str; 17] = [
    "envoy/config/bootstrap/v3/bootstrap.proto",
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/extensions/filters/http/header_to_metadata/v3/header_to_metadata.proto",
    "envoy/extensions/filters/http/ratelimit/v3/rate_limit.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/path/match/uri_template/v3/uri_template_match.proto",
    "envoy/extensions/rate_limit_descriptors/jwt_claim/v3/jwt_claim.proto",
    "envoy/extensions/transport_sockets/tls/v3/secret.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
    "envoy/service/discovery/v3/ads.proto",
    "envoy/service/ratelimit/v3/rls.proto",
    "google/protobuf/wrappers.proto",
];

#[test]
fn the_descriptor_set_is_what_the_envoy_types_crate_says() {
    let protos = envoy_types_folder().join("proto");
    let includes = std::fs::read_dir(&protos).unwrap().map(|entry| entry.unwrap().path());
    let mut set = protox::compile(ROOTS, includes).unwrap();
    for file in &mut set.file {
        // Comments and places are of no use at run time.
        file.source_code_info = None;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/envoy.binpb");
    let actual = set.encode_to_vec();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &actual).unwrap();
    }
    assert!(std::fs::read(&path).unwrap() == actual, "proto/envoy.binpb differs; UPDATE_GOLDEN=1 writes it anew");
}

fn envoy_types_folder() -> PathBuf {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let envoy_types = packages.iter().find(|package| package["name"] == "envoy-types").unwrap();
    Path::new(envoy_types["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned()
}
