//! A request, and what Envoy reads in it.

use std::borrow::Cow;
use std::net::IpAddr;

use percent_encoding::percent_decode_str;

/// A request as a client sends it over HTTP/1.1.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// The request target: a path with its query, or a whole URL as proxies are asked for (RFC 9112, section 3.2).
    pub path: String,
    /// With its port.
    pub host: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub client_ip: IpAddr,
}

impl Request {
    pub(super) fn path_and_query(&self) -> (&str, &str) {
        self.path.split_once('?').unwrap_or((&self.path, ""))
    }

    /// The values of a header. HTTP/2's pseudo headers are headers too.
    fn headers<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let pseudo = match name {
            ":path" => Some(self.path.as_str()),
            ":method" => Some(self.method.as_str()),
            ":authority" | "host" => Some(self.host.as_str()).filter(|host| !host.is_empty()),
            _ => None,
        };
        let named = self.headers.iter().filter(move |(own, _)| own == name);
        pseudo.into_iter().chain(named.map(|(_, value)| value.as_str()))
    }

    /// The value of a header that Envoy reports: its first.
    pub(super) fn first_header<'a>(&'a self, name: &str) -> Option<&'a str> {
        self.headers(name).next()
    }

    /// All values of a header. Envoy's matchers look at each of them.
    pub(super) fn header_values<'a>(&'a self, name: &str) -> Vec<&'a str> {
        self.headers(name).collect()
    }

    /// The first value of a parameter as it is written, which is what routes are matched by.
    pub(super) fn raw_query<'a>(&'a self, name: &str) -> Option<&'a str> {
        self.query_pairs().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    /// The first value of a parameter, decoded, which is what limits count by.
    pub(super) fn query<'a>(&'a self, name: &str) -> Option<Cow<'a, str>> {
        self.query_pairs().find(|(own, _)| decoded(own) == name).map(|(_, value)| decoded(value))
    }

    /// The parameters of the query, decoded.
    pub(super) fn decoded_query_pairs(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        self.query_pairs().map(|(name, value)| (decoded(name), decoded(value)))
    }

    fn query_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let (_, query) = self.path_and_query();
        query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    pub(super) fn cookie<'a>(&'a self, name: &str) -> Option<&'a str> {
        self.cookie_pairs().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    pub(super) fn cookie_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let cookies = self.first_header("cookie").unwrap_or_default();
        cookies.split(';').filter_map(|pair| pair.trim().split_once('='))
    }

    /// A content type of gRPC, by which Envoy knows a gRPC request.
    pub(super) fn is_grpc(&self) -> bool {
        let after = self.first_header("content-type").and_then(|value| value.strip_prefix("application/grpc"));
        after.is_some_and(|after| after.is_empty() || after.starts_with('+'))
    }
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}
