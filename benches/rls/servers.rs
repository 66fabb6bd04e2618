//! The measured servers, and how each is asked: the same two limits for each, in its own words.

use std::path::Path;
use std::process::Command;
use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use prost::Message;
use tierflow::document::{Documents, split};
use tierflow::limiter::key::KeyHasher;
use tierflow::live::{Live, Settings};
use tierflow::names::{Name, Revision};

use crate::answers_ok;
use crate::process::{Process, free_address};

/// Two limits, one of the Api and one of the tenant, which nothing reaches; and the same, used up by the first call.
const POLICIES: &str = "\
{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1',
 tenant: {from: {header: x-tenant-id}, default_plan: standard}}
---
{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}
---
{kind: Api, name: open, gateway: shop, match: {path: /open}, service: order, limits: [{rate: 1000000000/m}]}
---
{kind: Api, name: shut, gateway: shop, match: {path: /shut}, service: order, limits: [{rate: 1/d}]}
---
{kind: Plan, name: standard, limits: [{rate: 1000000000/m}]}
";

/// A server that is measured.
pub(crate) struct Measured {
    pub(crate) name: String,
    pub(crate) process: Process,
    pub(crate) bodies: Rc<Vec<Bytes>>,
}

/// A bare server of a transport, `tonic` or `h2`.
pub(crate) fn answers_ok(transport: &str, bodies: &Rc<Vec<Bytes>>) -> Measured {
    let address = free_address();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(answers_ok::VARIABLE, format!("{transport} {address}"));
    let process = Process::start(&command, crate::SERVER_CORES, address);
    Measured { name: format!("answers OK, {transport}"), process, bodies: Rc::clone(bodies) }
}

/// `tierflow serve`.
pub(crate) fn tierflow(folder: &Path, cores: &str) -> Process {
    let policies = folder.join("policies");
    std::fs::create_dir_all(&policies).unwrap();
    std::fs::write(policies.join("bench.yaml"), POLICIES).unwrap();
    let address = free_address();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tierflow"));
    command.args(["serve", "--log=error"]).arg(format!("--policies={}", policies.display()));
    command.arg(format!("--rls-listen={address}"));
    command.arg(format!("--xds-listen={}", free_address())).arg(format!("--admin-listen={}", free_address()));
    Process::start(&command, cores, address)
}

/// Calls about an Api, by so many tenants in turn, as the routes of a Tierflow gateway have Envoy make them.
pub(crate) fn bodies(api: &str, tenants: usize) -> Rc<Vec<Bytes>> {
    let api = descriptor_of(api);
    let entry = |key: &str, value: &str| Entry { key: key.to_owned(), value: value.to_owned() };
    let body = |tenant: usize| {
        let entries =
            vec![entry("api", &api), entry("tenant", &format!("tenant-{tenant}")), entry("remote_address", "10.0.0.7")];
        let descriptors = vec![RateLimitDescriptor { entries, ..Default::default() }];
        framed(&RateLimitRequest { domain: "tierflow/shop".to_owned(), descriptors, hits_addend: 0 })
    };
    Rc::new((0..tenants).map(body).collect())
}

/// As gRPC frames a message.
fn framed(request: &RateLimitRequest) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(request.encoded_len()).unwrap());
    request.encode(&mut body).unwrap();
    body.freeze()
}

/// How routes report an Api.
fn descriptor_of(api: &str) -> String {
    let settings = Settings {
        rate_limit_service: tierflow::compile::RateLimitService::default(),
        counter_keys: KeyHasher::seeded([7; 16]),
        allow_empty: false,
    };
    let (live, mut writer) = Live::new(settings);
    let documents = Documents::new(Revision::default(), split(&"bench.yaml".into(), POLICIES.as_bytes()));
    writer.adopt(&documents, tierflow::clock::Clock::start().now());
    assert!(live.refused().is_empty());
    let generation = live.generation().unwrap();
    let forms = generation.matcher.forms(&Name::parse("shop").unwrap()).unwrap();
    let id = forms.ids().find(|id| id.split('/').next() == Some(api));
    id.expect("the gateway has this Api").to_owned()
}
