//! Work on its way to workers: one dispatcher for each pool takes validated jobs from the tenants'
//! consumers, in fair shares, and hands each to a worker that waits.
//!
//! Promises: no tenant has more jobs out in a pool than its cap, over all of its priority classes
//! and all replicas (`slots.rs`). A tenant that is not active gets nothing. State here is a hint and may be lost: the broker holds the work and its
//! leases.

use crate::usage;
use async_nats::Message;
use futures::{StreamExt as _, future::join_all};
use hotcell_schemas::{
    EventKind, Job, JobId, PoolId, Subject, TenantId,
    records::TenantRecord,
    routes::{self, StreamId},
    tenancy::{Priority, UsageRecord},
};
use hotcell_stage::{Bus, ServiceError, Shutdown, clock, kv::Entry, publish::envelope_of};
use serde::Deserialize;
use serde_json::json;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use tracing::{debug, warn};

mod pool;
mod slots;
pub(crate) mod standing;

use pool::Pool;
use standing::Standings;

/// Waiting workers and heard events that may queue for one dispatcher.
const INBOX_MAX: usize = 4096;

/// Whether the list of tenants has changed is asked this often, in milliseconds: one read.
const TENANTS_MS: u64 = 750;

/// And at once for a tenant that is not on it, but no more often than this, in milliseconds.
const TENANTS_MS_MIN: u64 = 250;

/// A tenant that is not active is asked again after this long, in milliseconds; the list of tenants
/// says so by then.
const INACTIVE_MS: u64 = TENANTS_MS + TENANTS_MS_MIN;

/// A tenant at its cap is asked again when one of its attempts ends, or after this long, in
/// milliseconds, with up to as much again by chance: of two replicas that gave each other way, one
/// is first.
const FULL_MS: u64 = 200;

/// A job whose cap could not be looked at is offered again after this long, in milliseconds.
const UNREAD_MS: u64 = 1000;

/// A validated job from a tenant's consumer, not yet acked.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) tenant: TenantId,
    pub(crate) job: JobId,
    pub(crate) message: Message,
}

impl Task {
    /// The class that its subject names.
    fn class(&self) -> Option<Priority> {
        Some(self.message.subject.parse::<Subject>().ok()?.class())
    }
}

/// A tenant as the dispatchers know it.
#[derive(Debug, Clone)]
struct Row {
    id: TenantId,
    /// 0 for one that is not served.
    weight: u32,
    pools: Vec<PoolId>,
    /// What its jobs cost so far, in milliseconds.
    mean_ms: Option<u64>,
}

type Rows = watch::Receiver<Arc<Vec<Row>>>;

/// What handlers tell a pool's dispatcher.
enum Ask {
    /// A worker waits until the instant.
    Work(oneshot::Sender<Task>, Instant),
    /// The job was not given out, and its tenant is not to be asked for so many milliseconds.
    Back(TenantId, Priority, JobId, u64),
    /// The job was taken, and then needed no worker.
    Unneeded(TenantId, JobId),
}

/// What a dispatcher is told.
enum Told {
    /// By a handler.
    Asked(Ask),
    /// The tenant may have work in the class.
    Stirs(TenantId, Priority),
    /// One of the tenant's jobs needs its worker no more; what its attempt cost, in milliseconds.
    Ends(TenantId, JobId, Option<u64>),
}

/// Why a job that was taken is not given out.
enum Held {
    /// The tenant has as many out as it may.
    Full,
    /// The tenant is not served.
    Inactive,
    /// Nobody can tell now.
    Unread,
}

/// What the broker says of a consumer.
#[derive(Debug, Default, Deserialize)]
struct ConsumerState {
    #[serde(default)]
    num_ack_pending: u64,
    #[serde(default)]
    num_pending: u64,
    error: Option<ConsumerError>,
}

#[derive(Debug, Deserialize)]
struct ConsumerError {
    err_code: u64,
}

/// `JSConsumerNotFoundErr` of nats-server's errors.json: what is not made holds nothing.
const CONSUMER_NOT_FOUND: u64 = 10014;

