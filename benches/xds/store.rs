//! The policy set, in a real etcd: one gateway, and the changes that are made of it. Each change is another one, and
//! says in what is sent to the Envoys which it is.

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::Path;

use etcd_client::Client;

use crate::board::within;
use crate::kit::etcd::Etcd;
use crate::process::free_address;

pub(crate) const GATEWAY: &str = "edge";

/// Another one, with routes of about a megabyte.
pub(crate) const LARGE_GATEWAY: &str = "large";

const LARGE_APIS: usize = 1000;
const LARGE_PATH_BYTES: usize = 900;
const SERVICES: u32 = 20;
const APIS: u32 = 40;
/// What stands before a change's number in the route that it changes.
const MARK: &[u8] = b"/changed/";
/// Digits of the number: with a fixed length whatever follows is no part of it.
const DIGITS: usize = 6;

pub(crate) struct Store {
    pub(crate) address: SocketAddr,
    client: Client,
    changes: Cell<u32>,
    _etcd: Etcd,
}

impl Store {
    pub(crate) async fn start(folder: &Path) -> Self {
        let etcd = Etcd::start(folder, free_address(), free_address(), &[]).unwrap();
        let address = etcd.address;
        let client = within(|| "etcd does not answer".to_owned(), connect(address)).await;
        let store = Self { address, client, changes: Cell::new(0), _etcd: etcd };
        store.put_gateway().await;
        store
    }

    async fn put_gateway(&self) {
        let tenant = "tenant: {from: {header: x-tenant-id}, default_plan: standard}";
        self.put("Plan", "standard", "limits: [{rate: 600/m}]").await;
        self.put("Gateway", GATEWAY, &format!("nodes: {{clusters: [edge]}}, listen: '127.0.0.1:10000', {tenant}"))
            .await;
        for n in 0..SERVICES {
            self.put("Service", &format!("service-{n}"), &service(n, 8080)).await;
        }
        for n in 0..APIS {
            self.put("Api", &format!("api-{n}"), &api(n, &format!("/shop/{n}/orders"))).await;
        }
    }

    pub(crate) async fn put_large_gateway(&self) {
        self.put(
            "Gateway",
            LARGE_GATEWAY,
            &format!("nodes: {{clusters: [{LARGE_GATEWAY}]}}, listen: '127.0.0.1:10001'"),
        )
        .await;
        for n in 0..LARGE_APIS {
            let path = format!("/{n}/{}", "x".repeat(LARGE_PATH_BYTES));
            let fields = format!("gateway: {LARGE_GATEWAY}, match: {{path: {path}}}, service: service-0");
            self.put("Api", &format!("large-{n}"), &fields).await;
        }
    }

    /// A gateway with a service and an API for each group.
    pub(crate) async fn put_groups(&self, groups: usize) {
        for group in 0..groups {
            let name = group_name(group);
            let gateway = format!("nodes: {{clusters: [{name}]}}, listen: '127.0.0.1:10002'");
            self.put("Gateway", &name, &gateway).await;
            self.put("Service", &name, &service(0, 8080)).await;
            self.put("Api", &name, &group_api(&name, "/orders")).await;
        }
    }

    /// Changes the path of a group's API.
    pub(crate) async fn change_route_of(&self, group: usize) {
        let (n, name) = (self.next_change(), group_name(group));
        self.put("Api", &name, &group_api(&name, &format!("/changed/{n:0DIGITS$}"))).await;
    }

    /// Changes the path of one API. Gives the number of the change.
    pub(crate) async fn change_route(&self) -> u32 {
        let n = self.next_change();
        self.put("Api", "api-0", &api(0, &format!("/changed/{n:0DIGITS$}"))).await;
        n
    }

    /// Changes the port of one endpoint.
    pub(crate) async fn change_endpoint(&self) {
        let port = 10_000 + self.next_change() % 50_000;
        self.put("Service", "service-0", &service(0, port)).await;
    }

    /// The number of the last change.
    pub(crate) fn last_change(&self) -> u32 {
        self.changes.get()
    }

    fn next_change(&self) -> u32 {
        self.changes.set(self.changes.get() + 1);
        self.last_change()
    }

    async fn put(&self, kind: &str, name: &str, fields: &str) {
        let value = format!("{{kind: {kind}, name: {name}, {fields}}}");
        let mut client = self.client.clone();
        let put = client.put(format!("/tierflow/policies/{kind}/{name}"), value, None);
        within(|| format!("{kind} {name} is not put"), put).await.unwrap();
    }
}

/// The number of the change that a route came with.
pub(crate) fn change_in(body: &[u8]) -> Option<u32> {
    let at = body.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    std::str::from_utf8(body.get(at..at + DIGITS)?).ok()?.parse().ok()
}

/// The name of a group's gateway, and of all that it has.
pub(crate) fn group_name(group: usize) -> String {
    format!("group-{group}")
}

fn group_api(name: &str, path: &str) -> String {
    format!("gateway: {name}, match: {{path: {path}}}, service: {name}")
}

fn service(n: u32, port: u32) -> String {
    format!("endpoints: ['10.0.{n}.1:{port}', '10.0.{n}.2:8080']")
}

fn api(n: u32, path: &str) -> String {
    let limits = "limits: [{rate: 20000/m}, {rate: 1200/m, by: [client_ip]}]";
    let service = n % SERVICES;
    format!("gateway: {GATEWAY}, match: {{path: {path}, methods: [POST]}}, service: service-{service}, {limits}")
}

async fn connect(address: SocketAddr) -> Client {
    let client = Client::connect([format!("http://{address}")], None).await.unwrap();
    while client.clone().get("x", None).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    client
}
