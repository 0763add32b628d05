//! Denials and challenges, on their way to the audit log. Promises: no principal can make the log
//! grow faster than [`PER_PRINCIPAL_MAX`] records a second, nor all of them together faster than
//! [`PER_SEC_MAX`]; one that floods does not keep another's from being recorded; what is not
//! recorded one by one is counted, and the count is recorded. Nobody waits for it.

use hotcell_schemas::{
    Role, TenantId,
    job::Actor,
    records::{AuditAct, Refusal},
};
use hotcell_stage::{Bus, Outgoing, Shutdown, service::describe};
use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::MissedTickBehavior,
};
use tracing::warn;

/// Decisions of one principal recorded one by one in a second: a program that tries every sensitive
/// route in a row is seen whole, a flood is not.
pub const PER_PRINCIPAL_MAX: u32 = 16;

/// Decisions of all principals recorded one by one in a second: sixteen that flood at once, and as
/// many again that do not.
pub const PER_SEC_MAX: u32 = 512;

/// Decisions that wait to be recorded: one second's worth.
const QUEUE_MAX: usize = 512;

/// One decision.
#[derive(Debug)]
struct Note {
    tenant: TenantId,
    act: AuditAct,
    id: String,
}

/// What was taken within the running second.
#[derive(Debug)]
struct Second {
    began: Instant,
    all: u32,
    by: HashMap<String, u32>,
}

/// Takes notes.
#[derive(Debug)]
pub struct Decisions {
    queue: Sender<Note>,
    second: Mutex<Second>,
    dropped: AtomicU64,
}

/// Writes them down.
#[derive(Debug)]
pub struct Recorder {
    queue: Receiver<Note>,
}

/// A taker and its writer.
#[must_use]
pub fn decisions() -> (Decisions, Recorder) {
    let (sender, receiver) = channel(QUEUE_MAX);
    let second = Second { began: Instant::now(), all: 0, by: HashMap::new() };
    let taker = Decisions { queue: sender, second: Mutex::new(second), dropped: AtomicU64::new(0) };
    (taker, Recorder { queue: receiver })
}

impl Second {
    fn takes(&mut self, who: String, now: Instant) -> bool {
        if now.duration_since(self.began) >= Duration::from_secs(1) {
            *self = Self { began: now, all: 0, by: HashMap::new() };
        }
        if self.all >= PER_SEC_MAX {
            return false;
        }
        let own = self.by.entry(who).or_default();
        if *own >= PER_PRINCIPAL_MAX {
            return false;
        }
        *own += 1;
        self.all += 1;
        true
    }
}

/// A principal as one text.
fn name(tenant: &TenantId, actor: &Actor) -> String {
    match actor {
        Actor::ApiKey { id } => format!("{tenant}/key/{id}"),
        Actor::NatsLogin { user, .. } => format!("{tenant}/login/{user}"),
        Actor::User { issuer, subject } => format!("{tenant}/user/{issuer}/{subject}"),
        Actor::Service { issuer, client } => format!("{tenant}/service/{issuer}/{client}"),
    }
}

impl Decisions {
    /// Notes a decision under message id `id`; never waits.
    pub fn note(&self, tenant: &TenantId, actor: &Actor, act: AuditAct, id: String) {
        let who = name(tenant, actor);
        let takes =
            self.second.lock().unwrap_or_else(PoisonError::into_inner).takes(who, Instant::now());
        let note = Note { tenant: tenant.clone(), act, id };
        if !takes || self.queue.try_send(note).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

impl Recorder {
    /// Records until shutdown.
    pub async fn run(mut self, bus: &Bus, decisions: &Decisions, shutdown: &Shutdown) {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.begun() => break,
                _ = second.tick() => {
                    let dropped = decisions.take_dropped();
                    if dropped > 0 {
                        record(bus, None, more(dropped), random_id()).await;
                    }
                }
                note = self.queue.recv() => {
                    let Some(note) = note else { return };
                    record(bus, Some(&note.tenant), note.act, note.id).await;
                }
            }
        }
        // What was answered before the shutdown is recorded before the end.
        while let Ok(note) = self.queue.try_recv() {
            record(bus, Some(&note.tenant), note.act, note.id).await;
        }
    }
}

fn more(dropped: u64) -> AuditAct {
    AuditAct::Refused {
        by: Role::Intake,
        what: Refusal::Scope,
        subject: "policy".to_owned(),
        reason: format!("{dropped} more decisions, not recorded one by one"),
    }
}

fn random_id() -> String {
    format!("decisions.{}", hex::encode(hotcell_stage::clock::random::<16>()))
}

async fn record(bus: &Bus, tenant: Option<&TenantId>, act: AuditAct, id: String) {
    if let Err(error) = bus.publish(&Outgoing::audit(tenant, act, id)).await {
        warn!(error = %describe(&error), "a decision is not recorded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u128) -> Actor {
        Actor::ApiKey { id: format!("{n:032x}").parse().unwrap() }
    }

    #[test]
    fn step_13_a_flood_is_counted_and_the_other_s_challenge_is_recorded() {
        let (decisions, mut recorder) = decisions();
        let tenant: TenantId = "acme".parse().unwrap();
        for _ in 0..1000 {
            decisions.note(&tenant, &key(1), more(1), String::new());
        }
        decisions.note(&tenant, &key(2), more(2), "the other".to_owned());
        let mut queued = Vec::new();
        while let Ok(note) = recorder.queue.try_recv() {
            queued.push(note.id);
        }
        assert_eq!(queued.len(), PER_PRINCIPAL_MAX as usize + 1);
        assert_eq!(queued.last().unwrap(), "the other");
        assert_eq!(decisions.take_dropped(), 1000 - u64::from(PER_PRINCIPAL_MAX));
    }

    #[test]
    fn a_second_begins_anew_and_all_together_have_a_bound() {
        let now = Instant::now();
        let mut second = Second { began: now, all: 0, by: HashMap::new() };
        let taken = (0..2000).filter(|n| second.takes(n.to_string(), now)).count();
        assert_eq!(taken, PER_SEC_MAX as usize);
        assert!(second.takes("x".to_owned(), now + Duration::from_secs(1)));
    }
}
