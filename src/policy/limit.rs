//! One limit: how much passes, counted by what, and what happens past it.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::problem::Findings;
use super::rate::{LIMIT_MAX, Rate};
use super::raw::{NumberOr, RawAlgorithm, RawCostSource, RawDimension, RawLimit, RawMode, WordOr};
use super::text;
use crate::names::credential::is_credential;
use crate::names::{Name, descriptor};

/// The statuses that a denial may have. The list is closed because each is a fixed row of the
/// listener's local replies: a limit's status can then change without a new listener.
pub const DENIAL_STATUSES: [u16; 13] = [400, 401, 402, 403, 404, 409, 413, 429, 451, 500, 502, 503, 504];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Unique among the limits of its list; shows in headers, metrics and answers.
    pub name: Name,
    pub rate: Rate,
    /// The dimensions that split the counter, in the order written. Empty: one counter for all.
    pub by: Vec<Dimension>,
    pub algorithm: Algorithm,
    pub mode: Mode,
    /// The HTTP status of a denial, one of [`DENIAL_STATUSES`].
    pub status: u16,
    pub cost: Cost,
    /// Where replicas share the counters, the store is asked about each request.
    pub is_exact: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Never more than the limit in any interval of the window's length.
    SlidingWindow,
    /// Refills evenly at the rate; `burst` hits can be saved up.
    TokenBucket { burst: NonZeroU32 },
    /// Windows aligned to UTC; up to twice the limit may pass around an edge.
    FixedWindow,
}

impl Algorithm {
    /// The word of the policy language.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SlidingWindow => "sliding_window",
            Self::TokenBucket { .. } => "token_bucket",
            Self::FixedWindow => "fixed_window",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    Enforce,
    /// Counted and reported, never denied.
    Shadow,
}

impl Mode {
    /// The word of the policy language.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        }
    }
}

/// The number of hits that a request costs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Cost {
    Hits(NonZeroU32),
    /// The number in this request header; 1 where it is missing or is no whole number above 0.
    Header(String),
}

/// A property of a request that splits a counter: one counter for each value.
/// A request that lacks it counts as the empty value, in one shared counter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dimension {
    /// The whole address, or the network of `prefix` bits that an IPv4 address is in
    /// (an IPv6 address then counts by its /64).
    ClientIp {
        prefix: Option<u8>,
    },
    Header(String),
    Query(String),
    Cookie(String),
    /// Without the query.
    Path,
    Method,
    Host,
    JwtClaim(String),
}

impl Limit {
    /// Reads the limits of one list. Their names, given or made, tell them apart. `place` is what made names
    /// begin with.
    pub fn read_list(
        field: &str,
        place: &str,
        raws: Option<&[RawLimit]>,
        findings: &mut Findings,
    ) -> Option<Vec<Arc<Self>>> {
        let raws = text::not_empty(findings, field, raws);
        findings.within(field, |findings| {
            let read = |(index, raw)| findings.within(index, |findings| Self::read(raw, place, findings));
            let limits: Vec<_> = raws.iter().enumerate().map(read).collect();
            for (index, limit) in limits.iter().enumerate() {
                let is_same = |other: &&Self| limit.as_ref().is_some_and(|limit| limit.name == other.name);
                let Some(earlier) = limits.iter().take(index).flatten().find(is_same) else { continue };
                findings.within(index, |findings| {
                    let message = format!("is called {:?} like an earlier limit of this list", earlier.name.as_str());
                    findings.say_with_help(message, "give one of them another `name`".to_owned());
                });
            }
            limits.into_iter().map(|limit| limit.map(Arc::new)).collect()
        })
    }

    /// The dimensions that routes have to report for it. Networks are cut out of the address later, so every prefix is
    /// the address.
    pub fn reported(&self) -> impl Iterator<Item = Dimension> {
        let by = self.by.iter().map(|dimension| match dimension {
            Dimension::ClientIp { .. } => Dimension::ClientIp { prefix: None },
            other => other.clone(),
        });
        let cost = match &self.cost {
            Cost::Hits(_) => None,
            Cost::Header(name) => Some(Dimension::Header(name.clone())),
        };
        by.chain(cost)
    }

    fn read(raw: &RawLimit, place: &str, findings: &mut Findings) -> Option<Self> {
        let rate = findings.within("rate", |findings| findings.check(&raw.rate, Rate::parse(&raw.rate)));
        let by = Dimension::read_list(raw.by.as_deref(), findings);
        let algorithm = rate.and_then(|rate| Algorithm::read(raw, rate, findings));
        let status = read_status(raw.status.unwrap_or(429), findings);
        let cost = raw.cost.as_ref().map_or(Some(Cost::ONE), |raw| Cost::read(raw, findings));
        let mode = match raw.mode {
            None | Some(RawMode::Enforce) => Mode::Enforce,
            Some(RawMode::Shadow) => Mode::Shadow,
        };
        let (rate, by) = (rate?, by?);
        let name = match &raw.name {
            Some(name) => text::name(findings, "name", name)?,
            None => made_name(place, rate, by.iter().map(ToString::to_string), mode),
        };
        let is_exact = raw.exact.unwrap_or(false);
        Some(Self { name, rate, by, algorithm: algorithm?, mode, status: status?, cost: cost?, is_exact })
    }
}

