//! Work on its way to workers: one dispatcher for each pool takes validated jobs from the tenants'
//! consumers, tenant by tenant in turn, and hands each to a worker that waits.
//!
//! State here is a hint and may be lost: the broker holds the work, its caps and its leases. A
//! tenant is worth asking (`hot`) when one of its events was heard, when its last answer brought
//! work, or once a second. Work for a worker that has gone is given back at once.

use async_nats::{Message, Subscriber};
use futures::StreamExt as _;
use hotcell_schemas::{
    EventKind, JobId, PoolId, Subject, TenantId,
    routes::{self, StreamId},
};
use hotcell_stage::{Bus, ServiceError, Shutdown};
use serde_json::json;
use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tracing::{debug, warn};

/// Waiting workers and heard events that may queue for one dispatcher.
const INBOX_MAX: usize = 4096;

/// Jobs taken from one tenant in one turn at most.
const TURN_MAX: usize = 16;

/// The broker answers a pull within this long, in milliseconds. A tenant at its cap answers only
/// then, so the value bounds what one such tenant costs the others.
const PULL_MS: u64 = 50;

/// Every tenant is asked this often while workers wait, in milliseconds: lapsed leases come back
/// without an event that could be heard.
const SWEEP_MS: u64 = 1000;

/// The list of tenants is read this often, in seconds.
const TENANTS_SECS: u64 = 5;

/// A validated job from a tenant's consumer, not yet acked.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) tenant: TenantId,
    pub(crate) job: JobId,
    pub(crate) message: Message,
}

/// What a dispatcher is told.
enum Told {
    /// A worker waits until the instant.
    Waits(oneshot::Sender<Task>, Instant),
    /// The tenant may have work, or room under its cap.
    Stirs(TenantId),
}

/// Where handlers ask for work.
pub(crate) struct Queues {
    ask: mpsc::Sender<(PoolId, oneshot::Sender<Task>, Instant)>,
}

/// Owns the pools' dispatchers and hears the events that stir them.
pub(crate) struct Dispatcher {
    bus: Bus,
    asked: mpsc::Receiver<(PoolId, oneshot::Sender<Task>, Instant)>,
    pools: HashMap<PoolId, mpsc::Sender<Told>>,
    tasks: JoinSet<()>,
}

impl Queues {
    pub(crate) fn new(bus: Bus) -> (Self, Dispatcher) {
        let (ask, asked) = mpsc::channel(INBOX_MAX);
        let dispatcher = Dispatcher { bus, asked, pools: HashMap::new(), tasks: JoinSet::new() };
        (Self { ask }, dispatcher)
    }

    /// The next job of `pool`, or `None` when there is none until `until`.
    pub(crate) async fn take(&self, pool: &PoolId, until: Instant) -> Option<Task> {
        let (give, given) = oneshot::channel();
        self.ask.try_send((pool.clone(), give, until)).ok()?;
        tokio::time::timeout_at(until, given).await.ok()?.ok()
    }
}

impl Dispatcher {
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), ServiceError> {
        let heard =
            ["job.validated", "job.encoded", "job.attempt_failed", "job.failed", "job.cancelled"];
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
                    let Some((pool, give, until)) = asked else { break };
                    self.tell(pool, Told::Waits(give, until), &shutdown);
                }
                event = events.next() => {
                    let Some(event) = event else { break };
                    self.hear(&event, &shutdown);
                }
                () = shutdown.begun() => break,
            }
        }
        self.pools.clear();
        while self.tasks.join_next().await.is_some() {}
        Ok(())
    }

    /// A validated job stirs its tenant in its pool; an ended attempt stirs it in every pool.
    fn hear(&mut self, event: &Message, shutdown: &Shutdown) {
        let Ok(subject) = event.subject.parse::<Subject>() else { return };
        let Some(tenant) = subject.tenant() else { return };
        if subject.route().event() == Some(EventKind::Validated) {
            if let Some(pool) = subject.pool() {
                self.tell(pool, Told::Stirs(tenant), shutdown);
            }
            return;
        }
        for pool in self.pools.values() {
            if pool.try_send(Told::Stirs(tenant.clone())).is_err() {
                debug!("a dispatcher is busy; its sweep will find the work");
            }
        }
    }

    fn tell(&mut self, pool: PoolId, told: Told, shutdown: &Shutdown) {
        let entry = self.pools.entry(pool.clone()).or_insert_with(|| {
            let (send, receive) = mpsc::channel(INBOX_MAX);
            let pool = Pool::new(self.bus.clone(), pool);
            self.tasks.spawn(pool.run(receive, shutdown.clone()));
            send
        });
        if entry.try_send(told).is_err() {
            debug!("a dispatcher is busy; workers will ask again");
        }
    }
}

/// The dispatcher of one pool.
struct Pool {
    bus: Bus,
    pool: PoolId,
    waiting: VecDeque<(oneshot::Sender<Task>, Instant)>,
    hot: VecDeque<TenantId>,
    tenants: Vec<TenantId>,
}

