//! `tierflow serve`, and calls as the routes of its gateways have Envoy make them.

#![allow(dead_code, reason = "each benchmark uses a part of it")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use prost::Message;
use tierflow::document::{Documents, split};
use tierflow::limiter::key::KeyHasher;
use tierflow::live::{Live, Settings};
use tierflow::names::{Name, Revision};

use crate::process::{Process, free_address};

/// Where it is to listen.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) xds: SocketAddr,
    pub(crate) rls: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Ports {
    pub(crate) fn free() -> Self {
        Self { xds: free_address(), rls: free_address(), admin: free_address() }
    }
}

/// Serves policies on some cores.
pub(crate) fn serve(folder: &Path, policies: &str, cores: &str, flags: &[&str]) -> Process {
    let program = Path::new(env!("CARGO_BIN_EXE_tierflow"));
    serve_with(program, folder, policies, cores, flags, Ports::free())
}

/// The same by another build of the program, at given ports.
pub(crate) fn serve_with(
    program: &Path,
    folder: &Path,
    policies: &str,
    cores: &str,
    flags: &[&str],
    ports: Ports,
) -> Process {
    let policies_folder = folder.join("policies");
    std::fs::create_dir_all(&policies_folder).unwrap();
    std::fs::write(policies_folder.join("bench.yaml"), policies).unwrap();
    let mut command = Command::new(program);
    command.args(["serve", "--log=error"]).arg(format!("--policies={}", policies_folder.display()));
    command.arg(format!("--rls-listen={}", ports.rls)).arg(format!("--admin-listen={}", ports.admin));
    command.arg(format!("--xds-listen={}", ports.xds)).args(flags);
    Process::start(&command, cores, ports.rls)
}

/// A request of a tenant for an Api, which routes report as `id`, at that cost.
pub(crate) fn call(gateway: &str, id: &str, tenant: usize, hits: u32) -> Bytes {
    let tenant = format!("tenant-{tenant}");
    let descriptor = descriptor(&[("api", id), ("tenant", &tenant), ("remote_address", "10.0.0.7")]);
    framed(&format!("tierflow/{gateway}"), vec![descriptor], hits)
}

/// The name that routes report an Api by.
pub(crate) fn id_of(policies: &str, gateway: &str, api: &str) -> String {
    let settings = Settings {
        rate_limit_service: tierflow::compile::RateLimitService::default(),
        counter_keys: KeyHasher::seeded([7; 16]),
        allow_empty: false,
    };
    let (live, mut writer) = Live::new(settings);
    let documents = Documents::new(Revision::default(), split(&"bench.yaml".into(), policies.as_bytes()));
    writer.adopt(&documents, tierflow::clock::Clock::start().now());
    assert!(live.refused().is_empty());
    let generation = live.generation().unwrap();
    let forms = generation.matcher.forms(&Name::parse(gateway).unwrap()).unwrap();
    let id = forms.ids().find(|id| id.split('/').next() == Some(api));
    id.expect("the gateway has this Api").to_owned()
}

pub(crate) fn descriptor(entries: &[(&str, &str)]) -> RateLimitDescriptor {
    let entry = |(key, value): &(&str, &str)| Entry { key: (*key).to_owned(), value: (*value).to_owned() };
    RateLimitDescriptor { entries: entries.iter().map(entry).collect(), ..Default::default() }
}

/// A request as gRPC frames it.
pub(crate) fn framed(domain: &str, descriptors: Vec<RateLimitDescriptor>, hits: u32) -> Bytes {
    let request = RateLimitRequest { domain: domain.to_owned(), descriptors, hits_addend: hits };
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(request.encoded_len()).unwrap());
    request.encode(&mut body).unwrap();
    body.freeze()
}
