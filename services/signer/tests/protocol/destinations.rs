//! Outputs in a tenant's own bucket, which is a second real store here: IAM-09, API-11, BRK-17. What
//! a URL of it can do is what one of the own store can; what nobody entered opens nothing.

use crate::{
    job::{made, plan, report, submitted},
    rig::{BUCKET, Rig, eventually},
    worker::ask,
};
use hotcell_schemas::{
    BlobKey, Digest, EventKind, Job, RejectCode, Role, Subject,
    destination::{Addressing, DestinationRecord},
    identity::{Authority, RoleName},
    records::AuditAct,
    report::ProducedFile,
    subject::SignVerb,
    work::{DoneReply, SignReply, SignRequest, SignedUrl, Stop, UrlsReply, WorkOrder},
};
use hotcell_stage::{
    Outgoing,
    blob::{BlobError, Blobs},
    clock,
    config::LogFormat,
    vault::Vault,
};
use hotcell_store::{AccessKeyConfig, Durability, Grant, Op, Store};
use std::{
    fs,
    path::Path,
    pin::{Pin, pin},
};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The secret of the tenant's key to its own bucket.
const SECRET: &str = "a-canary-that-opens-the-bucket-of-acme";
const KEY_ID: &str = "acme-hotcell";
/// The key that takes the place of the first.
const NEXT_SECRET: &str = "a-canary-that-opens-it-from-now-on";
const NEXT_KEY_ID: &str = "acme-hotcell-2";
const THEIRS: &str = "acme-media";
const PREFIX: &str = "video/hotcell";
const BODY: &[u8] = b"output";

/// A tenant's own store; its key may write and read below the prefix, and nothing else.
struct Elsewhere {
    endpoint: String,
    dir: TempDir,
    stop: CancellationToken,
    _task: JoinSet<()>,
}

