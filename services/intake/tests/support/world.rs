//! A real broker, intake's own program, and stand-ins for the two neighbours that have tests of their
//! own: a signer that counts what it is asked, and a store that serves what a test put into it.

use axum::{Router, extract::State, http::StatusCode, http::Uri, response::IntoResponse};
use hotcell_nats_config::{
    Admin, InitOptions, Login, Replicas, TenantSpec,
    testing::{NOW, TestServer},
};
use hotcell_schemas::{
    Role, Subject, TenantId,
    identity::RoleName,
    subject::SignVerb,
    work::{SecretUrl, SignReply, SignRequest, SignedUrl},
};
use hotcell_stage::{Bus, Incoming, NatsConfig, Shutdown, clock};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// Nothing that a test waits for takes longer, on a busy machine that stands still for seconds.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The key that seals second factors.
pub(crate) const TOTP_KEY: [u8; 32] = [0x5a; 32];

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_hotcell-intake");

type Objects = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// Everything that a test needs. Parts end when it is dropped.
pub(crate) struct World {
    pub(crate) server: TestServer,
    /// The keys of tenants `acme` and `bolt`.
    pub(crate) acme: String,
    pub(crate) bolt: String,
    pub(crate) objects: Objects,
    pub(crate) asked: Arc<Mutex<Vec<SignRequest>>>,
    pub(crate) client: reqwest::Client,
    intake: Option<Child>,
    /// Further replicas of intake.
    more: Vec<Child>,
    api: String,
    head: String,
    dir: TempDir,
    _parts: JoinSet<()>,
}

pub(crate) fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

/// The body that asks for an MP4 in 480 lines of an upload.
pub(crate) fn transcode(filename: &str) -> Value {
    json!({
        "inputs": [{ "url": format!("upload:{filename}") }],
        "outputFormat": "mp4",
        "preset": { "quality": "medium", "resolution": "480p" },
    })
}

