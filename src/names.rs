//! The words that every layer shares: names of documents, revisions, and the keys of rate limit descriptors.
//!
//! A name is checked once, where it enters; from then on its type is the proof.

pub mod certificate;
pub mod credential;
pub mod spelling;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use utoipa::ToSchema;

use crate::shown;
use certificate::ClientCertificate;

/// The longest name of a document, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// The longest name of a tenant, in bytes. A tenant's name is the value of a header.
pub const TENANT_BYTES_MAX: usize = 128;

/// The name of a Gateway, Service, Api, Plan or limit: `[a-z0-9]([a-z0-9._-]{0,126}[a-z0-9])?`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The form of a name, as error messages say it.
    pub const EXPECTED: &'static str =
        "1 to 128 of a-z, 0-9, '.', '_' and '-', beginning and ending with a letter or digit";

    pub fn parse(text: &str) -> Option<Self> {
        let is_edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        let well_formed = bytes.len() <= NAME_BYTES_MAX
            && bytes.first().copied().is_some_and(is_edge)
            && bytes.last().copied().is_some_and(is_edge)
            && bytes.iter().all(|&b| is_edge(b) || matches!(b, b'.' | b'_' | b'-'));
        well_formed.then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// For those who keep the text: it is shared, not copied.
    pub fn to_arc(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

/// The name of a tenant: 1 to 128 bytes of printable ASCII without spaces at its ends,
/// that is, whatever a header can carry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantName(Arc<str>);

impl TenantName {
    pub const EXPECTED: &'static str =
        "1 to 128 bytes of printable ASCII without spaces at the ends, other than . and ..";

    pub fn parse(text: &str) -> Option<Self> {
        let well_formed = !text.is_empty()
            && text.len() <= TENANT_BYTES_MAX
            && text.bytes().all(|b| (b' '..=b'~').contains(&b))
            && text.trim() == text
            // Browsers and other clients take these out of a path, however they are escaped (RFC 3986, section 6.2.2.3).
            && !matches!(text, "." | "..");
        well_formed.then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! string_like {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        // Lets maps that are keyed by the name be searched with a plain `&str`.
        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }
    };
}
string_like!(Name);
string_like!(TenantName);

/// Whether a name has another text as a part of it, be it in other case: how lists are searched.
pub fn has_part(name: &str, part: &str) -> bool {
    name.to_lowercase().contains(&part.to_lowercase())
}

/// The kinds of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub enum Kind {
    Gateway,
    Service,
    Api,
    Plan,
    Tenant,
    /// A list of Envoy rate limit actions, each with its limit. It has no `kind:` line of its own.
    RateLimits,
}

impl Kind {
    pub const ALL: [Self; 6] = [Self::Gateway, Self::Service, Self::Api, Self::Plan, Self::Tenant, Self::RateLimits];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "Gateway",
            Self::Service => "Service",
            Self::Api => "Api",
            Self::Plan => "Plan",
            Self::Tenant => "Tenant",
            Self::RateLimits => "RateLimits",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The kind and name that tell a document from every other of a set: `Api order-create`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentId {
    pub kind: Kind,
    pub name: Arc<str>,
}

impl DocumentId {
    pub fn new(kind: Kind, name: &str) -> Self {
        Self { kind, name: name.into() }
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, shown::bounded(&shown::text(&self.name)))
    }
}

/// The number that the source gives to a state of its documents: a count of readings for files, etcd's revision for
/// etcd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The content hash of an xDS resource, or of all resources of a type. Equal content has equal versions
/// on every replica, which is what keeps a reconnecting Envoy from being sent what it already has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version(u128);

impl Version {
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxhash_rust::xxh3::xxh3_128(bytes))
    }

    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// An Envoy: as it names itself in its bootstrap's `node`, which is only what it says, and as its certificate names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeIdentity {
    /// `None` where it had to show none.
    pub certificate: Option<Arc<ClientCertificate>>,
    pub id: String,
    pub cluster: String,
    /// The string values of `node.metadata`.
    pub metadata: BTreeMap<String, String>,
}

