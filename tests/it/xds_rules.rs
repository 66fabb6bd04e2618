//! Rules of docs/xds.md that are about sockets, streams and connections. The others are in src/xds/rules.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use serde_json::{Value, json};
use tempfile::TempDir;
use tierflow::snapshot::resource::ResourceType;
use tonic::Code;

use crate::ads::{Delta, Sotw, first, first_delta, node, request, subscribe};
use crate::harness::{DEADLINE, Tierflow, any_addresses, eventually, eventually_within, save, tierflow};
use crate::proxy::{Fault, Proxy};

const POLICIES: &str = "
kind: Gateway
name: edge
nodes: { clusters: [edge] }
listen: 127.0.0.1:1
---
kind: Service
name: order
endpoints: [127.0.0.1:9101]
---
kind: Api
name: create
gateway: edge
match: { path: /create }
service: order
";

/// What an Envoy of the gateway asks for, in that order.
const SUBSCRIPTIONS: [(ResourceType, &[&str]); 4] = [
    (ResourceType::Cluster, &[]),
    (ResourceType::Endpoint, &["order"]),
    (ResourceType::Listener, &[]),
    (ResourceType::Route, &["edge"]),
];

struct Shop {
    tierflow: Tierflow,
    folder: TempDir,
}

impl Shop {
    async fn start(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let policies = folder.path().join("policies");
        std::fs::create_dir(&policies).unwrap();
        std::fs::write(policies.join("p.yaml"), POLICIES).unwrap();
        let source = vec![format!("--policies={}", policies.display())];
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let tierflow = Tierflow::serve(&folder.path().join("log"), source, &flags, any_addresses()).await;
        Self { tierflow, folder }
    }

    fn save(&self, text: &str) {
        save(&self.folder.path().join("policies"), "p.yaml", text);
    }

    async fn node(&self, id: &str) -> Value {
        self.tierflow.json(&format!("/v1/nodes/{id}")).await["nodes"].clone()
    }
}

#[tokio::test]
async fn xds_rule_1_only_the_first_request_has_a_node() {
    let shop = Shop::start(&[]).await;
    let mut sotw = Sotw::open(&shop.tierflow).await;
    sotw.say(first("one", ResourceType::Cluster, &[])).await;
    sotw.take(&[]).await;
    sotw.say(request(ResourceType::Endpoint, &["order"])).await;
    assert_eq!(sotw.hear().await.unwrap().resources.len(), 1);
    let mut delta = Delta::open(&shop.tierflow).await;
    delta.say(first_delta("two", ResourceType::Cluster, &[])).await;
    delta.take().await;
    delta.say(subscribe(ResourceType::Endpoint, &["order"])).await;
    assert_eq!(delta.hear().await.unwrap().resources.len(), 1);
}

#[tokio::test]
async fn xds_rule_2_who_does_not_say_who_it_is_is_sent_away() {
    let shop = Shop::start(&[]).await;
    for node in [None, node("")] {
        let mut sotw = Sotw::open(&shop.tierflow).await;
        sotw.say(DiscoveryRequest { node: node.clone(), ..request(ResourceType::Cluster, &[]) }).await;
        assert_eq!(sotw.hear().await.unwrap_err().code(), Code::InvalidArgument);
        let mut delta = Delta::open(&shop.tierflow).await;
        delta.say(DeltaDiscoveryRequest { node, ..subscribe(ResourceType::Cluster, &[]) }).await;
        let status = delta.hear().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("node.id"), "{status}");
    }
}

#[tokio::test]
async fn xds_rule_3_a_node_stays_who_it_was_at_first() {
    let shop = Shop::start(&[]).await;
    let mut sotw = Sotw::open(&shop.tierflow).await;
    sotw.say(first("one", ResourceType::Cluster, &[])).await;
    sotw.take(&[]).await;
    sotw.say(first("other", ResourceType::Endpoint, &["order"])).await;
    assert_eq!(sotw.hear().await.unwrap().resources.len(), 1);
    assert_eq!(shop.node("one").await[0]["types"]["endpoint"]["subscribed"]["names"], 1);
    assert_eq!(shop.tierflow.ask("/v1/nodes/other").await.status, 404);
}

