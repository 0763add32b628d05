//! The worker: asks the signer for one job at a time, runs it in cells, reports.
//!
//! Promises: it holds one broker login and nothing else; every byte of a job is gone when the job
//! is; it starts nothing but the launcher of cells. Refuses to start where cells are not safe, and
//! refuses orders that are another's, replayed, or not what their plan compiles to.

mod ask;
mod attempt;
mod cell;
pub mod config;
mod draft;
mod ending;
mod fetch;
pub mod image;
mod order;
mod probe;
mod progress;
mod store;
mod worker;
mod workspace;

pub use image::{Image, ImageError, image_digest};

use crate::{
    ask::Ask,
    cell::{Cells, Seat},
    config::{Checked, Config},
    worker::Worker,
    workspace::Workspace,
};
use hotcell_jail::{
    Identity,
    cgroup::{Choice, GroupError, Groups},
    hide::hide_from_others,
    preflight::{Missing, inspect, preflight},
    profile::Profile,
};
use hotcell_schemas::{Role, WorkerId, report::Provenance};
use hotcell_stage::{Bus, ServiceError, Shutdown, blob::Blobs, service::describe};
use std::{os::unix::fs::MetadataExt as _, path::Path, sync::Arc};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

/// This process's own program, also when its file was replaced meanwhile.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Works until shutdown.
///
/// # Errors
/// [`ServiceError::Refused`] when this host cannot run cells safely or the configuration names
/// something that is not there; [`ServiceError::Bus`] when the broker cannot be used.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), ServiceError> {
    let checked = config.check()?;
    if std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
        warn!("the worker runs as root; start it as a user that owns nothing");
    }
    // Before the login is read: workers of one host may share a user.
    hide_from_others().map_err(|error| refuse(&error))?;
    let config = Arc::new(config);
    let (image, missing) = blocking(Arc::clone(&config), |config| {
        let missing = missing(config)?;
        let Config { launcher, ffmpeg, ffprobe, root_cache, .. } = config;
        let image = Image::read(Path::new(OWN_PROGRAM), launcher, ffmpeg, ffprobe, root_cache)
            .map_err(|error| refuse(&error))?;
        Ok((image, missing))
    })
    .await?;
    let (image_digest, root_digest) = (image.digest, image.root_digest);
    let cells = Cells::new(config.launcher.clone(), image, config.degraded);
    let seats = seats(&checked).await?;
    let version = cells.version().await.map_err(|error| refuse(&error))?;
    let provenance = Provenance {
        ffmpeg: version.line,
        configuration_digest: version.configuration_sha256.parse().expect("SHA-256 in hex"),
        root_digest,
        image_digest,
        profile_digest: Profile::Transcode.hash().parse().expect("a hash is SHA-256 in hex"),
        degraded: missing.iter().map(|missing| missing.layer.name().to_owned()).collect(),
        cell: checked.cell.to_string(),
    };

    let bus = Bus::connect(Role::Encoder, &config.nats).await?;
    let worker: WorkerId = bus.name().parse().map_err(|error| refuse(&error))?;
    let workspace = Workspace::open(&config.work_dir, &worker).map_err(|error| refuse(&error))?;
    let workspace = Arc::new(workspace);
    let (pool, slots) = (checked.pool, seats.len());
    info!(%worker, %pool, slots, %image_digest, ffmpeg = provenance.ffmpeg, "ready for work");
    let ask = Ask::new(bus.clone(), pool, worker);
    let worker = Worker { ask, cells, blobs: Blobs::new(), workspace, provenance };
    let ended = work(&worker, seats, shutdown).await;
    bus.flush().await;
    ended
}

/// Runs the slots. One that panics ends the process, so that whoever started it starts it again.
async fn work(worker: &Worker, seats: Vec<Seat>, shutdown: Shutdown) -> Result<(), ServiceError> {
    let (mut running, mut result) = (JoinSet::new(), Ok(()));
    for seat in seats {
        let worker = Worker { cells: worker.cells.at(seat), ..worker.clone() };
        let shutdown = shutdown.clone();
        running.spawn(async move { worker.slot(&shutdown).await });
    }
    while let Some(ended) = running.join_next().await {
        if let Err(error) = ended {
            error!(%error, "a slot has failed; the worker ends");
            shutdown.begin();
            result = Err(ServiceError::Unreachable("a slot failed: see the log".to_owned()));
        }
    }
    result
}

/// The layers that this host lacks, when the configuration says to do without them.
fn missing(config: &Config) -> Result<Vec<Missing>, ServiceError> {
    let look = if config.degraded { inspect } else { preflight };
    let found = look(&config.launcher).map_err(|error| refuse(&error))?;
    for Missing { layer, change } in &found.missing {
        warn!(layer = layer.name(), change, "cells do without a layer; every report says so");
    }
    Ok(found.missing)
}

/// A place for the cells of each slot. Only root can give each a user of its own.
async fn seats(checked: &Checked) -> Result<Vec<Seat>, ServiceError> {
    let (wish, slots, first) = (checked.groups.clone(), checked.slots, checked.first_uid);
    let made = tokio::task::spawn_blocking(move || {
        let own = Identity::for_this_process();
        let groups = Groups::open(&wish)?;
        let seat = |(number, uid)| {
            let identity = match Identity::can_be_chosen() {
                true => Identity { uid, gid: first },
                false => own,
            };
            let slot = Arc::new(groups.slot(number, identity)?);
            Ok(Seat { identity, slot })
        };
        let seats: Result<Vec<Seat>, GroupError> = (0..slots).zip(first..).map(seat).collect();
        Ok((groups, seats?))
    });
    let made: Result<_, GroupError> = made.await.map_err(|error| refuse(&error))?;
    let (groups, seats) = made.map_err(|error| refuse(&error))?;
    if !groups.missing().is_empty() && checked.groups.choice != Choice::Off {
        let (missing, why) = (groups.missing(), groups.why().unwrap_or("not delegated"));
        warn!(?missing, why, "cells are bounded by rlimits where control groups are missing");
    }
    info!(%groups, "control groups of the cells");
    Ok(seats)
}

/// Start-up work that hashes and copies files.
async fn blocking<T: Send + 'static>(
    config: Arc<Config>,
    work: impl FnOnce(&Config) -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, ServiceError> {
    let done = tokio::task::spawn_blocking(move || work(&config)).await;
    done.unwrap_or_else(|error| Err(refuse(&error)))
}

fn refuse(error: &dyn std::error::Error) -> ServiceError {
    ServiceError::Refused(describe(error))
}
