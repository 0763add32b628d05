//! The dispatcher of one pool.
//!
//! A tenant is worth asking (`hot`) in a class when one of its events was heard or its last answer
//! said that more waits; every other one (`cold`) is asked once a second, and a class before its hot
//! ones as well: what comes back by itself says nothing. Nobody waits for an answer: a tenant without
//! work, or at its cap, is silent until its pull expires, and costs the others little. Which hot tenant is asked the shares say; of its classes always the first hot one, so
//! `low` waits for as long as there is anything else. Work for a worker that has gone is given back
//! at once.

use super::{Ask, Row, Rows, Settle, Task, Told, settle, standing::Standings};
use crate::shares::Shares;
use async_nats::Message;
use futures::StreamExt as _;
use hotcell_schemas::{
    JobId, PoolId, Subject, TenantId,
    routes::{self, StreamId},
    tenancy::Priority,
};
use hotcell_stage::{Bus, Shutdown, clock};
use serde_json::json;
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    iter, mem,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout_at},
};
use tracing::warn;

/// Jobs taken from one tenant in one turn at most.
const TURN_MAX: usize = 16;

/// A pull is answered by nothing after this long, in milliseconds. A tenant at its cap answers only
/// then.
const PULL_MS: u64 = 50;

/// A pull that brings work does so within this long, in milliseconds, also on a busy machine; one
/// that is silent for longer no longer keeps its worker from other tenants. A tenant that was silent
/// is at its cap, most likely: until it brings work or one of its attempts ends it is asked beside
/// the others and not before them.
const QUIET_MS: u64 = 10;

/// Cold tenants asked at once: with [`PULL_MS`] 320 each second.
const COLD_MAX: usize = 16;

/// Every tenant is asked this often while workers wait, in milliseconds: lapsed leases come back
/// without an event that could be heard.
const SWEEP_MS: u64 = 1000;

/// Pulls of one tenant that are out at once: workers that ask in the same moment must not be given
/// to another only because its answer is on its way.
const PULLS_MAX: usize = 8;

/// One flag for each class.
type Classes = [bool; Priority::ALL.len()];

/// A tenant that was asked and has not answered in full.
struct Pull {
    turn: u64,
    class: Priority,
    asked: Instant,
    /// Jobs that may still come.
    left: usize,
    is_cold: bool,
    /// How often the tenant was stirred before.
    stirs: u64,
    /// One of its attempts had just ended: there was room for whatever waited.
    has_room: bool,
}

/// What is known of one tenant's work here.
#[derive(Default)]
struct Lane {
    /// Worth asking.
    hot: Classes,
    /// Jobs that wait, as far as is known: worth asking again when an attempt ends.
    backlog: [u64; Priority::ALL.len()],
    /// Stirred so often.
    stirs: u64,
    /// One of its attempts ended since it was last asked.
    has_room: bool,
    pulls: Vec<Pull>,
    /// It was silent, and nothing says yet that it is no more.
    is_doubtful: bool,
    /// Not to be asked before, by class.
    held: [Option<Instant>; Priority::ALL.len()],
}

pub(super) struct Pool {
    bus: Bus,
    pool: PoolId,
    waiting: VecDeque<(oneshot::Sender<Task>, Instant)>,
    lanes: BTreeMap<TenantId, Lane>,
    cold: VecDeque<(TenantId, Priority)>,
    shares: Shares,
    turn: u64,
    /// Whose turn is whose, of the pulls that are out.
    turns: HashMap<u64, TenantId>,
    tenants: Rows,
    reread: Arc<Notify>,
    standings: Arc<Standings>,
}

fn first(classes: &Classes) -> Option<Priority> {
    Priority::ALL.into_iter().zip(classes).find(|(_, flag)| **flag).map(|(class, _)| class)
}

fn of<T>(classes: &mut [T; Priority::ALL.len()], class: Priority) -> &mut T {
    let [high, normal, low] = classes;
    match class {
        Priority::High => high,
        Priority::Normal => normal,
        Priority::Low => low,
    }
}

impl Lane {
    /// Whether nothing asks for the class or for one before it, and nothing is about to: only a sweep
    /// does.
    fn is_cold(&self, class: Priority) -> bool {
        let is_out = self.pulls.iter().any(|pull| pull.class == class);
        !is_out && first(&self.hot).is_none_or(|hot| hot > class)
    }

    /// Its questions that are out because it is worth asking.
    fn asked(&self) -> impl Iterator<Item = &Pull> {
        self.pulls.iter().filter(|pull| !pull.is_cold)
    }

