//! How many refusals are recorded one by one: a worker that is refused a thousand times a second
//! must not make the history grow by as much. What is not recorded is counted, and the count is in
//! the next record. Pure.

use hotcell_schemas::UnixMs;

/// Refusals recorded at once, after a quiet time.
pub(crate) const BURST_MAX: u64 = 200;

/// Milliseconds until one more may be recorded: ten a second, some 500 MB of records in a day.
pub(crate) const REFILL_MS: u64 = 100;

/// The meter of one process.
#[derive(Debug)]
pub(crate) struct Meter {
    left: u64,
    refilled_at: UnixMs,
    missed: u64,
}

impl Meter {
    pub(crate) fn new(now: UnixMs) -> Self {
        Self { left: BURST_MAX, refilled_at: now, missed: 0 }
    }

    /// Whether a refusal is recorded now, and how many before it were not.
    pub(crate) fn take(&mut self, now: UnixMs) -> Option<u64> {
        let more = now.since_ms(self.refilled_at) / REFILL_MS;
        if more > 0 {
            self.left = self.left.saturating_add(more).min(BURST_MAX);
            self.refilled_at = now;
        }
        if self.left == 0 {
            self.missed = self.missed.saturating_add(1);
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.missed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_the_count_recorded() {
        let mut meter = Meter::new(UnixMs(0));
        let flood = |meter: &mut Meter, from: u64| {
            (0..10_000).filter_map(|n| meter.take(UnixMs(from + n / 10))).collect::<Vec<_>>()
        };
        // Ten a millisecond for a second: the burst, and one for each tenth of a second.
        let recorded = flood(&mut meter, 1);
        let missed: u64 = recorded.iter().sum();
        assert!((200..=211).contains(&recorded.len()), "{}", recorded.len());
        assert!(missed > 8000, "{missed}");
        assert_eq!(recorded.len() as u64 + missed + meter.missed, 10_000);
        // A quiet hour later there is room again, and the rest of the count is told.
        assert!(meter.take(UnixMs(3_600_000)).is_some_and(|missed| missed > 0));
        assert_eq!(meter.take(UnixMs(3_600_000)), Some(0));
    }
}
