//! Failed authentications, on their way to the audit log. Promises: an attacker cannot make the log
//! grow faster than [`PER_SEC_MAX`] records a second, nor make a caller wait for it; what is not
//! recorded one by one is counted, and the count is recorded.

use crate::auth::Denied;
use hotcell_schemas::{
    Role,
    records::{AuditAct, Refusal},
};
use hotcell_stage::{Bus, Outgoing, Shutdown, clock};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::MissedTickBehavior,
};
use tracing::warn;

/// Refusals recorded one by one in a second. More than a person mistypes, less than a flood needs.
pub const PER_SEC_MAX: u32 = 10;

/// Refusals that wait to be recorded: the next second's worth.
const QUEUE_MAX: usize = 10;

/// One refusal: what was asked for, by route or subject, and why not.
#[derive(Debug)]
struct Note {
    what: String,
    reason: Denied,
}

/// Takes notes.
#[derive(Debug)]
pub struct Refusals {
    queue: Sender<Note>,
    dropped: AtomicU64,
}

/// Writes them down.
#[derive(Debug)]
pub struct Recorder {
    queue: Receiver<Note>,
}

/// A taker and its writer.
#[must_use]
pub fn refusals() -> (Refusals, Recorder) {
    let (sender, receiver) = channel(QUEUE_MAX);
    (Refusals { queue: sender, dropped: AtomicU64::new(0) }, Recorder { queue: receiver })
}

impl Refusals {
    /// Notes a refusal; never waits.
    pub fn note(&self, what: &str, reason: Denied) {
        let what = what.chars().take(200).collect();
        if self.queue.try_send(Note { what, reason }).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

impl Recorder {
    /// Records until shutdown.
    pub async fn run(mut self, bus: &Bus, refusals: &Refusals, shutdown: &Shutdown) {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut left = PER_SEC_MAX;
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                _ = second.tick() => {
                    left = PER_SEC_MAX;
                    let dropped = refusals.take_dropped();
                    if dropped > 0 {
                        let reason = format!("{dropped} more refusals, not recorded one by one");
                        record(bus, "http".to_owned(), reason).await;
                    }
                }
                note = self.queue.recv(), if left > 0 => {
                    let Some(note) = note else { return };
                    left -= 1;
                    record(bus, note.what, note.reason.to_string()).await;
                }
            }
        }
    }
}

async fn record(bus: &Bus, subject: String, reason: String) {
    warn!(subject, reason, "credential refused");
    let act = AuditAct::Refused { by: Role::Intake, what: Refusal::Credential, subject, reason };
    let id = format!("refused.intake.{}", hex::encode(clock::random::<16>()));
    if let Err(error) = bus.publish(&Outgoing::audit(None, act, id)).await {
        warn!(%error, "refusal not recorded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_not_queued() {
        let (refusals, mut recorder) = refusals();
        for _ in 0..1000 {
            refusals.note("GET /v1/transcodes/{id}", Denied::Unknown);
        }
        let mut queued = 0;
        while recorder.queue.try_recv().is_ok() {
            queued += 1;
        }
        assert_eq!(queued, QUEUE_MAX);
        assert_eq!(refusals.take_dropped(), 1000 - QUEUE_MAX as u64);
        assert_eq!(refusals.take_dropped(), 0);
    }
}
