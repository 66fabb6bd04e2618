//! A gateway: what a group of Envoys listens on, and how it tells clients and tenants apart.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::access_log::AccessLog;
use super::cors::Cors;
use super::problem::Findings;
use super::raw::{
    RawClientIp, RawEscapedSlashes, RawGateway, RawLimiter, RawNodes, RawOnError, RawPathRules, RawTenantRule,
    RawTenantSource, RawTls,
};
use super::tracing::Tracing;
use super::{identities, text};
use crate::names::certificate::{San, allows};
use crate::names::credential::is_credential;
use crate::names::{Kind, Name, NodeIdentity, TenantName};

/// The most proxies in front that can be trusted.
const TRUSTED_HOPS_MAX: u32 = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    pub name: Name,
    pub nodes: NodeSelector,
    /// Empty: any certificate that Tierflow's ports take, or none where they ask for none.
    pub identities: Arc<[San]>,
    pub listen: SocketAddr,
    pub tls: Option<Tls>,
    pub client_ip: ClientIp,
    pub escaped_slashes: EscapedSlashes,
    pub cors: Option<Cors>,
    pub tenant: Option<TenantRule>,
    pub limiter: LimiterSettings,
    /// The folder of the Envoys' own secrets; `None`: their bootstrap has them.
    pub sds_dir: Option<String>,
    pub access_log: Option<AccessLog>,
    pub tracing: Option<Tracing>,
}

/// What a node is to a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// It does not say that it is one of the gateway's Envoys.
    Unselected,
    /// It says so, and its certificate does not.
    Denied,
    Member,
}

/// The place that the client's address is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientIp {
    /// The address that the outermost of so many trusted proxies saw, by `x-forwarded-for`. 0: the connection's.
    TrustedHops(u32),
    /// A header that a trusted proxy sets; the connection's address where it holds none.
    Header(String),
}

impl ClientIp {
    fn read(raw: Option<&RawClientIp>, findings: &mut Findings) -> Option<Self> {
        let Some(raw) = raw else { return Some(Self::TrustedHops(0)) };
        match (raw.trusted_hops, &raw.header) {
            (hops, None) => {
                text::number_within(findings, "trusted_hops", hops, 0, 0..=TRUSTED_HOPS_MAX).map(Self::TrustedHops)
            }
            (None, Some(name)) => findings.within("header", |findings| {
                let name = findings.check(name, text::header_name(name))?;
                if matches!(name.as_str(), "x-forwarded-for" | "forwarded") {
                    findings.say(format!(
                        "{name} is a list, of which clients write a part: expected a header of one address"
                    ));
                    return None;
                }
                Some(Self::Header(name))
            }),
            (Some(_), Some(_)) => {
                findings.within("header", |findings| findings.say("expected either trusted_hops or header".to_owned()));
                None
            }
        }
    }
}

/// The treatment of a path that has `%2F` or `%5C` in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// 307 to the decoded path.
    #[default]
    Redirect,
    Decode,
    Keep,
    /// 400
    Refuse,
}

impl EscapedSlashes {
    fn read(raw: Option<&RawPathRules>) -> Self {
        match raw.and_then(|raw| raw.escaped_slashes) {
            None | Some(RawEscapedSlashes::Redirect) => Self::Redirect,
            Some(RawEscapedSlashes::Decode) => Self::Decode,
            Some(RawEscapedSlashes::Keep) => Self::Keep,
            Some(RawEscapedSlashes::Refuse) => Self::Refuse,
        }
    }
}

/// A certificate that Envoy shows, by the paths of its files on Envoy's host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub certificate_chain: String,
    pub private_key: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRule {
    pub from: TenantSource,
    pub missing: MissingTenant,
    pub default_plan: DefaultPlan,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenantSource {
    Header(String),
    Query(String),
    Cookie(String),
    JwtClaim(String),
}

impl fmt::Display for TenantSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::JwtClaim(claim) => write!(f, "jwt_claim:{claim}"),
        }
    }
}

