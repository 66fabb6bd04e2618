//! Why a store gave no answer, told apart by what Redis calls it.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::metrics::{Metrics, ReasonLabels};

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("no connection to the store is open")]
    Away,
    #[error("no answer in time")]
    Unanswered,
    /// The store came to the question after its deadline, and charged nothing.
    #[error("the store came to it too late")]
    Late,
    #[error("an answer of {0} bytes that is none of the script")]
    Nonsense(usize),
    /// What each Sentinel said.
    #[error("no Sentinel says who is master: {0}")]
    NoMaster(String),
    #[error("{0} is not a master, though the Sentinels say so")]
    NotMaster(String),
    #[error("{0} is the master now")]
    Replaced(String),
    #[error("no node of the Cluster serves the slot")]
    Unserved,
    /// What each node said.
    #[error("no node of the Cluster says which one serves what: {0}")]
    NoMap(String),
    #[error("{0}")]
    Refused(RedisError),
    #[error("{0}")]
    File(String),
}

impl Failure {
    /// The labels of the metric.
    pub const REASONS: [&str; 18] = [
        "away",
        "timeout",
        "late",
        "nonsense",
        "no_master",
        "cluster_down",
        "file",
        "connection",
        "not_let_in",
        "read_only",
        "loading",
        "master_down",
        "moved",
        "try_again",
        "out_of_memory",
        "misconfigured",
        "busy",
        "other",
    ];

    pub(super) fn count(&self, metrics: &Metrics) {
        let reason = self.reason();
        debug_assert!(Self::REASONS.contains(&reason), "{reason}");
        metrics.counter_store_errors.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// The label of the metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Unanswered => "timeout",
            Self::Late => "late",
            Self::Nonsense(_) => "nonsense",
            Self::NoMaster(_) | Self::NotMaster(_) | Self::Replaced(_) => "no_master",
            Self::Unserved | Self::NoMap(_) => "cluster_down",
            Self::File(_) => "file",
            Self::Refused(error) => reason_of(error),
        }
    }

    /// True where it says something of the store, and not of one question or of what is known of it already.
    pub(super) fn is_the_stores(&self) -> bool {
        !matches!(self.reason(), "away" | "nonsense" | "moved" | "try_again" | "other")
    }

    /// True where a node of a Cluster does not serve what it was asked for, and does not have to.
    pub(super) fn is_redirect(&self) -> bool {
        matches!(self.reason(), "moved" | "try_again")
    }

    /// True where the connection is of no use any more, or leads to a server that must not be written to.
    pub(super) fn ends_connection(&self) -> bool {
        matches!(self.reason(), "connection" | "read_only" | "loading" | "master_down" | "cluster_down")
    }
}

fn reason_of(error: &RedisError) -> &'static str {
    match (error.kind(), error.code()) {
        (ErrorKind::Io, _) => "connection",
        (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS" | "NOPERM")) => "not_let_in",
        (ErrorKind::Server(ServerErrorKind::ReadOnly), _) => "read_only",
        (ErrorKind::Server(ServerErrorKind::BusyLoading), _) => "loading",
        (ErrorKind::Server(ServerErrorKind::MasterDown), _) => "master_down",
        (ErrorKind::Server(ServerErrorKind::ClusterDown), _) => "cluster_down",
        (ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask), _) => "moved",
        (ErrorKind::Server(ServerErrorKind::TryAgain), _) => "try_again",
        (_, Some("OOM")) => "out_of_memory",
        (_, Some("MISCONF")) => "misconfigured",
        (_, Some("BUSY")) => "busy",
        _ => "other",
    }
}
