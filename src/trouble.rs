//! Why something is not as it should be, for as long as it is not: written by whoever does it, read by whoever tells of it.

use std::sync::Arc;

use parking_lot::Mutex;

/// A reason for people, or none.
#[derive(Clone, Debug, Default)]
pub struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    /// Takes the reason of this moment. True where that is another one than before.
    pub fn set(&self, reason: Option<String>) -> bool {
        let mut known = self.0.lock();
        let is_new = *known != reason;
        *known = reason;
        is_new
    }

    pub fn get(&self) -> Option<String> {
        self.0.lock().clone()
    }
}
