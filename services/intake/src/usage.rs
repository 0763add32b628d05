//! What a tenant used this month, what its plan holds, and how its work stands now.
//!
//! Promises: use and limits are in the same units, those that quotas are held to and the shares are
//! made of. Use is counted when work ends. What only the signer knows is absent, not an error, while
//! no signer answers.

use crate::{
    app::{App, Call, Reply, store_problem},
    auth::Principal,
    problem::Problem,
    view::seconds,
};
use hotcell_schemas::{
    Subject,
    tenancy::UsageRecord,
    usage::{UsageReply, UsageRequest},
};
use hotcell_stage::{clock, service::describe};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tracing::debug;

/// The signer answers within this long, in seconds, or the answer goes without.
const ASK_SECS: u64 = 2;

/// `GET /v1/usage`.
///
/// # Errors
/// 503 while the broker is away.
pub async fn get(app: Arc<App>, who: Principal, _: Call) -> Result<Reply, Problem> {
    let tenant = app.auth.tenant(who.tenant()).await;
    let tenant = tenant.map_err(|error| app.refuse("GET /v1/usage", &error))?;
    let now = clock::now();
    let key = UsageRecord::key(&tenant.id, now);
    let used = app.bus.bucket("usage").get::<UsageRecord>(&key).await;
    let used = used.map_err(|error| store_problem(&error))?;
    let used = used.map(|entry| entry.value).unwrap_or_default();
    let asked = UsageRequest { tenant: tenant.id.clone() };
    let answer = app.bus.ask(Subject::usage_now(), &asked, Duration::from_secs(ASK_SECS)).await;
    let work = answer.inspect_err(|error| debug!(error = describe(error), "no signer answers"));
    let work = work.ok().map(|work| work.into_inner());
    let quotas = &tenant.quotas;
    let mut body = json!({
        "month": UsageRecord::month(now),
        "plan": quotas.plan,
        "cpuSecs": { "used": seconds(used.cpu_ms), "limit": quotas.cpu_secs_per_month },
        "outputMinutes": {
            "used": seconds(used.output_ms / 60),
            "limit": quotas.output_minutes_per_month,
        },
        "attempts": used.attempts,
        "completed": used.completed,
        "countedAt": (used.seq > 0).then(|| used.at.rfc3339()),
        "weight": quotas.weight,
        "concurrency": tenant.concurrency,
        "pools": tenant.pools,
    });
    if let (Some(body), Some(Value::Object(work))) =
        (body.as_object_mut(), work.as_ref().map(standing))
    {
        body.extend(work);
    }
    Ok(Reply::new(200, body))
}

/// How the work stands. Pure.
fn standing(work: &UsageReply) -> Value {
    let waiting = work.waiting;
    json!({
        "share": f64::from(work.share_permille) / 1000.0,
        "running": work.running,
        "waiting": { "high": waiting.high, "normal": waiting.normal, "low": waiting.low },
        "queueWait": work.queue_wait.map(|wait| json!({
            "p50Ms": wait.p50_ms, "p95Ms": wait.p95_ms, "jobs": wait.jobs,
        })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hotcell_schemas::usage::{QueueWait, Waiting};

    #[test]
    fn what_the_signer_says_is_shown_in_the_api_s_words() {
        let waiting = Waiting { high: 1, normal: 2, low: 3 };
        let queue_wait = Some(QueueWait { p50_ms: 4, p95_ms: 5, jobs: 6 });
        let work = UsageReply { running: 7, waiting, share_permille: 250, queue_wait };
        let expect = json!({
            "share": 0.25, "running": 7, "waiting": { "high": 1, "normal": 2, "low": 3 },
            "queueWait": { "p50Ms": 4, "p95Ms": 5, "jobs": 6 },
        });
        assert_eq!(standing(&work), expect);
        let none = standing(&UsageReply { queue_wait: None, ..work });
        assert_eq!(none["queueWait"], Value::Null);
    }
}
