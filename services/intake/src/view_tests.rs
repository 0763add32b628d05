//! Tests of the views, and the job that they look at.

use super::*;
use hotcell_nats_config::testing::{self, job_with_upload};
use hotcell_schemas::{
    BlobKey, Digest, FileName, JobId, Plan, UploadId,
    plan::{CellLimits, Container},
    report::{CellEnd, Probe, ProbedStream, Provenance},
};

fn name(text: &str) -> FileName {
    text.parse().unwrap()
}

fn plan() -> Plan {
    let limits = CellLimits {
        memory_bytes: 1,
        cpu_secs: 2,
        wall_secs: 3,
        output_bytes: 4,
        temp_bytes: 5,
        procs: 6,
        stall_secs: 7,
        files: 8,
    };
    let argv = ["-i", "{in0}", "-vf", "scale=-2:480", "{out0}"].map(str::to_owned).to_vec();
    Plan {
        input: Container::Mp4,
        outputs: Vec::new(),
        argv,
        filters: vec!["scale".to_owned()],
        limits,
    }
}

fn a_report() -> Report {
    let used = CellUse {
        end: CellEnd::Exited(0),
        cpu_ms: 7,
        memory_bytes_max: 8,
        wall_ms: 9,
        bytes_in: 10,
        bytes_out: 11,
        violation: None,
    };
    let stream = ProbedStream {
        kind: "video".to_owned(),
        codec: "h264".to_owned(),
        width: Some(1280),
        height: Some(720),
        sample_rate: None,
        channels: None,
        duration_ms: Some(10_000),
        frames: Some(300),
        fps: None,
        attached: false,
    };
    let probe = Probe {
        format: "mov".to_owned(),
        duration_ms: Some(1000),
        start_ms: None,
        bit_rate: None,
        streams: vec![stream],
    };
    Report {
        provenance: Provenance {
            ffmpeg: "ffmpeg version 5.1.9".to_owned(),
            configuration_digest: Digest::of(b"configuration"),
            root_digest: Digest::of(b"root"),
            image_digest: Digest::of(b"image"),
            profile_digest: Digest::of(b"profile"),
            degraded: Vec::new(),
            cell: "ffmpeg".to_owned(),
        },
        steps: Steps { fetch: Some(UnixMs(1000)), ..Steps::default() },
        probe: Some(used.clone()),
        encode: Some(used),
        verify: None,
        input: Some(probe.clone()),
        output: Some(probe),
        files: Vec::new(),
        stderr: None,
        failure: None,
    }
}

fn an_attempt() -> Attempt {
    Attempt {
        number: 1,
        worker: "w1".parse().unwrap(),
        worker_key: "UWORKER".to_owned(),
        pool: "cpu".parse().unwrap(),
        assigned_at: UnixMs(2000),
        grants: vec![Grant {
            method: "GET".to_owned(),
            key_digest: Digest::of(b"key"),
            ttl_secs: 600,
            destination: None,
        }],
        ended_at: Some(UnixMs(3000)),
        report: Some(a_report()),
        seal: Some(ReportSeal {
            key: "UWORKER".to_owned(),
            msg_id: "m".to_owned(),
            time: UnixMs(3000),
            body_digest: Digest::of(b"body"),
            sig: "00".to_owned(),
        }),
        failure: None,
    }
}

/// A job that went all the way.
pub(crate) fn completed() -> Job {
    let asked = job_with_upload("acme", JobId::new(1, [2; 10]), &UploadId::new(1, [3; 10]), "wf-7");
    let output = Output {
        key: BlobKey::output(&asked.tenant, &asked.id, 1, &name("out.mp4")),
        name: name("out.mp4"),
        size: 5,
        content_type: "video/mp4".to_owned(),
        sha256: Digest::of(b"out"),
    };
    let stamp = |event, at| Stamp { event, at: UnixMs(at) };
    Job {
        state: EventKind::Completed,
        actor: Actor::ApiKey { id: "0193a0f0c0de7000800000000000beef".parse().unwrap() },
        plan: Some(plan()),
        attempts: vec![an_attempt()],
        outputs: vec![output],
        stamps: vec![stamp(EventKind::Submitted, 1000), stamp(EventKind::Completed, 4000)],
        ..asked
    }
}

