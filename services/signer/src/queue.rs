//! Work on its way to workers: one dispatcher for each pool takes validated jobs from the tenants'
//! consumers, tenant by tenant in turn, and hands each to a worker that waits.
//!
//! State here is a hint and may be lost: the broker holds the work, its caps and its leases. A
//! tenant is worth asking (`hot`) when one of its events was heard or its last answer brought work;
//! every other one (`cold`) is asked once a second. Nobody waits for an answer: a tenant without
//! work, or at its cap, is silent until its pull expires, and costs the others nothing. Work for a
//! worker that has gone is given back at once.

use async_nats::Message;
use futures::StreamExt as _;
use hotcell_schemas::{
    EventKind, JobId, PoolId, Subject, TenantId,
    routes::{self, StreamId},
    tenancy::Priority,
};
use hotcell_stage::{Bus, ServiceError, Shutdown};
use serde_json::json;
use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout_at},
};
use tracing::{debug, warn};

/// Waiting workers and heard events that may queue for one dispatcher.
const INBOX_MAX: usize = 4096;

/// Jobs taken from one tenant in one turn at most.
const TURN_MAX: usize = 16;

/// A pull is answered by nothing after this long, in milliseconds. A tenant at its cap answers only
/// then.
const PULL_MS: u64 = 50;

/// A pull that brings work does so within this long, in milliseconds; one that is silent for longer
/// no longer keeps its worker from other tenants.
const QUIET_MS: u64 = 3;

/// Cold tenants asked at once: with [`PULL_MS`] 320 each second.
const COLD_MAX: usize = 16;

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
    tenants: watch::Receiver<Vec<TenantId>>,
    tasks: JoinSet<()>,
}

impl Queues {
    pub(crate) fn new(bus: Bus) -> (Self, Dispatcher) {
        let (ask, asked) = mpsc::channel(INBOX_MAX);
        let (list, tenants) = watch::channel(Vec::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(list_tenants(bus.clone(), list));
        let dispatcher = Dispatcher { bus, asked, pools: HashMap::new(), tenants, tasks };
        (Self { ask }, dispatcher)
    }

    /// The next job of `pool`, or `None` when there is none until `until`.
    pub(crate) async fn take(&self, pool: &PoolId, until: Instant) -> Option<Task> {
        let (give, mut given) = oneshot::channel();
        self.ask.try_send((pool.clone(), give, until)).ok()?;
        match timeout_at(until, &mut given).await {
            Ok(task) => task.ok(),
            // A task may have come in the same moment; closed, none can come after the look.
            Err(_) => {
                given.close();
                given.try_recv().ok()
            }
        }
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
        drop(self.tenants);
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
            let pool = Pool::new(self.bus.clone(), pool, self.tenants.clone());
            self.tasks.spawn(pool.run(receive, shutdown.clone()));
            send
        });
        if entry.try_send(told).is_err() {
            debug!("a dispatcher is busy; workers will ask again");
        }
    }
}

/// Reads the list of tenants again and again, until nobody wants it.
async fn list_tenants(bus: Bus, list: watch::Sender<Vec<TenantId>>) {
    loop {
        match bus.bucket("tenants").scan::<serde::de::IgnoredAny>("").await {
            Ok(entries) => {
                list.send_replace(entries.iter().filter_map(|e| e.key.parse().ok()).collect());
            }
            Err(error) => warn!(%error, "tenants not listed"),
        }
        tokio::select! {
            () = list.closed() => return,
            () = sleep(Duration::from_secs(TENANTS_SECS)) => {}
        }
    }
}

/// A tenant that was asked and has not answered in full.
struct Pull {
    turn: u64,
    tenant: TenantId,
    asked: Instant,
    /// Jobs that may still come.
    left: usize,
    is_cold: bool,
    /// It brought work, or was stirred since.
    again: bool,
}

/// The dispatcher of one pool.
struct Pool {
    bus: Bus,
    pool: PoolId,
    waiting: VecDeque<(oneshot::Sender<Task>, Instant)>,
    hot: VecDeque<TenantId>,
    cold: VecDeque<TenantId>,
    out: Vec<Pull>,
    turn: u64,
    tenants: watch::Receiver<Vec<TenantId>>,
}

impl Pool {
    fn new(bus: Bus, pool: PoolId, tenants: watch::Receiver<Vec<TenantId>>) -> Self {
        let (waiting, hot, cold) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        Self { bus, pool, waiting, hot, cold, out: Vec::new(), turn: 0, tenants }
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
        loop {
            self.forget_the_gone();
            while let Some((tenant, share, is_cold)) = self.next_turn() {
                self.ask(tenant, share, is_cold, &inbox).await;
            }
            let is_silent = self.hot.is_empty() && self.cold.is_empty();
            let is_owed = !self.waiting.is_empty() && !is_silent;
            tokio::select! {
                told = told.recv() => match told {
                    Some(told) => self.note(told),
                    None => return,
                },
                reply = replies.next() => match reply {
                    Some(reply) => self.hear(reply).await,
                    None => return,
                },
                _ = sweep.tick() => self.sweep(),
                // When the list is first read, work may wait that was published before our start.
                Ok(()) = self.tenants.changed() => self.sweep(),
                () = sleep(Duration::from_millis(QUIET_MS)), if is_owed => {}
                () = shutdown.begun() => return,
            }
        }
    }

