//! What attempts cost, by their reports, counted for each tenant and calendar month.
//!
//! Promises: every attempt with a report is counted exactly once, whichever replica gets its event
//! and however often: events come one at a time and in order, a record holds the sequence of the
//! last event that is in it, and it is written by compare-and-set before the event is acked. What a
//! lost lease costs has no report and is not the tenant's. A job that is cancelled while it runs, or
//! whose outputs policy refuses before its report, has none either, but its tenant ended it: the time
//! for which it held its worker takes the place of CPU time, or whoever ends its own in time would use
//! the pool for nothing. Refuses to believe a worker beyond what the plan's limits let a cell use.

use crate::next::PROBE_LIMITS;
use hotcell_schemas::{EventKind, Job, limits::DURATION_SECS_MAX, tenancy::UsageRecord};
use hotcell_stage::{
    Bus, Delivered, Halt, Outgoing, Stage,
    kv::{Entry, KvError},
};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};
use tracing::{debug, warn};

/// The meter's consumer.
pub(crate) const DURABLE: &str = "meter";

/// Records that are remembered with their revisions, so that most events cost one write.
const REMEMBERED_MAX: usize = 4096;

/// Writes of one record that lose to another replica's before the event is offered again.
const TRIES_MAX: u32 = 4;

/// An event whose count the broker did not take is offered again after this long, in milliseconds.
const RETRY_MS: u64 = 500;

/// What one attempt used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Used {
    /// CPU time of its cells, in milliseconds.
    pub(crate) cpu_ms: u64,
    /// Presentation time of the outputs that its job ended with, in milliseconds.
    pub(crate) output_ms: u64,
    /// Whether the job ended with outputs.
    pub(crate) completed: bool,
}

fn before_last(job: &Job) -> Option<EventKind> {
    job.stamps.iter().rev().nth(1).map(|stamp| stamp.event)
}

/// CPU time that the plan lets the cells of one attempt use, in milliseconds.
fn cpu_ms_max(job: &Job) -> Option<u64> {
    let plan = job.plan.as_ref()?;
    let probes = u64::try_from(plan.outputs.len()).unwrap_or(u64::MAX).saturating_add(1);
    let secs = probes.saturating_mul(u64::from(PROBE_LIMITS.cpu_secs));
    Some(secs.saturating_add(u64::from(plan.limits.cpu_secs)).saturating_mul(1000))
}

/// CPU time of the last attempt's cells by its report, in milliseconds. A worker that was taken over
/// cannot bill its tenants for more than its cells could use.
fn reported_cpu_ms(job: &Job) -> Option<u64> {
    let report = job.attempts.last()?.report.as_ref()?;
    Some(report.cpu_ms().min(cpu_ms_max(job)?))
}

/// CPU time of the attempt with which its job failed, in milliseconds: reported, or what stands for it
/// where the job was ended before a report. A lease that was lost is closed in the record.
fn failed_cpu_ms(job: &Job) -> Option<u64> {
    let open = job.attempts.last()?.ended_at.is_none();
    if open { held_ms(job) } else { reported_cpu_ms(job) }
}

/// For how long the attempt that its tenant ended had its worker, in milliseconds.
fn held_ms(job: &Job) -> Option<u64> {
    let (attempt, end) = (job.attempts.last()?, job.stamps.last()?.at);
    Some(end.since_ms(attempt.assigned_at).min(cpu_ms_max(job)?))
}

/// What the attempt cost that this very event closed; nothing when it closed none, or one whose
/// lease was lost.
pub(crate) fn closed_cpu_ms(job: &Job) -> Option<u64> {
    let was_assigned = before_last(job) == Some(EventKind::Assigned);
    match job.state {
        EventKind::Encoded | EventKind::AttemptFailed => reported_cpu_ms(job),
        EventKind::Failed if was_assigned => failed_cpu_ms(job),
        EventKind::Cancelled if was_assigned => held_ms(job),
        EventKind::Submitted
        | EventKind::Validated
        | EventKind::Rejected
        | EventKind::Assigned
        | EventKind::Completed
        | EventKind::Failed
        | EventKind::Cancelled
        | EventKind::Expired => None,
    }
}