fn read_status(status: u32, findings: &mut Findings) -> Option<u16> {
    let known = DENIAL_STATUSES.into_iter().find(|known| u32::from(*known) == status);
    findings.within("status", |f| f.check(status, known.ok_or_else(|| format!("one of {DENIAL_STATUSES:?}"))))
}

/// A name for a limit that was given none: its place, its window and what it counts by, as in
/// `api-minute-by-client_ip`.
/// The rate's number is left out: whoever changes it means the same limit, and the same counters.
pub(super) fn made_name(place: &str, rate: Rate, by: impl Iterator<Item = String>, mode: Mode) -> Name {
    let mut name = format!("{place}-{}", rate.window);
    for (position, dimension) in by.enumerate() {
        name.push_str(if position == 0 { "-by-" } else { "-" });
        name.extend(dimension.chars().map(|c| match c.to_ascii_lowercase() {
            c if c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_') => c,
            _ => '-',
        }));
    }
    if mode == Mode::Shadow {
        name.push_str("-shadow");
    }
    name.truncate(crate::names::NAME_BYTES_MAX);
    let name = name.trim_end_matches(['.', '_', '-']);
    Name::parse(name).expect("begins with a place, ends with a letter or digit, and all between is allowed")
}

impl Algorithm {
    fn read(raw: &RawLimit, rate: Rate, findings: &mut Findings) -> Option<Self> {
        let algorithm = match raw.algorithm {
            None | Some(RawAlgorithm::SlidingWindow) => Self::SlidingWindow,
            Some(RawAlgorithm::FixedWindow) => Self::FixedWindow,
            Some(RawAlgorithm::TokenBucket) => {
                let burst = text::number_within(findings, "burst", raw.burst, rate.limit.max(1), 1..=LIMIT_MAX)?;
                return NonZeroU32::new(burst).map(|burst| Self::TokenBucket { burst });
            }
        };
        if raw.burst.is_some() {
            findings.within("burst", |findings| findings.say("needs `algorithm: token_bucket`".to_owned()));
            return None;
        }
        Some(algorithm)
    }
}

impl Cost {
    const ONE: Self = Self::Hits(NonZeroU32::MIN);

    fn read(raw: &NumberOr<RawCostSource>, findings: &mut Findings) -> Option<Self> {
        findings.within("cost", |findings| match raw {
            NumberOr::Number(number) => {
                let hits = u32::try_from(*number).ok().filter(|n| *n <= LIMIT_MAX).and_then(NonZeroU32::new);
                findings.check(number, hits.ok_or("1 to 1000000000 hits")).map(Self::Hits)
            }
            NumberOr::Other(RawCostSource::Header(name)) => {
                findings.within("header", |f| f.check(name, text::header_name(name))).map(Self::Header)
            }
        })
    }

    /// The key of the descriptor entry that carries the cost, where the request says it.
    pub fn descriptor_key(&self) -> Option<String> {
        match self {
            Self::Hits(_) => None,
            Self::Header(name) => Some(Dimension::Header(name.clone()).descriptor_key()),
        }
    }
}

impl Dimension {
    fn read_list(raws: Option<&[WordOr<RawDimension>]>, findings: &mut Findings) -> Option<Vec<Self>> {
        let raws = text::not_empty(findings, "by", raws);
        findings.within("by", |findings| {
            let mut dimensions = Vec::with_capacity(raws.len());
            for (index, raw) in raws.iter().enumerate() {
                findings.within(index, |findings| match Self::read(raw, findings) {
                    Some(dimension) if dimensions.contains(&dimension) => {
                        findings.say(format!("{dimension} stands twice"))
                    }
                    Some(dimension) => dimensions.push(dimension),
                    None => {}
                });
            }
            (dimensions.len() == raws.len()).then_some(dimensions)
        })
    }

    fn read(raw: &WordOr<RawDimension>, findings: &mut Findings) -> Option<Self> {
        match raw {
            WordOr::Word(word) => findings.check(word, Self::parse_word(word)),
            WordOr::Long(RawDimension::Header(name)) => {
                let name = findings.within("header", |f| f.check(name, text::header_name(name)))?;
                // Whichever way it is written, a port splits no counter.
                Some(if name == "host" { Self::Host } else { Self::Header(name) })
            }
            WordOr::Long(RawDimension::Query(name)) => {
                findings.within("query", |f| f.check(name, text::plain(name))).map(Self::Query)
            }
            WordOr::Long(RawDimension::Cookie(name)) => {
                findings.within("cookie", |f| f.check(name, text::cookie_name(name))).map(Self::Cookie)
            }
            WordOr::Long(RawDimension::JwtClaim(claim)) => {
                findings.within("jwt_claim", |f| f.check(claim, text::plain(claim))).map(Self::JwtClaim)
            }
        }
    }

