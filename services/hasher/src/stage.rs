//! One encoded job: every output read and compared, then `completed` or `failed`.
//!
//! May run twice for one message: both runs read the same create-only objects and publish the same
//! message id after the same sequence, so the second meets the compare-and-set.

use crate::{
    elsewhere::{self, Elsewhere, Lane},
    read::{Found, read},
};
use hotcell_schemas::{
    EventKind, Job, RejectCode, Subject, UnixMs,
    job::Output,
    reject::Failure,
    subject::SignVerb,
    verify,
    work::{SignReply, SignRequest, SignedUrl},
};
use hotcell_stage::{
    AskError, Bus, Delivered, Halt, Outgoing, Stage,
    blob::{BlobError, Blobs},
    clock,
    retry::{Policy, retry},
    service::describe,
};
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tracing::{debug, info, warn};

/// The signer answers from memory; then it is asked again.
const ASK_SECS: u64 = 5;

/// Delay before a job is looked at again when the store or the signer is away, in milliseconds.
const RETRY_MS: u64 = 2000;

/// Delay while as many tenants' buckets are read as may be, in milliseconds.
const LANE_MS: u64 = 500;

/// A signer that refuses so long after the encode, in milliseconds, will not give a URL: what it reads
/// is not behind any more, and the job has lost its outputs.
const REFUSED_MS: u64 = 20_000;

/// What the signer says.
enum Answer {
    Url(SignedUrl),
    /// It refuses.
    No,
    /// It cannot tell now.
    Later,
}

/// The stage.
#[derive(Debug)]
pub(crate) struct Hasher {
    bus: Bus,
    blobs: Blobs,
    elsewhere: Elsewhere,
}

impl Hasher {
    /// A stage that asks through `bus` and has so many hands.
    pub(crate) fn new(bus: Bus, hands: usize) -> Self {
        Self { bus, blobs: Blobs::new(), elsewhere: Elsewhere::new(hands) }
    }

    /// Whether the event still needs work: after a crash between publish and ack, or a cancellation,
    /// it does not, and the signer would rightly refuse the URL.
    async fn is_last(&self, job: &Job, seq: u64) -> Result<bool, Halt> {
        self.bus.is_last(job, seq).await.map_err(|error| {
            warn!(job = %job.id, %error, "state of the job not read");
            Halt::retry_ms(RETRY_MS, "the state of the job cannot be read")
        })
    }

    /// A URL for one output.
    async fn url(&self, job: &Job, output: &Output) -> Result<Answer, Halt> {
        let question = SignRequest::Read {
            tenant: job.tenant.clone(),
            key: output.key.clone(),
            job: Some(job.id.clone()),
        };
        let (question, wait) = (&question, Duration::from_secs(ASK_SECS));
        let once = || async move {
            let subject = Subject::sign(SignVerb::Output);
            self.bus.ask::<_, SignReply>(subject, question, wait).await
        };
        match retry(Policy::REQUEST, AskError::is_transient, once).await {
            Ok(reply) => match reply.into_inner() {
                SignReply::Signed { signed } => Ok(Answer::Url(signed)),
                refusal @ (SignReply::Refused { .. } | SignReply::OverQuota { .. }) => {
                    warn!(job = %job.id, ?refusal, "no URL for an output");
                    Ok(Answer::No)
                }
                SignReply::Later { reason } => {
                    warn!(job = %job.id, reason, "no URL for an output now");
                    Ok(Answer::Later)
                }
            },
            Err(error) => {
                warn!(%error, "the signer cannot be asked");
                Err(Halt::retry_ms(RETRY_MS, "the signer does not answer"))
            }
        }
    }

    /// What is wrong with one output; `None` when it is the reported one.
    async fn look(&self, job: &Job, output: &Output) -> Result<Option<Failure>, Halt> {
        let lane = match self.elsewhere.enter(job) {
            Lane::Store => None,
            Lane::Open(permit) => Some(permit),
            Lane::Full => {
                return Err(Halt::retry_ms(LANE_MS, "as many tenants' buckets are read as may be"));
            }
            Lane::Resting => return away(job, output),
        };
        let url = match self.url(job, output).await? {
            Answer::Url(url) => url,
            Answer::No => return refused(job, output),
            Answer::Later if lane.is_some() => return away(job, output),
            Answer::Later => return Err(Halt::retry_ms(RETRY_MS, "the signer cannot tell now")),
        };
        let began = Instant::now();
        let reading = read(&self.blobs, &url, output.size, output.sha256);
        let found = match lane {
            None => reading.await,
            Some(_) => match timeout(elsewhere::time(output.size), reading).await {
                Ok(found) => found,
                Err(_) => Err(BlobError::Unreachable(None)),
            },
        };
        match found {
            Ok(found) => Ok(failure(output, found)),
            Err(error) => {
                warn!(job = %job.id, error = describe(&error), "an output cannot be read");
                if lane.is_none() {
                    return Err(Halt::retry_ms(RETRY_MS, "the store does not answer"));
                }
                self.elsewhere.rest(job, began.elapsed());
                away(job, output)
            }
        }
    }
}

impl Stage for Hasher {
    type Input = Job;

