//! How a request arrives at the routes of a gateway, or what Envoy answers before it gets there.
//!
//! The rules are those of HTTP/1.1 (RFC 9112, section 3.2) as Envoy has them. HTTP/2 has a path only, and may have any
//! byte in it; what is no ASCII is escaped there.

use std::net::IpAddr;

use serde::Serialize;
use utoipa::ToSchema;

use super::Request;
use crate::policy::gateway::{ClientIp, Gateway};
use crate::policy::matches::name_length;
use crate::policy::normalize::{Normalized, normalize};
use crate::policy::tracing::TRACE_CONTEXT;
use crate::shown;

/// The most bytes of a request's head that Envoy reads (`HttpConnectionManager.max_request_headers_kb`).
const HEAD_BYTES_MAX: usize = 60 * 1024;

/// The methods that Envoy takes over HTTP/1.1, unless it is told to take any (`Http1ProtocolOptions.allow_custom_methods`).
const METHODS: [&str; 35] = [
    "ACL",
    "BIND",
    "CHECKOUT",
    "CONNECT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "MSEARCH",
    "NOTIFY",
    "OPTIONS",
    "PATCH",
    "POST",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "PUT",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SOURCE",
    "SUBSCRIBE",
    "TRACE",
    "UNBIND",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
];

/// Fails where no request can have the header: Envoy's codecs take none whose name is no token (RFC 9110, section 5.6.2), or
/// whose value has control characters other than tabs (section 5.5).
pub fn check_header(name: &str, value: &str) -> Result<(), String> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(is_token) {
        let found = shown::value(name);
        return Err(format!("found the header name {found}, expected letters, digits and signs as in x-tenant-id"));
    }
    let is_forbidden = |c: &char| c.is_ascii_control() && *c != '\t';
    match value.chars().find(is_forbidden) {
        Some(c) => Err(format!("found U+{:04X} in the value of {name}, expected no control characters", u32::from(c))),
        None => Ok(()),
    }
}

/// An answer that Envoy gives by itself, whatever Apis there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = EnvoyAnswer)]
pub struct Answer {
    pub status: u16,
    pub reason: &'static str,
    /// The place that the client is sent to.
    pub location: Option<String>,
}

impl Answer {
    fn new(status: u16, reason: &'static str) -> Self {
        Self { status, reason, location: None }
    }
}

/// The request with the path and the host that routes are matched by.
pub(super) fn arrive(gateway: &Gateway, request: &Request) -> Result<Request, Answer> {
    let Request { method, path, host, headers, .. } = request;
    let head: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if path.len() + head > HEAD_BYTES_MAX {
        return Err(Answer::new(431, "the head of the request is over 60 KiB"));
    }
    if !METHODS.contains(&method.as_str()) {
        return Err(Answer::new(400, "Envoy takes no such method over HTTP/1.1"));
    }
    let host_answer = Answer::new(400, "the host has a character that no host has");
    if path.starts_with('*') && !host.bytes().all(is_of_host) {
        return Err(host_answer);
    }
    let target = Target::read(gateway, method, path)?;
    if method == "QUERY" && request.first_header("content-type").is_none() {
        return Err(Answer::new(400, "QUERY needs a content-type"));
    }
    let host = match target.host {
        Some(host) => host,
        None if host.bytes().all(is_of_host) => host,
        None => return Err(host_answer),
    };
    match normalize(target.path_and_query, gateway.escaped_slashes) {
        Normalized::Path(path) => Ok(Request {
            path,
            host: host.to_owned(),
            method: method.clone(),
            headers: headers_with_scheme(gateway, headers, target.is_https),
            client_ip: client_ip_of(gateway, request).to_canonical(),
        }),
        // Clients of gRPC follow no redirects.
        Normalized::Redirect(_) if request.is_grpc() => Err(Answer::new(400, "the path has an escaped slash")),
        Normalized::Redirect(location) => {
            Err(Answer { location: Some(location), ..Answer::new(307, "the path has an escaped slash") })
        }
        Normalized::Refused(reason) => Err(Answer::new(400, reason)),
    }
}

