//! The example producers, each run as it stands against a real installation, also while the broker
//! is killed under it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context as _, Result, ensure};
use hotcell_e2e::{
    api::Api,
    media,
    up::{Up, workspace},
};
use hotcell_stage::clock;
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

/// A program in the cell that works for as long as the slowest of them needs to start.
const CELL: &str = "fixed:20000";

const PATIENCE: Duration = Duration::from_secs(120);

/// How each is started; the arguments are the same.
fn producers() -> [(&'static str, PathBuf, Option<&'static str>); 3] {
    let root = workspace();
    [
        ("rust", PathBuf::from(env!("CARGO_BIN_EXE_example-producer")), None),
        (
            "python",
            root.join(".tools/venv/bin/python"),
            Some("compose/examples/python/producer.py"),
        ),
        ("node", PathBuf::from("node"), Some("compose/examples/node/producer.mjs")),
    ]
}

/// Runs one producer to its end, with `first` done at its first step; the steps that it says.
fn run(
    up: &Up,
    index: usize,
    of: (&str, &str),
    first: impl FnOnce() -> Result<()>,
) -> Result<Vec<Value>> {
    let (ended, steps) = ended(up, index, of, first)?;
    ensure!(ended.success(), "{} ended with {ended}: {steps:?}", producers()[index].0);
    Ok(steps)
}

/// The same, however it ends.
fn ended(
    up: &Up,
    index: usize,
    (creds, filename): (&str, &str),
    first: impl FnOnce() -> Result<()>,
) -> Result<(ExitStatus, Vec<Value>)> {
    let (name, program, script) = &producers()[index];
    let mut command = Command::new(program);
    // As README.md says; without TLS they look at none of these.
    let tls = up.dir().join("nats/tls");
    let child = command
        .env("HOTCELL_CA", tls.join("ca.pem"))
        .env("HOTCELL_CERT", tls.join("tenant.pem"))
        .env("HOTCELL_CERT_KEY", tls.join("tenant.key"))
        .args(script)
        .args([up.env("HOTCELL_NATS"), creds, filename])
        .current_dir(workspace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let child = child.with_context(|| format!("{name} cannot be started: run tools/setup"))?;
    let mut child = Ends(child);
    let said = child.0.stdout.take().context("it has an output")?;
    let (mut first, mut steps) = (Some(first), Vec::new());
    for line in BufReader::new(said).lines() {
        steps.push(serde_json::from_str(&line?)?);
        if let Some(first) = first.take() {
            first()?;
        }
    }
    Ok((child.0.wait()?, steps))
}

/// A child that does not outlive its test. Nextest ends a test that hangs.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn check(name: &str, steps: &[Value]) -> Result<()> {
    let of = |step: &str| steps.iter().find(|said| said["step"] == step);
    let submit = of("submit").with_context(|| format!("{name}: {steps:?}"))?;
    ensure!(submit["status"] == 202, "{name}: {submit}");
    let id = &submit["said"]["id"];
    let repeat = of("repeat").context("repeat")?;
    ensure!(repeat["status"] == 200 && repeat["said"]["id"] == *id, "{name}: {repeat}");
    let list = of("list").context("list")?;
    ensure!(list["said"]["jobs"][0]["id"] == *id, "{name}: {list}");
    // By event or, where that was missed, by asking: in both ways it is the job's end.
    let end = of("event").or(of("get")).context("an end")?;
    ensure!(end["said"]["state"] == "completed" && end["said"]["id"] == *id, "{name}: {end}");
    let get = steps.iter().rfind(|said| said["step"] == "get").context("get")?;
    ensure!(get["said"]["outputs"][0]["name"] == "out0.mp4", "{name}: {get}");
    let cancel = of("cancel").context("cancel")?;
    let ended = cancel["status"] == 409 && cancel["said"]["state"] == "completed";
    let cancelled = cancel["said"]["result"]["state"] == "cancelled";
    ensure!(ended || cancelled, "{name}: {cancel}");
    let problem = of("problem").context("problem")?;
    let field = &problem["said"]["errors"][0]["field"];
    ensure!(problem["status"] == 422 && *field == json!("inputs[0].url"), "{name}: {problem}");
    Ok(())
}

