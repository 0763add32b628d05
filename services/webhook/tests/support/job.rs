//! A job and a delivery for the tests of this crate.

use hotcell_nats_config::testing::job_with_upload;
use hotcell_schemas::{
    BlobKey, DeliveryId, Digest, EndpointId, EventKind, Job, JobId, UnixMs, UploadId,
    hook::{Delivery, EndpointRecord},
    job::{Actor, Output},
    request::WebhookEvent,
};

/// When the job was completed.
const AT: UnixMs = UnixMs(1_779_460_246_120);

pub(crate) fn output(name: &str) -> Output {
    let name = name.parse().unwrap();
    Output {
        key: BlobKey::output(&"acme".parse().unwrap(), &JobId::new(1, [2; 10]), 1, &name),
        name,
        size: 5,
        content_type: "video/mp4".to_owned(),
        sha256: Digest::of(b"out"),
    }
}

/// A job that is submitted, number `number` of its tenant.
pub(crate) fn submitted(number: u8) -> Job {
    let job = Job {
        actor: Actor::ApiKey { id: "0193a0f0c0de7000800000000000beef".parse().unwrap() },
        ..job_with_upload("acme", JobId::new(1, [number; 10]), &UploadId::new(1, [3; 10]), "wf-7")
    };
    job.moved(EventKind::Submitted, UnixMs(AT.0 - 1000))
}

/// An endpoint of the tenant that has seen nothing yet.
#[allow(dead_code, reason = "the tests against a broker make their own")]
pub(crate) fn endpoint() -> EndpointRecord {
    EndpointRecord {
        id: EndpointId::new(1, [6; 10]),
        tenant: "acme".parse().unwrap(),
        url: "https://example.com/".to_owned(),
        events: Vec::new(),
        secret_sealed: String::new(),
        created_at: UnixMs(1),
        failures: 0,
        disabled_at: None,
        disabled_for: None,
        failing: Vec::new(),
        old_secret: None,
        rotation: None,
    }
}

/// A delivery of a completed job.
#[allow(dead_code, reason = "the tests against a broker make their own")]
pub(crate) fn delivery() -> Delivery {
    let mut job = submitted(2).moved(EventKind::Completed, AT);
    job.outputs = vec![output("out.mp4")];
    Delivery {
        id: DeliveryId::new(1, [5; 10]),
        endpoint: EndpointId::new(1, [6; 10]),
        event: WebhookEvent::Completed,
        sequence: 7,
        at: AT,
        job,
    }
}
