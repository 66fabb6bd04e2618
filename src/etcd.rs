//! The client side of etcd: where it is, how its keys are laid out, and connections whose questions have deadlines.

pub mod connection;
pub mod events;
pub mod failure;
pub mod keys;
pub mod lease;
pub mod link;
pub mod listing;

use std::fmt;
use std::path::PathBuf;

#[derive(Clone)]
pub struct EtcdSettings {
    /// At least one, as in `http://10.0.0.5:2379`.
    pub endpoints: Vec<String>,
    /// As in `/tierflow`.
    pub prefix: String,
    /// Name and password.
    pub user: Option<(String, String)>,
    pub tls: Option<Tls>,
}

/// PEM files.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Who signed etcd's certificate.
    pub ca: Option<PathBuf>,
    /// A certificate and its key, where etcd asks for them.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Without the password.
impl fmt::Debug for EtcdSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|(name, _)| name);
        let Self { endpoints, prefix, tls, .. } = self;
        f.debug_struct("EtcdSettings")
            .field("endpoints", endpoints)
            .field("prefix", prefix)
            .field("user", &user)
            .field("tls", tls)
            .finish()
    }
}

/// The kinds of keys below the prefix. Other keys there are nobody's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// `policies/<Kind>/<name>`: documents.
    Policies,
    /// `services/<service>/<instance>`: instances, each under its lease.
    Services,
    /// `servers/<id>`: replicas of Tierflow, each under its lease.
    Servers,
    /// `blobs/<change>/<number>`: parts of large changes.
    Blobs,
    /// `manifest`: the large change that counts, and is being put in place.
    Manifest,
}

impl Section {
    pub const ALL: [Self; 5] = [Self::Policies, Self::Services, Self::Servers, Self::Blobs, Self::Manifest];

    /// What its keys begin with.
    pub fn prefix(self, settings_prefix: &str) -> String {
        let root = settings_prefix.trim_end_matches('/');
        match self {
            Self::Policies => format!("{root}/policies/"),
            Self::Services => format!("{root}/services/"),
            Self::Servers => format!("{root}/servers/"),
            Self::Blobs => format!("{root}/blobs/"),
            Self::Manifest => format!("{root}/manifest"),
        }
    }
}
