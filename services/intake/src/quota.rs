//! What a tenant's plan holds: size of inputs, use of the month, jobs that wait. Asked at the edge,
//! before anything is stored for the request.
//!
//! Promises: a refusal names the quota, its limit, what is used and when it begins anew; what cannot
//! be counted is refused. A month's use is counted when work ends, so what runs when a limit is
//! reached still ends, and is counted.
//! How much waits is what the broker says of the tenant's consumers, and what this process accepted
//! and no validator has judged; several intakes do not see each other's part of the latter.

use crate::{
    app::{App, store_problem},
    cache::Cache,
    problem::{Kind, Problem},
};
use hotcell_schemas::{
    EventKind, JobId, TenantId, UnixMs,
    job::Input,
    records::TenantRecord,
    routes::{StreamId, work_consumer},
    tenancy::{Priority, Quotas, UsageRecord},
};
use hotcell_stage::{Bus, clock, kv::Bucket};
use serde_json::Value;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tracing::warn;

/// Accepted jobs of one tenant that this process remembers until a validator has judged them. A
/// tenant with more has outrun the validators.
pub const UNJUDGED_MAX: usize = 4096;

/// The broker says what waits within this long, in seconds: it has the number at hand.
const INFO_SECS: u64 = 2;

/// Seconds after which a full queue may have room.
const QUEUE_RETRY_SECS: u64 = 5;

/// Seconds after which validators may have caught up.
const JUDGE_RETRY_SECS: u64 = 2;

/// What this process knows of what tenants use.
#[derive(Debug)]
pub struct Book {
    usage: Bucket,
    months: Cache<String, UsageRecord>,
    waiting: Cache<TenantId, u64>,
    unjudged: Mutex<HashMap<TenantId, VecDeque<JobId>>>,
}

impl Book {
    /// Reads through `bus`.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        Self {
            usage: bus.bucket("usage"),
            months: Cache::default(),
            waiting: Cache::default(),
            unjudged: Mutex::default(),
        }
    }

    fn of<T>(&self, tenant: &TenantId, look: impl FnOnce(&mut VecDeque<JobId>) -> T) -> T {
        let mut all = self.unjudged.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = look(all.entry(tenant.clone()).or_default());
        if all.get(tenant).is_some_and(VecDeque::is_empty) {
            all.remove(tenant);
        }
        seen
    }

    /// A job was accepted.
    pub fn accepted(&self, tenant: &TenantId, job: &JobId) {
        self.of(tenant, |jobs| {
            if jobs.len() < UNJUDGED_MAX {
                jobs.push_back(job.clone());
            }
        });
    }
}

/// When the next month begins.
fn next_month(now: UnixMs) -> String {
    let text = now.rfc3339();
    let mut parts = text.split('-').filter_map(|part| part.parse::<u32>().ok());
    let (year, month) = (parts.next().unwrap_or(0), parts.next().unwrap_or(12));
    let (year, month) = if month >= 12 { (year + 1, 1) } else { (year, month + 1) };
    format!("{year:04}-{month:02}-01T00:00:00.000Z")
}

fn over(kind: Kind, quota: &str, limit: u64, used: u64, detail: String) -> Problem {
    Problem::new(kind, detail).with("quota", quota).with("limit", limit).with("used", used)
}

/// Whether an input of `size` bytes is within the plan.
///
/// # Errors
/// 413 naming `field` and the quota.
pub fn input(quotas: &Quotas, field: &str, size: u64) -> Result<(), Problem> {
    let limit = quotas.input_bytes_max;
    if size <= limit {
        return Ok(());
    }
    let rule = format!("must be at most {limit} bytes, as the plan {} says", quotas.plan);
    let problem = Problem::field(Kind::TooLarge, field, rule);
    Err(problem.with("quota", "input-bytes").with("limit", limit).with("used", size))
}

/// The answer to one endpoint too many.
#[must_use]
pub fn webhooks(limit: u32, used: u32) -> Problem {
    let detail = format!("the plan holds {limit} webhook endpoints; {used} are made");
    over(Kind::PlanExceeded, "webhooks", limit.into(), used.into(), detail)
}