    async fn handle(&self, input: Delivered<Job>) -> Result<Vec<Outgoing>, Halt> {
        let job = input.message.get();
        if job.state != EventKind::Encoded {
            return Err(Halt::Reject { reason: "the job is not in state encoded" });
        }
        if !self.is_last(job, input.seq).await? {
            return Ok(Vec::new());
        }
        let mut wrong = no_outputs(job).or_else(|| not_as_planned(job));
        for output in &job.outputs {
            if wrong.is_some() {
                break;
            }
            debug!(job = %job.id, name = %output.name, "reading an output");
            wrong = self.look(job, output).await?;
        }
        let next = verdict(job.clone(), wrong, clock::now());
        info!(job = %next.id, outcome = %next.state, "outputs compared");
        Ok(vec![Outgoing::job(next, input.seq)])
    }
}

/// What comes of a refusal of the signer's: another look, or in the end the verdict.
fn refused(job: &Job, output: &Output) -> Result<Option<Failure>, Halt> {
    if !elsewhere::is_older(job, REFUSED_MS, clock::now()) {
        return Err(Halt::retry_ms(RETRY_MS, "the signer refuses to let an output be read"));
    }
    let text = format!("{} may not be read again", output.name);
    Ok(Some(Failure::new(RejectCode::OutputMismatch, text)))
}

/// What comes of a tenant's bucket that gives nothing: another look, or in the end the verdict.
fn away(job: &Job, output: &Output) -> Result<Option<Failure>, Halt> {
    if !elsewhere::is_over(job, clock::now()) {
        return Err(Halt::retry_ms(RETRY_MS, "a tenant's bucket does not answer"));
    }
    let text = format!("{} cannot be read at its destination", output.name);
    Ok(Some(Failure::new(RejectCode::OutputMissing, text)))
}

fn no_outputs(job: &Job) -> Option<Failure> {
    let failure = || Failure::new(RejectCode::OutputMissing, "the job was encoded into nothing");
    job.outputs.is_empty().then(failure)
}

/// The worker's own report, held to the rule that the worker should have held it to. The bytes are
/// compared apart from this: a worker that lies about what is in them is not found out here.
fn not_as_planned(job: &Job) -> Option<Failure> {
    let difference = verify::reported(job).err()?;
    let name = job.outputs.last().map_or("", |output| output.name.as_str());
    Some(Failure::new(RejectCode::OutputInvalid, format!("{name} {difference}")))
}

fn failure(output: &Output, found: Found) -> Option<Failure> {
    let name = &output.name;
    match found {
        Found::Same => None,
        Found::Different(difference) => {
            Some(Failure::new(RejectCode::OutputMismatch, format!("{name} {difference}")))
        }
        Found::Missing => {
            Some(Failure::new(RejectCode::OutputMissing, format!("{name} is not in the store")))
        }
    }
}

/// The job's next state.
fn verdict(mut job: Job, wrong: Option<Failure>, now: UnixMs) -> Job {
    let next = if wrong.is_some() { EventKind::Failed } else { EventKind::Completed };
    job.failure = wrong;
    job.moved(next, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::Difference;
    use hotcell_nats_config::testing;
    use hotcell_schemas::{BlobKey, Digest, JobId};

    fn job() -> Job {
        let bare = testing::job("acme", JobId::new(1, [2; 10]));
        let name = "a.mp4".parse().unwrap();
        let output = Output {
            key: BlobKey::output(&bare.tenant, &bare.id, 1, &name),
            name,
            size: 4,
            content_type: "video/mp4".to_owned(),
            sha256: Digest::of(b"abcd"),
        };
        Job { state: EventKind::Encoded, outputs: vec![output], ..bare }
    }

    #[test]
    fn brk_60_a_job_completes_only_when_nothing_is_wrong() {
        let check = |found, expect: Option<(RejectCode, &str)>| {
            let before = job();
            let after = verdict(before.clone(), failure(&before.outputs[0], found), UnixMs(7));
            assert!(before.state.may_become(after.state));
            let said = after.failure.as_ref().map(|f| (f.code, f.message.as_str()));
            assert_eq!(said, expect, "{found:?}");
            let state = if expect.is_none() { EventKind::Completed } else { EventKind::Failed };
            assert_eq!(after.state, state);
            // It sets nothing else.
            let stamps = after.stamps.clone();
            assert_eq!(stamps.last().map(|s| (s.event, s.at)), Some((state, UnixMs(7))));
            let (failure, stamps) = (after.failure.clone(), stamps);
            assert_eq!(after, Job { state, failure, stamps, ..before });
        };
        let mismatch = RejectCode::OutputMismatch;
        check(Found::Same, None);
        let longer = Found::Different(Difference::Longer(4));
        check(longer, Some((mismatch, "a.mp4 has more than the reported 4 bytes")));
        let content = Found::Different(Difference::Content);
        check(content, Some((mismatch, "a.mp4 has another SHA-256 than reported")));
        check(Found::Missing, Some((RejectCode::OutputMissing, "a.mp4 is not in the store")));
    }

    #[test]
    fn a_job_without_outputs_fails() {
        let mut job = job();
        assert!(no_outputs(&job).is_none());
        job.outputs.clear();
        let wrong = no_outputs(&job);
        assert_eq!(verdict(job, wrong, UnixMs(1)).state, EventKind::Failed);
    }
}
