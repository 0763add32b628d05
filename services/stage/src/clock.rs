//! The only clock, and the only randomness. Everything pure takes their values as arguments.

use hotcell_schemas::UnixMs;
use std::time::{SystemTime, UNIX_EPOCH};

/// The wall clock, in Unix milliseconds. A clock before 1970 reads 0.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
pub fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// `N` bytes from the operating system's generator.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("getrandom(2) does not fail once the system has booted");
    bytes
}
