//! The three servers, each a future that ends on shutdown, or with the reason why it could not go on.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::server::HealthReporter;

use super::StartError;
use super::listen::Listener;
use crate::admin::Admin;
use crate::rls::{self, Rls};
use crate::snapshot::render::DESCRIPTOR_SET;
use crate::xds::Xds;

const ADS_SERVICE: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
const HEALTH_SERVICE: &str = "grpc.health.v1.Health";

/// Streams of one connection. An Envoy has one ADS stream, two while it restarts.
const XDS_STREAMS_MAX: u32 = 16;
/// Calls under way on one connection. Envoy opens one connection a worker.
const RLS_STREAMS_MAX: u32 = 4096;
/// RFC 9113, section 10.5.1: what all headers of a request may take.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;

type Ended = Result<(), String>;

pub(super) fn xds(
    xds: Xds,
    listener: Listener,
    shutdown: CancellationToken,
) -> Result<impl Future<Output = Ended> + Send + use<>, StartError> {
    let reflection = reflection(ADS_SERVICE)?;
    let (health, health_service) = tonic_health::server::health_reporter();
    Ok(async move {
        serving(&health, ADS_SERVICE).await;
        let router = server(XDS_STREAMS_MAX).add_service(xds.into_service());
        let router = router.add_service(health_service).add_service(reflection);
        let incoming = incoming(listener)?;
        let ended = router.serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned()).await;
        ended.map_err(|error| format!("xDS server: {error}"))
    })
}

pub(super) fn rls(
    rls: Rls,
    listener: Listener,
    shutdown: CancellationToken,
) -> Result<impl Future<Output = Ended> + Send + use<>, StartError> {
    let reflection = reflection(rls::SERVICE_NAME)?;
    let (health, health_service) = tonic_health::server::health_reporter();
    let mut generations = rls.live.subscribe();
    Ok(async move {
        // Without a policy set there is nothing to decide by: Envoys should not ask yet.
        health.set_service_status(rls::SERVICE_NAME, tonic_health::ServingStatus::NotServing).await;
        let follow = async move {
            if generations.wait_for(|number| *number > 0).await.is_ok() {
                serving(&health, rls::SERVICE_NAME).await;
            }
            std::future::pending::<()>().await;
        };
        let router = server(RLS_STREAMS_MAX).add_service(rls.into_service());
        let router = router.add_service(health_service).add_service(reflection);
        let incoming = incoming(listener)?;
        tokio::select! {
            ended = router.serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned()) => {
                ended.map_err(|error| format!("rate limit server: {error}"))
            }
            () = follow => Ok(()),
        }
    })
}

pub(super) async fn admin(admin: Admin, listener: Listener, shutdown: CancellationToken) -> Ended {
    let listener = listener.into_tokio()?;
    let service = admin.into_router().into_make_service_with_connect_info::<SocketAddr>();
    let served = axum::serve(listener, service).with_graceful_shutdown(shutdown.cancelled_owned());
    served.await.map_err(|error| format!("admin server: {error}"))
}

/// Peers that are gone are noticed within 25 s: 10 s to the next ping, 15 s for its answer.
fn server(streams_max: u32) -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(15)))
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_concurrent_streams(streams_max)
}

/// Without TCP_NODELAY an answer waits for the acknowledgement of the one before, up to 40 ms: longer than Envoy does.
fn incoming(listener: Listener) -> Result<TcpIncoming, String> {
    Ok(TcpIncoming::from(listener.into_tokio()?).with_nodelay(Some(true)))
}

async fn serving(health: &HealthReporter, service: &str) {
    health.set_service_status(service, tonic_health::ServingStatus::Serving).await;
}

fn reflection(
    service: &str,
) -> Result<
    tonic_reflection::server::v1::ServerReflectionServer<impl tonic_reflection::server::v1::ServerReflection + use<>>,
    StartError,
> {
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(service)
        .with_service_name(HEALTH_SERVICE);
    builder.build_v1().map_err(|error| StartError::Reflection(error.to_string()))
}
