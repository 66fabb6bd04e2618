//! Lists in pages: so many at once, and where the next ones begin.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::counters::bad;
use super::error::ProblemDetails;

pub(super) const LIMIT_DEFAULT: usize = 100;
pub(super) const LIMIT_MAX: usize = 1000;

/// The number of rows of a page.
pub(super) fn limit(asked: Option<usize>) -> Result<usize, ProblemDetails> {
    match asked {
        None => Ok(LIMIT_DEFAULT),
        Some(limit) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
        Some(limit) => Err(bad(&format!("limit: found {limit}, expected 1 to {LIMIT_MAX}"))),
    }
}

/// The rows of a page out of one more than it has, where there are so many, and the cursor of the page after it. `key` is a row's
/// place in the list.
pub(super) fn of<R, K: serde::Serialize>(
    mut rows: Vec<R>,
    limit: usize,
    key: impl FnOnce(&R) -> K,
) -> (Vec<R>, Option<String>) {
    let is_last = rows.len() <= limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| !is_last).map(|last| cursor(&key(last)));
    (rows, next)
}

/// A place in a list, as clients hold it. It is the key of the last row of a page and not a number, so that rows that come
/// and go meanwhile move nobody's page.
pub(super) fn cursor(key: &impl serde::Serialize) -> String {
    // What keys are made of is never refused.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(key).unwrap_or_default())
}

/// The key that a cursor was made of. `parameter` is what it came as.
pub(super) fn key_of<K: serde::de::DeserializeOwned>(parameter: &str, cursor: &str) -> Result<K, ProblemDetails> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok();
    let key = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    key.ok_or_else(|| no_cursor(parameter, cursor))
}

pub(super) fn no_cursor(parameter: &str, found: &str) -> ProblemDetails {
    bad(&format!("{parameter}: found {found:?}, expected the `next` of the page before"))
}
