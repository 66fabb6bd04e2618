//! The task that takes spans to the collector, some hundred at a time. Those that the collector does not take in time are lost;
//! what comes meanwhile waits, as far as there is room.

use std::path::PathBuf;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter as Otlp, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::metrics::SpanMetrics;
use crate::pem::{self, PemFile};
use crate::shown;
use crate::version::VERSION;

/// The spans of one call to the collector.
const BATCH_MAX: usize = 512;
/// The time that spans wait for others to be exported with.
const LINGER: Duration = Duration::from_secs(1);
/// The time that the collector may take for a batch, all tries together.
const EXPORT_MAX: Duration = Duration::from_secs(5);
/// The time that is left for what waits once it is time to go.
const FLUSH_MAX: Duration = Duration::from_secs(3);
/// The shortest time from one line of the log about a collector that is away to the next.
const LOG_PAUSE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracesSettings {
    /// `http://HOST:PORT`, or with https.
    pub url: String,
    /// PEM file of the authority that signed the collector's certificate. `None`: no TLS.
    pub ca: Option<PathBuf>,
    /// Of [`SAMPLED_OF`](super::SAMPLED_OF) decisions that are asked for without a trace.
    pub sample: u32,
    /// The name of this replica.
    pub instance: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("--traces-otlp {0}: {1}")]
    Collector(String, ExporterBuildError),
    #[error(transparent)]
    Authority(#[from] pem::Unusable),
}

/// What takes spans to the collector.
#[derive(Debug)]
pub struct Exporter {
    spans: mpsc::Receiver<SpanData>,
    otlp: Otlp,
    metrics: SpanMetrics,
    trouble: Trouble,
    /// Spans that the collector is being given.
    under_way: u64,
}

impl Exporter {
    /// Must be called within a runtime, which keeps the connection.
    pub(super) fn new(
        settings: &TracesSettings,
        spans: mpsc::Receiver<SpanData>,
        metrics: SpanMetrics,
    ) -> Result<Self, Unusable> {
        let mut builder = Otlp::builder().with_tonic().with_endpoint(&settings.url).with_timeout(EXPORT_MAX);
        if let Some(path) = &settings.ca {
            let authorities = PemFile::read("--traces-otlp-ca", path)?.authorities()?;
            builder = builder.with_tls_config(ClientTlsConfig::new().trust_anchors(authorities.roots));
        }
        let unusable = |error| Unusable::Collector(settings.url.clone(), error);
        let mut otlp = builder.build().map_err(unusable)?;
        let instance = settings.instance.iter().map(|name| KeyValue::new("service.instance.id", name.clone()));
        let resource = Resource::builder()
            .with_service_name("tierflow")
            .with_attribute(KeyValue::new("service.version", VERSION))
            .with_attributes(instance)
            .build();
        otlp.set_resource(&resource);
        Ok(Self { spans, otlp, metrics, trouble: Trouble::default(), under_way: 0 })
    }

    /// Exports what comes, until nobody makes spans any more, or for a short while after shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let late = async {
            shutdown.cancelled().await;
            tokio::time::sleep(FLUSH_MAX).await;
        };
        tokio::select! {
            () = self.export_all(&shutdown) => {}
            () = late => {}
        }
        let mut left = self.under_way;
        while self.spans.try_recv().is_ok() {
            left += 1;
        }
        self.metrics.dropped.inc_by(left);
    }

    async fn export_all(&mut self, shutdown: &CancellationToken) {
        let mut batch = Vec::new();
        while self.spans.recv_many(&mut batch, BATCH_MAX).await > 0 {
            // Once it is time to go, no spans wait for others.
            let _ = shutdown.run_until_cancelled(timeout(LINGER, self.fill(&mut batch))).await;
            self.under_way = batch.len() as u64;
            let exported = self.otlp.export(std::mem::take(&mut batch)).await;
            let spans = std::mem::take(&mut self.under_way);
            match exported {
                Ok(()) => self.metrics.exported.inc_by(spans),
                Err(error) => {
                    self.trouble.tell(spans, &error.to_string());
                    self.metrics.failed.inc_by(spans)
                }
            };
        }
    }

    async fn fill(&mut self, batch: &mut Vec<SpanData>) {
        while batch.len() < BATCH_MAX && self.spans.recv_many(batch, BATCH_MAX - batch.len()).await > 0 {}
    }
}

/// What was said of a collector that is away.
#[derive(Debug, Default)]
struct Trouble {
    told: Option<Instant>,
    /// Spans that were lost since.
    untold: u64,
}

impl Trouble {
    fn tell(&mut self, spans: u64, error: &str) {
        self.untold += spans;
        if self.told.is_none_or(|told| told.elapsed() >= LOG_PAUSE) {
            let spans = std::mem::take(&mut self.untold);
            tracing::warn!(spans, "--traces-otlp: spans are lost: {}", shown::text(&shown::bounded(error)));
            self.told = Some(Instant::now());
        }
    }
}
