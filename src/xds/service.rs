//! The aggregated discovery service as gRPC: which method a call is for, and how a stream begins and ends.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::HeaderValue;
use http::header::CONTENT_TYPE;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower_service::Service;

use super::Xds;
use super::stream::{Connection, Stream};
use super::variant::{Delta, Sotw, Variant};
use crate::budget::Allowance;
use crate::frames::Requests;
use crate::names::certificate::ClientCertificate;

const SOTW: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

#[derive(Clone, Debug)]
pub struct AdsServer(pub(super) Xds);

impl NamedService for AdsServer {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Service<http::Request<Body>> for AdsServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let xds = self.0.clone();
        Box::pin(async move {
            let response = match request.uri().path() {
                SOTW => open::<Sotw>(xds, request).await,
                DELTA => open::<Delta>(xds, request).await,
                path => Err(Status::unimplemented(format!("there is no method {path}"))),
            };
            Ok(response.unwrap_or_else(Status::into_http))
        })
    }
}

async fn open<V: Variant>(xds: Xds, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
    let place = xds.admission.admit().await?;
    let (mut head, body) = request.into_parts();
    let connection = head.extensions.remove::<Connection>().unwrap_or_default();
    let certificate = head.extensions.remove::<Arc<ClientCertificate>>();
    let allowance = head.extensions.remove::<Arc<Allowance>>().unwrap_or_default();
    let requests = Requests::new(body, allowance.held());
    let stream = Box::new(Stream::<V>::new(xds, connection, certificate, place, requests));
    let frames = futures_util::stream::unfold(Some(stream), async |stream| {
        let mut stream = stream?;
        match stream.next().await {
            Ok(Some(chunk)) => Some((Ok::<_, Infallible>(Frame::data(chunk)), Some(stream))),
            Ok(None) => Some((Ok(Frame::trailers(trailers(&Status::ok("")))), None)),
            Err(status) => {
                tracing::debug!(%status, "ADS stream ended");
                Some((Ok(Frame::trailers(trailers(&status))), None))
            }
        }
    });
    let mut response = http::Response::new(Body::new(StreamBody::new(frames)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

fn trailers(status: &Status) -> http::HeaderMap {
    let mut trailers = http::HeaderMap::new();
    // A message that is no header value is left out; the code is what matters.
    let _ = status.add_header(&mut trailers);
    trailers
}
