//! The stage on a real broker, with a signer and a store of the test's own behind it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/clip.rs"]
mod clip;

use hotcell_nats_config::{InitOptions, Login, Replicas, TenantSpec, testing::TestServer};
use hotcell_schemas::{
    BlobKey, Digest, EventKind, FileName, Job, JobId, RejectCode, Role, TenantId, UnixMs, UploadId,
    Verified,
    argv::agrees,
    job::{Actor, Input, Stamp},
    plan::Container,
    poison::{PoisonRecord, Strike},
    work::{SecretUrl, SignReply, SignRequest, SignedUrl},
};
use hotcell_stage::{Bus, NatsConfig, Outgoing, Shutdown, clock};
use hotcell_validator::{Config, run};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

const ETAG: &str = "\"abc\"";
const DEADLINE: Duration = Duration::from_secs(60);

/// How often a URL was asked for each object.
type Asked = Arc<Mutex<BTreeMap<BlobKey, u32>>>;

/// Objects by path.
type Objects = Arc<BTreeMap<String, Vec<u8>>>;

/// Serves objects by GET on a loopback port, one request for each connection.
async fn store(objects: Objects, tasks: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 8192];
            let length = socket.read(&mut request).await.unwrap();
            let text = String::from_utf8_lossy(&request[..length]).into_owned();
            let path = text.split_whitespace().nth(1).unwrap_or_default();
            let (status, body) = match objects.get(path) {
                Some(body) => ("200 OK", body.as_slice()),
                None => ("404 Not Found", &b""[..]),
            };
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\nETag: {ETAG}\r\nContent-Length: {length}\r\n\
                 Connection: close\r\n\r\n"
            );
            // A reader that has seen enough hangs up.
            drop(socket.write_all(head.as_bytes()).await);
            drop(socket.write_all(body).await);
        }
    });
    format!("http://{address}")
}

async fn broker() -> TestServer {
    let options = InitOptions { now: clock::now(), workers: vec![], tenants: vec![] };
    let server = TestServer::start(&options).await.unwrap();
    server.admin().await.unwrap().provision(Replicas::One, clock::now()).await.unwrap();
    server
}

fn nats(server: &TestServer, role: Role) -> NatsConfig {
    let installation = server.installation().unwrap();
    NatsConfig {
        tls: None,
        url: server.url(),
        creds: installation.creds_path(&Login::Service(role)),
        trust: installation.trust_path(),
    }
}

/// Answers `sign.validator.input` with the object's URL, as the signer would.
/// Returns how often it was asked for each object.
async fn signer(
    server: &TestServer,
    store: String,
    shutdown: Shutdown,
    tasks: &mut JoinSet<()>,
) -> Asked {
    let bus = Bus::connect(Role::Signer, &nats(server, Role::Signer)).await.unwrap();
    let asked = Asked::default();
    let count = Arc::clone(&asked);
    tasks.spawn(async move {
        let served = bus.serve("sign.validator.input", "signers", 16, shutdown, move |incoming| {
            let (store, count) = (store.clone(), Arc::clone(&count));
            async move {
                let request: Verified<SignRequest> = incoming.open().unwrap();
                let SignRequest::Read { key, job: Some(_), .. } = request.get() else {
                    panic!("not a read for a job")
                };
                *count.lock().unwrap().entry(key.clone()).or_default() += 1;
                let url = SecretUrl::new(format!("{store}/{key}"));
                let signed = SignedUrl { url, headers: vec![], expires_at: UnixMs(u64::MAX) };
                incoming.answer(&SignReply::Signed { signed }).await;
            }
        });
        served.await.unwrap();
    });
    asked
}

