//! The first verb: a worker asks for work, and gets a signed order or an empty answer.

use crate::{
    Signer,
    leases::Spoken,
    mint::ReadFor,
    permit::Permit,
    queue::{Settle, Task, settle},
    transitions,
};
use hotcell_schemas::{
    EventKind, Job, PoolId,
    job::Input,
    lease::Lease,
    limits::{ATTEMPT_RETRY_MS, LEASE_SECS, NEXT_POLL_MS},
    plan::CellLimits,
    records::Refusal,
    work::{NextReply, NextRequest, OrderInput, WorkOrder},
};
use hotcell_stage::{Incoming, Outgoing, PublishError, clock, read::ReadError, telemetry};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tracing::{Instrument as _, info, info_span, warn};

/// Limits of the probe's cell: SPS and moov parsing needs little, so an input that makes it need
/// much is refused by the limit.
pub(crate) const PROBE_LIMITS: CellLimits = CellLimits {
    memory_bytes: 512 << 20,
    cpu_secs: 10,
    wall_secs: 10,
    output_bytes: 1 << 20,
    temp_bytes: 1 << 20,
    procs: 16,
    stall_secs: 10,
    files: 0,
};

/// A job of a suspended tenant is looked at again after this long, in milliseconds.
const SUSPENDED_RETRY_MS: u64 = 1000;

/// 16 bytes in hex.
const NONCE_CHARS: usize = 32;

pub(crate) async fn handle(signer: Arc<Signer>, incoming: Incoming) {
    let until = Instant::now() + Duration::from_millis(NEXT_POLL_MS);
    let Some(spoken) = signer.spoken::<NextRequest>(&incoming).await else { return };
    let nonce = spoken.message.get().nonce.clone();
    let pool = match signer.admitted(&spoken) {
        Ok(pool) => pool,
        Err(reason) => {
            signer.refused(Refusal::Worker, incoming.subject(), reason).await;
            incoming.answer(&NextReply::Refused { nonce, reason: reason.to_owned() }).await;
            return;
        }
    };
    loop {
        let Some(task) = signer.queues.take(&pool, until).await else {
            incoming.answer(&NextReply::Empty { nonce }).await;
            return;
        };
        // From here on the work belongs to the job's trace, not to the worker's question.
        let span = info_span!("assign", tenant = %task.tenant, job = %task.job);
        telemetry::follow(&span, task.message.headers.as_ref());
        let (tenant, job) = (task.tenant.clone(), task.job.clone());
        let assigned = async {
            let Some(order) = signer.assign(&spoken, &pool, task).await else { return false };
            incoming.answer(&NextReply::Order { order: Box::new(order) }).await;
            true
        };
        if assigned.instrument(span).await {
            return;
        }
        signer.queues.unneeded(&pool, tenant, job);
    }
}