/// The headers with what Envoy says of the scheme: in `x-forwarded-proto`, unless a trusted proxy has said it there; and in
/// `:scheme`, which is that of a whole URL, else what stands there. Without what says of which trace the request is, where that
/// is not believed.
fn headers_with_scheme(
    gateway: &Gateway,
    headers: &[(String, String)],
    is_https: Option<bool>,
) -> Vec<(String, String)> {
    const FORWARDED_PROTO: &str = "x-forwarded-proto";
    let scheme = |is_https| if is_https { "https" } else { "http" };
    let of_connection = scheme(gateway.tls.is_some());
    let is_trusted = !matches!(gateway.client_ip, ClientIp::TrustedHops(0));
    let mut headers = headers.to_vec();
    headers.retain(|(name, _)| is_trusted || name != FORWARDED_PROTO);
    if gateway.tracing.as_ref().is_some_and(|tracing| !tracing.continues_traces) {
        headers.retain(|(name, _)| !TRACE_CONTEXT.contains(&name.as_str()));
    }
    let forwarded = headers.iter().find(|(name, _)| name == FORWARDED_PROTO).map(|(_, value)| value.clone());
    if forwarded.is_none() {
        headers.push((FORWARDED_PROTO.to_owned(), of_connection.to_owned()));
    }
    let forwarded = forwarded.filter(|value| matches!(value.as_str(), "http" | "https"));
    let scheme =
        is_https.map_or_else(|| forwarded.unwrap_or_else(|| of_connection.to_owned()), |is| scheme(is).to_owned());
    headers.push((":scheme".to_owned(), scheme));
    headers
}

/// The client's address by a trusted proxy, or else by the caller.
fn client_ip_of(gateway: &Gateway, request: &Request) -> IpAddr {
    let named = match &gateway.client_ip {
        ClientIp::TrustedHops(_) => None,
        ClientIp::Header(name) => request.first_header(name).and_then(|value| value.parse().ok()),
    };
    named.unwrap_or(request.client_ip)
}

/// A request target, taken apart.
struct Target<'a> {
    /// Stands in the place of the `host` header.
    host: Option<&'a str>,
    path_and_query: &'a str,
    /// Of a whole URL.
    is_https: Option<bool>,
}

impl<'a> Target<'a> {
    fn read(gateway: &Gateway, method: &str, target: &'a str) -> Result<Self, Answer> {
        let malformed = Answer::new(400, "the request target is none of RFC 9112, section 3.2");
        if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Answer::new(400, "the request target has a byte that HTTP/1.1 does not allow"));
        }
        match (method, target) {
            ("CONNECT", target) if is_authority(target) && has_port(target) => {
                Err(Answer::new(404, "no Api takes CONNECT"))
            }
            ("CONNECT", _) => Err(malformed),
            ("OPTIONS", target) if target.starts_with('*') => Err(Answer::new(404, "asks for no path")),
            (_, target) if target.starts_with('/') => Ok(Self { host: None, path_and_query: target, is_https: None }),
            (_, target) => Self::read_absolute(gateway, target).ok_or(malformed)?,
        }
    }

    /// A whole URL. `None`: it is no URL of HTTP.
    fn read_absolute(gateway: &Gateway, target: &'a str) -> Option<Result<Self, Answer>> {
        let (scheme, rest) = target.split_once("://")?;
        let is_https = scheme.eq_ignore_ascii_case("https");
        if !is_https && !scheme.eq_ignore_ascii_case("http") {
            return None;
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        if !is_authority(host) {
            return None;
        }
        let path_and_query = if path.is_empty() { "/" } else { path };
        Some(match () {
            () if is_https && gateway.tls.is_none() => Err(Answer::new(403, "asks for https without TLS")),
            () if !path_and_query.starts_with('/') => Err(Answer::new(404, "the URL has a query and no path")),
            () => Ok(Self { host: Some(host), path_and_query, is_https: Some(is_https) }),
        })
    }
}

/// A name or an address, and a port of digits if any.
fn is_authority(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if has_port(host) => (name, Some(port)),
        _ => (host, None),
    };
    let is_of_name = |b: u8| b.is_ascii_alphanumeric() || b"-.".contains(&b);
    let is_of_address = |b: u8| b.is_ascii_hexdigit() || b":.".contains(&b);
    let is_name = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => !address.is_empty() && address.bytes().all(is_of_address),
        None => !name.is_empty() && name.bytes().all(is_of_name),
    };
    is_name && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

