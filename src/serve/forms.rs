//! Keeps what requests by older routes are counted by, for as long as some Envoy of some replica may have such routes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::names::Name;
use crate::source::board::Board;

/// Between two looks at who has what. Short against the time that a form is kept.
const PAUSE: Duration = Duration::from_secs(30);

pub(super) struct Forms {
    pub(super) live: Arc<Live>,
    pub(super) board: Arc<Board>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
}

impl Forms {
    pub(super) async fn tend(self, shutdown: CancellationToken) -> Result<(), String> {
        let mut changed = self.live.subscribe();
        loop {
            let _ = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = sleep(PAUSE) => Ok(()),
                changed = changed.changed() => changed,
            };
            self.look();
        }
    }

    fn look(&self) {
        let replicas = self.board.read().replicas;
        let elsewhere: HashSet<&str> = replicas.iter().flat_map(|replica| &replica.forms).map(String::as_str).collect();
        let has_elsewhere =
            |gateway: &Name, id: &str| !elsewhere.is_empty() && elsewhere.contains(format!("{gateway}/{id}").as_str());
        self.live.forms.tend(self.clock.now(), has_elsewhere);
        let older = self.live.forms.older().len();
        self.metrics.older_forms.set(i64::try_from(older).unwrap_or(i64::MAX));
    }
}
