//! Looks at the certificates of this process again and again: who has to renew them is to know in time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::certificates::{Certificates, Holds};
use crate::clock::wall;
use crate::config::{Config, CountersConfig, SourceConfig};

/// Between two looks at files that are read anew whenever they are used.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// A file of certificates by the flag that names it.
type File = (&'static str, PathBuf, Holds);

/// Files that nobody but their users looks at. The ports' own are told of by [`Tls`](super::tls::Tls).
pub(super) fn files(config: &Config) -> Vec<File> {
    let mut files = Vec::new();
    let mut add =
        |[ca_flag, cert_flag]: [&'static str; 2], ca: Option<&PathBuf>, identity: Option<&(PathBuf, PathBuf)>| {
            files.extend(ca.map(|ca| (ca_flag, ca.clone(), Holds::Authorities)));
            files.extend(identity.map(|(certificate, _)| (cert_flag, certificate.clone(), Holds::Chain)));
        };
    if let SourceConfig::Etcd(settings) = &config.source
        && let Some(tls) = &settings.tls
    {
        add(["--etcd-ca", "--etcd-cert"], tls.ca.as_ref(), tls.identity.as_ref());
    }
    if let CountersConfig::Redis(settings) = &config.counters {
        add(["--counters-ca", "--counters-cert"], settings.tls.ca.as_ref(), settings.tls.identity.as_ref());
    }
    let collector = config.traces.as_ref().and_then(|traces| traces.ca.clone());
    files.extend(collector.map(|ca| ("--traces-otlp-ca", ca, Holds::Authorities)));
    files
}

pub(super) async fn follow(
    certificates: Arc<Certificates>,
    files: Vec<File>,
    shutdown: CancellationToken,
) -> Result<(), String> {
    let files = Arc::new(files);
    loop {
        let (of_look, files) = (Arc::clone(&certificates), Arc::clone(&files));
        let look = move || {
            let now = wall();
            files.iter().for_each(|(flag, path, holds)| of_look.look(flag, path, *holds, now));
            of_look.tell(now);
        };
        tokio::task::spawn_blocking(look).await.map_err(|error| error.to_string())?;
        if shutdown.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_none() {
            return Ok(());
        }
    }
}
