//! From a job's last event to its deliveries: one for each endpoint that wants it, also if it is
//! disabled, so that what it was not told is on record and can be replayed; and a courtesy to the
//! tenant's own broker account, where its end is told as a state as well.
//!
//! May run twice: a delivery's id is a function of job, event and endpoint, so a repeat is dropped
//! by the broker, or, later than its window, by the delivery's record.

use crate::{
    accounts::Accounts,
    endpoints::{Endpoints, wants},
    payload::{delivery_id, event_body, happened_at},
    teller::tell,
};
use hotcell_schemas::{EndpointId, Job, Subject, hook::Delivery, request::WebhookEvent};
use hotcell_stage::{Bus, Delivered, Halt, Outgoing, Stage};
use std::sync::Arc;
use tracing::debug;

/// Delay before an event is planned again when the broker did not answer, in milliseconds.
const RETRY_MS: u64 = 1000;

pub(crate) struct Planner {
    pub(crate) bus: Bus,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) endpoints: Arc<Endpoints>,
}

impl Planner {
    async fn notify(&self, event: WebhookEvent, sequence: u64, job: &Job) -> Result<(), Halt> {
        let Some(account) = self.accounts.of(&job.tenant).await? else { return Ok(()) };
        if let Ok(subject) = Subject::terminal(&account, &job.id) {
            self.bus.notify(&subject, event_body(event, sequence, job)).await;
        }
        tell(&self.bus, &account, job).await;
        Ok(())
    }
}

/// The delivery of an event to an endpoint.
pub(crate) fn delivery(
    job: &Job,
    event: WebhookEvent,
    sequence: u64,
    endpoint: &EndpointId,
) -> Delivery {
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
            round: 0,
        });
        Ok(hooks.collect())
    }
}
