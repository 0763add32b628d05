//! Jobs for tests, as intake makes them: before their first event, and with the least in them. What
//! a test is about, it says itself, by struct update.
//! Panics on a tenant's name that is none.

use hotcell_schemas::{
    BlobKey, Digest, EventKind, FileName, Job, JobId, KeyId, TenantId, UploadId,
    identity::Authority,
    job::{Actor, Input},
    request::{Format, InputRequest, PresetRequest, Quality, Resolution, TranscodeRequest},
};

/// A job of an API key of `tenant` that asks for nothing, may do nothing and has no stamp yet.
///
/// # Panics
/// `tenant` is no tenant's name.
#[must_use]
pub fn job(tenant: &str, id: JobId) -> Job {
    Job {
        id,
        tenant: named(tenant),
        state: EventKind::Submitted,
        actor: Actor::ApiKey { id: KeyId::new(1, [1; 10]) },
        authority: Authority::default(),
        decisions: Vec::new(),
        workflow: None,
        request: TranscodeRequest::default(),
        pool: "cpu".parse().expect("a pool's name"),
        inputs: Vec::new(),
        plan: None,
        attempts: Vec::new(),
        outputs: Vec::new(),
        failure: None,
        stamps: Vec::new(),
    }
}

/// The same of `workflow`, asking for an MP4 in 480 lines of `upload`.
///
/// # Panics
/// `tenant` is no tenant's name.
#[must_use]
pub fn job_with_upload(tenant: &str, id: JobId, upload: &UploadId, workflow: &str) -> Job {
    let workflow = Some(workflow.to_owned());
    let request = TranscodeRequest {
        inputs: vec![InputRequest { url: "upload:in.mp4".to_owned() }],
        output_format: Some(Format::Mp4),
        preset: Some(PresetRequest { quality: Quality::Low, resolution: Resolution::P480 }),
        workflow: workflow.clone(),
        ..TranscodeRequest::default()
    };
    Job { workflow, request, inputs: vec![input(tenant, upload)], ..job(tenant, id) }
}

/// `in.mp4` of `upload`, said to be 10 bytes.
///
/// # Panics
/// `tenant` is no tenant's name.
#[must_use]
pub fn input(tenant: &str, upload: &UploadId) -> Input {
    let name: FileName = "in.mp4".parse().expect("a file's name");
    Input {
        key: BlobKey::upload(&named(tenant), upload, &name),
        name,
        size: 10,
        content_type: "video/mp4".to_owned(),
        sha256: Digest::of(b"in"),
        etag: "\"an-etag\"".to_owned(),
        sniffed: None,
    }
}

fn named(tenant: &str) -> TenantId {
    tenant.parse().expect("a tenant's name")
}
