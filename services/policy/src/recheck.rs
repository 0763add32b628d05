//! Deciding again behind the edge: what the validator and the signer hold a job to before they act.
//!
//! Promises: the principal's claims are compared with the records as they are (a key that claims
//! more than its record holds is refused), times and risks are those of the submission as the broker
//! stored it, and policy is asked about the plan that will run. Refuses: a tenant that is not served, and
//! to take a record that cannot be read for one that permits. What a person or a broker login was
//! shown to be is the edge's word alone: no record holds it, so policy decides on what it said.

use crate::{
    block::{Blocks, Lineage, lineage},
    destination::{self, Destinations},
    question::{Decision, Facts, Question, Verdict, Who},
    store::{PolicyError, PolicyStore},
};
use hotcell_schemas::{
    Job, Plan, Role, TenantId, UnixMs,
    approval::{self, ApprovalRecord},
    destination::DestinationRecord,
    identity::{Action, Authority, Decided, Outcome},
    job::Actor,
    limits::REQUEST_AGE_MS_MAX,
    plan::Sniffed,
    records::{KeyRecord, TenantRecord},
    reject::{Failure, RAW_FORBIDDEN, RejectCode},
    report::Probe,
    tenancy::TenantState,
};
use hotcell_stage::{
    Bus, clock,
    kv::{Bucket, KvError},
};

/// Why there is no answer now; another try may bring one. Nothing is permitted meanwhile.
#[derive(Debug, thiserror::Error)]
pub enum RecheckError {
    /// A record of the tenant, the key, the block, the approval or the destination.
    #[error("a record that permits a job cannot be read")]
    Record(#[source] KvError),
    /// The policies.
    #[error("the policies that permit a job cannot be read")]
    Policies(#[source] PolicyError),
}

/// Why a job may not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Code and sentence: which policies, and what would be allowed.
    pub failure: Failure,
    /// What was decided, the refusal last; empty where no policy was asked.
    pub decided: Vec<Decided>,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self { failure, decided: Vec::new() }
    }
}

/// A job with what its node knows of it.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The job.
    pub job: &'a Job,
    /// What will run.
    pub plan: &'a Plan,
    /// What the input was found to be, by the validator's own look.
    pub sniffed: Option<&'a Sniffed>,
    /// What was made of it, once it is.
    pub made: Option<&'a Probe>,
    /// When it was submitted: see [`submitted_at`].
    pub submitted_at: UnixMs,
}

/// Asks records and policies for one node.
#[derive(Debug)]
pub struct Recheck {
    node: Role,
    policies: PolicyStore,
    tenants: Bucket,
    keys: Bucket,
    approvals: Bucket,
    destinations: Destinations,
    blocks: Blocks,
}

/// When a job was submitted, by its own first stamp, which must agree with the broker's time of the
/// event: whoever takes over the edge cannot make a key of yesterday valid by dating back.
///
/// # Errors
/// The refusal.
pub fn submitted_at(job: &Job, stored_at: UnixMs) -> Result<UnixMs, Failure> {
    let stamp = job.stamps.first().map(|stamp| stamp.at);
    let near = |at: &UnixMs| at.0.abs_diff(stored_at.0) <= REQUEST_AGE_MS_MAX;
    stamp.filter(near).ok_or_else(|| {
        let message = "the job's time of submission is not the one at which it was stored";
        Failure::new(RejectCode::PolicyDenied, message)
    })
}

