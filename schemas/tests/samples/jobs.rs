//! Job snapshots in every state, and the deliveries that carry them.

use super::{
    See, T0, delivery_id, digest, endpoint_id, file, job_id, key, key_id, tenant, upload_key,
    upload_name, worker,
};
use hotcell_schemas::{
    BlobKey, EventKind, Job, Plan, RejectCode, Report, Role, UnixMs,
    hook::Delivery,
    job::{Actor, Attempt, Grant, Input, Output, ReportSeal},
    plan::{AudioPlan, CellLimits, Container, Effort, OutputPlan, Rate, Scale, Sniffed, VideoPlan},
    reject::Failure,
    report::{CellEnd, CellUse, Probe, ProbedStream, ProducedFile, Provenance, StderrFile, Steps},
    request::{
        AudioCodec, AudioRequest, Format, InputRequest, OutputRequest, PresetRequest, Quality,
        Resolution, TranscodeRequest, VideoCodec, VideoRequest, WebhookEvent,
    },
};

/// Every state of a job, and a delivery of each terminal one.
pub(crate) fn each(eye: &mut impl See) {
    let retried = {
        let mut job = attempt_failed();
        job.attempts.push(attempt(2, at(60)));
        job.moved(EventKind::Assigned, at(60))
    };
    let cancelled = Job { failure: Some(failure(RejectCode::Cancelled)), ..assigned() };
    let jobs = [
        ("submitted", submitted()),
        ("validated", validated()),
        ("validated_own", super::own::own()),
        ("rejected", rejected()),
        ("assigned", assigned()),
        ("attempt_failed", attempt_failed()),
        ("assigned_again", retried),
        ("encoded", encoded()),
        ("completed", completed()),
        ("failed", failed()),
        ("cancelled", cancelled.moved(EventKind::Cancelled, at(30))),
        ("expired", completed().moved(EventKind::Expired, at(86_400))),
    ];
    let mut high = validated();
    high.request.priority = hotcell_schemas::tenancy::Priority::High;
    eye.see("prioritised", "job.prioritised", &high);
    for (case, job) in jobs {
        eye.see(case, &format!("job.{}", job.state), &job);
        if let Some(event) = WebhookEvent::of(job.state) {
            let delivery = Delivery {
                id: delivery_id(),
                endpoint: endpoint_id(),
                event,
                sequence: 42,
                at: at(40),
                job,
            };
            eye.see(case, "hook.out", &delivery);
        }
    }
}

fn at(secs: u64) -> UnixMs {
    T0.plus_ms(secs * 1000)
}

pub(crate) fn preset_request() -> TranscodeRequest {
    TranscodeRequest {
        inputs: vec![InputRequest { url: format!("upload:{}", upload_name()) }],
        output_format: Some(Format::Mp4),
        preset: Some(PresetRequest { quality: Quality::Medium, resolution: Resolution::P480 }),
        outputs: vec![],
        workflow: Some("trailer".to_owned()),
        priority: hotcell_schemas::tenancy::Priority::Normal,
        ..TranscodeRequest::default()
    }
}

pub(crate) fn explicit_request() -> TranscodeRequest {
    let video = VideoRequest {
        codec: VideoCodec::Vp9,
        height: Some(720),
        width: Some(1280),
        bitrate: Some(2_000_000),
    };
    let audio = AudioRequest { codec: AudioCodec::Opus, bitrate: Some(96_000) };
    TranscodeRequest {
        output_format: None,
        preset: None,
        outputs: vec![OutputRequest {
            format: Format::Webm,
            video: Some(video),
            audio: Some(audio),
            ffmpeg_args: Vec::new(),
        }],
        workflow: None,
        ..preset_request()
    }
}

pub(crate) fn submitted() -> Job {
    let job = Job {
        id: job_id(),
        tenant: tenant(),
        state: EventKind::Submitted,
        actor: Actor::ApiKey { id: key_id() },
        authority: hotcell_schemas::identity::Authority::default(),
        decisions: Vec::new(),
        workflow: Some("trailer".to_owned()),
        request: preset_request(),
        pool: "cpu".parse().unwrap(),
        inputs: vec![Input {
            key: upload_key(),
            name: upload_name(),
            size: 1_048_576,
            content_type: "video/mp4".to_owned(),
            sha256: digest("input"),
            etag: "\"9b2cf535f27731c974343645a3985328\"".to_owned(),
            sniffed: None,
        }],
        plan: None,
        attempts: vec![],
        outputs: vec![],
        failure: None,
        stamps: vec![],
    };
    job.moved(EventKind::Submitted, at(0))
}