/// The number of a stream of xDS, of all that this replica has had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// The rate limit service's domain of a gateway: what a gateway's Envoys put into
/// `RateLimitRequest.domain`, and what the rate limit service finds the gateway by.
pub fn domain_of_gateway(gateway: &Name) -> String {
    format!("{GATEWAY_DOMAIN_PREFIX}{gateway}")
}

/// The inverse of [`domain_of_gateway`].
pub fn gateway_of_domain(domain: &str) -> Option<&str> {
    domain.strip_prefix(GATEWAY_DOMAIN_PREFIX)
}

const GATEWAY_DOMAIN_PREFIX: &str = "tierflow/";

/// One thing that a route reports: the tenant, or a dimension that limits count by. A hash of what it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reported(u32);

impl Reported {
    /// A tenant, wherever it is read from.
    pub const TENANT: Self = Self(0);

    pub fn of(what: &str) -> Self {
        // No other is the tenant's.
        Self((xxhash_rust::xxh3::xxh3_64(what.as_bytes()) as u32).max(1))
    }
}

/// The name of a form: everything that a route reports for limits, in ascending order. So it tells what was reported
/// even where nobody remembers the policies that it was made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FormId(SmallVec<[Reported; 6]>);

impl FormId {
    pub fn has(&self, reported: Reported) -> bool {
        self.0.binary_search(&reported).is_ok()
    }

    /// Reads what [`fmt::Display`] wrote: eight hexadecimal digits for each.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = text.bytes().all(|b| b.is_ascii_hexdigit()) && text.len().is_multiple_of(8);
        let digits = text.as_bytes().chunks(8).map(|digits| std::str::from_utf8(digits).ok());
        let reported = digits.map(|digits| u32::from_str_radix(digits?, 16).ok().map(Reported));
        if is_hex { reported.collect() } else { None }
    }
}

impl FromIterator<Reported> for FormId {
    fn from_iter<I: IntoIterator<Item = Reported>>(reported: I) -> Self {
        let mut all: SmallVec<_> = reported.into_iter().collect();
        all.sort_unstable();
        all.dedup();
        Self(all)
    }
}

impl fmt::Display for FormId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|reported| write!(f, "{:08x}", reported.0))
    }
}

/// Keys of the descriptor entries that routes report. `compile` writes them, the matcher looks them up.
///
/// The first entry of a descriptor says whose it is: [`descriptor::API`] or [`descriptor::RATE_LIMITS`]. Lists of actions
/// cannot name any of these keys, so no client can pass for another.
pub mod descriptor {
    use super::{FormId, Name};

    /// The most actions of lists that routes of a gateway report by. Each can report what a client sends once more, so this
    /// also bounds what the rate limit service has to read.
    pub const LIST_ACTIONS_MAX: usize = 256;
    /// The longest value: all headers of a request, as Envoy takes them by default
    /// (`HttpConnectionManager.max_request_headers_kb`).
    pub const VALUE_BYTES_MAX: usize = 60 * 1024;

    /// The Api that the route belongs to and the form that it reports in: `name/form`.
    pub const API: &str = "api";
    /// The value of the gateway's tenant source; left out by Envoy where the request has none.
    pub const TENANT: &str = "tenant";
    /// The entry of a RateLimits document that the descriptor stands for: `name/form/number`.
    pub const RATE_LIMITS: &str = "rate_limits";
    /// Envoy's own key for the client's address.
    pub const CLIENT_IP: &str = "remote_address";
    pub const PATH: &str = "path";
    pub const METHOD: &str = "method";
    pub const HOST: &str = "host";

