//! The S3 endpoints that the contract is held against: ours in this process, rclone as an
//! independent server, a naive one with the usual holes, or one named by the environment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Once;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::{StreamExt as _, TryStreamExt as _};
use hotcell_signer::presign::{
    Addressing, Bound, Endpoint, Method, PresignKey, PresignRequest, PresignedUrl, Ttl, presign,
};
use hotcell_stage::config::{LogFormat, TelemetryConfig};
use hotcell_store::{AccessKeyConfig, Config, Durability, Grant, Op, Store};
use object_store::ObjectStore as _;
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) const ID: &str = "AKIDCONTRACT";
pub(crate) const SECRET: &str = "contract+secret/with=signs";
pub(crate) const REGION: &str = "us-east-1";

/// One endpoint with two buckets and a key that may do everything in both.
pub(crate) struct Peer {
    pub(crate) url: String,
    pub(crate) bucket: String,
    pub(crate) other_bucket: String,
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) region: String,
    pub(crate) dir: TempDir,
    /// Keeps tasks and processes until the end of the test; both stop when dropped.
    pub(crate) tasks: JoinSet<()>,
    process: Option<tokio::process::Child>,
    /// Some servers answer 400 where S3 and ours answer 403 to a request without a good signature.
    lenient: bool,
}

pub(crate) fn now_unix_secs() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a test has no other clock")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn client() -> reqwest::Client {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60));
    client.pool_idle_timeout(hotcell_stage::blob::IDLE).build().unwrap()
}

pub(crate) fn tool(env: &str, name: &str) -> String {
    std::env::var(env).unwrap_or_else(|_| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.tools/venv/bin/");
        format!("{path}{name}")
    })
}

/// A configuration for a free port, one key that may do everything in two buckets.
pub(crate) fn config(dir: &TempDir) -> Config {
    let secret_file = dir.path().join("secret");
    std::fs::write(&secret_file, format!("{SECRET}\n")).unwrap();
    let ops = vec![Op::Get, Op::Put, Op::Delete, Op::List, Op::CreateBucket];
    let grant = |bucket: &str| Grant { ops: ops.clone(), bucket: bucket.into(), prefix: "".into() };
    let allow = vec![grant("hot-in"), grant("hot-secret"), grant("hot-new")];
    Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        listen_file: None,
        tls: None,
        data_dir: dir.path().join("data"),
        buckets: vec!["hot-in".into(), "hot-secret".into()],
        region: REGION.into(),
        access_keys: vec![AccessKeyConfig { id: ID.into(), secret_file, allow }],
        presign_expires_secs_max: 3600,
        durability: Durability::Always,
        telemetry: TelemetryConfig {
            log: "info".into(),
            format: LogFormat::Text,
            otlp: String::new(),
        },
    }
}

impl Peer {
    /// Ours, or what `HOTCELL_TEST_S3` names: `URL BUCKET OTHER_BUCKET REGION ID SECRET`, an
    /// `http://` endpoint. The buckets are emptied before each row, so their names must start
    /// with `hotcell-test-`, and the rows must run one at a time (`ours:: --test-threads 1`).
    pub(crate) async fn ours() -> Self {
        let Ok(other) = std::env::var("HOTCELL_TEST_S3") else { return Self::in_process().await };
        let words: Vec<String> = other.split_whitespace().map(str::to_owned).collect();
        let [url, bucket, other_bucket, region, id, secret] = words.try_into().unwrap();
        let mut peer = Self::at(&url, TempDir::new().unwrap());
        (peer.bucket, peer.other_bucket, peer.region) = (bucket, other_bucket, region);
        (peer.id, peer.secret) = (id, secret);
        for name in [peer.other_bucket.clone(), peer.bucket.clone()] {
            assert!(name.starts_with("hotcell-test-"), "{name} would be emptied");
            let store = peer.builder().with_bucket_name(name);
            let store = store.build().unwrap();
            let keys = store.list(None).map_ok(|meta| meta.location).boxed();
            store.delete_stream(keys).try_collect::<Vec<_>>().await.unwrap();
        }
        peer
    }

    pub(crate) async fn in_process() -> Self {
        let dir = TempDir::new().unwrap();
        let config = config(&dir);
        Self::with_config(config, dir).await
    }

    pub(crate) async fn with_config(config: Config, dir: TempDir) -> Self {
        let store = Store::bind(config).await.unwrap();
        let mut peer = Self::at(&format!("http://{}", store.local_addr()), dir);
        peer.tasks.spawn(async move { store.run(CancellationToken::new()).await.unwrap() });
        peer
    }

    /// Any service on a free port of ours.
    pub(crate) fn at(url: &str, dir: TempDir) -> Self {
        Self {
            url: url.to_owned(),
            bucket: "hot-in".to_owned(),
            other_bucket: "hot-secret".to_owned(),
            id: ID.to_owned(),
            secret: SECRET.to_owned(),
            region: REGION.to_owned(),
            dir,
            tasks: JoinSet::new(),
            process: None,
            lenient: false,
        }
    }