impl Elsewhere {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keys = [(KEY_ID, SECRET), (NEXT_KEY_ID, NEXT_SECRET)].map(|(id, secret)| {
            let secret_file = dir.path().join(id);
            fs::write(&secret_file, secret).unwrap();
            let allow = vec![Grant {
                ops: vec![Op::Get, Op::Put],
                bucket: THEIRS.to_owned(),
                prefix: format!("{PREFIX}/"),
            }];
            AccessKeyConfig { id: id.to_owned(), secret_file, allow }
        });
        let store = Store::bind(hotcell_store::Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            listen_file: None,
            data_dir: dir.path().join("store"),
            tls: None,
            buckets: vec![THEIRS.to_owned()],
            region: "eu-central-1".to_owned(),
            access_keys: keys.into(),
            presign_expires_secs_max: 3600,
            durability: Durability::EachSecond,
            telemetry: hotcell_stage::TelemetryConfig {
                log: "info".to_owned(),
                format: LogFormat::Text,
                otlp: String::new(),
            },
        });
        let store = store.await.unwrap();
        let endpoint = format!("http://{}", store.local_addr());
        let (stop, mut task) = (CancellationToken::new(), JoinSet::new());
        let stopped = stop.clone();
        task.spawn(async move { store.run(stopped).await.unwrap() });
        Self { endpoint, dir, stop, _task: task }
    }

    /// A destination `cdn` of acme here, its secret sealed with `key`.
    fn record(&self, key: u8) -> DestinationRecord {
        let mut record = DestinationRecord {
            tenant: "acme".parse().unwrap(),
            name: "cdn".parse().unwrap(),
            endpoint: self.endpoint.clone(),
            region: "eu-central-1".to_owned(),
            bucket: THEIRS.to_owned(),
            prefix: PREFIX.to_owned(),
            addressing: Addressing::Path,
            access_key_id: KEY_ID.to_owned(),
            sealed: Vec::new(),
            created_at: clock::now(),
        };
        let vault = Vault::new(&[key; 32]);
        record.sealed = vault.seal(SECRET.as_bytes(), &record.owner(), clock::random());
        record
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A worker that asks for work until it gets some.
type Asking<'a> = Pin<&'a mut (dyn Future<Output = WorkOrder> + Send)>;

impl Rig {
    /// The operator enters `record` under the name of `tenant`.
    async fn enter(&self, tenant: &str, record: &DestinationRecord) {
        let bucket = self.service(Role::Provisioner).await.bucket("destinations");
        let key = DestinationRecord::key(&tenant.parse().unwrap(), &record.name);
        let (_, revision) = bucket.look::<DestinationRecord>(&key).await.unwrap();
        bucket.update(&key, record, revision).await.unwrap();
    }

    async fn forget(&self) {
        let bucket = self.service(Role::Provisioner).await.bucket("destinations");
        let (_, revision) = bucket.look::<DestinationRecord>("acme.cdn").await.unwrap();
        bucket.remove("acme.cdn", revision).await.unwrap();
    }

    /// One with acme and bolt, whose signer has this key for destinations.
    async fn with_destination_key(key: &str) -> Self {
        let mut rig = Self::without_signer().await;
        rig.tenant("acme", 16).await;
        rig.tenant("bolt", 16).await;
        rig.signer_with(&rig.key_line(key));
        rig
    }

    fn key_line(&self, key: &str) -> String {
        let path = self.stored().with_file_name(format!("destination-{key}.key"));
        fs::write(&path, key.repeat(32)).unwrap();
        format!("destination_key = {path:?}\n")
    }

    /// A job of acme for destination `cdn` that is ready for a worker.
    async fn bound_for_cdn(&self) -> Job {
        let mut job = submitted("acme", "cpu");
        job.request.destination = Some("cdn".parse().unwrap());
        job.authority = Authority {
            roles: [RoleName::Submitter, RoleName::Publisher].into(),
            mfa: true,
            auth_time: Some(clock::now()),
            ..Authority::default()
        };
        let seq = self.intake.publish(&Outgoing::job(job.clone(), 0)).await.unwrap().seq;
        job.plan = Some(plan());
        let job = job.moved(EventKind::Validated, clock::now());
        self.validator.publish(&Outgoing::job(job.clone(), seq)).await.unwrap();
        job
    }

    /// How the job ends while a worker asks for work, and gets none.
    async fn ends_without_order(&self, asking: Asking<'_>, job: &Job) -> Job {
        let ended = eventually(|| async {
            let state = self.state(job).await;
            (state.state == EventKind::Failed).then_some(state)
        });
        let ended = tokio::select! {
            ended = ended => ended,
            order = asking => panic!("{order:?}"),
        };
        assert!(ended.attempts.is_empty(), "no attempt, no URL");
        ended
    }
}

fn output() -> ProducedFile {
    let size = u64::try_from(BODY.len()).unwrap();
    ProducedFile { size, sha256: Digest::of(BODY), ..made() }
}

async fn put(url: &SignedUrl, body: &'static [u8]) -> Result<(), BlobError> {
    let size = u64::try_from(body.len()).unwrap();
    let bytes = futures::stream::iter([Ok(bytes::Bytes::from_static(body))]);
    Blobs::new().put(url, size, bytes).await
}

async fn asked(rig: &Rig, role: Role, verb: SignVerb, job: &Job) -> SignReply {
    let key = BlobKey::output(&job.tenant, &job.id, 1, &output().name);
    let request = SignRequest::Read { tenant: job.tenant.clone(), key, job: Some(job.id.clone()) };
    ask(&rig.service(role).await, Subject::sign(verb), &request).await
}

async fn signed(rig: &Rig, role: Role, verb: SignVerb, job: &Job) -> Option<SignedUrl> {
    match asked(rig, role, verb, job).await {
        SignReply::Signed { signed } => Some(signed),
        SignReply::Refused { .. } => None,
        SignReply::Later { reason } => panic!("{reason}"),
        SignReply::OverQuota { .. } => panic!("a read has no quota"),
    }
}

/// The files below `dir` that hold `needle`. What the store removes meanwhile is gone.
fn holding(dir: &Path, needle: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let holds = |bytes: Vec<u8>| bytes.windows(needle.len()).any(|part| part == needle);
        if path.is_dir() {
            found.extend(holding(&path, needle));
        } else if fs::read(&path).is_ok_and(holds) {
            found.push(path.display().to_string());
        }
    }
    found
}

