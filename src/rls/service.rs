//! The rate limit service as gRPC: which method a call is for, and that no answer is an error silently.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::wire::RateLimitRequest;
use super::{Rls, SERVICE_NAME};
use crate::names::descriptor::{LIST_ACTIONS_MAX, VALUE_BYTES_MAX};

/// The largest request, in bytes: more than any Envoy sends for our routes, whatever its clients send, or a long value
/// would be a way round all limits. An Api's own descriptor holds what a request has a few times at most.
const REQUEST_BYTES_MAX: usize = (LIST_ACTIONS_MAX + 16) * VALUE_BYTES_MAX;
const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

#[derive(Clone)]
pub struct RateLimitServer(pub(super) Arc<Rls>);

impl NamedService for RateLimitServer {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for RateLimitServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let rls = Arc::clone(&self.0);
        Box::pin(async move {
            let response = match request.uri().path() {
                SHOULD_RATE_LIMIT => {
                    let codec = ProstCodec::<RateLimitResponse, RateLimitRequest>::default();
                    let mut grpc = Grpc::new(codec).max_decoding_message_size(REQUEST_BYTES_MAX);
                    let decide = |request: Request<RateLimitRequest>| {
                        let rls = &rls;
                        async move { rls.should_rate_limit(request.get_ref()).await.map(Response::new) }
                    };
                    grpc.unary(Unary(decide), request).await
                }
                path => Status::unimplemented(format!("there is no method {path}")).into_http(),
            };
            // A request that cannot be decoded never comes to a decision, so it is looked for here.
            if let Some(status) = Status::from_header_map(response.headers()) {
                rls.failures.note(&status);
            }
            Ok(response)
        })
    }
}

/// A method as a function. Its future has no name, and so needs no box.
struct Unary<F>(F);

impl<F, D> UnaryService<RateLimitRequest> for Unary<F>
where
    F: FnMut(Request<RateLimitRequest>) -> D,
    D: Future<Output = Result<Response<RateLimitResponse>, Status>>,
{
    type Response = RateLimitResponse;
    type Future = D;

    fn call(&mut self, request: Request<RateLimitRequest>) -> D {
        (self.0)(request)
    }
}
