//! Parts of TLS contexts. Certificates are secrets (SDS) because only then does Envoy watch their files.

use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TransportSocket, WatchedDirectory};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, SdsSecretConfig, Secret, SubjectAltNameMatcher, TlsCertificate,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use prost::{Message, Name};

use super::{any, pb};
use crate::policy::gateway;
use crate::policy::service::SubjectName;

pub(super) fn transport_socket<M: Message + Name>(context: &M) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(context))),
    }
}

/// A secret that comes over the same ADS stream.
pub(super) fn by_sds(name: String) -> SdsSecretConfig {
    SdsSecretConfig { name, sds_config: pb::ads() }
}

/// A certificate to show.
pub(super) fn identity(name: String, files: &gateway::Tls) -> Secret {
    let certificate = TlsCertificate {
        certificate_chain: file(&files.certificate_chain),
        private_key: file(&files.private_key),
        watched_directory: directory_of(&files.certificate_chain),
        ..Default::default()
    };
    Secret { name, r#type: Some(Type::TlsCertificate(certificate)) }
}

/// The trusted authority, and the names that a certificate may have. Envoy checks who signed a certificate and nothing
/// else unless it is told names.
pub(super) fn validation(name: String, ca: &str, names: &[SubjectName]) -> Secret {
    let context = CertificateValidationContext {
        trusted_ca: file(ca),
        watched_directory: directory_of(ca),
        match_typed_subject_alt_names: names.iter().map(subject).collect(),
        ..Default::default()
    };
    Secret { name, r#type: Some(Type::ValidationContext(context)) }
}

pub(super) fn subject(name: &SubjectName) -> SubjectAltNameMatcher {
    let (san_type, text) = match name {
        SubjectName::Dns(host) => (SanType::Dns, host.clone()),
        SubjectName::Ip(ip) => (SanType::IpAddress, ip.to_string()),
        SubjectName::Uri(uri) => (SanType::Uri, uri.clone()),
    };
    let matcher = Some(pb::string_match(MatchPattern::Exact(text)));
    SubjectAltNameMatcher { san_type: san_type as i32, matcher, ..Default::default() }
}

fn file(path: &str) -> Option<DataSource> {
    Some(DataSource { specifier: Some(Specifier::Filename(path.to_owned())), ..Default::default() })
}

/// The folder that Envoy watches for changes: files are put in the place of others by moves.
fn directory_of(path: &str) -> Option<WatchedDirectory> {
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let path = if directory.is_empty() { "/" } else { directory };
    Some(WatchedDirectory { path: path.to_owned(), ..Default::default() })
}
