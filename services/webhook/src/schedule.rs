//! When the next attempt at a delivery is due, and when enough is enough. Pure: the state is the
//! delivery's record, so a restart changes nothing.

use crate::due::Due;
use hotcell_schemas::{
    UnixMs,
    hook::{DeliveryAttempt, DeliveryRecord, DeliveryState},
    limits::DELIVERY_ATTEMPTS_KEPT,
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
pub fn begin(due: &Due) -> DeliveryRecord {
    let (id, tenant, endpoint) = (due.id.clone(), due.tenant.clone(), due.endpoint.clone());
    let record = DeliveryRecord::new(id, tenant, endpoint, due.event);
    sourced(record, due)
}

/// The record with the event behind it, which one of before replays lacks.
#[must_use]
pub fn sourced(mut record: DeliveryRecord, due: &Due) -> DeliveryRecord {
    if let Some(source) = &due.source {
        record.job = Some(source.job.clone());
        (record.sequence, record.happened_at) = (Some(source.sequence), Some(source.at));
    }
    record
}

/// Number of the next attempt, from 1, over all rounds.
#[must_use]
pub fn number(record: &DeliveryRecord) -> u32 {
    let made = u32::try_from(record.attempts.len()).unwrap_or(u32::MAX);
    record.dropped.saturating_add(made).saturating_add(1)
}

/// Whether no attempt of this round was made.
#[must_use]
pub fn is_fresh(record: &DeliveryRecord) -> bool {
    this_round(record) == 0
}

fn this_round(record: &DeliveryRecord) -> usize {
    let earlier = usize::try_from(record.earlier).unwrap_or(usize::MAX);
    record.attempts.len().saturating_sub(earlier)
}

/// The record of a delivery that is to be made once more, with the whole schedule, at `now`.
#[must_use]
pub fn replayed(mut record: DeliveryRecord, now: UnixMs) -> DeliveryRecord {
    let over = record.attempts.len().saturating_sub(DELIVERY_ATTEMPTS_KEPT);
    record.attempts.drain(..over);
    let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    record.dropped = record.dropped.saturating_add(count(over));
    record.earlier = count(record.attempts.len());
    record.replays = record.replays.saturating_add(1);
    (record.state, record.next_at) = (DeliveryState::Retrying, Some(now));
    record
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
    let delay_secs = retry_secs.get(this_round(&record));
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
        let mut record = begin(&Due::from(&delivery()));
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
        let record = begin(&Due::from(&delivery()));
        let now = UnixMs(5000);
        let failed = after(record, attempt(now, Some("connect")), now, &[60], 0);
        assert_eq!(turn(&failed, now), Turn::Wait(60_000));
        assert_eq!(turn(&failed, UnixMs(64_999)), Turn::Wait(1));
        assert_eq!(turn(&failed, UnixMs(65_000)), Turn::Attempt);
        let gone = given_up(failed);
        assert_eq!((turn(&gone, now), gone.attempts.len()), (Turn::Over, 1));
    }

    #[test]
    fn brk_53_a_replay_has_the_whole_schedule_and_goes_on_counting() {
        let mut record = begin(&Due::from(&delivery()));
        for round in 0..6 {
            for made in 0..4 {
                assert_eq!(number(&record), round * 4 + made + 1);
                assert_eq!(is_fresh(&record), made == 0);
                let now = record.next_at.unwrap_or(UnixMs(0));
                let tried = attempt(now, Some("status"));
                record = after(record, tried, now, &WEBHOOK_RETRY_SECS, 0);
            }
            assert_eq!((record.state, record.replays), (DeliveryState::Exhausted, round));
            assert!(record.attempts.len() <= DELIVERY_ATTEMPTS_KEPT + 4, "what is kept is bounded");
            record = replayed(record, UnixMs(1));
            assert_eq!(turn(&record, UnixMs(1)), Turn::Attempt);
        }
        assert_eq!((record.attempts.len(), record.dropped), (12, 12));
    }

    #[test]
    fn a_record_of_before_learns_of_its_event() {
        let due = Due::from(&delivery());
        let record = begin(&due);
        let old = DeliveryRecord { job: None, sequence: None, happened_at: None, ..record.clone() };
        assert_eq!(sourced(old, &due), record);
        assert_eq!(record.sequence, Some(delivery().sequence));
    }
}
