//! The body of a delivery: the job as of the event, as `GET /v1/transcodes/{id}` shows it. Pure.
//!
//! Promises: at most 20 KiB, and the same bytes for the same event, whenever it is sent. Refuses:
//! URLs, object keys, and everything about workers.

use hotcell_schemas::{DeliveryId, EndpointId, JobId};
use hotcell_schemas::{
    Digest, EventKind, Job, UnixMs,
    hook::{Delivery, DeliveryEvent, TestDelivery},
    job::{Input, Output},
    request::WebhookEvent,
};
use serde_json::{Value, json};

/// Largest body, in bytes: what Standard Webhooks advises.
pub const BODY_BYTES_MAX: usize = 20_480;

/// Outputs listed at most; a job with the limit of 64 files would be over the body's limit.
const OUTPUTS_MAX: usize = 40;

/// The id of the delivery of one event to one endpoint: a function of the three, so that a repeat
/// has the same id.
///
/// # Panics
/// Never: the text has an id's form.
#[must_use]
pub fn delivery_id(job: &JobId, event: WebhookEvent, endpoint: &EndpointId) -> DeliveryId {
    // None of the three holds a slash, so the text has one reading.
    let text = format!("hotcell/delivery/v1/{job}/{}/{endpoint}", event.as_str());
    let digest = Digest::of(text.as_bytes());
    let (half, _) = digest.as_bytes().split_at(16);
    hex::encode(half).parse().expect("16 bytes in lowercase hex are an id")
}

/// When the last event of `job` happened.
#[must_use]
pub fn happened_at(job: &Job) -> UnixMs {
    job.stamps.last().map_or(UnixMs(0), |stamp| stamp.at)
}

/// The body of a delivery.
#[must_use]
pub fn body(delivery: &Delivery) -> Vec<u8> {
    event_body(delivery.event, delivery.sequence, &delivery.job)
}

/// The body of a test: of the same form, with nothing of a job in it.
#[must_use]
pub fn test_body(test: &TestDelivery) -> Vec<u8> {
    let value = json!({
        "type": DeliveryEvent::TEST.as_str(),
        "timestamp": test.at.rfc3339(),
        "data": { "tenant": test.tenant, "endpoint": test.endpoint },
    });
    value.to_string().into_bytes()
}

/// The body of an event, also for the tenant's own broker account.
#[must_use]
pub fn event_body(event: WebhookEvent, sequence: u64, job: &Job) -> Vec<u8> {
    let value = json!({
        "type": event.as_str(),
        "timestamp": happened_at(job).rfc3339(),
        "sequence": sequence,
        "data": snapshot(job),
    });
    value.to_string().into_bytes()
}

/// The body of a job's last state, for the tenant's own broker account: what a server-sent event of
/// the API holds. `None` for a job without a state.
#[must_use]
pub fn state_body(job: &Job) -> Option<Vec<u8>> {
    serde_json::to_vec(&job.states(0).next_back()?).ok()
}

fn snapshot(job: &Job) -> Value {
    // Outputs are the job's once the hasher agreed to them.
    let known = if job.state == EventKind::Completed { job.outputs.as_slice() } else { &[] };
    let timeline = job.stamps.iter();
    let timeline = timeline.map(|stamp| json!({ "state": stamp.event, "at": stamp.at.rfc3339() }));
    json!({
        "id": job.id,
        "tenant": job.tenant,
        "state": job.state,
        "workflow": job.workflow,
        "createdAt": job.stamps.first().map(|stamp| stamp.at.rfc3339()),
        "updatedAt": job.stamps.last().map(|stamp| stamp.at.rfc3339()),
        "timeline": timeline.collect::<Vec<_>>(),
        "attempts": job.attempts.len(),
        "inputs": job.inputs.iter().map(input).collect::<Vec<_>>(),
        "outputsTotal": known.len(),
        "outputs": known.iter().take(OUTPUTS_MAX).map(output).collect::<Vec<_>>(),
        "failure": job.failure,
    })
}

fn input(input: &Input) -> Value {
    json!({
        "filename": input.name,
        "fileSize": input.size,
        "contentType": input.content_type,
        "sha256": input.sha256,
    })
}

fn output(output: &Output) -> Value {
    json!({
        "name": output.name,
        "fileSize": output.size,
        "contentType": output.content_type,
        "sha256": output.sha256,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{delivery, output};
    use hotcell_schemas::{RejectCode, reject::Failure};

    #[test]
    fn brk_48_the_body_is_the_job_as_of_the_event() {
        let body = body(&delivery());
        let value: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["type"], "job.completed");
        assert_eq!(value["timestamp"], "2026-05-22T14:30:46.120Z");
        assert_eq!(value["sequence"], 7);
        let data = &value["data"];
        assert_eq!(data["id"], delivery().job.id.as_str());
        assert_eq!((&data["tenant"], &data["state"]), (&json!("acme"), &json!("completed")));
        assert_eq!(data["outputs"][0]["sha256"], Digest::of(b"out").to_string());
        assert_eq!(data["timeline"].as_array().unwrap().len(), 2);
        let text = String::from_utf8(body).unwrap();
        assert!(!text.contains("://") && !text.contains("out/acme") && !text.contains("worker"));
    }

    #[test]
    fn iam_15_a_state_is_told_as_the_api_streams_it() {
        let job = delivery().job;
        let value: Value = serde_json::from_slice(&state_body(&job).unwrap()).unwrap();
        let at = "2026-05-22T14:30:46.120Z";
        assert_eq!(value, json!({ "id": job.id, "state": "completed", "at": at, "seq": 2 }));
        assert_eq!(state_body(&Job { stamps: Vec::new(), ..job }), None);
    }

    #[test]
    fn outputs_that_nobody_checked_are_not_shown() {
        let mut delivery = delivery();
        delivery.job.state = EventKind::Failed;
        delivery.event = WebhookEvent::Failed;
        let value: Value = serde_json::from_slice(&body(&delivery)).unwrap();
        assert_eq!(value["data"]["outputs"], json!([]));
    }

    #[test]
    fn the_largest_job_is_under_20_kib() {
        let mut delivery = delivery();
        let name = format!("{}.mp4", "n".repeat(124));
        delivery.job.outputs = (0..64).map(|_| output(&name)).collect();
        delivery.job.workflow = Some("\u{1}".repeat(128));
        let message = "\u{1}".repeat(500);
        delivery.job.failure = Some(Failure::new(RejectCode::EncodeFailed, message));
        let stamp = delivery.job.stamps[0];
        delivery.job.stamps = vec![stamp; 16];
        let body = body(&delivery);
        assert!(body.len() <= BODY_BYTES_MAX, "{}", body.len());
        let value: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["data"]["outputsTotal"], 64);
    }

    #[test]
    fn the_id_is_a_function_of_job_event_and_endpoint() {
        let (job, other) = (JobId::new(1, [1; 10]), JobId::new(1, [2; 10]));
        let (endpoint, second) = (EndpointId::new(1, [3; 10]), EndpointId::new(1, [4; 10]));
        let id = delivery_id(&job, WebhookEvent::Failed, &endpoint);
        assert_eq!(id, delivery_id(&job, WebhookEvent::Failed, &endpoint));
        for another in [
            delivery_id(&other, WebhookEvent::Failed, &endpoint),
            delivery_id(&job, WebhookEvent::Rejected, &endpoint),
            delivery_id(&job, WebhookEvent::Failed, &second),
        ] {
            assert_ne!(id, another);
        }
    }
}
