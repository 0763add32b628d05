//! Signed deliveries to tenants' endpoints, and what tenants' own programs hear at the broker.
//!
//! Promises: every delivery is signed (there is no unsigned mode), is repeated under one id until
//! it succeeds or its schedule is spent, and survives restarts: its state is a record, its turn a
//! message. A slow or hostile endpoint costs its own lane and no other. Refuses: to reach anything
//! but public addresses, to show a secret twice, and to touch a job: it only tells of it.
//!
//! Pure: `address`, `payload`, `schedule`, `signature`, `vault`. Effects: `accounts`, `egress`,
//! `endpoints`, `planner`, `teller`, `deliver`.

mod accounts;
pub mod address;
pub mod config;
mod deliver;
pub mod egress;
mod endpoints;
mod lanes;
pub mod payload;
mod planner;
pub mod schedule;
pub mod signature;
mod teller;
pub mod vault;

#[cfg(test)]
#[path = "../tests/support/job.rs"]
mod testing;

pub use config::Config;
pub use signature::{Secret, VerifyError, verify};

use accounts::Accounts;
use deliver::Deliverer;
use egress::Egress;
use endpoints::Endpoints;
use hotcell_schemas::{Role, Subject};
use hotcell_stage::{Bus, ServiceError, Shutdown, run as stage};
use lanes::Lanes;
use planner::Planner;
use std::sync::Arc;
use teller::Teller;
use tokio::task::JoinSet;

/// The queue group that all webhook services share.
const QUEUE: &str = "webhook";

/// Requests for endpoints in hand at once: tenants make 16 in their life.
const CREATES_MAX: usize = 8;

/// Runs the webhook service until shutdown.
///
/// # Errors
/// [`ServiceError`]: a configuration that is refused, or a broker that cannot be reached.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), ServiceError> {
    let vault = Arc::new(config.check()?);
    let bus = Bus::connect(Role::Webhook, &config.nats).await?;
    let endpoints = Arc::new(Endpoints::new(bus.clone(), Arc::clone(&vault), config.policy()));
    let deliverer = Arc::new(Deliverer {
        egress: Egress::new(config.policy()),
        policy: config.policy(),
        vault,
        deliveries: bus.bucket("deliveries"),
        endpoints: bus.bucket("endpoints"),
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
    let (own_bus, own) = (bus.clone(), shutdown.clone());
    tasks.spawn(async move {
        let subject = Subject::hooks_create();
        let handle = move |incoming| endpoints::handle(Arc::clone(&endpoints), incoming);
        let served = own_bus.serve(subject.as_str(), QUEUE, CREATES_MAX, own, handle).await;
        served
            .map_err(|error| ServiceError::Unreachable(format!("cannot serve {subject}: {error}")))
    });
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