impl Recheck {
    /// Reads through `bus`; decisions are made in the name of its role.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        Self {
            node: bus.role(),
            policies: PolicyStore::new(bus),
            tenants: bus.bucket("tenants"),
            keys: bus.bucket("keys"),
            approvals: bus.bucket("approvals"),
            destinations: Destinations::new(bus),
            blocks: Blocks::new(bus),
        }
    }

    /// The tenant's record; `None` where there is none of this name.
    ///
    /// # Errors
    /// [`RecheckError::Record`].
    pub async fn tenant(&self, tenant: &TenantId) -> Result<Option<TenantRecord>, RecheckError> {
        let found = self.tenants.get::<TenantRecord>(tenant.as_str()).await;
        Ok(found.map_err(RecheckError::Record)?.map(|entry| entry.value))
    }

    /// What needs no plan: the tenant's record and what the principal claims. Nothing of the job is
    /// opened before this.
    ///
    /// # Errors
    /// [`RecheckError`]; a refusal is the inner result.
    pub async fn principal(
        &self,
        job: &Job,
        tenant: Option<&TenantRecord>,
        submitted_at: UnixMs,
    ) -> Result<Result<(), Failure>, RecheckError> {
        let Some(tenant) = tenant.filter(|tenant| tenant.id == job.tenant) else {
            let message = "there is no tenant of this name";
            return Ok(Err(Failure::new(RejectCode::PolicyDenied, message)));
        };
        if let Err(failure) = granted(tenant, job) {
            return Ok(Err(failure));
        }
        if let Err(failure) = self.blocked(job).await? {
            return Ok(Err(failure));
        }
        let Actor::ApiKey { id } = &job.actor else { return Ok(Ok(())) };
        let key = self.keys.get::<KeyRecord>(id.as_str()).await.map_err(RecheckError::Record)?;
        let key = key.map(|entry| entry.value);
        let held = holds(key.as_ref(), &job.tenant, &job.authority, submitted_at);
        Ok(held.map_err(|reason| Failure::new(RejectCode::PolicyDenied, reason)))
    }

    /// Whether whoever asked may not have anything done now, whenever it asked: a job that waited
    /// when its principal was blocked ends. To hold it, it would keep its place among those that its
    /// tenant may have given out, and so hold up the others' jobs.
    async fn blocked(&self, job: &Job) -> Result<Result<(), Failure>, RecheckError> {
        let listed = self.blocks.of(&job.tenant).await.map_err(RecheckError::Record)?;
        let now = clock::now();
        if listed.is_empty(now) {
            return Ok(Ok(()));
        }
        let all = match lineage(&job.actor, &self.keys).await.map_err(RecheckError::Record)? {
            Lineage::All(all) => all,
            Lineage::TooLong => {
                let message = "the makers of the job's key cannot be followed that far";
                return Ok(Err(Failure::new(RejectCode::PolicyDenied, message)));
            }
        };
        Ok(listed.against(&all, now).map_or(Ok(()), |block| {
            let message = format!("whoever asked is blocked: {}", block.id);
            Err(Failure::new(RejectCode::IdentityBlocked, message))
        }))
    }

    /// Where the job's outputs go; `None` is hotcell's own store. A destination is the tenant's own,
    /// was there when the job was submitted, and is in a form that can be used.
    ///
    /// # Errors
    /// [`RecheckError::Record`]; a refusal, `destination_unknown`, is the inner result.
    pub async fn destination(
        &self,
        job: &Job,
    ) -> Result<Result<Option<DestinationRecord>, Failure>, RecheckError> {
        self.destinations.of_job(job).await.map_err(RecheckError::Record)
    }

    /// Asks policy for each of `actions`; what it said of all of them when it permits. Where more was
    /// made than the input's header promised, the job itself is asked about again.
    ///
    /// # Errors
    /// [`RecheckError`]; a refusal is the inner result.
    pub async fn decide(
        &self,
        case: Case<'_>,
        actions: &[Action],
    ) -> Result<Result<Vec<Decided>, Refused>, RecheckError> {
        let destination = match self.destination(case.job).await? {
            Ok(destination) => destination,
            Err(failure) => return Ok(Err(failure.into())),
        };
        let approved = match self.approved(case.job, destination.as_ref()).await? {
            Ok(approved) => approved,
            Err(failure) => return Ok(Err(failure.into())),
        };
        let mut facts = facts(case, destination.as_ref(), approved);
        facts.risk = self.risk(case).await?;
        let outgrown = case.made.is_some_and(|made| facts.outgrown(made));
        let again = outgrown.then_some(&Action::SubmitTranscode);
        let (job, mut decided) = (case.job, Vec::with_capacity(actions.len() + 1));
        for action in again.into_iter().chain(actions) {
            let question = Question {
                who: Who { tenant: &job.tenant, actor: &job.actor, authority: &job.authority },
                action: *action,
                owner: &job.tenant,
                facts: &facts,
                now: case.submitted_at,
            };
            let decision = match self.policies.decide(&question).await {
                Ok(decision) => decision,
                // A set that does not compile here is the operator's to repair, or a newer program's
                // to read: it is no fault of the job, which waits.
                Err(
                    error @ (PolicyError::Records(_) | PolicyError::Set(_) | PolicyError::Platform),
                ) => return Err(RecheckError::Policies(error)),
                // Nothing that is tried again gets better, and what cannot be judged is refused.
                Err(PolicyError::Evaluation(denial)) => *denial,
                Err(error @ (PolicyError::Question | PolicyError::NoOutputs)) => {
                    let message = format!("{action} cannot be decided: {error}");
                    let failure = Failure::new(RejectCode::PolicyDenied, message);
                    return Ok(Err(Refused { failure, decided }));
                }
            };
            let outcome = match &decision.verdict {
                Verdict::Allow => Outcome::Allowed,
                Verdict::StepUp(_) => Outcome::StepUp,
                Verdict::Deny => Outcome::Denied,
            };
            let message = sentence(*action, &decision);
            decided.push(Decided {
                node: self.node,
                action: *action,
                outcome,
                policies: decision.policies,
                digest: decision.digest,
                at: clock::now(),
            });
            if outcome != Outcome::Allowed {
                let failure = Failure::new(RejectCode::PolicyDenied, message);
                return Ok(Err(Refused { failure, decided }));
            }
        }
        Ok(Ok(decided))
    }

    /// The risk of whoever asked, as of its submission: a job that was let in is not ended by a risk
    /// that was raised since.
    async fn risk(&self, case: Case<'_>) -> Result<u8, RecheckError> {
        let who = (&case.job.tenant, &case.job.actor);
        let risk = self.blocks.risk(who, &self.keys, Some(case.submitted_at)).await;
        risk.map_err(RecheckError::Record)
    }

    /// Whether other people approved exactly this request; a claim that does not hold is a refusal,
    /// not a "no".
    async fn approved(
        &self,
        job: &Job,
        destination: Option<&DestinationRecord>,
    ) -> Result<Result<bool, Failure>, RecheckError> {
        let Some(id) = &job.authority.approval else { return Ok(Ok(false)) };
        let found = self.approvals.get::<ApprovalRecord>(&format!("{}.{id}", job.tenant)).await;
        let found = found.map_err(RecheckError::Record)?.map(|entry| entry.value);
        let checked = approval::check_job(found.as_ref(), job).and_then(|approved| {
            found.as_ref().map_or(Ok(()), |record| record.covers(destination)).map(|()| approved)
        });
        Ok(checked.map_err(|error| {
            let message = format!("the approval that the job names does not permit it: {error}");
            Failure::new(RejectCode::PolicyDenied, message)
        }))
    }
}

