//! What a connection does, as far as whoever looks for one that can leave has to know it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

/// It has asked for nothing since it came...
const NOTHING: u8 = 0;
/// ...for nothing since it was last looked at...
const NOTHING_NEW: u8 = 1;
/// ...for something.
const SOMETHING: u8 = 2;

#[derive(Debug, Default)]
pub(super) struct Activity {
    asked: AtomicU8,
    under_way: AtomicUsize,
    /// Whether a part of what it was told waits for it to read.
    is_unread: AtomicBool,
}

impl Activity {
    /// Notes a call that is answered before anybody can look.
    pub(super) fn ask(&self) {
        self.asked.store(SOMETHING, Ordering::Relaxed);
    }

    /// Notes a call. It is under way for as long as what is returned exists.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.ask();
        UnderWay(Arc::clone(self))
    }

    /// True for one that has not asked for anything yet.
    pub(super) fn is_new(&self) -> bool {
        self.asked.load(Ordering::Relaxed) == NOTHING
    }

    /// Notes whether something could not be written yet.
    pub(super) fn note_unread(&self, is_unread: bool) {
        self.is_unread.store(is_unread, Ordering::Relaxed);
    }

    /// True where no call is under way, and all answers are written.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) == 0 && !self.is_unread.load(Ordering::Relaxed)
    }

    /// True where it is idle, and has asked for nothing since this was last asked.
    pub(super) fn stays_idle(&self) -> bool {
        let seen = self.asked.compare_exchange(SOMETHING, NOTHING_NEW, Ordering::Relaxed, Ordering::Relaxed);
        seen.is_err() && self.is_idle()
    }
}

/// A call of a connection that is not answered as a whole yet.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Activity>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
