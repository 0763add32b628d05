//! From a job's last event to its deliveries: one for each endpoint that wants it, and a courtesy
//! to the tenant's own broker account.
//!
//! May run twice: a delivery's id is a function of job, event and endpoint, so a repeat is dropped
//! by the broker, or, later than its window, by the delivery's record.

use crate::{
    endpoints::{Endpoints, wants},
    payload::{delivery_id, event_body, happened_at},
};
use hotcell_schemas::{
    EndpointId, Job, hook::Delivery, records::TenantRecord, request::WebhookEvent,
};
use hotcell_stage::{Bus, Delivered, Halt, Outgoing, Stage, kv::Bucket};
use std::sync::Arc;
use tracing::{debug, warn};

/// Delay before an event is planned again when the broker did not answer, in milliseconds.
const RETRY_MS: u64 = 1000;

pub(crate) struct Planner {
    bus: Bus,
    tenants: Bucket,
    endpoints: Arc<Endpoints>,
}

impl Planner {
    pub(crate) fn new(bus: Bus, endpoints: Arc<Endpoints>) -> Self {
        Self { tenants: bus.bucket("tenants"), bus, endpoints }
    }

    async fn notify(&self, event: WebhookEvent, sequence: u64, job: &Job) -> Result<(), Halt> {
        let found = self.tenants.get::<TenantRecord>(job.tenant.as_str()).await;
        let found = found.map_err(|error| {
            debug!(%error, "tenant not read");
            Halt::retry_ms(RETRY_MS, "the tenant's record cannot be read")
        })?;
        let Some(tenant) = found else {
            warn!(tenant = %job.tenant, "a job's tenant has no record");
            return Ok(());
        };
        let body = event_body(event, sequence, job);
        self.bus.notify(&tenant.value.account, &job.id, body).await;
        Ok(())
    }
}

fn delivery(job: &Job, event: WebhookEvent, sequence: u64, endpoint: &EndpointId) -> Delivery {
    Delivery {
        id: delivery_id(&job.id, event, endpoint),
        endpoint: endpoint.clone(),
        event,
        sequence,
        at: happened_at(job),
        job: job.clone(),
    }
}

impl Stage for Planner {
    type Input = Job;

    async fn handle(&self, input: Delivered<Job>) -> Result<Vec<Outgoing>, Halt> {
        let (job, sequence) = (input.message.get(), input.seq);
        let Some(event) = WebhookEvent::of(job.state) else {
            return Err(Halt::Reject { reason: "the event is none that webhooks tell of" });
        };
        let endpoints = self.endpoints.of(&job.tenant).await.map_err(|error| {
            debug!(error = %hotcell_stage::service::describe(&error), "endpoints not read");
            Halt::retry_ms(RETRY_MS, "the tenant's endpoints cannot be read")
        })?;
        self.notify(event, sequence, job).await?;
        let wanting = endpoints.iter().filter(|endpoint| wants(endpoint, event));
        let hooks = wanting.map(|endpoint| Outgoing::Hook {
            tenant: job.tenant.clone(),
            delivery: Box::new(delivery(job, event, sequence, &endpoint.id)),
        });
        Ok(hooks.collect())
    }
}
