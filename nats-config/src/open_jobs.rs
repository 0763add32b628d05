//! The jobs of one tenant that have not ended: found and ended, when the tenant is removed.
//!
//! Promises: of a cancellation and any other next event of a job one wins, by the compare-and-set;
//! what ended otherwise stays so.

use crate::{
    admin::{Admin, AdminError},
    api,
};
use async_nats::{
    HeaderMap, HeaderValue, StatusCode,
    header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_SEQUENCE, NATS_SUBJECT},
    jetstream::context::PublishErrorKind,
};
use hotcell_schemas::{
    Envelope, EventKind, Job, JobId, Subject, TenantId, UnixMs, routes::StreamId,
};

/// Header of the filter under which the expected sequence is the last.
const EXPECTED_FILTER: &str = "Nats-Expected-Last-Subject-Sequence-Subject";

impl Admin {
    /// The jobs of `tenant` without a last event.
    pub(crate) async fn open_jobs(&self, tenant: &TenantId) -> Result<Vec<JobId>, AdminError> {
        let filter = Subject::tenant_filter(tenant);
        let mut subjects = self.subjects(StreamId::Jobs.as_str(), &filter).await?;
        subjects.sort();
        let mut open: Vec<JobId> = Vec::new();
        let mut ended: Option<JobId> = None;
        for subject in subjects.iter().filter_map(|text| text.parse::<Subject>().ok()) {
            let Some(job) = subject.job_id() else { continue };
            let is_last = subject.route().event().is_some_and(EventKind::is_terminal);
            if is_last {
                open.retain(|other| *other != job);
                ended = Some(job);
            } else if ended.as_ref() != Some(&job) && open.last() != Some(&job) {
                open.push(job);
            }
        }
        Ok(open)
    }

    /// Whether the job was ended here.
    pub(crate) async fn cancel_job(
        &self,
        tenant: &TenantId,
        id: &JobId,
        now: UnixMs,
    ) -> Result<bool, AdminError> {
        let Some((job, sequence)) = self.last_event(tenant, id).await? else { return Ok(false) };
        if job.state.is_terminal() {
            return Ok(false);
        }
        let attempt = job.attempt();
        let next = job.moved(EventKind::Cancelled, now);
        let subject = Subject::job(tenant, id, EventKind::Cancelled)
            .expect("only `validated` needs a pool in its subject");
        let message_id = format!("{id}.{}.{attempt}", EventKind::Cancelled);
        let key = &self.provisioner().key;
        let envelope =
            Envelope::seal(subject, message_id, now, key, &next).map_err(AdminError::Seal)?;
        let mut headers = HeaderMap::new();
        for (name, value) in envelope.headers() {
            headers.insert(name, value);
        }
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, sequence.to_string());
        headers.insert(EXPECTED_FILTER, Subject::job_filter(tenant, id));
        match self.store(envelope.subject.to_string(), headers, envelope.body).await {
            Ok(()) => Ok(true),
            // It moved on: the next look sees to it.
            Err(AdminError::Publish(error))
                if error.kind() == PublishErrorKind::WrongLastSequence =>
            {
                Ok(false)
            }
            Err(other) => Err(other),
        }
    }

    /// A job's last event, checked, and its sequence.
    async fn last_event(
        &self,
        tenant: &TenantId,
        id: &JobId,
    ) -> Result<Option<(Job, u64)>, AdminError> {
        let what = "read a job";
        let subject = api::direct_get(StreamId::Jobs.as_str(), &Subject::job_filter(tenant, id));
        let answer = self.ask_pipeline(what, subject).await?;
        if answer.status == Some(StatusCode::NOT_FOUND) {
            return Ok(None);
        }
        let wrong = || AdminError::Answer(what);
        let headers = answer.headers.as_ref().ok_or_else(wrong)?;
        let header = |name: &'static str| headers.get(name).map(HeaderValue::as_str);
        let sequence = headers.get(NATS_SEQUENCE).and_then(|value| value.as_str().parse().ok());
        let subject = headers.get(NATS_SUBJECT).map(HeaderValue::as_str).ok_or_else(wrong)?;
        let envelope = Envelope::received(subject, header, &answer.payload).map_err(|_| wrong())?;
        let trust = self.installation().trust().map_err(AdminError::Installation)?;
        let job = envelope.open::<Job>(&trust).map_err(|_| wrong())?.into_inner();
        Ok(Some((job, sequence.ok_or_else(wrong)?)))
    }
}