fn job(number: u8, bytes: &[u8], declared: &str) -> Job {
    let (tenant, id) = ("acme".parse::<TenantId>().unwrap(), JobId::new(1, [number; 10]));
    let name: FileName = "clip".parse().unwrap();
    let key = BlobKey::upload(&tenant, &UploadId::new(1, [number; 10]), &name);
    let input = Input {
        key,
        name,
        size: bytes.len() as u64,
        content_type: declared.to_owned(),
        sha256: Digest::of(bytes),
        etag: ETAG.to_owned(),
        sniffed: None,
    };
    let body = serde_json::json!({"inputs": [{"url": "upload:clip"}], "outputFormat": "mp4",
        "preset": {"quality": "low", "resolution": "240p"}});
    Job {
        id,
        tenant,
        state: EventKind::Submitted,
        actor: Actor::NatsLogin { user: "U".to_owned(), name: "app".to_owned() },
        authority: hotcell_schemas::identity::Authority::default(),
        decisions: Vec::new(),
        workflow: None,
        request: serde_json::from_value(body).unwrap(),
        pool: "cpu".parse().unwrap(),
        inputs: vec![input],
        plan: None,
        attempts: vec![],
        outputs: vec![],
        failure: None,
        stamps: vec![Stamp { event: EventKind::Submitted, at: clock::now() }],
    }
}