async fn read(url: &SignedUrl) -> Vec<u8> {
    use futures::TryStreamExt as _;
    let chunks: Vec<bytes::Bytes> =
        Blobs::new().get(url).await.unwrap().stream().try_collect().await.unwrap();
    chunks.concat()
}

fn begins_with(url: &SignedUrl, start: &str) {
    // The part without a query: what is compared is no capability.
    let bare = url.url.expose().split('?').next().unwrap();
    assert!(bare.starts_with(start), "{bare}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn iam_09_outputs_and_only_they_go_to_the_tenant_s_own_bucket() {
    let (rig, there) = (Rig::with_destination_key("07").await, Elsewhere::start().await);
    rig.enter("acme", &there.record(7)).await;
    let worker = rig.worker("w1", "cpu").await;
    let job = rig.bound_for_cdn().await;
    let order = worker.order().await;
    let log = Digest::of(b"log");
    let reply = worker.urls(&order.lease, vec![output()], Some((3, log))).await;
    let UrlsReply::Urls { files, stderr, elsewhere: true } = reply else { panic!("refused") };
    let key = BlobKey::output(&job.tenant, &job.id, 1, &output().name);
    begins_with(&files[0].put, &format!("{}/{THEIRS}/{PREFIX}/{key}", there.endpoint));
    let own = BlobKey::stderr(&job.tenant, &job.id, 1);
    assert!(stderr.as_ref().unwrap().url.expose().contains(&format!("/{BUCKET}/{own}?")));

    // A URL of it can do what one of the own store can, and no more: one PUT of these very bytes.
    let refused = put(&files[0].put, b"0utput").await;
    assert!(matches!(refused, Err(BlobError::Refused(_) | BlobError::Denied(_))), "{refused:?}");
    let refused = put(&files[0].put, b"output and more").await;
    assert!(matches!(refused, Err(BlobError::Refused(_) | BlobError::Denied(_))), "{refused:?}");
    put(&files[0].put, BODY).await.unwrap();
    let again = put(&files[0].put, BODY).await;
    assert!(matches!(again, Err(BlobError::Exists)), "{again:?}");
    put(&stderr.unwrap(), b"log").await.unwrap();

    let mut done = report("ok");
    done.files = vec![output()];
    assert_eq!(worker.done(&order, done).await, DoneReply::Accepted);
    let url = signed(&rig, Role::Hasher, SignVerb::Output, &job).await.unwrap();
    begins_with(&url, &there.endpoint);
    assert_eq!(read(&url).await, BODY);
    let stored = rig.intake.job(&job.tenant, &job.id).await.unwrap().unwrap();
    let (seq, encoded) = (stored.seq, stored.message.into_inner());
    assert_eq!(encoded.outputs[0].key, key, "records name the key without the prefix");
    let completed = encoded.moved(EventKind::Completed, clock::now());
    let hasher = rig.service(Role::Hasher).await;
    hasher.publish(&Outgoing::job(completed, seq)).await.unwrap();
    let url = signed(&rig, Role::Intake, SignVerb::Download, &job).await.unwrap();
    begins_with(&url, &there.endpoint);
    assert_eq!(read(&url).await, BODY);

    assert!(!holding(&there.dir.path().join("store"), BODY).is_empty());
    assert!(holding(&rig.stored(), BODY).is_empty(), "in the own store, too");
    recorded(&rig, &key, &own).await;
}

/// That grants say where the URLs of `output` and of `stderr` led, and nothing says the secret.
async fn recorded(rig: &Rig, output: &BlobKey, stderr: &BlobKey) {
    let mut grants = Vec::new();
    for act in rig.audit().await {
        if let AuditAct::Granted { grants: more, .. } = act {
            grants.extend(more);
        }
    }
    let led = |method: &str, key: &BlobKey| {
        let of = |grant: &&hotcell_schemas::job::Grant| {
            grant.method == method && grant.key_digest == key.digest()
        };
        let found: Vec<_> = grants.iter().filter(of).map(|it| it.destination.clone()).collect();
        found.iter().map(|name| name.as_ref().map(ToString::to_string)).collect::<Vec<_>>()
    };
    let cdn = || Some("cdn".to_owned());
    assert_eq!(led("PUT", output), [cdn()]);
    assert_eq!(led("GET", output), [cdn(), cdn()]);
    assert_eq!(led("PUT", stderr), [None]);
    for message in rig.messages().await {
        let found = message.payload.windows(SECRET.len()).any(|part| part == SECRET.as_bytes());
        assert!(!found, "the secret is in {}", message.subject);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn iam_09_no_other_tenant_s_bucket_and_not_hotcell_s_own_is_a_destination() {
    let (rig, there) = (Rig::with_destination_key("07").await, Elsewhere::start().await);
    let worker = rig.worker("w1", "cpu").await;
    let mut asking = pin!(worker.order());
    let mut unknown = async |why: &str| {
        let job = rig.bound_for_cdn().await;
        let ended = rig.ends_without_order(asking.as_mut(), &job).await;
        let failure = ended.failure.unwrap();
        assert_eq!(failure.code, RejectCode::DestinationUnknown, "{why}: {failure:?}");
        failure.message
    };
    unknown("nobody entered one").await;
    // Another tenant's, under its own key and, by a mistake, under this tenant's.
    let mut theirs = DestinationRecord { tenant: "bolt".parse().unwrap(), ..there.record(7) };
    theirs.sealed = Vault::new(&[7; 32]).seal(SECRET.as_bytes(), &theirs.owner(), [1; 12]);
    rig.enter("bolt", &theirs).await;
    unknown("it is bolt's").await;
    rig.enter("acme", &theirs).await;
    unknown("it is bolt's, wherever it is").await;
    let mut own = there.record(7);
    (own.endpoint, own.bucket) = (rig.store().to_owned(), BUCKET.to_owned());
    own.sealed = Vault::new(&[7; 32]).seal(SECRET.as_bytes(), &own.owner(), [1; 12]);
    rig.enter("acme", &own).await;
    assert!(unknown("it is the own store").await.contains("own store"));
    // With the right record the same job is given out: what refused the others was the record.
    rig.enter("acme", &there.record(7)).await;
    let job = rig.bound_for_cdn().await;
    assert_eq!(asking.await.job, job.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn iam_09_a_destination_that_is_removed_ends_what_would_go_there() {
    let (rig, there) = (Rig::with_destination_key("07").await, Elsewhere::start().await);
    rig.enter("acme", &there.record(7)).await;
    let worker = rig.worker("w1", "cpu").await;
    let at_urls = rig.bound_for_cdn().await;
    let order = worker.order().await;
    let at_done = rig.bound_for_cdn().await;
    let second = worker.order().await;
    rig.forget().await;

    let stopped = UrlsReply::Refused { reason: Stop::Cancelled };
    assert_eq!(worker.urls(&order.lease, vec![output()], None).await, stopped);
    let mut done = report("ok");
    done.files = vec![output()];
    assert_eq!(worker.done(&second, done).await, DoneReply::Accepted);
    for job in [&at_urls, &at_done] {
        let ended = rig.state(job).await;
        let code = ended.failure.as_ref().map(|failure| failure.code);
        assert_eq!((ended.state, code), (EventKind::Failed, Some(RejectCode::DestinationUnknown)));
        assert!(ended.outputs.is_empty(), "nothing counts as made");
    }
    // Both places are free again, and nobody is asked a second time.
    eventually(|| async { (rig.ack_pending("acme", "cpu").await == 0).then_some(()) }).await;
    let deliveries = rig.deliveries("acme", "cpu").await;
    assert_eq!(deliveries, 2);

    // One that is made anew under the name takes no job of before: it may lead elsewhere.
    rig.enter("acme", &there.record(7)).await;
    assert!(signed(&rig, Role::Hasher, SignVerb::Output, &at_done).await.is_none());
    let job = rig.bound_for_cdn().await;
    assert_eq!(worker.order().await.job, job.id);
}

// A key that is put in another's place is the one of the next URL, for jobs of before, too: no signer
// remembers a record, and where the name leads has not changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn iam_09_a_key_that_took_another_s_place_signs_the_next_url_of_jobs_of_before() {
    let (rig, there) = (Rig::with_destination_key("07").await, Elsewhere::start().await);
    let first = there.record(7);
    rig.enter("acme", &first).await;
    let worker = rig.worker("w1", "cpu").await;
    let job = rig.bound_for_cdn().await;
    let order = worker.order().await;
    let url = async || {
        let reply = worker.urls(&order.lease, vec![output()], None).await;
        let UrlsReply::Urls { mut files, .. } = reply else { panic!("refused: {reply:?}") };
        files.remove(0).put
    };
    let by = |url: &SignedUrl, id: &str| {
        let credential = format!("X-Amz-Credential={id}%2F");
        assert!(url.url.expose().contains(&credential), "not by {id}");
    };
    by(&url().await, KEY_ID);
    let mut next = DestinationRecord { access_key_id: NEXT_KEY_ID.to_owned(), ..first };
    next.sealed = Vault::new(&[7; 32]).seal(NEXT_SECRET.as_bytes(), &next.owner(), [2; 12]);
    rig.enter("acme", &next).await;
    let fresh = url().await;
    by(&fresh, NEXT_KEY_ID);
    put(&fresh, BODY).await.unwrap();

    let mut done = report("ok");
    done.files = vec![output()];
    assert_eq!(worker.done(&order, done).await, DoneReply::Accepted);
    assert_eq!(rig.state(&job).await.state, EventKind::Encoded);
    let read_by = signed(&rig, Role::Hasher, SignVerb::Output, &job).await.unwrap();
    by(&read_by, NEXT_KEY_ID);
    assert_eq!(read(&read_by).await, BODY);
    // The secret of the one opens nothing under the name of the other.
    let mixed = DestinationRecord { access_key_id: KEY_ID.to_owned(), ..next };
    rig.enter("acme", &mixed).await;
    let reply = asked(&rig, Role::Hasher, SignVerb::Output, &job).await;
    assert!(matches!(reply, SignReply::Later { .. }), "{reply:?}");
}

// A signer that cannot open the secret fails no job that one with the key can serve: it waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn iam_09_a_signer_without_the_key_gives_no_url_and_ends_no_job() {
    let there = Elsewhere::start().await;
    for other in ["", "08"] {
        let mut rig = Rig::without_signer().await;
        rig.tenant("acme", 16).await;
        rig.signer_with(&if other.is_empty() { String::new() } else { rig.key_line(other) });
        rig.enter("acme", &there.record(7)).await;
        let worker = rig.worker("w1", "cpu").await;
        let job = rig.bound_for_cdn().await;
        let mut asking = pin!(worker.order());
        let looked =
            eventually(|| async { (rig.deliveries("acme", "cpu").await > 2).then_some(()) });
        tokio::select! {
            () = looked => {}
            order = asking.as_mut() => panic!("an order without the key: {order:?}"),
        }
        assert_eq!(rig.state(&job).await.state, EventKind::Validated, "it waits");
        rig.stop_signers().await;
        rig.signer_with(&rig.key_line("07"));
        let order = asking.await;
        assert_eq!(order.job, job.id);

        // Nor one whose outputs are there, and wait to be read again: that is no refusal.
        let mut done = report("ok");
        done.files = vec![output()];
        assert_eq!(worker.done(&order, done).await, DoneReply::Accepted);
        rig.stop_signers().await;
        rig.signer_with(&if other.is_empty() { String::new() } else { rig.key_line(other) });
        let reply = asked(&rig, Role::Hasher, SignVerb::Output, &job).await;
        assert!(matches!(reply, SignReply::Later { .. }), "{reply:?}");
    }
}
