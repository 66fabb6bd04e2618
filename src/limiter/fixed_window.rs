//! The fixed window: a count that starts again with every window, aligned to UTC.

use crate::clock::Timestamp;
use crate::policy::rate::Window;

#[derive(Clone, Debug, Default)]
pub(super) struct FixedWindow {
    count: u32,
}

impl FixedWindow {
    pub(super) fn of(count: u32) -> Self {
        Self { count }
    }

    pub(super) fn used(&self) -> u32 {
        self.count
    }

    pub(super) fn advance(&mut self, window: Window, from: Timestamp, to: Timestamp) {
        if number(window, from) != number(window, to) {
            self.count = 0;
        }
    }

    pub(super) fn charge(&mut self, hits: u32) {
        self.count = self.count.saturating_add(hits);
    }

    /// The end of the window that `now` is in. All that was counted goes at once.
    pub(super) fn ends(window: Window, now: Timestamp) -> Timestamp {
        Self::begins(window, number(window, now).saturating_add(1))
    }

    /// The beginning of the window of a number.
    pub(super) fn begins(window: Window, number: u64) -> Timestamp {
        Timestamp::from_nanos(number.saturating_mul(window.nanos()))
    }
}

/// The number of the window that a time is in, counted from the Unix epoch.
fn number(window: Window, at: Timestamp) -> u64 {
    at.as_nanos() / window.nanos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_starts_on_the_hour_of_utc() {
        let hour = Window::from_secs(3600).unwrap();
        // 2024-05-06T07:59:59.999999999Z
        let last = Timestamp::from_nanos(1_714_982_399_999_999_999);
        let mut counter = FixedWindow::default();
        counter.charge(3);
        counter.advance(hour, Timestamp::from_nanos(1_714_978_800_000_000_000), last);
        assert_eq!(counter.used(), 3);
        assert_eq!(FixedWindow::ends(hour, last), last.plus_nanos(1));
        counter.advance(hour, last, last.plus_nanos(1));
        assert_eq!(counter.used(), 0);
    }

    #[test]
    fn nothing_overflows() {
        let second = Window::from_secs(1).unwrap();
        let mut counter = FixedWindow::default();
        counter.charge(u32::MAX);
        counter.charge(u32::MAX);
        assert_eq!(counter.used(), u32::MAX);
        let end = Timestamp::from_nanos(u64::MAX);
        assert_eq!(FixedWindow::ends(second, end), end);
    }
}