/// The treatment of a request that names no tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MissingTenant {
    Is(TenantName),
    /// 400
    Reject,
}

/// The treatment of a tenant that no document names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DefaultPlan {
    Plan(Name),
    /// 403
    Deny,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimiterSettings {
    pub timeout: Duration,
    pub on_error: OnError,
}

/// The treatment of a request that nothing could be decided about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    Allow,
    /// 503
    Deny,
    /// As by this replica's part of the limits, where only the store of counters that replicas share is away. Else as
    /// [`Self::Allow`].
    Local,
}

/// A selection of Envoys: every condition that is given has to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSelector {
    pub clusters: Vec<Pattern>,
    pub ids: Vec<Pattern>,
    pub metadata: BTreeMap<String, String>,
}

/// A text, or the beginning of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    Exact(String),
    Prefix(String),
}

impl Gateway {
    pub fn read(raw: &RawGateway, findings: &mut Findings) -> Option<Self> {
        text::requires(findings, (Kind::Gateway, &raw.name), raw.requires.as_deref());
        let name = text::name(findings, "name", &raw.name);
        let nodes = findings.within("nodes", |findings| NodeSelector::read(&raw.nodes, findings));
        let identities =
            findings.within("identities", |findings| identities::read(raw.identities.as_deref(), findings));
        let listen = findings.within("listen", |findings| {
            let address = raw.listen.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
            findings.check(&raw.listen, address.ok_or("an IP address and a port, as in 0.0.0.0:10000"))
        });
        let tls = raw.tls.as_ref().map(|raw| findings.within("tls", |findings| Tls::read(raw, findings)));
        let client_ip = findings.within("client_ip", |findings| ClientIp::read(raw.client_ip.as_ref(), findings));
        let cors = raw.cors.as_ref().map(|raw| Cors::read(raw, findings));
        let tenant =
            raw.tenant.as_ref().map(|raw| findings.within("tenant", |findings| TenantRule::read(raw, findings)));
        let limiter = findings.within("limiter", |findings| LimiterSettings::read(raw.limiter.as_ref(), findings));
        let sds_dir = raw.sds_dir.as_deref().map(|folder| text::envoy_folder(findings, "sds_dir", folder));
        let access_log = raw.access_log.as_ref().map(|raw| {
            let tenant = tenant.as_ref().and_then(Option::as_ref);
            findings.within("access_log", |findings| AccessLog::read(raw, tenant, findings))
        });
        let tracing =
            raw.tracing.as_ref().map(|raw| findings.within("tracing", |findings| Tracing::read(raw, findings)));
        Some(Self {
            name: name?,
            nodes: nodes?,
            identities: identities?,
            listen: listen?,
            tls: text::optional(tls)?,
            client_ip: client_ip?,
            escaped_slashes: EscapedSlashes::read(raw.path.as_ref()),
            cors: text::optional(cors)?,
            tenant: text::optional(tenant)?,
            limiter: limiter?,
            sds_dir: text::optional(sds_dir)?,
            access_log: text::optional(access_log)?,
            tracing: text::optional(tracing)?,
        })
    }

    /// What the node is to the gateway: it has to be selected by what it says of itself, which anybody can say, and its
    /// certificate has to be for one of the identities, where there are any.
    pub fn membership(&self, node: &NodeIdentity) -> Membership {
        if !self.nodes.selects(&node.id, &node.cluster, &node.metadata) {
            return Membership::Unselected;
        }
        match allows(&self.identities, node.certificate.as_deref()) {
            true => Membership::Member,
            false => Membership::Denied,
        }
    }
}

impl Tls {
    fn read(raw: &RawTls, findings: &mut Findings) -> Option<Self> {
        let certificate_chain = text::envoy_path(findings, "certificate_chain", &raw.certificate_chain);
        let private_key = text::envoy_path(findings, "private_key", &raw.private_key);
        Some(Self { certificate_chain: certificate_chain?, private_key: private_key? })
    }
}

