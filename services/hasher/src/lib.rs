//! The hasher: reads every output again, and lets a job complete only when each is what the worker
//! reported. It is another process than the worker, with other credentials, so a worker that lies
//! is found out.
//!
//! Promises: reads at most one byte more than an output should have; sets nothing but the job's
//! next state; a tenant's own bucket holds up no job of another's. Refuses to complete a job of which one byte differs.

mod compare;
pub mod config;
mod elsewhere;
pub mod read;
mod stage;

use crate::{config::Config, stage::Hasher};
use hotcell_schemas::Role;
use hotcell_stage::{Bus, ServiceError, Shutdown, run::run as consume};

/// The durable consumer of encoded jobs.
const DURABLE: &str = "hasher";

/// Works until shutdown.
///
/// # Errors
/// [`ServiceError`], when the configuration or the broker cannot be used.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), ServiceError> {
    let concurrency = config.check()?;
    let bus = Bus::connect(Role::Hasher, &config.nats).await?;
    let stage = Hasher::new(bus.clone(), concurrency);
    consume(&bus, DURABLE, concurrency, stage, shutdown).await
}