fn has_port(host: &str) -> bool {
    name_length(host.as_bytes()) < host.len()
}

/// Characters of the authority (RFC 3986, section 3.2), as Envoy checks the `host` header.
fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@[]".contains(&byte)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use super::*;
    use crate::document::split;
    use crate::policy::parse::{Policy, parse};

    fn gateway(more: &str) -> Arc<Gateway> {
        let text = format!("{{kind: Gateway, name: shop, nodes: {{clusters: [edge]}}, listen: '127.0.0.1:1'{more}}}");
        let document = Arc::new(split(&"p.yaml".into(), text.as_bytes()).remove(0));
        match &parse(&document).unwrap().policy {
            Policy::Gateway(gateway) => Arc::clone(gateway),
            _ => unreachable!("it is a Gateway"),
        }
    }

    const TLS: &str = ", tls: {certificate_chain: /tls.crt, private_key: /tls.key}";

    fn request(method: &str, path: &str, host: &str, headers: &[(&str, &str)]) -> Request {
        Request {
            method: method.to_owned(),
            path: path.to_owned(),
            host: host.to_owned(),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            client_ip: Ipv4Addr::new(10, 0, 0, 9).into(),
        }
    }

    /// Host and path as routes are matched by, or the status that Envoy answers with.
    fn target(gateway: &Gateway, method: &str, path: &str, host: &str) -> Result<(String, String), u16> {
        let arrived = arrive(gateway, &request(method, path, host, &[]));
        arrived.map(|request| (request.host, request.path)).map_err(|answer| answer.status)
    }

    #[test]
    fn a_whole_url_says_the_host_and_a_path_leaves_it_to_the_header() {
        let plain = gateway("");
        let at = |host: &str, path: &str| Ok((host.to_owned(), path.to_owned()));
        for (path, expected) in [
            ("/a", at("h", "/a")),
            ("/a?b=/c", at("h", "/a?b=/c")),
            ("http://other/a", at("other", "/a")),
            ("HTTP://other:80/a?b", at("other:80", "/a?b")),
            ("http://ann:secret@other/a", at("other", "/a")),
            ("http://other", at("other", "/")),
            ("http://[::1]:80/a", at("[::1]:80", "/a")),
            ("http://other?b", Err(404)),
            ("https://other/a", Err(403)),
            ("ftp://other/a", Err(400)),
            ("http:///a", Err(400)),
            ("http://a_b/a", Err(400)),
            ("http://[]/a", Err(400)),
            ("other/a", Err(400)),
            ("", Err(400)),
            ("/a b", Err(400)),
            ("/\u{e4}", Err(400)),
        ] {
            assert_eq!(target(&plain, "GET", path, "h"), expected, "{path}");
        }
        assert_eq!(target(&gateway(TLS), "GET", "https://other/a", "h"), at("other", "/a"));
    }

    #[test]
    fn what_names_no_path_is_answered_by_envoy() {
        let plain = gateway("");
        assert_eq!(target(&plain, "OPTIONS", "*", "h"), Err(404));
        assert_eq!(target(&plain, "OPTIONS", "*", "h/"), Err(400), "the host is looked at first");
        assert_eq!(target(&plain, "GET", "*", "h"), Err(400));
        assert_eq!(target(&plain, "CONNECT", "h:443", "h"), Err(404));
        assert_eq!(target(&plain, "CONNECT", "h", "h"), Err(400));
        assert_eq!(target(&plain, "CONNECT", "/a", "h"), Err(400));
    }

    #[test]
    fn hosts_have_characters_of_hosts_only() {
        let plain = gateway("");
        for good in ["", "h", "h:80", "[::1]", "a_b~c%20!$&'()*+,;=:@"] {
            assert!(target(&plain, "GET", "/", good).is_ok(), "{good}");
        }
        for bad in ["h/", "a b", "h\u{e4}", "a\"b", "a\\b", "a#", "a?"] {
            assert_eq!(target(&plain, "GET", "/", bad), Err(400), "{bad}");
            assert!(target(&plain, "GET", "http://h/", bad).is_ok(), "the URL stands in its place");
        }
    }

    #[test]
    fn methods_are_those_that_envoy_takes() {
        let plain = gateway("");
        for method in METHODS.iter().filter(|method| !matches!(**method, "CONNECT" | "QUERY")) {
            assert!(target(&plain, method, "/", "h").is_ok(), "{method}");
        }
        for method in ["", "get", "BREW", "GET "] {
            assert_eq!(target(&plain, method, "/", "h"), Err(400), "{method}");
        }
        let query = |headers: &[_]| arrive(&plain, &request("QUERY", "/", "h", headers)).is_ok();
        assert!(!query(&[]) && query(&[("content-type", "text/plain")]));
    }

    #[test]
    fn a_head_is_read_to_60_kib() {
        let plain = gateway("");
        let of = |path: usize, header: usize| {
            let (path, value) = (format!("/{}", "p".repeat(path - 1)), "v".repeat(header - 1));
            arrive(&plain, &request("GET", &path, "h", &[("n", &value)])).map(drop).map_err(|answer| answer.status)
        };
        assert_eq!(of(1, HEAD_BYTES_MAX - 1), Ok(()));
        assert_eq!(of(HEAD_BYTES_MAX - 1, 1), Ok(()));
        assert_eq!(of(2, HEAD_BYTES_MAX - 1), Err(431));
    }

    #[test]
    fn escaped_slashes_are_what_the_gateway_makes_of_them() {
        let location = |more: &str, headers: &[_]| {
            arrive(&gateway(more), &request("GET", "/a%2Fb", "h", headers))
                .map(|request| request.path)
                .map_err(|answer| (answer.status, answer.location))
        };
        let keep = ", path: {escaped_slashes: keep}";
        let refuse = ", path: {escaped_slashes: refuse}";
        assert_eq!(location(keep, &[]), Ok("/a%2Fb".to_owned()));
        assert_eq!(location(refuse, &[]), Err((400, None)));
        let redirect = ", path: {escaped_slashes: redirect}";
        assert_eq!(location(redirect, &[]), Err((307, Some("/a/b".to_owned()))));
        assert_eq!(location(redirect, &[("content-type", "application/grpc")]), Err((400, None)));
    }

    #[test]
    fn the_scheme_is_what_the_connection_has_unless_somebody_trusted_says_more() {
        let schemes = |more: &str, path: &str, headers: &[(&str, &str)]| {
            let arrived = arrive(&gateway(more), &request("GET", path, "h", headers)).unwrap();
            let value = |name| arrived.header_values(name).join(",");
            (value("x-forwarded-proto"), value(":scheme"))
        };
        let both = |proto: &str, scheme: &str| (proto.to_owned(), scheme.to_owned());
        let trusted = ", client_ip: {trusted_hops: 1}";
        let says = |value| [("x-forwarded-proto", value)];
        assert_eq!(schemes("", "/", &[]), both("http", "http"));
        assert_eq!(schemes(TLS, "/", &[]), both("https", "https"));
        assert_eq!(schemes("", "/", &says("https")), both("http", "http"), "anybody may say that");
        assert_eq!(schemes(trusted, "/", &says("https")), both("https", "https"));
        assert_eq!(schemes(trusted, "/", &says("gopher")), both("gopher", "http"));
        assert_eq!(schemes(trusted, "/", &[]), both("http", "http"));
        assert_eq!(schemes(TLS, "http://h/", &[]), both("https", "http"), "as the URL says");
    }

    #[test]
    fn the_client_is_who_a_trusted_header_names() {
        let client = |more: &str, headers: &[_]| {
            arrive(&gateway(more), &request("GET", "/", "h", headers)).unwrap().client_ip.to_string()
        };
        let by_header = ", client_ip: {header: x-real-ip}";
        assert_eq!(client("", &[("x-real-ip", "192.0.2.1")]), "10.0.0.9");
        assert_eq!(client(by_header, &[("x-real-ip", "192.0.2.1")]), "192.0.2.1");
        assert_eq!(client(by_header, &[("x-real-ip", "::ffff:192.0.2.1")]), "192.0.2.1");
        for nobody in ["", "localhost", "192.0.2.1, 192.0.2.2"] {
            assert_eq!(client(by_header, &[("x-real-ip", nobody)]), "10.0.0.9", "{nobody}");
        }
    }
}
