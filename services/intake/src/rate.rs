//! How often somebody may ask: token buckets of each principal, of each tenant, and of each address
//! whose credentials fail. Pure but for its own memory; the time is an argument.
//!
//! Promises: no wait and no I/O; at most [`ENTRIES_MAX`] entries of each kind, of which idle ones
//! are dropped first; what does not fit shares one bucket, so that a flood of names buys nothing.
//! An answer says what is left, by the fields of draft-ietf-httpapi-ratelimit-headers-11.
//! Each process counts for itself: with several, set `replicas`, and each grants its part.

use crate::{
    app::Reply,
    problem::{Kind, Problem},
    slow::counted,
};
use hotcell_schemas::{TenantId, job::Actor, tenancy::Quotas};
use serde::Deserialize;
use serde_json::json;
use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Entries of one kind: more than a machine has keys in use; 65,536 are some 8 MiB.
pub const ENTRIES_MAX: usize = 65_536;

/// A full table is swept this often at most, in milliseconds: a sweep reads all of it.
const SWEEP_MS: u64 = 1000;

/// Most requests a second that a configuration may grant a principal.
const PER_SEC_MAX: u32 = 1_000_000;

/// Sets of policies of one tenant that are checked in a minute, good or not: a hostile one takes a
/// core for a quarter of a second here, and again in each service that holds it.
const POLICY_CHECKS_PER_MIN: u32 = 30;

/// Most replicas that a configuration may name.
const REPLICAS_MAX: u32 = 1024;

/// What the operator sets; what tenants may do is in their plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateConfig {
    /// Intakes that share the load: each grants its part of every limit.
    pub replicas: u32,
    /// Requests a second of one principal, whatever its tenant's plan.
    pub principal_requests_per_sec: u32,
    /// Failed authentications a minute from one address (IPv6: from one /64).
    pub failures_per_min: u32,
}

impl RateConfig {
    /// The key and the rule that it breaks, if it breaks one.
    ///
    /// # Errors
    /// Those two.
    pub fn check(self) -> Result<(), (&'static str, String)> {
        let bounds = [
            ("rate.replicas", self.replicas, REPLICAS_MAX),
            ("rate.principal_requests_per_sec", self.principal_requests_per_sec, PER_SEC_MAX),
            ("rate.failures_per_min", self.failures_per_min, PER_SEC_MAX),
        ];
        for (key, value, max) in bounds {
            if value == 0 || value > max {
                return Err((key, format!("must be 1 to {max}")));
            }
        }
        Ok(())
    }
}

/// So many in a window, which is also the largest burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Quota {
    name: &'static str,
    limit: u32,
    window: Duration,
}

/// What a bucket says to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Said {
    quota: Quota,
    /// Requests left.
    left: u32,
    /// Until nothing of it is used.
    full_in: Duration,
    /// Until one more is there; zero when this one was.
    wait: Duration,
}

impl Said {
    /// Whether this request is one too many.
    fn refuses(self) -> bool {
        !self.wait.is_zero()
    }

    /// `"requests";r=199;t=1`.
    fn state(self) -> String {
        format!("\"{}\";r={};t={}", self.quota.name, self.left, secs_up(self.full_in))
    }

    /// `"requests";q=200;w=1`.
    fn policy(self) -> String {
        format!("\"{}\";q={};w={}", self.quota.name, self.quota.limit, self.quota.window.as_secs())
    }
}

/// Whole seconds, rounded up, at least one.
fn secs_up(time: Duration) -> u64 {
    let partial = u64::from(time.subsec_nanos() > 0);
    time.as_secs().saturating_add(partial).max(1)
}

/// Buckets of one kind, by the generic cell rate algorithm (ITU-T I.371): each entry is one instant,
/// at which its bucket is full again.
#[derive(Debug)]
struct Buckets<K> {
    state: Mutex<Table<K>>,
}

#[derive(Debug)]
struct Table<K> {
    full_at: HashMap<K, Instant>,
    /// For what finds no place.
    crowd: Option<Instant>,
    swept: Option<Instant>,
}

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        let table = Table { full_at: HashMap::new(), crowd: None, swept: None };
        Self { state: Mutex::new(table) }
    }
}

