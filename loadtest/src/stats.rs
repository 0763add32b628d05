//! Distributions of times. Pure. Promises: bounded memory whatever the count; a value is kept to
//! three significant digits. A time beyond the bound counts as the bound.

use hdrhistogram::Histogram;
use std::time::Duration;

/// Longest time that is told apart, in microseconds: ten minutes.
const MICROS_MAX: u64 = 600_000_000;

/// Many times.
#[derive(Debug, Clone)]
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        let made = Histogram::new_with_bounds(1, MICROS_MAX, 3);
        Self(made.expect("the bounds are constants that the histogram takes"))
    }
}

impl Times {
    /// Counts one more.
    pub fn record(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(MICROS_MAX);
        self.0.saturating_record(micros.clamp(1, MICROS_MAX));
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time, in milliseconds, under which this share of all lie; `quantile` is 0 to 1. The
    /// shortest for 0, the longest for 1, and 0 when there are none.
    #[must_use]
    pub fn ms(&self, quantile: f64) -> f64 {
        millis(self.0.value_at_quantile(quantile))
    }

    /// The shortest in milliseconds.
    #[must_use]
    pub fn ms_min(&self) -> f64 {
        if self.0.is_empty() { 0.0 } else { millis(self.0.min()) }
    }

    /// The longest in milliseconds.
    #[must_use]
    pub fn ms_max(&self) -> f64 {
        millis(self.0.max())
    }
}

/// A count as a number to divide by: exact up to 2^53, which no count of ours reaches.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub const fn number(count: u64) -> f64 {
    count as f64
}

fn millis(micros: u64) -> f64 {
    number(micros) / 1000.0
}

/// `part / whole`, and 0 when there is no whole.
#[must_use]
pub fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// The value under which this share of all lie, between two of them where it falls there; 0 when
/// there are none.
#[must_use]
pub fn within(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let at = number(last as u64) * share.clamp(0.0, 1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to last")]
    let below = at as usize;
    let of = |index: usize| sorted.get(index.min(last)).copied().unwrap_or_default();
    let (low, high) = (of(below), of(below + 1));
    low + (high - low) * at.fract()
}
