//! `DELETE /v1/transcodes/{id}`: ends a job.
//!
//! Promises: of a cancellation and any other next event of the job one wins, by the compare-and-set;
//! a job that ended otherwise stays as it ended, and the caller learns how; cancelling twice is
//! cancelling once. Who did it is recorded before it is done.

use crate::{
    app::{App, Call, Reply},
    auth::Principal,
    gate,
    problem::{Kind, Problem},
    transcodes::{none, read_at},
};
use hotcell_schemas::{EventKind, Job, JobId};
use hotcell_stage::{
    Outgoing, PublishError, clock,
    retry::{Policy, retry},
    service::describe,
};
use std::sync::Arc;
use tracing::{error, info, warn};

/// Races that a cancellation may lose: a job has fewer events before its end.
const TRIES_MAX: u32 = 16;

fn cancelled(job: &Job) -> Reply {
    Reply::new(200, serde_json::json!({ "id": job.id, "state": job.state }))
}

/// `DELETE /v1/transcodes/{id}`, and `api.cancel` over the broker.
///
/// # Errors
/// 404 for an unknown id and for another tenant's; 409 with the state of a job that has ended; 503.
pub async fn cancel(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let id: JobId = call.id.parse().map_err(|_| none())?;
    let mut recorded = false;
    for _ in 0..TRIES_MAX {
        let (job, after) = read_at(&app, &who, &id).await?.ok_or_else(none)?;
        if job.state == EventKind::Cancelled {
            return Ok(cancelled(&job));
        }
        if job.state.is_terminal() {
            let detail = format!("the job is {}; there is nothing to cancel", job.state);
            let problem = Problem::new(Kind::Conflict, detail);
            return Err(problem.with("state", job.state.as_str()));
        }
        // One request is one record, however many races it loses.
        if !recorded {
            gate::change(&app, &who, &call, "job_cancelled", id.as_str()).await?;
            recorded = true;
        }
        let mut next = job.moved(EventKind::Cancelled, clock::now());
        next.decisions.extend(call.decided.clone());
        let out = Outgoing::job(next.clone(), after);
        let transient = |error: &PublishError| matches!(error, PublishError::Unacknowledged(_));
        match retry(Policy::REQUEST, transient, || app.bus.publish(&out)).await {
            Ok(_) => {
                info!(tenant = %who.tenant(), job = %id, "job cancelled");
                return Ok(cancelled(&next));
            }
            // It moved on meanwhile: what it is now decides.
            Err(PublishError::Conflict) => {}
            Err(PublishError::Unacknowledged(_)) => {
                warn!(job = %id, "the broker did not acknowledge a cancellation");
                return Err(Problem::unavailable("the broker did not acknowledge; repeat it"));
            }
            Err(cause @ (PublishError::Seal(_) | PublishError::NotRouted)) => {
                error!(error = %describe(&cause), "a cancellation cannot be published");
                return Err(Problem::internal());
            }
        }
    }
    Err(Problem::unavailable("the job changes too quickly; repeat it"))
}
