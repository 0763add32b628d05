//! The strict broker: the only holder of the storage key and of the lease key.
//!
//! Promises: JetStream never hands work to a worker; a worker asks, and gets a signed order for one
//! attempt, with URLs for that attempt's bytes and nothing else. Every URL issued is in the audit
//! log before it is in an answer. Any replica serves any verb: what a verb needs is in the lease
//! and in the job's last event. Refuses: a worker that the broker does not vouch for, an image that
//! is not on the list, a lease of another worker, attempt or time, a file that was not planned.

pub mod config;
mod destinations;
mod leases;
mod meter;
mod mint;
mod next;
mod permit;
mod poison;
pub mod presign;
mod queue;
mod quota;
mod reap;
pub mod shares;
mod sign;
mod storage_check;
pub mod transitions;
mod usage;
mod verbs;

pub use config::Config;

use hotcell_policy::recheck::Recheck;
use hotcell_schemas::{Digest, Role, Subject, lease::LeaseKey, routes};
use hotcell_stage::{Bus, ServiceError, Shutdown, clock};
use mint::Mint;
use queue::Queues;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};
use tokio::task::JoinSet;

/// The queue group that all signers share.
const QUEUE: &str = "signers";

/// Everything a handler needs.
pub(crate) struct Signer {
    pub(crate) bus: Bus,
    pub(crate) mint: Arc<Mint>,
    pub(crate) destinations: destinations::Destinations,
    pub(crate) lease_key: LeaseKey,
    pub(crate) images: BTreeSet<Digest>,
    pub(crate) queues: Queues,
    pub(crate) quota: quota::Quota,
    pub(crate) meter: Mutex<meter::Meter>,
    pub(crate) recheck: Recheck,
}

fn filter(name: &str) -> String {
    routes::route(name).expect("names of rows are constants that the table has").filter()
}

/// Runs the signer until shutdown.
///
/// # Errors
/// [`ServiceError`]: a configuration that is refused, or a broker or store that cannot be reached.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), ServiceError> {
    let checked = config.check()?;
    if config.storage.check {
        let (endpoint, objects) = (&checked.endpoint, checked.objects.as_ref());
        storage_check::run(&config.storage, endpoint, objects, &shutdown).await?;
    }
    let bus = Bus::connect(Role::Signer, &config.nats).await?;
    let (queues, dispatcher) = Queues::new(bus.clone());
    let signer = Arc::new(Signer {
        mint: Arc::new(checked.mint),
        destinations: checked.destinations,
        lease_key: checked.lease_key,
        images: config.images.iter().copied().collect(),
        quota: quota::Quota::new(checked.objects.clone(), bus.clone()),
        meter: Mutex::new(meter::Meter::new(clock::now())),
        queues,
        recheck: Recheck::new(&bus),
        bus,
    });
    let mut tasks: JoinSet<Result<(), ServiceError>> = JoinSet::new();
    tasks.spawn(dispatcher.run(shutdown.clone()));
    let times =
        reap::Times { period_secs: config.reap_secs, unconfirmed_secs: config.unconfirmed_secs };
    tasks.spawn(reap::run(signer.bus.clone(), checked.objects, times, shutdown.clone()));
    let metering = usage::Metering::new(signer.bus.clone());
    let (bus, stop) = (signer.bus.clone(), shutdown.clone());
    tasks.spawn(
        async move { hotcell_stage::run::run(&bus, usage::DURABLE, 1, metering, stop).await },
    );
    let filter_usage = filter("usage.now");
    serve(
        &mut tasks,
        &signer,
        &filter_usage,
        config.concurrency,
        &shutdown,
        queue::standing::handle,
    );
    serve(&mut tasks, &signer, &filter("next"), config.workers_max, &shutdown, next::handle);
    for (name, verb) in verbs::VERBS {
        let handle = move |signer, incoming| verbs::handle(signer, verb, incoming);
        serve(&mut tasks, &signer, &filter(name), config.concurrency, &shutdown, handle);
    }
    for (name, verb) in sign::VERBS {
        let subject = Subject::sign(verb).to_string();
        debug_assert_eq!(subject, filter(name));
        let handle = move |signer, incoming| sign::handle(signer, verb, incoming);
        serve(&mut tasks, &signer, &subject, config.concurrency, &shutdown, handle);
    }
    let mut ended = Ok(());
    while let Some(task) = tasks.join_next().await {
        let result = task.unwrap_or_else(|error| Err(ServiceError::Unreachable(error.to_string())));
        if result.is_err() && ended.is_ok() {
            ended = result;
            shutdown.begin();
        }
    }
    signer.bus.flush().await;
    ended
}

fn serve<F, Fut>(
    tasks: &mut JoinSet<Result<(), ServiceError>>,
    signer: &Arc<Signer>,
    subject: &str,
    concurrency: usize,
    shutdown: &Shutdown,
    handle: F,
) where
    F: Fn(Arc<Signer>, hotcell_stage::Incoming) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (signer, subject, shutdown) = (Arc::clone(signer), subject.to_owned(), shutdown.clone());
    tasks.spawn(async move {
        let shared = Arc::clone(&signer);
        let handle = move |incoming| handle(Arc::clone(&shared), incoming);
        let served = signer.bus.serve(&subject, QUEUE, concurrency, shutdown, handle).await;
        served
            .map_err(|error| ServiceError::Unreachable(format!("cannot serve {subject}: {error}")))
    });
}
