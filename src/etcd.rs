//! The client side of etcd: where it is, how its keys are laid out, and connections whose questions have deadlines.

pub mod connection;
pub mod events;
pub mod failure;
pub mod keys;
pub mod lease;
pub mod link;
pub mod listing;

use std::io;
use std::path::PathBuf;

use failure::Failure;

use crate::{regular_file, shown};

#[derive(Clone, Debug)]
pub struct EtcdSettings {
    /// At least one, as in `http://10.0.0.5:2379`.
    pub endpoints: Vec<String>,
    /// As in `/tierflow`.
    pub prefix: String,
    pub user: Option<User>,
    pub tls: Option<Tls>,
}

/// A user of etcd.
#[derive(Clone, Debug)]
pub struct User {
    pub name: String,
    /// Read anew for each connection, so that a password that was changed is taken.
    pub password_file: PathBuf,
}

impl User {
    /// The password in the file, without the end of its line.
    pub fn password(&self) -> Result<String, Failure> {
        let file = &self.password_file;
        let text = regular_file::read(file).and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other));
        let text = text.map_err(|error| Failure::NotLetIn(format!("{}: {error}", shown::path(file))))?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}

/// PEM files.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The authority that signed etcd's certificate.
    pub ca: Option<PathBuf>,
    /// A certificate and its key, where etcd asks for them.
    pub identity: Option<(PathBuf, PathBuf)>,
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

    /// The beginning of its keys.
    pub fn prefix(self, settings_prefix: &str) -> String {
        let name = match self {
            Self::Policies => "policies/",
            Self::Services => "services/",
            Self::Servers => "servers/",
            Self::Blobs => "blobs/",
            Self::Manifest => "manifest",
        };
        format!("{}{name}", root(settings_prefix))
    }
}

/// The beginning of every key of Tierflow: the prefix and one slash.
pub fn root(settings_prefix: &str) -> String {
    format!("{}/", settings_prefix.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_same_for_a_prefix_with_and_without_its_last_slash() {
        for prefix in ["/policies/manifest", "/policies/manifest/", "/policies/manifest//"] {
            assert_eq!(root(prefix), "/policies/manifest/");
            let keys = Section::ALL.map(|section| section.prefix(prefix));
            assert_eq!(
                keys,
                ["policies/", "services/", "servers/", "blobs/", "manifest"].map(|key| root(prefix) + key)
            );
        }
    }
}