    /// `rclone serve s3` over an empty directory.
    pub(crate) async fn rclone() -> Self {
        let dir = TempDir::new().unwrap();
        for bucket in ["hot-in", "hot-secret"] {
            std::fs::create_dir(dir.path().join(bucket)).unwrap();
        }
        let rclone = tool("HOTCELL_TEST_RCLONE", "rclone");
        let mut process = tokio::process::Command::new(&rclone)
            .args(["serve", "s3", "--addr", "127.0.0.1:0", "--config", "/dev/null"])
            .args(["--auth-key", &format!("{ID},{SECRET}"), "--vfs-cache-mode", "full"])
            .args(["--cache-dir".as_ref(), dir.path().join("cache").as_os_str()])
            .arg(dir.path())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("{rclone}: {e}; install tools/requirements-test.txt"));
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let url = loop {
            let line = lines.next_line().await.unwrap().expect("rclone says where it listens");
            if let Some((_, rest)) = line.split_once("http://") {
                let end = rest.find('/').unwrap_or(rest.len());
                break format!("http://{}", &rest[..end]);
            }
        };
        let mut peer = Self::at(&url, dir);
        // Its log has to be read, or it blocks.
        peer.tasks.spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        (peer.process, peer.lenient) = (Some(process), true);
        peer
    }

    /// Whether the status says that the request was not allowed.
    pub(crate) fn denies(&self, what: &str, status: u16) -> anyhow::Result<()> {
        let denied = status == 403 || (self.lenient && status == 400);
        anyhow::ensure!(denied, "{what}: {status}, expected 403");
        Ok(())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.url.trim_start_matches("http://").parse().unwrap()
    }

    fn builder(&self) -> AmazonS3Builder {
        drop(client());
        AmazonS3Builder::new()
            .with_endpoint(&self.url)
            .with_allow_http(true)
            .with_bucket_name(&self.bucket)
            .with_region(&self.region)
            .with_access_key_id(&self.id)
            .with_secret_access_key(&self.secret)
            .with_checksum_algorithm(Checksum::SHA256)
    }

    /// A header-signing client.
    pub(crate) fn store(&self) -> AmazonS3 {
        self.builder().build().unwrap()
    }

    pub(crate) fn presign_at(&self, request: &PresignRequest<'_>, now: u64) -> PresignedUrl {
        let key = PresignKey::new(&self.id, &self.secret, &self.region).unwrap();
        let endpoint = Endpoint::parse(&self.url, Addressing::Path).unwrap();
        presign(&key, &endpoint, request, now).unwrap()
    }

    pub(crate) fn presign(&self, request: &PresignRequest<'_>) -> PresignedUrl {
        self.presign_at(request, now_unix_secs())
    }

    pub(crate) fn get_url(&self, key: &str) -> PresignedUrl {
        self.presign(&PresignRequest::get(&self.bucket, key, Ttl::MAX))
    }

    pub(crate) fn put_url(&self, key: &str, bound: Bound) -> PresignedUrl {
        self.presign(&PresignRequest::put(&self.bucket, key, Ttl::MAX, bound))
    }

    /// Status and body of a presigned GET.
    pub(crate) async fn get(&self, key: &str) -> (u16, Vec<u8>) {
        let response = client().get(self.get_url(key).url.expose()).send().await.unwrap();
        (response.status().as_u16(), response.bytes().await.unwrap().to_vec())
    }

    /// Status of a presigned HEAD.
    pub(crate) async fn head(&self, key: &str) -> u16 {
        let mut request = PresignRequest::get(&self.bucket, key, Ttl::MAX);
        request.method = Method::Head;
        let url = self.presign(&request);
        client().head(url.url.expose()).send().await.unwrap().status().as_u16()
    }

    /// Writes an object through a URL that binds nothing.
    pub(crate) async fn put(&self, key: &str, body: &[u8]) -> u16 {
        let url = self.put_url(key, Bound::default());
        send_put(&url, body).await
    }

    /// Files below the data directory's `tmp`.
    pub(crate) fn temp_files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.path().join("data/tmp")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

/// Sends what the URL insists on; the length comes from the body.
pub(crate) async fn send_put(url: &PresignedUrl, body: &[u8]) -> u16 {
    send_put_with(url.url.expose(), &url.headers, body).await
}

pub(crate) async fn send_put_with(url: &str, headers: &[(String, String)], body: &[u8]) -> u16 {
    let mut request = client().put(url).body(body.to_vec());
    for (name, value) in headers.iter().filter(|(name, _)| name != "content-length") {
        request = request.header(name, value);
    }
    request.send().await.unwrap().status().as_u16()
}

pub(crate) fn sha256(body: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(body).into()
}

/// Everything bound, as the signer binds an output.
pub(crate) fn bound(body: &[u8]) -> Bound {
    Bound {
        content_length: Some(body.len() as u64),
        content_type: Some("video/mp4".to_owned()),
        create_only: true,
        sha256: Some(sha256(body)),
    }
}
