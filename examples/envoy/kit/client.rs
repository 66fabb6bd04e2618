//! An HTTP client that keeps its connections, like the clients of a busy API.

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::client::legacy::Client as Legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

#[derive(Clone)]
pub struct Client(Legacy<HttpConnector, Full<Bytes>>);

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Default for Client {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self(Legacy::builder(TokioExecutor::new()).build(connector))
    }
}

impl Client {
    pub async fn get(&self, url: &str) -> Result<Answer, String> {
        self.send("GET", url, &[]).await
    }

    pub async fn send(&self, method: &str, url: &str, headers: &[(&str, &str)]) -> Result<Answer, String> {
        self.send_body(method, url, headers, "").await
    }

    pub async fn send_body(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Answer, String> {
        let builder = Request::builder().method(method).uri(url);
        let builder = headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, value.as_bytes()));
        let request = builder.body(Full::from(body.to_owned())).map_err(|error| error.to_string())?;
        let answer = self.0.request(request).await.map_err(|error| format!("{method} {url}: {error}"))?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map_err(|error| format!("{method} {url}: {error}"))?.to_bytes();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }
}