/// What this event adds to its tenant's month. An attempt is counted by the event after its report:
/// the failure itself, or what became of its outputs.
pub(crate) fn counted(job: &Job) -> Option<Used> {
    let before = before_last(job);
    let was_assigned = before == Some(EventKind::Assigned);
    let was_running = was_assigned || before == Some(EventKind::Encoded);
    let cpu_ms = match job.state {
        EventKind::AttemptFailed | EventKind::Completed => reported_cpu_ms(job),
        EventKind::Failed if was_assigned => failed_cpu_ms(job),
        EventKind::Cancelled if was_assigned => held_ms(job),
        EventKind::Failed | EventKind::Cancelled if was_running => reported_cpu_ms(job),
        EventKind::Submitted
        | EventKind::Validated
        | EventKind::Rejected
        | EventKind::Assigned
        | EventKind::Encoded
        | EventKind::Failed
        | EventKind::Cancelled
        | EventKind::Expired => None,
    }?;
    let completed = job.state == EventKind::Completed;
    let output_ms = if completed { output_ms(job) } else { 0 };
    Some(Used { cpu_ms, output_ms, completed })
}

/// Presentation time of the job's outputs together, in milliseconds: as the prober saw the last one,
/// or as long as the input where the output's container does not say.
fn output_ms(job: &Job) -> u64 {
    let report = job.attempts.last().and_then(|attempt| attempt.report.as_ref());
    let output = report.and_then(|report| report.output.as_ref()?.duration_ms);
    let sniffed = || job.inputs.iter().find_map(|input| input.sniffed.as_ref()?.duration_ms);
    let one = output.or_else(sniffed).unwrap_or(0).min(u64::from(DURATION_SECS_MAX) * 1000);
    one.saturating_mul(u64::try_from(job.outputs.len()).unwrap_or(u64::MAX))
}

/// Adds what the event at `seq` used; whether the record changed. Pure.
fn add(record: &mut UsageRecord, used: Used, seq: u64, job: &Job) -> bool {
    if seq <= record.seq {
        return false;
    }
    record.seq = seq;
    record.cpu_ms = record.cpu_ms.saturating_add(used.cpu_ms);
    record.output_ms = record.output_ms.saturating_add(used.output_ms);
    record.attempts = record.attempts.saturating_add(1);
    record.completed = record.completed.saturating_add(u64::from(used.completed));
    if let Some(last) = job.stamps.last() {
        record.at = last.at;
    }
    true
}

/// The stage that counts.
pub(crate) struct Metering {
    bus: Bus,
    /// Records as this replica wrote them, with their revisions. A stale one loses its
    /// compare-and-set and is read again.
    written: Mutex<HashMap<String, (UsageRecord, u64)>>,
}

impl Metering {
    pub(crate) fn new(bus: Bus) -> Self {
        Self { bus, written: Mutex::default() }
    }

    fn remembered(&self, key: &str) -> Option<(UsageRecord, u64)> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn remember(&self, key: &str, known: Option<(UsageRecord, u64)>) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.len() >= REMEMBERED_MAX {
            written.clear();
        }
        match known {
            Some(known) => written.insert(key.to_owned(), known),
            None => written.remove(key),
        };
    }

    /// Counts one event. Runs twice without harm: the record knows what is in it.
    async fn count(&self, job: &Job, used: Used, seq: u64) -> Result<(), KvError> {
        let at = job.stamps.last().map(|stamp| stamp.at).unwrap_or_default();
        let (bucket, key) = (self.bus.bucket("usage"), UsageRecord::key(&job.tenant, at));
        let mut tries = 0;
        loop {
            tries += 1;
            let (mut record, revision) = match self.remembered(&key) {
                Some(known) => known,
                None => {
                    let (entry, revision): (Option<Entry<UsageRecord>>, _) =
                        bucket.look(&key).await?;
                    (entry.map(|entry| entry.value).unwrap_or_default(), revision)
                }
            };
            if !add(&mut record, used, seq, job) {
                debug!(seq, "event is counted already");
                return Ok(());
            }
            match bucket.update(&key, &record, revision).await {
                Ok(revision) => {
                    self.remember(&key, Some((record, revision)));
                    return Ok(());
                }
                Err(KvError::Conflict) if tries < TRIES_MAX => self.remember(&key, None),
                Err(error) => {
                    self.remember(&key, None);
                    return Err(error);
                }
            }
        }
    }
}

impl Stage for Metering {
    type Input = Job;

    async fn handle(&self, input: Delivered<Job>) -> Result<Vec<Outgoing>, Halt> {
        let job = input.message.get();
        let Some(used) = counted(job) else { return Ok(Vec::new()) };
        self.count(job, used, input.seq).await.map_err(|error| {
            warn!(%error, job = %job.id, "attempt not counted; it will be tried again");
            Halt::retry_ms(RETRY_MS, "a usage record was not written")
        })?;
        Ok(Vec::new())
    }
}
