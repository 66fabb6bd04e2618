//! Tierflow's xDS port as another implementation of the protocol sees it: what is right here is not only right for
//! Envoy, nor for how Tierflow's own tests understand the protocol.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tierflow::snapshot::resource::ResourceType::{self, Cluster, Endpoint, Listener, Route};

use crate::grpc_client::{GrpcClient, Reference, Told};
use crate::harness::{Pushes, Tierflow, eventually, save};

/// No Envoy is there, so nobody listens on any of these ports.
const GATEWAY: &str = "
kind: Gateway
name: edge
nodes: { clusters: [edge] }
listen: 127.0.0.1:8000
";

const SERVICES: &str = "
kind: Service
name: order
endpoints: [127.0.0.1:9101]
---
kind: Service
name: pay
endpoints: [127.0.0.1:9201, 127.0.0.1:9202]
";

const APIS: &str = "
kind: Api
name: order
gateway: edge
match: { path_prefix: /order }
service: order
limits: [{ rate: 10/s }]
---
kind: Api
name: pay
gateway: edge
match: { path: /pay, methods: [POST] }
service: pay
";

/// A second gateway of the same clients, with all that it needs.
const INNER: &str = "
kind: Gateway
name: inner
nodes: { ids: [grpc-*] }
listen: 127.0.0.1:8001
---
kind: Service
name: stock
endpoints: [127.0.0.1:9301]
---
kind: Api
name: stock
gateway: inner
match: { path: /stock }
service: stock
";

/// More than any test waits for what exists.
const PATIENT: Duration = Duration::from_secs(60);
/// State of the world has no word for what does not exist: a client knows it by waiting for it in vain.
const IMPATIENT: Duration = Duration::from_millis(200);

/// The responses to a client that follows the gateway's listener: one for each name that it asks for, as each is asked
/// for by itself, and none to an acknowledgement.
const FOLLOWED: Pushes = [3, 2, 0, 1, 1];

/// A Tierflow with its policies. It ends before their folder goes.
struct Shop {
    tierflow: Tierflow,
    folder: TempDir,
}

impl Shop {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let policies = folder.path().join("policies");
        std::fs::create_dir(&policies).unwrap();
        for (file, text) in [("gateway.yaml", GATEWAY), ("services.yaml", SERVICES), ("apis.yaml", APIS)] {
            std::fs::write(policies.join(file), text).unwrap();
        }
        let tierflow = Tierflow::start(&policies).await;
        assert_eq!(tierflow.status().await["refused"], json!([]));
        Self { tierflow, folder }
    }

    async fn start_again(&mut self) {
        self.tierflow = Tierflow::start_on(&self.folder.path().join("policies"), self.tierflow.addresses()).await;
    }

    fn client(&self, patience: Duration) -> GrpcClient {
        GrpcClient::start(self.tierflow.xds, "grpc-1", patience)
    }

    fn save(&self, file: &str, text: &str) {
        save(&self.folder.path().join("policies"), file, text);
    }

    fn remove(&self, file: &str) {
        std::fs::remove_file(self.folder.path().join("policies").join(file)).unwrap();
    }

    async fn node(&self) -> Value {
        self.tierflow.json("/v1/nodes/grpc-1").await["nodes"][0].clone()
    }

    /// Waits until so many responses were sent, and the client has said to the last of each type that it is right.
    async fn is_acknowledged(&self, expected: Pushes) {
        eventually("all is sent and acknowledged", async || {
            let types = self.node().await["types"].as_object().cloned()?;
            let is_acknowledged = |one: &Value| one["acknowledged"] == one["sent"] && one["refused"].is_null();
            let pushes = self.tierflow.pushes().await;
            assert!(pushes.iter().zip(expected).all(|(sent, expected)| *sent <= expected), "{pushes:?}");
            (pushes == expected && types.values().all(is_acknowledged)).then_some(())
        })
        .await;
    }

    /// What the gateway's clients are to have.
    async fn dump(&self) -> BTreeMap<Reference, Value> {
        let dump = self.tierflow.json("/v1/config_dump?gateway=edge").await;
        let resources = dump["resources"].as_array().unwrap().iter().map(|resource| {
            let type_url = resource["resource"]["@type"].as_str().unwrap();
            let resource_type = ResourceType::from_type_url(type_url).unwrap();
            ((resource_type, resource["name"].as_str().unwrap().to_owned()), resource["resource"].clone())
        });
        resources.collect()
    }
}