impl TenantRule {
    fn read(raw: &RawTenantRule, findings: &mut Findings) -> Option<Self> {
        let from = findings.within("from", |findings| TenantSource::read(&raw.from, findings));
        let missing = match raw.missing.as_deref() {
            Some("reject") => Some(MissingTenant::Reject),
            missing => {
                let tenant = missing.unwrap_or("anonymous");
                let parsed = TenantName::parse(tenant).ok_or("the name of a tenant, or `reject`");
                findings.within("missing", |findings| findings.check(tenant, parsed)).map(MissingTenant::Is)
            }
        };
        let default_plan = match raw.default_plan.as_str() {
            "deny" => Some(DefaultPlan::Deny),
            plan => text::name(findings, "default_plan", plan).map(DefaultPlan::Plan),
        };
        Some(Self { from: from?, missing: missing?, default_plan: default_plan? })
    }
}

impl TenantSource {
    /// True where tenants are told apart by the host that is asked for.
    pub fn is_host(&self) -> bool {
        matches!(self, Self::Header(name) if name == "host")
    }

    /// True where a tenant's name lets whoever has it in, as [`Dimension::is_credential`](super::limit::Dimension::is_credential).
    pub fn is_credential(&self) -> bool {
        match self {
            Self::Cookie(_) => true,
            Self::Header(name) | Self::Query(name) => is_credential(name),
            Self::JwtClaim(_) => false,
        }
    }

    fn read(raw: &RawTenantSource, findings: &mut Findings) -> Option<Self> {
        match raw {
            RawTenantSource::Header(name) => {
                findings.within("header", |f| f.check(name, text::header_name(name))).map(Self::Header)
            }
            RawTenantSource::Query(name) => {
                findings.within("query", |f| f.check(name, text::plain(name))).map(Self::Query)
            }
            RawTenantSource::Cookie(name) => {
                findings.within("cookie", |f| f.check(name, text::cookie_name(name))).map(Self::Cookie)
            }
            RawTenantSource::JwtClaim(claim) => {
                findings.within("jwt_claim", |f| f.check(claim, text::plain(claim))).map(Self::JwtClaim)
            }
            RawTenantSource::ClientCertificate(_) => findings.within("client_certificate", |findings| {
                findings.say("is not supported yet: expected header, query, cookie or jwt_claim".to_owned());
                None
            }),
        }
    }
}

impl LimiterSettings {
    fn read(raw: Option<&RawLimiter>, findings: &mut Findings) -> Option<Self> {
        let bounds = Duration::from_millis(1)..=Duration::from_secs(10);
        let timeout = raw.and_then(|raw| raw.timeout.as_deref());
        let timeout = text::duration_or(findings, "timeout", timeout, Duration::from_millis(20), bounds)?;
        let on_error = match raw.and_then(|raw| raw.on_error) {
            None | Some(RawOnError::Allow) => OnError::Allow,
            Some(RawOnError::Deny) => OnError::Deny,
            Some(RawOnError::Local) => OnError::Local,
        };
        Some(Self { timeout, on_error })
    }
}

impl NodeSelector {
    fn read(raw: &RawNodes, findings: &mut Findings) -> Option<Self> {
        let metadata = raw.metadata.clone().unwrap_or_default();
        let clusters = Pattern::read_list("clusters", raw.clusters.as_deref(), findings);
        let ids = Pattern::read_list("ids", raw.ids.as_deref(), findings);
        let selector = Self { clusters: clusters?, ids: ids?, metadata };
        if selector == Self::default() {
            findings.say("selects nothing in particular: expected clusters, ids or metadata".to_owned());
            return None;
        }
        Some(selector)
    }

