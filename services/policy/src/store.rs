//! The policies in force: the platform's, and each tenant's own.
//!
//! Promises: no set older than [`LIFE_MS`], without a restart; a set that cannot be read or does not
//! compile is no set, and decides nothing. A tenant's own set speaks of its own principals on its
//! own resources only: across tenants the platform's decides alone.

use crate::{
    engine::Engine,
    question::{Decision, Question},
    set::Faults,
};
use hotcell_schemas::{Digest, TenantId, policy::PolicyRecord};
use hotcell_stage::{Bus, kv::Bucket, kv::KvError};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Life of what was read, in milliseconds.
pub const LIFE_MS: u64 = 1000;

/// Tenants whose sets are kept: those that are active at once on one installation.
pub const TENANTS_MAX: usize = 4096;

/// The key of the operator's own policies in bucket `platform`.
pub const PLATFORM_KEY: &str = "platform";

/// Why there is no decision. Each is a denial to the caller.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The records cannot be read now.
    #[error("the policies cannot be read")]
    Records(#[source] KvError),
    /// A stored set does not compile.
    #[error("the policies of {0} do not compile")]
    Set(TenantId),
    /// The operator's stored set does not compile.
    #[error("the platform's policies do not compile")]
    Platform,
    /// An evaluation failed: the denial that comes of it, with the policy and the set.
    #[error("policy {} cannot be evaluated", .0.policies.join(", "))]
    Evaluation(Box<Decision>),
    /// The question is not one that the schema knows.
    #[error("the question is not of the schema's shape")]
    Question,
    /// A decision about a job was asked for without its outputs.
    #[error("a job cannot be decided on without its outputs")]
    NoOutputs,
}

/// One tenant's engine, and what it was made of.
#[derive(Debug, Clone)]
struct Held {
    read_at: Instant,
    operator: Option<Digest>,
    own: Option<Digest>,
    engine: Arc<Engine>,
}

/// Reads and caches policies for one second.
#[derive(Debug)]
pub struct PolicyStore {
    pub(crate) platform: Bucket,
    pub(crate) tenants: Bucket,
    held: Mutex<HashMap<Option<TenantId>, Held>>,
}

impl PolicyStore {
    /// Reads through `bus`.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        let (platform, tenants) = (bus.bucket("platform"), bus.bucket("policies"));
        Self { platform, tenants, held: Mutex::new(HashMap::new()) }
    }

    /// Decides.
    ///
    /// # Errors
    /// [`PolicyError`], which the caller must treat as a denial.
    pub async fn decide(&self, question: &Question<'_>) -> Result<Decision, PolicyError> {
        let own = question.who.tenant == question.owner;
        let engine = self.engine(own.then_some(question.owner)).await?;
        engine.decide(question)
    }

    /// The set in force for a tenant, or the platform's alone.
    ///
    /// # Errors
    /// `Records`, `Set`, `Platform`.
    pub async fn engine(&self, tenant: Option<&TenantId>) -> Result<Arc<Engine>, PolicyError> {
        let (key, now) = (tenant.cloned(), Instant::now());
        let held = self.lock().get(&key).cloned();
        if let Some(held) = &held
            && now.duration_since(held.read_at) < Duration::from_millis(LIFE_MS)
        {
            return Ok(held.engine.clone());
        }
        let operator = read(&self.platform, PLATFORM_KEY).await?;
        let own = match tenant {
            Some(tenant) => read(&self.tenants, tenant.as_str()).await?,
            None => None,
        };
        let digest = |record: &Option<PolicyRecord>| record.as_ref().map(|record| record.digest);
        let (operator_digest, own_digest) = (digest(&operator), digest(&own));
        let engine = match held {
            Some(held) if (held.operator, held.own) == (operator_digest, own_digest) => held.engine,
            Some(_) | None => compile(operator, tenant.cloned(), own).await?,
        };
        let (operator, own) = (operator_digest, own_digest);
        self.keep(key, Held { read_at: now, operator, own, engine: engine.clone() });
        Ok(engine)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Option<TenantId>, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, key: Option<TenantId>, held: Held) {
        let mut all = self.lock();
        if all.len() >= TENANTS_MAX && !all.contains_key(&key) {
            let now = held.read_at;
            all.retain(|_, held| {
                now.saturating_duration_since(held.read_at) < Duration::from_millis(LIFE_MS)
            });
            if all.len() >= TENANTS_MAX {
                all.clear();
            }
        }
        all.insert(key, held);
    }

    /// What was read of a tenant is read again at the next question.
    pub(crate) fn forget(&self, tenant: Option<&TenantId>) {
        match tenant {
            Some(tenant) => drop(self.lock().remove(&Some(tenant.clone()))),
            None => self.lock().clear(),
        }
    }
}

async fn read(bucket: &Bucket, key: &str) -> Result<Option<PolicyRecord>, PolicyError> {
    let entry = bucket.get::<PolicyRecord>(key).await.map_err(PolicyError::Records)?;
    Ok(entry.map(|entry| entry.value).filter(|record| !record.text.is_empty()))
}

/// Compiling takes milliseconds of one core: not on a thread that serves others.
async fn compile(
    operator: Option<PolicyRecord>,
    tenant: Option<TenantId>,
    own: Option<PolicyRecord>,
) -> Result<Arc<Engine>, PolicyError> {
    if operator.is_none() && own.is_none() {
        return Ok(Engine::defaults());
    }
    let broken = tenant.clone();
    let made = tokio::task::spawn_blocking(move || {
        let true_to_digest =
            |record: &PolicyRecord| record.digest == Digest::of(record.text.as_bytes());
        if !operator.as_ref().is_none_or(true_to_digest) {
            return Err(PolicyError::Platform);
        }
        let text = operator.as_ref().map(|record| record.text.as_str());
        let platform = |_: Faults| PolicyError::Platform;
        let (Some(tenant), Some(own)) = (&tenant, &own) else {
            return Engine::compile(text, None).map_err(platform);
        };
        if !true_to_digest(own) {
            return Err(PolicyError::Set(tenant.clone()));
        }
        Engine::compile(text, Some((tenant, &own.text)))
            .map_err(|_| PolicyError::Set(tenant.clone()))
    });
    match made.await {
        Ok(engine) => engine.map(Arc::new),
        Err(_) => Err(broken.map_or(PolicyError::Platform, PolicyError::Set)),
    }
}
