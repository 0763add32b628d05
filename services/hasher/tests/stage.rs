//! The service with a real broker, its own permissions in force: from `encoded` to its verdict.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use axum::{Router, extract::State, http::StatusCode, routing::get};
use hotcell_hasher::config::Config;
use hotcell_nats_config::{
    InitOptions, Login, Replicas,
    testing::{NOW, TestServer},
};
use hotcell_schemas::{
    BlobKey, Digest, EventKind, Job, JobId, RejectCode, Role, Subject, UnixMs,
    job::{Actor, Output, Stamp},
    request::TranscodeRequest,
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
const DEADLINE: Duration = Duration::from_secs(60);

/// Encoded by a worker that reported `size` and `sha256`.
fn encoded(number: u8, size: usize, sha256: Digest) -> Job {
    let (tenant, id) = ("acme".parse().unwrap(), JobId::new(1, [number; 10]));
    let name = "a.mp4".parse().unwrap();
    let output = Output {
        key: BlobKey::output(&tenant, &id, 1, &name),
        name,
        size: u64::try_from(size).unwrap(),
        content_type: "video/mp4".to_owned(),
        sha256,
    };
    let request = TranscodeRequest {
        inputs: Vec::new(),
        output_format: None,
        preset: None,
        outputs: Vec::new(),
        workflow: None,
    };
    Job {
        id,
        tenant,
        state: EventKind::Encoded,
        actor: Actor::NatsLogin { user: "U".to_owned(), name: "app".to_owned() },
        workflow: None,
        request,
        pool: "cpu".parse().unwrap(),
        inputs: Vec::new(),
        plan: None,
        attempts: Vec::new(),
        outputs: vec![output],
        failure: None,
        stamps: [EventKind::Assigned, EventKind::Encoded]
            .map(|event| Stamp { event, at: UnixMs(2) })
            .to_vec(),
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

/// Gives a URL for the output that was asked for, and for no other.
fn serve_signer(running: &mut JoinSet<()>, bus: &Bus, url: String) {
    let bus = bus.clone();
    running.spawn(async move {
        let handle = move |incoming: hotcell_stage::Incoming| {
            let url = SecretUrl::new(url.clone());
            async move {
                let asked = incoming.open::<SignRequest>().unwrap().into_inner();
                let SignRequest::Read { tenant, key, job: Some(_) } = asked else {
                    panic!("the hasher reads for a job")
                };
                assert!(key.belongs_to(&tenant));
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

#[tokio::test(flavor = "multi_thread")]
async fn brk_60_a_job_completes_when_its_outputs_are_read_again_and_same() {
    let server = TestServer::start(&InitOptions { now: NOW, ..InitOptions::default() }).await;
    let server = server.unwrap();
    server.admin().await.unwrap().provision(Replicas::One, NOW).await.unwrap();
    let installation = server.installation().unwrap();
    let nats = |role| NatsConfig {
        url: server.url(),
        creds: installation.creds_path(&Login::Service(role)),
        trust: installation.trust_path(),
    };
    let signer = Bus::connect(Role::Signer, &nats(Role::Signer)).await.unwrap();
    let mut running = JoinSet::new();
    let url = serve_store(&mut running).await;
    serve_signer(&mut running, &signer, url);

    let jobs = [
        encoded(1, BYTES.len(), Digest::of(BYTES)),
        encoded(2, BYTES.len(), Digest::of(b"other")),
        encoded(3, BYTES.len() - 1, Digest::of(BYTES)),
        encoded(4, BYTES.len() + 1, Digest::of(BYTES)),
    ];
    for job in &jobs {
        signer.publish(&Outgoing::job(job.clone(), 0)).await.unwrap();
    }
    let telemetry =
        TelemetryConfig { log: "info".to_owned(), format: LogFormat::Text, otlp: String::new() };
    let config = Config { concurrency: 2, nats: nats(Role::Hasher), telemetry };
    let shutdown = Shutdown::new();
    let hasher = hotcell_hasher::run(config, shutdown.clone());
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
        shutdown.begin();
    };
    let (ended, ()) = tokio::join!(hasher, looks);
    ended.unwrap();
}
