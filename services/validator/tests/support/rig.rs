//! A real broker, with a signer and a store of the test's own, and jobs as intake makes them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(dead_code, reason = "shared by test files, each of which uses a part")]

use hotcell_nats_config::{
    InitOptions, Login, Replicas, TenantSpec,
    testing::{self, TestServer},
};
use hotcell_schemas::{
    BlobKey, Digest, EventKind, FileName, Job, JobId, Role, UnixMs, UploadId, Verified,
    identity::{Authority, RoleName},
    job::{Actor, Input, Stamp},
    work::{SecretUrl, SignReply, SignRequest, SignedUrl},
};
use hotcell_stage::{Bus, NatsConfig, Shutdown, clock};
use hotcell_validator::Config;
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

pub(crate) const ETAG: &str = "\"abc\"";
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// How often a URL was asked for each object.
pub(crate) type Asked = Arc<Mutex<BTreeMap<BlobKey, u32>>>;

/// Objects by path.
pub(crate) type Objects = Arc<BTreeMap<String, Vec<u8>>>;

/// Serves objects by GET on a loopback port, one request for each connection.
pub(crate) async fn store(objects: Objects, tasks: &mut JoinSet<()>) -> String {
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

pub(crate) async fn broker() -> TestServer {
    let options = InitOptions { now: clock::now(), workers: vec![], tenants: vec![] };
    let server = TestServer::start(&options).await.unwrap();
    server.admin().await.unwrap().provision(Replicas::One, clock::now()).await.unwrap();
    server
}

/// Makes a tenant.
pub(crate) async fn tenant(server: &TestServer, tenant: &str, raw_arguments: bool) {
    let spec = TenantSpec::new(tenant.parse().unwrap(), vec!["cpu".parse().unwrap()]);
    let spec = TenantSpec { raw_arguments, ..spec };
    let admin = server.admin().await.unwrap();
    admin.add_tenant(&spec, &"app".parse().unwrap(), clock::now()).await.unwrap();
}

pub(crate) fn nats(server: &TestServer, role: Role) -> NatsConfig {
    server.config(&Login::Service(role)).unwrap()
}

/// Answers `sign.validator.input` with the object's URL, as the signer would.
/// Returns how often it was asked for each object.
pub(crate) async fn signer(
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

pub(crate) fn job(number: u8, bytes: &[u8], declared: &str) -> Job {
    let bare = testing::job("acme", JobId::new(1, [number; 10]));
    let name: FileName = "clip".parse().unwrap();
    let input = Input {
        key: BlobKey::upload(&bare.tenant, &UploadId::new(1, [number; 10]), &name),
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
        actor: Actor::NatsLogin { user: "U".to_owned(), name: "app".to_owned() },
        authority: Authority { roles: [RoleName::Submitter].into(), ..Authority::default() },
        request: serde_json::from_value(body).unwrap(),
        inputs: vec![input],
        stamps: vec![Stamp { event: EventKind::Submitted, at: clock::now() }],
        ..bare
    }
}

pub(crate) async fn settled(bus: &Bus, job: &Job) -> Job {
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

pub(crate) fn config(server: &TestServer, dir: &Path) -> Config {
    let nats = nats(server, Role::Validator);
    let (url, creds, trust) = (&nats.url, nats.creds.display(), nats.trust.display());
    let text = format!(
        "concurrency = 4\n[nats]\nurl = \"{url}\"\ncreds = \"{creds}\"\ntrust = \"{trust}\"\n"
    );
    let file = dir.join("validator.toml");
    std::fs::write(&file, text).unwrap();
    hotcell_stage::config::load(&file, hotcell_validator::config::DEFAULTS).unwrap()
}
