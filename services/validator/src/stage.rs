//! `job.submitted` in, `job.validated` or `job.rejected` out.
//!
//! Promises: an object is read once, by a URL of the signer for this job and no other, in constant
//! memory; its size, ETag and SHA-256 must be the pinned ones before its verdict counts. Running
//! twice is harmless: both runs come to the same verdict, and the second publish meets the
//! compare-and-set.

use crate::{
    check::RAW_FORBIDDEN,
    scan::Scanner,
    sniff::sniff,
    verdict::{changed, is_pinned, nonsense, plan, settle, within},
};
use futures::StreamExt as _;
use hotcell_schemas::{
    Digest, Job, Plan, Subject,
    job::Input,
    limits::SERVICE_URL_TTL_SECS,
    plan::Sniffed,
    records::TenantRecord,
    reject::{Failure, RejectCode},
    subject::SignVerb,
    work::{SignReply, SignRequest, SignedUrl},
};
use hotcell_stage::{
    AskError, Bus, Delivered, Halt, Outgoing, Stage,
    blob::{BlobError, Blobs},
    clock,
};
use sha2::{Digest as _, Sha256};
use std::time::Duration;
use tracing::{info, warn};

/// Wait for the signer's answer, in seconds; it makes a URL in microseconds and a record in
/// milliseconds.
const SIGN_SECS: u64 = 5;

/// Delay before a job is tried again while the signer or the store is away, in milliseconds.
const RETRY_MS: u64 = 1000;

/// Why an input could not be judged; a verdict is none of these.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store does not serve it now.
    #[error("the input cannot be read now")]
    Store(#[source] BlobError),
    /// It takes longer than its URL lives.
    #[error("the input was not read while its URL lived")]
    TimedOut,
}

/// The validator's stage.
#[derive(Debug)]
pub(crate) struct Validator {
    pub(crate) bus: Bus,
    pub(crate) blobs: Blobs,
    /// See [`crate::Config`].
    pub(crate) wall_secs_max: u32,
}

impl Stage for Validator {
    type Input = Job;

    async fn handle(&self, input: Delivered<Job>) -> Result<Vec<Outgoing>, Halt> {
        let subject = input.message.subject().clone();
        let (job, after) = (input.message.into_inner(), input.seq);
        if subject.tenant().as_ref() != Some(&job.tenant)
            || subject.job_id().as_ref() != Some(&job.id)
        {
            return Err(Halt::Reject { reason: "the job is not the one that the subject names" });
        }
        if let Some(reason) = nonsense(&job) {
            return Err(Halt::Reject { reason });
        }
        if !self.is_last(&job, after).await? {
            return Ok(Vec::new());
        }
        if let Some(refused) = self.quarantined(&job).await? {
            let job = settle(job, Err(refused), clock::now());
            info!(tenant = %job.tenant, job = %job.id, outcome = %job.state, "input in quarantine");
            return Ok(vec![Outgoing::job(job, after)]);
        }
        if job.request.has_raw_arguments() && !self.permits(&job).await? {
            let refused = Failure::new(RejectCode::RequestForbidden, RAW_FORBIDDEN);
            let job = settle(job, Err(refused), clock::now());
            info!(tenant = %job.tenant, job = %job.id, outcome = %job.state, "arguments refused");
            return Ok(vec![Outgoing::job(job, after)]);
        }
        let url = self.url(&job).await?;
        let verdict = judge(&self.blobs, &job, &url).await.map_err(|error| {
            warn!(job = %job.id, %error, "input not read");
            Halt::retry_ms(RETRY_MS, "the input cannot be read now")
        })?;
        let verdict = verdict.map(|(sniffed, plan)| (sniffed, within(plan, self.wall_secs_max)));
        let code = verdict.as_ref().err().map(|failure| failure.code.as_str());
        let job = settle(job, verdict, clock::now());
        info!(tenant = %job.tenant, job = %job.id, outcome = %job.state, code, "input judged");
        Ok(vec![Outgoing::job(job, after)])
    }
}

impl Validator {
    /// Whether the event at hand is still the job's last. After a repeat or a cancellation it is
    /// not, and the signer would rightly refuse the URL.
    async fn is_last(&self, job: &Job, seq: u64) -> Result<bool, Halt> {
        self.bus.is_last(job, seq).await.map_err(|error| {
            warn!(job = %job.id, %error, "state of the job not read");
            Halt::retry_ms(RETRY_MS, "the state of the job cannot be read")
        })
    }

