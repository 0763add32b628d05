//! A job and a delivery for the tests of this crate.

use hotcell_schemas::{
    BlobKey, DeliveryId, Digest, EndpointId, EventKind, Job, JobId, UnixMs, UploadId,
    hook::Delivery,
    job::{Actor, Input, Output},
    request::WebhookEvent,
    request::{Format, InputRequest, PresetRequest, Quality, Resolution, TranscodeRequest},
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
    let tenant = "acme".parse().unwrap();
    let request = TranscodeRequest {
        inputs: vec![InputRequest { url: "upload:in.mp4".to_owned() }],
        output_format: Some(Format::Mp4),
        preset: Some(PresetRequest { quality: Quality::Low, resolution: Resolution::P480 }),
        outputs: Vec::new(),
        workflow: Some("wf-7".to_owned()),
        priority: hotcell_schemas::tenancy::Priority::Normal,
        ..TranscodeRequest::default()
    };
    let name = "in.mp4".parse().unwrap();
    let input = Input {
        key: BlobKey::upload(&tenant, &UploadId::new(1, [3; 10]), &name),
        name,
        size: 10,
        content_type: "video/mp4".to_owned(),
        sha256: Digest::of(b"in"),
        etag: "\"an-etag\"".to_owned(),
        sniffed: None,
    };
    let job = Job {
        id: JobId::new(1, [number; 10]),
        tenant,
        state: EventKind::Submitted,
        actor: Actor::ApiKey { id: "0193a0f0c0de7000800000000000beef".parse().unwrap() },
        authority: hotcell_schemas::identity::Authority::default(),
        decisions: Vec::new(),
        workflow: request.workflow.clone(),
        request,
        pool: "cpu".parse().unwrap(),
        inputs: vec![input],
        plan: None,
        attempts: Vec::new(),
        outputs: Vec::new(),
        failure: None,
        stamps: Vec::new(),
    };
    job.moved(EventKind::Submitted, UnixMs(AT.0 - 1000))
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
