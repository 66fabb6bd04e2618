//! The rate limit service as it is served.

use std::sync::Arc;

use http::Request;

use super::Rls;
use super::call::Call;
use crate::names::certificate::ClientCertificate;

#[derive(Clone)]
pub struct RateLimitServer(pub(super) Arc<Rls>);

impl RateLimitServer {
    /// The path of its one method (`envoy/service/ratelimit/v3/rls.proto`).
    pub const PATH: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

    /// Answers a request to [`Self::PATH`] of somebody with this certificate. It is no extension of the request, for
    /// which each request would need room on the heap.
    pub fn call<B>(&self, certificate: Option<&Arc<ClientCertificate>>, request: Request<B>) -> Call<B> {
        Call::new(Arc::clone(&self.0), certificate.cloned(), request)
    }
}
