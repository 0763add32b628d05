//! An endpoint's deliveries: listed, replayed, and made as a test.
//!
//! Promises: one answer reads at most [`LOOKED_MAX`] records, however many there are; a replay has the
//! id and the body of its event, as the stream has it, and only its time and signature are new; what
//! is listed is at rest, so a restart changes nothing. Refuses: another endpoint's delivery, and to
//! replay what is still being delivered.

use crate::{due::Due, endpoint::begun, planner, schedule};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use hotcell_schemas::{
    DeliveryId, EndpointId, EventKind, JobId, TenantId, UnixMs,
    hook::{
        Delivery, DeliveryEvent, DeliveryPage, DeliveryPlace, DeliveryRecord, DeliveryState,
        EndpointRecord, HookAskReply, HookConflict, TestDelivery,
    },
    limits::{DELIVERIES_LIST_MAX, DELIVERY_PAGE_MAX},
    request::WebhookEvent,
};
use hotcell_stage::{
    Bus, Outgoing, PublishError, clock,
    kv::{Bucket, KvError},
    pages::Pages,
    read::ReadError,
    retry::{Policy as Backoff, retry},
};
use std::{collections::HashSet, sync::Arc};

/// Records that one answer reads at most: an answer that looks for a rare state costs no more than
/// two that do not.
const LOOKED_MAX: usize = 100;

/// Tests of one endpoint that may be under way, and within what time of their making they are counted, in
/// milliseconds. What waits at an endpoint that hangs counts for the one consumer of all tenants'
/// deliveries, and whoever may test could fill it in minutes.
const TESTS: (usize, u64) = (8, 60_000);

/// Deliveries among which these are looked for, the newest.
const TESTS_LOOKED: usize = 32;

/// Reads at once.
const READS_MAX: usize = 16;