/// The month's use against the plan. Pure.
///
/// # Errors
/// 402 with the quota, its limit, what is used and when it begins anew.
pub fn within(quotas: &Quotas, used: &UsageRecord, now: UnixMs) -> Result<(), Problem> {
    let rows = [
        ("cpu-secs", "CPU seconds", quotas.cpu_secs_per_month, used.cpu_ms / 1000),
        (
            "output-minutes",
            "minutes of output",
            quotas.output_minutes_per_month,
            used.output_ms / 60_000,
        ),
    ];
    for (quota, words, limit, used) in rows {
        if used >= limit {
            let plan = &quotas.plan;
            let detail = format!("the plan {plan} holds {limit} {words} a month; {used} are used");
            let problem = over(Kind::PlanExceeded, quota, limit, used, detail);
            return Err(problem.with("resetsAt", next_month(now)));
        }
    }
    Ok(())
}

/// Whether another job of `tenant` is within its plan.
///
/// # Errors
/// 413 for an input, 402 for the month, 429 for the queue, 503 when that cannot be counted or
/// validators are behind.
pub async fn job(app: &App, tenant: &TenantRecord, inputs: &[Input]) -> Result<(), Problem> {
    for (index, one) in inputs.iter().enumerate() {
        input(&tenant.quotas, &format!("inputs[{index}].url"), one.size)?;
    }
    let now = clock::now();
    within(&tenant.quotas, &used(app, &tenant.id, now).await?, now)?;
    queue(app, tenant).await
}

/// What `tenant` used this month.
async fn used(app: &App, tenant: &TenantId, now: UnixMs) -> Result<UsageRecord, Problem> {
    let (key, read_at) = (UsageRecord::key(tenant, now), Instant::now());
    if let Some(known) = app.book.months.get(&key, read_at) {
        return Ok(known);
    }
    let entry = app.book.usage.get::<UsageRecord>(&key).await.map_err(|e| store_problem(&e))?;
    let used = entry.map(|entry| entry.value).unwrap_or_default();
    app.book.months.put(key, used.clone(), read_at);
    Ok(used)
}

/// Whether one more job may wait.
async fn queue(app: &App, tenant: &TenantRecord) -> Result<(), Problem> {
    let limit = u64::from(tenant.quotas.queue_depth);
    let unjudged = || app.book.of(&tenant.id, |jobs| jobs.len());
    let known = app.book.waiting.get(&tenant.id, Instant::now());
    if let Some(waiting) = known
        && unjudged() < UNJUDGED_MAX
        && waiting + (unjudged() as u64) < limit
    {
        return Ok(());
    }
    // It is close, or nothing is known: look again.
    judged(app, &tenant.id).await?;
    let read_at = Instant::now();
    let waiting = waiting(app, tenant).await?;
    app.book.waiting.put(tenant.id.clone(), waiting, read_at);
    if unjudged() >= UNJUDGED_MAX {
        let detail = "jobs come in faster than their inputs are checked; try again later";
        let problem = Problem::new(Kind::ReducedCapacity, detail);
        return Err(problem.header("retry-after", JUDGE_RETRY_SECS.to_string()));
    }
    let used = waiting + unjudged() as u64;
    if used < limit {
        return Ok(());
    }
    let detail = format!("{used} jobs wait; the plan {} lets {limit}", tenant.quotas.plan);
    let problem = over(Kind::QuotaExceeded, "queue-depth", limit, used, detail);
    Err(problem
        .with("violated-policies", serde_json::json!(["queue-depth"]))
        .header("retry-after", QUEUE_RETRY_SECS.to_string()))
}

/// Forgets the accepted jobs that a validator has judged: they are the broker's to count. Judging
/// is nearly in order, so half of them are dropped for one read where that is so.
async fn judged(app: &App, tenant: &TenantId) -> Result<(), Problem> {
    loop {
        let probe = app.book.of(tenant, |jobs| jobs.get(jobs.len() / 2).cloned());
        let Some(probe) = probe else { return Ok(()) };
        if waits_for_judgement(app, tenant, &probe).await? {
            break;
        }
        app.book.of(tenant, |jobs| {
            if let Some(index) = jobs.iter().position(|job| *job == probe) {
                jobs.drain(..=index);
            }
        });
    }
    // The middle one is not judged: perhaps those before it are.
    loop {
        let first = app.book.of(tenant, |jobs| jobs.front().cloned());
        let Some(first) = first else { return Ok(()) };
        if waits_for_judgement(app, tenant, &first).await? {
            return Ok(());
        }
        app.book.of(tenant, |jobs| {
            if jobs.front() == Some(&first) {
                jobs.pop_front();
            }
        });
    }
}

