//! What all tests need: broker, signer, store, worker.

use async_nats::HeaderMap;
use axum::{
    Router,
    body::Bytes,
    extract::{Path as UrlPath, State},
    http::StatusCode,
    routing::get,
};
use futures::StreamExt as _;
use hotcell_encoder::config::Config;
use hotcell_nats_config::{
    InitOptions, Login,
    testing::{NOW, TestServer},
};
use hotcell_schemas::{
    Digest, Envelope, JobId, Plan, Role, Trust, UnixMs, argv,
    plan::{AudioPlan, CellLimits, Container, Effort, OutputPlan, Rate, Scale, VideoPlan},
    request::{AudioCodec, Format, VideoCodec},
    subject::LeaseVerb,
    work::{
        BeatReply, BeatRequest, DoneReply, DoneRequest, NextReply, NextRequest, OrderInput, PutUrl,
        SecretUrl, SignedUrl, Stop, UrlsReply, UrlsRequest, WorkOrder,
    },
};
use hotcell_stage::{
    Bus, Incoming, NatsConfig, Shutdown, TelemetryConfig, clock, config::LogFormat,
    request::RequestInfo,
};
use nkeys::KeyPair;
use std::{
    collections::{HashMap, VecDeque},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// A busy machine may take this long for what takes a second.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// A change to an order before it is sent.
pub(crate) type Change = Box<dyn Fn(&mut WorkOrder) + Send>;

/// What the signer and the store are told to do, and what they saw.
#[derive(Default)]
pub(crate) struct Seen {
    /// Orders to give, one for each question.
    pub(crate) orders: VecDeque<(WorkOrder, Change)>,
    /// What a beat is told; go on when there is nothing.
    pub(crate) stop: Option<Stop>,
    /// Questions for work.
    pub(crate) nexts: Vec<NextRequest>,
    /// Beats.
    pub(crate) beats: Vec<BeatRequest>,
    /// Reports.
    pub(crate) done: Vec<DoneRequest>,
    /// Objects of the store.
    pub(crate) objects: HashMap<String, Bytes>,
    /// Reads of the store.
    pub(crate) gets: usize,
    /// Whether outputs go to a bucket of the tenant's.
    pub(crate) elsewhere: bool,
    /// What writes of outputs are answered with before any is taken; `None` is silence.
    pub(crate) refusals: VecDeque<Option<u16>>,
    /// Questions for URLs, and writes of outputs.
    pub(crate) urls: usize,
    pub(crate) puts: usize,
    /// Who signs orders.
    pub(crate) signs: Option<Arc<KeyPair>>,
}

pub(crate) type Shared = Arc<Mutex<Seen>>;

/// Everything around a worker.
pub(crate) struct Site {
    pub(crate) seen: Shared,
    pub(crate) dir: TempDir,
    pub(crate) config: Config,
    store: String,
    shutdown: Shutdown,
    _running: JoinSet<()>,
    pub(crate) server: TestServer,
}

fn signed(url: String) -> SignedUrl {
    SignedUrl { url: SecretUrl::new(url), headers: Vec::new(), expires_at: UnixMs(u64::MAX) }
}

impl Site {
    /// Starts broker, signer and store. `ffmpeg` and `ffprobe` are what the worker will run.
    pub(crate) async fn start(ffmpeg: &Path, ffprobe: &Path) -> Self {
        let (worker, pool) = ("w1".parse().unwrap(), "cpu".parse().unwrap());
        let workers = vec![(worker, vec![pool])];
        let options = InitOptions { now: NOW, workers: workers.clone(), tenants: Vec::new() };
        let server = TestServer::start(&options).await.unwrap();
        let nats = |login: &Login| -> NatsConfig { server.config(login).unwrap() };
        let bus = Bus::connect(Role::Signer, &nats(&Login::Service(Role::Signer))).await.unwrap();
        let (seen, shutdown, mut running) = (Shared::default(), Shutdown::new(), JoinSet::new());
        let own = server.creds(&Login::Service(Role::Signer)).unwrap().key;
        seen.lock().unwrap().signs = Some(Arc::new(own));
        let store = serve_store(&mut running, Arc::clone(&seen)).await;
        serve_signer(&mut running, &bus, &seen, &store, &shutdown);
        bus.flush().await;

        let dir = tempfile::tempdir().unwrap();
        let [(name, pools)] = workers.as_slice() else { panic!("one worker") };
        let login = Login::Worker { name: name.clone(), pools: pools.clone() };
        let config = Config {
            pool: "cpu".to_owned(),
            slots: 1,
            first_uid: 64_100,
            cgroup: "required".to_owned(),
            cgroup_folders: Vec::new(),
            cell_cpu_percent: 0,
            degraded: false,
            cell: "ffmpeg".to_owned(),
            launcher: program("hotcell-jail"),
            ffmpeg: ffmpeg.to_owned(),
            ffprobe: ffprobe.to_owned(),
            work_dir: dir.path().join("work"),
            root_cache: dir.path().join("roots"),
            nats: nats(&login),
            telemetry: TelemetryConfig {
                log: "debug".to_owned(),
                format: LogFormat::Text,
                otlp: String::new(),
            },
        };
        Self { seen, dir, config, store, shutdown, _running: running, server }
    }

    /// A site whose programs are the stand-in, which takes `ms` in the transcoder's place.
    pub(crate) async fn with_stub(ms: u32) -> (Self, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let slow = dir.path().join(format!("hotcell-stub-fixed-{ms}"));
        std::fs::copy(program("hotcell-stub"), &slow).unwrap();
        let mut site = Self::start(&slow, &program("hotcell-stub")).await;
        site.config.cell = format!("fixed:{ms}");
        (site, dir)
    }

    /// Puts `input` into the store, and an order to encode it into the queue.
    pub(crate) fn order(&self, input: &[u8], change: impl Fn(&mut WorkOrder) + Send + 'static) {
        let mut seen = self.seen.lock().unwrap();
        let others = seen.objects.keys().filter(|key| key.starts_with("in")).count();
        let key = if others == 0 { "in".to_owned() } else { format!("in{others}") };
        let get = signed(format!("{}/{key}", self.store));
        let size = u64::try_from(input.len()).unwrap();
        let order = WorkOrder {
            nonce: String::new(),
            worker: "w1".parse().unwrap(),
            pool: "cpu".parse().unwrap(),
            job: JobId::new(1, [2; 10]),
            attempt: 1,
            plan: plan(),
            probe_limits: CellLimits { memory_bytes: 512 << 20, cpu_secs: 10, ..LIMITS },
            inputs: vec![OrderInput { get, size, sha256: Digest::of(input) }],
            lease: "lease-0".to_owned(),
            lease_until: clock::now().plus_ms(20_000),
        };
        seen.objects.insert(key, Bytes::copy_from_slice(input));
        seen.orders.push_back((order, Box::new(change)));
    }

    /// Runs a worker in this process until `test` returns, then stops it; it must end well.
    pub(crate) async fn work<T>(&self, test: impl Future<Output = T>) -> T {
        let worker = hotcell_encoder::run(self.config.clone(), self.shutdown_of_worker());
        tokio::pin!(worker);
        let value = tokio::select! {
            ended = &mut worker => panic!("the worker ended: {ended:?}"),
            value = test => value,
        };
        self.shutdown.begin();
        tokio::time::timeout(DEADLINE, worker).await.unwrap().unwrap();
        value
    }

    /// What stops the worker.
    pub(crate) fn shutdown_of_worker(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// The first report.
    pub(crate) async fn report(&self) -> DoneRequest {
        self.until("a report", |seen| seen.done.first().cloned()).await
    }

    /// Waits until `look` sees something.
    pub(crate) async fn until<T>(&self, what: &str, look: impl Fn(&Seen) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(value) = look(&self.seen.lock().unwrap()) {
                return value;
            }
            assert!(Instant::now() < deadline, "{what} did not come");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Names in the worker's folder besides its lock.
    pub(crate) fn left_behind(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.config.work_dir.join("w1")) else {
            return Vec::new();
        };
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| !path.ends_with("lock")).collect()
    }
}

/// Generous for a test's media.
pub(crate) const LIMITS: CellLimits = CellLimits {
    memory_bytes: 3 << 30,
    cpu_secs: 120,
    wall_secs: 60,
    output_bytes: 64 << 20,
    temp_bytes: 1 << 20,
    procs: 64,
    stall_secs: 30,
    files: 8,
};

/// 120 lines of H.264 and AAC from an MP4.
fn plan() -> Plan {
    let video = VideoPlan {
        codec: VideoCodec::H264,
        rate: Rate::Crf(30),
        effort: Effort::Fast,
        scale: Scale::Height(120),
    };
    let output = OutputPlan {
        name: "out.mp4".parse().unwrap(),
        format: Format::Mp4,
        content_type: "video/mp4".to_owned(),
        video: Some(video),
        audio: Some(AudioPlan { codec: AudioCodec::Aac, bitrate: 64_000 }),
        raw: None,
    };
    let (argv, filters) = argv::argv(Container::Mp4, &output);
    Plan { input: Container::Mp4, outputs: vec![output], argv, filters, limits: LIMITS }
}

/// A program of `hotcell-jail`. Where there is one it is left alone: built for this package alone it
/// has other features, and would take the place of the one that other tests run meanwhile.
pub(crate) fn program(name: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_hotcell-encoder")).with_file_name(name);
    if !program.is_file() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let build = ["build", "--quiet", "--package", "hotcell-jail", "--bins"];
        let built = Command::new(cargo).args(build).status().unwrap();
        assert!(built.success(), "hotcell-jail does not build");
    }
    program
}

