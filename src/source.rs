//! Where documents come from. A source hands over everything it holds, at a revision; it never says what
//! changed, because the difference is found where the last good set is known.

pub mod board;
pub mod dir;
pub mod etcd;

use crate::document::Documents;

/// One of the places that documents come from.
pub enum Source {
    Dir(dir::Watcher),
    Etcd(Box<etcd::Etcd>),
}

impl Source {
    /// The source's documents, as soon as they differ from those that were handed over before. Waits for ever if need
    /// be; what is the matter stands on the [`Board`](board::Board) meanwhile.
    pub async fn next(&mut self) -> Documents {
        match self {
            Self::Dir(watcher) => watcher.next().await,
            Self::Etcd(etcd) => etcd.next().await,
        }
    }
}
