//! `N/window`, as in `100/minute` or `100/10m`.

use std::fmt;

/// The highest N of a rate as documents write it. Lists of Envoy actions have the range of their field, `u32`.
pub const LIMIT_MAX: u32 = 1_000_000_000;
/// The longest window, in seconds: 366 days.
pub const WINDOW_SECS_MAX: u32 = 366 * DAY;

const MINUTE: u32 = 60;
const HOUR: u32 = 60 * MINUTE;
const DAY: u32 = 24 * HOUR;

/// A rate: `limit` hits per window. A limit of 0 denies everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    pub limit: u32,
    pub window: Window,
}

/// A window's length: 1 second to 366 days, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Window(u32);

impl Window {
    pub const SECOND: Self = Self(1);

    pub fn from_secs(secs: u32) -> Option<Self> {
        (1..=WINDOW_SECS_MAX).contains(&secs).then_some(Self(secs))
    }

    pub fn secs(self) -> u32 {
        self.0
    }

    pub fn nanos(self) -> u64 {
        u64::from(self.0) * 1_000_000_000
    }

    /// `minute`, `10m`, `s`, `2 weeks`: a unit, or a number of them.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim();
        let unit_secs = unit_secs(unit).ok_or_else(|| {
            format!("a window of s, m, h, d, w, month or year, or a number of them as in 10m, instead of {text:?}")
        })?;
        let number = if number.is_empty() { Ok(1) } else { number.parse::<u32>() };
        number
            .ok()
            .and_then(|n| n.checked_mul(unit_secs))
            .and_then(Self::from_secs)
            .ok_or_else(|| format!("a window of 1s to 366d instead of {text:?}"))
    }
}

fn unit_secs(unit: &str) -> Option<u32> {
    Some(match unit {
        "s" | "sec" | "second" | "seconds" => 1,
        "m" | "min" | "minute" | "minutes" => MINUTE,
        "h" | "hour" | "hours" => HOUR,
        "d" | "day" | "days" => DAY,
        "w" | "week" | "weeks" => 7 * DAY,
        "month" | "months" => 30 * DAY,
        "year" | "years" => 365 * DAY,
        _ => return None,
    })
}

impl fmt::Display for Window {
    /// The shortest spelling that reads back: `minute`, `10m`, `90s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WORDS: [(u32, &str); 7] = [
            (365 * DAY, "year"),
            (30 * DAY, "month"),
            (7 * DAY, "week"),
            (DAY, "day"),
            (HOUR, "hour"),
            (MINUTE, "minute"),
            (1, "second"),
        ];
        if let Some((_, word)) = WORDS.iter().find(|(secs, _)| *secs == self.0) {
            return f.write_str(word);
        }
        let (secs, unit) = [(DAY, "d"), (HOUR, "h"), (MINUTE, "m")]
            .into_iter()
            .find(|(secs, _)| self.0.is_multiple_of(*secs))
            .unwrap_or((1, "s"));
        write!(f, "{}{unit}", self.0 / secs)
    }
}

impl Rate {
    /// The error is what was expected, to be put after "expected".
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some((limit, window)) = text.split_once('/') else {
            return Err("a rate like 100/minute".to_owned());
        };
        let limit = limit.trim();
        let plain = !limit.is_empty() && limit.bytes().all(|b| b.is_ascii_digit());
        let limit = plain
            .then(|| limit.parse::<u32>().ok().filter(|n| *n <= LIMIT_MAX))
            .flatten()
            .ok_or_else(|| format!("a whole number of 0 to {LIMIT_MAX} before the '/' instead of {limit:?}"))?;
        Ok(Self { limit, window: Window::parse(window)? })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.limit, self.window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, limit: u32, secs: u32, canonical: &str) {
        let rate = Rate::parse(text).unwrap();
        assert_eq!((rate.limit, rate.window.secs()), (limit, secs), "{text}");
        assert_eq!(rate.to_string(), canonical);
        assert_eq!(Rate::parse(canonical), Ok(rate), "the canonical spelling reads back");
    }

    #[test]
    fn rates_are_read_in_every_spelling() {
        check("100/minute", 100, 60, "100/minute");
        check("50/s", 50, 1, "50/second");
        check("100/10m", 100, 600, "100/10m");
        check("1/5s", 1, 5, "1/5s");
        check("0 / 90s", 0, 90, "0/90s");
        check("7/w", 7, 604_800, "7/week");
        check("1000000000/month", 1_000_000_000, 2_592_000, "1000000000/month");
        check("1/366d", 1, 31_622_400, "1/366d");
        check("1/2 hours", 1, 7200, "1/2h");
    }

    #[test]
    fn absurd_rates_are_refused_and_the_error_says_what_was_expected() {
        for (text, expected) in [
            ("100", "a rate like 100/minute"),
            ("ten/minute", "a whole number of 0 to 1000000000"),
            ("-1/minute", "a whole number"),
            ("+1/minute", "a whole number"),
            ("1.5/minute", "a whole number"),
            ("1000000001/s", "a whole number"),
            ("99999999999999999999/s", "a whole number"),
            ("1/fortnight", "a window of s, m, h"),
            ("1/", "a window of s, m, h"),
            ("1/0s", "a window of 1s to 366d"),
            ("1/367d", "a window of 1s to 366d"),
            ("1/99999999999m", "a window of 1s to 366d"),
        ] {
            let error = Rate::parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}
