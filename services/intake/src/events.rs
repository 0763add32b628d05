//! `GET /v1/transcodes/{id}/events`: a job's states as they come, as server-sent events (WHATWG
//! HTML §9.2). The number of a state in the job's timeline is the event's id, so a client that comes
//! back with `Last-Event-ID` misses nothing and hears nothing twice. The data of a state is the body
//! of `events.<job>.state` in a tenant's broker account.
//!
//! Promises: the stream ends with the job's end, after [`LIFE_SECS`], within a second of its
//! tenant's suspension, of its principal's blocking and of the end of the credential that opened it,
//! and at shutdown;
//! [`PER_TENANT_MAX`] streams of one tenant and [`ALL_MAX`] of all are open at once. Refuses: to hold a connection for a job that is not the caller's.
//! How far an encode is, workers tell the signer alone, so no event says it.

use crate::{
    app::{App, Call, Reply},
    auth::Principal,
    blocks::{Standing, standing},
    problem::{Kind, Problem},
    transcodes::{found, read},
    view,
};
use bytes::Bytes;
use futures::{Stream, stream};
use hotcell_schemas::{EventKind, Job, TenantId};
use hotcell_stage::Shutdown;
use serde_json::json;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

/// Streams of one tenant at once: what its programs need who wait for jobs; a list tells of more.
pub const PER_TENANT_MAX: usize = 32;

/// Streams of all tenants at once: half of the connections that are open by default.
pub const ALL_MAX: usize = 512;

/// The job is looked at this often, in milliseconds: 512 streams are a thousand reads of 50 us each
/// second.
const LOOK_MS: u64 = 500;

/// A line is sent this often at least, in seconds, so that no proxy takes the stream for dead.
const HEARTBEAT_SECS: u64 = 15;

/// A stream ends after this long, in seconds, and its client comes back: with a credential that is
/// looked at again.
pub const LIFE_SECS: u64 = 300;

/// A client waits this long before it comes back, in milliseconds.
const RETRY_MS: u64 = 1000;

/// The streams that are open.
#[derive(Debug, Default)]
pub struct Streams {
    open: Arc<Mutex<HashMap<TenantId, usize>>>,
    shutdown: OnceLock<Shutdown>,
}

/// One place among them; given back when it is dropped.
#[derive(Debug)]
struct Place {
    open: Arc<Mutex<HashMap<TenantId, usize>>>,
    tenant: TenantId,
}

impl Streams {
    /// Ends every stream when `shutdown` begins. The first call counts.
    pub fn end_at(&self, shutdown: Shutdown) {
        self.shutdown.get_or_init(|| shutdown);
    }

    fn take(&self, tenant: &TenantId) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.get(tenant).copied().unwrap_or(0);
        if own >= PER_TENANT_MAX || open.values().sum::<usize>() >= ALL_MAX {
            return None;
        }
        open.insert(tenant.clone(), own + 1);
        Some(Place { open: Arc::clone(&self.open), tenant: tenant.clone() })
    }

    async fn ended(&self) {
        match self.shutdown.get() {
            Some(shutdown) => shutdown.begun().await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(&self.tenant) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                open.remove(&self.tenant);
            }
        }
    }
}

/// A stream that a door may open: it has a place and a job.
#[derive(Debug, Clone)]
pub struct Follow {
    who: Principal,
    job: Arc<Job>,
    /// States that the client knows.
    known: usize,
    _place: Arc<Place>,
}

/// The `Last-Event-ID`: how many states the client knows. What is no number of ours is none.
fn known(last_event_id: Option<&str>) -> usize {
    last_event_id.and_then(|id| id.trim().parse().ok()).unwrap_or(0)
}

/// `GET /v1/transcodes/{id}/events`.
///
/// # Errors
/// As [`crate::transcodes::get`]; 429 when as many streams are open as may be.
pub async fn follow(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let job = found(&app, &who, &call.id).await?;
    let place = app.streams.take(who.tenant()).ok_or_else(|| {
        let detail = format!("{PER_TENANT_MAX} streams of a tenant may be open; list jobs instead");
        Problem::new(Kind::QuotaExceeded, detail)
            .with("quota", "event-streams")
            .with("limit", PER_TENANT_MAX)
            .with("violated-policies", json!(["event-streams"]))
            .header("retry-after", "5")
    })?;
    let known = known(call.last_event_id.as_deref());
    let follow = Follow { who, job: Arc::new(job), known, _place: Arc::new(place) };
    Ok(Reply::stream(follow))
}

