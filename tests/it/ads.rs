//! An ADS stream of either variant as a test speaks it: message by message.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tierflow::snapshot::resource::ResourceType;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::harness::{DEADLINE, Tierflow};
use crate::tls::TlsClient;

/// How long nothing has to be heard to be taken for silence. What is wrong is said at once, or not much later.
const SILENCE: Duration = Duration::from_millis(300);

pub(crate) struct Ads<Request, Response> {
    requests: mpsc::Sender<Request>,
    responses: Streaming<Response>,
}

pub(crate) type Sotw = Ads<DiscoveryRequest, DiscoveryResponse>;
pub(crate) type Delta = Ads<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;

async fn client(xds: SocketAddr) -> AggregatedDiscoveryServiceClient<Channel> {
    let client = AggregatedDiscoveryServiceClient::connect(format!("http://{xds}")).await.unwrap();
    client.max_decoding_message_size(usize::MAX)
}

impl Sotw {
    pub(crate) async fn open(tierflow: &Tierflow) -> Self {
        Self::open_at(tierflow.xds).await
    }

    pub(crate) async fn open_at(xds: SocketAddr) -> Self {
        Self::try_open(xds).await.unwrap()
    }

    pub(crate) async fn try_open(xds: SocketAddr) -> Result<Self, Status> {
        Self::try_open_over(client(xds).await).await
    }

    /// As somebody with a certificate.
    pub(crate) async fn open_as(client: &TlsClient, xds: SocketAddr) -> Self {
        Self::try_open_over(AggregatedDiscoveryServiceClient::new(client.connect(xds).await)).await.unwrap()
    }

    async fn try_open_over(mut client: AggregatedDiscoveryServiceClient<Channel>) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(8);
        let stream = client.stream_aggregated_resources(ReceiverStream::new(receiver)).await?;
        Ok(Self { requests, responses: stream.into_inner() })
    }

    /// Hears a response and acknowledges it.
    pub(crate) async fn take(&mut self, names: &[&str]) -> DiscoveryResponse {
        let response = self.hear().await.unwrap();
        self.ack(&response, names).await;
        response
    }

    pub(crate) async fn refuse(&self, response: &DiscoveryResponse, message: &str) {
        let request = DiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: Some(envoy_types::pb::google::rpc::Status {
                message: message.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.say(request).await;
    }

    /// Acknowledges, and names what it wants.
    pub(crate) async fn ack(&self, response: &DiscoveryResponse, names: &[&str]) {
        let request = DiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            version_info: response.version_info.clone(),
            resource_names: owned(names),
            ..Default::default()
        };
        self.say(request).await;
    }
}

impl Delta {
    pub(crate) async fn open(tierflow: &Tierflow) -> Self {
        Self::open_over(client(tierflow.xds).await).await
    }

    /// As somebody with a certificate.
    pub(crate) async fn open_as(client: &TlsClient, xds: SocketAddr) -> Self {
        Self::open_over(AggregatedDiscoveryServiceClient::new(client.connect(xds).await)).await
    }

    async fn open_over(mut client: AggregatedDiscoveryServiceClient<Channel>) -> Self {
        let (requests, receiver) = mpsc::channel(8);
        let stream = client.delta_aggregated_resources(ReceiverStream::new(receiver)).await;
        Self { requests, responses: stream.unwrap().into_inner() }
    }

    /// Hears a response and acknowledges it.
    pub(crate) async fn take(&mut self) -> DeltaDiscoveryResponse {
        let response = self.hear().await.unwrap();
        self.ack(&response).await;
        response
    }

    async fn ack(&self, response: &DeltaDiscoveryResponse) {
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        };
        self.say(request).await;
    }
}

impl<Request, Response> Ads<Request, Response> {
    pub(crate) async fn say(&self, request: Request) {
        // A stream that has ended says why when it is heard.
        let _ = self.requests.send(request).await;
    }

    /// The next response, or how the stream ends.
    pub(crate) async fn hear(&mut self) -> Result<Response, Status> {
        let heard = timeout(DEADLINE, self.responses.message()).await.expect("nothing is heard");
        heard.and_then(|response| response.ok_or_else(|| Status::ok("the stream ended")))
    }

    pub(crate) async fn hears_nothing(&mut self) -> bool {
        timeout(SILENCE, self.responses.message()).await.is_err()
    }
}

pub(crate) fn node(id: &str) -> Option<Node> {
    Some(Node { id: id.to_owned(), cluster: "edge".to_owned(), ..Default::default() })
}

/// A first request, from a node of the gateway `edge`.
pub(crate) fn first(id: &str, resource_type: ResourceType, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest { node: node(id), ..request(resource_type, names) }
}

pub(crate) fn request(resource_type: ResourceType, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: resource_type.type_url().to_owned(),
        resource_names: owned(names),
        ..Default::default()
    }
}

pub(crate) fn first_delta(id: &str, resource_type: ResourceType, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { node: node(id), ..subscribe(resource_type, names) }
}

pub(crate) fn subscribe(resource_type: ResourceType, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: resource_type.type_url().to_owned(),
        resource_names_subscribe: owned(names),
        ..Default::default()
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
