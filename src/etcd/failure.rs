//! Failures of questions to etcd, told apart here and nowhere else.
//!
//! etcd says what is wrong with a gRPC code and a text (its `api/v3/v3rpc/rpctypes/error.go`). Several of its errors
//! share a code: a compacted revision and a future one, a wrong password and a request that is too large. So those
//! that make a difference to Tierflow are found by both, and become variants.

use std::fmt;

use tonic::{Code, Status};

/// Why there is no answer that helps, in words for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody knows whether what was asked for was done.
    Unanswered(String),
    /// etcd said no, or what it said means no.
    Refused(String),
    /// etcd does not know who asks: nothing was done. Another connection may be let in, with the password as it is then.
    NotLetIn(String),
    /// The revision that was asked about is older than the last compaction.
    Compacted(String),
    /// The lease ran out or was revoked: nothing was done.
    LeaseNotFound(String),
}

/// `ErrGRPCCompacted`
const COMPACTED: (Code, &str) = (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
/// `ErrGRPCLeaseNotFound`
const LEASE_NOT_FOUND: (Code, &str) = (Code::NotFound, "etcdserver: requested lease not found");
/// `ErrGRPCAuthFailed`
const AUTH_FAILED: (Code, &str) =
    (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password");
/// `ErrGRPCAuthOldRevision`: users or roles changed since the token was made.
const AUTH_OLD_REVISION: (Code, &str) = (Code::InvalidArgument, "etcdserver: revision of auth store is old");

impl Failure {
    /// The failure of an owner that has lost its key, lease or race.
    pub fn lost(why: &str) -> Self {
        Self::Refused(why.to_owned())
    }

    pub(super) fn nonsense(what: &str) -> Self {
        Self::Refused(format!("an answer without {what}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unanswered(why)
            | Self::Refused(why)
            | Self::NotLetIn(why)
            | Self::Compacted(why)
            | Self::LeaseNotFound(why) => f.write_str(why),
        }
    }
}

impl From<etcd_client::Error> for Failure {
    fn from(error: etcd_client::Error) -> Self {
        match &error {
            etcd_client::Error::GRpcStatus(status) => status.into(),
            _ => Self::Unanswered(error.to_string()),
        }
    }
}

impl From<&Status> for Failure {
    fn from(status: &Status) -> Self {
        use std::error::Error as _;
        // What lies behind "transport error" is what an operator needs.
        let source = status.source().map(|source| format!(": {source}")).unwrap_or_default();
        let why = format!("{}{source}", status.message());
        match (status.code(), status.message()) {
            COMPACTED => Self::Compacted(why),
            LEASE_NOT_FOUND => Self::LeaseNotFound(why),
            (Code::Unauthenticated, _) | AUTH_FAILED | AUTH_OLD_REVISION => Self::NotLetIn(why),
            (Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal, _) => {
                Self::Unanswered(why)
            }
            _ => Self::Refused(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_share_a_code_are_told_apart() {
        let failure = |code, text: &str| Failure::from(&Status::new(code, text));
        let future = "etcdserver: mvcc: required revision is a future revision";
        assert_eq!(failure(Code::OutOfRange, future), Failure::Refused(future.to_owned()));
        assert!(matches!(failure(Code::OutOfRange, COMPACTED.1), Failure::Compacted(_)));
        let member = "etcdserver: member not found";
        assert_eq!(failure(Code::NotFound, member), Failure::Refused(member.to_owned()));
        assert!(matches!(failure(Code::NotFound, LEASE_NOT_FOUND.1), Failure::LeaseNotFound(_)));
        let large = "etcdserver: request is too large";
        assert_eq!(failure(Code::InvalidArgument, large), Failure::Refused(large.to_owned()));
        assert!(matches!(failure(Code::InvalidArgument, AUTH_OLD_REVISION.1), Failure::NotLetIn(_)));
    }
}