async fn serve_store(running: &mut JoinSet<()>, seen: Shared) -> String {
    async fn read(
        UrlPath(name): UrlPath<String>,
        State(seen): State<Shared>,
    ) -> Result<Bytes, StatusCode> {
        let mut seen = seen.lock().unwrap();
        seen.gets += 1;
        seen.objects.get(&name).cloned().ok_or(StatusCode::NOT_FOUND)
    }
    async fn write(
        UrlPath(name): UrlPath<String>,
        State(seen): State<Shared>,
        body: Bytes,
    ) -> StatusCode {
        let refusal = {
            let mut seen = seen.lock().unwrap();
            let is_output = name != "stderr.zst";
            seen.puts += usize::from(is_output);
            let refusal = if is_output { seen.refusals.pop_front() } else { None };
            if refusal.is_none() {
                if seen.objects.contains_key(&name) {
                    return StatusCode::PRECONDITION_FAILED;
                }
                seen.objects.insert(name, body);
            }
            refusal
        };
        match refusal {
            None => StatusCode::OK,
            Some(Some(status)) => StatusCode::from_u16(status).unwrap(),
            Some(None) => std::future::pending().await,
        }
    }
    let limit = axum::extract::DefaultBodyLimit::max(64 << 20);
    let app = Router::new().route("/{name}", get(read).put(write)).layer(limit).with_state(seen);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    running.spawn(async move { axum::serve(listener, app).await.unwrap() });
    format!("http://{address}")
}

