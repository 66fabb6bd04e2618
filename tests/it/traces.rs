//! Spans, as a collector gets them: those of a real Envoy and those of Tierflow are one tree, and a denial leads to it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::harness::{Edge, Setup, Tierflow, any_addresses, eventually, free_address, gateway};
use crate::kit::upstream::Upstream;
use crate::redis_store::Server as Redis;
use crate::tls::Certificate;

/// One request an hour, each of which the store is asked about.
const API: &str = "kind: Api
name: sale
gateway: edge
match: { path: /sale }
service: upstream
limits: [{ rate: 1/h, name: hourly, exact: true }]
";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A collector that takes OTLP.
pub(crate) struct Collector {
    recorder: Recorder,
    pub(crate) address: SocketAddr,
    _server: AbortOnDropHandle<()>,
}

#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    service: String,
    name: String,
    trace: String,
    id: String,
    /// Empty: it has none.
    parent: String,
    attributes: BTreeMap<String, String>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        Self::start_on((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    async fn start_on(address: SocketAddr) -> Self {
        Self::serve(address, Server::builder()).await
    }

    /// With TLS: it shows this certificate, and asks for none.
    pub(crate) async fn start_tls(shown: &Certificate) -> Self {
        let identity = Identity::from_pem(&shown.certificate, &shown.key);
        let server = Server::builder().tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
        Self::serve((Ipv4Addr::LOCALHOST, 0).into(), server).await
    }

    async fn serve(address: SocketAddr, mut server: Server) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let recorder = Recorder::default();
        let service = TraceServiceServer::new(recorder.clone());
        let serve = server.add_service(service);
        let server =
            tokio::spawn(async move { serve.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap() });
        Self { recorder, address, _server: AbortOnDropHandle::new(server) }
    }

    /// From here on it takes nothing.
    pub(crate) fn refuse(&self) {
        self.recorder.refuses.store(true, Ordering::Relaxed);
    }

    /// Whether it hangs: it answers nobody meanwhile.
    pub(crate) fn hangs(&self, hangs: bool) {
        self.recorder.hangs.send_replace(hangs);
    }

    pub(crate) fn all(&self) -> Vec<Recorded> {
        self.recorder.spans.lock().clone()
    }

    /// What was sent along with the last spans.
    pub(crate) fn headers(&self) -> String {
        self.recorder.headers.lock().clone()
    }

    fn of_trace(&self, trace: &str) -> Vec<Recorded> {
        self.all().into_iter().filter(|span| span.trace == trace).collect()
    }
}

#[derive(Clone, Default)]
struct Recorder {
    spans: Arc<Mutex<Vec<Recorded>>>,
    headers: Arc<Mutex<String>>,
    refuses: Arc<AtomicBool>,
    hangs: watch::Sender<bool>,
}