    /// The class to ask it for now: the first that is worth it. A class that is silent has its
    /// question out already. A sweep's question holds no other one up.
    fn next_class(&self, now: Instant) -> Option<Priority> {
        let pulls_max = if self.is_doubtful { 1 } else { PULLS_MAX };
        if self.asked().count() >= pulls_max {
            return None;
        }
        let mut hot = self.hot;
        for (hot, held) in hot.iter_mut().zip(self.held) {
            *hot &= held.is_none();
        }
        for pull in self.pulls.iter().filter(|pull| pull.has_been(QUIET_MS, now)) {
            *of(&mut hot, pull.class) = false;
        }
        first(&hot)
    }

    /// Jobs that its answers may bring.
    fn promised(&self) -> usize {
        self.asked().map(|pull| pull.left).sum()
    }

    fn stir(&mut self, class: Priority) {
        self.stirs += 1;
        *of(&mut self.hot, class) = true;
        let backlog = of(&mut self.backlog, class);
        *backlog = backlog.saturating_add(1);
    }
}

impl Pull {
    fn has_been(&self, ms: u64, now: Instant) -> bool {
        now.saturating_duration_since(self.asked) >= Duration::from_millis(ms)
    }
}

impl Pool {
    pub(super) fn new(
        bus: Bus,
        pool: PoolId,
        (tenants, reread): (Rows, Arc<Notify>),
        standings: Arc<Standings>,
    ) -> Self {
        Self {
            bus,
            pool,
            waiting: VecDeque::new(),
            lanes: BTreeMap::new(),
            cold: VecDeque::new(),
            shares: Shares::default(),
            turn: 0,
            turns: HashMap::new(),
            tenants,
            reread,
            standings,
        }
    }

