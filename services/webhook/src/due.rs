//! What a delivery says, whatever it tells of. Pure.

use crate::payload;
use hotcell_schemas::{
    DeliveryId, EndpointId, JobId, TenantId, UnixMs,
    hook::{Delivery, DeliveryEvent, TestDelivery},
};

/// The event behind a delivery, where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The job.
    pub job: JobId,
    /// Stream sequence of its event.
    pub sequence: u64,
    /// When the event happened.
    pub at: UnixMs,
}

/// A delivery that is to be made.
#[derive(Debug, Clone)]
pub struct Due {
    /// Its id.
    pub id: DeliveryId,
    /// Whose endpoint.
    pub tenant: TenantId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// What it tells of.
    pub event: DeliveryEvent,
    /// The event behind it; none in a test.
    pub source: Option<Source>,
    /// The body, as it is signed and sent.
    pub body: Vec<u8>,
}

impl Due {
    /// Whether it tells of nothing.
    #[must_use]
    pub fn is_test(&self) -> bool {
        self.event == DeliveryEvent::TEST
    }
}

impl From<&Delivery> for Due {
    fn from(delivery: &Delivery) -> Self {
        let Delivery { id, endpoint, event, sequence, at, job } = delivery;
        Self {
            id: id.clone(),
            tenant: job.tenant.clone(),
            endpoint: endpoint.clone(),
            event: DeliveryEvent::Job(*event),
            source: Some(Source { job: job.id.clone(), sequence: *sequence, at: *at }),
            body: payload::body(delivery),
        }
    }
}

impl From<&TestDelivery> for Due {
    fn from(test: &TestDelivery) -> Self {
        Self {
            id: test.id.clone(),
            tenant: test.tenant.clone(),
            endpoint: test.endpoint.clone(),
            event: DeliveryEvent::TEST,
            source: None,
            body: payload::test_body(test),
        }
    }
}