fn reference(resource_type: ResourceType, name: &str) -> Reference {
    (resource_type, name.to_owned())
}

/// What the watchers have now.
fn held(followed: &BTreeMap<Reference, Told>) -> BTreeMap<Reference, Value> {
    let json = |told: &Told| told.latest().unwrap().unwrap().json;
    followed.iter().map(|(reference, told)| (reference.clone(), json(told))).collect()
}

/// How often each watcher was told something.
fn counts(followed: &BTreeMap<Reference, Told>) -> BTreeMap<Reference, usize> {
    followed.iter().map(|(reference, told)| (reference.clone(), told.all().len())).collect()
}

#[tokio::test]
async fn whoever_follows_a_listener_gets_all_that_is_served_and_each_of_it_once() {
    let shop = Shop::start().await;
    let followed = shop.client(PATIENT).follow("edge").await;
    let dump = shop.dump().await;
    assert_eq!(dump.len(), 7);
    assert_eq!(held(&followed), dump);
    shop.is_acknowledged(FOLLOWED).await;
    let node = shop.node().await;
    assert_eq!(
        (&node["cluster"], &node["protocol"], &node["groups"]),
        (&json!("edge"), &json!("sotw"), &json!(["edge"]))
    );
}

#[tokio::test]
async fn whoever_names_nothing_gets_all_clusters_and_listeners() {
    let shop = Shop::start().await;
    let client = shop.client(PATIENT);
    for (resource_type, expected) in [(Cluster, &["order", "pay", "tierflow:rls"][..]), (Listener, &["edge"])] {
        let told = client.watch(resource_type, "").await;
        let names = eventually("all of them arrive", async || {
            let names: Vec<String> = told.all().into_iter().map(|event| event.unwrap().name).collect();
            (names.len() >= expected.len()).then_some(names)
        });
        assert_eq!(names.await, expected);
    }
    shop.is_acknowledged([1, 0, 0, 1, 0]).await;
}

#[tokio::test]
async fn a_change_is_told_on_the_same_stream_to_those_whom_it_concerns() {
    let shop = Shop::start().await;
    let followed = shop.client(PATIENT).follow("edge").await;
    shop.is_acknowledged(FOLLOWED).await;
    let connected_at = shop.node().await["connected_at"].clone();
    let mut expected = counts(&followed);

    let moved = reference(Endpoint, "order");
    shop.save("services.yaml", &SERVICES.replace("9101", "9109"));
    followed[&moved].shows("9109").await;
    let rerouted = reference(Route, "edge");
    shop.save("apis.yaml", &APIS.replace("/pay", "/charge"));
    followed[&rerouted].shows("/charge").await;

    let [clusters, endpoints, secrets, listeners, routes] = FOLLOWED;
    shop.is_acknowledged([clusters, endpoints + 1, secrets, listeners, routes + 1]).await;
    for changed in [moved, rerouted] {
        *expected.get_mut(&changed).unwrap() += 1;
    }
    assert_eq!(counts(&followed), expected);
    assert_eq!(held(&followed), shop.dump().await);
    assert_eq!(shop.node().await["connected_at"], connected_at);
}