/// BRK-83: a tenant's own program needs its credential file and a client of the broker, in any
/// language.
#[tokio::test(flavor = "multi_thread")]
async fn brk_83_producers_in_three_languages_submit_list_cancel_and_hear() -> Result<()> {
    let up = Up::start(&["--encoders", "1", "--cell", "noop"])?;
    let added = up.json(&["tenant", "add", "alpha"])?;
    let api = Api::new(up.env("HOTCELL_API"), added["key"].as_str().unwrap());
    let creds = added["creds"].as_str().unwrap().to_owned();
    for (index, (name, ..)) in producers().iter().enumerate() {
        let filename = api.upload("a.mp4", "video/mp4", media::clip(1, 320, 240)?).await?;
        let steps = run(&up, index, (&creds, &filename), || Ok(()))?;
        check(name, &steps)?;
        ensure!(steps.iter().any(|said| said["step"] == "event"), "{name} heard no event");
        let states = steps.iter().filter(|said| said["step"] == "state");
        let first = states.min_by_key(|said| said["said"]["seq"].as_u64());
        let first = first.with_context(|| format!("{name} heard no state: {steps:?}"))?;
        ensure!(first["said"]["state"] == "submitted", "{name}: {first}");
        ensure!(first["said"]["id"] == steps[0]["said"]["id"], "{name}: {first}");
    }
    // A program that is refused says why.
    for (index, (name, ..)) in producers().iter().enumerate() {
        let (status, steps) = ended(&up, index, (&creds, "none.mp4"), || Ok(()))?;
        ensure!(status.code() == Some(1), "{name} ended with {status}: {steps:?}");
        let said = steps.last().with_context(|| format!("{name} said nothing"))?;
        ensure!(said["step"] == "submit" && said["status"] == 422, "{name}: {said}");
        let field = &said["said"]["errors"][0]["field"];
        ensure!(*field == json!("inputs[0].url"), "{name}: {said}");
    }
    up.stop()?;
    Ok(())
}

/// A client of HTTP that trusts the installation's own authority.
fn trusting(up: &Up) -> Result<reqwest::Client> {
    hotcell_stage::blob::install_tls();
    let own = std::fs::read(up.dir().join("nats/tls/ca.pem"))?;
    let own = reqwest::Certificate::from_pem(&own)?;
    Ok(reqwest::Client::builder().no_proxy().tls_certs_merge([own]).timeout(PATIENCE).build()?)
}

