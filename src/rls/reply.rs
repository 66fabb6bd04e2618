//! What a call is answered with.

use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use prost::bytes::Bytes;
use tonic::Status;

use super::answer::Answer;

pub struct Reply(pub(super) Result<Answer, Status>);

impl Reply {
    /// As "gRPC over HTTP2" has it: the headers of a response, and after them the message and trailers that say that it is
    /// whole. Nothing follows headers that have the status already.
    pub fn into_parts(self) -> (Response<()>, Option<(Bytes, HeaderMap)>) {
        match self.0 {
            Ok(answer) => {
                let mut head = Response::new(());
                head.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                let ok = (HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
                (head, Some((answer.into_bytes(), HeaderMap::from_iter([ok]))))
            }
            Err(status) => (status.into_http(), None),
        }
    }
}
