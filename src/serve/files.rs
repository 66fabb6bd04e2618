//! Open files, of which each connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Systems allow a process few, often 1024, and more if it asks: less is for programs that use select(2). Where that
/// fails the ports say so once they run out.
pub(super) fn allow_all() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
