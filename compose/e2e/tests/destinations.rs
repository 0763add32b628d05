//! Outputs in a tenant's own bucket: a second real store process plays the customer's. IAM-09, API-05,
//! API-11, BRK-17.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context as _, Result, ensure};
use axum::{Router, http::StatusCode};
use hotcell_e2e::{
    api::{Api, request, text},
    hook::Receiver,
    media,
    up::{Up, programs},
};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

const PATIENCE: Duration = Duration::from_secs(120);
const JOBS: &str = "/v1/transcodes";
const BUCKET: &str = "acme-media";
const PREFIX: &str = "video/hotcell";
const KEY_ID: &str = "acme-hotcell";
/// It is looked for in every file of the installation.
const SECRET: &str = "CANARY-9f2c-the-secret-of-acmes-own-bucket";
/// Keys that take the place of the first, one after the other.
const SECOND: (&str, &str) = ("acme-hotcell-2", "CANARY-51d0-the-second-secret");
const THIRD: (&str, &str) = ("acme-hotcell-3", "CANARY-e7a4-the-third-secret");

/// A customer's store. A key of it may write and read below the prefix, and nothing else.
struct Customer {
    child: Child,
    dir: TempDir,
    /// Where it is for others, whatever process is behind.
    endpoint: String,
    behind: watch::Sender<SocketAddr>,
    _front: JoinSet<()>,
}

impl Customer {
    async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (child, at) = store(dir.path(), &[(KEY_ID, SECRET)])?;
        let (behind, now) = watch::channel(at);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let mut front = JoinSet::new();
        front.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let at = *now.borrow();
                open.spawn(async move {
                    let Ok(mut store) = TcpStream::connect(at).await else { return };
                    let _ended = copy_bidirectional(&mut client, &mut store).await;
                });
            }
        });
        Ok(Self { child, dir, endpoint, behind, _front: front })
    }

    /// Its owner changes which keys it knows.
    fn knows(&mut self, keys: &[(&str, &str)]) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        let (child, at) = store(self.dir.path(), keys)?;
        self.child = child;
        self.behind.send(at).context("nobody is in front")
    }

    /// The file with the secret of a key.
    fn secret_of(&self, key: &str) -> PathBuf {
        self.dir.path().join(format!("{key}.secret"))
    }

    fn secret(&self) -> PathBuf {
        self.secret_of(KEY_ID)
    }

    /// Its files that hold `needle`.
    fn holding(&self, needle: &[u8]) -> Result<usize> {
        Ok(holding(&self.dir.path().join("store"), needle)?.len())
    }
}