/// Why deliveries were not listed or made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeliveriesError {
    #[error("the deliveries' bucket failed")]
    Bucket(#[source] KvError),
    #[error("the event of a delivery was not read")]
    Event(#[source] ReadError),
    #[error("a delivery was not acknowledged")]
    Queue(#[source] PublishError),
}

/// The deliveries of all endpoints.
pub(crate) struct Deliveries {
    pub(crate) bus: Bus,
    pub(crate) records: Bucket,
    pub(crate) listed: Arc<Pages<DeliveryPage>>,
}

/// What is to be listed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listed {
    /// At most so many.
    pub(crate) limit: u32,
    /// From here on; from the newest, without.
    pub(crate) from: Option<DeliveryPlace>,
    /// In this state only.
    pub(crate) state: Option<DeliveryState>,
}

impl Deliveries {
    async fn record(&self, id: &DeliveryId) -> Result<Option<DeliveryRecord>, DeliveriesError> {
        let found = self.records.get::<DeliveryRecord>(id.as_str()).await;
        Ok(found.map_err(DeliveriesError::Bucket)?.map(|entry| entry.value))
    }

    /// One delivery of an endpoint.
    pub(crate) async fn of(
        &self,
        tenant: &TenantId,
        endpoint: &EndpointId,
        id: &DeliveryId,
    ) -> Result<Option<DeliveryRecord>, DeliveriesError> {
        let record = self.record(id).await?;
        Ok(record.filter(|it| (&it.tenant, &it.endpoint) == (tenant, endpoint)))
    }

    /// The deliveries of an endpoint, newest first, and where to go on.
    pub(crate) async fn list(
        &self,
        tenant: &TenantId,
        endpoint: &EndpointId,
        ask: Listed,
    ) -> Result<(Vec<DeliveryRecord>, Option<DeliveryPlace>), DeliveriesError> {
        let list = format!("{tenant}.{endpoint}");
        let limit = usize::try_from(ask.limit.min(DELIVERIES_LIST_MAX)).unwrap_or(0);
        let (mut found, mut seen, mut looked) = (Vec::new(), HashSet::new(), 0);
        let mut place = ask.from;
        loop {
            let Some((page, mut left, ids)) = self.ids_at(&list, place).await? else {
                return Ok((found, None));
            };
            while left > 0 && found.len() < limit && looked < LOOKED_MAX {
                let ahead = READS_MAX.min(limit - found.len()).min(LOOKED_MAX - looked);
                let chunk = ids.get(left.saturating_sub(ahead)..left).unwrap_or_default();
                let reads = chunk.iter().rev().map(|id| self.record(id).boxed());
                let reads: Vec<_> = reads.collect();
                let records: Vec<_> = stream::iter(reads).buffered(READS_MAX).try_collect().await?;
                (left, looked) = (left.saturating_sub(chunk.len()), looked + chunk.len());
                // An id without a record is of a delivery whose first attempt is under way, or that
                // is older than what is kept; a process that died may have listed one twice.
                let fits = |record: &DeliveryRecord| {
                    ask.state.is_none_or(|state| state == record.state)
                        && record.tenant == *tenant
                        && record.endpoint == *endpoint
                };
                let fitting = records.into_iter().flatten().filter(fits);
                found.extend(fitting.filter(|record| seen.insert(record.id.clone())));
            }
            place = next(page, left);
            if place.is_none() || found.len() >= limit || looked >= LOOKED_MAX {
                return Ok((found, place));
            }
        }
    }

    /// The ids at a place: the page, how many of it are left, and all of them.
    async fn ids_at(
        &self,
        list: &str,
        place: Option<DeliveryPlace>,
    ) -> Result<Option<(u64, usize, Vec<DeliveryId>)>, DeliveriesError> {
        let found = match place {
            Some(DeliveryPlace { page, left }) => {
                let found = self.listed.page(list, page).await.map_err(DeliveriesError::Bucket)?;
                found.map(|found| (page, usize::try_from(left).unwrap_or(usize::MAX), found))
            }
            None => {
                let found = self.listed.newest(list).await.map_err(DeliveriesError::Bucket)?;
                found.map(|(page, found)| (page, DELIVERY_PAGE_MAX, found))
            }
        };
        Ok(found
            .map(|(page, left, found)| (page, left.min(found.deliveries.len()), found.deliveries)))
    }

    /// One delivery that tells of nothing, on record at once. A repeat with the same id makes no second
    /// one.
    pub(crate) async fn test(
        &self,
        endpoint: &EndpointRecord,
        id: &DeliveryId,
    ) -> Result<HookAskReply, DeliveriesError> {
        let at = clock::now();
        let (tenant, endpoint) = (endpoint.tenant.clone(), endpoint.id.clone());
        let delivery = Box::new(TestDelivery { id: id.clone(), tenant, endpoint, at });
        let record = schedule::begin(&Due::from(delivery.as_ref()));
        let list = format!("{}.{}", record.tenant, record.endpoint);
        if self.tests(&list, id, at).await? >= TESTS.0 {
            return Ok(HookAskReply::Conflict { why: HookConflict::Retrying });
        }
        self.listed.add(&list, id).await.map_err(DeliveriesError::Bucket)?;
        match self.records.create(id.as_str(), &record).await {
            Ok(_) | Err(KvError::Conflict) => {}
            Err(error) => return Err(DeliveriesError::Bucket(error)),
        }
        self.queue(&Outgoing::HookTest { delivery }).await?;
        Ok(HookAskReply::Queued { delivery: id.clone() })
    }

    /// Tests of a list that are under way, beside `own`.
    async fn tests(
        &self,
        list: &str,
        own: &DeliveryId,
        now: UnixMs,
    ) -> Result<usize, DeliveriesError> {
        let newest = self.listed.newest(list).await.map_err(DeliveriesError::Bucket)?;
        let ids = newest.map(|(_, page)| page.deliveries).unwrap_or_default();
        let is_new = |id: &&DeliveryId| *id != own && now.since_ms(begun(id.as_str())) < TESTS.1;
        let reads = ids.iter().rev().take(TESTS_LOOKED).filter(is_new);
        let reads: Vec<_> = reads.map(|id| self.record(id).boxed()).collect();
        let records: Vec<_> = stream::iter(reads).buffered(READS_MAX).try_collect().await?;
        let is_open = |record: &&DeliveryRecord| {
            record.event == DeliveryEvent::TEST && record.state == DeliveryState::Retrying
        };
        Ok(records.iter().flatten().filter(is_open).count())
    }

    /// A delivery once more. Of two that ask at once, one is told that it is on its way already; so
    /// is a repeat, unless nothing was tried yet: then the message may have been lost, and is sent
    /// again under its id.
    pub(crate) async fn replay(
        &self,
        endpoint: &EndpointRecord,
        id: &DeliveryId,
    ) -> Result<HookAskReply, DeliveriesError> {
        let conflict = |why| Ok(HookAskReply::Conflict { why });
        let found = self.records.get::<DeliveryRecord>(id.as_str()).await;
        let of = |record: &DeliveryRecord| {
            (&record.tenant, &record.endpoint) == (&endpoint.tenant, &endpoint.id)
        };
        let found = found.map_err(DeliveriesError::Bucket)?.filter(|entry| of(&entry.value));
        let Some(entry) = found else { return Ok(HookAskReply::Missing {}) };
        let record = entry.value;
        let (DeliveryEvent::Job(event), Some(job)) = (record.event, &record.job) else {
            let is_test = record.event == DeliveryEvent::TEST;
            return conflict(if is_test { HookConflict::Test } else { HookConflict::Forgotten });
        };
        if endpoint.disabled_at.is_some() {
            return conflict(HookConflict::Disabled);
        }
        let is_over = record.state != DeliveryState::Retrying;
        if !is_over && !schedule::is_fresh(&record) {
            return conflict(HookConflict::Retrying);
        }
        let Some(delivery) = self.told(&record, event, job).await? else {
            return conflict(HookConflict::Forgotten);
        };
        let mut round = record.replays;
        if is_over {
            let next = schedule::replayed(record.clone(), clock::now());
            round = next.replays;
            match self.records.update(id.as_str(), &next, entry.revision).await {
                Ok(_) => {}
                Err(KvError::Conflict) => return conflict(HookConflict::Retrying),
                Err(error) => return Err(DeliveriesError::Bucket(error)),
            }
        }
        let (tenant, delivery) = (endpoint.tenant.clone(), Box::new(delivery));
        self.queue(&Outgoing::Hook { tenant, delivery, round }).await?;
        Ok(HookAskReply::Queued { delivery: id.clone() })
    }

    /// The delivery of the event as the stream has it (BRK-48); nothing where that is not the one of
    /// which the record is.
    async fn told(
        &self,
        record: &DeliveryRecord,
        event: WebhookEvent,
        job: &JobId,
    ) -> Result<Option<Delivery>, DeliveriesError> {
        let stored = self.bus.event(&record.tenant, job, kind(event)).await;
        let stored = stored.map_err(DeliveriesError::Event)?;
        let same = stored.filter(|stored| Some(stored.seq) == record.sequence);
        Ok(same.map(|stored| {
            planner::delivery(stored.message.get(), event, stored.seq, &record.endpoint)
        }))
    }

    async fn queue(&self, out: &Outgoing) -> Result<(), DeliveriesError> {
        let transient = |error: &PublishError| matches!(error, PublishError::Unacknowledged(_));
        let sent = retry(Backoff::REQUEST, transient, || self.bus.publish(out)).await;
        sent.map(drop).map_err(DeliveriesError::Queue)
    }
}

const fn kind(event: WebhookEvent) -> EventKind {
    match event {
        WebhookEvent::Completed => EventKind::Completed,
        WebhookEvent::Failed => EventKind::Failed,
        WebhookEvent::Rejected => EventKind::Rejected,
        WebhookEvent::Cancelled => EventKind::Cancelled,
    }
}

/// Where to go on: in the same page, or in the one before it.
fn next(page: u64, left: usize) -> Option<DeliveryPlace> {
    let place =
        |page, left| Some(DeliveryPlace { page, left: u32::try_from(left).unwrap_or(u32::MAX) });
    match (page, left) {
        (page, 1..) => place(page, left),
        (2.., 0) => place(page - 1, DELIVERY_PAGE_MAX),
        (_, 0) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_of_a_webhook_is_the_one_of_its_job() {
        for event in WebhookEvent::ALL {
            assert_eq!(WebhookEvent::of(kind(event)), Some(event));
        }
    }

    #[test]
    fn the_list_ends_with_the_first_page() {
        assert_eq!(next(2, 5), Some(DeliveryPlace { page: 2, left: 5 }));
        assert_eq!(next(2, 0), Some(DeliveryPlace { page: 1, left: 128 }));
        assert_eq!((next(1, 0), next(0, 0)), (None, None));
    }
}