/// Where handlers ask for work.
pub(crate) struct Queues {
    bus: Bus,
    ask: mpsc::Sender<(PoolId, Ask)>,
    standings: Arc<Standings>,
}

/// Owns the pools' dispatchers and hears the events that stir them.
pub(crate) struct Dispatcher {
    bus: Bus,
    asked: mpsc::Receiver<(PoolId, Ask)>,
    pools: HashMap<PoolId, mpsc::Sender<Told>>,
    tenants: Rows,
    reread: Arc<Notify>,
    standings: Arc<Standings>,
    tasks: JoinSet<()>,
}

impl Queues {
    pub(crate) fn new(bus: Bus) -> (Self, Dispatcher) {
        let (ask, asked) = mpsc::channel(INBOX_MAX);
        let (list, tenants) = watch::channel(Arc::new(Vec::new()));
        let (reread, standings) = (Arc::new(Notify::new()), Arc::new(Standings::default()));
        let mut tasks = JoinSet::new();
        tasks.spawn(list_tenants(bus.clone(), list, Arc::clone(&reread)));
        let dispatcher = Dispatcher {
            bus: bus.clone(),
            asked,
            pools: HashMap::new(),
            tenants,
            reread,
            standings: Arc::clone(&standings),
            tasks,
        };
        (Self { bus, ask, standings }, dispatcher)
    }

    /// The next job of `pool`, or `None` when there is none until `until`.
    pub(crate) async fn take(&self, pool: &PoolId, until: Instant) -> Option<Task> {
        loop {
            let task = self.wait(pool, until).await?;
            let Err(held) = self.may_run(pool, &task).await else { return Some(task) };
            let (how, ms) = match held {
                Held::Full => (Settle::GiveBack, full_ms()),
                Held::Inactive => (Settle::GiveBack, INACTIVE_MS),
                Held::Unread => (Settle::RetryMs(UNREAD_MS), 0),
            };
            // First the dispatcher knows, then the broker has it to give again.
            let class = task.class().unwrap_or_default();
            let back = Ask::Back(task.tenant.clone(), class, task.job, ms);
            self.ask.try_send((pool.clone(), back)).ok();
            settle(&self.bus, task.message.reply.as_deref(), how).await;
        }
    }

    /// What was taken made no order, so it costs its tenant nothing.
    pub(crate) fn unneeded(&self, pool: &PoolId, tenant: TenantId, job: JobId) {
        self.ask.try_send((pool.clone(), Ask::Unneeded(tenant, job))).ok();
    }

    async fn wait(&self, pool: &PoolId, until: Instant) -> Option<Task> {
        let (give, mut given) = oneshot::channel();
        self.ask.try_send((pool.clone(), Ask::Work(give, until))).ok()?;
        match timeout_at(until, &mut given).await {
            Ok(task) => task.ok(),
            // A task may have come in the same moment; closed, none can come after the look.
            Err(_) => {
                given.close();
                given.try_recv().ok()
            }
        }
    }

    /// Whether the tenant is served and has room for the job, which is out already and counts. The
    /// broker holds the cap within class `normal`, so while no other class is out there is nothing
    /// to look at.
    async fn may_run(&self, pool: &PoolId, task: &Task) -> Result<(), Held> {
        let class = task.class().ok_or(Held::Unread)?;
        let (bucket, tenant) = (self.bus.bucket("tenants"), &task.tenant);
        let others = [Priority::High, Priority::Low].map(|class| self.state(pool, tenant, class));
        let (record, others, was_parked) = tokio::join!(
            bucket.get::<TenantRecord>(tenant.as_str()),
            join_all(others),
            self.unpark(pool, task, class),
        );
        let was_parked = was_parked?;
        let record = record.map_err(|error| {
            warn!(%error, %tenant, "tenant not read; the job will be offered again");
            Held::Unread
        })?;
        let record = record.map(|entry| entry.value).filter(|record| record.state.is_active());
        let cap = u64::from(record.ok_or(Held::Inactive)?.concurrency);
        // What was parked a moment ago others may have counted as such: it looks at them anew.
        if class.is_normal() && !was_parked {
            let others: Option<u64> =
                others.into_iter().map(|state| Some(state?.num_ack_pending)).sum();
            if others.ok_or(Held::Unread)? == 0 {
                return Ok(());
            }
        }
        self.has_slot(pool, task, class, cap).await
    }