impl Drop for Customer {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// A store process on the data in `dir`, which knows these keys.
fn store(dir: &Path, keys: &[(&str, &str)]) -> Result<(Child, SocketAddr)> {
    let path = |name: &str| dir.join(name);
    let mut config = format!(
        "listen = \"127.0.0.1:0\"\nlisten_file = {:?}\ndata_dir = {:?}\nbuckets = [{BUCKET:?}]\n\
         region = \"eu-central-1\"\ndurability = \"1s\"\n",
        path("addr"),
        path("store"),
    );
    for (id, secret) in keys {
        let file = path(&format!("{id}.secret"));
        fs::write(&file, format!("{secret}\n"))?;
        config += &format!(
            "[[access_keys]]\nid = {id:?}\nsecret_file = {file:?}\nallow = [{{ ops = [\"get\", \
             \"put\"], bucket = {BUCKET:?}, prefix = \"{PREFIX}/\" }}]\n",
        );
    }
    fs::write(path("store.toml"), config)?;
    there(fs::remove_file(path("addr")))?;
    let child = Command::new(programs().join("hotcell-store"))
        .arg(path("store.toml"))
        .stdout(Stdio::null())
        .stderr(fs::File::create(path("store.log"))?)
        .spawn()?;
    let until = Instant::now() + PATIENCE;
    loop {
        ensure!(Instant::now() < until, "the second store does not start");
        let written = fs::read_to_string(path("addr")).unwrap_or_default();
        if let Ok(address) = written.trim().parse() {
            return Ok((child, address));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Files below `dir` that hold `needle`. What goes while a running service is looked at is gone.
fn holding(dir: &Path, needle: &[u8]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in there(fs::read_dir(dir))?.into_iter().flatten() {
        let entry = entry?;
        let kind = there(entry.file_type())?;
        if kind.is_some_and(|kind| kind.is_dir()) {
            found.extend(holding(&entry.path(), needle)?);
        } else if kind.is_some_and(|kind| kind.is_file())
            && there(fs::read(entry.path()))?
                .is_some_and(|bytes| bytes.windows(needle.len()).any(|part| part == needle))
        {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// `None` when there is no such file.
fn there<T>(read: io::Result<T>) -> Result<Option<T>> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => Ok(Some(read?)),
    }
}

/// `hotcell destination add NAME`, for a bucket at `endpoint`.
fn add(up: &Up, name: &str, tenant: &str, at: (&str, &str, &str), secret: &Path) -> Result<String> {
    let (endpoint, bucket, key) = at;
    let region = if key == KEY_ID { "eu-central-1" } else { "us-east-1" };
    let whose = ["destination", "add", name, "--tenant", tenant, "--endpoint", endpoint];
    let place = ["--bucket", bucket, "--prefix", PREFIX, "--region", region];
    let opened = ["--access-key-id", key, "--secret-file", secret.to_str().context("a path")?];
    said(up, &[whose.as_slice(), &place, &opened].concat())
}

/// `hotcell destination rekey NAME`.
fn rekey(up: &Up, name: &str, key: &str, secret: &Path) -> Result<String> {
    let whose = ["destination", "rekey", name, "--tenant", "demo", "--access-key-id", key];
    let opened = ["--secret-file", secret.to_str().context("a path")?];
    said(up, &[whose.as_slice(), &opened].concat())
}

/// The exit code and all that is printed, in which no secret is.
fn said(up: &Up, args: &[&str]) -> Result<String> {
    let output = up.cli(args)?;
    let said = [output.stdout, output.stderr].concat();
    let said = format!("{:?} {}", output.status.code(), String::from_utf8_lossy(&said));
    ensure!(!said.contains("CANARY"), "a secret is printed");
    Ok(said)
}

fn bound_for(name: &str, upload: &str) -> Value {
    let mut body = request(upload);
    body["destination"] = json!(name);
    body
}

async fn upload(api: &Api) -> Result<String> {
    api.upload("a.mp4", "video/mp4", media::clip(1, 320, 240)?).await
}

/// That `api` gets this answer to a job for `name`.
async fn answered(api: &Api, name: &str, file: &str, status: u16, words: &str) -> Result<()> {
    let (got, said) = api.call(Method::POST, JOBS, Some(&bound_for(name, file))).await?;
    ensure!(got == status && said.to_string().contains(words), "{name}: {got} {said}");
    Ok(())
}

/// IAM-09, API-05, API-11: by HTTP, the CLI, every service, and two real stores.
#[tokio::test(flavor = "multi_thread")]
async fn iam_09_outputs_go_to_the_tenant_s_own_bucket_and_the_record_says_so() -> Result<()> {
    let (up, customer) = (Up::start(&["--encoders", "1"])?, Customer::start().await?);
    let admin = Api::new(up.env("HOTCELL_API"), up.env("HOTCELL_KEY"));
    let here = (customer.endpoint.as_str(), BUCKET, KEY_ID);
    let said = add(&up, "cdn", "demo", here, &customer.secret())?;
    ensure!(said.starts_with("Some(0)"), "{said}");
    let shown = up.json(&["destination", "show", "cdn", "--tenant", "demo"])?;
    let location = format!("{}/{BUCKET}/{PREFIX}", customer.endpoint);
    ensure!(shown["location"] == location.as_str() && shown.get("sealed").is_none(), "{shown}");
    up.json(&["tenant", "add", "beta"])?;
    let said = add(&up, "theirs", "beta", here, &customer.secret())?;
    ensure!(said.starts_with("Some(0)"), "{said}");

    // Who may: a second factor, at least.
    let file = upload(&admin).await?;
    let (status, said) = admin.call(Method::POST, JOBS, Some(&bound_for("cdn", &file))).await?;
    ensure!(status == 401, "{status} {said}");
    let made = up.json(&["key", "create", "--roles", "submitter"])?;
    let submitter = Api::new(&admin.base, &text(&made, "key")?);
    answered(&submitter, "cdn", &file, 403, "outputs that go to the store").await?;
    let stepped = admin.stepped_up(&up.totp()?).await?;
    for unknown in ["nowhere", "theirs", "store"] {
        answered(&stepped, unknown, &file, 422, "destination").await?;
    }

    let hook = Receiver::start().await?;
    stepped.post("/v1/webhooks", &json!({ "url": hook.url, "events": [] })).await?;
    let id = text(&stepped.post(JOBS, &bound_for("cdn", &file)).await?, "id")?;
    let job = admin.ended(&id, PATIENCE).await?;
    ensure!(job["state"] == "completed", "{job}");
    let received = hook.until(PATIENCE, |all| !all.is_empty()).await?;
    ensure!(received[0].json()["type"] == "job.completed" && received[0].job() == id);
    found_there(&up, &customer, &admin, &id, &job).await?;
    from_a_terminal(&up, &customer, &admin).await?;

    // A tenant's own policy on where its outputs may go.
    let policy = "@id(\"frankfurt\") @about(\"outputs elsewhere\") @allows(\"our bucket in \
                  Frankfurt\")\nforbid (principal, action == Hotcell::Action::\"PublishOutput\", \
                  resource) when { context.destination != \"store\" && !(context.destination like \
                  \"https://s3.eu-central-1.amazonaws.com/acme-media/*\") };\n";
    let (status, said) =
        stepped.call(Method::PUT, "/v1/policy", Some(&json!({ "text": policy }))).await?;
    ensure!(status == 200, "{status} {said}");
    refused_from_now_on(&stepped, &file, 403, "frankfurt").await?;
    let (status, said) =
        stepped.call(Method::PUT, "/v1/policy", Some(&json!({ "text": "" }))).await?;
    ensure!(status == 200, "{status} {said}");

    up.json(&["destination", "remove", "cdn", "--tenant", "demo"])?;
    refused_from_now_on(&stepped, &file, 422, "destination").await?;
    let (status, said) = admin.call(Method::GET, &format!("{JOBS}/{id}/download"), None).await?;
    ensure!(status == 409 && said.to_string().contains("destination was removed"), "{said}");
    nowhere_else(up, &customer).await
}

/// Submits until it is refused so: policies are taken by nodes within a moment.
async fn refused_from_now_on(api: &Api, file: &str, status: u16, words: &str) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let (got, said) = api.call(Method::POST, JOBS, Some(&bound_for("cdn", file))).await?;
        if got == status && said.to_string().contains(words) {
            return Ok(());
        }
        ensure!(Instant::now() < until, "{got} {said}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// `hotcell transcode` steps up by itself, where policy asks for that.
async fn from_a_terminal(up: &Up, customer: &Customer, api: &Api) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (file, out) = (path("a.mp4"), path("a.mkv"));
    fs::write(&file, media::clip(1, 320, 240)?)?;
    let settings = ["--format", "mkv", "--resolution", "240p", "--destination", "cdn"];
    let made = up.json(&[["transcode", &file, "-o", &out].as_slice(), &settings].concat())?;
    let job = api.get(&format!("{JOBS}/{}", text(&made, "job")?)).await?;
    ensure!(job["destination"] == "cdn" && job["state"] == "completed", "{job}");
    ensure!(customer.holding(&fs::read(&out)?)? == 1, "it is not in the bucket");
    Ok(())
}

/// The output is in the customer's bucket, under a key that anybody can foretell, and not here.
async fn found_there(up: &Up, customer: &Customer, api: &Api, id: &str, job: &Value) -> Result<()> {
    let name = text(&job["outputs"][0], "name")?;
    let url = text(&api.get(&format!("{JOBS}/{id}/download?output={name}")).await?, "url")?;
    let place = format!("{}/{BUCKET}/{PREFIX}/demo/jobs/{id}/out/1/{name}?", customer.endpoint);
    ensure!(url.starts_with(&place), "another place than {place}");
    let bytes = api.http.get(&url).send().await?.bytes().await?;
    ensure!(job["outputs"][0]["sha256"] == hex::encode(Sha256::digest(&bytes)), "API-11");
    ensure!(customer.holding(&bytes)? == 1, "it is not in the customer's store");
    ensure!(holding(&up.dir().join("store"), &bytes)?.is_empty(), "it is in hotcell's own store");

    let record = api.get(&format!("{JOBS}/{id}/audit")).await?.to_string();
    ensure!(record.contains("\"destination\":\"cdn\""), "{record}");
    let until = Instant::now() + PATIENCE;
    // The auditor signs a second after the last event.
    while !up.cli(&["audit", "verify", "--job", id])?.status.success() {
        ensure!(Instant::now() < until, "the log does not prove the job");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let lines = up.cli(&["audit", "export", "--tenant", "demo"])?;
    let lines = String::from_utf8_lossy(&lines.stdout).into_owned();
    let place = customer.endpoint.trim_start_matches("http://");
    let added =
        format!("\"target\":\"cdn {place}/{BUCKET}/{PREFIX}\",\"note\":\"destination_added\"");
    ensure!(lines.contains(&added), "{lines}");
    ensure!(lines.contains(" s at cdn"), "no grant says where its URL led: {lines}");
    Ok(())
}

/// The secret is where it was put by its owner, and sealed; in no log, stream or record.
async fn nowhere_else(up: Up, customer: &Customer) -> Result<()> {
    let key = hex::decode(fs::read_to_string(up.dir().join("secrets/destination.key"))?.trim())?;
    let dir = up.stop()?;
    let found = holding(dir.path(), SECRET.as_bytes())?;
    ensure!(found.is_empty(), "the secret is in {found:?}");
    ensure!(holding(dir.path(), &key)?.is_empty(), "the sealing key is in a file as bytes");
    // The search finds what is there, and the sealed record was in what it searched.
    ensure!(holding(customer.dir.path(), SECRET.as_bytes())?.len() == 1);
    let sealed = holding(&dir.path().join("nats"), KEY_ID.as_bytes())?;
    ensure!(!sealed.is_empty(), "the broker's storage was not searched");
    Ok(())
}

/// IAM-09: what is weaker than hotcell's own store, or is that store, is no destination.
#[tokio::test(flavor = "multi_thread")]
async fn iam_09_a_bucket_that_keeps_no_rules_and_the_own_store_are_not_entered() -> Result<()> {
    let (up, customer) =
        (Up::start(&["--encoders", "1", "--cell", "noop"])?, Customer::start().await?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let yes = format!("http://{}", listener.local_addr()?);
    let mut servers = JoinSet::new();
    servers.spawn(async move {
        let router = Router::new().fallback(|| async { (StatusCode::OK, "yes") });
        axum::serve(listener, router).await
    });
    let own = up.env("HOTCELL_S3").to_owned();
    let (_, port) = own.rsplit_once(':').context("a port")?;
    let alias = format!("http://localhost:{port}");
    let storage = up.dir().join("secrets/storage-signer.secret");
    let theirs = customer.secret();
    let gone = format!("{}0", customer.endpoint.trim_end_matches(|c: char| c != ':'));
    let wrong = tempfile::NamedTempFile::new()?;
    fs::write(wrong.path(), "another-secret")?;
    let here = customer.endpoint.as_str();
    for (at, secret, words) in [
        ((yes.as_str(), BUCKET, KEY_ID), theirs.as_path(), "If-None-Match is not kept"),
        ((own.as_str(), "hotcell", "signer"), &storage, "hotcell's own store"),
        ((alias.as_str(), "hotcell", "signer"), &storage, "tried: the bucket is hotcell's own"),
        ((here, "nobodys", KEY_ID), &theirs, "tried:"),
        ((here, BUCKET, KEY_ID), wrong.path(), "refuses the key"),
        ((gone.as_str(), BUCKET, KEY_ID), &theirs, "--endpoint must"),
        (("http://198.51.100.7:9000", BUCKET, KEY_ID), &theirs, "https:// beyond loopback"),
    ] {
        let said = add(&up, "cdn", "demo", at, secret)?;
        ensure!(!said.starts_with("Some(0)") && said.contains(words), "{at:?}: {said}");
    }
    let at = (here, BUCKET, KEY_ID);
    let said = add(&up, "cdn", "nobody", at, &theirs)?;
    ensure!(said.contains("there is no tenant nobody"), "{said}");
    ensure!(up.json(&["destination", "list"])? == json!([]), "something was entered");
    // The same bucket by its own right key: what refused the others was what they did.
    let said = add(&up, "cdn", "demo", at, &theirs)?;
    ensure!(said.starts_with("Some(0)"), "{said}");
    let said = add(&up, "cdn", "demo", at, &theirs)?;
    ensure!(said.contains("already"), "{said}");
    let listed = up.json(&["destination", "list", "--tenant", "demo"])?;
    ensure!(listed[0]["name"] == "cdn" && listed.as_array().unwrap().len() == 1, "{listed}");
    ensure!(up.json(&["destination", "list", "--tenant", "other"])? == json!([]));
    drop(up.stop()?);
    Ok(())
}

/// How a job for destination `cdn` ends.
async fn ends(api: &Api, file: &str) -> Result<Value> {
    let id = text(&api.post(JOBS, &bound_for("cdn", file)).await?, "id")?;
    api.ended(&id, PATIENCE).await
}

/// IAM-09, API-08: a bucket's key is changed while it is in use, and a bucket that refuses costs one
/// encode and not three.
#[tokio::test(flavor = "multi_thread")]
async fn iam_09_a_key_is_changed_in_place_and_a_bucket_that_refuses_ends_its_job() -> Result<()> {
    let up = Up::start(&["--encoders", "1", "--cell", "noop"])?;
    let mut customer = Customer::start().await?;
    let admin = Api::new(up.env("HOTCELL_API"), up.env("HOTCELL_KEY"));
    let at = (customer.endpoint.as_str(), BUCKET, KEY_ID);
    let said = add(&up, "cdn", "demo", at, &customer.secret())?;
    ensure!(said.starts_with("Some(0)"), "{said}");
    let show = ["destination", "show", "cdn", "--tenant", "demo"];
    let before = up.json(&show)?;

    // The owner makes a second key. One that does not open the bucket takes nobody's place.
    customer.knows(&[(KEY_ID, SECRET), SECOND])?;
    let said = rekey(&up, "cdn", SECOND.0, &customer.secret())?;
    ensure!(!said.starts_with("Some(0)") && said.contains("refuses the key"), "{said}");
    let said = rekey(&up, "other", SECOND.0, &customer.secret_of(SECOND.0))?;
    ensure!(said.contains("has no destination other"), "{said}");
    ensure!(up.json(&show)? == before, "something was stored");
    let said = rekey(&up, "cdn", SECOND.0, &customer.secret_of(SECOND.0))?;
    ensure!(said.starts_with("Some(0)"), "{said}");
    let mut expected = before;
    expected["access_key_id"] = json!(SECOND.0);
    ensure!(up.json(&show)? == expected, "more than the key was changed");

    // The first opens nothing any more, and nothing needs it.
    customer.knows(&[SECOND])?;
    let file = upload(&admin).await?;
    let stepped = admin.stepped_up(&up.totp()?).await?;
    let job = ends(&stepped, &file).await?;
    ensure!(job["state"] == "completed", "{job}");
    // Nor does the second, and nobody has told hotcell.
    customer.knows(&[THIRD])?;
    let job = ends(&stepped, &file).await?;
    let failure = &job["failure"];
    ensure!(job["state"] == "failed" && failure["code"] == "destination_refused", "{job}");
    ensure!(failure.to_string().contains("403") && !job.to_string().contains("http"), "{job}");
    ensure!(job["attempts"] == 1, "{job}");
    let said = rekey(&up, "cdn", THIRD.0, &customer.secret_of(THIRD.0))?;
    ensure!(said.starts_with("Some(0)"), "{said}");
    let job = ends(&stepped, &file).await?;
    ensure!(job["state"] == "completed", "{job}");

    let place = customer.endpoint.trim_start_matches("http://");
    let rekeyed =
        format!("\"target\":\"cdn {place}/{BUCKET}/{PREFIX}\",\"note\":\"destination_rekeyed\"");
    // The log has an event some moments after it happened.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let lines = up.cli(&["audit", "export", "--tenant", "demo"])?;
        let lines = String::from_utf8_lossy(&lines.stdout).into_owned();
        let found = lines.matches(&rekeyed).count();
        if found == 2 {
            break;
        }
        ensure!(found < 2 && Instant::now() < deadline, "{lines}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let dir = up.stop()?;
    let found = holding(dir.path(), b"CANARY")?;
    ensure!(found.is_empty(), "a secret is in {found:?}");
    ensure!(holding(customer.dir.path(), b"CANARY")?.len() == 3, "the search finds what is there");
    Ok(())
}
