//! Who is blocked, by the tenants' records and the operator's, and whose risk they raise.
//!
//! Promises: no answer older than [`LIFE_MS`], so that a block is felt within a second by every
//! process that asks; a key is followed to its makers, and is blocked with any of them. Refuses: to
//! take a record that cannot be read for one that blocks nobody, and a key that cannot be followed
//! for one that nobody made.

use hotcell_schemas::{
    KeyId, TenantId, UnixMs,
    block::{BlockList, BlockRecord, Risk, operators_key, same},
    job::Actor,
    records::KeyRecord,
};
use hotcell_stage::{
    Bus, clock,
    kv::{Bucket, KvError},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Life of what was read, in milliseconds: half of the second after which a blocked principal gets
/// nothing from any replica; the other half is for a broker that is slow.
pub const LIFE_MS: u64 = 500;

/// After this long every replica has heard of a record, in milliseconds: what is promised. A job that
/// one of them took before is not held to it.
pub const HEARD_MS: u64 = 1000;

/// Tenants whose lists are kept: those that are active at once on one installation.
const TENANTS_MAX: usize = 4096;

/// Makers of keys that are followed: a key that a key made, and each that it was rotated from; one
/// that is rotated every month for ten years has 120.
pub const LINEAGE_MAX: usize = 256;

/// A principal with everyone who is the same person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lineage {
    /// Itself first.
    All(Vec<Actor>),
    /// More than [`LINEAGE_MAX`]: nobody can tell who made it.
    TooLong,
}

/// Where the records of keys are read.
pub trait Keys {
    /// The record of a key; `None` where there is none.
    fn key(
        &self,
        id: &KeyId,
    ) -> impl Future<Output = Result<Option<Arc<KeyRecord>>, KvError>> + Send;
}

impl Keys for Bucket {
    async fn key(&self, id: &KeyId) -> Result<Option<Arc<KeyRecord>>, KvError> {
        let found = self.get::<KeyRecord>(id.as_str()).await?;
        Ok(found.map(|entry| Arc::new(entry.value)))
    }
}

/// A principal with everyone who made its key, and whose key that one was before. A key without a
/// record was made by nobody who is known.
///
/// # Errors
/// A record that cannot be read.
pub async fn lineage(actor: &Actor, keys: &impl Keys) -> Result<Lineage, KvError> {
    let mut all = vec![actor.clone()];
    let mut next = 0;
    while let Some(actor) = all.get(next).cloned() {
        next += 1;
        let Actor::ApiKey { id } = &actor else { continue };
        let Some(record) = keys.key(id).await? else { continue };
        for maker in record.makers() {
            if !all.contains(&maker) {
                all.push(maker);
            }
        }
        if all.len() > LINEAGE_MAX {
            return Ok(Lineage::TooLong);
        }
    }
    Ok(Lineage::All(all))
}

/// The lists of one tenant.
#[derive(Debug)]
pub struct Listed {
    /// Made in the API.
    pub own: BlockList,
    /// Made on the operator's command line.
    pub operators: BlockList,
}

impl Listed {
    /// Whether nobody is stopped: then nobody's keys need to be followed to find out who is.
    #[must_use]
    pub fn is_empty(&self, now: UnixMs) -> bool {
        self.operators.stops(now).chain(self.own.stops(now)).next().is_none()
    }

    /// The stop that stands against any of `actors`, the operator's first.
    #[must_use]
    pub fn against(&self, actors: &[Actor], now: UnixMs) -> Option<&BlockRecord> {
        self.operators.against(actors, now).or_else(|| self.own.against(actors, now))
    }

    /// Those that stop nobody, whosesoever they are.
    fn risks(&self, now: UnixMs) -> impl Iterator<Item = &BlockRecord> {
        self.operators.risks(now).chain(self.own.risks(now))
    }
}

/// Reads buckets `blocks` and `platform`.
#[derive(Debug)]
pub struct Blocks {
    own: Bucket,
    operators: Bucket,
    held: Mutex<HashMap<TenantId, (Instant, Arc<Listed>)>>,
}

