//! Checks stored inputs with memory-safe code and compiles requests into plans.
//!
//! Promises: no C code and no decoder ever sees the bytes here; every byte of a verdict comes from
//! a bounded window of the object; a plan holds no text of a tenant. Refuses: to open what names
//! other files, to guess a container, and to pass a request on that no encoder of ours can make.

pub mod accept;
pub mod check;
pub mod compile;
pub mod config;
mod ebml;
mod field;
mod header;
mod isobmff;
mod playlist;
mod protection;
pub mod raw;
pub mod scan;
mod seen;
pub mod sniff;
pub mod stage;
mod verdict;

pub use accept::accepted_content_type;
pub use check::{FieldError, check_request};
pub use compile::compile;
pub use config::Config;
pub use scan::{Scan, Scanner};
pub use sniff::sniff;

use hotcell_policy::recheck::Recheck;
use hotcell_schemas::Role;
use hotcell_stage::{Bus, ServiceError, Shutdown, blob::Blobs};

/// The durable consumer of the route table that validators share.
const DURABLE: &str = "validator";

/// Runs the validator until shutdown.
///
/// # Errors
/// [`ServiceError`]: a configuration that is refused, or a broker that cannot be reached.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), ServiceError> {
    config.check()?;
    let bus = Bus::connect(Role::Validator, &config.nats).await?;
    let (blobs, wall_secs_max) = (Blobs::new(), config.wall_secs_max);
    let recheck = Recheck::new(&bus);
    let stage = stage::Validator { bus: bus.clone(), blobs, wall_secs_max, recheck };
    hotcell_stage::run::run(&bus, DURABLE, config.concurrency, stage, shutdown).await
}
