//! Reading a job's state and history from the stream: Direct Get, one round trip, no database.

use crate::{
    bus::Bus,
    publish::{JOBS, envelope_of},
};
use async_nats::jetstream::stream::DirectGetErrorKind;
use hotcell_schemas::{
    EventKind, Job, JobId, Subject, TenantId, UnixMs, Verified, envelope::OpenError,
};

/// Why a job cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The broker did not answer.
    #[error("the broker did not answer a read")]
    Unanswered(#[source] async_nats::jetstream::stream::DirectGetError),
    /// The stored message is not believed: someone wrote to the stream who should not have.
    #[error("a stored job event does not verify")]
    NotBelieved(#[source] OpenError),
}

/// A job as of its last event.
#[derive(Debug)]
pub struct Stored {
    /// The event, checked.
    pub message: Verified<Job>,
    /// Its sequence: what the next event must follow.
    pub seq: u64,
    /// When the broker stored it: its own clock, which no sender can set.
    pub stored_at: UnixMs,
}

impl Bus {
    /// The last event of a job of `tenant`; `None` when it has none.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn job(&self, tenant: &TenantId, job: &JobId) -> Result<Option<Stored>, ReadError> {
        self.last_event(Subject::job_filter(tenant, job)).await
    }

    /// The event with which a job of `tenant` began, as the edge signed it; `None` when it has none.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn submission(
        &self,
        tenant: &TenantId,
        job: &JobId,
    ) -> Result<Option<Stored>, ReadError> {
        self.event(tenant, job, EventKind::Submitted).await
    }

    /// The event of one kind in the life of a job of `tenant`: the last, where there can be several;
    /// `None` when there is none, or when its subject names a pool.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn event(
        &self,
        tenant: &TenantId,
        job: &JobId,
        kind: EventKind,
    ) -> Result<Option<Stored>, ReadError> {
        let Some(subject) = Subject::job(tenant, job, kind) else { return Ok(None) };
        self.last_event(subject.as_str().to_owned()).await
    }

    async fn last_event(&self, filter: String) -> Result<Option<Stored>, ReadError> {
        let stream = self
            .jetstream
            .get_stream_no_info(JOBS.as_str())
            .await
            .expect("a constant stream name is valid");
        let message = match stream.direct_get_last_for_subject(filter).await {
            Ok(message) => message,
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ReadError::Unanswered(error)),
        };
        let envelope = envelope_of(&message.subject, Some(&message.headers), &message.payload)
            .map_err(ReadError::NotBelieved)?;
        let checked = envelope.open(&self.trust).map_err(ReadError::NotBelieved)?;
        let stored_at = unix_ms(message.time.unix_timestamp_nanos());
        Ok(Some(Stored { message: checked, seq: message.sequence, stored_at }))
    }

    /// Whether the event at `seq` is still the last of its job. After a repeat or a cancellation it
    /// is not, and there is nothing left to do for it.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn is_last(&self, job: &Job, seq: u64) -> Result<bool, ReadError> {
        Ok(self.job(&job.tenant, &job.id).await?.is_some_and(|last| last.seq == seq))
    }
}

/// The broker's time, in milliseconds since the epoch.
pub(crate) fn unix_ms(nanos: i128) -> UnixMs {
    UnixMs(u64::try_from(nanos / 1_000_000).unwrap_or(0))
}
