//! Signed deliveries to tenants' endpoints, and what tenants' own programs hear at the broker.
//!
//! Promises: every delivery is signed (there is no unsigned mode), is repeated under one id until
//! it succeeds or its schedule is spent, and survives restarts: its state is a record, its turn a
//! message. A slow or hostile endpoint costs its own lane and no other. Refuses: to reach anything
//! but public addresses, to show a secret twice, and to touch a job: it only tells of it.
//!
//! Pure: `address`, `breaker`, `due`, `endpoint`, `payload`, `schedule`, `signature`, `vault`. Effects:
//! `accounts`, `asks`, `deliver`, `deliveries`, `egress`, `endpoints`, `planner`, `tally`, `teller`.

mod accounts;
pub mod address;
mod asks;
pub mod breaker;
pub mod config;
mod deliver;
mod deliveries;
pub mod due;
pub mod egress;
mod endpoint;
mod endpoints;
mod lanes;
pub mod payload;
mod planner;
pub mod schedule;
pub mod signature;
mod tally;
mod teller;
pub mod vault;

#[cfg(test)]
#[path = "../tests/support/job.rs"]
mod testing;

pub use config::Config;
pub use signature::{Secret, VerifyError, verify};

use accounts::Accounts;
use asks::Asks;
use deliver::Deliverer;
use deliveries::Deliveries;
use egress::Egress;
use endpoints::Endpoints;
use hotcell_schemas::{Role, Subject};
use hotcell_stage::{Bus, Incoming, ServiceError, Shutdown, pages::Pages, run as stage};
use lanes::Lanes;
use planner::Planner;
use std::{future::Future, sync::Arc};
use tally::Tally;
use teller::Teller;
use tokio::task::JoinSet;

/// The queue group that all webhook services share.
const QUEUE: &str = "webhook";

/// Requests for endpoints in hand at once: tenants make 16 in their life.
const CREATES_MAX: usize = 8;

/// Other requests of intake in hand at once: each is a few reads.
const ASKS_MAX: usize = 64;

/// Runs the webhook service until shutdown.
///
/// # Errors
/// [`ServiceError`]: a configuration that is refused, or a broker that cannot be reached.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), ServiceError> {
    let vault = Arc::new(config.check()?);
    let bus = Bus::connect(Role::Webhook, &config.nats).await?;
    let endpoints = Arc::new(Endpoints::new(bus.clone(), Arc::clone(&vault), config.policy()));
    let listed = Arc::new(Pages::new(bus.bucket("deliveries")));
    let deliveries = Deliveries {
        bus: bus.clone(),
        records: bus.bucket("deliveries"),
        listed: Arc::clone(&listed),
    };
    let asks = Arc::new(Asks { bus: bus.clone(), endpoints: Arc::clone(&endpoints), deliveries });
    let deliverer = Arc::new(Deliverer {
        egress: Egress::new(config.policy()),
        policy: config.policy(),
        vault,
        deliveries: bus.bucket("deliveries"),
        listed: Arc::clone(&listed),
        endpoints: bus.bucket("endpoints"),
        tally: Tally { bus: bus.clone(), endpoints: bus.bucket("endpoints") },
        tenants: bus.bucket("tenants"),
        retry_secs: config.retry_secs.clone(),
        by_tenant: Lanes::new(config.tenant_attempts_max),
        by_endpoint: Lanes::new(config.endpoint_attempts_max),
        waiting: Lanes::new(deliver::LANE_WAITERS_MAX),
        bus: bus.clone(),
    });
    let mut tasks: JoinSet<Result<(), ServiceError>> = JoinSet::new();
    tasks.spawn(deliver::run(deliverer, config.attempts_max, shutdown.clone()));
    let accounts = Arc::new(Accounts::new(&bus));
    let teller = Teller { bus: bus.clone(), accounts: Arc::clone(&accounts) };
    let planner = Planner { bus: bus.clone(), accounts, endpoints: Arc::clone(&endpoints) };
    let (events, own_bus, own) = (config.events_max, bus.clone(), shutdown.clone());
    tasks.spawn(async move { stage::run(&own_bus, "webhook", events, planner, own).await });
    let (own_bus, own) = (bus.clone(), shutdown.clone());
    tasks.spawn(async move { stage::run(&own_bus, "teller", events, teller, own).await });
    let create = move |incoming| endpoints::handle(Arc::clone(&endpoints), incoming);
    let of_create = (Subject::hooks_create(), CREATES_MAX);
    tasks.spawn(serve(bus.clone(), of_create, shutdown.clone(), create));
    let ask = move |incoming| asks::handle(Arc::clone(&asks), incoming);
    tasks.spawn(serve(bus.clone(), (Subject::hooks_ask(), ASKS_MAX), shutdown.clone(), ask));
    let mut ended = Ok(());
    while let Some(task) = tasks.join_next().await {
        let result = task.unwrap_or_else(|error| Err(ServiceError::Unreachable(error.to_string())));
        if result.is_err() && ended.is_ok() {
            ended = result;
            shutdown.begin();
        }
    }
    bus.flush().await;
    ended
}

/// Serves one subject, so many requests at once.
async fn serve<F, Fut>(
    bus: Bus,
    (subject, most): (Subject, usize),
    shutdown: Shutdown,
    handle: F,
) -> Result<(), ServiceError>
where
    F: Fn(Incoming) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let served = bus.serve(subject.as_str(), QUEUE, most, shutdown, handle).await;
    served.map_err(|error| ServiceError::Unreachable(format!("cannot serve {subject}: {error}")))
}