impl Blocks {
    /// Reads through `bus`, whose role must be one of the buckets' readers.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        let (own, operators) = (bus.bucket("blocks"), bus.bucket("platform"));
        Self { own, operators, held: Mutex::new(HashMap::new()) }
    }

    /// The tenant's lists, read less than [`LIFE_MS`] ago.
    ///
    /// # Errors
    /// The buckets'.
    pub async fn of(&self, tenant: &TenantId) -> Result<Arc<Listed>, KvError> {
        // Read before the records are: what is kept is never older than it looks.
        let now = Instant::now();
        if let Some((at, listed)) = self.lock().get(tenant)
            && now.duration_since(*at) < Duration::from_millis(LIFE_MS)
        {
            return Ok(Arc::clone(listed));
        }
        let listed = Arc::new(self.read(tenant).await?);
        let mut held = self.lock();
        if held.len() >= TENANTS_MAX {
            held.retain(|_, (at, _)| now.duration_since(*at) < Duration::from_millis(LIFE_MS));
            if held.len() >= TENANTS_MAX {
                held.clear();
            }
        }
        held.insert(tenant.clone(), (now, Arc::clone(&listed)));
        Ok(listed)
    }

    /// The tenant's lists as they are now.
    ///
    /// # Errors
    /// The buckets'.
    pub async fn read(&self, tenant: &TenantId) -> Result<Listed, KvError> {
        let own = self.own.get::<BlockList>(tenant.as_str()).await?;
        let operators = self.operators.get::<BlockList>(&operators_key(tenant)).await?;
        let list = |entry: Option<hotcell_stage::kv::Entry<BlockList>>| {
            entry.map(|entry| entry.value).unwrap_or_default()
        };
        Ok(Listed { own: list(own), operators: list(operators) })
    }

    /// The risk of `actor` below a stop, as policies see it: the highest that stands now against it or
    /// anyone that its key descends from; 0 without one. The records of which every replica had
    /// heard at `submitted_at` count, where that is given: what was permitted before one was made
    /// is not taken back. Where some stand and a key's makers cannot be followed, the highest.
    ///
    /// # Errors
    /// The buckets'.
    pub async fn risk(
        &self,
        (tenant, actor): (&TenantId, &Actor),
        keys: &impl Keys,
        submitted_at: Option<UnixMs>,
    ) -> Result<u8, KvError> {
        let listed = self.of(tenant).await?;
        let heard = |it: &&BlockRecord| submitted_at.is_none_or(|at| it.at.plus_ms(HEARD_MS) <= at);
        let risks: Vec<_> = listed.risks(clock::now()).filter(heard).collect();
        if risks.is_empty() {
            return Ok(0);
        }
        let Lineage::All(all) = lineage(actor, keys).await? else {
            return Ok(Risk::HIGHEST.into());
        };
        let hits = |it: &&&BlockRecord| all.iter().any(|actor| same(actor, &it.principal));
        Ok(risks.iter().filter(hits).map(|it| it.risk).max().map_or(0, u8::from))
    }

    /// Reads the tenant's lists again at the next question: this process has changed one.
    pub fn forget(&self, tenant: &TenantId) {
        self.lock().remove(tenant);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TenantId, (Instant, Arc<Listed>)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> KeyId {
        KeyId::new(n as u64, [0; 10])
    }

    fn made(n: usize, by: Option<Actor>, from: Option<usize>) -> KeyRecord {
        let record = KeyRecord::new(key(n), "acme".parse().unwrap(), "text", UnixMs(0));
        KeyRecord { created_by: by, rotated_from: from.map(key), ..record }
    }

    struct Known(Vec<KeyRecord>);

    impl Keys for Known {
        async fn key(&self, id: &KeyId) -> Result<Option<Arc<KeyRecord>>, KvError> {
            Ok(self.0.iter().find(|record| record.id == *id).cloned().map(Arc::new))
        }
    }

    fn follow(records: Vec<KeyRecord>, from: usize) -> Lineage {
        let (actor, known) = (Actor::ApiKey { id: key(from) }, Known(records));
        let walk = lineage(&actor, &known);
        let Some(Ok(found)) = futures_now(walk) else { panic!("nothing is waited for") };
        found
    }

    /// The value of a future that waits for nothing.
    fn futures_now<T>(future: impl Future<Output = T>) -> Option<T> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(future).poll(&mut context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn iam_21_a_key_is_followed_to_its_makers_and_a_ring_ends() {
        let ana =
            Actor::User { issuer: "https://id.example".to_owned(), subject: "ana".to_owned() };
        let by = |n: usize| Some(Actor::ApiKey { id: key(n) });
        let records =
            vec![made(1, Some(ana.clone()), None), made(2, by(1), None), made(3, by(9), Some(2))];
        let Lineage::All(all) = follow(records, 3) else { panic!() };
        assert_eq!(all.first(), by(3).as_ref());
        for actor in [by(9), by(2), by(1), Some(ana)] {
            assert!(all.contains(&actor.unwrap()), "{all:?}");
        }
        assert_eq!(all.len(), 5);
        let ring = vec![made(1, by(2), None), made(2, by(1), Some(1))];
        assert_eq!(follow(ring, 1), Lineage::All(vec![by(1).unwrap(), by(2).unwrap()]));
        let long: Vec<_> = (0..=LINEAGE_MAX).map(|n| made(n, None, Some(n + 1))).collect();
        assert_eq!(follow(long.clone(), 0), Lineage::TooLong);
        assert!(matches!(follow(long, 2), Lineage::All(_)));
    }
}