    /// Keys that lists of Envoy actions may not give to entries: those by which the matcher tells what a descriptor
    /// stands for, and those of dimensions that have a name (`header:x`). What else limits count by says nothing about
    /// who a request is, and `path` or `host` are what people call such entries.
    pub fn is_reserved(key: &str) -> bool {
        const PREFIXES: [&str; 4] = ["header:", "query:", "cookie:", "jwt_claim:"];
        [API, TENANT, RATE_LIMITS].contains(&key) || PREFIXES.iter().any(|prefix| key.starts_with(prefix))
    }

    /// The value of an [`API`] entry.
    pub fn api_id(api: &Name, form: &FormId) -> String {
        format!("{api}/{form}")
    }

    /// The name of the Api and the form in the value of an [`API`] entry.
    pub fn parse_api_id(id: &str) -> Option<(&str, FormId)> {
        let (api, form) = id.split_once('/')?;
        Some((api, FormId::parse(form)?))
    }

    /// The value of a [`RATE_LIMITS`] entry. The form stands for the actions, the number for which entry it is of those
    /// with the same actions.
    pub fn rate_limits_id(list: &str, form: u64, number: usize) -> String {
        format!("{list}/{form:016x}/{number}")
    }
}

/// The names of secrets. No name of a document holds a slash, so no two of them meet.
pub mod secret {
    use super::Name;

    const SERVICE: &str = "service/";

    /// The certificate that a gateway shows to clients.
    pub fn of_gateway(gateway: &Name) -> String {
        format!("{gateway}/tls")
    }

    /// The name of the secret that a service's certificate is verified with.
    pub fn authority_of_service(service: &str) -> String {
        format!("{SERVICE}{service}/ca")
    }

    /// The certificate that is shown to a service.
    pub fn identity_of_service(service: &str) -> String {
        format!("{SERVICE}{service}/tls")
    }

    /// The service whose secret it is; `None` for those of gateways.
    pub fn service_of(secret: &str) -> Option<&str> {
        secret.strip_prefix(SERVICE)?.rsplit_once('/').map(|(service, _)| service)
    }
}

/// The way in which a denial says its status: `compile` makes Envoy look for it, the rate limit service puts it there.
pub mod denial {
    /// Envoy puts the `dynamic_metadata` of a RateLimitResponse under the filter's own name.
    pub const METADATA_NAMESPACE: &str = "envoy.filters.http.ratelimit";
    /// The key of the HTTP status, which is a string.
    pub const STATUS: &str = "tierflow.status";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_and_begin_and_end_with_a_letter_or_digit() {
        for good in ["a", "order-create", "v1.2_x", &"a".repeat(128)] {
            assert!(Name::parse(good).is_some(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a b", "ä", &"a".repeat(129)] {
            assert!(Name::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn tenant_names_are_what_a_header_can_carry() {
        for good in ["acme", "ACME Inc. #7", "~", "...", &"t".repeat(128)] {
            assert!(TenantName::parse(good).is_some(), "{good}");
        }
        for bad in ["", " acme", "acme ", "a\tb", "é", ".", "..", &"t".repeat(129)] {
            assert!(TenantName::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_form_tells_what_is_reported() {
        let [path, host] = ["path", "host"].map(Reported::of);
        let form: FormId = [host, Reported::TENANT, path, host].into_iter().collect();
        assert_eq!(form, [path, host, Reported::TENANT].into_iter().collect());
        assert_eq!(FormId::parse(&form.to_string()), Some(form.clone()));
        assert!(form.has(path) && form.has(Reported::TENANT) && !form.has(Reported::of("method")));
        assert_eq!(FormId::parse(""), Some(FormId::default()));
        for bad in ["0", "0000000g", "+1234567", "1234567é"] {
            assert_eq!(FormId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_gateway_is_found_by_the_domain_its_envoys_report() {
        let shop = Name::parse("shop").unwrap();
        assert_eq!(gateway_of_domain(&domain_of_gateway(&shop)), Some("shop"));
        assert_eq!(gateway_of_domain("shop"), None);
    }
}