    /// Why the job's input is not to be opened by anybody, if it killed its cells before.
    async fn quarantined(&self, job: &Job) -> Result<Option<Failure>, Halt> {
        let found = self.bus.quarantine(&job.tenant, &job.inputs).await.map_err(|error| {
            warn!(job = %job.id, %error, "quarantine not read");
            Halt::retry_ms(RETRY_MS, "the quarantine cannot be read")
        })?;
        Ok(found.map(|record| record.refusal()))
    }

    /// Whether the tenant's record permits FFmpeg's own arguments, now. Intake asked before; a right
    /// that was taken away since, and an intake that was taken over, meet this.
    async fn permits(&self, job: &Job) -> Result<bool, Halt> {
        let bucket = self.bus.bucket("tenants");
        let found = bucket.get::<TenantRecord>(job.tenant.as_str()).await.map_err(|error| {
            warn!(job = %job.id, %error, "record of the tenant not read");
            Halt::retry_ms(RETRY_MS, "the record of the tenant cannot be read")
        })?;
        Ok(found.is_some_and(|entry| entry.value.raw_arguments))
    }

    /// A URL for the job's one input.
    async fn url(&self, job: &Job) -> Result<SignedUrl, Halt> {
        let input = job.inputs.first().ok_or(Halt::Reject { reason: "the job has no input" })?;
        let (tenant, key) = (job.tenant.clone(), input.key.clone());
        let request = SignRequest::Read { tenant, key, job: Some(job.id.clone()) };
        let subject = Subject::sign(SignVerb::Input);
        let asked = self.bus.ask(subject, &request, Duration::from_secs(SIGN_SECS)).await;
        match asked.map(hotcell_schemas::Verified::into_inner) {
            Ok(SignReply::Signed { signed }) => Ok(signed),
            Ok(refusal @ (SignReply::Refused { .. } | SignReply::OverQuota { .. })) => {
                warn!(job = %job.id, ?refusal, "signer refuses the input");
                Err(Halt::retry_ms(RETRY_MS, "the signer refuses the input"))
            }
            Err(error @ AskError::NotBelieved(_)) => {
                warn!(job = %job.id, %error, "answer of the signer not believed");
                Err(Halt::retry_ms(RETRY_MS, "the signer's answer does not verify"))
            }
            Err(_) => Err(Halt::retry_ms(RETRY_MS, "the signer does not answer")),
        }
    }
}

/// Reads the job's input and comes to a verdict.
///
/// # Errors
/// [`ReadError`]: there is no verdict yet, and another try may bring one.
pub async fn judge(
    blobs: &Blobs,
    job: &Job,
    url: &SignedUrl,
) -> Result<Result<(Sniffed, Plan), Failure>, ReadError> {
    let Some(input) = job.inputs.first() else {
        return Ok(Err(Failure::new(RejectCode::InputMissing, "the job has no input")));
    };
    let reading = read(blobs, input, url);
    let life = Duration::from_secs(u64::from(SERVICE_URL_TTL_SECS));
    let scanner = match tokio::time::timeout(life, reading).await {
        Ok(Ok(Ok(scanner))) => scanner,
        Ok(Ok(Err(failure))) => return Ok(Err(failure)),
        Ok(Err(error)) => return Err(ReadError::Store(error)),
        Err(_) => return Err(ReadError::TimedOut),
    };
    Ok(plan(job, sniff(&scanner.finish(), &input.content_type)))
}

/// Streams the object past the hash and the scanner.
async fn read(
    blobs: &Blobs,
    input: &Input,
    url: &SignedUrl,
) -> Result<Result<Scanner, Failure>, BlobError> {
    let fetched = match blobs.get(url).await {
        Ok(fetched) => fetched,
        Err(BlobError::Missing) => {
            let message = "the input is not in the store: upload it again";
            return Ok(Err(Failure::new(RejectCode::InputMissing, message)));
        }
        Err(error) => return Err(error),
    };
    if !is_pinned(input, fetched.size, &fetched.etag) {
        return Ok(Err(changed()));
    }
    let (mut scanner, mut hash) = (Scanner::new(), Sha256::new());
    let mut stream = std::pin::pin!(fetched.stream());
    while let Some(piece) = stream.next().await {
        let piece = piece?;
        scanner.feed(&piece);
        hash.update(&piece);
        if scanner.length() > input.size {
            return Ok(Err(changed()));
        }
    }
    let same = scanner.length() == input.size
        && Digest::from_bytes(hash.finalize().into()) == input.sha256;
    Ok(if same { Ok(scanner) } else { Err(changed()) })
}
