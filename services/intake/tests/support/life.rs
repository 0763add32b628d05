//! Jobs as they come and go, made by the roles that may.

use crate::world::World;
use hotcell_nats_config::testing::job_with_upload;
use hotcell_schemas::{
    BlobKey, Digest, EventKind, FileName, Job, JobId, Role, UploadId, job::Output,
    work::SignRequest,
};
use hotcell_stage::{Outgoing, clock};
use serde_json::json;

fn name(text: &str) -> FileName {
    text.parse().unwrap()
}

/// A job that was just submitted; nothing is published.
pub(crate) fn submitted(of: &str, n: usize) -> Job {
    let now = clock::now();
    let upload = UploadId::new(now.0, clock::random());
    let id = JobId::new(now.0, clock::random());
    job_with_upload(of, id, &upload, &format!("wf-{n}")).moved(EventKind::Submitted, now)
}

/// A submitted job in the stream, with its sequence.
pub(crate) async fn job_of(world: &World, of: &str, n: usize) -> (Job, u64) {
    let job = submitted(of, n);
    let bus = world.bus(Role::Intake).await;
    let at = bus.publish(&Outgoing::job(job.clone(), 0)).await.unwrap().seq;
    (job, at)
}

/// Moves a job along `path`, each step by its role.
pub(crate) async fn moved(world: &World, job: Job, at: u64, path: &[EventKind]) -> (Job, u64) {
    let (mut job, mut at) = (job, at);
    for event in path {
        let role = match event {
            EventKind::Validated | EventKind::Rejected => Role::Validator,
            EventKind::Completed => Role::Hasher,
            EventKind::Submitted | EventKind::Cancelled => Role::Intake,
            EventKind::Assigned
            | EventKind::AttemptFailed
            | EventKind::Encoded
            | EventKind::Failed
            | EventKind::Expired => Role::Signer,
        };
        job = job.moved(*event, clock::now());
        if *event == EventKind::Encoded {
            let out = name("out.mp4");
            job.outputs = vec![Output {
                key: BlobKey::output(&job.tenant, &job.id, 1, &out),
                name: out,
                size: 1,
                content_type: "video/mp4".to_owned(),
                sha256: Digest::of(b"out"),
            }];
        }
        let out = Outgoing::job(job.clone(), at);
        at = world.bus(role).await.publish(&out).await.unwrap().seq;
    }
    (job, at)
}

fn clip() -> Vec<u8> {
    hotcell_e2e::media::clip(1, 128, 72).unwrap()
}

impl World {
    /// A confirmed upload of tenant `acme`; gives its name.
    pub(crate) async fn confirmed(&self) -> String {
        let bytes = clip();
        let ask =
            json!({ "filename": "a.mp4", "contentType": "video/mp4", "fileSize": bytes.len() });
        let (status, given) = self.post("/v1/upload/presigned-url", &self.acme, &ask).await;
        assert_eq!(status, 200, "{given}");
        let Some(SignRequest::Upload { key, .. }) = self.asked.lock().unwrap().pop() else {
            panic!("not a request for an upload")
        };
        let name = given["result"]["filename"].as_str().unwrap().to_owned();
        let confirm = json!({ "filename": name, "fileSize": bytes.len() });
        self.objects.lock().unwrap().insert(key.to_string(), bytes);
        let (status, said) = self.post("/v1/upload/confirm", &self.acme, &confirm).await;
        assert_eq!(status, 200, "{said}");
        name
    }
}
