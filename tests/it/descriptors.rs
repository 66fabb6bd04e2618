//! `proto/envoy.binpb` describes the Envoy messages that Tierflow prints as JSON and shows by reflection, and
//! `proto/etcd.binpb` is etcd's API as etcd-client compiles it, for machines without protoc. They are made from the
//! `.proto` files of the crates envoy-types and etcd-client, and these tests keep them what those say.

use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message;

const ENVOY_ROOTS: [&str; 28] = [
    "envoy/config/bootstrap/v3/bootstrap.proto",
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/config/trace/v3/opentelemetry.proto",
    "envoy/extensions/access_loggers/file/v3/file.proto",
    "envoy/extensions/clusters/dns/v3/dns_cluster.proto",
    "envoy/extensions/filters/http/cors/v3/cors.proto",
    "envoy/extensions/filters/http/header_mutation/v3/header_mutation.proto",
    "envoy/extensions/filters/http/header_to_metadata/v3/header_to_metadata.proto",
    "envoy/extensions/filters/http/ratelimit/v3/rate_limit.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/http/early_header_mutation/header_mutation/v3/header_mutation.proto",
    "envoy/extensions/http/original_ip_detection/custom_header/v3/custom_header.proto",
    "envoy/extensions/path/match/uri_template/v3/uri_template_match.proto",
    "envoy/extensions/rate_limit_descriptors/jwt_claim/v3/jwt_claim.proto",
    "envoy/extensions/retry/host/previous_hosts/v3/previous_hosts.proto",
    "envoy/extensions/tracers/opentelemetry/samplers/v3/parent_based_sampler.proto",
    "envoy/extensions/tracers/opentelemetry/samplers/v3/trace_id_ratio_based_sampler.proto",
    "envoy/extensions/transport_sockets/tls/v3/secret.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
    "envoy/service/discovery/v3/ads.proto",
    "envoy/service/ratelimit/v3/rls.proto",
    "envoy/service/runtime/v3/rtds.proto",
    "google/protobuf/wrappers.proto",
];

/// What etcd-client's build script compiles.
const ETCD_ROOTS: [&str; 5] = [
    "etcd/api/authpb/auth.proto",
    "etcd/api/etcdserverpb/rpc.proto",
    "etcd/api/mvccpb/kv.proto",
    "etcd/server/etcdserver/api/v3election/v3electionpb/v3election.proto",
    "etcd/server/etcdserver/api/v3lock/v3lockpb/v3lock.proto",
];

#[test]
fn the_descriptor_set_is_what_the_envoy_types_crate_says() {
    let protos = crate_folder("envoy-types").join("proto");
    let includes = std::fs::read_dir(&protos).unwrap().map(|entry| entry.unwrap().path());
    assert_described("proto/envoy.binpb", &ENVOY_ROOTS, includes);
}

#[test]
fn the_compiled_api_of_etcd_is_what_the_etcd_client_crate_would_compile() {
    assert_described("proto/etcd.binpb", &ETCD_ROOTS, [crate_folder("etcd-client").join("proto")]);
}

fn assert_described(path: &str, roots: &[&str], includes: impl IntoIterator<Item = PathBuf>) {
    let mut set = protox::compile(roots, includes).unwrap();
    for file in &mut set.file {
        // Comments and places are of no use at run time.
        file.source_code_info = None;
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let actual = set.encode_to_vec();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &actual).unwrap();
    }
    assert!(std::fs::read(&file).unwrap() == actual, "{path} differs; UPDATE_GOLDEN=1 writes it anew");
}

/// Where cargo keeps the sources of a dependency.
fn crate_folder(name: &str) -> PathBuf {
    // Without the platform cargo would ask for crates of other systems, which nobody downloaded.
    let metadata =
        output("cargo", &["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform", &host()]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == name).unwrap();
    Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned()
}

/// The platform that this runs on, in rustc's words.
fn host() -> String {
    let version = output("rustc", &["-vV"]);
    version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
