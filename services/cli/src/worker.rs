//! `hotcell worker creds|revoke`: a worker's login, which opens its own two subjects in its own pools.

use crate::{
    fail::{Context as _, Fail},
    tenant::{
        args::WorkerCommand,
        manage::{admin, hand_over, revoked},
    },
};
use hotcell_stage::clock;
use std::path::Path;

/// Runs the command.
pub(crate) async fn run(data: &Path, command: WorkerCommand, as_json: bool) -> Result<(), Fail> {
    let admin = admin(data).await?;
    match command {
        WorkerCommand::Creds { name, pools, expires, out } => {
            let made = admin.add_worker_for(&name, &pools, expires, clock::now()).await;
            hand_over(&made.or_fail("no login made")?, out.as_deref(), as_json)
        }
        WorkerCommand::Revoke { name } => {
            let done = admin.revoke_worker(&name, clock::now()).await;
            let done = done.or_fail("not revoked in full")?;
            revoked(&format!("worker {name}"), &done, as_json);
            Ok(())
        }
    }
}