fn serve_signer(
    running: &mut JoinSet<()>,
    bus: &Bus,
    seen: &Shared,
    store: &str,
    shutdown: &Shutdown,
) {
    running.spawn(serve_next(bus.clone(), Arc::clone(seen)));
    let verb = |verb: LeaseVerb| format!("lease.*.{}", verb.as_str());
    running.spawn(serve(bus, seen, shutdown, verb(LeaseVerb::Beat), answer_beat));
    running.spawn(serve(bus, seen, shutdown, verb(LeaseVerb::Done), answer_done));
    let store = store.to_owned();
    let urls = move |seen, incoming| answer_urls(seen, incoming, store.clone());
    running.spawn(serve(bus, seen, shutdown, verb(LeaseVerb::Urls), urls));
}

fn serve<F, Fut>(
    bus: &Bus,
    seen: &Shared,
    _shutdown: &Shutdown,
    filter: String,
    answer: F,
) -> impl Future<Output = ()> + use<F, Fut>
where
    F: Fn(Shared, Incoming) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (bus, seen) = (bus.clone(), Arc::clone(seen));
    async move {
        let handle = move |incoming| answer(Arc::clone(&seen), incoming);
        // Not the worker's shutdown: the signer outlives it.
        bus.serve(&filter, "signer", 16, Shutdown::new(), handle).await.unwrap();
    }
}

