//! The service with a real broker, its own permissions in force: from `encoded` to its verdict.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use axum::{Router, extract::State, http::StatusCode, routing::get};
use hotcell_hasher::config::Config;
use hotcell_nats_config::{
    InitOptions, Login, Replicas,
    testing::{NOW, TestServer, job},
};
use hotcell_schemas::{
    BlobKey, Digest, EventKind, Job, JobId, Plan, RejectCode, Report, Role, Subject, TenantId,
    UnixMs, argv,
    job::{Attempt, Output, Stamp},
    plan::{CellLimits, Container, Effort, OutputPlan, Rate, Scale, VideoPlan},
    report::{Probe, ProbedStream, Provenance, Steps},
    request::{Format, VideoCodec},
    subject::SignVerb,
    work::{SecretUrl, SignReply, SignRequest, SignedUrl},
};
use hotcell_stage::{
    Bus, NatsConfig, Outgoing, Shutdown, TelemetryConfig, clock, config::LogFormat,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

const BYTES: &[u8] = b"what the worker reported";

/// A busy machine may take this long for what takes a second.
const DEADLINE: Duration = Duration::from_secs(120);

fn probed(codec: &str) -> Probe {
    let video = ProbedStream {
        kind: "video".to_owned(),
        codec: codec.to_owned(),
        width: Some(320),
        height: Some(240),
        sample_rate: None,
        channels: None,
        duration_ms: Some(2000),
        frames: Some(50),
        fps: None,
        attached: false,
    };
    Probe {
        format: "mov,mp4,m4a,3gp,3g2,mj2".to_owned(),
        duration_ms: Some(2000),
        start_ms: None,
        bit_rate: None,
        streams: vec![video],
    }
}

/// H.264 as large as the input.
fn plan() -> Plan {
    let video = VideoPlan {
        codec: VideoCodec::H264,
        rate: Rate::Crf(23),
        effort: Effort::Fast,
        scale: Scale::Source,
    };
    let output = OutputPlan {
        name: "a.mp4".parse().unwrap(),
        format: Format::Mp4,
        content_type: "video/mp4".to_owned(),
        video: Some(video),
        audio: None,
        raw: None,
    };
    let limits = CellLimits {
        memory_bytes: 1,
        cpu_secs: 1,
        wall_secs: 1,
        output_bytes: 1,
        temp_bytes: 1,
        procs: 1,
        stall_secs: 1,
        files: 1,
    };
    let (argv, filters) = argv::argv(Container::Mp4, &output);
    Plan { input: Container::Mp4, outputs: vec![output], argv, filters, limits }
}

/// The attempt whose report says that the output's picture is in `codec`.
fn attempt(codec: &str) -> Attempt {
    let digest = Digest::of(b"");
    let provenance = Provenance {
        ffmpeg: String::new(),
        configuration_digest: digest,
        root_digest: digest,
        image_digest: digest,
        profile_digest: digest,
        degraded: Vec::new(),
        cell: "ffmpeg".to_owned(),
    };
    let report = Report {
        provenance,
        steps: Steps::default(),
        probe: None,
        encode: None,
        verify: None,
        input: Some(probed("mpeg4")),
        output: Some(probed(codec)),
        files: Vec::new(),
        stderr: None,
        failure: None,
    };
    Attempt {
        number: 1,
        worker: "w1".parse().unwrap(),
        worker_key: "U".to_owned(),
        pool: "cpu".parse().unwrap(),
        assigned_at: UnixMs(1),
        grants: Vec::new(),
        ended_at: Some(UnixMs(2)),
        report: Some(report),
        seal: None,
        failure: None,
    }
}

/// Encoded by a worker that reported `size` and `sha256`.
fn encoded(number: u8, size: usize, sha256: Digest) -> Job {
    let bare = job("acme", JobId::new(1, [number; 10]));
    let name = "a.mp4".parse().unwrap();
    let output = Output {
        key: BlobKey::output(&bare.tenant, &bare.id, 1, &name),
        name,
        size: u64::try_from(size).unwrap(),
        content_type: "video/mp4".to_owned(),
        sha256,
    };
    Job {
        state: EventKind::Encoded,
        plan: Some(plan()),
        attempts: vec![attempt("h264")],
        outputs: vec![output],
        stamps: [EventKind::Assigned, EventKind::Encoded]
            .map(|event| Stamp { event, at: UnixMs(2) })
            .to_vec(),
        ..bare
    }
}

/// Fails once, then serves [`BYTES`].
async fn serve_store(running: &mut JoinSet<()>) -> String {
    async fn read(State(calls): State<Arc<AtomicU64>>) -> Result<&'static [u8], StatusCode> {
        let first = calls.fetch_add(1, Ordering::Relaxed) == 0;
        if first { Err(StatusCode::SERVICE_UNAVAILABLE) } else { Ok(BYTES) }
    }
    let app = Router::new().route("/o", get(read)).with_state(Arc::new(AtomicU64::new(0)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    running.spawn(async move { axum::serve(listener, app).await.unwrap() });
    format!("http://{address}/o")
}

/// Gives a URL for the output that was asked for, and for no other: where `place` says.
fn serve_signer(
    running: &mut JoinSet<()>,
    bus: &Bus,
    place: impl Fn(&TenantId, &JobId) -> String + Send + Sync + 'static,
) {
    let (bus, place) = (bus.clone(), Arc::new(place));
    running.spawn(async move {
        let handle = move |incoming: hotcell_stage::Incoming| {
            let place = Arc::clone(&place);
            async move {
                let asked = incoming.open::<SignRequest>().unwrap().into_inner();
                let SignRequest::Read { tenant, key, job: Some(job) } = asked else {
                    panic!("the hasher reads for a job")
                };
                assert!(key.belongs_to(&tenant));
                let url = SecretUrl::new(place(&tenant, &job));
                let signed = SignedUrl { url, headers: Vec::new(), expires_at: UnixMs(u64::MAX) };
                incoming.answer(&SignReply::Signed { signed }).await;
            }
        };
        let subject = Subject::sign(SignVerb::Output).to_string();
        bus.serve(&subject, "signer", 4, Shutdown::new(), handle).await.unwrap();
    });
}

async fn verdict(bus: &Bus, job: &Job) -> Job {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let stored = bus.job(&job.tenant, &job.id).await.unwrap().unwrap();
        if stored.message.get().state != EventKind::Encoded {
            assert_eq!(stored.message.role(), Role::Hasher);
            return stored.message.into_inner();
        }
        assert!(Instant::now() < deadline, "no verdict");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A bucket that takes connections, and gives no byte until it is told to fail.
async fn serve_silence(running: &mut JoinSet<()>, fail: Shutdown) -> String {
    let silent = move || {
        let fail = fail.clone();
        async move {
            fail.begun().await;
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    let app = Router::new().route("/o", get(silent));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    running.spawn(async move { axum::serve(listener, app).await.unwrap() });
    format!("http://{address}/o")
}

/// IAM-09: bolt's own bucket is silent, and there are more jobs for it than the hasher has hands. Acme
/// has a job in the store and one in a bucket of its own; both fail at the first look, and neither
/// waits for as long as bolt's.
#[tokio::test(flavor = "multi_thread")]
async fn iam_09_a_tenant_s_silent_bucket_holds_up_no_other_tenant() {
    let server = TestServer::start(&InitOptions { now: NOW, ..InitOptions::default() }).await;
    let server = server.unwrap();
    server.admin().await.unwrap().provision(Replicas::One, NOW).await.unwrap();
    let signer = Bus::connect(Role::Signer, &nats(&server, Role::Signer)).await.unwrap();
    let (mut running, fail) = (JoinSet::new(), Shutdown::new());
    let store = serve_store(&mut running).await;
    let bucket = serve_store(&mut running).await;
    let silence = serve_silence(&mut running, fail.clone()).await;
    let theirs: Vec<Job> = (1..=6)
        .map(|number| {
            let mut job = encoded(number, BYTES.len(), Digest::of(BYTES));
            job.tenant = "bolt".parse().unwrap();
            job.outputs[0].key = BlobKey::output(&job.tenant, &job.id, 1, &job.outputs[0].name);
            job.request.destination = Some("cdn".parse().unwrap());
            job
        })
        .collect();
    let mut own = [7, 8].map(|number| encoded(number, BYTES.len(), Digest::of(BYTES)));
    own[1].request.destination = Some("cdn".parse().unwrap());
    own[1].stamps[1].at = clock::now();
    let own_bucket = own[1].id.clone();
    serve_signer(&mut running, &signer, move |tenant, job| match tenant.as_str() {
        "bolt" => silence.clone(),
        _ if *job == own_bucket => bucket.clone(),
        _ => store.clone(),
    });
    for job in theirs.iter().chain(&own) {
        signer.publish(&Outgoing::job(job.clone(), 0)).await.unwrap();
    }
    let shutdown = Shutdown::new();
    let hasher = hotcell_hasher::run(config(&server, 4), shutdown.clone());
    let looks = async {
        // Well before the silent reads are given up.
        for job in &own {
            let found = tokio::time::timeout(Duration::from_secs(25), verdict(&signer, job)).await;
            assert_eq!(found.expect("acme waits for bolt's bucket").state, EventKind::Completed);
        }
        fail.begin();
        // They were encoded long ago, so nobody waits for their bucket any more.
        for job in &theirs {
            let failure = verdict(&signer, job).await.failure.unwrap();
            assert_eq!(failure.code, RejectCode::OutputMissing);
            assert!(failure.message.contains("at its destination"), "{}", failure.message);
        }
        shutdown.begin();
    };
    let (ended, ()) = tokio::join!(hasher, looks);
    ended.unwrap();
}

/// A signer that cannot tell now is asked again, however old the job is; one that refuses a job that
/// was encoded long ago has given its verdict.
#[tokio::test(flavor = "multi_thread")]
async fn brk_60_a_signer_that_cannot_tell_now_ends_no_job() {
    let server = TestServer::start(&InitOptions { now: NOW, ..InitOptions::default() }).await;
    let server = server.unwrap();
    server.admin().await.unwrap().provision(Replicas::One, NOW).await.unwrap();
    let signer = Bus::connect(Role::Signer, &nats(&server, Role::Signer)).await.unwrap();
    let mut running = JoinSet::new();
    let store = serve_store(&mut running).await;
    let (bus, asked) = (signer.clone(), Arc::new(AtomicU64::new(0)));
    let [served, gone] = [1, 2].map(|number| encoded(number, BYTES.len(), Digest::of(BYTES)));
    let lost = gone.id.clone();
    running.spawn(async move {
        let handle = move |incoming: hotcell_stage::Incoming| {
            let (store, lost, asked) = (store.clone(), lost.clone(), Arc::clone(&asked));
            async move {
                let question = incoming.open::<SignRequest>().unwrap().into_inner();
                let SignRequest::Read { job: Some(job), .. } = question else { panic!("no job") };
                let reason = String::new();
                let reply = if job == lost {
                    SignReply::Refused { reason }
                } else if asked.fetch_add(1, Ordering::Relaxed) == 0 {
                    SignReply::Later { reason }
                } else {
                    let (url, expires_at) = (SecretUrl::new(store), UnixMs(u64::MAX));
                    SignReply::Signed { signed: SignedUrl { url, headers: Vec::new(), expires_at } }
                };
                incoming.answer(&reply).await;
            }
        };
        let subject = Subject::sign(SignVerb::Output).to_string();
        bus.serve(&subject, "signer", 4, Shutdown::new(), handle).await.unwrap();
    });
    for job in [&served, &gone] {
        signer.publish(&Outgoing::job(job.clone(), 0)).await.unwrap();
    }
    let shutdown = Shutdown::new();
    let hasher = hotcell_hasher::run(config(&server, 2), shutdown.clone());
    let looks = async {
        assert_eq!(verdict(&signer, &served).await.state, EventKind::Completed);
        let failure = verdict(&signer, &gone).await.failure.unwrap();
        assert_eq!(failure.code, RejectCode::OutputMismatch);
        assert!(failure.message.contains("may not be read again"), "{}", failure.message);
        shutdown.begin();
    };
    let (ended, ()) = tokio::join!(hasher, looks);
    ended.unwrap();
}

fn nats(server: &TestServer, role: Role) -> NatsConfig {
    server.config(&Login::Service(role)).unwrap()
}

fn config(server: &TestServer, concurrency: usize) -> Config {
    let telemetry =
        TelemetryConfig { log: "info".to_owned(), format: LogFormat::Text, otlp: String::new() };
    Config { concurrency, nats: nats(server, Role::Hasher), telemetry }
}

#[tokio::test(flavor = "multi_thread")]
async fn brk_60_a_job_completes_when_its_outputs_are_read_again_and_same() {
    let server = TestServer::start(&InitOptions { now: NOW, ..InitOptions::default() }).await;
    let server = server.unwrap();
    server.admin().await.unwrap().provision(Replicas::One, NOW).await.unwrap();
    let signer = Bus::connect(Role::Signer, &nats(&server, Role::Signer)).await.unwrap();
    let mut running = JoinSet::new();
    let url = serve_store(&mut running).await;
    serve_signer(&mut running, &signer, move |_, _| url.clone());

    let jobs = [
        encoded(1, BYTES.len(), Digest::of(BYTES)),
        encoded(2, BYTES.len(), Digest::of(b"other")),
        encoded(3, BYTES.len() - 1, Digest::of(BYTES)),
        encoded(4, BYTES.len() + 1, Digest::of(BYTES)),
    ];
    // A worker that did not hold its output to the plan, or said that it had.
    let mut unlike = encoded(5, BYTES.len(), Digest::of(BYTES));
    unlike.attempts = vec![attempt("vp9")];
    let mut unprobed = encoded(6, BYTES.len(), Digest::of(BYTES));
    unprobed.attempts[0].report.as_mut().unwrap().output = None;
    let invalid = [(unlike, "video in vp9 where h264"), (unprobed, "not probed")];
    for job in jobs.iter().chain(invalid.iter().map(|(job, _)| job)) {
        signer.publish(&Outgoing::job(job.clone(), 0)).await.unwrap();
    }
    let shutdown = Shutdown::new();
    let hasher = hotcell_hasher::run(config(&server, 2), shutdown.clone());
    let looks = async {
        let good = verdict(&signer, &jobs[0]).await;
        assert_eq!((good.state, good.failure.as_ref()), (EventKind::Completed, None));
        assert_eq!(good.outputs, jobs[0].outputs);
        assert!(good.stamps.last().unwrap().at <= clock::now());
        for job in &jobs[1..] {
            let bad = verdict(&signer, job).await;
            assert_eq!(bad.state, EventKind::Failed);
            let failure = bad.failure.unwrap();
            assert_eq!(failure.code, RejectCode::OutputMismatch);
            assert!(failure.message.starts_with("a.mp4 "), "{}", failure.message);
        }
        for (job, words) in &invalid {
            let failure = verdict(&signer, job).await.failure.unwrap();
            assert_eq!(failure.code, RejectCode::OutputInvalid);
            assert!(failure.message.contains(words), "{}", failure.message);
        }
        shutdown.begin();
    };
    let (ended, ()) = tokio::join!(hasher, looks);
    ended.unwrap();
}