fn facts(case: Case<'_>, destination: Option<&DestinationRecord>, approved: bool) -> Facts {
    let bytes = case.job.inputs.iter().map(|input| input.size).fold(0, u64::saturating_add);
    Facts {
        protected_source: case.sniffed.is_some_and(|sniffed| sniffed.protected),
        source_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
        priority: case.job.request.priority,
        approved,
        ..Facts::of_plan(case.plan, case.sniffed, &destination::location(destination))
    }
}

/// One sentence: what is refused, by which policies, what would be allowed.
fn sentence(action: Action, decision: &Decision) -> String {
    let by = if decision.policies.is_empty() {
        "no policy permits it".to_owned()
    } else {
        format!("by policy {}", decision.policies.join(", "))
    };
    let allowed = decision.advice.iter().map(|advice| format!("; allowed: {advice}"));
    let step = if matches!(decision.verdict, Verdict::StepUp(_)) {
        " without a second factor or an approval"
    } else {
        ""
    };
    format!("{action} is refused{step}: {by}{}", allowed.collect::<String>())
}

/// What the tenant's record grants, apart from policy.
fn granted(tenant: &TenantRecord, job: &Job) -> Result<(), Failure> {
    let denied = |message: &str| Err(Failure::new(RejectCode::PolicyDenied, message));
    match tenant.state {
        TenantState::Active => {}
        TenantState::Suspended => {
            return denied("the tenant is suspended: submit again when it is served");
        }
        TenantState::Removed => return denied("the tenant is removed"),
    }
    // The edge chose the pool, and a validator the plan: neither is taken at its word.
    if !tenant.pools.contains(&job.pool) {
        return denied("the job's pool of workers is not open to its tenant");
    }
    let mut planned = job.plan.iter().flat_map(|plan| &plan.outputs);
    let raw = job.request.has_raw_arguments() || planned.any(|output| output.raw.is_some());
    if raw && !tenant.raw_arguments {
        return Err(Failure::new(RejectCode::RequestForbidden, RAW_FORBIDDEN));
    }
    let most = tenant.quotas.input_bytes_max;
    if job.inputs.iter().any(|input| input.size > most) {
        return denied(&format!("the input is larger than the tenant's plan allows: {most} bytes"));
    }
    Ok(())
}

/// Whether a key's record holds what the job claims of it, as of its submission.
fn holds(
    record: Option<&KeyRecord>,
    tenant: &TenantId,
    claimed: &Authority,
    at: UnixMs,
) -> Result<(), &'static str> {
    let Some(key) = record.filter(|key| key.tenant == *tenant) else {
        return Err("the job's key is not one of its tenant");
    };
    if key.revoked_at.is_some_and(|revoked| revoked <= at) {
        return Err("the job's key was revoked before it was submitted");
    }
    if key.expires_at.is_some_and(|ends| ends <= at) {
        return Err("the job's key had ended before it was submitted");
    }
    if !claimed.roles.is_subset(&key.roles) {
        return Err("the job claims roles that its key does not have");
    }
    let factor = key.totp.as_ref().is_some_and(|totp| totp.confirmed);
    if claimed.mfa && !factor {
        return Err("the job claims a second factor that its key does not have");
    }
    let inside = |address| key.networks.iter().any(|network| network.contains(address));
    if !key.networks.is_empty() && !claimed.network.is_some_and(inside) {
        return Err("the job's key may not be used from where the job came");
    }
    Ok(())
}
