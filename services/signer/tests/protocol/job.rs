//! Jobs, reports and files as the other services would make them.

use hotcell_nats_config::testing;
use hotcell_schemas::{
    Digest, EventKind, FileName, Job, JobId, Plan, RejectCode, UnixMs, UploadId, argv,
    identity::{Authority, RoleName},
    job::{Actor, Input},
    plan::{CellLimits, Container, OutputPlan},
    reject::Failure,
    report::{ProducedFile, Provenance, Report, Steps},
    request::{Format, TranscodeRequest},
    subject::Subject,
};
use hotcell_stage::clock;

/// The one image on the signer's list.
pub(crate) fn image() -> Digest {
    Digest::of(b"image")
}

pub(crate) fn name() -> FileName {
    "out.mp4".parse().unwrap()
}

/// What a principal needs to submit a job and to have its outputs stored.
pub(crate) fn submitter() -> Authority {
    Authority { roles: [RoleName::Submitter].into(), ..Authority::default() }
}

/// A job that intake has just accepted.
pub(crate) fn submitted(tenant: &str, pool: &str) -> Job {
    let now = clock::now();
    let upload = UploadId::new(now.0, clock::random());
    let job = Job {
        actor: Actor::NatsLogin { user: "U".to_owned(), name: "app".to_owned() },
        authority: submitter(),
        request: TranscodeRequest {
            output_format: Some(Format::Mp4),
            ..TranscodeRequest::default()
        },
        pool: pool.parse().unwrap(),
        inputs: vec![Input { size: 1000, ..testing::input(tenant, &upload) }],
        ..testing::job(tenant, JobId::new(now.0, clock::random()))
    };
    job.moved(EventKind::Submitted, now)
}

/// What the validator would compile.
pub(crate) fn plan() -> Plan {
    let output = OutputPlan {
        name: name(),
        format: Format::Mp4,
        content_type: "video/mp4".to_owned(),
        video: None,
        audio: None,
        raw: None,
    };
    let (argv, filters) = argv::argv(Container::Mp4, &output);
    let limits = CellLimits {
        memory_bytes: 1 << 30,
        cpu_secs: 60,
        wall_secs: 60,
        output_bytes: 1 << 20,
        temp_bytes: 1 << 20,
        procs: 16,
        stall_secs: 30,
        files: 8,
    };
    Plan { input: Container::Mp4, outputs: vec![output], argv, filters, limits }
}

/// The planned file, as made.
pub(crate) fn made() -> ProducedFile {
    ProducedFile {
        name: name(),
        size: 500,
        content_type: "video/mp4".to_owned(),
        sha256: Digest::of(b"output"),
    }
}

/// A report of success; `tag` tells reports apart.
pub(crate) fn report(tag: &str) -> Report {
    Report {
        provenance: Provenance {
            ffmpeg: tag.to_owned(),
            configuration_digest: Digest::of(b"configuration"),
            root_digest: Digest::of(b"root"),
            image_digest: image(),
            profile_digest: Digest::of(b"profile"),
            degraded: Vec::new(),
            cell: "ffmpeg".to_owned(),
        },
        steps: Steps::default(),
        probe: None,
        encode: None,
        verify: None,
        input: None,
        output: None,
        files: vec![made()],
        stderr: None,
        failure: None,
    }
}

/// A report of failure.
pub(crate) fn failed(code: RejectCode) -> Report {
    let failure = Some(Failure::new(code, "scripted"));
    Report { files: Vec::new(), failure, ..report("failed") }
}

/// The subject filter of the job's events.
pub(crate) fn filter(job: &Job) -> String {
    Subject::job_filter(&job.tenant, &job.id)
}

/// `secs` seconds after the epoch.
pub(crate) fn at(secs: u64) -> UnixMs {
    UnixMs(secs * 1000)
}
