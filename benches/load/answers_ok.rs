//! Servers that answer OK at once: what the transport alone costs.

use std::net::SocketAddr;
use std::process::Command;

use bytes::Bytes;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus, RateLimit};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use envoy_types::pb::google::protobuf::Duration;
use http::{HeaderMap, HeaderValue};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::process::{Process, free_address};

/// With the name of a transport and an address in it, the benchmark's program is such a server.
const VARIABLE: &str = "TIERFLOW_BENCH_ANSWERS_OK";

/// A message of gRPC: its length, and `overall_code: OK`.
const ANSWER: &[u8] = &[0, 0, 0, 0, 2, 0x08, 0x01];

/// Starts a bare server of a transport: `tonic` or `h2`, or `tonic-limits`, which says of two limits what is left of them.
pub(crate) fn start(transport: &str, cores: &str) -> Process {
    let address = free_address();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(VARIABLE, format!("{transport} {address}"));
    Process::start(&command, cores, address)
}

/// Serves, where this process was started to.
pub(crate) fn serve_if_asked() -> bool {
    let Ok(value) = std::env::var(VARIABLE) else { return false };
    let (transport, address) = value.split_once(' ').unwrap();
    let address: SocketAddr = address.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(tokio::task::LocalSet::new().run_until(async {
        let listener = TcpListener::bind(address).await.unwrap();
        match transport {
            "tonic" => with_tonic(listener, Vec::new()).await,
            "tonic-limits" => with_tonic(listener, limits()).await,
            _ => with_h2(listener).await,
        }
    }));
    true
}

async fn with_tonic(listener: TcpListener, statuses: Vec<DescriptorStatus>) {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let service = RateLimitServiceServer::new(AnswersOk { statuses });
    // Envoys ask for it before they ask for anything else.
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<RateLimitServiceServer<AnswersOk>>().await;
    let server = Server::builder().add_service(service).add_service(health_service);
    server.serve_with_incoming(incoming).await.unwrap();
}

struct AnswersOk {
    statuses: Vec<DescriptorStatus>,
}

/// As Tierflow says it of a limit of an Api and one of a tenant.
fn limits() -> Vec<DescriptorStatus> {
    ["api-1m", "plan-standard-1m"].map(status).into()
}

fn status(name: &str) -> DescriptorStatus {
    let limit = RateLimit { requests_per_unit: 1_000_000_000, unit: Unit::Minute as i32, name: name.to_owned() };
    DescriptorStatus {
        code: Code::Ok as i32,
        current_limit: Some(limit),
        limit_remaining: 999_000_000,
        duration_until_reset: Some(Duration { seconds: 60, nanos: 0 }),
        ..Default::default()
    }
}

#[tonic::async_trait]
impl RateLimitService for AnswersOk {
    async fn should_rate_limit(&self, _: Request<RateLimitRequest>) -> Result<Response<RateLimitResponse>, Status> {
        let statuses = self.statuses.clone();
        Ok(Response::new(RateLimitResponse { overall_code: Code::Ok as i32, statuses, ..Default::default() }))
    }
}

async fn with_h2(listener: TcpListener) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        tokio::task::spawn_local(answer_all(socket));
    }
}

async fn answer_all(socket: TcpStream) {
    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        // A client that goes away is no error here.
        tokio::task::spawn_local(async { answer(request.into_body(), respond).await.ok() });
    }
}

async fn answer(mut body: h2::RecvStream, mut respond: h2::server::SendResponse<Bytes>) -> Result<(), h2::Error> {
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    let mut head = http::Response::new(());
    head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(Bytes::from_static(ANSWER), false)?;
    let trailers =
        HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    stream.send_trailers(trailers)
}