async fn settled(bus: &Bus, job: &Job) -> Job {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let stored = bus.job(&job.tenant, &job.id).await.unwrap().unwrap();
        if stored.message.get().state != EventKind::Submitted {
            assert_eq!(stored.message.role(), Role::Validator);
            return stored.message.into_inner();
        }
        assert!(tokio::time::Instant::now() < deadline, "{} is not judged", job.id);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The whole list of verdicts, over the broker: each job ends in one clear state.
#[tokio::test(flavor = "multi_thread")]
async fn issue_2_every_submitted_job_is_judged_once_and_clearly() {
    let dir = clip::dir("stage");
    let good = clip::sample(&dir, Container::Mp4);
    let list = b"#EXTM3U\n#EXTINF:1,\n/work/other/secret.mp4\n".to_vec();
    let (good_job, list_job) = (job(1, &good, "video/mp4"), job(2, &list, "video/mp4"));
    let (missing, mut shorter) = (job(3, &good, "video/mp4"), job(4, &good, "video/mp4"));
    shorter.inputs[0].size -= 1;
    let (mut other_hash, mut other_etag) = (job(5, &good, "video/mp4"), job(6, &good, "video/mp4"));
    other_hash.inputs[0].sha256 = Digest::of(b"another file");
    other_etag.inputs[0].etag = "\"other\"".to_owned();
    // Cancelled before a validator sees it, as a repeat after a crash is validated before.
    let gone = job(9, &good, "video/mp4");
    let empty = job(7, b"", "video/mp4");
    let cut = job(8, &good[..good.len() - 9], "video/mp4");
    let path = |job: &Job| format!("/{}", job.inputs[0].key);
    let objects = Arc::new(BTreeMap::from([
        (path(&good_job), good.clone()),
        (path(&list_job), list),
        (path(&shorter), good.clone()),
        (path(&other_hash), good.clone()),
        (path(&other_etag), good.clone()),
        (path(&empty), Vec::new()),
        (path(&cut), good[..good.len() - 9].to_vec()),
    ]));

    let server = broker().await;
    let (shutdown, mut tasks) = (Shutdown::new(), JoinSet::new());
    let url = store(objects, &mut tasks).await;
    let asked = signer(&server, url, shutdown.clone(), &mut tasks).await;
    let intake = Bus::connect(Role::Intake, &nats(&server, Role::Intake)).await.unwrap();
    let seq = intake.publish(&Outgoing::job(gone.clone(), 0)).await.unwrap().seq;
    let cancelled = gone.clone().moved(EventKind::Cancelled, clock::now());
    intake.publish(&Outgoing::job(cancelled, seq)).await.unwrap();
    let config = config(&server, &dir);
    let validators: JoinSet<_> =
        [run(config.clone(), shutdown.clone()), run(config, shutdown.clone())]
            .into_iter()
            .collect();

    let hostile = [
        (&list_job, RejectCode::InputPlaylist),
        (&missing, RejectCode::InputMissing),
        (&shorter, RejectCode::InputChanged),
        (&other_hash, RejectCode::InputChanged),
        (&other_etag, RejectCode::InputChanged),
        (&empty, RejectCode::InputEmpty),
        (&cut, RejectCode::InputMalformed),
    ];
    for (job, _) in hostile {
        intake.publish(&Outgoing::job(job.clone(), 0)).await.unwrap();
    }
    intake.publish(&Outgoing::job(good_job.clone(), 0)).await.unwrap();
    for (job, code) in hostile {
        let judged = settled(&intake, job).await;
        assert_eq!(judged.state, EventKind::Rejected);
        assert_eq!(judged.failure.unwrap().code, code);
        assert_eq!(judged.plan, None);
    }
    let judged = settled(&intake, &good_job).await;
    assert_eq!(judged.state, EventKind::Validated);
    assert!(agrees(judged.plan.as_ref().unwrap()));
    assert_eq!(judged.inputs[0].sniffed.as_ref().unwrap().container, Container::Mp4);
    assert_eq!(judged.stamps.last().unwrap().event, EventKind::Validated);

    let state = intake.job(&gone.tenant, &gone.id).await.unwrap().unwrap();
    assert_eq!(state.message.get().state, EventKind::Cancelled);
    let asked = asked.lock().unwrap().clone();
    assert!(!asked.contains_key(&gone.inputs[0].key), "a URL for a job that has moved on");
    assert_eq!(asked.len(), 8, "one object for each job that was judged");

    shutdown.begin();
    for ended in validators.join_all().await {
        ended.unwrap();
    }
}

/// NEW-07: the right to FFmpeg's own arguments is asked for again, of the tenant's record.
#[tokio::test(flavor = "multi_thread")]
async fn new_07_own_arguments_are_refused_without_the_tenant_s_right() {
    let dir = clip::dir("stage-arguments");
    let server = broker().await;
    let clip = clip::sample(&dir, Container::Mp4);
    let (mut with, mut without) = (job(1, &clip, "video/mp4"), job(2, &clip, "video/mp4"));
    let body = serde_json::json!({"inputs": [{"url": "upload:clip"}], "outputs": [{"format": "mp4",
        "ffmpegArgs": ["-i", "{in0}", "-c:v", "libx264", "-an", "-crf", "20", "{out0}"]}]});
    for job in [&mut with, &mut without] {
        job.request = serde_json::from_value(body.clone()).unwrap();
    }
    let bolt: TenantId = "bolt".parse().unwrap();
    with.inputs[0].key = BlobKey::upload(&bolt, &UploadId::new(1, [1; 10]), &with.inputs[0].name);
    with.tenant = bolt.clone();
    let admin = server.admin().await.unwrap();
    for (tenant, raw_arguments) in [(bolt, true), (without.tenant.clone(), false)] {
        let spec = TenantSpec::new(tenant, vec!["cpu".parse().unwrap()]);
        let spec = TenantSpec { raw_arguments, ..spec };
        admin.add_tenant(&spec, &"app".parse().unwrap(), clock::now()).await.unwrap();
    }
    let path = |job: &Job| format!("/{}", job.inputs[0].key);
    let objects = BTreeMap::from([(path(&with), clip.clone()), (path(&without), clip)]);
    let (shutdown, mut tasks) = (Shutdown::new(), JoinSet::new());
    let url = store(Arc::new(objects), &mut tasks).await;
    let asked = signer(&server, url, shutdown.clone(), &mut tasks).await;
    let intake = Bus::connect(Role::Intake, &nats(&server, Role::Intake)).await.unwrap();
    let mut validator = JoinSet::new();
    validator.spawn(run(config(&server, &dir), shutdown.clone()));
    for job in [&with, &without] {
        intake.publish(&Outgoing::job(job.clone(), 0)).await.unwrap();
    }
    let judged = settled(&intake, &without).await;
    assert_eq!(judged.state, EventKind::Rejected);
    assert_eq!(judged.failure.unwrap().code, RejectCode::RequestForbidden);
    let judged = settled(&intake, &with).await;
    assert_eq!(judged.state, EventKind::Validated, "{:?}", judged.failure);
    assert!(agrees(judged.plan.as_ref().unwrap()));
    assert!(judged.plan.unwrap().outputs[0].raw.is_some());
    assert!(!asked.lock().unwrap().contains_key(&without.inputs[0].key), "nothing was opened");
    shutdown.begin();
    validator.join_next().await.unwrap().unwrap().unwrap();
}

/// NEW-13: a file that killed its cell twice is refused before anybody opens it: everyone's when its
/// bytes did it, one tenant's own when its plan had a part in it. One strike refuses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn new_13_a_file_in_quarantine_is_refused_unread() {
    let dir = clip::dir("stage-poison");
    let server = broker().await;
    let good = clip::sample(&dir, Container::Mp4);
    let [common, own, others, once] = [1, 2, 3, 4].map(|number| {
        let mut bytes = good.clone();
        // A box that nobody reads: other bytes of the same film.
        bytes.extend([0, 0, 0, 9, b'f', b'r', b'e', b'e', number]);
        (job(number, &bytes, "video/mp4"), bytes)
    });
    let cases = [
        (&common, None, 2, true),
        (&own, Some("acme"), 2, true),
        (&others, Some("bolt"), 2, false),
        (&once, None, 1, false),
    ];
    let writer = Bus::connect(Role::Signer, &nats(&server, Role::Signer)).await.unwrap();
    for ((job, _), tenant, strikes, _) in &cases {
        let tenant: Option<TenantId> = tenant.map(|tenant| tenant.parse().unwrap());
        let mut record = PoisonRecord::new(job.inputs[0].sha256, tenant.clone());
        for attempt in 1..=*strikes {
            assert!(record.strike(Strike {
                tenant: job.tenant.clone(),
                job: JobId::new(9, [9; 10]),
                attempt,
                worker: "w1".parse().unwrap(),
                code: RejectCode::CellCrashed,
                at: clock::now(),
            }));
        }
        let key = PoisonRecord::key(record.sha256, tenant.as_ref());
        writer.bucket("poison").create(&key, &record).await.unwrap();
    }
    let path = |job: &Job| format!("/{}", job.inputs[0].key);
    let objects = cases.iter().map(|((job, bytes), ..)| (path(job), bytes.clone()));
    let objects: BTreeMap<_, _> = objects.collect();
    let (shutdown, mut tasks) = (Shutdown::new(), JoinSet::new());
    let url = store(Arc::new(objects), &mut tasks).await;
    let asked = signer(&server, url, shutdown.clone(), &mut tasks).await;
    let intake = Bus::connect(Role::Intake, &nats(&server, Role::Intake)).await.unwrap();
    let mut validator = JoinSet::new();
    validator.spawn(run(config(&server, &dir), shutdown.clone()));
    for ((job, _), ..) in &cases {
        intake.publish(&Outgoing::job(job.clone(), 0)).await.unwrap();
    }
    for ((job, _), _, _, refused) in &cases {
        let judged = settled(&intake, job).await;
        let code = judged.failure.map(|failure| failure.code);
        assert_eq!(code, refused.then_some(RejectCode::InputPoisoned));
        let state = if *refused { EventKind::Rejected } else { EventKind::Validated };
        assert_eq!(judged.state, state);
        let read = asked.lock().unwrap().contains_key(&job.inputs[0].key);
        assert_eq!(read, !refused, "a quarantined file is not opened");
    }
    shutdown.begin();
    validator.join_next().await.unwrap().unwrap().unwrap();
}

fn config(server: &TestServer, dir: &Path) -> Config {
    let nats = nats(server, Role::Validator);
    let (url, creds, trust) = (&nats.url, nats.creds.display(), nats.trust.display());
    let text = format!(
        "concurrency = 4\n[nats]\nurl = \"{url}\"\ncreds = \"{creds}\"\ntrust = \"{trust}\"\n"
    );
    let file = dir.join("validator.toml");
    std::fs::write(&file, text).unwrap();
    hotcell_stage::config::load(&file, hotcell_validator::config::DEFAULTS).unwrap()
}