impl<K: Eq + Hash> Buckets<K> {
    /// Takes one from the bucket of `key`.
    fn take(&self, key: K, quota: Quota, now: Instant) -> Said {
        let mut table = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = table.full_at.get(&key).copied();
        let (full_at, alone) = match full_at {
            Some(at) => (Some(at), true),
            None if table.has_room(now) => (None, true),
            None => (table.crowd, false),
        };
        let (said, next) = taken(quota, full_at, now);
        if alone {
            table.full_at.insert(key, next);
        } else {
            table.crowd = Some(next);
        }
        said
    }

    /// What [`Self::take`] would say, taking nothing. An unknown key has all of it.
    fn look(&self, key: &K, quota: Quota, now: Instant) -> Said {
        let table = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        taken(quota, table.full_at.get(key).copied(), now).0
    }
}

impl<K> Table<K> {
    fn has_room(&mut self, now: Instant) -> bool {
        if self.full_at.len() < ENTRIES_MAX {
            return true;
        }
        let recently = |at: Instant| now.duration_since(at) < Duration::from_millis(SWEEP_MS);
        if self.swept.is_some_and(recently) {
            return false;
        }
        self.swept = Some(now);
        self.full_at.retain(|_, at| *at > now);
        self.full_at.len() < ENTRIES_MAX
    }
}

/// What a bucket that is full again at `full_at` says at `now`, and when it is full afterwards.
fn taken(quota: Quota, full_at: Option<Instant>, now: Instant) -> (Said, Instant) {
    let full_at = full_at.unwrap_or(now).max(now);
    let used = full_at.duration_since(now);
    if quota.limit == 0 {
        let wait = quota.window;
        return (Said { quota, left: 0, full_in: wait, wait }, full_at);
    }
    // Rounded down, so that the whole limit fits into the window.
    let one = quota.window / quota.limit;
    // A quota that was made smaller meanwhile: what is used may be more than all of it.
    let over = (used + one).saturating_sub(quota.window);
    if !over.is_zero() {
        return (Said { quota, left: 0, full_in: used, wait: over }, full_at);
    }
    let full_in = used + one;
    let free = quota.window.saturating_sub(full_in);
    let left = u32::try_from(free.as_nanos() / one.as_nanos().max(1)).unwrap_or(u32::MAX);
    let left = left.min(quota.limit - 1);
    (Said { quota, left, full_in, wait: Duration::ZERO }, now + full_in)
}

/// The fields of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(&'static str, String)>);

impl Fields {
    fn of(said: &[Said]) -> Self {
        let list = |one: fn(Said) -> String| {
            said.iter().map(|said| one(*said)).collect::<Vec<_>>().join(", ")
        };
        Self(vec![("ratelimit-policy", list(Said::policy)), ("ratelimit", list(Said::state))])
    }

    /// An answer with them.
    ///
    /// # Errors
    /// The problem that it was, with them.
    pub fn on(self, answered: Result<Reply, Problem>) -> Result<Reply, Problem> {
        let fields = self.0.into_iter();
        match answered {
            Ok(reply) => Ok(fields.fold(reply, |reply, (name, value)| reply.header(name, value))),
            Err(problem) => Err(fields.fold(problem, |it, (name, value)| it.header(name, value))),
        }
    }
}

/// Every bucket of a process.
#[derive(Debug)]
pub struct Rates {
    config: RateConfig,
    principals: Buckets<(TenantId, String)>,
    requests: Buckets<TenantId>,
    jobs: Buckets<TenantId>,
    checks: Buckets<TenantId>,
    failures: Buckets<IpAddr>,
}

impl Rates {
    /// Empty.
    #[must_use]
    pub fn new(config: RateConfig) -> Self {
        Self {
            config,
            principals: Buckets::default(),
            requests: Buckets::default(),
            jobs: Buckets::default(),
            checks: Buckets::default(),
            failures: Buckets::default(),
        }
    }

    /// This process's part of a limit: none of it stays none.
    fn part(&self, limit: u32) -> u32 {
        limit.div_ceil(self.config.replicas.max(1))
    }

    fn failed(&self) -> Quota {
        let limit = self.part(self.config.failures_per_min);
        Quota { name: "failures", limit, window: Duration::from_secs(60) }
    }

    /// Before anybody is believed: whether `address` may try a credential. Loopback may: whoever is
    /// there is the machine's own, or a proxy that should be named in `trusted_proxies`.
    ///
    /// # Errors
    /// 429 when too many of its credentials failed.
    pub fn admits(&self, address: Option<IpAddr>, now: Instant) -> Result<(), Problem> {
        let Some(address) = address.filter(|address| !address.is_loopback()) else {
            return Ok(());
        };
        let said = self.failures.look(&counted(address), self.failed(), now);
        if said.refuses() { Err(exceeded(&[said])) } else { Ok(()) }
    }