    /// Workers that have gone, and pulls whose last answer was lost.
    fn forget_the_gone(&mut self) {
        let now = Instant::now();
        self.waiting.retain(|(give, until)| !give.is_closed() && *until > now);
        while let Some(index) = self.out.iter().position(|pull| pull.has_been(PULL_MS * 4, now)) {
            let pull = self.out.swap_remove(index);
            self.ended(pull);
        }
    }

    /// Whom to ask now, for how many jobs, and whether it is cold.
    fn next_turn(&mut self) -> Option<(TenantId, usize, bool)> {
        let now = Instant::now();
        let owed = self.out.iter().filter(|pull| !pull.is_cold && !pull.has_been(QUIET_MS, now));
        let free = self.waiting.len().saturating_sub(owed.map(|pull| pull.left).sum());
        if free > 0
            && let Some(tenant) = self.hot.pop_front()
        {
            let share = free.div_ceil(self.hot.len() + 1).clamp(1, TURN_MAX);
            return Some((tenant, share, false));
        }
        let cold = self.out.iter().filter(|pull| pull.is_cold).count();
        if self.waiting.is_empty() || cold >= COLD_MAX {
            return None;
        }
        self.cold.pop_front().map(|tenant| (tenant, 1, true))
    }

    fn note(&mut self, told: Told) {
        match told {
            Told::Waits(give, until) => self.waiting.push_back((give, until)),
            Told::Stirs(tenant) => self.stir(tenant),
        }
    }

    fn stir(&mut self, tenant: TenantId) {
        if let Some(pull) = self.out.iter_mut().find(|pull| pull.tenant == tenant) {
            pull.again = true;
        } else if !self.hot.contains(&tenant) {
            self.cold.retain(|other| *other != tenant);
            self.hot.push_back(tenant);
        }
    }

    /// Every tenant that is not to be asked anyway is to be asked once.
    fn sweep(&mut self) {
        let tenants = self.tenants.borrow().clone();
        let known = |tenant: &TenantId| {
            self.hot.contains(tenant) || self.out.iter().any(|pull| pull.tenant == *tenant)
        };
        self.cold = tenants.into_iter().filter(|tenant| !known(tenant)).collect();
    }

    /// Asks one tenant's consumer.
    async fn ask(&mut self, tenant: TenantId, share: usize, is_cold: bool, inbox: &str) {
        self.turn += 1;
        let stream = StreamId::Jobs.as_str();
        let consumer = routes::work_consumer(&self.pool, &tenant, Priority::Normal);
        let ask = json!({
            "batch": share, "no_wait": true, "expires": PULL_MS * 1_000_000,
        });
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        let reply = format!("{inbox}.{}", self.turn);
        let sent =
            self.bus.client().publish_with_reply(subject, reply, ask.to_string().into()).await;
        if let Err(error) = sent {
            warn!(%error, "pull not sent");
            return;
        }
        let (turn, asked) = (self.turn, Instant::now());
        self.out.push(Pull { turn, tenant, asked, left: share, is_cold, again: false });
    }

    /// A status ends the pull whose token its subject ends with; anything else is a job.
    async fn hear(&mut self, message: Message) {
        if message.status.is_none() {
            self.give(message).await;
            return;
        }
        let turn = message.subject.rsplit('.').next().and_then(|word| word.parse().ok());
        if let Some(index) = self.out.iter().position(|pull| Some(pull.turn) == turn) {
            let pull = self.out.swap_remove(index);
            self.ended(pull);
        }
    }

    fn ended(&mut self, pull: Pull) {
        if pull.again && !self.hot.contains(&pull.tenant) {
            self.hot.push_back(pull.tenant);
        }
    }

    /// Hands a job to who waits, or back to the broker.
    async fn give(&mut self, message: Message) {
        let named = message.subject.parse::<Subject>().ok();
        let named = named.and_then(|subject| Some((subject.tenant()?, subject.job_id()?)));
        let Some((tenant, job)) = named else {
            settle(&self.bus, message.reply.as_deref(), Settle::Never).await;
            return;
        };
        if let Some(index) = self.out.iter().position(|pull| pull.tenant == tenant)
            && let Some(pull) = self.out.get_mut(index)
        {
            (pull.left, pull.again) = (pull.left.saturating_sub(1), true);
            if pull.left == 0 {
                let pull = self.out.swap_remove(index);
                self.ended(pull);
            }
        }
        let mut task = Task { tenant, job, message };
        while let Some((give, _)) = self.waiting.pop_front() {
            match give.send(task) {
                Ok(()) => return,
                Err(back) => task = back,
            }
        }
        settle(&self.bus, task.message.reply.as_deref(), Settle::GiveBack).await;
        // It has lost its turn to whoever was quicker.
        self.hot.retain(|other| *other != task.tenant);
        if self.out.iter().all(|pull| pull.tenant != task.tenant) {
            self.hot.push_front(task.tenant);
        }
    }
}

impl Pull {
    fn has_been(&self, ms: u64, now: Instant) -> bool {
        now.saturating_duration_since(self.asked) >= Duration::from_millis(ms)
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
