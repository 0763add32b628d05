//! Counts attempts at endpoints, and disables one that fails again and again.
//!
//! Promises: the count is changed by compare-and-set, before the attempt is in its delivery's record.
//! Should a process die in between, the attempt is made again under the same number, and `breaker`
//! knows that it has counted it. That an endpoint is disabled is in the audit log before it is.
//! Refuses: to count what was sent to a URL that the endpoint no longer has.
//!
//! A success ends the row when a failure was counted before its attempt began; one that overlaps the
//! first failure ends nothing, since neither is the later one.

use crate::breaker;
use hotcell_schemas::{
    DeliveryId,
    hook::{DeliveryAttempt, EndpointRecord, FailedAttempt},
    records::AuditAct,
};
use hotcell_stage::{
    Bus, Outgoing, PublishError, clock,
    kv::{Bucket, Entry, KvError},
    retry::{Policy as Backoff, retry},
};
use std::time::Duration;
use tracing::{info, warn};

/// Writes of one endpoint that are tried: each rival that wins has counted an attempt of its own, and
/// there are as many as its lanes are wide.
const TRIES_MAX: u32 = 64;

/// Longest pause after a lost race, in milliseconds.
const PAUSE_MS_MAX: u64 = 10;

/// Why an attempt was not counted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TallyError {
    #[error("the endpoint was not read or written")]
    Bucket(#[source] KvError),
    #[error("the end of an endpoint was not recorded")]
    Audit(#[source] PublishError),
}

/// The counts.
pub(crate) struct Tally {
    pub(crate) bus: Bus,
    pub(crate) endpoints: Bucket,
}

impl Tally {
    /// Counts attempt `number` at `delivery`, which was made at the endpoint as it was in `found`.
    pub(crate) async fn count(
        &self,
        found: Entry<EndpointRecord>,
        delivery: &DeliveryId,
        number: u32,
        attempt: &DeliveryAttempt,
    ) -> Result<(), TallyError> {
        if attempt.error.is_none() && found.value.failures == 0 {
            return Ok(());
        }
        let url = found.value.url.clone();
        let mut entry = found;
        for _ in 0..TRIES_MAX {
            let Some(next) = counted(&entry.value, delivery, number, attempt) else {
                return Ok(());
            };
            if next.disabled_at.is_some() {
                self.disabling(&next).await?;
            }
            match self.write(&entry, &next).await {
                Ok(()) => return Ok(()),
                Err(KvError::Conflict) => {}
                Err(error) => return Err(TallyError::Bucket(error)),
            }
            let [random] = clock::random::<1>();
            tokio::time::sleep(Duration::from_millis(u64::from(random) % PAUSE_MS_MAX)).await;
            let again = self.endpoints.get::<EndpointRecord>(&entry.key).await;
            match again.map_err(TallyError::Bucket)? {
                Some(again) if again.value.url == url => entry = again,
                Some(_) | None => return Ok(()),
            }
        }
        warn!(endpoint = %entry.value.id, "an attempt was not counted: too many at once");
        Ok(())
    }

    /// The attempt was made, and would be made again: worth some patience.
    async fn write(
        &self,
        entry: &Entry<EndpointRecord>,
        next: &EndpointRecord,
    ) -> Result<(), KvError> {
        let transient = |error: &KvError| matches!(error, KvError::Unwritten(_));
        let write = || self.endpoints.update(&entry.key, next, entry.revision);
        retry(Backoff::REQUEST, transient, write).await.map(drop)
    }

    /// Records that an endpoint is about to be disabled.
    async fn disabling(&self, next: &EndpointRecord) -> Result<(), TallyError> {
        let last = next.failing.last();
        let act = AuditAct::EndpointDisabled {
            endpoint: next.id.clone(),
            failures: next.failures,
            status: last.and_then(|attempt| attempt.status),
            error: last.map(|attempt| attempt.error.clone()).unwrap_or_default(),
        };
        // One for each row of failures, whichever attempt is the last to be counted.
        let first = next.failing.first().map(|it| format!("{}.{}", it.delivery, it.number));
        let id = format!("disabled.{}.{}", next.id, first.unwrap_or_default());
        let audit = Outgoing::audit(Some(&next.tenant), act, id);
        self.bus.publish(&audit).await.map_err(TallyError::Audit)?;
        info!(tenant = %next.tenant, endpoint = %next.id, "endpoint disabled for its failures");
        Ok(())
    }
}

/// The endpoint after the attempt; nothing where it changes nothing.
fn counted(
    record: &EndpointRecord,
    delivery: &DeliveryId,
    number: u32,
    attempt: &DeliveryAttempt,
) -> Option<EndpointRecord> {
    let Some(error) = attempt.error.clone() else { return breaker::succeeded(record) };
    let (delivery, began, status) = (delivery.clone(), attempt.at, attempt.status);
    let at = began.plus_ms(attempt.elapsed_ms);
    let failed = FailedAttempt { delivery, number, at, status, error };
    breaker::failed(record, failed, began, clock::now())
}