pub(crate) fn sniffed() -> Sniffed {
    Sniffed {
        container: Container::Mp4,
        content_type: "video/mp4".to_owned(),
        width: Some(1280),
        height: Some(720),
        has_video: Some(true),
        has_audio: None,
        duration_ms: Some(10_000),
        protected: false,
    }
}

pub(crate) fn limits() -> CellLimits {
    CellLimits {
        memory_bytes: 2 << 30,
        cpu_secs: 600,
        wall_secs: 900,
        output_bytes: 1 << 32,
        temp_bytes: 1 << 30,
        procs: 64,
        stall_secs: 60,
        files: 8,
    }
}

pub(crate) fn plan() -> Plan {
    plan_with(Rate::Crf(23), Scale::Height(480), Effort::Medium)
}

fn plan_with(rate: Rate, scale: Scale, effort: Effort) -> Plan {
    let argv = ["-f", "mov", "-i", "{in0}", "-vf", "scale=-2:480", "-c:v", "libx264", "{out0}"];
    Plan {
        input: Container::Mp4,
        outputs: vec![OutputPlan {
            name: file("out.mp4"),
            format: Format::Mp4,
            content_type: "video/mp4".to_owned(),
            video: Some(VideoPlan { codec: VideoCodec::H264, rate, effort, scale }),
            audio: Some(AudioPlan { codec: AudioCodec::Aac, bitrate: 128_000 }),
            raw: None,
        }],
        argv: argv.map(str::to_owned).into(),
        filters: vec!["scale".to_owned()],
        limits: limits(),
    }
}

pub(crate) fn validated() -> Job {
    let mut job = submitted();
    for input in &mut job.inputs {
        input.sniffed = Some(sniffed());
    }
    job.plan = Some(plan());
    job.moved(EventKind::Validated, at(1))
}

/// Asked for over the broker, explicitly, and refused.
fn rejected() -> Job {
    let actor = Actor::NatsLogin { user: key(Role::Tenant).public_key(), name: "ci".to_owned() };
    let job = Job {
        actor,
        request: explicit_request(),
        authority: hotcell_schemas::identity::Authority::default(),
        decisions: Vec::new(),
        workflow: None,
        failure: Some(failure(RejectCode::InputNotMedia)),
        ..submitted()
    };
    job.moved(EventKind::Rejected, at(1))
}

pub(crate) fn failure(code: RejectCode) -> Failure {
    Failure::new(code, "one sentence for people")
}

fn attempt(number: u32, assigned_at: UnixMs) -> Attempt {
    Attempt {
        number,
        worker: worker(),
        worker_key: key(Role::Encoder).public_key(),
        pool: "cpu".parse().unwrap(),
        assigned_at,
        grants: vec![Grant {
            method: "GET".to_owned(),
            key_digest: upload_key().digest(),
            ttl_secs: 3600,
            destination: None,
        }],
        ended_at: None,
        report: None,
        seal: None,
        failure: None,
    }
}

fn assigned() -> Job {
    let mut job = validated();
    job.plan = Some(plan_with(Rate::Bitrate(800_000), Scale::Exact(854, 480), Effort::Fast));
    job.attempts.push(attempt(1, at(2)));
    job.moved(EventKind::Assigned, at(2))
}

/// The report's signature is a fixed text: nothing here checks it.
fn ended(job: &mut Job, report: Report) {
    let last = job.attempts.last_mut().unwrap();
    last.ended_at = Some(at(9));
    last.failure.clone_from(&report.failure);
    last.seal = Some(ReportSeal {
        key: key(Role::Encoder).public_key(),
        msg_id: "done.1".to_owned(),
        time: at(9),
        body_digest: digest("body"),
        sig: "5a".repeat(64),
    });
    last.report = Some(report);
}

