//! `hotcell worker creds`: a worker's login, which opens its own two subjects in its own pools.

use crate::{
    fail::{Context as _, Fail},
    tenant::{
        args::WorkerCommand,
        manage::{admin, hand_over},
    },
};
use hotcell_stage::clock;
use std::path::Path;

/// Runs the command.
pub(crate) async fn run(data: &Path, command: WorkerCommand, as_json: bool) -> Result<(), Fail> {
    let WorkerCommand::Creds { name, pools, expires, out } = command;
    let made = admin(data).await?.add_worker_for(&name, &pools, expires, clock::now()).await;
    hand_over(&made.or_fail("no login made")?, out.as_deref(), as_json)
}
