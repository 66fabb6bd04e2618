//! What is written where the schema asks for a text: mostly what people write, often at a bound, sometimes odd.
//! A field that is not known here fails the test, so that a new one gets values worth judging.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use tierflow::names::Kind;

use super::draw::Draw;

const TOKEN: &str = "!#$%&'*+-.^_`|~09azAZ";
const ODD: &str = "az09 .-_/\\\"'`{}[]()<>%$#@!&*+=?,;:|^~éß☺語𝕏\u{a0}\u{200b}\u{feff}\u{85}\u{7f}\t\n\0";
const PATH: &str = "azAZ09-._~!$&'()*+,;=:@%<>[]{}|\\^`\"";
const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "PROPFIND", "OPTIONS", "TRACE", "PATCH", "VERSION-CONTROL"];
const RETRY_ON: [&str; 11] = [
    "5xx",
    "cancelled",
    "connect-failure",
    "deadline-exceeded",
    "gateway-error",
    "internal",
    "refused-stream",
    "reset",
    "resource-exhausted",
    "retriable-4xx",
    "unavailable",
];
const DURATIONS: [&str; 14] =
    ["0s", "1ms", "9ms", "10ms", "999ms", "1s", "5s", "10s", "60s", "1m", "10m", "59m", "1h", "3600000ms"];
const WINDOWS: [&str; 12] =
    ["s", "m", "hour", "d", "week", "month", "year", "2s", "90 seconds", "366d", "10m", "31622400s"];
