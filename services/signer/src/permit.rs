//! Whether a job may be given out, and whether its outputs may be stored: decided again here.
//!
//! Promises: a job is the one that the edge submitted, with the same principal and the same
//! request, so that neither a validator gone bad nor its login alone brings work to a worker; and
//! policy, as it is now, permits the plan in the job. A job of a suspended tenant waits; one that is
//! refused ends at once, with its reason, and is not tried again.

use crate::{Signer, destinations::DestinationError, leases::Held, mint::Mint, transitions};
use hotcell_policy::recheck::{Case, RecheckError, Refused, submitted_at};
use hotcell_schemas::{
    Job, UnixMs,
    identity::{Action, Decided},
    job::Input,
    records::Refusal,
    reject::{Failure, RejectCode},
    report::Probe,
    tenancy::TenantState,
};
use hotcell_stage::{clock, read::ReadError, service::describe};
use std::sync::Arc;
use tracing::{info, warn};

/// What is asked of policy before a worker gets a URL.
const TO_ASSIGN: [Action; 2] = [Action::ReadSource, Action::SubmitTranscode];

/// What is asked before outputs are stored, and before they count.
const TO_STORE: [Action; 1] = [Action::PublishOutput];

/// What comes of asking whether a job may be given out.
pub(crate) enum Permit {
    /// It may; the decisions are in it.
    Given(Box<Job>),
    /// It ends here.
    Ended(Box<Job>),
    /// Its tenant is suspended.
    Held,
    /// Nobody can tell now.
    Unread,
}

/// Whether `job` is what was submitted, apart from what the validator adds.
fn is_same(job: &Job, submitted: &Job) -> bool {
    let bare = |input: &Input| Input { sniffed: None, ..input.clone() };
    job.id == submitted.id
        && job.tenant == submitted.tenant
        && job.actor == submitted.actor
        && job.authority == submitted.authority
        && job.workflow == submitted.workflow
        && job.request == submitted.request
        && job.pool == submitted.pool
        && job.stamps.first() == submitted.stamps.first()
        && job.inputs.iter().map(bare).eq(submitted.inputs.iter().map(bare))
}

impl Signer {
    /// Whether the job may be given to a worker now.
    pub(crate) async fn permit(&self, job: Job, subject: &str, now: UnixMs) -> Permit {
        match self.checked(&job, subject).await {
            Ok(Checked::Permitted(decided)) => {
                Permit::Given(Box::new(transitions::decided(job, decided)))
            }
            Ok(Checked::Refused(refused)) => {
                let (tenant, id) = (&job.tenant, &job.id);
                let (code, reason) = (refused.failure.code, &refused.failure.message);
                info!(%tenant, job = %id, %code, reason, "job not permitted");
                Permit::Ended(Box::new(transitions::forbidden(job, refused, now)))
            }
            Ok(Checked::Held) => Permit::Held,
            Err(error) => {
                warn!(job = %job.id, error = %describe(&error), "rights of the job not read");
                Permit::Unread
            }
        }
    }

    async fn checked(&self, job: &Job, subject: &str) -> Result<Checked, PermitError> {
        let tenant = self.recheck.tenant(&job.tenant).await?;
        if tenant.as_ref().is_some_and(|tenant| tenant.state == TenantState::Suspended) {
            return Ok(Checked::Held);
        }
        let at = match self.submitted(job).await? {
            Ok(at) => at,
            Err(failure) => {
                // Signed by a service that has gone bad, or by who stole its login.
                self.refused(Refusal::Scope, subject, &failure.message).await;
                return Ok(Checked::Refused(failure.into()));
            }
        };
        if let Err(failure) = self.recheck.principal(job, tenant.as_ref(), at).await? {
            return Ok(Checked::Refused(failure.into()));
        }
        let decided = match self.asked(job, None, at, &TO_ASSIGN).await? {
            Ok(decided) => decided,
            Err(refused) => return Ok(Checked::Refused(refused)),
        };
        // No worker shall encode what no URL could be signed for.
        Ok(match self.outputs_of(job).await? {
            Ok(_) => Checked::Permitted(decided),
            Err(failure) => Checked::Refused(Refused { failure, decided }),
        })
    }

    /// When the edge submitted the very job that is to be given out.
    async fn submitted(&self, job: &Job) -> Result<Result<UnixMs, Failure>, PermitError> {
        let denied = |message: &str| Err(Failure::new(RejectCode::PolicyDenied, message));
        let stored = match self.bus.submission(&job.tenant, &job.id).await {
            Ok(Some(stored)) => stored,
            Ok(None) => return Ok(denied("nobody submitted the job")),
            Err(ReadError::NotBelieved(_)) => {
                return Ok(denied("the job's submission is not signed by the edge"));
            }
            Err(error @ ReadError::Unanswered(_)) => return Err(PermitError::Submission(error)),
        };
        let submitted = stored.message.get();
        if !is_same(job, submitted) {
            return Ok(denied("the job is not the one that was submitted"));
        }
        Ok(submitted_at(submitted, stored.stored_at))
    }

    async fn asked(
        &self,
        job: &Job,
        made: Option<&Probe>,
        submitted_at: UnixMs,
        actions: &[Action],
    ) -> Result<Result<Vec<Decided>, Refused>, RecheckError> {
        let Some(plan) = job.plan.as_ref() else {
            let failure = Failure::new(RejectCode::PolicyDenied, "the job has no plan");
            return Ok(Err(failure.into()));
        };
        let sniffed = job.inputs.first().and_then(|input| input.sniffed.as_ref());
        let case = Case { job, plan, sniffed, made, submitted_at };
        self.recheck.decide(case, actions).await
    }

    /// Where the outputs of a lease's job are put now, if they may be stored.
    ///
    /// # Errors
    /// `None`: nobody can tell now.
    pub(crate) async fn place(&self, held: &Held) -> Option<Result<Arc<Mint>, Refused>> {
        let decided = match self.may_store(held, None).await? {
            Ok(decided) => decided,
            Err(refused) => return Some(Err(refused)),
        };
        let outputs = self.outputs_of(&held.job).await.inspect_err(|error| {
            warn!(job = %held.job.id, error = %describe(error), "no URLs for the job's outputs");
        });
        Some(outputs.ok()?.map_err(|failure| Refused { failure, decided }))
    }

    /// Whether the outputs of a lease's job may be stored; once they are `made`, whether they count.
    /// What the job says of its submission was compared when it was assigned, and its last event is
    /// this signer's own.
    ///
    /// # Errors
    /// `None`: nobody can tell now.
    pub(crate) async fn may_store(
        &self,
        held: &Held,
        made: Option<&Probe>,
    ) -> Option<Result<Vec<Decided>, Refused>> {
        let at = held.job.stamps.first().map_or_else(clock::now, |stamp| stamp.at);
        let asked = self.asked(&held.job, made, at, &TO_STORE).await;
        let told = asked.inspect_err(|error| {
            warn!(job = %held.job.id, error = %describe(error), "rights of the job not read");
        });
        told.ok()
    }
}

/// What comes of the checks.
enum Checked {
    Permitted(Vec<Decided>),
    Refused(Refused),
    Held,
}

/// Why nobody can tell now.
#[derive(Debug, thiserror::Error)]
enum PermitError {
    /// The job's first event.
    #[error("the job's submission cannot be read")]
    Submission(#[source] ReadError),
    /// Records or policies.
    #[error(transparent)]
    Recheck(#[from] RecheckError),
    /// Where its outputs go.
    #[error(transparent)]
    Destination(#[from] DestinationError),
}
