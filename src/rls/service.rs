//! The rate limit service as it is served.

use std::sync::Arc;

use http::Request;

use super::Rls;
use super::call::Call;

#[derive(Clone)]
pub struct RateLimitServer(pub(super) Arc<Rls>);

impl RateLimitServer {
    /// The path of its one method (`envoy/service/ratelimit/v3/rls.proto`).
    pub const PATH: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

    /// Answers a request to [`Self::PATH`].
    pub fn call<B>(&self, request: Request<B>) -> Call<B> {
        Call::new(Arc::clone(&self.0), request)
    }
}
