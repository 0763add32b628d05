//! Makes the attempts. Its own loop rather than a `Stage`, since a retry is a negative
//! acknowledgement with the schedule's delay, and each endpoint has a lane of its own.
//!
//! Promises: at least one attempt, all under one id; the record is written before the message is
//! acknowledged, so a restart goes on where the schedule was; an end is in the audit log; an attempt
//! is counted by its endpoint's breaker before its record says that it was made. Refuses:
//! a message that does not verify, more attempts at once than an endpoint's or tenant's lane, and to
//! speak to an endpoint of a tenant that is not served: what is for a suspended one waits, what is
//! for a removed one ends.
//!
//! May run twice for one message: the second run reads the record, and at worst, when a process
//! died between the attempt and its record, the receiver sees one id twice.

use crate::{
    due::Due,
    egress::{Egress, Policy, Target},
    endpoint::signing,
    lanes::{Lane, Lanes},
    schedule::{self, Turn},
    signature::{self, Attempt},
    tally::{Tally, TallyError},
    vault::Vault,
};
use async_nats::jetstream::{AckKind, Message};
use hotcell_schemas::{
    EndpointId, TenantId,
    envelope::OpenError,
    hook::{
        Delivery, DeliveryAttempt, DeliveryPage, DeliveryRecord, DeliveryState, EndpointRecord,
        TestDelivery,
    },
    records::{AuditAct, TenantRecord},
    tenancy::TenantState,
};
use hotcell_stage::{
    Bus, Outgoing, PublishError, ServiceError, Shutdown, clock,
    feed::{acknowledge, each, envelope},
    kv::{Bucket, Entry, KvError},
    pages::Pages,
    retry::{Policy as Backoff, retry},
    run::refuse,
    service::describe,
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tracing::{Instrument as _, debug, error, info, info_span, warn};

/// Name of the durable consumer.
const DURABLE: &str = "deliverer";
/// A message is offered again after this long when its lane is full, in milliseconds: the least at
/// first, then twice as long each time, so that one stall costs little and a dead endpoint's backlog
/// little work. Up to as much is added at random: a backlog must not return as one.
const LANE_FULL_MS: (u64, u64) = (100, 2000);
/// A burst waits this long for a place in its lane, in milliseconds: a healthy endpoint answers in
/// a few, and must not meet the long delay above.
const LANE_WAIT_MS: u64 = 1000;
/// Messages of one tenant that may wait so at once: they hold places of the whole.
pub(crate) const LANE_WAITERS_MAX: usize = 64;
/// A message is offered again after this long when the broker failed, in milliseconds.
const RETRY_MS: u64 = 1000;
/// A delivery of a suspended tenant is looked at again after this long, in seconds.
const SUSPENDED_SECS: u64 = 10;
/// A delivery whose secret cannot be opened waits for an operator this long, in seconds.
const NO_SECRET_SECS: u64 = 60;

/// Why a delivery is tried again soon, without counting as an attempt.
#[derive(Debug, thiserror::Error)]
enum DeliverError {
    #[error("a record was not read or written")]
    Bucket(#[source] KvError),
    #[error("the end of a delivery was not recorded")]
    Audit(#[source] PublishError),
    #[error("an attempt was not counted")]
    Tally(#[source] TallyError),
}

pub(crate) struct Deliverer {
    pub(crate) bus: Bus,
    pub(crate) egress: Egress,
    pub(crate) policy: Policy,
    pub(crate) vault: Arc<Vault>,
    pub(crate) deliveries: Bucket,
    pub(crate) listed: Arc<Pages<DeliveryPage>>,
    pub(crate) endpoints: Bucket,
    pub(crate) tally: Tally,
    pub(crate) tenants: Bucket,
    pub(crate) retry_secs: Vec<u64>,
    pub(crate) by_tenant: Arc<Lanes<TenantId>>,
    pub(crate) by_endpoint: Arc<Lanes<EndpointId>>,
    pub(crate) waiting: Arc<Lanes<TenantId>>,
}

/// Delivers until shutdown; attempts in flight are finished.
pub(crate) async fn run(
    deliverer: Arc<Deliverer>,
    attempts_max: usize,
    shutdown: Shutdown,
) -> Result<(), ServiceError> {
    let bus = deliverer.bus.clone();
    each(&bus, DURABLE, attempts_max, &shutdown, |message| {
        let deliverer = Arc::clone(&deliverer);
        async move { deliverer.one(message).await }
    })
    .await
}

/// The lanes of a message, by its subject alone: what is not let in is not opened either.
fn lane_keys(subject: &str) -> Option<(TenantId, EndpointId)> {
    let mut words = subject.split('.').skip(2);
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

fn nak_ms(ms: u64) -> AckKind {
    AckKind::Nak(Some(Duration::from_millis(ms)))
}

/// Delay of a message that met a full lane on its `delivered`th delivery, in milliseconds.
fn lane_full_ms(delivered: i64) -> u64 {
    let (least, most) = LANE_FULL_MS;
    let doublings = delivered.saturating_sub(1).clamp(0, 16);
    (least << doublings).min(most)
}

/// Up to `max` milliseconds at random.
fn spread_ms(max: u64) -> u64 {
    u64::from(u16::from_be_bytes(clock::random())) * max / u64::from(u16::MAX)
}

impl Deliverer {
    async fn one(&self, message: Message) {
        let span = info_span!("deliver", subject = %message.subject);
        hotcell_stage::telemetry::follow(&span, message.headers.as_ref());
        async {
            let kind = self.turn(&message).await;
            acknowledge(&message, kind).await;
        }
        .instrument(span)
        .await;
    }

    fn enter(&self, subject: &str) -> Option<(Lane<TenantId>, Lane<EndpointId>)> {
        let (tenant, endpoint) = lane_keys(subject)?;
        // Not by entering and leaving the other lane: that would wake all who wait for it.
        if !self.by_endpoint.has_place(&endpoint) {
            return None;
        }
        Some((self.by_tenant.enter(&tenant)?, self.by_endpoint.enter(&endpoint)?))
    }

    /// The lanes of a message: at once, or when a place is left soon.
    async fn enter_soon(&self, subject: &str) -> Option<(Lane<TenantId>, Lane<EndpointId>)> {
        let (tenant, _) = lane_keys(subject)?;
        if let Some(lanes) = self.enter(subject) {
            return Some(lanes);
        }
        let _place = self.waiting.enter(&tenant)?;
        let until = Instant::now() + Duration::from_millis(LANE_WAIT_MS);
        loop {
            let (left, also) = (self.by_endpoint.freed(), self.by_tenant.freed());
            if let Some(lanes) = self.enter(subject) {
                return Some(lanes);
            }
            tokio::select! {
                () = left => {}
                () = also => {}
                () = tokio::time::sleep_until(until) => return None,
            }
        }
    }

    async fn turn(&self, message: &Message) -> AckKind {
        let lanes = self.enter_soon(&message.subject).await;
        if lanes.is_none() && lane_keys(&message.subject).is_some() {
            let delivered = message.info().map_or(1, |info| info.delivered);
            let ms = lane_full_ms(delivered);
            return nak_ms(ms + spread_ms(ms));
        }
        let due = match self.open(message) {
            Ok(due) => due,
            Err(error) => return refuse(&self.bus, message, &error.to_string()).await,
        };
        match self.deliver(&due).await {
            Ok(kind) => kind,
            Err(error) => {
                warn!(error = %describe(&error), "delivery will be tried again");
                nak_ms(RETRY_MS)
            }
        }
    }

    /// What is to be delivered: of a job, or a test. Both are about the endpoint and the tenant that
    /// their subject names.
    fn open(&self, message: &Message) -> Result<Due, OpenError> {
        let (sealed, trust) = (envelope(message)?, self.bus.trust());
        match sealed.open::<Delivery>(trust) {
            Ok(opened) => Ok(Due::from(opened.get())),
            // Signed and trusted, and of another shape.
            Err(error @ (OpenError::Malformed | OpenError::WrongType)) => {
                sealed.open::<TestDelivery>(trust).map_or(Err(error), |it| Ok(Due::from(it.get())))
            }
            Err(error) => Err(error),
        }
    }

    async fn deliver(&self, due: &Due) -> Result<AckKind, DeliverError> {
        let (tenant, key) = (&due.tenant, due.id.as_str());
        let found = self.deliveries.look::<DeliveryRecord>(key).await;
        let (found, revision) = found.map_err(DeliverError::Bucket)?;
        let is_first = found.is_none();
        let record =
            found.map_or_else(|| schedule::begin(due), |entry| schedule::sourced(entry.value, due));
        match schedule::turn(&record, clock::now()) {
            Turn::Attempt => {}
            Turn::Wait(ms) => return Ok(nak_ms(ms)),
            // The end may not have been recorded before the message was offered again.
            Turn::Over => return self.end(due, &record).await,
        }
        let owner = self.tenants.get::<TenantRecord>(tenant.as_str()).await;
        let owner = owner.map_err(DeliverError::Bucket)?.map(|entry| entry.value.state);
        if owner == Some(TenantState::Suspended) {
            return Ok(nak_ms(SUSPENDED_SECS * 1000));
        }
        let is_served = owner == Some(TenantState::Active);
        let endpoint = format!("{tenant}.{}", due.endpoint);
        let endpoint = self.endpoints.get::<EndpointRecord>(&endpoint).await;
        let endpoint = endpoint.map_err(DeliverError::Bucket)?;
        // A test is how a tenant finds out whether it can enable an endpoint again.
        let is_on =
            |entry: &Entry<EndpointRecord>| due.is_test() || entry.value.disabled_at.is_none();
        let record = match endpoint.filter(|entry| is_served && is_on(entry)) {
            None => schedule::given_up(record),
            Some(endpoint) => match self.tried(endpoint, due, record).await? {
                Some(record) => record,
                None => return Ok(nak_ms(NO_SECRET_SECS * 1000)),
            },
        };
        if is_first {
            self.list(&record).await;
        }
        self.keep(&record, revision).await?;
        match schedule::turn(&record, clock::now()) {
            Turn::Over => self.end(due, &record).await,
            Turn::Wait(ms) => Ok(nak_ms(ms)),
            Turn::Attempt => Ok(AckKind::Nak(None)),
        }
    }

    /// The record after one attempt; nothing where the endpoint's secret cannot be opened.
    async fn tried(
        &self,
        endpoint: Entry<EndpointRecord>,
        due: &Due,
        record: DeliveryRecord,
    ) -> Result<Option<DeliveryRecord>, DeliverError> {
        let number = schedule::number(&record);
        let Some(attempt) = self.attempt(&endpoint.value, due, number).await else {
            return Ok(None);
        };
        let random = u16::from_be_bytes(clock::random());
        if due.is_test() {
            return Ok(Some(schedule::after(record, attempt, clock::now(), &[], random)));
        }
        let counted = self.tally.count(endpoint, &due.id, number, &attempt).await;
        counted.map_err(DeliverError::Tally)?;
        Ok(Some(schedule::after(record, attempt, clock::now(), &self.retry_secs, random)))
    }

    /// Puts the delivery into the list of its endpoint, before it has a record. A list that cannot be
    /// written is not worth another attempt at a receiver that has it.
    async fn list(&self, record: &DeliveryRecord) {
        let list = format!("{}.{}", record.tenant, record.endpoint);
        let transient = |error: &KvError| matches!(error, KvError::Unwritten(_));
        let add = || self.listed.add(&list, &record.id);
        if let Err(error) = retry(Backoff::REQUEST, transient, add).await {
            warn!(delivery = %record.id, error = %describe(&error), "delivery is not listed");
        }
    }

    /// Writes the record: the attempt was made, and only it says so, which is worth some patience.
    async fn keep(&self, record: &DeliveryRecord, revision: u64) -> Result<(), DeliverError> {
        let transient = |error: &KvError| matches!(error, KvError::Unwritten(_));
        let write = || self.deliveries.update(record.id.as_str(), record, revision);
        retry(Backoff::REQUEST, transient, write).await.map(drop).map_err(DeliverError::Bucket)
    }

    async fn end(&self, due: &Due, record: &DeliveryRecord) -> Result<AckKind, DeliverError> {
        // That a test was asked for is on record; it tells nobody of a job.
        let Some(source) = &due.source else { return Ok(AckKind::Ack) };
        let word = match record.state {
            DeliveryState::Succeeded => "succeeded",
            DeliveryState::Exhausted => "exhausted",
            DeliveryState::Retrying => "retrying",
        };
        let act = AuditAct::Delivered {
            delivery: record.id.clone(),
            endpoint: record.endpoint.clone(),
            job: source.job.clone(),
            state: record.state,
            attempts: schedule::number(record).saturating_sub(1),
            status: record.attempts.last().and_then(|attempt| attempt.status),
        };
        let id = match record.replays {
            0 => format!("delivered.{}.{word}", record.id),
            round => format!("delivered.{}.{word}.{round}", record.id),
        };
        let audit = Outgoing::audit(Some(&record.tenant), act, id);
        self.bus.publish(&audit).await.map_err(DeliverError::Audit)?;
        info!(tenant = %record.tenant, job = %source.job, outcome = word, "delivery ended");
        Ok(AckKind::Ack)
    }

    /// One attempt; `None` when the endpoint's secret cannot be opened, which is no fault of the
    /// endpoint's.
    async fn attempt(
        &self,
        endpoint: &EndpointRecord,
        due: &Due,
        number: u32,
    ) -> Option<DeliveryAttempt> {
        let at = clock::now();
        let secrets = match signing(&self.vault, endpoint, at) {
            Ok(secrets) => secrets,
            Err(error) => {
                error!(endpoint = %endpoint.id, %error, "delivery waits for the right secrets_key");
                return None;
            }
        };
        let begun = std::time::Instant::now();
        let says = Attempt {
            id: due.id.as_str(),
            event: due.event.as_str(),
            number,
            timestamp: at.secs(),
        };
        let (headers, body) = (signature::headers(&secrets, says, &due.body), due.body.clone());
        let sent = match Target::parse(&endpoint.url, self.policy) {
            Ok(target) => self.egress.post(&target, &headers, body).await.map_err(|e| e.class()),
            // The rules became stricter after the endpoint was made.
            Err(_) => Err("refused_address"),
        };
        let (status, error) = match sent {
            Ok(status @ 200..=299) => (Some(status), None),
            Ok(status) => (Some(status), Some("status".to_owned())),
            Err(class) => (None, Some(class.to_owned())),
        };
        let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        debug!(endpoint = %endpoint.id, number, status, error, elapsed_ms, "attempt made");
        Some(DeliveryAttempt { at, status, elapsed_ms, error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_lane_is_met_again_soon_and_then_later() {
        let delays = [1, 2, 3, 4, 5, 6, 7, 1000, i64::MAX, 0, -1].map(lane_full_ms);
        assert_eq!(delays, [100, 200, 400, 800, 1600, 2000, 2000, 2000, 2000, 100, 100]);
    }

    #[test]
    fn the_subject_names_the_lanes() {
        let id = "0193a0f0c0de7000800000000000beef";
        let keys = lane_keys(&format!("hook.out.acme.{id}.{id}")).unwrap();
        assert_eq!((keys.0.as_str(), keys.1.as_str()), ("acme", id));
        assert_eq!(lane_keys("hook.out.acme"), None);
        assert_eq!(lane_keys("hook.out.ACME.x.y"), None);
    }
}