/// The events from the `known`-th state on. The last of a job that has ended shows all of it. Pure.
fn events(job: &Job, known: usize) -> String {
    let mut text = String::new();
    for told in job.states(known) {
        let mut data = json!(told);
        if told.seq == job.stamps.len()
            && is_over(job)
            && let Some(data) = data.as_object_mut()
        {
            data.insert("job".to_owned(), view::snapshot(job));
        }
        text.push_str(&format!("id: {}\nevent: {}\ndata: {data}\n\n", told.seq, told.state));
    }
    text
}

fn is_over(job: &Job) -> bool {
    job.state.is_terminal() || job.state == EventKind::Expired
}

/// Where a stream is.
struct At {
    app: Arc<App>,
    follow: Follow,
    job: Option<Job>,
    began: Instant,
    spoke: Instant,
    first: bool,
}

/// The body of a stream.
pub fn body(app: Arc<App>, follow: Follow) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    let now = Instant::now();
    let job = Some(follow.job.as_ref().clone());
    let at = At { app, follow, job, began: now, spoke: now, first: true };
    stream::unfold(at, |mut at| async move {
        let text = at.next().await?;
        Some((Ok(Bytes::from(text)), at))
    })
}

impl At {
    /// What is sent next; `None` ends the stream.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(job) = self.job.take() {
                let mut text = events(&job, self.follow.known);
                if self.first {
                    text.insert_str(0, &format!("retry: {RETRY_MS}\n\n"));
                    self.first = false;
                }
                self.follow.known = self.follow.known.max(job.stamps.len());
                let over = is_over(&job);
                self.follow.job = Arc::new(job);
                if !text.is_empty() {
                    self.spoke = Instant::now();
                    return Some(text);
                }
                if over {
                    return None;
                }
            }
            if is_over(&self.follow.job) || self.began.elapsed() >= Duration::from_secs(LIFE_SECS) {
                return None;
            }
            tokio::select! {
                () = self.app.streams.ended() => return None,
                () = tokio::time::sleep(Duration::from_millis(LOOK_MS)) => {}
            }
            let tenant = self.app.auth.tenant(self.follow.who.tenant()).await.ok()?;
            if !tenant.state.is_active() || !self.app.auth.still(&self.follow.who).await {
                return None;
            }
            let Ok(Standing::Open) = standing(&self.app, &self.follow.who).await else {
                return None;
            };
            // While the broker is away nothing changes; the client comes back when the stream ends.
            self.job = read(&self.app, &self.follow.who, &self.follow.job.id).await.ok()?;
            if self.spoke.elapsed() >= Duration::from_secs(HEARTBEAT_SECS) {
                self.spoke = Instant::now();
                return Some(":\n\n".to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::completed;

    #[test]
    fn api_26_each_state_is_one_event_with_its_number() {
        let job = completed();
        let text = events(&job, 0);
        let first = "id: 1\nevent: submitted\ndata: {";
        assert!(text.starts_with(first), "{text}");
        assert!(text.contains("\n\nid: 2\nevent: completed\ndata: {"));
        assert_eq!(text.matches("\"outputs\"").count(), 1, "the last shows the job");
        // The rest is what is told over the broker.
        for (told, line) in job.states(0).zip(text.lines().filter_map(|l| l.strip_prefix("data: ")))
        {
            let mut data: serde_json::Value = serde_json::from_str(line).unwrap();
            data.as_object_mut().unwrap().remove("job");
            assert_eq!(data, json!(told));
        }
        assert_eq!(text.lines().filter(|line| line.starts_with("data: ")).count(), 2);
        assert!(events(&job, 1).starts_with("id: 2\n"));
        assert_eq!(events(&job, 2), "");
        assert_eq!(events(&job, 99), "");
    }

    #[test]
    fn a_number_that_is_none_of_ours_begins_anew() {
        for (text, expect) in [(Some("3"), 3), (Some("x"), 0), (Some("-1"), 0), (None, 0)] {
            assert_eq!(known(text), expect);
        }
    }

    #[test]
    fn streams_are_bounded_by_tenant_and_given_back() {
        let (streams, acme): (_, TenantId) = (Streams::default(), "acme".parse().unwrap());
        let held: Vec<_> = (0..PER_TENANT_MAX).map(|_| streams.take(&acme).unwrap()).collect();
        assert!(streams.take(&acme).is_none());
        assert!(streams.take(&"bolt".parse().unwrap()).is_some());
        drop(held);
        assert!(streams.take(&acme).is_some());
        assert!(streams.open.lock().unwrap().is_empty());
    }
}