#[tokio::test]
async fn xds_rule_4_every_request_has_a_type() {
    let shop = Shop::start(&[]).await;
    let mut sotw = Sotw::open(&shop.tierflow).await;
    sotw.say(DiscoveryRequest { node: node("one"), ..Default::default() }).await;
    let status = sotw.hear().await.unwrap_err();
    assert_eq!((status.code(), status.message().contains("type_url")), (Code::InvalidArgument, true));
}

#[tokio::test]
async fn xds_rule_6_a_type_that_nobody_serves_ends_nothing() {
    let shop = Shop::start(&[]).await;
    let type_url = "type.googleapis.com/envoy.config.route.v3.VirtualHost";
    let mut sotw = Sotw::open(&shop.tierflow).await;
    sotw.say(DiscoveryRequest { node: node("one"), type_url: type_url.to_owned(), ..Default::default() }).await;
    assert!(sotw.hears_nothing().await);
    sotw.say(request(ResourceType::Cluster, &[])).await;
    assert_eq!(sotw.hear().await.unwrap().type_url, ResourceType::Cluster.type_url());

    let mut delta = Delta::open(&shop.tierflow).await;
    let wanted = DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        ..first_delta("two", ResourceType::Route, &["*", "a/b"])
    };
    delta.say(wanted).await;
    let answer = delta.take().await;
    assert_eq!(
        (answer.type_url.as_str(), answer.removed_resources.as_slice()),
        (type_url, ["a/b".to_owned()].as_slice())
    );
    assert!(delta.hears_nothing().await);
    delta.say(subscribe(ResourceType::Cluster, &[])).await;
    assert_eq!(delta.hear().await.unwrap().type_url, ResourceType::Cluster.type_url());
}

#[tokio::test]
async fn xds_rule_7_a_response_is_of_one_type() {
    let shop = Shop::start(&[]).await;
    let mut sotw = Sotw::open(&shop.tierflow).await;
    let mut delta = Delta::open(&shop.tierflow).await;
    for (resource_type, names) in SUBSCRIPTIONS {
        sotw.say(first("one", resource_type, names)).await;
        let response = sotw.take(names).await;
        assert_eq!(response.type_url, resource_type.type_url());
        assert!(!response.resources.is_empty());
        assert!(response.resources.iter().all(|any| any.type_url == response.type_url));
        delta.say(first_delta("two", resource_type, names)).await;
        let response = delta.take().await;
        let mut types = response.resources.iter().map(|resource| &resource.resource.as_ref().unwrap().type_url);
        assert!(!response.resources.is_empty() && types.all(|type_url| *type_url == response.type_url));
    }
}

#[tokio::test]
async fn xds_rule_9_a_response_says_which_replica_it_is_from() {
    let [one, other] = [Shop::start(&[]).await, Shop::start(&[]).await];
    let mut identifiers = Vec::new();
    for shop in [&one, &other] {
        let mut sotw = Sotw::open(&shop.tierflow).await;
        sotw.say(first("one", ResourceType::Cluster, &[])).await;
        identifiers.push(sotw.hear().await.unwrap().control_plane.unwrap().identifier);
        let mut delta = Delta::open(&shop.tierflow).await;
        delta.say(first_delta("two", ResourceType::Cluster, &[])).await;
        assert_eq!(delta.hear().await.unwrap().control_plane.unwrap().identifier, identifiers[identifiers.len() - 1]);
    }
    assert_ne!(identifiers[0], identifiers[1]);
}

