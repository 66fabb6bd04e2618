//! What every gRPC port has beside its service: health and reflection. Their calls are few and short, and so are their
//! requests; tonic keeps what has come of them, whether the rest comes or not.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body_util::BodyExt;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower_service::Service;

use crate::budget::{Allowance, Held};

/// The largest request: the name of a service, or of what is looked up.
pub(super) const MESSAGE_BYTES_MAX: usize = 4 * 1024;
/// What a call takes: tonic's buffer, and a message. As many calls as a connection may have are less than it may hold, so that whoever
/// goes on to open calls has the connection ended by HTTP/2.
const CALL_BYTES: usize = 8 * 1024 + MESSAGE_BYTES_MAX;

/// Calls of a service, each of which is held among what its connection holds until its answer is at its end.
#[derive(Clone)]
pub(super) struct Beside<S>(pub(super) S);

impl<S: NamedService> NamedService for Beside<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Beside<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future: Send + 'static>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let allowance = request.extensions().get::<Arc<Allowance>>().cloned().unwrap_or_default();
        let mut held = allowance.held();
        if let Err(full) = held.set(CALL_BYTES) {
            return Box::pin(async move { Ok(Status::resource_exhausted(full.to_string()).into_http()) });
        }
        let answer = self.0.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| until_its_end(body, held))) })
    }
}

fn until_its_end(body: Body, held: Held) -> Body {
    Body::new(body.map_frame(move |frame| {
        let _held = &held;
        frame
    }))
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use prost::bytes::Bytes;

    use super::*;
    use crate::budget::{ALLOWANCE_BYTES, Budget, use_up};
    use crate::metrics::Metrics;

    /// Answers with a body that does not end.
    #[derive(Clone)]
    struct Watches;

    impl NamedService for Watches {
        const NAME: &'static str = "watches";
    }

    impl Service<http::Request<Body>> for Watches {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<http::Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Request<Body>) -> Self::Future {
            let endless = futures_util::stream::pending::<Result<Frame<Bytes>, Status>>();
            std::future::ready(Ok(http::Response::new(Body::new(StreamBody::new(endless)))))
        }
    }

    #[tokio::test]
    async fn calls_are_held_until_their_answers_end_and_refused_where_there_are_too_many() {
        let budget = Budget::new(&Metrics::default(), "xds", ALLOWANCE_BYTES);
        let _others = use_up(&budget);
        let allowance = budget.allowance();
        let ask = async || {
            let request = http::Request::builder().extension(Arc::clone(&allowance)).body(Body::empty()).unwrap();
            Beside(Watches).call(request).await.unwrap()
        };
        let status = |answer: &http::Response<Body>| answer.headers().get("grpc-status").cloned();
        let mut answers = Vec::new();
        for _ in 0..ALLOWANCE_BYTES / CALL_BYTES {
            answers.push(ask().await);
        }
        assert!(answers.iter().all(|answer| status(answer).is_none()));
        assert_eq!(status(&ask().await).unwrap(), "8", "more than the connection may hold");
        answers.pop();
        assert_eq!(status(&ask().await), None);
    }
}
