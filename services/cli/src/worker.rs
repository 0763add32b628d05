//! `hotcell worker creds|revoke|rekey`: a worker's login, which opens its own two subjects in its own
//! pools, and the key that signs all of them.

use crate::{
    fail::{Context as _, Fail},
    layout::Layout,
    tenant::{
        args::WorkerCommand,
        manage::{admin, hand_over, rekeyed, revoked},
    },
    up::logins,
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
            let now = clock::now();
            let done = admin.revoke_worker(&name, now).await;
            let done = done.or_fail("not revoked in full")?;
            revoked(&format!("worker {name}"), &done, now, as_json);
            Ok(())
        }
        WorkerCommand::Rekey => {
            let done = admin.rekey_workers(clock::now()).await;
            let done = done.or_fail("not done in full")?;
            logins::hand_over(&Layout::open(data)?, &done.logins)?;
            rekeyed("the workers have", &done, as_json);
            Ok(())
        }
    }
}