/// The nonce becomes part of a message id, so its form is checked before any work is taken.
fn is_nonce(text: &str) -> bool {
    text.len() == NONCE_CHARS
        && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl Signer {
    /// The pool that the worker asks for, when its login has that pool and its image is allowed.
    fn admitted(&self, spoken: &Spoken<NextRequest>) -> Result<PoolId, &'static str> {
        let pool = spoken.message.subject().pool().ok_or("the subject names no pool")?;
        if !is_nonce(&spoken.message.get().nonce) {
            return Err("the nonce is not 16 bytes in hex");
        }
        let tag = format!("pool:{pool}");
        if !spoken.info.tags.contains(&tag) {
            return Err("the login is not of this pool");
        }
        if !self.images.contains(&spoken.message.get().image_digest) {
            return Err("the worker's image is not on the signer's list");
        }
        Ok(pool)
    }

    /// Publishes `assigned`, then makes the order. `None` when the task needs no worker after all.
    async fn assign(
        &self,
        spoken: &Spoken<NextRequest>,
        pool: &PoolId,
        task: Task,
    ) -> Option<WorkOrder> {
        let ack = task.message.reply.as_deref()?.to_owned();
        let id = task.job;
        let stored = match self.bus.job(&task.tenant, &id).await {
            Ok(Some(stored)) => stored,
            // It was delivered, so it is there: a replica of the stream that is late answered.
            Ok(None) => {
                settle(&self.bus, Some(&ack), Settle::RetryMs(ATTEMPT_RETRY_MS)).await;
                return None;
            }
            Err(error @ ReadError::Unanswered(_)) => {
                warn!(%error, job = %id, "job not read; it will be offered again");
                settle(&self.bus, Some(&ack), Settle::RetryMs(ATTEMPT_RETRY_MS)).await;
                return None;
            }
            // Nothing that is tried again gets better.
            Err(ReadError::NotBelieved(error)) => {
                self.refused(Refusal::Scope, &task.message.subject, &error.to_string()).await;
                settle(&self.bus, Some(&ack), Settle::Never).await;
                return None;
            }
        };
        let (seq, job) = (stored.seq, stored.message.into_inner());
        match job.state {
            EventKind::Validated | EventKind::Assigned | EventKind::AttemptFailed => {}
            EventKind::Submitted
            | EventKind::Rejected
            | EventKind::Encoded
            | EventKind::Completed
            | EventKind::Failed
            | EventKind::Cancelled
            | EventKind::Expired => {
                settle(&self.bus, Some(&ack), Settle::Done).await;
                return None;
            }
        }
        let own = |input: &Input| input.key.belongs_to(&task.tenant);
        let is_named = job.tenant == task.tenant && job.id == id && job.pool == *pool;
        if !(is_named && job.inputs.iter().all(own)) {
            // Signed by a service that has gone bad, or was made to.
            let reason = "the job is not of the tenant or pool that its subject names";
            self.refused(Refusal::Scope, &task.message.subject, reason).await;
            settle(&self.bus, Some(&ack), Settle::Never).await;
            return None;
        }
        let now = clock::now();
        if !transitions::may_lapse(&job, now) {
            // A delivery from before the assignment, read late: the lease is alive.
            return None;
        }
        let job = transitions::lapsed(job, now);
        if let Some(ended) = transitions::over(&job, now) {
            self.give_up(ended, seq, &ack).await;
            return None;
        }
        match self.bus.quarantine(&job.tenant, &job.inputs).await {
            Ok(None) => {}
            Ok(Some(record)) => {
                self.give_up(transitions::withheld(job, &record, now), seq, &ack).await;
                return None;
            }
            Err(error) => {
                warn!(%error, job = %id, "quarantine not read; the job will be offered again");
                settle(&self.bus, Some(&ack), Settle::RetryMs(ATTEMPT_RETRY_MS)).await;
                return None;
            }
        }
        let job = self.permitted(job, &task.message.subject, seq, &ack).await?;
        self.order(spoken, pool, job, seq, ack).await
    }

    /// The job, if records and policy permit it now; else it ends, or is looked at again.
    async fn permitted(&self, job: Job, subject: &str, seq: u64, ack: &str) -> Option<Job> {
        let again_ms = match self.permit(job, subject, clock::now()).await {
            Permit::Given(job) => return Some(*job),
            Permit::Ended(job) => {
                self.give_up(*job, seq, ack).await;
                return None;
            }
            Permit::Held => SUSPENDED_RETRY_MS,
            Permit::Unread => ATTEMPT_RETRY_MS,
        };
        settle(&self.bus, Some(ack), Settle::RetryMs(again_ms)).await;
        None
    }

    async fn give_up(&self, job: Job, after: u64, ack: &str) {
        let how = match self.bus.publish(&Outgoing::job(job, after)).await {
            Ok(_) => Settle::Done,
            // It would keep its place under the cap, and come back only after a whole lease.
            Err(error) => {
                warn!(%error, "job not failed; it will be offered again");
                Settle::RetryMs(ATTEMPT_RETRY_MS)
            }
        };
        settle(&self.bus, Some(ack), how).await;
    }

    async fn order(
        &self,
        spoken: &Spoken<NextRequest>,
        pool: &PoolId,
        job: Job,
        after: u64,
        ack: String,
    ) -> Option<WorkOrder> {
        let now = clock::now();
        let plan = job.plan.clone()?;
        let mut inputs = Vec::with_capacity(job.inputs.len());
        let mut grants = Vec::with_capacity(job.inputs.len());
        for input in &job.inputs {
            let granted = match self.mint.get(&input.key, ReadFor::Worker, now) {
                Ok(granted) => granted,
                // It would keep its place under the cap, and come back only after a whole lease.
                Err(error) => {
                    warn!(%error, job = %job.id, "URL not signed; the job will be offered again");
                    settle(&self.bus, Some(&ack), Settle::RetryMs(ATTEMPT_RETRY_MS)).await;
                    return None;
                }
            };
            grants.push(granted.grant);
            inputs.push(OrderInput { get: granted.url, size: input.size, sha256: input.sha256 });
        }
        let key = &spoken.info.user;
        let job = transitions::assigned(job, &spoken.worker, key, pool, grants, now);
        let (tenant, id, attempt) = (job.tenant.clone(), job.id.clone(), job.attempt());
        let nonce = spoken.message.get().nonce.clone();
        let out = Outgoing::Job { job: Box::new(job), after, nonce: nonce.clone() };
        let assigned_seq = match self.bus.publish(&out).await {
            Ok(published) if !published.duplicate => published.seq,
            // Cancelled meanwhile, most likely: the next look will tell.
            Ok(_) | Err(PublishError::Conflict) => {
                settle(&self.bus, Some(&ack), Settle::GiveBack).await;
                return None;
            }
            Err(error) => {
                warn!(%error, job = %id, "assignment not published; it will be offered again");
                settle(&self.bus, Some(&ack), Settle::RetryMs(ATTEMPT_RETRY_MS)).await;
                return None;
            }
        };
        info!(%tenant, job = %id, attempt, worker = %spoken.worker, "assigned");
        let until = now.plus_ms(u64::from(LEASE_SECS) * 1000);
        let lease = Lease {
            tenant,
            job: id.clone(),
            pool: pool.clone(),
            attempt,
            worker: spoken.worker.clone(),
            until,
            assigned_seq,
            ack,
        };
        Some(WorkOrder {
            nonce,
            worker: spoken.worker.clone(),
            pool: pool.clone(),
            job: id,
            attempt,
            plan,
            probe_limits: PROBE_LIMITS,
            inputs,
            lease: lease.token(&self.lease_key),
            lease_until: until,
        })
    }
}