#[tokio::test]
async fn xds_rule_13_streams_of_one_node_do_not_know_each_other() {
    let shop = Shop::start(&[]).await;
    let mut old = Sotw::open(&shop.tierflow).await;
    old.say(first("one", ResourceType::Cluster, &[])).await;
    old.take(&[]).await;
    let mut new = Delta::open(&shop.tierflow).await;
    new.say(first_delta("one", ResourceType::Cluster, &[])).await;
    new.take().await;
    assert_eq!(shop.node("one").await.as_array().unwrap().len(), 2);
    drop(old);
    eventually("the old stream is gone", async || {
        (shop.node("one").await.as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    let status = shop.node("one").await[0].clone();
    assert_eq!((&status["protocol"], status["types"]["cluster"]["acknowledged"].is_null()), (&json!("delta"), false));
    shop.save(&POLICIES.replace("9101]", "9101]\nload_balancing: random"));
    assert_eq!(new.hear().await.unwrap().resources.len(), 1);
}

#[tokio::test]
async fn xds_rule_22_a_source_that_is_empty_empties_nobody() {
    let shop = Shop::start(&[]).await;
    let mut sotw = Sotw::open(&shop.tierflow).await;
    sotw.say(first("one", ResourceType::Cluster, &[])).await;
    sotw.take(&[]).await;
    shop.save("");
    let reloads = async || {
        let metrics = shop.tierflow.ask("/metrics").await.text();
        metrics.contains("tierflow_reload_total{result=\"empty\"}").then_some(())
    };
    eventually("the empty folder was read", reloads).await;
    assert!(sotw.hears_nothing().await);
}

/// Clusters of another content each time.
fn policies(timeout: u32) -> String {
    POLICIES.replace("9101]", &format!("9101]\nconnect_timeout: {timeout}ms"))
}

#[tokio::test]
async fn xds_rule_66_it_is_known_who_has_what_and_xds_rule_68_who_does_not_answer() {
    let shop = Shop::start(&[]).await;
    let mut envoys = Vec::new();
    for id in ["takes", "refuses", "waits"] {
        let mut envoy = Sotw::open(&shop.tierflow).await;
        envoy.say(first(id, ResourceType::Cluster, &[])).await;
        envoy.take(&[]).await;
        envoys.push(envoy);
    }
    shop.save(&policies(7));
    let [takes, refuses, waits] = envoys.as_mut_slice() else { panic!("three Envoys") };
    takes.take(&[]).await;
    let nodes = async || shop.tierflow.status().await["nodes"].clone();
    eventually("one has it", async || (nodes().await["live"] == 1).then_some(())).await;
    let refused = refuses.hear().await.unwrap();
    refuses.refuse(&refused, "no").await;
    waits.hear().await.unwrap();
    eventually("another refuses it", async || (nodes().await["refusing"] == 1).then_some(())).await;
    assert_eq!([&nodes().await["pending"], &nodes().await["held"]], [&json!(1), &json!(0)]);
    let told = tierflow(&["status", &format!("--server=http://{}", shop.tierflow.admin())]);
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(text.starts_with("generation 2 "), "{text}");
    assert!(text.contains(" is live on 1 of 3 Envoys, 1 REFUSED, 1 STALE"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("REFUSED  ") && line.ends_with("cluster: no")), "{text}");
    assert!(
        text.lines().any(|line| line.starts_with("STALE ") && line.ends_with("no answer yet about cluster")),
        "{text}"
    );
    assert_eq!(told.status.code(), Some(1));

    eventually("the third is late", async || (nodes().await["late"] == 1).then_some(())).await;
    let is_late = async || (shop.node("waits").await[0]["types"]["cluster"]["late"] == true).then_some(());
    eventually("and so is its answer", is_late).await;
}

/// A second cluster beside the one that is refused.
#[tokio::test]
async fn xds_rule_65_a_refusal_stays_on_record_while_others_are_acknowledged() {
    let shop = Shop::start(&[]).await;
    let pay = "---\nkind: Service\nname: pay\nendpoints: [127.0.0.1:9201]\n---\n\
               kind: Api\nname: pay\ngateway: edge\nmatch: { path: /pay }\nservice: pay\n";
    let both = |timeout| format!("{}{pay}", policies(timeout));
    shop.save(&both(1));
    let mut envoy = Sotw::open(&shop.tierflow).await;
    envoy.say(first("one", ResourceType::Cluster, &[])).await;
    while envoy.take(&[]).await.resources.len() < 3 {}
    shop.save(&both(2));
    let refused = envoy.hear().await.unwrap();
    envoy.refuse(&refused, "order: no").await;
    let is_refused = async || {
        let node = shop.node("one").await[0].clone();
        let message = &node["types"]["cluster"]["refused"]["message"];
        (*message == "order: no" && node["standing"] == "refusing").then_some(())
    };
    eventually("the refusal is on record", is_refused).await;
    shop.save(&both(2).replace("9201]", "9201]\nload_balancing: random"));
    envoy.take(&[]).await;
    let acknowledged =
        async || (shop.node("one").await[0]["types"]["cluster"]["acknowledged"]["generation"] == 4).then_some(());
    eventually("the other cluster is acknowledged", acknowledged).await;
    assert!(is_refused().await.is_some());
    shop.save(&both(3));
    envoy.take(&[]).await;
    eventually("it is mended", async || (shop.node("one").await[0]["standing"] == "live").then_some(())).await;
}

#[tokio::test]
async fn xds_rule_87_who_does_not_answer_keeps_nobody_waiting_and_gets_the_newest_in_the_end() {
    let shop = Shop::start(&[]).await;
    let mut stalled = Sotw::open(&shop.tierflow).await;
    let mut other = Delta::open(&shop.tierflow).await;
    stalled.say(first("stalled", ResourceType::Cluster, &[])).await;
    other.say(first_delta("other", ResourceType::Cluster, &[])).await;
    stalled.take(&[]).await;
    other.take().await;
    let mut newest = String::new();
    for timeout in 1..30 {
        shop.save(&policies(timeout));
        newest = other.take().await.resources[0].version.clone();
    }
    let versions = [stalled.take(&[]).await, stalled.take(&[]).await].map(|response| response.version_info);
    assert_ne!(versions[0], versions[1]);
    assert!(stalled.hears_nothing().await);
    let dump = shop.tierflow.json("/v1/config_dump?gateway=edge").await;
    let served = dump["resources"].as_array().unwrap().iter().find(|resource| resource["name"] == "order").unwrap();
    assert_eq!(served["version"], newest);
}

#[tokio::test]
async fn xds_rule_72_responses_are_on_the_wire_in_the_order_of_references() {
    let shop = Shop::start(&[]).await;
    let mut sotw = Sotw::open(&shop.tierflow).await;
    for (resource_type, names) in SUBSCRIPTIONS {
        sotw.say(first("one", resource_type, names)).await;
        sotw.take(names).await;
    }
    eventually("it has everything", async || (shop.node("one").await[0]["standing"] == "live").then_some(())).await;
    let changed = POLICIES.replace("9101]", "9102]\nload_balancing: random").replace("/create", "/new");
    shop.save(&changed.replace("127.0.0.1:1\n", "127.0.0.1:2\n"));
    for (resource_type, names) in SUBSCRIPTIONS {
        let response = sotw.take(names).await;
        assert_eq!(response.type_url, resource_type.type_url());
    }
    let converged = async || {
        let metrics = shop.tierflow.ask("/metrics").await.text();
        let count = metrics.lines().find_map(|line| line.strip_prefix("tierflow_xds_convergence_seconds_count "));
        (count == Some("1")).then_some(())
    };
    eventually("the change is known to have reached everybody", converged).await;
}

#[tokio::test]
async fn xds_rule_90_a_first_request_may_name_a_hundred_thousand_resources() {
    let shop = Shop::start(&[]).await;
    let mut delta = Delta::open(&shop.tierflow).await;
    let has = |number: u32| (format!("service-that-was-there-before-{number}"), format!("{number:032x}"));
    let initial_resource_versions = (0..99_000).map(has).collect();
    let request =
        DeltaDiscoveryRequest { initial_resource_versions, ..first_delta("one", ResourceType::Listener, &["*"]) };
    delta.say(request).await;
    let response = delta.hear().await.unwrap();
    assert_eq!((response.resources.len(), response.removed_resources.len()), (1, 99_000));
}

#[tokio::test]
async fn xds_rule_93_who_comes_when_it_is_full_is_told_so() {
    let shop = Shop::start(&["--xds-streams-max=1"]).await;
    let mut one = Sotw::open(&shop.tierflow).await;
    one.say(first("one", ResourceType::Cluster, &[])).await;
    one.hear().await.unwrap();
    let status = Sotw::try_open(shop.tierflow.xds).await.err().unwrap();
    assert_eq!((status.code(), status.message().contains("1 streams are open")), (Code::ResourceExhausted, true));
    drop(one);
    eventually("there is room again", async || Sotw::try_open(shop.tierflow.xds).await.ok()).await;
}

#[tokio::test]
async fn xds_rule_93_a_crowd_is_let_in_one_by_one() {
    let shop = Shop::start(&["--xds-streams-per-second=1"]).await;
    let mut crowd = tokio::task::JoinSet::new();
    let xds = shop.tierflow.xds;
    for _ in 0..10 {
        crowd.spawn(async move { Sotw::try_open(xds).await.err().map(|status| status.code()) });
    }
    let turned_away = crowd.join_all().await.into_iter().flatten().collect::<Vec<_>>();
    assert!(!turned_away.is_empty() && turned_away.len() < 10, "{turned_away:?}");
    assert!(turned_away.iter().all(|code| *code == Code::ResourceExhausted), "{turned_away:?}");
}

#[tokio::test]
async fn xds_rule_94_a_connection_has_an_age() {
    let shop = Shop::start(&["--xds-connection-age=1s"]).await;
    let mut sotw = Sotw::open(&shop.tierflow).await;
    sotw.say(first("one", ResourceType::Cluster, &[])).await;
    sotw.hear().await.unwrap();
    let status = sotw.hear().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "closing; connect again"));
}

#[tokio::test]
async fn a_stream_that_says_nothing_is_ended() {
    let shop = Shop::start(&[]).await;
    let mut sotw = Sotw::open(&shop.tierflow).await;
    assert_eq!(sotw.hear().await.unwrap_err().code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_request_that_is_too_much_is_refused_with_the_bound() {
    let shop = Shop::start(&[]).await;
    let name = "x".repeat(4097);
    let names: Vec<String> = (0..100_001).map(|number| number.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let long_id = "i".repeat(1025);
    let mut of_long_version = first("one", ResourceType::Route, &[]);
    let version = UserAgentVersionType::UserAgentVersion("9".repeat(1025));
    of_long_version.node.as_mut().unwrap().user_agent_version_type = Some(version);
    let too_much = [
        (first("one", ResourceType::Route, &[&name]), Code::ResourceExhausted, "4096 bytes"),
        (first("one", ResourceType::Route, &names), Code::ResourceExhausted, "100000 names"),
        (first(&long_id, ResourceType::Route, &[]), Code::InvalidArgument, "1024 bytes"),
        (of_long_version, Code::InvalidArgument, "1024 bytes"),
    ];
    for (request, code, bound) in too_much {
        let mut sotw = Sotw::open(&shop.tierflow).await;
        sotw.say(request).await;
        let status = sotw.hear().await.unwrap_err();
        assert_eq!((status.code(), status.message().contains(bound)), (code, true), "{status}");
    }
}

#[tokio::test]
async fn names_are_bounded_over_all_requests_of_a_stream() {
    let shop = Shop::start(&[]).await;
    let mut delta = Delta::open(&shop.tierflow).await;
    for start in [0, 60_000] {
        let names: Vec<String> = (start..start + 60_000).map(|number| number.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        delta.say(first_delta("one", ResourceType::Route, &names)).await;
    }
    assert_eq!(delta.hear().await.unwrap().removed_resources.len(), 60_000);
    let status = delta.hear().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "more than 100000 names of one type"));
}

/// A peer that answers nothing, not even a ping, is no longer there.
#[tokio::test]
async fn xds_rule_95_a_dead_peer_is_noticed() {
    let shop = Shop::start(&[]).await;
    let proxy = Proxy::start(shop.tierflow.xds).await;
    let mut behind = Sotw::open_at(proxy.address).await;
    behind.say(first("one", ResourceType::Cluster, &[])).await;
    behind.hear().await.unwrap();
    proxy.set(Fault::Blackhole);
    let is_gone = async || (shop.node("one").await[0]["state"] == "GONE").then_some(());
    eventually_within(DEADLINE * 2, "the dead peer is gone", is_gone).await;
}

/// One that reads nothing of its only response, and answers pings all the same.
#[tokio::test]
async fn xds_rule_89_a_reader_that_does_not_read_is_dropped() {
    let shop = Shop::start(&[]).await;
    let tcp = tokio::net::TcpStream::connect(shop.tierflow.xds).await.unwrap();
    let (mut client, connection) =
        h2::client::Builder::new().initial_window_size(16).handshake::<_, prost::bytes::Bytes>(tcp).await.unwrap();
    let connection = tokio::spawn(connection);
    let path = "envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
    let request = hyper::Request::post(format!("http://{}/{path}", shop.tierflow.xds)).body(()).unwrap();
    let (_response, mut requests) = client.send_request(request, false).unwrap();
    let message = prost::Message::encode_to_vec(&first("slow", ResourceType::Cluster, &[]));
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    requests.send_data([&[0][..], &length, &message].concat().into(), false).unwrap();
    eventually("it is sent something", async || {
        let node = shop.node("slow").await;
        (!node[0]["types"]["cluster"]["sent"].is_null()).then_some(())
    })
    .await;
    tokio::time::timeout(Duration::from_secs(60), connection).await.expect("its connection stays").unwrap().ok();
    let is_gone = async || (shop.node("slow").await[0]["state"] == "GONE").then_some(());
    eventually("it is gone", is_gone).await;
}
