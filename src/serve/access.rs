//! Who may ask the admin port: files that are looked at again and again, so that a token that is taken out is out.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::access::file::{AccessFiles, credentials};
use crate::access::{Access, Credentials, Port};
use crate::metrics::{Metrics, ReloadLabels};
use crate::regular_file;

/// Between two looks at the files. They are small, and unlike a watch a look works on every file system.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The largest file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The files, and what they said when they were read last.
pub(super) struct Followed {
    pub(super) access: Arc<Access>,
    files: AccessFiles,
    content: Content,
    metrics: Arc<Metrics>,
}

/// The bytes of each file, in the order in which they are read.
type Content = Vec<Vec<u8>>;

impl Followed {
    /// Who may ask at the start. Files that make no sense then are an error, and let nobody in.
    pub(super) fn open(
        files: &AccessFiles,
        port: Port,
        has_open_metrics: bool,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        for result in ["ok", "refused"] {
            let _ = metrics.access_reloads.get_or_create(&ReloadLabels { result });
        }
        let (content, said) = look(files, port);
        let access = Arc::new(Access::new(port, has_open_metrics, said?));
        Ok(Self { access, files: files.clone(), content, metrics })
    }

    /// Looks at the files again and again. What makes no sense changes nothing, and is told of once.
    pub(super) async fn follow(mut self, shutdown: CancellationToken) -> Result<(), String> {
        if self.files == AccessFiles::default() {
            shutdown.cancelled().await;
            return Ok(());
        }
        while shutdown.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_some() {
            let (files, port) = (self.files.clone(), self.access.port);
            let looked = tokio::task::spawn_blocking(move || look(&files, port)).await;
            let (content, said) = looked.map_err(|error| error.to_string())?;
            self.take(content, said);
        }
        Ok(())
    }

    fn take(&mut self, content: Content, said: Result<Credentials, String>) {
        let count = |result| self.metrics.access_reloads.get_or_create(&ReloadLabels { result }).inc();
        match said {
            Ok(_) if content == self.content => self.access.keep(None),
            Ok(credentials) => {
                self.content = content;
                self.access.renew(credentials);
                count("ok");
                tracing::info!("who may ask the admin port has changed");
            }
            Err(trouble) if self.access.trouble().as_ref() == Some(&trouble) => {}
            Err(trouble) => {
                count("refused");
                tracing::error!("{trouble}; who could ask the admin port before still can");
                self.access.keep(Some(trouble));
            }
        }
    }
}

fn look(files: &AccessFiles, port: Port) -> (Content, Result<Credentials, String>) {
    let mut content = Content::new();
    let said = credentials(files, port, |path| {
        let bytes = read(path)?;
        content.push(bytes.clone());
        Ok(bytes)
    });
    (content, said)
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    regular_file::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}
