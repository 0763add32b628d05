//! The breaker of an endpoint (BRK-51): ten failed attempts in a row, over all events, disable it. Pure.
//!
//! Promises: a success ends the row; an attempt counts once, however often it is reported, since the
//! record holds which attempts it has counted; of attempts that overlap one counts, so that a moment's
//! outage in a burst of events is one failure and not ten; what is disabled stays so until its tenant says
//! otherwise. Refuses: to count tests, and attempts at a URL that the endpoint no longer has; that is
//! for the caller to sort out.

use hotcell_schemas::{
    UnixMs,
    hook::{DisabledFor, EndpointRecord, FailedAttempt},
    limits::WEBHOOK_FAILURES_MAX,
};

/// The record after a failed attempt that began at `began`, at `now`; nothing where it changes nothing.
#[must_use]
pub fn failed(
    record: &EndpointRecord,
    attempt: FailedAttempt,
    began: UnixMs,
    now: UnixMs,
) -> Option<EndpointRecord> {
    let is_same = |counted: &FailedAttempt| {
        (&counted.delivery, counted.number) == (&attempt.delivery, attempt.number)
    };
    if record.disabled_at.is_some() || record.failing.iter().any(is_same) {
        return None;
    }
    if record.failing.last().is_some_and(|last| began < last.at) {
        return None;
    }
    let mut record = record.clone();
    record.failing.push(attempt);
    record.failures = u32::try_from(record.failing.len()).unwrap_or(u32::MAX);
    if record.failing.len() >= WEBHOOK_FAILURES_MAX {
        (record.disabled_at, record.disabled_for) = (Some(now), Some(DisabledFor::Failures));
    }
    Some(record)
}

/// The record after an attempt that succeeded; nothing where it changes nothing.
#[must_use]
pub fn succeeded(record: &EndpointRecord) -> Option<EndpointRecord> {
    let counts = record.disabled_at.is_none() && record.failures > 0;
    counts.then(|| forgiven(record.clone()))
}

/// The record without its failures.
#[must_use]
pub fn forgiven(record: EndpointRecord) -> EndpointRecord {
    EndpointRecord { failures: 0, failing: Vec::new(), ..record }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::endpoint;
    use hotcell_schemas::DeliveryId;

    fn attempt(delivery: u8, number: u32) -> FailedAttempt {
        FailedAttempt {
            delivery: DeliveryId::new(1, [delivery; 10]),
            number,
            at: UnixMs(u64::from(number)),
            status: Some(500),
            error: "status".to_owned(),
        }
    }

    /// The endpoint after these attempts, each of another delivery; `true` is a success.
    fn after(attempts: &[bool]) -> EndpointRecord {
        let one = |record: EndpointRecord, (number, good): (usize, &bool)| {
            let failed = || {
                let attempt = attempt(u8::try_from(number).unwrap(), 1);
                let at = attempt.at;
                failed(&record, attempt, at, UnixMs(7))
            };
            let changed = if *good { succeeded(&record) } else { failed() };
            changed.unwrap_or(record)
        };
        attempts.iter().enumerate().fold(endpoint(), one)
    }

    #[test]
    fn brk_51_ten_in_a_row_disable_and_nine_do_not() {
        let nine = after(&[false; 9]);
        assert_eq!((nine.failures, nine.disabled_at), (9, None));
        let ten = after(&[false; 10]);
        assert_eq!((ten.failures, ten.disabled_at), (10, Some(UnixMs(7))));
        assert_eq!(ten.disabled_for, Some(DisabledFor::Failures));
        // What was in flight meanwhile changes nothing.
        assert_eq!(after(&[false; 14]), ten);
        assert_eq!(after(&[[false; 10].as_slice(), &[true]].concat()), ten);
    }

    #[test]
    fn brk_51_nine_failures_and_a_success_begin_anew() {
        let reset = [[false; 9].as_slice(), &[true]].concat();
        assert_eq!(after(&reset), endpoint());
        let again = after(&[reset.as_slice(), &[false; 9]].concat());
        assert_eq!((again.failures, again.disabled_at), (9, None));
        assert_eq!(succeeded(&endpoint()), None, "a healthy endpoint is not written");
    }

    #[test]
    fn brk_51_a_repeat_counts_once_and_the_next_attempt_counts() {
        let failed =
            |record: &EndpointRecord, attempt| failed(record, attempt, UnixMs(5), UnixMs(8));
        let once = failed(&endpoint(), attempt(1, 1)).unwrap();
        assert_eq!(failed(&once, attempt(1, 1)), None);
        assert_eq!(failed(&once, attempt(1, 2)).unwrap().failures, 2);
        assert_eq!(failed(&once, attempt(2, 1)).unwrap().failures, 2);
    }

    #[test]
    fn brk_51_of_attempts_that_overlap_one_counts() {
        let of = |delivery, ended| FailedAttempt { at: UnixMs(ended), ..attempt(delivery, 1) };
        let once = failed(&endpoint(), of(1, 100), UnixMs(90), UnixMs(100)).unwrap();
        for delivery in 2..20 {
            assert_eq!(failed(&once, of(delivery, 120), UnixMs(99), UnixMs(120)), None);
        }
        let later = failed(&once, of(2, 120), UnixMs(100), UnixMs(120)).unwrap();
        assert_eq!(later.failures, 2, "one that began when the first had ended");
    }
}