    /// A credential from `address` was not believed.
    pub fn failed_from(&self, address: Option<IpAddr>, now: Instant) {
        if let Some(address) = address.filter(|address| !address.is_loopback()) {
            self.failures.take(counted(address), self.failed(), now);
        }
    }

    /// One question of a gateway about a request that is counted where it is served. Whoever asks it
    /// by itself must not have decisions without end; what passes a gateway is not counted twice.
    ///
    /// # Errors
    /// 429.
    pub fn ask(&self, (tenant, actor): (&TenantId, &Actor), now: Instant) -> Result<(), Problem> {
        let limit = self.part(self.config.principal_requests_per_sec);
        let quota = Quota { name: "principal", limit, window: Duration::from_secs(1) };
        let key = (tenant.clone(), format!("gateway {}", key_of(actor)));
        let said = self.principals.take(key, quota, now);
        if said.refuses() { Err(exceeded(&[said])) } else { Ok(()) }
    }

    /// One set of policies of a tenant that is to be checked.
    ///
    /// # Errors
    /// 429.
    pub fn checks(&self, tenant: &TenantId, now: Instant) -> Result<(), Problem> {
        let limit = self.part(POLICY_CHECKS_PER_MIN);
        let quota = Quota { name: "policy-checks", limit, window: Duration::from_secs(60) };
        let said = self.checks.take(tenant.clone(), quota, now);
        if said.refuses() { Err(exceeded(&[said])) } else { Ok(()) }
    }

    /// One request of a principal; `is_job` when it asks for a job.
    ///
    /// # Errors
    /// 429 naming the quotas that it exceeds.
    pub fn take(
        &self,
        (tenant, actor): (&TenantId, &Actor),
        quotas: &Quotas,
        is_job: bool,
        now: Instant,
    ) -> Result<Fields, Problem> {
        let second = Duration::from_secs(1);
        let own = self.part(self.config.principal_requests_per_sec);
        let own = Quota { name: "principal", limit: own, window: second };
        let all = self.part(quotas.requests_per_sec);
        let all = Quota { name: "requests", limit: all, window: second };
        let key = (tenant.clone(), key_of(actor));
        let mut said = vec![self.principals.take(key, own, now)];
        // A principal over its own limit takes nothing from the others of its tenant.
        if !said.iter().any(|said| said.refuses()) {
            said.insert(0, self.requests.take(tenant.clone(), all, now));
        }
        if is_job && !said.iter().any(|said| said.refuses()) {
            let limit = self.part(quotas.jobs_per_min);
            let jobs = Quota { name: "jobs", limit, window: Duration::from_secs(60) };
            said.push(self.jobs.take(tenant.clone(), jobs, now));
        }
        let over = said.iter().any(|said| said.refuses());
        if over { Err(exceeded(&said)) } else { Ok(Fields::of(&said)) }
    }
}

/// Who it is. The name in a broker login is the tenant's to choose; its key is not.
fn key_of(actor: &Actor) -> String {
    match actor {
        Actor::ApiKey { id } => format!("key {id}"),
        Actor::NatsLogin { user, .. } => format!("login {user}"),
        Actor::User { issuer, subject } => format!("user {issuer} {subject}"),
        Actor::Service { issuer, client } => format!("service {issuer} {client}"),
    }
}

/// `quota-exceeded` of the draft's §6, with the policies that are exceeded.
fn exceeded(said: &[Said]) -> Problem {
    let over: Vec<&Said> = said.iter().filter(|said| said.refuses()).collect();
    let names: Vec<&str> = over.iter().map(|said| said.quota.name).collect();
    let wait = over.iter().map(|said| said.wait).max().unwrap_or_default();
    let detail = format!("too many {}; try again later", names.join(" and "));
    let problem = Problem::new(Kind::QuotaExceeded, detail)
        .with("violated-policies", json!(names))
        .header("retry-after", secs_up(wait).to_string());
    let fields = Fields::of(said).0.into_iter();
    fields.fold(problem, |problem, (name, value)| problem.header(name, value))
}

#[cfg(test)]
#[path = "rate_tests.rs"]
mod tests;