    pub(super) async fn run(mut self, mut told: mpsc::Receiver<Told>, shutdown: Shutdown) {
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
        self.learn();
        loop {
            self.forget_the_gone();
            while let Some((tenant, class, share, is_cold)) = self.next_turn() {
                self.ask(tenant, class, share, is_cold, &inbox).await;
            }
            let is_owed = !self.waiting.is_empty() && !self.is_silent();
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
                Ok(()) = self.tenants.changed() => {
                    self.learn();
                    self.sweep();
                }
                () = sleep(Duration::from_millis(QUIET_MS)), if is_owed => {}
                () = shutdown.begun() => break,
            }
        }
        // What the last pulls bring goes to another replica at once, and not after a whole lease.
        self.waiting.clear();
        let until = Instant::now() + Duration::from_millis(PULL_MS * 2);
        while let Ok(Some(reply)) = timeout_at(until, replies.next()).await {
            self.hear(reply).await;
        }
    }

    /// Whether nobody with a share is left to ask, now or when a hold ends.
    fn is_silent(&self) -> bool {
        let hot = |(tenant, lane): (&TenantId, &Lane)| {
            first(&lane.hot).is_some() && self.shares.weight(tenant) > 0
        };
        self.cold.is_empty() && !self.lanes.iter().any(hot)
    }

    /// Takes the list of tenants over.
    fn learn(&mut self) {
        let rows = self.tenants.borrow_and_update().clone();
        let mine = |row: &&Row| row.pools.contains(&self.pool);
        let known: HashMap<&TenantId, &Row> =
            rows.iter().filter(mine).map(|row| (&row.id, row)).collect();
        for (tenant, row) in &known {
            self.shares.enter(tenant, row.weight, row.mean_ms);
        }
        self.shares.keep(|tenant| known.contains_key(tenant));
        self.lanes.retain(|tenant, lane| known.contains_key(tenant) || !lane.pulls.is_empty());
    }

    /// Workers that have gone, holds that are over, and pulls whose last answer was lost.
    fn forget_the_gone(&mut self) {
        let now = Instant::now();
        self.waiting.retain(|(give, until)| !give.is_closed() && *until > now);
        let mut lost = Vec::new();
        for (tenant, lane) in &mut self.lanes {
            lane.held = lane.held.map(|held| held.filter(|until| *until > now));
            let gone = lane.pulls.iter().filter(|pull| pull.has_been(PULL_MS * 4, now));
            lost.extend(gone.map(|pull| (tenant.clone(), pull.turn)));
        }
        for (tenant, turn) in lost {
            self.ended(&tenant, turn);
        }
    }

    /// Whom to ask now, in which class, for how many jobs, and whether it is cold.
    fn next_turn(&mut self) -> Option<(TenantId, Priority, usize, bool)> {
        if self.waiting.is_empty() {
            return None;
        }
        let now = Instant::now();
        let out = self.lanes.values();
        let out = out.flat_map(|lane| lane.pulls.iter().map(|pull| (lane.is_doubtful, pull)));
        let (mut owed, mut cold) = (0, 0);
        for (is_doubtful, pull) in out {
            if pull.is_cold {
                cold += 1;
            } else if !is_doubtful && !pull.has_been(QUIET_MS, now) {
                owed += pull.left;
            }
        }
        let free = self.waiting.len().saturating_sub(owed);
        if free > 0 {
            let askable = self.lanes.iter().filter(|(_, lane)| lane.next_class(now).is_some());
            let askable = askable.map(|(tenant, lane)| (tenant, lane.promised()));
            if let Some((tenant, turns)) = self.shares.next(askable, free) {
                let tenant = tenant.clone();
                let class = self.lanes.get(&tenant)?.next_class(now)?;
                return Some((tenant, class, turns.clamp(1, TURN_MAX), false));
            }
        }
        if cold >= COLD_MAX {
            return None;
        }
        let is_cold = |(tenant, class): &(TenantId, Priority)| {
            let lane = self.lanes.get(tenant);
            self.shares.weight(tenant) > 0 && lane.is_none_or(|lane| lane.is_cold(*class))
        };
        let next = iter::from_fn(|| self.cold.pop_front()).find(is_cold);
        next.map(|(tenant, class)| (tenant, class, 1, true))
    }

    fn note(&mut self, told: Told) {
        match told {
            Told::Asked(Ask::Work(give, until)) => self.waiting.push_back((give, until)),
            Told::Asked(Ask::Back(tenant, class, job, ms)) => {
                self.shares.ended(&tenant, &job, None);
                let lane = self.lanes.entry(tenant).or_default();
                lane.stir(class);
                *of(&mut lane.held, class) =
                    (ms > 0).then(|| Instant::now() + Duration::from_millis(ms));
            }
            Told::Asked(Ask::Unneeded(tenant, job)) => self.shares.ended(&tenant, &job, None),
            Told::Stirs(tenant, class) => {
                let weight = self.shares.weight(&tenant);
                if weight == 0 {
                    // Not served, or made a moment ago: the list says.
                    self.reread.notify_one();
                }
                self.standings.busy(&tenant, weight);
                self.lanes.entry(tenant).or_default().stir(class);
            }
            Told::Ends(tenant, job, cost_ms) => {
                self.shares.ended(&tenant, &job, cost_ms);
                let lane = self.lanes.entry(tenant).or_default();
                (lane.held, lane.is_doubtful, lane.has_room) = ([None; 3], false, true);
                lane.stirs += 1;
                for (hot, backlog) in lane.hot.iter_mut().zip(lane.backlog) {
                    *hot |= backlog > 0;
                }
            }
        }
    }

    /// Every tenant is to be asked once, class by class until one that is asked anyway. Those whose
    /// turn has not come since the last time keep their places: with many tenants a round takes
    /// longer than [`SWEEP_MS`], and the last of them is not to be left out.
    fn sweep(&mut self) {
        let rows = self.tenants.borrow().clone();
        let queued: HashSet<TenantId> =
            self.cold.iter().map(|(tenant, _)| tenant.clone()).collect();
        let is_due = |row: &&Row| {
            let is_asked = |lane: &Lane| lane.pulls.iter().any(|pull| pull.is_cold);
            let is_mine = row.weight > 0 && row.pools.contains(&self.pool);
            is_mine && !queued.contains(&row.id) && !self.lanes.get(&row.id).is_some_and(is_asked)
        };
        let due = rows.iter().filter(is_due);
        self.cold.extend(due.map(|row| (row.id.clone(), Priority::ALL[0])));
    }

    /// Asks one tenant's consumer.
    async fn ask(
        &mut self,
        tenant: TenantId,
        class: Priority,
        share: usize,
        is_cold: bool,
        inbox: &str,
    ) {
        self.turn += 1;
        let stream = StreamId::Jobs.as_str();
        let consumer = routes::work_consumer(&self.pool, &tenant, class);
        let ask = json!({
            "batch": share, "no_wait": true, "expires": PULL_MS * 1_000_000,
        });
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        let reply = format!("{inbox}.{}", self.turn);
        let sent =
            self.bus.client().publish_with_reply(subject, reply, ask.to_string().into()).await;
        if let Err(error) = sent {
            // It counts as asked until its time is over, or it would be asked again at once.
            warn!(%error, "pull not sent");
        }
        let (turn, asked) = (self.turn, Instant::now());
        let lane = self.lanes.entry(tenant.clone()).or_default();
        let (stirs, has_room) = (lane.stirs, !is_cold && mem::take(&mut lane.has_room));
        lane.pulls.push(Pull { turn, class, asked, left: share, is_cold, stirs, has_room });
        self.turns.insert(turn, tenant);
    }

    /// A status ends the pull whose token its subject ends with; anything else is a job.
    async fn hear(&mut self, message: Message) {
        if message.status.is_none() {
            self.give(message).await;
            return;
        }
        let turn = message.subject.rsplit('.').next().and_then(|word| word.parse::<u64>().ok());
        let tenant = turn.and_then(|turn| Some((turn, self.turns.get(&turn)?.clone())));
        if let Some((turn, tenant)) = tenant {
            self.ended(&tenant, turn);
        }
    }

    /// The tenant's pull is over and brought less than was asked: nothing waits, or the tenant is at
    /// its cap. Unless it was stirred since, there is no use in asking again.
    fn ended(&mut self, tenant: &TenantId, turn: u64) {
        self.turns.remove(&turn);
        let Some(lane) = self.lanes.get_mut(tenant) else { return };
        let Some(index) = lane.pulls.iter().position(|pull| pull.turn == turn) else { return };
        let pull = lane.pulls.swap_remove(index);
        lane.is_doubtful |= !pull.is_cold;
        if lane.stirs == pull.stirs {
            *of(&mut lane.hot, pull.class) = false;
            if pull.has_room {
                *of(&mut lane.backlog, pull.class) = 0;
            }
        }
        let next = Priority::ALL.into_iter().find(|class| *class > pull.class);
        if let Some(next) = next.filter(|_| pull.is_cold) {
            self.cold.push_front((tenant.clone(), next));
        }
    }

    /// Hands a job to who waits, or back to the broker.
    async fn give(&mut self, message: Message) {
        let named = message.subject.parse::<Subject>().ok();
        let named = named.and_then(|name| Some((name.tenant()?, name.job_id()?, name.class())));
        let Some((tenant, job, class)) = named else {
            settle(&self.bus, message.reply.as_deref(), Settle::Never).await;
            return;
        };
        let told = Delivery::of(message.reply.as_deref());
        let lane = self.lanes.entry(tenant.clone()).or_default();
        lane.is_doubtful = false;
        // The broker answers the pulls of a consumer in their order.
        let oldest = lane.pulls.iter_mut().filter(|pull| pull.class == class);
        let mut is_stirred = true;
        if let Some(pull) = oldest.min_by_key(|pull| pull.turn) {
            pull.left = pull.left.saturating_sub(1);
            is_stirred = lane.stirs != pull.stirs;
            if pull.left == 0 {
                let turn = pull.turn;
                lane.pulls.retain(|pull| pull.turn != turn);
                self.turns.remove(&turn);
            }
        }
        // What was heard since may not be in the broker's count.
        let waits = told.as_ref().is_none_or(|told| told.pending > 0);
        *of(&mut lane.hot, class) = waits || is_stirred;
        *of(&mut lane.backlog, class) =
            told.as_ref().map_or(1, |told| told.pending + u64::from(is_stirred));
        let mut task = Task { tenant, job, message };
        while let Some((give, _)) = self.waiting.pop_front() {
            let (tenant, job): (TenantId, JobId) = (task.tenant.clone(), task.job.clone());
            match give.send(task) {
                Ok(()) => {
                    self.shares.given(&tenant, &job, clock::now());
                    self.standings.busy(&tenant, self.shares.weight(&tenant));
                    if let Some(told) = told.filter(|told| told.is_first) {
                        self.standings.waited(&tenant, told.age_ms);
                    }
                    return;
                }
                Err(back) => task = back,
            }
        }
        // It has lost its turn to whoever was quicker.
        settle(&self.bus, task.message.reply.as_deref(), Settle::GiveBack).await;
        self.lanes.entry(task.tenant).or_default().stir(class);
    }
}

/// What the broker's own subject of a delivery says:
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<seq>.<seq>.<time in ns>.<pending>`.
struct Delivery {
    /// It was never delivered before.
    is_first: bool,
    /// Since it was stored, in milliseconds.
    age_ms: u64,
    /// More that wait behind it.
    pending: u64,
}

impl Delivery {
    fn of(ack: Option<&str>) -> Option<Self> {
        let words: Vec<&str> = ack?.split('.').collect();
        let ["$JS", "ACK", _, _, delivered, _, _, stored, pending, ..] = words.as_slice() else {
            return None;
        };
        let stored_ms = stored.parse::<u64>().ok()? / 1_000_000;
        Some(Self {
            is_first: *delivered == "1",
            age_ms: clock::now().0.saturating_sub(stored_ms),
            pending: pending.parse().ok()?,
        })
    }
}