pub(crate) fn report() -> Report {
    let probed = |width, height| Probe {
        format: "mov,mp4,m4a,3gp,3g2,mj2".to_owned(),
        duration_ms: Some(10_000),
        start_ms: None,
        bit_rate: Some(838_860),
        streams: vec![
            ProbedStream {
                kind: "video".to_owned(),
                codec: "h264".to_owned(),
                width: Some(width),
                height: Some(height),
                sample_rate: None,
                channels: None,
                duration_ms: Some(10_000),
                frames: Some(300),
                fps: Some(30),
                attached: false,
            },
            ProbedStream {
                kind: "audio".to_owned(),
                codec: "aac".to_owned(),
                width: None,
                height: None,
                sample_rate: Some(48_000),
                channels: Some(2),
                duration_ms: Some(10_000),
                frames: None,
                fps: None,
                attached: false,
            },
        ],
    };
    let used = CellUse {
        end: CellEnd::Exited(0),
        cpu_ms: 4321,
        memory_bytes_max: 210_763_776,
        wall_ms: 2500,
        bytes_in: 1_048_576,
        bytes_out: 524_288,
        violation: None,
    };
    Report {
        provenance: provenance(),
        steps: Steps {
            fetch: Some(at(3)),
            probe: Some(at(4)),
            encode: Some(at(5)),
            store: Some(at(8)),
            done: Some(at(9)),
        },
        probe: Some(CellUse { cpu_ms: 40, wall_ms: 60, bytes_out: 0, ..used.clone() }),
        verify: Some(CellUse { cpu_ms: 30, bytes_in: 524_288, bytes_out: 0, ..used.clone() }),
        encode: Some(used),
        input: Some(probed(1280, 720)),
        output: Some(probed(854, 480)),
        files: vec![produced()],
        stderr: Some(StderrFile { bytes: 5120, sha256: digest("stderr"), stored_bytes: 812 }),
        failure: None,
    }
}

fn provenance() -> Provenance {
    Provenance {
        ffmpeg: "ffmpeg version 5.1.9-0+deb12u1".to_owned(),
        configuration_digest: digest("configuration"),
        root_digest: digest("root"),
        image_digest: digest("image"),
        profile_digest: digest("profile"),
        degraded: vec![],
        cell: "ffmpeg".to_owned(),
    }
}

pub(crate) fn produced() -> ProducedFile {
    ProducedFile {
        name: file("out.mp4"),
        size: 524_288,
        content_type: "video/mp4".to_owned(),
        sha256: digest("output"),
    }
}

/// The report of an attempt that ended as `end` says.
pub(crate) fn failed_report(end: CellEnd, code: RejectCode) -> Report {
    let violation = (end == CellEnd::Signaled(31)).then(|| "socket".to_owned());
    let encode =
        CellUse { cpu_ms: 1, memory_bytes_max: 2, wall_ms: 3, violation, ..CellUse::nothing(end) };
    Report {
        provenance: Provenance { degraded: vec!["landlock".to_owned()], ..provenance() },
        steps: Steps { fetch: Some(at(3)), ..Steps::default() },
        probe: None,
        encode: Some(encode),
        verify: None,
        input: None,
        output: None,
        files: vec![],
        stderr: None,
        failure: Some(failure(code)),
    }
}

fn attempt_failed() -> Job {
    let mut job = assigned();
    ended(&mut job, failed_report(CellEnd::Signaled(11), RejectCode::CellCrashed));
    job.moved(EventKind::AttemptFailed, at(10))
}

fn encoded() -> Job {
    let mut job = assigned();
    job.plan = Some(plan());
    ended(&mut job, report());
    let ProducedFile { name, size, content_type, sha256 } = produced();
    let key = BlobKey::output(&tenant(), &job_id(), 1, &name);
    job.outputs = vec![Output { name, key, size, content_type, sha256 }];
    job.moved(EventKind::Encoded, at(10))
}

pub(crate) fn completed() -> Job {
    encoded().moved(EventKind::Completed, at(11))
}

fn failed() -> Job {
    let mut job = attempt_failed();
    job.plan = Some(plan_with(Rate::Crf(31), Scale::Source, Effort::Slow));
    job.failure = Some(failure(RejectCode::AttemptsExhausted));
    job.moved(EventKind::Failed, at(12))
}