pub(crate) fn program(name: &str) -> Login {
    Login::Tenant { tenant: tenant(name), user: "app".parse().unwrap() }
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// The same, with `more` at the head of intake's configuration.
    pub(crate) async fn start_with(more: &str) -> Self {
        Box::pin(Self::start_all(more)).await
    }

    async fn start_all(more: &str) -> Self {
        let options = InitOptions { now: NOW, workers: Vec::new(), tenants: Vec::new() };
        let server = TestServer::start(&options).await.unwrap();
        let admin = server.admin().await.unwrap();
        admin.provision(Replicas::One, NOW).await.unwrap();
        let (acme, bolt) = (add(&admin, "acme").await, add(&admin, "bolt").await);
        let mut world = Self {
            server,
            acme,
            bolt,
            objects: Objects::default(),
            asked: Arc::default(),
            client: client(),
            intake: None,
            more: Vec::new(),
            api: String::new(),
            head: more.to_owned(),
            dir: tempfile::tempdir().unwrap(),
            _parts: JoinSet::new(),
        };
        world.start_store_and_signer().await;
        world.start_intake().await;
        world
    }

    fn nats(&self, role: Role) -> NatsConfig {
        self.server.config(&Login::Service(role)).unwrap()
    }

    pub(crate) async fn bus(&self, role: Role) -> Bus {
        Bus::connect(role, &self.nats(role)).await.unwrap()
    }

    async fn start_store_and_signer(&mut self) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let store = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(serve_object).with_state(Arc::clone(&self.objects));
        self._parts.spawn(async move { axum::serve(listener, router).await.unwrap() });
        let bus = self.bus(Role::Signer).await;
        for verb in [SignVerb::Upload, SignVerb::Confirm, SignVerb::Download] {
            let (bus, asked, store) = (bus.clone(), Arc::clone(&self.asked), store.clone());
            self._parts.spawn(async move {
                let handle = move |incoming| sign(incoming, Arc::clone(&asked), store.clone());
                let subject = Subject::sign(verb);
                bus.serve(subject.as_str(), "signers", 8, Shutdown::new(), handle).await.unwrap();
            });
        }
        bus.flush().await;
    }

    async fn start_intake(&mut self) {
        let (child, api) = self.launch("intake").await;
        (self.intake, self.api) = (Some(child), api);
    }

    /// Starts another replica; its address.
    #[allow(dead_code, reason = "not every test has two")]
    pub(crate) async fn replica(&mut self) -> String {
        let (child, api) = self.launch(&format!("intake-{}", self.more.len() + 2)).await;
        self.more.push(child);
        api
    }

    async fn launch(&self, name: &str) -> (Child, String) {
        let address = self.dir.path().join(format!("{name}.address"));
        let file = self.dir.path().join(format!("{name}.toml"));
        let totp = self.dir.path().join("totp.key");
        std::fs::write(&totp, hex::encode(TOTP_KEY)).unwrap();
        let nats = self.nats(Role::Intake);
        let text = format!(
            "{}\nlisten = \"127.0.0.1:0\"\naddress_file = {address:?}\ntotp_key_file = {totp:?}\n\
             [telemetry]\nlog = \"debug\"\n\
             [nats]\nurl = {:?}\ncreds = {:?}\ntrust = {:?}\n",
            self.head, nats.url, nats.creds, nats.trust
        );
        std::fs::write(&file, text).unwrap();
        let log = std::fs::File::create(self.dir.path().join(format!("{name}.log"))).unwrap();
        let child = Command::new(PROGRAM).arg(&file).stdin(Stdio::null()).stderr(log).spawn();
        let bound = until(|| async { read(&address) }).await;
        let api = format!("http://{bound}");
        until(|| async {
            let ready = self.client.get(format!("{api}/readyz")).send().await.ok()?;
            ready.status().is_success().then_some(())
        })
        .await;
        (child.unwrap(), api)
    }

    /// Address of the first replica.
    #[allow(dead_code, reason = "not every test asks")]
    pub(crate) fn api(&self) -> &str {
        &self.api
    }

    /// Everything that lies in the world's folder, but for the key that seals: configurations, logs.
    #[allow(dead_code, reason = "not every test asks")]
    pub(crate) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Sends a request; `key` becomes the bearer.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<&str>,
    ) -> Response {
        let mut request = self.client.request(method, format!("{}{path}", self.api));
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        if let Some(body) = body {
            request = request.body(body.to_owned());
        }
        request.send().await.unwrap()
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.api))
    }

    pub(crate) async fn post(&self, path: &str, key: &str, body: &Value) -> (u16, Value) {
        answer(self.send(Method::POST, path, Some(key), Some(&body.to_string())).await).await
    }

    pub(crate) async fn get(&self, path: &str, key: &str) -> (u16, Value) {
        answer(self.send(Method::GET, path, Some(key), None).await).await
    }

    /// Subjects of a stream that match `filter`, and how many messages each holds.
    pub(crate) async fn stored(&self, stream: &str, filter: &str) -> u64 {
        let client = self.server.connect(&Login::Service(Role::Provisioner)).await.unwrap();
        let ask = json!({ "subjects_filter": filter }).to_string();
        let subject = format!("$JS.API.STREAM.INFO.{stream}");
        let info = client.request(subject, ask.into()).await.unwrap();
        let info: Value = serde_json::from_slice(&info.payload).unwrap();
        assert!(info.get("error").is_none(), "{info}");
        let subjects = info.pointer("/state/subjects").and_then(Value::as_object);
        subjects.into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum()
    }

    /// What intake has logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("intake.log")).unwrap()
    }

    /// Asks intake to stop, as an operator would, and waits for its end.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        let mut child = self.intake.take().unwrap();
        let sent = Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(sent.success());
        let child = Mutex::new(&mut child);
        until(|| async { child.lock().unwrap().try_wait().unwrap() }).await
    }

    pub(crate) fn signings(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in self.intake.iter_mut().chain(&mut self.more) {
            // Both fail only when it has ended already.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn read(path: &PathBuf) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn client() -> reqwest::Client {
    hotcell_stage::blob::install_tls();
    let client = reqwest::Client::builder().no_proxy();
    client.pool_idle_timeout(hotcell_stage::blob::IDLE).build().unwrap()
}

async fn add(admin: &Admin, name: &str) -> String {
    // One of the two may give FFmpeg's own arguments.
    let raw_arguments = name == "bolt";
    let spec = TenantSpec::new(tenant(name), vec!["cpu".parse().unwrap()]);
    let spec = TenantSpec { raw_arguments, ..spec };
    admin.add_tenant(&spec, &"app".parse().unwrap(), NOW).await.unwrap();
    admin.add_key(&tenant(name), &[RoleName::TenantAdmin], NOW).await.unwrap().text().to_owned()
}

/// Polls `condition` until it gives a value.
pub(crate) async fn until<T, Fut: Future<Output = Option<T>>>(condition: impl Fn() -> Fut) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < end, "the condition did not come true");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

pub(crate) async fn answer(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    let problem = kind == "application/problem+json";
    assert_eq!(problem, status >= 400, "{status} {kind}");
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
}

async fn serve_object(State(objects): State<Objects>, uri: Uri) -> impl IntoResponse {
    let found = objects.lock().unwrap().get(uri.path().trim_start_matches('/')).cloned();
    found.map(|bytes| ([("etag", "\"e1\"")], bytes)).ok_or(StatusCode::NOT_FOUND)
}

/// An upload of this many bytes is over the tenant's quota.
pub(crate) const OVER_QUOTA: u64 = 77_777_777;

async fn sign(incoming: Incoming, asked: Arc<Mutex<Vec<SignRequest>>>, store: String) {
    let request = incoming.open::<SignRequest>().unwrap().into_inner();
    let key = match &request {
        SignRequest::Upload { key, .. } | SignRequest::Read { key, .. } => key.to_string(),
    };
    let over = matches!(request, SignRequest::Upload { size: OVER_QUOTA, .. });
    asked.lock().unwrap().push(request);
    if over {
        incoming.answer(&SignReply::OverQuota { stored_bytes_max: 7 }).await;
        return;
    }
    let signed = SignedUrl {
        url: SecretUrl::new(format!("{store}/{key}?X-Amz-Signature=secret")),
        headers: vec![("content-type".to_owned(), "video/mp4".to_owned())],
        expires_at: clock::now().plus_ms(600_000),
    };
    incoming.answer(&SignReply::Signed { signed }).await;
}
