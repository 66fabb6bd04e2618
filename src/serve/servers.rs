//! The three servers, each a future that ends on shutdown, or with the reason why it could not go on.

use std::future::Future;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

use super::StartError;
use super::beside::{self, Beside};
use super::connections::{self, Limits};
use super::listen::Listener;
use super::protocol::{Grpc, Http};
use super::rate_limit::RateLimit;
use super::tls::Acceptor;
use super::workers::Places;
use crate::admin::Admin;
use crate::budget::{ALLOWANCE_BYTES, Budget};
use crate::config::XdsLimits;
use crate::crowding::Crowding;
use crate::rls::{self, Rls};
use crate::snapshot::render::DESCRIPTOR_SET;
use crate::xds::{AdsServer, Xds};

const HEALTH_SERVICE: &str = "grpc.health.v1.Health";

/// Streams of one connection. An Envoy has one ADS stream, two while it restarts.
const XDS_STREAMS_MAX: u32 = 16;
/// What a connection may have sent of requests that are not whole, whatever others have: twice what an Envoy says first. An Envoy
/// 1.40 says 61 kB, nearly all of it names of its extensions.
const XDS_ALLOWANCE_BYTES: usize = 128 * 1024;
/// Connections beyond those that may have a stream: who comes too many is told so on a stream.
const XDS_CONNECTIONS_SPARE: usize = 1024;
/// Calls under way on one connection. Envoy opens one connection a worker.
const RLS_STREAMS_MAX: u32 = 4096;
const RLS_CONNECTIONS_MAX: usize = 16 * 1024;
/// Those that do nothing leave for others, but whoever sends a body byte by byte keeps a place.
const ADMIN_CONNECTIONS_MAX: usize = 1024;

type Ended = Result<(), String>;

/// How it ends: it leaves, serving on, and then shuts down.
pub(super) struct Ending {
    pub(super) leaving: CancellationToken,
    pub(super) shutdown: CancellationToken,
}

pub(super) fn xds(
    xds: Xds,
    limits: XdsLimits,
    (listener, crowding): (Listener, Arc<Crowding>),
    tls: Option<Acceptor>,
    places: Places,
    Ending { leaving, shutdown }: Ending,
) -> Result<impl Future<Output = Ended> + Send + use<>, StartError> {
    let reflection = reflection(AdsServer::NAME)?;
    let (health, health_service) = health();
    let budget = Budget::new(&xds.metrics, "xds", XDS_ALLOWANCE_BYTES);
    Ok(async move {
        serving(&health, AdsServer::NAME).await;
        let follow = xds.clone().follow();
        let routes = Routes::new(xds.into_service()).add_service(health_service).add_service(reflection);
        let limits = Limits {
            connections_max: limits.admission.streams_max + XDS_CONNECTIONS_SPARE,
            crowding,
            age_max: limits.connection_age,
            budget,
        };
        let protocol = Grpc { routes, streams_max: XDS_STREAMS_MAX };
        let leave = async {
            leaving.cancelled().await;
            not_serving(&health, AdsServer::NAME).await;
        };
        let serve = connections::serve(listener, protocol, limits, tls, places, shutdown);
        let (ended, (), ()) = tokio::join!(serve, follow, leave);
        ended.map_err(|error| format!("xDS server: {error}"))
    })
}

pub(super) fn rls(
    rls: Rls,
    (listener, crowding): (Listener, Arc<Crowding>),
    tls: Option<Acceptor>,
    places: Places,
    Ending { leaving, shutdown }: Ending,
) -> Result<impl Future<Output = Ended> + Send + use<>, StartError> {
    let reflection = reflection(rls::SERVICE_NAME)?;
    let (health, health_service) = health();
    let budget = Budget::new(&rls.metrics, "rls", ALLOWANCE_BYTES);
    let mut generations = rls.live.subscribe();
    Ok(async move {
        // Without a policy set there is nothing to decide by: Envoys should not ask yet.
        not_serving(&health, rls::SERVICE_NAME).await;
        let follow = async move {
            let first = leaving.run_until_cancelled(generations.wait_for(|number| *number > 0));
            let has_policies = matches!(first.await, Some(Ok(_)));
            if has_policies {
                serving(&health, rls::SERVICE_NAME).await;
            }
            leaving.cancelled().await;
            not_serving(&health, rls::SERVICE_NAME).await;
            std::future::pending::<()>().await;
        };
        let others = Routes::new(health_service).add_service(reflection);
        let protocol = RateLimit { service: rls.into_service(), others, streams_max: RLS_STREAMS_MAX };
        let limits = Limits { connections_max: RLS_CONNECTIONS_MAX, crowding, age_max: None, budget };
        tokio::select! {
            ended = connections::serve(listener, protocol, limits, tls, places, shutdown) => {
                ended.map_err(|error| format!("rate limit server: {error}"))
            }
            () = follow => Ok(()),
        }
    })
}

pub(super) async fn admin(
    admin: Admin,
    (listener, crowding): (Listener, Arc<Crowding>),
    tls: Option<Acceptor>,
    places: Places,
    shutdown: CancellationToken,
) -> Ended {
    let budget = Budget::new(&admin.metrics, "admin", ALLOWANCE_BYTES);
    let protocol = Http { router: admin.into_router() };
    let limits = Limits { connections_max: ADMIN_CONNECTIONS_MAX, crowding, age_max: None, budget };
    let ended = connections::serve(listener, protocol, limits, tls, places, shutdown).await;
    ended.map_err(|error| format!("admin server: {error}"))
}

fn health() -> (HealthReporter, Beside<HealthServer<impl Health>>) {
    let (reporter, service) = tonic_health::server::health_reporter();
    (reporter, Beside(service.max_decoding_message_size(beside::MESSAGE_BYTES_MAX)))
}

async fn serving(health: &HealthReporter, service: &str) {
    health.set_service_status(service, tonic_health::ServingStatus::Serving).await;
}

async fn not_serving(health: &HealthReporter, service: &str) {
    health.set_service_status(service, tonic_health::ServingStatus::NotServing).await;
}

fn reflection(service: &str) -> Result<Beside<ServerReflectionServer<impl ServerReflection + use<>>>, StartError> {
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(service)
        .with_service_name(HEALTH_SERVICE);
    let service = builder.build_v1().map_err(|error| StartError::Reflection(error.to_string()))?;
    Ok(Beside(service.max_decoding_message_size(beside::MESSAGE_BYTES_MAX)))
}