#[tokio::test]
async fn what_does_not_exist_is_absent_until_it_is_created_and_after_it_is_deleted() {
    let shop = Shop::start().await;
    let client = shop.client(IMPATIENT);
    let edge = client.watch(Listener, "edge").await;
    let inner = [(Listener, "inner"), (Route, "inner"), (Cluster, "stock"), (Endpoint, "stock")];
    let mut told = Vec::new();
    for (resource_type, name) in inner {
        told.push(client.watch(resource_type, name).await);
    }
    for told in &told {
        told.is_absent().await;
    }
    edge.shows("8000").await;

    shop.save("inner.yaml", INNER);
    for (told, text) in told.iter().zip(["8001", "/stock", "eds_cluster_config", "9301"]) {
        told.shows(text).await;
    }
    assert_eq!(shop.node().await["groups"], json!(["edge", "inner"]));

    shop.remove("inner.yaml");
    let [listener, routes, cluster, endpoints] = &told[..] else { panic!("{told:?}") };
    listener.is_absent().await;
    // It goes last: requests that are under way still need it.
    assert!(cluster.latest().unwrap().is_ok());
    cluster.is_absent().await;
    // The protocol has no way to say this of the others: who refers to them is gone.
    assert!(routes.latest().unwrap().is_ok() && endpoints.latest().unwrap().is_ok());
    assert!(edge.latest().unwrap().is_ok());
}

#[tokio::test]
async fn a_refusal_is_on_record_with_its_reason_until_it_is_mended() {
    let shop = Shop::start().await;
    let followed = shop.client(PATIENT).follow("edge").await;
    shop.is_acknowledged(FOLLOWED).await;
    let [order, pay] = ["order", "pay"].map(|name| &followed[&reference(Cluster, name)]);
    // Envoy knows it, this client does not.
    shop.save("services.yaml", &SERVICES.replace("name: pay", "name: pay\nload_balancing: random"));
    pay.until("the client refuses the cluster", Result::is_err).await.unwrap_err();
    let clusters_of = async || shop.node().await["types"]["cluster"].clone();
    let refused = eventually("the refusal is on record", async || {
        let refused = clusters_of().await["refused"].clone();
        (!refused.is_null()).then_some(refused)
    })
    .await;
    assert_eq!(refused["message"], "pay: resource validation failed: the client has no load balancing RANDOM");
    assert_eq!(refused["sent"]["generation"], 2);
    assert_eq!(clusters_of().await["acknowledged"]["generation"], 1);
    // Where it stands is told a moment after what it refused.
    let status = eventually("it stands as one that refuses", async || {
        let status = shop.tierflow.status().await;
        (status["nodes"]["refusing"] == 1 && status["held"] != json!([])).then_some(status)
    })
    .await;
    assert_eq!(status["held"][0]["documents"][0]["name"], "pay", "{status}");
    assert!(order.latest().unwrap().is_ok());

    // Other types go on, and what was refused is not sent again.
    shop.save("apis.yaml", &APIS.replace("/pay", "/charge"));
    followed[&reference(Route, "edge")].shows("/charge").await;
    assert_eq!(clusters_of().await["refused"], refused);
    let [clusters, endpoints, secrets, listeners, routes] = FOLLOWED;
    assert_eq!(shop.tierflow.pushes().await[0], clusters + 1);

    shop.save("services.yaml", &SERVICES.replace("name: pay", "name: pay\nconnect_timeout: 3s"));
    pay.until("the client takes the cluster", Result::is_ok).await.unwrap();
    // Each changed cluster came with its endpoints: without them Envoy would not take it into use.
    shop.is_acknowledged([clusters + 2, endpoints + 2, secrets, listeners, routes + 1]).await;
    assert_eq!(held(&followed), shop.dump().await);
}

#[tokio::test]
async fn a_kill_takes_nothing_from_a_client_and_it_gets_what_changes_after() {
    let mut shop = Shop::start().await;
    let followed = shop.client(PATIENT).follow("edge").await;
    shop.tierflow.kill();
    shop.save("services.yaml", &SERVICES.replace("9101", "9109"));
    shop.start_again().await;
    followed[&reference(Endpoint, "order")].shows("9109").await;
    shop.save("apis.yaml", &APIS.replace("/pay", "/charge"));
    followed[&reference(Route, "edge")].shows("/charge").await;

    assert_eq!(held(&followed), shop.dump().await);
    // No watcher ever heard that something is gone or wrong.
    for (reference, told) in &followed {
        assert!(told.all().iter().all(Result::is_ok), "{reference:?} {told:?}");
    }
}
