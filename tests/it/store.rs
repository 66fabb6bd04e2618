//! A real etcd with the documents of a test in it, and a Tierflow that takes them from there.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Tierflow, any_addresses, eventually, free_address};
use crate::kit::etcd::Etcd;

/// A gateway, a service, an Api and a plan. Their rates are what tests change.
pub(crate) const SHOP: [(&str, &str, &str); 4] = [
    (
        "Gateway",
        "edge",
        "{nodes: {clusters: [edge]}, listen: 127.0.0.1:10000, tenant: {from: {header: x-tenant-id}, default_plan: standard}}",
    ),
    ("Service", "upstream", "{endpoints: ['127.0.0.1:9101']}"),
    ("Api", "pay", "{gateway: edge, match: {path: /pay}, service: upstream, limits: [{rate: 1000/h}]}"),
    ("Plan", "standard", "{limits: [{rate: 1/h}]}"),
];

pub(crate) struct Store {
    pub(crate) etcd: Etcd,
    pub(crate) client: Client,
    pub(crate) folder: TempDir,
}

impl Store {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(flags: &[String]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let etcd = Etcd::start(folder.path(), free_address(), free_address(), flags).unwrap();
        let client = Client::connect([format!("http://{}", etcd.address)], None).await.unwrap();
        let store = Self { etcd, client, folder };
        store.answers().await;
        store
    }

    pub(crate) async fn answers(&self) {
        eventually("etcd answers", async || self.client.clone().get("x", None).await.ok()).await;
    }

    /// With the shop in it.
    pub(crate) async fn start_shop() -> Self {
        let store = Self::start().await;
        let documents = SHOP.map(|(kind, name, fields)| (key(kind, name), document(kind, name, fields)));
        store.put_all(&documents).await;
        store
    }

    pub(crate) async fn put(&self, key: &str, value: &str) -> i64 {
        let response = self.client.clone().put(key, value, None).await.unwrap();
        response.header().unwrap().revision()
    }

    /// In one transaction.
    pub(crate) async fn put_all(&self, entries: &[(String, String)]) {
        let puts: Vec<_> = entries.iter().map(|(key, value)| TxnOp::put(key.clone(), value.clone(), None)).collect();
        // A condition that always holds.
        let always = [Compare::version("never", CompareOp::Equal, 0)];
        let response = self.client.clone().txn(Txn::new().when(always).and_then(puts)).await.unwrap();
        assert!(response.succeeded());
    }

    /// The plan whose rate tells what is served.
    pub(crate) async fn put_rate(&self, rate: u32) -> i64 {
        self.put(&key("Plan", "standard"), &document("Plan", "standard", &format!("{{limits: [{{rate: {rate}/h}}]}}")))
            .await
    }

    pub(crate) async fn delete(&self, key: &str) {
        assert_eq!(self.client.clone().delete(key, None).await.unwrap().deleted(), 1);
    }

    /// Waits for as long as a lease of so many seconds lives without its holder, by etcd's own clock. Whatever happens
    /// meanwhile is looked at again and again.
    pub(crate) async fn outlast_lease(&self, ttl: u64, mut meanwhile: impl AsyncFnMut()) {
        let mut client = self.client.clone();
        let lease = client.lease_grant(ttl as i64, None).await.unwrap().id();
        client.put("/clock", "", Some(PutOptions::new().with_lease(lease))).await.unwrap();
        let is_over = async || {
            meanwhile().await;
            client.get("/clock", None).await.unwrap().kvs().is_empty().then_some(())
        };
        eventually("the lease runs out", is_over).await;
    }

    pub(crate) fn endpoint(&self) -> Vec<String> {
        source(&[self.etcd.address])
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) async fn tierflow(&self) -> Tierflow {
        self.tierflow_at(self.endpoint(), &[]).await
    }

    pub(crate) async fn tierflow_at(&self, source: Vec<String>, flags: &[String]) -> Tierflow {
        Tierflow::serve(&self.path("tierflow.log"), source, flags, any_addresses()).await
    }

    pub(crate) fn state_dir(&self) -> Vec<String> {
        vec![format!("--state-dir={}", self.path("state").display())]
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("tierflow.log")).unwrap()
    }
}

/// How verbs are told of these endpoints.
pub(crate) fn source(endpoints: &[SocketAddr]) -> Vec<String> {
    let endpoints: Vec<_> = endpoints.iter().map(|address| format!("http://{address}")).collect();
    vec![format!("--etcd={}", endpoints.join(","))]
}

/// Where nobody listens.
pub(crate) fn nowhere() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_address().port()).into()
}

pub(crate) fn key(kind: &str, name: &str) -> String {
    format!("/tierflow/policies/{kind}/{name}")
}

pub(crate) fn document(kind: &str, name: &str, fields: &str) -> String {
    let fields = fields.trim_start_matches('{');
    format!("{{kind: {kind}, name: {name}, {fields}")
}

/// What of the plan is served.
pub(crate) async fn rate(tierflow: &Tierflow) -> Option<u32> {
    let document = tierflow.json("/v1/policies/Plan/standard").await;
    document["text"].as_str()?.split("rate: ").nth(1)?.split('/').next()?.parse().ok()
}

pub(crate) async fn serves_rate(tierflow: &Tierflow, expected: u32) {
    eventually("the rate is served", async || (rate(tierflow).await == Some(expected)).then_some(())).await;
}

/// How often the source was listed anew, for a reason.
pub(crate) async fn resyncs(tierflow: &Tierflow, reason: &str) -> u64 {
    let metrics = tierflow.ask("/metrics").await.text();
    let name = format!("tierflow_source_resyncs_total{{reason=\"{reason}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
}

pub(crate) async fn check(tierflow: &Tierflow, name: &str) -> Value {
    let ready = tierflow.json("/readyz").await;
    ready["checks"].as_array().unwrap().iter().find(|check| check["name"] == name).unwrap().clone()
}
