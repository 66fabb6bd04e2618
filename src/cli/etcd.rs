//! How verbs are told where etcd is.

use std::path::PathBuf;

use super::Failure;
use super::checked::{Check, Typed};
use crate::etcd::{EtcdSettings, Tls, User};

#[derive(Clone, clap::Args)]
pub(super) struct EtcdArgs {
    /// Take policies from etcd: its endpoints, comma-separated, as in http://10.0.0.5:2379.
    #[arg(long, value_name = "URL", value_delimiter = ',', value_parser = parse_endpoint, env = "TIERFLOW_ETCD")]
    pub(super) etcd: Vec<String>,
    /// The first part of all of Tierflow's keys in etcd.
    #[arg(long, value_name = "PREFIX", default_value = "/tierflow", value_parser = parse_prefix, env = "TIERFLOW_ETCD_PREFIX")]
    etcd_prefix: String,
    /// The user to be in etcd.
    #[arg(long, value_name = "NAME", requires = "etcd_password_file", env = "TIERFLOW_ETCD_USER")]
    etcd_user: Option<String>,
    /// File that holds the user's password; read again for each connection.
    #[arg(long, value_name = "FILE", requires = "etcd_user", env = "TIERFLOW_ETCD_PASSWORD_FILE")]
    etcd_password_file: Option<PathBuf>,
    /// PEM file of the authority that signed etcd's certificate; needed for https.
    #[arg(long, value_name = "FILE", env = "TIERFLOW_ETCD_CA")]
    etcd_ca: Option<PathBuf>,
    /// PEM file of the certificate to show to etcd.
    #[arg(long, value_name = "FILE", requires = "etcd_key", env = "TIERFLOW_ETCD_CERT")]
    etcd_cert: Option<PathBuf>,
    /// PEM file of that certificate's private key.
    #[arg(long, value_name = "FILE", requires = "etcd_cert", env = "TIERFLOW_ETCD_KEY")]
    etcd_key: Option<PathBuf>,
}

impl Check for EtcdArgs {
    fn check(&mut self, typed: &Typed) -> Result<(), String> {
        let is_plain = self.etcd.iter().all(|endpoint| endpoint.starts_with("http://"));
        match (typed.first_in::<Self>(), typed.first_of(&["etcd_ca", "etcd_cert", "etcd_key"])) {
            (Some(flag), _) if self.etcd.is_empty() => Err(format!("{flag} needs --etcd")),
            (_, Some(flag)) if is_plain => Err(format!("{flag} needs --etcd with https")),
            _ => Ok(()),
        }
    }
}

impl EtcdArgs {
    /// `None`: policies do not come from etcd.
    pub(super) fn settings(&self) -> Result<Option<EtcdSettings>, Failure> {
        if self.etcd.is_empty() {
            return Ok(None);
        }
        let is_tls = self.etcd.iter().any(|endpoint| endpoint.starts_with("https://"));
        if is_tls && self.etcd_ca.is_none() {
            return Err("--etcd with https needs --etcd-ca, the authority that signed etcd's certificate".to_owned());
        }
        if is_tls && self.etcd.iter().any(|endpoint| endpoint.starts_with("http://")) {
            return Err("--etcd: either all endpoints are https or none is".to_owned());
        }
        let identity = self.etcd_cert.clone().zip(self.etcd_key.clone());
        Ok(Some(EtcdSettings {
            endpoints: self.etcd.clone(),
            prefix: self.etcd_prefix.clone(),
            user: self.user()?,
            tls: is_tls.then(|| Tls { ca: self.etcd_ca.clone(), identity }),
        }))
    }

    fn user(&self) -> Result<Option<User>, Failure> {
        let Some((name, file)) = self.etcd_user.as_ref().zip(self.etcd_password_file.as_ref()) else { return Ok(None) };
        let user = User { name: name.clone(), password_file: file.clone() };
        // What is wrong with the file from the start is an error of the command.
        user.password().map_err(|failure| failure.to_string())?;
        Ok(Some(user))
    }
}

fn parse_endpoint(text: &str) -> Result<String, String> {
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let address = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let address = address.map(|address| address.trim_end_matches('/'));
    if text.contains('@') {
        return Err("it names a user, whom every list of processes would show; use --etcd-password-file".to_owned());
    }
    match address.map(crate::config::parse_host_port) {
        Some(Ok(_)) => Ok(url.trim_end_matches('/').to_owned()),
        _ => Err("expected http://HOST:PORT or https://HOST:PORT".to_owned()),
    }
}

fn parse_prefix(text: &str) -> Result<String, String> {
    let prefix = text.trim_end_matches('/');
    let is_well_formed = prefix.starts_with('/') && prefix.bytes().all(|b| b.is_ascii_graphic());
    is_well_formed.then(|| prefix.to_owned()).ok_or_else(|| "expected a path like /tierflow".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls_and_plain_where_they_do_not_say() {
        assert_eq!(parse_endpoint("10.0.0.5:2379").as_deref(), Ok("http://10.0.0.5:2379"));
        assert_eq!(parse_endpoint("https://etcd.internal:2379/").as_deref(), Ok("https://etcd.internal:2379"));
        for bad in ["", "http://", "http://host", "ftp://host:1", "https://host:0", "http://ann:s3cret@host:1"] {
            assert!(parse_endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_is_a_path() {
        assert_eq!(parse_prefix("/tierflow/").as_deref(), Ok("/tierflow"));
        assert!(parse_prefix("tierflow").is_err() && parse_prefix("/").is_err() && parse_prefix("/a b").is_err());
    }
}
