//! Calls of a connection on h2 that tonic's services answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use prost::bytes::Bytes;
use tonic::service::Routes;
use tower_service::Service;

/// Answers a call by the service that it is for. Ends when all of the answer is sent, or its caller has taken it back.
pub(super) async fn answer(mut routes: Routes, request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let answering = routes.call(request.map(Received));
    let response = tokio::select! {
        response = answering => response,
        _ = poll_fn(|context| respond.poll_reset(context)) => return,
    };
    let Ok(response) = response;
    let (head, body) = response.into_parts();
    let is_whole = body.is_end_stream();
    if let Ok(mut stream) = respond.send_response(http::Response::from_parts(head, ()), is_whole)
        && !is_whole
    {
        // Who has taken back a call hears nothing more of it.
        let _ = send(body, &mut stream).await;
    }
}

async fn send(mut body: tonic::body::Body, stream: &mut SendStream<Bytes>) -> Result<(), h2::Error> {
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            reset = poll_fn(|context| stream.poll_reset(context)) => return reset.map(drop),
        };
        match frame.map(|frame| frame.map(Frame::into_data)) {
            None => return stream.send_data(Bytes::new(), true),
            Some(Err(_)) => {
                stream.send_reset(h2::Reason::INTERNAL_ERROR);
                return Ok(());
            }
            Some(Ok(Ok(data))) => send_data(data, stream).await?,
            Some(Ok(Err(other))) => {
                if let Ok(trailers) = other.into_trailers() {
                    return stream.send_trailers(trailers);
                }
            }
        }
    }
}

/// Sends no faster than it is read.
async fn send_data(mut data: Bytes, stream: &mut SendStream<Bytes>) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let Some(room) = poll_fn(|context| stream.poll_capacity(context)).await else { return Ok(()) };
        stream.send_data(data.split_to(room?.min(data.len())), false)?;
    }
    Ok(())
}

/// The body of a request.
struct Received(RecvStream);

impl Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let Some(data) = ready!(self.0.poll_data(context)) else { return Poll::Ready(None) };
        let data = data?;
        self.0.flow_control().release_capacity(data.len())?;
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}