    /// What the broker says of one consumer; `None` when it says nothing.
    async fn state(
        &self,
        pool: &PoolId,
        tenant: &TenantId,
        class: Priority,
    ) -> Option<ConsumerState> {
        let (stream, name) = (StreamId::Jobs.as_str(), routes::work_consumer(pool, tenant, class));
        let subject = format!("$JS.API.CONSUMER.INFO.{stream}.{name}");
        let answer = self.bus.client().request(subject, "".into()).await;
        let answer = answer.inspect_err(|error| warn!(%error, name, "consumer not read")).ok()?;
        let state: ConsumerState = serde_json::from_slice(&answer.payload).ok()?;
        match &state.error {
            None => Some(state),
            Some(error) if error.err_code == CONSUMER_NOT_FOUND => Some(ConsumerState::default()),
            Some(_) => None,
        }
    }
}

fn full_ms() -> u64 {
    FULL_MS + FULL_MS * u64::from(clock::random::<1>()[0]) / 256
}

impl Dispatcher {
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), ServiceError> {
        let heard = [
            "job.validated",
            "job.prioritised",
            "job.encoded",
            "job.attempt_failed",
            "job.failed",
            "job.cancelled",
        ];
        let mut streams = Vec::new();
        for name in heard {
            let filter = routes::route(name).expect("a row of the table").filter();
            let subscribed = self.bus.client().subscribe(filter).await;
            streams.push(subscribed.map_err(|error| {
                ServiceError::Unreachable(format!("cannot hear {name}: {error}"))
            })?);
        }
        let mut events = futures::stream::select_all(streams);
        loop {
            tokio::select! {
                asked = self.asked.recv() => {
                    let Some((pool, ask)) = asked else { break };
                    self.tell(pool, Told::Asked(ask), &shutdown);
                }
                event = events.next() => {
                    let Some(event) = event else { break };
                    self.hear(&event, &shutdown);
                }
                // Without it a pool, or the list of tenants, would stand still for ever.
                Some(_) = self.tasks.join_next() => {
                    if shutdown.has_begun() {
                        break;
                    }
                    let why = "a dispatcher of work ended: start the signer again";
                    return Err(ServiceError::Unreachable(why.to_owned()));
                }
                () = shutdown.begun() => break,
            }
        }
        self.pools.clear();
        drop(self.tenants);
        while self.tasks.join_next().await.is_some() {}
        Ok(())
    }

    /// A validated job stirs its tenant in its pool; an ended attempt says what it cost and leaves
    /// room. What is not believed is not heard.
    fn hear(&mut self, event: &Message, shutdown: &Shutdown) {
        let Ok(subject) = event.subject.parse::<Subject>() else { return };
        let Some(tenant) = subject.tenant() else { return };
        if subject.route().event() == Some(EventKind::Validated) {
            if let Some(pool) = subject.pool() {
                self.tell(pool, Told::Stirs(tenant, subject.class()), shutdown);
            }
            return;
        }
        let envelope = envelope_of(&event.subject, event.headers.as_ref(), &event.payload);
        let Ok(job) = envelope.and_then(|envelope| envelope.open::<Job>(self.bus.trust())) else {
            return;
        };
        let job = job.into_inner();
        let cost_ms = usage::closed_cpu_ms(&job);
        if let Some(pool) = self.pools.get(&job.pool)
            && pool.try_send(Told::Ends(tenant, job.id, cost_ms)).is_err()
        {
            debug!("a dispatcher is busy; its sweep will find the work");
        }
    }

    fn tell(&mut self, pool: PoolId, told: Told, shutdown: &Shutdown) {
        let entry = self.pools.entry(pool.clone()).or_insert_with(|| {
            let (send, receive) = mpsc::channel(INBOX_MAX);
            let known = (self.tenants.clone(), Arc::clone(&self.reread));
            let pool = Pool::new(self.bus.clone(), pool, known, Arc::clone(&self.standings));
            self.tasks.spawn(pool.run(receive, shutdown.clone()));
            send
        });
        if entry.try_send(told).is_err() {
            debug!("a dispatcher is busy; workers will ask again");
        }
    }
}