    fn parse_word(word: &str) -> Result<Self, &'static str> {
        Ok(match word {
            "client_ip" => Self::ClientIp { prefix: None },
            "path" => Self::Path,
            "method" => Self::Method,
            "host" => Self::Host,
            _ => {
                let bits = word.strip_prefix("client_ip/").and_then(|bits| bits.parse::<u8>().ok());
                let prefix = bits.filter(|bits| (1..=32).contains(bits)).ok_or(
                    "client_ip, client_ip/1 to client_ip/32, path, method, host, or a mapping with header, query, cookie or jwt_claim",
                )?;
                Self::ClientIp { prefix: Some(prefix) }
            }
        })
    }

    /// True where its values let whoever has them in, so that they are shown by their hashes alone.
    pub fn is_credential(&self) -> bool {
        match self {
            Self::Cookie(_) => true,
            Self::Header(name) | Self::Query(name) => is_credential(name),
            Self::ClientIp { .. } | Self::Path | Self::Method | Self::Host | Self::JwtClaim(_) => false,
        }
    }

    /// The key of the descriptor entry that carries this dimension's value.
    /// The network of a client's address is cut out by the limiter, so every prefix shares one entry.
    pub fn descriptor_key(&self) -> String {
        match self {
            Self::ClientIp { .. } => descriptor::CLIENT_IP.to_owned(),
            Self::Header(name) => format!("header:{name}"),
            Self::Query(name) => format!("query:{name}"),
            Self::Cookie(name) => format!("cookie:{name}"),
            Self::Path => descriptor::PATH.to_owned(),
            Self::Method => descriptor::METHOD.to_owned(),
            Self::Host => descriptor::HOST.to_owned(),
            Self::JwtClaim(claim) => format!("jwt_claim:{claim}"),
        }
    }
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientIp { prefix: None } => f.write_str("client_ip"),
            Self::ClientIp { prefix: Some(bits) } => write!(f, "client_ip/{bits}"),
            _ => f.write_str(&self.descriptor_key()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::split;
    use crate::policy::parse::{Policy, parse};

    /// The limit of an Api, or the place and the message of what is wrong with it.
    fn read(limit: &str) -> Result<Arc<Limit>, String> {
        let limits = read_all(&format!("[{limit}]"))?;
        Ok(Arc::clone(&limits[0]))
    }

    fn read_all(limits: &str) -> Result<Vec<Arc<Limit>>, String> {
        let text = format!("{{kind: Api, name: pay, gateway: g, match: {{path: /}}, service: s, limits: {limits}}}");
        let document = Arc::new(split(&"p.yaml".into(), text.as_bytes()).remove(0));
        match parse(&document) {
            Ok(parsed) => match &parsed.policy {
                Policy::Api(api) => Ok(api.limits.clone()),
                _ => unreachable!("it is an Api"),
            },
            Err(refused) => {
                let told = |problem: &crate::policy::problem::Problem| format!("{}: {}", problem.path, problem.message);
                Err(refused.problems.iter().map(told).collect::<Vec<_>>().join("\n"))
            }
        }
    }

    #[test]
    fn what_is_left_out_has_the_value_that_is_usual() {
        let limit = read("{rate: 10/m}").unwrap();
        assert_eq!((limit.algorithm, limit.mode, limit.status), (Algorithm::SlidingWindow, Mode::Enforce, 429));
        assert_eq!((&limit.cost, limit.is_exact, &*limit.by), (&Cost::ONE, false, &[][..]));
        assert_eq!(
            read("{rate: 10/m, algorithm: sliding_window, mode: enforce, status: 429, cost: 1}").unwrap(),
            limit
        );
    }

    #[test]
    fn a_name_that_is_made_tells_limits_apart_and_forgets_the_number() {
        for (limit, name) in [
            ("{rate: 10/m}", "api-minute"),
            ("{rate: 99/m}", "api-minute"),
            ("{rate: 10/m, mode: shadow}", "api-minute-shadow"),
            ("{rate: 10/90s}", "api-90s"),
            (
                "{rate: 10/m, by: [client_ip/24, {header: X-User_Id}, path]}",
                "api-minute-by-client_ip-24-header-x-user_id-path",
            ),
            ("{rate: 10/m, by: [{query: \"a b\"}]}", "api-minute-by-query-a-b"),
        ] {
            assert_eq!(read(limit).unwrap().name.as_str(), name, "{limit}");
        }
        let long = read(&format!("{{rate: 10/m, by: [{{header: {}}}]}}", "x-".repeat(100) + "x")).unwrap();
        let name = long.name.as_str();
        assert!(name.len() <= crate::names::NAME_BYTES_MAX && name.ends_with('x'), "{name}");
    }

    #[test]
    fn names_of_one_list_differ_or_are_told_apart() {
        let told = read_all("[{rate: 10/m}, {rate: 99/m}]").unwrap_err();
        assert_eq!(told, "limits[1]: is called \"api-minute\" like an earlier limit of this list");
        assert_eq!(read_all("[{rate: 10/m}, {rate: 99/m, name: other}]").unwrap().len(), 2);
        let told = read_all("[{rate: 10/m, name: a}, {rate: 9/h}, {rate: 99/m, name: a}]").unwrap_err();
        assert!(told.starts_with("limits[2]: is called \"a\""), "{told}");
    }

    #[test]
    fn a_bucket_holds_its_rate_where_it_does_not_say_more() {
        let burst = |limit: &str| match read(limit).unwrap().algorithm {
            Algorithm::TokenBucket { burst } => burst.get(),
            other => panic!("{other:?}"),
        };
        assert_eq!(burst("{rate: 10/m, algorithm: token_bucket}"), 10);
        assert_eq!(burst("{rate: 0/m, algorithm: token_bucket}"), 1, "one that refills never");
        assert_eq!(burst("{rate: 10/m, algorithm: token_bucket, burst: 1}"), 1);
        assert_eq!(burst("{rate: 10/m, algorithm: token_bucket, burst: 1000000000}"), LIMIT_MAX);
    }

    #[test]
    fn what_is_out_of_bounds_is_told_by_its_place_with_what_was_expected() {
        for (limit, place, words) in [
            ("{rate: often}", "limits[0].rate", "found \"often\", expected a rate like 100/minute"),
            ("{rate: 1/m, status: 200}", "limits[0].status", "found 200, expected one of [400, "),
            ("{rate: 1/m, status: 70000}", "limits[0].status", "found 70000, expected one of [400, "),
            ("{rate: 1/m, cost: 0}", "limits[0].cost", "found 0, expected 1 to 1000000000 hits"),
            ("{rate: 1/m, cost: 1000000001}", "limits[0].cost", "expected 1 to 1000000000 hits"),
            ("{rate: 1/m, cost: {header: a b}}", "limits[0].cost.header", "found \"a b\""),
            ("{rate: 1/m, burst: 5}", "limits[0].burst", "needs `algorithm: token_bucket`"),
            ("{rate: 1/m, algorithm: fixed_window, burst: 5}", "limits[0].burst", "needs `algorithm: token_bucket`"),
            (
                "{rate: 1/m, algorithm: token_bucket, burst: 0}",
                "limits[0].burst",
                "found 0, expected a number of 1 to 1000000000",
            ),
            ("{rate: 1/m, name: A}", "limits[0].name", "found \"A\""),
            ("{rate: 1/m, by: []}", "limits[0].by", "empty"),
            ("{rate: 1/m, by: [path, path]}", "limits[0].by[1]", "path stands twice"),
            ("{rate: 1/m, by: [host, {header: Host}]}", "limits[0].by[1]", "host stands twice"),
            ("{rate: 1/m, by: [client_ip/0]}", "limits[0].by[0]", "client_ip/1 to client_ip/32"),
            ("{rate: 1/m, by: [client_ip/33]}", "limits[0].by[0]", "client_ip/1 to client_ip/32"),
            ("{rate: 1/m, by: [colour]}", "limits[0].by[0]", "found \"colour\""),
            ("{rate: 1/m, by: [{cookie: \"a=b\"}]}", "limits[0].by[0].cookie", "found \"a=b\""),
        ] {
            let told = read(limit).map(drop).unwrap_err();
            assert!(told.starts_with(&format!("{place}: ")) && told.contains(words), "{limit}: {told}");
        }
    }

    #[test]
    fn routes_report_whole_addresses_and_the_header_that_says_the_cost() {
        let limit = read("{rate: 1/m, by: [client_ip/24, path], cost: {header: x-cost}}").unwrap();
        let reported: Vec<String> = limit.reported().map(|dimension| dimension.to_string()).collect();
        assert_eq!(reported, ["client_ip", "path", "header:x-cost"]);
        assert_eq!(limit.cost.descriptor_key().as_deref(), Some("header:x-cost"));
        assert_eq!(Cost::ONE.descriptor_key(), None);
        let keys = limit.by.iter().map(Dimension::descriptor_key);
        let whole = read("{rate: 1/m, by: [client_ip, path]}").unwrap();
        assert!(keys.eq(whole.by.iter().map(Dimension::descriptor_key)), "one entry for every prefix");
    }
}
