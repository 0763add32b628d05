//! When the next attempt at a delivery is due, and when enough is enough. Pure: the state is the
//! delivery's record, so a restart changes nothing.

use hotcell_schemas::{
    TenantId, UnixMs,
    hook::{Delivery, DeliveryAttempt, DeliveryRecord, DeliveryState},
};

/// Part of a delay that is added at random, so that what failed together does not return together:
/// one tenth. Never subtracted: "after 1 minute" stays true.
const JITTER_PART: u64 = 10;

/// What to do with a delivery now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Make an attempt.
    Attempt,
    /// Its time has not come: in so many milliseconds.
    Wait(u64),
    /// Nothing more.
    Over,
}

/// The record of a delivery before its first attempt.
#[must_use]
pub fn begin(tenant: &TenantId, delivery: &Delivery) -> DeliveryRecord {
    DeliveryRecord {
        id: delivery.id.clone(),
        tenant: tenant.clone(),
        endpoint: delivery.endpoint.clone(),
        event: delivery.event,
        state: DeliveryState::Retrying,
        next_at: None,
        attempts: Vec::new(),
    }
}

/// What to do with a delivery at `now`.
#[must_use]
pub fn turn(record: &DeliveryRecord, now: UnixMs) -> Turn {
    match (record.state, record.next_at) {
        (DeliveryState::Succeeded | DeliveryState::Exhausted, _) => Turn::Over,
        (DeliveryState::Retrying, Some(at)) if at > now => Turn::Wait(at.since_ms(now)),
        (DeliveryState::Retrying, _) => Turn::Attempt,
    }
}

/// The record after `attempt`, which ended at `now`. `retry_secs` are the delays before the further
/// attempts; `random` picks the jitter.
#[must_use]
pub fn after(
    mut record: DeliveryRecord,
    attempt: DeliveryAttempt,
    now: UnixMs,
    retry_secs: &[u64],
    random: u16,
) -> DeliveryRecord {
    let succeeded = attempt.error.is_none();
    let delay_secs = retry_secs.get(record.attempts.len());
    record.attempts.push(attempt);
    (record.state, record.next_at) = match delay_secs {
        _ if succeeded => (DeliveryState::Succeeded, None),
        Some(secs) => {
            let ms = secs.saturating_mul(1000);
            let jitter = (ms / JITTER_PART).saturating_mul(random.into()) / u64::from(u16::MAX);
            (DeliveryState::Retrying, Some(now.plus_ms(ms.saturating_add(jitter))))
        }
        None => (DeliveryState::Exhausted, None),
    };
    record
}

/// The record of a delivery whose endpoint is gone or disabled.
#[must_use]
pub fn given_up(mut record: DeliveryRecord) -> DeliveryRecord {
    (record.state, record.next_at) = (DeliveryState::Exhausted, None);
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::delivery;
    use hotcell_schemas::limits::WEBHOOK_RETRY_SECS;

    fn attempt(at: UnixMs, error: Option<&str>) -> DeliveryAttempt {
        DeliveryAttempt { at, status: None, elapsed_ms: 0, error: error.map(str::to_owned) }
    }

    /// Seconds of each attempt when `fails` of them fail, on a clock that only waits.
    fn attempts(fails: usize, random: u16) -> (Vec<u64>, DeliveryState) {
        let (mut now, mut at) = (UnixMs(0), Vec::new());
        let mut record = begin(&"acme".parse().unwrap(), &delivery());
        loop {
            match turn(&record, now) {
                Turn::Over => return (at, record.state),
                Turn::Wait(ms) => now = now.plus_ms(ms),
                Turn::Attempt => {
                    let error = (at.len() < fails).then_some("status");
                    at.push(now.secs());
                    let tried = attempt(now, error);
                    record = after(record, tried, now, &WEBHOOK_RETRY_SECS, random);
                }
            }
        }
    }

    #[test]
    fn brk_50_attempts_at_0_60_360_2160_s() {
        let (all, state) = attempts(9, 0);
        assert_eq!((all, state), (vec![0, 60, 360, 2160], DeliveryState::Exhausted));
        assert_eq!(attempts(0, 0), (vec![0], DeliveryState::Succeeded));
        assert_eq!(attempts(2, 0), (vec![0, 60, 360], DeliveryState::Succeeded));
        assert_eq!(attempts(3, 0), (vec![0, 60, 360, 2160], DeliveryState::Succeeded));
    }

    #[test]
    fn jitter_only_adds_and_at_most_a_tenth() {
        assert_eq!(attempts(9, u16::MAX).0, [0, 66, 396, 2376]);
        for random in [1, 100, 40_000] {
            let (at, _) = attempts(9, random);
            assert!((60..=66).contains(&at[1]) && (300..=330).contains(&(at[2] - at[1])));
        }
    }

    #[test]
    fn an_early_redelivery_waits_and_an_endpoint_that_is_gone_ends_it() {
        let record = begin(&"acme".parse().unwrap(), &delivery());
        let now = UnixMs(5000);
        let failed = after(record, attempt(now, Some("connect")), now, &[60], 0);
        assert_eq!(turn(&failed, now), Turn::Wait(60_000));
        assert_eq!(turn(&failed, UnixMs(64_999)), Turn::Wait(1));
        assert_eq!(turn(&failed, UnixMs(65_000)), Turn::Attempt);
        let gone = given_up(failed);
        assert_eq!((turn(&gone, now), gone.attempts.len()), (Turn::Over, 1));
    }
}
