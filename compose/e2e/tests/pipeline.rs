//! One real clip through all seven services, from upload to webhook, and what is left behind.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Result, ensure};
use hotcell_e2e::{
    api::{Api, request, text},
    hook::Receiver,
    media,
    up::{Up, processes_of},
};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(120);

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Files below `dir` that hold `needle`.
fn files_with(dir: &Path, needle: &str) -> Vec<String> {
    let output = Command::new("grep").args(["-rlaF", needle]).arg(dir).output().unwrap();
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// API-07, API-11 to API-14, API-18, API-22, API-27 to API-30, BRK-22, BRK-42 to BRK-48, BRK-55 to
/// BRK-60, IAM-11, NEW-15, ZT-05, ZT-07, ZT-08, ZT-21.
#[tokio::test(flavor = "multi_thread")]
async fn a_clip_goes_through_all_services() -> Result<()> {
    let up = Up::start(&["--encoders", "1", "--webhook-retry", "1,1,1"])?;
    let added = up.json(&["tenant", "add", "acme"])?;
    let api = Api::new(up.env("HOTCELL_API"), added["key"].as_str().unwrap());
    let hook = Receiver::start().await?;
    let events = json!({ "url": hook.url, "events": [] });
    let admin = api.stepped_up(added["totp"].as_str().unwrap()).await?;
    let created = admin.post("/v1/webhooks", &events).await?;
    let secret = text(&created, "secret")?;
    ensure!(secret.starts_with("whsec_"), "{secret}");

    let clip = media::clip(2, 1280, 720)?;
    let source = sha256(&clip);
    let name = api.upload("my clip.mp4", "video/mp4", clip).await?;
    ensure!(name.ends_with("-my-clip.mp4"), "{name}");
    let id = api.submit(&name).await?;
    let job = api.ended(&id, PATIENCE).await?;
    ensure!(job["state"] == "completed", "{job}");

    // The webhook: signed, with the job as of the event.
    let received = hook.until(PATIENCE, |all| !all.is_empty()).await?;
    let first = &received[0];
    signature_holds(&secret, first)?;
    ensure!(first.header("x-hotcell-event") == "job.completed");
    ensure!(first.json()["type"] == "job.completed" && first.job() == id, "{:?}", first.json());

    // The download is what the record says; the URL lives exactly 600 s and is fresh each time.
    let path = format!("/v1/transcodes/{id}/download?output=out0.mp4");
    let url = text(&api.get(&path).await?, "url")?;
    ensure!(url.contains("X-Amz-Expires=600"), "API-27");
    ensure!(text(&api.get(&path).await?, "url")? != url, "API-29");
    let bytes = api.http.get(&url).send().await?.bytes().await?;
    ensure!(job["outputs"][0]["sha256"] == sha256(&bytes), "BRK-60");
    let (before, signature) = url.split_once("X-Amz-Signature=").unwrap();
    let digit = if signature.starts_with('0') { '1' } else { '0' };
    let rest: String = signature.chars().skip(1).collect();
    let flipped = format!("{before}X-Amz-Signature={digit}{rest}");
    ensure!(api.http.get(&flipped).send().await?.status() == 403, "API-30");
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("out.mp4");
    std::fs::write(&file, &bytes)?;
    let probe = media::probe(&file)?;
    ensure!(probe["streams"][0]["height"] == 480 && probe["streams"][0]["codec_name"] == "h264");
    ensure!(probe["streams"][1]["codec_name"] == "aac");

    record_is_complete(&api, &id, &source).await?;
    log_proves(&up, &id)?;
    let secrets = [added["key"].as_str().unwrap(), "X-Amz-Signature=", secret.as_str()];
    for needle in secrets {
        let found = files_with(up.dir(), needle);
        ensure!(found.is_empty(), "API-07, API-11: {needle} is in {found:?}");
    }
    let dir = up.stop()?;
    ensure!(processes_of(dir.path()).is_empty(), "a process outlives it");
    Ok(())
}

fn signature_holds(secret: &str, first: &hotcell_e2e::hook::Received) -> Result<()> {
    let webhook = standardwebhooks::Webhook::new(secret)?;
    let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
    let mut headers = http_headers(first, &names);
    webhook.verify(&first.body, &headers)?;
    let mut changed = first.body.to_vec();
    changed[0] ^= 1;
    ensure!(webhook.verify(&changed, &headers).is_err(), "BRK-47");
    let later: u64 = first.header("webhook-timestamp").parse::<u64>()? + 1;
    headers.insert("webhook-timestamp", later.to_string().parse()?);
    ensure!(webhook.verify(&first.body, &headers).is_err(), "BRK-45");
    let own = first.header("x-hotcell-signature");
    ensure!(own.starts_with("hmac=") && own.len() == 5 + 64, "BRK-44: {own}");
    ensure!(first.header("x-hotcell-timestamp") == first.header("webhook-timestamp"), "BRK-44");
    Ok(())
}

fn http_headers(first: &hotcell_e2e::hook::Received, names: &[&str]) -> axum::http::HeaderMap {
    let mut headers = axum::http::HeaderMap::new();
    for name in names {
        let name = axum::http::HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.insert(name.clone(), first.headers[&name].clone());
    }
    headers
}

/// BRK-55 to BRK-60, IAM-11.
async fn record_is_complete(api: &Api, id: &str, source: &str) -> Result<()> {
    let record = api.get(&format!("/v1/transcodes/{id}/audit")).await?;
    ensure!(record["jobId"] == id && record["orgId"] == "acme", "{record}");
    ensure!(record["actor"]["kind"] == "apiKey", "IAM-01");
    ensure!(record["inputs"][0]["sha256"] == source, "BRK-59");
    let attempt = &record["attempts"][0];
    ensure!(attempt["workerId"] == "worker-1" && attempt["assignedAt"].is_string(), "BRK-56");
    let argv = attempt["command"].as_array().unwrap();
    ensure!(argv.iter().any(|token| token == "{in0}"), "BRK-57");
    ensure!(!record["filters"].as_array().unwrap().is_empty(), "IAM-11");
    let report = &attempt["report"];
    ensure!(report["ffmpeg"].as_str().unwrap().starts_with("ffmpeg version"), "BRK-58");
    for digest in ["configurationDigest", "imageDigest", "rootDigest", "profileDigest"] {
        ensure!(report[digest].as_str().unwrap().len() == 64, "BRK-58 {digest}");
    }
    ensure!(report["inputProbe"].is_object() && report["outputProbe"].is_object(), "IAM-11");
    ensure!(attempt["reportSignature"]["sig"].is_string());
    ensure!(record["outputs"][0]["sha256"].as_str().unwrap().len() == 64, "BRK-60");
    Ok(())
}

/// NEW-02 in first form: the log verifies offline and proves each event of the job.
fn log_proves(up: &Up, id: &str) -> Result<()> {
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let output = up.cli(&["audit", "verify", "--job", id, "--json"])?;
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let proven = report["proofs"].as_array().map_or(0, Vec::len);
        if report["sound"] == true && proven == 5 {
            return Ok(());
        }
        // The auditor signs its next checkpoint within a second.
        ensure!(std::time::Instant::now() < until, "{report}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The folder of the first worker, by its command line.
fn worker_home(up: &Up) -> Result<PathBuf> {
    let pid = up.pid("worker-1").unwrap();
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
    let config = line.split('\0').nth(1).unwrap().to_owned();
    Ok(Path::new(&config).parent().unwrap().to_owned())
}

/// A SIGKILL of `up` leaves processes behind; the next start ends them, and goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_start_cleans_up_after_a_kill() -> Result<()> {
    let up = Up::start(&["--encoders", "1", "--cell", "noop"])?;
    let (base, key) = (up.env("HOTCELL_API").to_owned(), up.env("HOTCELL_KEY").to_owned());
    let api = Api::new(&base, &key);
    let name = api.upload("a.mp4", "video/mp4", media::clip(1, 320, 240)?).await?;
    let id = api.submit(&name).await?;
    api.ended(&id, PATIENCE).await?;
    let before = up.survivors().len();
    ensure!(before >= 8, "{before} processes");
    let home = worker_home(&up)?;
    let dir = up.kill()?;
    // An earlier version may have run the worker as another user.
    let chown = Command::new("chown").args(["-R", "64999:64999"]).arg(&home).status()?;
    ensure!(chown.success(), "these tests run as root");
    let up = Up::start_in(dir, &["--encoders", "1", "--cell", "noop"])?;
    ensure!(up.log("up").contains("that an earlier run left behind"), "{}", up.log("up"));
    let api = Api::new(up.env("HOTCELL_API"), up.env("HOTCELL_KEY"));
    let job = api.get(&format!("/v1/transcodes/{id}")).await?;
    ensure!(job["state"] == "completed", "{job}");
    let again = api.post("/v1/transcodes", &request(&name)).await?;
    let job = api.ended(&text(&again, "id")?, PATIENCE).await?;
    ensure!(job["state"] == "completed", "{job}");
    up.stop()?;
    Ok(())
}