const DIMENSIONS: [&str; 7] = ["client_ip", "client_ip/1", "client_ip/24", "client_ip/32", "path", "method", "host"];
const UNITS: [&str; 8] = ["SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "YEAR", "minute"];
const HEADERS: [&str; 9] =
    ["x-a", "X-B", "host", "cookie", "content-length", "connection", "te", "x-forwarded-for", "x-envoy-retry-on"];
const PSEUDO_HEADERS: [&str; 4] = [":path", ":method", ":authority", ":scheme"];
const REGEX: [&str; 30] = [
    "a",
    "/",
    "[a-z]",
    "[^/]+",
    ".",
    ".*",
    "\\d",
    "\\w+",
    "\\S",
    "\\.",
    "(?:",
    "(",
    "(?i)",
    "(?P<n>",
    ")",
    ")",
    "|",
    "*",
    "+?",
    "{2}",
    "{1,1000}",
    "{1000}",
    "^",
    "$",
    "\\b",
    "[[:alpha:]]",
    "\\x{7f}",
    "\\x{263A}",
    "é",
    "\\pL",
];

impl Draw {
    pub(super) fn text(&mut self, place: &str) -> String {
        match place {
            "Gateway.name" | "Service.name" | "Api.name" | "Plan.name" | "Tenant.name" | "RateLimits.name" => {
                self.own_name.clone()
            }
            "Api.gateway" | "RateLimits.gateway" => self.name_of(Kind::Gateway),
            "Api.service" => self.name_of(Kind::Service),
            "Plan.apis{}" | "Tenant.apis{}" => self.name_of(Kind::Api),
            "Tenant.plan" => self.name_of(Kind::Plan),
            "RawTenantRule.default_plan" => match self.random.bool() {
                true => self.name_of(Kind::Plan),
                false => "deny".to_owned(),
            },
            "RawTenantRule.missing" => self.one_of(&["reject", "anonymous", "~", "a b"]),
            "Service.registry" => self.one_of(&["orders", "a", "nobody"]),
            "RawLimit.name" => self.new_name(),
            "Gateway.listen" | "Service.endpoints" => self.address(),
            "Service.dns" => format!("{}{}:{}", self.host(), self.one_of(&["", "."]), self.random.u16(1..)),
            "RawTls.certificate_chain"
            | "RawTls.private_key"
            | "RawUpstreamTls.ca"
            | "RawUpstreamTls.certificate_chain"
            | "RawUpstreamTls.private_key" => self.file(place),
            "Gateway.identities" => match self.random.u8(..3) {
                0 => format!("spiffe://shop/{}", self.random.u32(..)),
                1 => format!("urn:uuid:{}", self.random.u32(..)),
                _ => format!("edge-{}.shop", self.random.u32(..)),
            },
            "Gateway.sds_dir" => self.folder.to_str().unwrap().to_owned(),
            "RawAccessLog.path" => {
                let name = self.one_of(&["access.log", "a b", "%START_TIME%", "{x}"]);
                self.folder.join(name).to_str().unwrap().to_owned()
            }
            "RawAccessLog.headers" => match self.random.bool() {
                true => self.header(),
                false => self.of_letters(TOKEN, 1..=256),
            },
            "RawTracing.otlp" => match self.random.bool() {
                true => self.address(),
                false => format!("{}:{}", self.host(), self.random.u16(1..)),
            },
            "RawUpstreamTls.sni" => self.host(),
            "RawUpstreamTls.verify_san" => match self.random.u8(..3) {
                0 => self.host(),
                1 => self.ip(),
                _ => format!("spiffe://{}", self.odd(0..=247)),
            },
            "RawNodes.clusters" | "RawNodes.ids" => self.odd(1..=20) + self.one_of(&["", "*"]).as_str(),
            "RawNodes.metadata" | "RawNodes.metadata{}" => self.odd(0..=20),
            "RawClientIp.header"
            | "RawTenantSource.header"
            | "RawDimension.header"
            | "RawCostSource.header"
            | "RawMatch.headers{}" => self.header(),
            "RawRequestHeaders.header_name" | "RawHeaderMatcher.name" => match self.random.bool() {
                true => self.one_of(&PSEUDO_HEADERS),
                false => self.header(),
            },
            "RawTenantSource.cookie" | "RawDimension.cookie" => self.of_letters(TOKEN, 1..=256),
            "RawTenantSource.query" | "RawDimension.query" | "RawMatch.query{}" => self.odd(1..=256),
            "RawTenantSource.jwt_claim" | "RawDimension.jwt_claim" => self.odd(1..=256),
            "RawTenantSource.client_certificate" => self.odd(1..=20),
            "RawLimiter.timeout"
            | "Service.connect_timeout"
            | "Api.timeout"
            | "Api.idle_timeout"
            | "RawRetry.per_try_timeout" => self.one_of(&DURATIONS),
            "RawHealthCheck.interval" | "RawHealthCheck.timeout" => self.one_of(&DURATIONS),
            "RawOutlierDetection.interval" | "RawOutlierDetection.base_ejection_time" => self.one_of(&DURATIONS),
            "RawHealthCheck.http" => "/".to_owned() + &self.odd(0..=255),
            "RawHealthCheck.grpc" => self.odd(0..=300),
            "RawMatch.path" | "RawMatch.path_prefix" => self.path(),
            "RawMatch.path_template" => self.template(),
            "RawMatch.path_regex" | "RawCondition.regex" | "RawRegex.regex" => self.regex(),
            "RawMatch.methods" => self.one_of(&METHODS),
            "Api.cors" => "none".to_owned(),
            "RawCors.allow_origins" => match self.random.u8(..4) {
                0 => "*".to_owned(),
                1 => format!("http://[::1]:{}", self.random.u16(..)),
                _ => format!("https://{}{}", self.one_of(&["", "*."]), self.host()),
            },
            "RawOrigin.regex" => self.regex(),
            "RawCors.allow_methods" => self.one_of(&METHODS),
            "RawCors.allow_headers" | "RawCors.expose_headers" => match self.random.u8(..4) {
                0 => "*".to_owned(),
                _ => self.header(),
            },
            "RawCors.max_age" => self.one_of(&DURATIONS),
            "Api.upgrades" => self.one_of(&["websocket"]),
            "RawMatch.hosts" => self.one_of(&["", "*."]) + &self.host(),
            "RawMatch.headers" | "RawMatch.query" => self.odd(1..=256),
            "RawCondition.exact" | "RawCondition.prefix" | "RawCondition.suffix" | "RawCondition.contains" => {
                self.odd(1..=256)
            }
            "RawStringMatch.exact" | "RawStringMatch.prefix" | "RawStringMatch.suffix" | "RawStringMatch.contains" => {
                self.odd(0..=256)
            }
            "RawHeaderMatcher.exact_match"
            | "RawHeaderMatcher.prefix_match"
            | "RawHeaderMatcher.suffix_match"
            | "RawHeaderMatcher.contains_match" => self.odd(0..=256),
            "RawRetry.on" => self.one_of(&RETRY_ON),
            "RawLimit.rate" => {
                let number = [0, 1, 100, 1_000_000_000][self.random.usize(..4)];
                format!("{number}/{}", self.one_of(&WINDOWS))
            }
            "RawLimit.by" => self.one_of(&DIMENSIONS),
            "RawActionLimit.unit" => self.one_of(&UNITS),
            "RawRequestHeaders.descriptor_key"
            | "RawQueryParameters.descriptor_key"
            | "RawQueryParameters.query_parameter_name"
            | "RawGenericKey.descriptor_key"
            | "RawGenericKey.descriptor_value"
            | "RawHeaderValueMatch.descriptor_key"
            | "RawHeaderValueMatch.descriptor_value" => self.odd(0..=256),
            "RawDynamicMetadata.descriptor_key"
            | "RawMetadata.descriptor_key"
            | "RawMetadataKey.key"
            | "RawPathSegment.key"
            | "RawQueryParameterValueMatch.descriptor_key"
            | "RawQueryParameterValueMatch.descriptor_value"
            | "RawRemoteAddressMatch.descriptor_key"
            | "RawRemoteAddressMatch.descriptor_value"
            | "RawQueryParameterMatcher.name"
            | "RawRateLimit.disable_key" => self.odd(0..=256),
            "RawDynamicMetadata.default_value"
            | "RawMetadata.default_value"
            | "RawGenericKey.default_value"
            | "RawHeaderValueMatch.default_value"
            | "RawQueryParameterValueMatch.default_value"
            | "RawRemoteAddressMatch.default_value" => self.odd(0..=256),
            "RawMetadata.source" => self.one_of(&["DYNAMIC", "ROUTE_ENTRY", "CLUSTER_ENTRY"]),
            "RawCidrRange.address_prefix" => self.ip(),
            "RawHitsAddend.format" => format!("%REQ({})%", self.header()),
            "RawHitsAddend.number" | "RawActionLimit.requests_per_unit" => self.random.u32(..).to_string(),
            "RawRange.start" | "RawRange.end" => self.random.i64(..).to_string(),
            "Requirement.key" => format!("policies/Service/{}", self.name_of(Kind::Service)),
            other => panic!("what is written at {other}? Say it here, so that an Envoy can judge it"),
        }
    }

    pub(super) fn one_of(&mut self, texts: &[&str]) -> String {
        texts[self.random.usize(..texts.len())].to_owned()
    }

    /// Often as short or as long as may be.
    fn length(&mut self, lengths: RangeInclusive<usize>) -> usize {
        match self.random.u8(..16) {
            0 => *lengths.start(),
            1 | 2 => *lengths.end(),
            _ => self.random.usize(*lengths.start()..=(*lengths.end()).min(*lengths.start() + 12)),
        }
    }

    /// Not more bytes than that.
    pub(super) fn of_letters(&mut self, letters: &str, lengths: RangeInclusive<usize>) -> String {
        let letters: Vec<char> = letters.chars().collect();
        let (length, least) = (self.length(lengths.clone()), *lengths.start());
        let mut text = String::new();
        while text.len() < length {
            let letter = letters[self.random.usize(..letters.len())];
            if text.len() + letter.len_utf8() > length && text.len() >= least {
                break;
            }
            text.push(letter);
        }
        text
    }

    /// One that nothing else is called.
    pub(super) fn new_name(&mut self) -> String {
        self.count += 1;
        let middle = self.of_letters("az09.-_", 0..=116);
        format!("{}{middle}z", self.count)
    }

    fn name_of(&mut self, kind: Kind) -> String {
        let names = &self.names[&kind];
        names[self.random.usize(..names.len())].clone()
    }

    /// Most of them are plain, as nearly all are that people write.
    pub(super) fn odd(&mut self, lengths: RangeInclusive<usize>) -> String {
        match self.random.u8(..16) {
            0 => self.of_letters(ODD, lengths),
            1..=4 => self.of_letters(&ODD[..ODD.find('\u{85}').unwrap()], lengths),
            _ => self.of_letters("az-09", lengths),
        }
    }

    fn header(&mut self) -> String {
        match self.random.bool() {
            true => self.one_of(&HEADERS),
            false => self.of_letters(TOKEN, 1..=256),
        }
    }

    /// Ports are other ones each time, so that no two listeners are in each other's way.
    pub(super) fn address(&mut self) -> String {
        self.count += 1;
        let port = u16::try_from(1 + self.count % 65_535).unwrap();
        match self.ip() {
            ip if ip.contains('.') && !ip.contains(':') => format!("{ip}:{port}"),
            ip if ip.starts_with("fe80") => format!("[{ip}%{}]:{port}", self.random.u32(..)),
            ip => format!("[{ip}]:{port}"),
        }
    }

    fn ip(&mut self) -> String {
        let v4 = Ipv4Addr::from(self.random.u32(..));
        let v6 = Ipv6Addr::from(self.random.u128(..));
        let known =
            [Ipv4Addr::UNSPECIFIED.to_string(), Ipv4Addr::LOCALHOST.to_string(), Ipv4Addr::BROADCAST.to_string()];
        match self.random.u8(..8) {
            0 => v4.to_string(),
            1 => v6.to_string(),
            2 => v4.to_ipv6_mapped().to_string(),
            3 => Ipv6Addr::UNSPECIFIED.to_string(),
            4 => Ipv6Addr::LOCALHOST.to_string(),
            5 => "fe80::1".to_owned(),
            _ => known[self.random.usize(..known.len())].clone(),
        }
    }

    fn host(&mut self) -> String {
        let labels = match self.random.u8(..8) {
            0 => 4,
            _ => self.random.usize(1..=3),
        };
        let label = |_| match self.random.u8(..6) {
            0 => self.of_letters("az09-_AZ", 1..=60),
            _ => self.one_of(&["shop", "example", "EU", "1", "127", "_x", "-a-", "xn--bcher-kva"]),
        };
        (0..labels).map(label).collect::<Vec<_>>().join(".")
    }

    fn path(&mut self) -> String {
        let segments = self.random.usize(0..=4);
        let segment = |_| match self.random.u8(..4) {
            0 => self.of_letters(PATH, 0..=200),
            _ => self.one_of(&["order", "v1", "a.b", "%20", "%2F", "-", "..."]),
        };
        format!("/{}", (0..segments).map(segment).collect::<Vec<_>>().join("/"))
    }

    fn template(&mut self) -> String {
        let segments = self.random.usize(1..=6);
        let segment = |_| match self.random.u8(..4) {
            0 => self.of_letters("azAZ09-._~%!$&'()+,;:@=", 0..=200),
            1 => "order".to_owned(),
            2 => "{id}".to_owned(),
            _ => format!("{{{}}}", self.of_letters("azAZ09_", 1..=16)),
        };
        format!("/{}", (0..segments).map(segment).collect::<Vec<_>>().join("/"))
    }

    /// As often a plain one, or hardly any list with one would pass.
    fn regex(&mut self) -> String {
        let (pieces, parts) = match self.random.bool() {
            true => (&REGEX[..10], 1),
            false => (&REGEX[..], self.random.usize(1..=4)),
        };
        (0..parts).map(|_| self.one_of(pieces)).collect()
    }

    /// A file that is there, wherever it is.
    fn file(&mut self, place: &str) -> String {
        let pem = if place.ends_with("private_key") { "first.key" } else { "first.crt" };
        let pem = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(pem);
        let folder = self.one_of(&["", "a b", "ünï", "{x}", "%s", "..a", "$(x)"]);
        let folder = self.folder.join("tls").join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        let name = self.one_of(&["tls.pem", "a b", "ö", "%", "\"", "'", "{}", ":"]);
        let file = folder.join(format!("{name}.{}", pem.extension().unwrap().to_str().unwrap()));
        std::fs::copy(pem, &file).unwrap();
        file.to_str().unwrap().to_owned()
    }
}