/// ZT-01, BRK-84: the broker of `up --tls` takes them by their certificate, and each outlives refusals of
/// its login, which is renewed late.
#[tokio::test(flavor = "multi_thread")]
async fn brk_83_producers_speak_tls_and_outlive_a_login_that_is_renewed_late() -> Result<()> {
    /// Refusals before the login is renewed: a program that gave up at its second has done so.
    const REFUSALS: usize = 12;
    let up = Arc::new(Up::start(&["--encoders", "3", "--tls", "--cell", CELL])?);
    let (http, mut logins) = (trusting(&up)?, Vec::new());
    let (submits, mut submitted) = mpsc::channel(producers().len());
    let mut all = JoinSet::new();
    // Each of a tenant of its own: the newest job of a list is its own.
    for (index, (name, ..)) in producers().into_iter().enumerate() {
        let added = up.json(&["tenant", "add", name])?;
        let (base, key) = (up.env("HOTCELL_API").to_owned(), added["key"].as_str().unwrap().into());
        let api = Api { http: http.clone(), base, key };
        let upload = api.upload("a.mp4", "video/mp4", media::clip(1, 320, 240)?).await?;
        let given = PathBuf::from(added["creds"].as_str().unwrap());
        let copy = up.dir().join(format!("{name}.creds"));
        std::fs::copy(&given, &copy)?;
        logins.push((name, given, copy.clone()));
        let (up, submits) = (Arc::clone(&up), submits.clone());
        all.spawn_blocking(move || {
            let first = || Ok(submits.blocking_send(())?);
            anyhow::Ok((index, run(&up, index, (copy.to_str().unwrap(), &upload), first)?))
        });
    }
    for _ in producers() {
        timeout(PATIENCE, submitted.recv()).await?.context("one of them ended")?;
    }
    for (name, ..) in &logins {
        up.json(&["tenant", "rekey", name])?;
    }
    let until = Instant::now() + PATIENCE;
    while up.log("nats-server").matches("authentication error").count() < REFUSALS {
        ensure!(Instant::now() < until, "no login is refused");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for (name, given, copy) in &logins {
        // Whole, as the agent writes it.
        let aside = up.dir().join(format!("{name}.creds.new"));
        std::fs::copy(given, &aside)?;
        std::fs::rename(&aside, copy)?;
    }
    while let Some(done) = all.join_next().await {
        let (index, steps) = done??;
        check(producers()[index].0, &steps)?;
    }
    Arc::into_inner(up).context("nobody else holds it")?.stop()?;
    Ok(())
}

/// The broker dies while each of them waits for its job; `up` starts it again, and one job comes of
/// it.
#[tokio::test(flavor = "multi_thread")]
async fn brk_83_producers_survive_the_death_of_the_broker() -> Result<()> {
    let up = Up::start(&["--encoders", "3", "--cell", CELL])?;
    let mut tenants = Vec::new();
    for (name, ..) in producers() {
        let added = up.json(&["tenant", "add", name])?;
        let api = Api::new(up.env("HOTCELL_API"), added["key"].as_str().unwrap());
        let upload = api.upload("a.mp4", "video/mp4", media::clip(1, 320, 240)?).await?;
        tenants.push((api, added["creds"].as_str().unwrap().to_owned(), upload));
    }
    let broker = up.pid("nats-server").context("a broker runs")?;
    let (submits, mut submitted) = mpsc::channel(tenants.len());
    let up = Arc::new(up);
    let mut all = JoinSet::new();
    for (index, (_, creds, upload)) in tenants.iter().cloned().enumerate() {
        let (up, submits) = (Arc::clone(&up), submits.clone());
        all.spawn_blocking(move || {
            let steps = run(&up, index, (&creds, &upload), || Ok(submits.blocking_send(())?))?;
            anyhow::Ok((index, steps))
        });
    }
    for _ in &tenants {
        timeout(PATIENCE, submitted.recv()).await?.context("one of them ended")?;
    }
    for (api, ..) in &tenants {
        until_assigned(api).await?;
    }
    ensure!(Up::signal(broker, "KILL")?, "the broker was not killed");
    let killed = clock::now();
    while let Some(ended) = all.join_next().await {
        let (index, steps) = ended??;
        let (name, api) = (producers()[index].0, &tenants[index].0);
        check(name, &steps)?;
        let id = steps[0]["said"]["id"].as_str().context("an id")?;
        let job = api.get(&format!("/v1/transcodes/{id}")).await?;
        let events = job["timeline"].as_array().context("a timeline")?;
        let end = events.last().and_then(|event| event["atMs"].as_u64()).context("an end")?;
        ensure!(end > killed.0, "{name}: its job had ended before: {job}");
    }
    ensure!(up.pid("nats-server") != Some(broker), "the same broker runs");
    Arc::into_inner(up).context("nobody else holds it")?.stop()?;
    Ok(())
}

/// Waits until a worker has the tenant's one job.
async fn until_assigned(api: &Api) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while api.get("/v1/transcodes?limit=1").await?["jobs"][0]["state"] != "assigned" {
        ensure!(Instant::now() < until, "no worker has the job");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