#[tonic::async_trait]
impl TraceService for Recorder {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.hangs.subscribe().wait_for(|hangs| !hangs).await.unwrap();
        if self.refuses.load(Ordering::Relaxed) {
            return Err(Status::unauthenticated("nobody is let in any more"));
        }
        *self.headers.lock() = format!("{:?}", request.metadata());
        for resource in request.into_inner().resource_spans {
            let own = attributes(&resource.resource.unwrap().attributes);
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.spans.lock().extend(spans.map(|span| recorded(&own["service.name"], span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn recorded(service: &str, span: Span) -> Recorded {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Recorded {
        service: service.to_owned(),
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        attributes: attributes(&span.attributes),
        name: span.name,
    }
}

fn attributes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(&attribute.value))).collect()
}

/// The programs end before their folder goes.
struct World {
    edge: Edge,
    tierflow: Tierflow,
    _upstream: Upstream,
    _store: Redis,
    folder: TempDir,
}

impl World {
    /// With fields of the gateway, and a collector for Tierflow's spans.
    async fn start(fields: &str, collector: SocketAddr) -> Self {
        let store = Redis::start(&[]);
        store.connection().await;
        let folder = tempfile::tempdir().unwrap();
        let upstream = Upstream::start("upstream", (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let (policies, listen) = (folder.path().join("policies"), free_address());
        let fields = format!("tenant: {{ from: {{ header: x-tenant-id }}, default_plan: free }}\n{fields}");
        std::fs::create_dir(&policies).unwrap();
        let setup = Setup { gateway: &fields, ..Default::default() };
        std::fs::write(policies.join("gateway.yaml"), gateway(&setup, listen, upstream.address)).unwrap();
        std::fs::write(
            policies.join("policies.yaml"),
            format!("{API}---\n{{kind: Plan, name: free, limits: [{{rate: 1000/h}}]}}\n"),
        )
        .unwrap();
        let source = vec![format!("--policies={}", policies.display())];
        let flags = [
            format!("--counters={}", store.url()),
            "--counters-timeout=1s".to_owned(),
            format!("--traces-otlp=http://{collector}"),
            format!("--denials-log={}", denials(&folder).display()),
        ];
        let tierflow = Tierflow::serve(&folder.path().join("tierflow.log"), source, &flags, any_addresses()).await;
        assert_eq!(tierflow.status().await["refused"], json!([]));
        eventually("the store is there", async || {
            (tierflow.status().await["counters"]["redis"]["connections_open"] == 4).then_some(())
        })
        .await;
        let edge = Edge::start(folder.path(), &tierflow, "edge-1", "delta", listen);
        edge.ready().await;
        Self { edge, tierflow, _upstream: upstream, _store: store, folder }
    }

    /// Uses up the limit, and is denied with these headers. Returns the line of the denial.
    async fn denied(&self, headers: &[(&str, &str)]) -> Value {
        let headers: Vec<_> = [("x-tenant-id", "acme")].iter().chain(headers).copied().collect();
        assert_eq!(self.edge.send("GET", "/sale", &headers).await.status, 200);
        assert_eq!(self.edge.send("GET", "/sale", &headers).await.status, 429);
        let path = denials(&self.folder);
        eventually("the denial is noted", async || lines(&path).pop()).await
    }
}

fn denials(folder: &TempDir) -> PathBuf {
    folder.path().join("denials.jsonl")
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn metric(metrics: &str, series: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series}: {metrics}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_leads_to_one_trace_from_envoy_to_the_decision_to_the_store() {
    let collector = Collector::start().await;
    let fields = format!("tracing: {{ otlp: '{}', sample_per_10000: 10000 }}", collector.address);
    let world = World::start(&fields, collector.address).await;
    let line = world.denied(&[]).await;
    let told =
        ["gateway", "api", "tenant", "result", "tier", "limit", "trace_sampled"].map(|field| line[field].clone());
    let expected =
        [json!("edge"), "sale".into(), "acme".into(), "denied".into(), "api".into(), "hourly".into(), true.into()];
    assert_eq!(told, expected);
    let trace = line["trace_id"].as_str().unwrap();
    let spans = eventually("all spans of the trace have come", async || {
        let spans = collector.of_trace(trace);
        (spans.len() >= 4).then_some(spans)
    })
    .await;
    // One after the other, from the one without a parent on.
    let mut chain = Vec::new();
    let mut parent = String::new();
    while let Some(span) = spans.iter().find(|span| span.parent == parent) {
        chain.push(span.clone());
        parent = span.id.clone();
    }
    assert_eq!((chain.len(), spans.len()), (4, 4), "one tree: {spans:#?}");
    let named: Vec<_> = chain.iter().map(|span| (span.service.as_str(), span.name.as_str())).collect();
    let asked = "async envoy.service.ratelimit.v3.RateLimitService.ShouldRateLimit egress";
    let [ingress, ours @ ..] = &named[..] else { unreachable!() };
    assert_eq!(ingress.0, "edge");
    assert_eq!(ours, [("edge", asked), ("tierflow", "decision"), ("tierflow", "counter store")], "{named:?}");
    let decision = &chain[2].attributes;
    let said =
        ["gateway", "api", "tenant", "result", "tier", "limit"].map(|key| &*decision[&format!("tierflow.{key}")]);
    assert_eq!(said, ["edge", "sale", "acme", "denied", "api", "hourly"]);
    let metrics = world.tierflow.ask("/metrics").await.text();
    let exemplar = format!("trace_id=\"{trace}\"");
    let has_exemplar = |line: &&str| line.starts_with("tierflow_decision_seconds_bucket") && line.contains(" # {");
    let exemplars: Vec<&str> = metrics.lines().filter(has_exemplar).collect();
    assert!(exemplars.iter().any(|line| line.contains(&exemplar)), "{exemplars:?}");
    assert!(metric(&metrics, "tierflow_denials_logged_total{result=\"written\"}") >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_says_of_its_trace_is_believed_where_the_gateway_says_so_alone() {
    let collector = Collector::start().await;
    let tracing = |fields: &str| format!("tracing: {{ otlp: '{}', sample_per_10000: 0{fields} }}", collector.address);
    let headers = [("traceparent", TRACEPARENT), ("x-client-trace-id", "1"), ("x-envoy-force-trace", "1")];
    let suspicious = World::start(&tracing(""), collector.address).await;
    let line = suspicious.denied(&headers).await;
    assert_ne!(line["trace_id"], TRACE_ID);
    assert_eq!(line["trace_sampled"], false, "{line}");
    let trusting = World::start(&tracing(", continue_traces: true"), collector.address).await;
    let line = trusting.denied(&headers).await;
    assert_eq!((&line["trace_id"], &line["trace_sampled"]), (&json!(TRACE_ID), &json!(true)));
    eventually("the decisions are part of the client's trace", async || {
        let spans = collector.of_trace(TRACE_ID);
        (spans.iter().filter(|span| span.name == "decision").count() == 2).then_some(())
    })
    .await;
    assert!(collector.all().iter().all(|span| span.trace == TRACE_ID), "{:#?}", collector.all());
}

/// Without an Envoy that makes spans, by the share that the flag says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_costs_spans_and_what_waits_at_the_end_is_exported() {
    let (folder, address) = (tempfile::tempdir().unwrap(), free_address());
    let upstream = Upstream::start("upstream", (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let (policies, listen) = (folder.path().join("policies"), free_address());
    std::fs::create_dir(&policies).unwrap();
    std::fs::write(policies.join("gateway.yaml"), gateway(&Setup::default(), listen, upstream.address)).unwrap();
    std::fs::write(policies.join("policies.yaml"), API.replace("1/h", "1000000/h")).unwrap();
    let source = vec![format!("--policies={}", policies.display())];
    let flags = [format!("--traces-otlp=http://{address}"), "--traces-sample-per-10000=10000".to_owned()];
    let log = folder.path().join("tierflow.log");
    let tierflow = Tierflow::serve(&log, source, &flags, any_addresses()).await;
    let edge = Edge::start(folder.path(), &tierflow, "edge-1", "delta", listen);
    edge.ready().await;
    let spans = async |result: &str| {
        let metrics = tierflow.ask("/metrics").await.text();
        metric(&metrics, &format!("tierflow_trace_spans_total{{result=\"{result}\"}}"))
    };
    assert_eq!(edge.get("/sale").await.status, 200);
    eventually("spans are lost", async || (spans("failed").await > 0).then_some(())).await;
    assert_eq!(edge.get("/sale").await.status, 200);
    let told = std::fs::read_to_string(&log).unwrap();
    assert_eq!(told.lines().filter(|line| line.contains("spans are lost")).count(), 1, "{told}");
    let collector = Collector::start_on(address).await;
    eventually("spans arrive", async || {
        assert_eq!(edge.get("/sale").await.status, 200);
        (spans("exported").await > 0).then_some(())
    })
    .await;
    let before = collector.all().len();
    assert_eq!(edge.get("/sale").await.status, 200);
    tierflow.signal("TERM");
    assert!(tierflow.ended().await.success());
    let all = collector.all();
    assert!(all.len() > before, "the last one is not there");
    assert!(all.iter().all(|span| span.parent.is_empty() && span.name == "decision"), "{all:#?}");
}