/// An entry of bucket `tenants`: a record, or the slug of an account.
#[derive(Deserialize)]
#[serde(untagged)]
enum Listed {
    Tenant(Box<TenantRecord>),
    Other(serde::de::IgnoredAny),
}

/// Reads the list of tenants whenever one of them was changed, until nobody wants it.
async fn list_tenants(bus: Bus, list: watch::Sender<Arc<Vec<Row>>>, reread: Arc<Notify>) {
    let (bucket, mut means, mut listed) = (bus.bucket("tenants"), HashMap::new(), None);
    loop {
        // Before the list: what changes while it is read is seen the next time.
        let newest = bucket.newest::<serde::de::IgnoredAny>("").await;
        let newest = newest.map(|entry| entry.map(|entry| entry.revision));
        if !newest.as_ref().is_ok_and(|newest| newest.is_some() && *newest == listed) {
            match bucket.scan::<Listed>("").await {
                Ok(entries) => {
                    list.send_replace(Arc::new(rows(&bus, entries, &mut means).await));
                    listed = newest.ok().flatten();
                }
                Err(error) => warn!(%error, "tenants not listed"),
            }
        }
        sleep(Duration::from_millis(TENANTS_MS_MIN)).await;
        tokio::select! {
            () = list.closed() => return,
            () = reread.notified() => {}
            () = sleep(Duration::from_millis(TENANTS_MS)) => {}
        }
    }
}

async fn rows(
    bus: &Bus,
    entries: Vec<Entry<Listed>>,
    means: &mut HashMap<TenantId, Option<u64>>,
) -> Vec<Row> {
    let mut rows = Vec::new();
    for entry in entries {
        let Listed::Tenant(record) = entry.value else { continue };
        if !means.contains_key(&record.id) {
            means.insert(record.id.clone(), mean_ms(bus, &record.id).await);
        }
        let weight = if record.state.is_active() { record.quotas.weight } else { 0 };
        let mean_ms = means.get(&record.id).copied().flatten();
        rows.push(Row { id: record.id, weight, pools: record.pools, mean_ms });
    }
    rows
}

/// What a tenant's attempts cost this month on the average, in milliseconds: where a replica that
/// starts begins to guess.
async fn mean_ms(bus: &Bus, tenant: &TenantId) -> Option<u64> {
    let key = UsageRecord::key(tenant, clock::now());
    let record = bus.bucket("usage").get::<UsageRecord>(&key).await.ok()??.value;
    record.cpu_ms.checked_div(record.attempts)
}

/// How a delivery of the broker ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Settle {
    /// Done with for good.
    Done,
    /// Still being worked on: the broker's clock starts again.
    InProgress,
    /// To be delivered again at once.
    GiveBack,
    /// To be delivered again after so many milliseconds.
    RetryMs(u64),
    /// Never to be delivered again.
    Never,
}

/// Tells the broker how a delivery ends. Not a fence: the compare-and-set publish before it is.
pub(crate) async fn settle(bus: &Bus, ack: Option<&str>, how: Settle) {
    let Some(ack) = ack else { return };
    let body = match how {
        Settle::Done => "+ACK".to_owned(),
        Settle::InProgress => "+WPI".to_owned(),
        Settle::GiveBack => "-NAK".to_owned(),
        Settle::RetryMs(ms) => format!("-NAK {}", json!({ "delay": ms * 1_000_000 })),
        Settle::Never => "+TERM".to_owned(),
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "an ack: if it is lost the broker delivers again"
    )]
    let sent = bus.client().publish(ack.to_owned(), body.into()).await;
    if let Err(error) = sent {
        warn!(%error, "ack not sent; the job will be delivered again");
    }
}
