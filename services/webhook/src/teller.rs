//! Each state that a job reaches, told to its tenant's own broker account as `events.<job>.state`,
//! with the data that the API's server-sent events have.
//!
//! Promises: only what the stream has stored is told, also the job's end (by the planner, which
//! reads it). Refuses: to keep anything for who is away: the broker drops what nobody hears, and
//! `api.get` and `api.list` say how jobs stand.
//!
//! May run twice, and in any order: a state has its number in the job's timeline, so whoever hears
//! one again, or after a later one, knows.

use crate::{accounts::Accounts, payload::state_body};
use hotcell_schemas::{Job, Subject, UnixMs};
use hotcell_stage::{Bus, Delivered, Halt, Outgoing, Stage, clock};
use std::sync::Arc;

/// A state that is older is not told, in milliseconds: whoever waits for it has asked by then.
/// After an hour without this service its backlog is passed over, not told.
const STALE_MS: u64 = 60_000;

pub(crate) struct Teller {
    pub(crate) bus: Bus,
    pub(crate) accounts: Arc<Accounts>,
}

/// Tells `account` the last state of `job`.
pub(crate) async fn tell(bus: &Bus, account: &str, job: &Job) {
    if let (Ok(subject), Some(body)) = (Subject::state(account, &job.id), state_body(job)) {
        bus.notify(&subject, body).await;
    }
}

fn is_stale(stored_at: UnixMs, now: UnixMs) -> bool {
    now.since_ms(stored_at) >= STALE_MS
}

impl Stage for Teller {
    type Input = Job;

    async fn handle(&self, input: Delivered<Job>) -> Result<Vec<Outgoing>, Halt> {
        let job = input.message.get();
        if !is_stale(input.stored_at, clock::now())
            && let Some(account) = self.accounts.of(&job.tenant).await?
        {
            tell(&self.bus, &account, job).await;
        }
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_waits_for_any_more_is_not_told() {
        let stored = UnixMs(1_000_000);
        assert!(!is_stale(stored, stored.plus_ms(STALE_MS - 1)));
        assert!(is_stale(stored, stored.plus_ms(STALE_MS)));
        // The broker's clock may be ahead of ours.
        assert!(!is_stale(stored, UnixMs(0)));
    }
}