async fn waits_for_judgement(app: &App, tenant: &TenantId, job: &JobId) -> Result<bool, Problem> {
    match app.bus.job(tenant, job).await {
        Ok(found) => {
            Ok(found.is_some_and(|found| found.message.get().state == EventKind::Submitted))
        }
        Err(error) => {
            warn!(%error, "a job that was accepted cannot be read");
            Err(Problem::unavailable("the message broker does not answer"))
        }
    }
}

/// Jobs that wait for a worker, by the broker's word.
async fn waiting(app: &App, tenant: &TenantRecord) -> Result<u64, Problem> {
    let mut asks = Vec::new();
    for pool in &tenant.pools {
        for class in Priority::ALL {
            asks.push(pending(&app.bus, work_consumer(pool, &tenant.id, class)));
        }
    }
    let counts = futures::future::try_join_all(asks).await?;
    Ok(counts.into_iter().sum())
}

/// What one consumer has not delivered yet. A consumer that is not there has nothing.
async fn pending(bus: &Bus, durable: String) -> Result<u64, Problem> {
    let subject = format!("$JS.API.CONSUMER.INFO.{}.{durable}", StreamId::Jobs.as_str());
    let unknown = || Problem::unavailable("the message broker does not say how many jobs wait");
    let asked = bus.client().request(subject, bytes::Bytes::new());
    let asked = tokio::time::timeout(Duration::from_secs(INFO_SECS), asked).await;
    let answer = asked.map_err(|_| unknown())?.map_err(|error| {
        warn!(%error, durable, "consumer not read");
        unknown()
    })?;
    let info: Value = serde_json::from_slice(&answer.payload).map_err(|_| unknown())?;
    if info.pointer("/error/code").and_then(Value::as_u64) == Some(404) {
        return Ok(0);
    }
    info.get("num_pending").and_then(Value::as_u64).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn body(problem: &Problem) -> Value {
        serde_json::from_slice(&problem.body()).unwrap()
    }

    #[test]
    fn the_month_ends_with_the_month() {
        let check = |text: &str, ms: u64, month: &str| {
            let key = UsageRecord::key(&"acme".parse().unwrap(), UnixMs(ms));
            assert_eq!((next_month(UnixMs(ms)).as_str(), key), (text, format!("acme.{month}")));
        };
        check("1970-02-01T00:00:00.000Z", 0, "1970-01");
        check("2026-12-01T00:00:00.000Z", 1_795_305_600_000, "2026-11");
        check("2027-01-01T00:00:00.000Z", 1_798_761_599_999, "2026-12");
    }

    #[test]
    fn brk_81_the_month_is_refused_with_quota_limit_used_and_reset() {
        let quotas = Quotas {
            plan: "free".to_owned(),
            cpu_secs_per_month: 100,
            output_minutes_per_month: 60,
            ..Quotas::default()
        };
        let used = |cpu_ms, output_ms| UsageRecord { cpu_ms, output_ms, ..UsageRecord::default() };
        assert!(within(&quotas, &used(99_999, 3_599_999), UnixMs(0)).is_ok());
        let problem = within(&quotas, &used(100_000, 0), UnixMs(0)).unwrap_err();
        assert_eq!(problem.status(), 402);
        let found = body(&problem);
        let expect = json!(["cpu-secs", 100, 100, "1970-02-01T00:00:00.000Z"]);
        assert_eq!(
            json!([found["quota"], found["limit"], found["used"], found["resetsAt"]]),
            expect
        );
        let problem = within(&quotas, &used(0, 3_600_000), UnixMs(0)).unwrap_err();
        assert_eq!(body(&problem)["quota"], "output-minutes");
        // Nothing of it is nothing, not "no limit".
        let none = Quotas { cpu_secs_per_month: 0, ..quotas };
        assert!(within(&none, &UsageRecord::default(), UnixMs(0)).is_err());
    }

    #[test]
    fn api_26_an_input_over_the_plan_is_413() {
        let quotas = Quotas { input_bytes_max: 10, ..Quotas::default() };
        assert!(input(&quotas, "fileSize", 10).is_ok());
        let problem = input(&quotas, "fileSize", 11).unwrap_err();
        assert_eq!((problem.status(), problem.errors()[0].field.as_str()), (413, "fileSize"));
        assert_eq!(body(&problem)["quota"], "input-bytes");
    }
}