#[test]
fn the_snapshot_shows_outputs_only_when_the_hasher_agreed() {
    let view = snapshot(&completed());
    assert_eq!(view["state"], "completed");
    assert_eq!(view["createdAt"], "1970-01-01T00:00:01.000Z");
    assert_eq!(view["outputs"][0]["name"], "out.mp4");
    assert_eq!(view["outputs"][0]["sha256"], Digest::of(b"out").to_string());
    let encoded = snapshot(&Job { state: EventKind::Encoded, ..completed() });
    assert_eq!(encoded["outputs"], serde_json::json!([]));
}

#[test]
fn brk_55_to_60_iam_11_the_record_is_complete() {
    let view = audit(&completed());
    let check = |pointer: &str, expect: Value| {
        assert_eq!(view.pointer(pointer), Some(&expect), "{pointer}");
    };
    check("/jobId", json!(JobId::new(1, [2; 10])));
    check("/orgId", json!("acme"));
    check("/workflowId", json!("wf-7"));
    check("/actor/kind", json!("apiKey"));
    check("/attempts/0/assignedAt", json!("1970-01-01T00:00:02.000Z"));
    check("/attempts/0/workerId", json!("w1"));
    check("/attempts/0/command/1", json!("{in0}"));
    check("/attempts/0/filters/0", json!("scale"));
    check("/attempts/0/report/ffmpeg", json!("ffmpeg version 5.1.9"));
    check("/attempts/0/report/imageDigest", json!(Digest::of(b"image")));
    let configuration = json!(Digest::of(b"configuration"));
    check("/attempts/0/report/configurationDigest", configuration);
    check("/attempts/0/report/rootDigest", json!(Digest::of(b"root")));
    check("/attempts/0/report/profileDigest", json!(Digest::of(b"profile")));
    check("/attempts/0/report/encodeCell/end/exited", json!(0));
    check("/attempts/0/report/inputProbe/streams/0/width", json!(1280));
    check("/attempts/0/report/outputProbe/durationMs", json!(1000));
    check("/attempts/0/report/steps/fetch", json!("1970-01-01T00:00:01.000Z"));
    check("/attempts/0/reportSignature/sig", json!("00"));
    check("/inputs/0/sha256", json!(Digest::of(b"in")));
    check("/outputs/0/sha256", json!(Digest::of(b"out")));
    check("/outputsVerified", json!(true));
    check("/timeline/1/state", json!("completed"));
}

#[test]
fn api_11_no_view_holds_an_object_key_or_a_url() {
    let job = completed();
    for view in [snapshot(&job), audit(&job)] {
        let text = view.to_string();
        for secret in [job.inputs[0].key.as_str(), job.outputs[0].key.as_str(), "an-etag", "://"] {
            assert!(!text.contains(secret), "{secret}");
        }
    }
}

#[test]
fn iam_09_outputs_at_a_destination_are_found_by_their_tenant_and_by_no_signature() {
    let place = ["https://s3.example.com", "media", "video"];
    let addressing = hotcell_schemas::destination::Addressing::Virtual;
    let destination =
        DestinationRecord { addressing, ..testing::destination("acme", "cdn", place) };
    let mut job = completed();
    assert_eq!(snapshot(&job)["destination"], Value::Null);
    job.request.destination = Some(destination.name.clone());
    let (plain, view) = (snapshot(&job), located(&job, &destination));
    assert_eq!(plain["destination"], "cdn");
    assert_eq!(plain["outputs"][0].get("location"), None);
    let expect = format!("https://s3.example.com/media/video/{}", job.outputs[0].key);
    assert_eq!(view["outputs"][0]["location"], expect);
    assert!(expect.ends_with(&destination.object_key(&job.outputs[0].key)));
    for secret in ["AKIA", "?", "X-Amz", job.inputs[0].key.as_str()] {
        assert!(!view.to_string().contains(secret), "{secret}");
    }
    // The record says of each URL whether it led there, or to the store.
    job.attempts[0].grants[0].destination = job.request.destination.clone();
    assert_eq!(audit(&job)["attempts"][0]["grants"][0]["destination"], "cdn");
    assert_eq!(audit(&completed())["attempts"][0]["grants"][0]["destination"], Value::Null);
    let encoded = located(&Job { state: EventKind::Encoded, ..job }, &destination);
    assert_eq!(encoded["outputs"], json!([]), "nothing before the hasher agreed");
}

#[test]
fn every_field_name_is_camel_case() {
    fn names(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    found.push(name.clone());
                    names(value, found);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| names(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut found = Vec::new();
    names(&audit(&completed()), &mut found);
    names(&snapshot(&completed()), &mut found);
    assert!(found.len() > 60);
    assert!(found.iter().all(|name| !name.contains('_')), "{found:?}");
}
