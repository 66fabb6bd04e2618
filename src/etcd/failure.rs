//! Why there is no answer that helps.

use std::fmt;

use tonic::Code;

/// In words for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody knows whether what was asked for was done.
    Unanswered(String),
    /// etcd said no, or what it said means no.
    Refused(String),
    /// etcd does not know who asks: nothing was done. Another connection may be let in, once the password is another one.
    NotLetIn(String),
}

impl Failure {
    /// For what was held, and is not any more.
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
            Self::Unanswered(why) | Self::Refused(why) | Self::NotLetIn(why) => f.write_str(why),
        }
    }
}

impl From<etcd_client::Error> for Failure {
    fn from(error: etcd_client::Error) -> Self {
        use std::error::Error as _;
        let etcd_client::Error::GRpcStatus(status) = &error else { return Self::Unanswered(error.to_string()) };
        // What lies behind "transport error" is what an operator needs.
        let source = status.source().map(|source| format!(": {source}")).unwrap_or_default();
        let why = format!("{}{source}", status.message());
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal => {
                Self::Unanswered(why)
            }
            Code::Unauthenticated => Self::NotLetIn(why),
            Code::InvalidArgument if why.contains("authentication failed") => Self::NotLetIn(why),
            _ => Self::Refused(why),
        }
    }
}