    pub fn selects(&self, id: &str, cluster: &str, metadata: &BTreeMap<String, String>) -> bool {
        let one_of = |patterns: &[Pattern], text| patterns.is_empty() || patterns.iter().any(|p| p.matches(text));
        one_of(&self.clusters, cluster)
            && one_of(&self.ids, id)
            && self.metadata.iter().all(|(key, value)| metadata.get(key) == Some(value))
    }

    /// True where one Envoy could be selected by both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: &[Pattern], b: &[Pattern]| {
            a.is_empty() || b.is_empty() || a.iter().any(|a| b.iter().any(|b| a.overlaps(b)))
        };
        let contradicts = |(key, value)| other.metadata.get(key).is_some_and(|other| other != value);
        meet(&self.clusters, &other.clusters) && meet(&self.ids, &other.ids) && !self.metadata.iter().any(contradicts)
    }
}

impl Pattern {
    fn read_list(field: &str, raw: Option<&[String]>, findings: &mut Findings) -> Option<Vec<Self>> {
        let raw = text::not_empty(findings, field, raw);
        findings.within(field, |findings| {
            let read = |(index, raw): (usize, &String)| {
                findings.within(index, |findings| findings.check(raw, Self::parse(raw)))
            };
            // Collected before it is judged, so that every pattern is looked at.
            raw.iter().enumerate().map(read).collect::<Vec<_>>().into_iter().collect()
        })
    }

    fn parse(pattern: &str) -> Result<Self, String> {
        let (stem, is_prefix) = match pattern.strip_suffix('*') {
            Some(stem) => (stem, true),
            None => (pattern, false),
        };
        if stem.contains('*') {
            return Err("a text with a `*` at its end at most".to_owned());
        }
        match is_prefix {
            true if stem.is_empty() => Ok(Self::Prefix(String::new())),
            true => text::plain(stem).map(Self::Prefix),
            false => text::plain(stem).map(Self::Exact),
        }
    }

    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == text,
            Self::Prefix(prefix) => text.starts_with(prefix.as_str()),
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(text), pattern) | (pattern, Self::Exact(text)) => pattern.matches(text),
            (Self::Prefix(a), Self::Prefix(b)) => a.starts_with(b.as_str()) || b.starts_with(a.as_str()),
        }
    }

    /// A text that the pattern matches.
    pub fn example(&self) -> String {
        match self {
            Self::Exact(text) => text.clone(),
            Self::Prefix(prefix) => format!("{prefix}1"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(clusters: &[&str], ids: &[&str], zone: Option<&str>) -> NodeSelector {
        let patterns = |list: &[&str]| list.iter().map(|p| Pattern::parse(p).unwrap()).collect();
        let metadata = zone.map(|zone| ("zone".to_owned(), zone.to_owned())).into_iter().collect();
        NodeSelector { clusters: patterns(clusters), ids: patterns(ids), metadata }
    }

    #[test]
    fn a_node_is_selected_when_every_condition_holds() {
        let selector = selector(&["edge"], &["edge-*"], Some("a"));
        let zone = |zone: &str| BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
        assert!(selector.selects("edge-1", "edge", &zone("a")));
        assert!(!selector.selects("edge-1", "edge", &zone("b")));
        assert!(!selector.selects("edge-1", "edges", &zone("a")));
        assert!(!selector.selects("side-1", "edge", &zone("a")));
    }

    #[test]
    fn selectors_overlap_when_one_node_could_satisfy_both() {
        assert!(selector(&["edge"], &[], None).overlaps(&selector(&["edge", "x"], &["a"], None)));
        assert!(selector(&["edge"], &[], None).overlaps(&selector(&[], &["a*"], None)));
        assert!(selector(&["e*"], &[], None).overlaps(&selector(&["edge*"], &[], None)));
        assert!(!selector(&["edge"], &[], None).overlaps(&selector(&["side"], &[], None)));
        assert!(!selector(&["edge"], &[], Some("a")).overlaps(&selector(&["edge"], &[], Some("b"))));
    }
}