/// The body of a request of the worker, by the key that the broker states.
fn body<T: hotcell_schemas::Message + Clone>(incoming: &Incoming) -> T {
    let info = incoming.info().unwrap();
    incoming.open_as::<T>(Role::Encoder, &info.user).unwrap().into_inner()
}

/// Serves questions for work below the library that services use, so that an answer can bear the
/// signature of another.
async fn serve_next(bus: Bus, seen: Shared) {
    let mut requests = bus.client().queue_subscribe("next.*.*", "signer".into()).await.unwrap();
    let mut running = JoinSet::new();
    let own = seen.lock().unwrap().signs.clone().unwrap();
    while let Some(message) = requests.next().await {
        let header = |name: &'static str| Some(message.headers.as_ref()?.get(name)?.as_str());
        let envelope = Envelope::received(&message.subject, header, &message.payload).unwrap();
        let info: RequestInfo = serde_json::from_str(header("Nats-Request-Info").unwrap()).unwrap();
        let trust = Trust::only(Role::Encoder, &info.user).unwrap();
        let request = envelope.open::<NextRequest>(&trust).unwrap().into_inner();
        let (bus, seen, own) = (bus.clone(), Arc::clone(&seen), Arc::clone(&own));
        running.spawn(async move {
            let (nonce, subject) = (request.nonce.clone(), envelope.subject);
            let (order, key) = {
                let mut seen = seen.lock().unwrap();
                seen.nexts.push(request);
                (seen.orders.pop_front(), seen.signs.clone())
            };
            let (body, key) = if let Some((mut order, change)) = order {
                order.nonce = nonce;
                change(&mut order);
                (NextReply::Order { order: Box::new(order) }, key.unwrap())
            } else {
                tokio::time::sleep(Duration::from_millis(200)).await;
                (NextReply::Empty { nonce }, own)
            };
            let (id, now) = (envelope.msg_id, clock::now());
            let sealed = Envelope::seal_reply(subject, id, now, &key, &body).unwrap();
            let mut headers = HeaderMap::new();
            for (name, value) in sealed.headers() {
                headers.insert(name, value.as_str());
            }
            let reply = message.reply.unwrap();
            #[expect(clippy::disallowed_methods, reason = "the answer of an attacker")]
            bus.client().publish_with_headers(reply, headers, sealed.body.into()).await.unwrap();
        });
    }
}

async fn answer_beat(seen: Shared, incoming: Incoming) {
    let request: BeatRequest = body(&incoming);
    let reply = {
        let mut seen = seen.lock().unwrap();
        seen.beats.push(request);
        let lease = format!("lease-{}", seen.beats.len());
        let lease_until = clock::now().plus_ms(20_000);
        match seen.stop {
            Some(reason) => BeatReply::Stop { reason },
            None => BeatReply::GoOn { lease, lease_until },
        }
    };
    incoming.answer(&reply).await;
}

async fn answer_urls(seen: Shared, incoming: Incoming, store: String) {
    let request: UrlsRequest = body(&incoming);
    let put = |name: &str| signed(format!("{store}/{name}"));
    let files = request.files.iter();
    let files = files.map(|file| PutUrl { name: file.name.clone(), put: put(file.name.as_str()) });
    let stderr = request.stderr.map(|_| put("stderr.zst"));
    let (files, elsewhere) = (files.collect(), {
        let mut seen = seen.lock().unwrap();
        seen.urls += 1;
        seen.elsewhere
    });
    incoming.answer(&UrlsReply::Urls { files, stderr, elsewhere }).await;
}

async fn answer_done(seen: Shared, incoming: Incoming) {
    let request: DoneRequest = body(&incoming);
    seen.lock().unwrap().done.push(request);
    incoming.answer(&DoneReply::Accepted).await;
}