impl Pool {
    fn new(bus: Bus, pool: PoolId) -> Self {
        Self { bus, pool, waiting: VecDeque::new(), hot: VecDeque::new(), tenants: Vec::new() }
    }

    async fn run(mut self, mut told: mpsc::Receiver<Told>, shutdown: Shutdown) {
        // One inbox for all pulls: messages keep their own subject, so a token tells them apart.
        let inbox = self.bus.client().new_inbox();
        let mut replies = match self.bus.client().subscribe(format!("{inbox}.*")).await {
            Ok(replies) => replies,
            Err(error) => {
                warn!(%error, pool = %self.pool, "dispatcher has no inbox");
                return;
            }
        };
        let mut sweep = interval(Duration::from_millis(SWEEP_MS));
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut turn, mut refreshed) = (0_u64, None::<Instant>);
        loop {
            self.waiting.retain(|(give, until)| !give.is_closed() && *until > Instant::now());
            if let Some(tenant) = self.next_turn() {
                turn += 1;
                let got = self.pull(&tenant, &format!("{inbox}.{turn}"), &mut replies).await;
                if got && !self.hot.contains(&tenant) {
                    self.hot.push_back(tenant);
                }
                while let Ok(told) = told.try_recv() {
                    self.note(told);
                }
                if shutdown.has_begun() {
                    return;
                }
                continue;
            }
            tokio::select! {
                told = told.recv() => match told {
                    Some(told) => self.note(told),
                    None => return,
                },
                _ = sweep.tick() => {
                    if refreshed.is_none_or(|at| at.elapsed().as_secs() >= TENANTS_SECS) {
                        refreshed = Some(Instant::now());
                        self.refresh().await;
                    }
                    if !self.waiting.is_empty() {
                        for tenant in self.tenants.clone() {
                            self.note(Told::Stirs(tenant));
                        }
                    }
                }
                // An answer that came after its pull was given up: fresh now, stale if it waited.
                late = replies.next() => match late {
                    Some(late) if late.status.is_none() => self.give(late).await,
                    Some(_) => {}
                    None => return,
                },
                () = shutdown.begun() => return,
            }
        }
    }

    fn next_turn(&mut self) -> Option<TenantId> {
        if self.waiting.is_empty() { None } else { self.hot.pop_front() }
    }

    fn note(&mut self, told: Told) {
        match told {
            Told::Waits(give, until) => self.waiting.push_back((give, until)),
            Told::Stirs(tenant) if !self.hot.contains(&tenant) => self.hot.push_back(tenant),
            Told::Stirs(_) => {}
        }
    }

    async fn refresh(&mut self) {
        match self.bus.bucket("tenants").scan::<serde::de::IgnoredAny>("").await {
            Ok(entries) => {
                let slugs = entries.iter().filter_map(|entry| entry.key.parse().ok());
                self.tenants = slugs.collect();
            }
            Err(error) => warn!(%error, "tenants not listed"),
        }
    }

    /// Asks one tenant's consumer; gives what comes to who waits. True when work came.
    async fn pull(&mut self, tenant: &TenantId, reply: &str, replies: &mut Subscriber) -> bool {
        let share = self.waiting.len().div_ceil(self.hot.len() + 1).clamp(1, TURN_MAX);
        let stream = StreamId::Jobs.as_str();
        let consumer = routes::work_consumer(&self.pool, tenant);
        let ask = json!({
            "batch": share, "no_wait": true, "expires": PULL_MS * 1_000_000,
        });
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        let sent = self
            .bus
            .client()
            .publish_with_reply(subject, reply.to_owned(), ask.to_string().into())
            .await;
        if let Err(error) = sent {
            warn!(%error, "pull not sent");
            return false;
        }
        let mut got = 0;
        let patience = Duration::from_millis(PULL_MS * 4);
        while got < share {
            let Ok(Some(message)) = timeout(patience, replies.next()).await else { break };
            // A status carries the inbox it answers; one of an earlier pull says nothing here.
            if message.status.is_some() && message.subject.as_str() == reply {
                break;
            }
            if message.status.is_none() {
                got += 1;
                self.give(message).await;
            }
        }
        got > 0
    }

    /// Hands a job to who waits, or back to the broker.
    async fn give(&mut self, message: Message) {
        let named = message.subject.parse::<Subject>().ok();
        let named = named.and_then(|subject| Some((subject.tenant()?, subject.job_id()?)));
        let Some((tenant, job)) = named else {
            settle(&self.bus, message.reply.as_deref(), Settle::Never).await;
            return;
        };
        let mut task = Task { tenant, job, message };
        while let Some((give, _)) = self.waiting.pop_front() {
            match give.send(task) {
                Ok(()) => return,
                Err(back) => task = back,
            }
        }
        settle(&self.bus, task.message.reply.as_deref(), Settle::GiveBack).await;
    }
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
