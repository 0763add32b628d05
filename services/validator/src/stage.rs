//! `job.submitted` in, `job.validated` or `job.rejected` out.
//!
//! Promises: an object is read once, by a URL of the signer for this job and no other, in constant
//! memory; its size, ETag and SHA-256 must be the pinned ones before its verdict counts. Who asked
//! is judged again before anything is opened, and the compiled plan before anything is published:
//! nothing here rests on intake's word but what only intake saw. Running twice is harmless: both
//! runs come to the same verdict, and the second publish meets the compare-and-set.

use crate::{
    scan::Scanner,
    sniff::sniff,
    verdict::{changed, is_pinned, nonsense, plan, refuse, settle, within},
};
use futures::StreamExt as _;
use hotcell_policy::recheck::{Case, Recheck, RecheckError, Refused, submitted_at};
use hotcell_schemas::{
    Digest, Job, Plan, Subject, UnixMs,
    identity::{Action, Decided},
    job::Input,
    limits::SERVICE_URL_TTL_SECS,
    plan::Sniffed,
    reject::{Failure, RejectCode},
    subject::SignVerb,
    work::{SignReply, SignRequest, SignedUrl},
};
use hotcell_stage::{
    AskError, Bus, Delivered, Halt, Outgoing, Stage,
    blob::{BlobError, Blobs},
    clock,
    service::describe,
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
    pub(crate) recheck: Recheck,
}

/// What is asked of policy about a compiled job.
const ACTIONS: [Action; 2] = [Action::ReadSource, Action::SubmitTranscode];

/// The same of a job whose outputs leave the store: none is encoded that the signer would not let
/// go there.
const EXTERNAL: [Action; 3] = [Action::ReadSource, Action::SubmitTranscode, Action::PublishOutput];

impl Stage for Validator {
    type Input = Job;

    async fn handle(&self, input: Delivered<Job>) -> Result<Vec<Outgoing>, Halt> {
        let (subject, stored_at) = (input.message.subject().clone(), input.stored_at);
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
        let job = match self.judged(&job, stored_at).await? {
            Ok((sniffed, plan, decided)) => settle(job, sniffed, plan, decided, clock::now()),
            Err(refused) => refuse(job, refused, clock::now()),
        };
        let code = job.failure.as_ref().map(|failure| failure.code.as_str());
        let policies = job.decisions.last().map(|decided| decided.policies.join(" "));
        let (tenant, id, outcome) = (&job.tenant, &job.id, job.state);
        info!(%tenant, job = %id, %outcome, code, policies, "input judged");
        Ok(vec![Outgoing::job(job, after)])
    }
}

/// What is known of a job that may go on.
type Judged = (Sniffed, Plan, Vec<Decided>);

impl Validator {
    /// The verdict on a job: who asked, then its bytes, then what would be done with them.
    async fn judged(&self, job: &Job, stored_at: UnixMs) -> Result<Result<Judged, Refused>, Halt> {
        if let Some(refused) = self.quarantined(job).await? {
            return Ok(Err(refused.into()));
        }
        let submitted_at = match submitted_at(job, stored_at) {
            Ok(at) => at,
            Err(failure) => return Ok(Err(failure.into())),
        };
        let tenant = self.recheck.tenant(&job.tenant).await;
        let tenant = tenant.map_err(|error| unread(job, &error))?;
        let held = self.recheck.principal(job, tenant.as_ref(), submitted_at).await;
        if let Err(failure) = held.map_err(|error| unread(job, &error))? {
            return Ok(Err(failure.into()));
        }
        let destination = self.recheck.destination(job).await;
        let destination = match destination.map_err(|error| unread(job, &error))? {
            Ok(destination) => destination,
            Err(failure) => return Ok(Err(failure.into())),
        };
        let actions = if destination.is_some() { &EXTERNAL[..] } else { &ACTIONS[..] };
        let url = self.url(job).await?;
        let verdict = judge(&self.blobs, job, &url).await.map_err(|error| {
            warn!(job = %job.id, %error, "input not read");
            Halt::retry_ms(RETRY_MS, "the input cannot be read now")
        })?;
        let (sniffed, plan) = match verdict {
            Ok((sniffed, plan)) => (sniffed, within(plan, self.wall_secs_max)),
            Err(failure) => return Ok(Err(failure.into())),
        };
        let case = Case { job, plan: &plan, sniffed: Some(&sniffed), made: None, submitted_at };
        let decided = self.recheck.decide(case, actions).await;
        let decided = decided.map_err(|error| unread(job, &error))?;
        Ok(decided.map(|decided| (sniffed, plan, decided)))
    }

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

    /// A URL for the job's one input.
    async fn url(&self, job: &Job) -> Result<SignedUrl, Halt> {
        let input = job.inputs.first().ok_or(Halt::Reject { reason: "the job has no input" })?;
        let (tenant, key) = (job.tenant.clone(), input.key.clone());
        let request = SignRequest::Read { tenant, key, job: Some(job.id.clone()) };
        let subject = Subject::sign(SignVerb::Input);
        let asked = self.bus.ask(subject, &request, Duration::from_secs(SIGN_SECS)).await;
        match asked.map(hotcell_schemas::Verified::into_inner) {
            Ok(SignReply::Signed { signed }) => Ok(signed),
            Ok(
                refusal @ (SignReply::Refused { .. }
                | SignReply::OverQuota { .. }
                | SignReply::Later { .. }),
            ) => {
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

/// Nothing is permitted by a record that cannot be read.
fn unread(job: &Job, error: &RecheckError) -> Halt {
    warn!(job = %job.id, error = %describe(error), "rights of the job not read");
    Halt::retry_ms(RETRY_MS, "what permits the job cannot be read")
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
