//! The least that a server of such streams can do with the same transport: each stream a task that waits for one
//! watched number and sends a response of the same size. It knows no policies, subscriptions or acknowledgements.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::process::ChildStdin;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::google::protobuf::Any;
use tierflow::snapshot::resource::ResourceType;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::store::GATEWAY;
use crate::tls;

/// With an address and a size in it, the benchmark's program is this server.
pub(crate) const VARIABLE: &str = "TIERFLOW_BENCH_FLOOR";

/// Where it is to listen, and how large its resource is.
pub(crate) fn asked_for() -> Option<(SocketAddr, usize)> {
    let value = std::env::var(VARIABLE).ok()?;
    let (address, bytes) = value.split_once(' ')?;
    Some((address.parse().ok()?, bytes.parse().ok()?))
}

/// Every line on standard input is a change.
pub(crate) fn serve(address: SocketAddr, bytes: usize) {
    let (changes, _) = watch::channel(0);
    let floor = Floor { changes: changes.clone(), bytes };
    std::thread::spawn(move || {
        for _ in std::io::stdin().lock().lines() {
            changes.send_modify(|change| *change += 1);
        }
    });
    Runtime::new().unwrap().block_on(async {
        // Bound as Tierflow's ports are: with as long a queue of connections that wait to be accepted.
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let incoming = TcpIncoming::from(TcpListener::from_std(listener).unwrap()).with_nodelay(Some(true));
        let service = AggregatedDiscoveryServiceServer::new(floor);
        let mut server = Server::builder();
        if let Some(tls) = tls::of_floor() {
            server = server.tls_config(tls).unwrap();
        }
        server.add_service(service).serve_with_incoming(incoming).await.unwrap();
    });
}

pub(crate) fn change(stdin: &mut ChildStdin) {
    stdin.write_all(b"\n").unwrap();
}

struct Floor {
    changes: watch::Sender<u64>,
    bytes: usize,
}

type Responses<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Floor {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta alone"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (sender, receiver) = mpsc::channel(1);
        let (changes, bytes) = (self.changes.subscribe(), self.bytes);
        tokio::spawn(run(request.into_inner(), changes, bytes, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

async fn run(
    mut requests: Streaming<DeltaDiscoveryRequest>,
    mut changes: watch::Receiver<u64>,
    bytes: usize,
    sender: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
) {
    changes.mark_changed();
    loop {
        tokio::select! {
            request = requests.message() => if !matches!(request, Ok(Some(_))) {
                return;
            },
            Ok(()) = changes.changed() => {
                let change = *changes.borrow_and_update();
                if sender.send(Ok(response(change, bytes))).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn response(change: u64, bytes: usize) -> DeltaDiscoveryResponse {
    let type_url = ResourceType::Route.type_url().to_owned();
    let body = Any { type_url: type_url.clone(), value: vec![0; bytes] };
    let version = change.to_string();
    let resource =
        Resource { name: GATEWAY.to_owned(), version: version.clone(), resource: Some(body), ..Default::default() };
    DeltaDiscoveryResponse {
        system_version_info: version.clone(),
        resources: vec![resource],
        type_url,
        nonce: version,
        ..Default::default()
    }
}
