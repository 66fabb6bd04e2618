//! Errors of changes: why one was not made, as those who asked for it are told.

use crate::etcd::failure::Failure;
use crate::names::{DocumentId, Revision};
use crate::policy::problem::Problem;
use crate::shown;

#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error("the change holds nothing")]
    Empty,
    #[error("{0} stands twice in the change")]
    Twice(DocumentId),
    #[error("{what}, expected at most {max}")]
    TooLarge { what: String, max: usize },
    #[error("no {0} is there to be deleted")]
    Missing(DocumentId),
    #[error("base version {base} is not known yet: the newest is {newest}")]
    Future { base: Revision, newest: Revision },
    #[error("{} changed after base version {base}; look at the current version and try again", list(.changed))]
    Stale { base: Revision, changed: Vec<(DocumentId, Revision)> },
    #[error("the set would not make sense")]
    Invalid(Vec<Problem>),
    #[error("this takes away more than is usual: {}; say why in `force` to do it all the same", shown::few(.0, "; "))]
    Guarded(Vec<String>),
    #[error(
        "the large change of revision {revision} ({key}) cannot be read, so that nobody can serve it: {why}; say why in \
         `force` to give it up"
    )]
    Unreadable { key: String, revision: Revision, why: String },
    #[error("this idempotency key was used for another change")]
    OtherRequest,
    #[error("this replica does not hold its lease in etcd, and must not write")]
    NotClaimed,
    #[error("nothing was changed: {0}")]
    Unavailable(String),
    #[error("nobody knows whether it was changed ({0}); ask again with the same idempotency key")]
    Unknown(String),
}

/// For questions that change nothing, or that etcd refused.
impl From<Failure> for EditError {
    fn from(failure: Failure) -> Self {
        Self::Unavailable(failure.to_string())
    }
}

fn list(changed: &[(DocumentId, Revision)]) -> String {
    let told = changed.iter().map(|(id, revision)| match revision.0 {
        0 => format!("{id} (not there any more)"),
        revision => format!("{id} (revision {revision})"),
    });
    shown::few(&told.collect::<Vec<_>>(), ", ")
}
