//! SIGKILL of validator, signer, encoder, hasher and the broker at random moments during 50 jobs:
//! every job ends, no job completes twice, every webhook id arrives, the audit log verifies.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Result, ensure};
use hotcell_e2e::{
    api::{Api, request, text},
    hook::Receiver,
    media,
    up::Up,
};
use reqwest::Method;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

const JOBS: usize = 50;
const PATIENCE: Duration = Duration::from_secs(240);
const VICTIMS: [&str; 5] = ["validator", "signer", "worker-1", "hasher", "nats-server"];

/// A small deterministic generator (xorshift64*), so that a failing run can be repeated by seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % bound
    }
}

/// Submits until it is accepted: a restarting broker answers 503, and nothing is stored then. The
/// idempotency key makes the repeat harmless.
async fn submit(api: &Api, filename: &str, number: usize) -> Result<String> {
    let until = Instant::now() + PATIENCE;
    loop {
        let sent = api
            .http
            .request(Method::POST, format!("{}/v1/transcodes", api.base))
            .bearer_auth(&api.key)
            .header("idempotency-key", format!("kill-{number}"))
            .json(&request(filename))
            .send()
            .await?;
        let status = sent.status().as_u16();
        let answer: serde_json::Value = sent.json().await?;
        if (200..300).contains(&status) {
            return text(&answer["result"], "id");
        }
        ensure!(status >= 500, "{status} {answer}");
        ensure!(Instant::now() < until, "not accepted: {answer}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// BRK-04, ZT-07, BRK-49 and "nothing lost".
#[tokio::test(flavor = "multi_thread")]
async fn every_job_ends_once_whatever_is_killed() -> Result<()> {
    let seed = std::env::var("HOTCELL_TEST_SEED").ok().and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from_le_bytes(hotcell_stage::clock::random::<8>()) | 1);
    println!("HOTCELL_TEST_SEED={seed}");
    let mut random = Random(seed);
    let up = Up::start(&["--encoders", "2", "--cell", "fixed:50", "--webhook-retry", "1,1,1"])?;
    let api = Api::new(up.env("HOTCELL_API"), up.env("HOTCELL_KEY"));
    let hook = Receiver::start().await?;
    let admin = api.stepped_up(&up.totp()?).await?;
    admin.post("/v1/webhooks", &json!({ "url": hook.url, "events": [] })).await?;
    let name = api.upload("a.mp4", "video/mp4", media::clip(1, 320, 240)?).await?;

    let mut jobs = Vec::new();
    let mut killed = BTreeMap::<&str, u32>::new();
    for number in 0..JOBS {
        jobs.push(submit(&api, &name, number).await?);
        if number % 5 == 2 {
            // Each victim dies twice, in an order and at moments that the seed gives.
            let victim = VICTIMS[number / 5 % VICTIMS.len()];
            tokio::time::sleep(Duration::from_millis(random.below(300))).await;
            if let Some(pid) = up.pid(victim) {
                *killed.entry(victim).or_default() += u32::from(Up::signal(pid, "KILL")?);
            }
        }
    }
    ensure!(killed.len() == VICTIMS.len(), "killed {killed:?}");
    for id in &jobs {
        let job = api.ended(id, PATIENCE).await?;
        ensure!(job["state"] == "completed", "{job}");
    }
    let all: BTreeSet<String> = jobs.iter().cloned().collect();
    ensure!(all.len() == JOBS, "an idempotency key made two jobs");
    let received = hook
        .until(PATIENCE, |got| got.iter().map(|r| r.job()).collect::<BTreeSet<_>>() == all)
        .await?;
    // At least once, and every repeat of a job's delivery has the same webhook-id.
    let mut ids = BTreeMap::<String, BTreeSet<String>>::new();
    for one in &received {
        ids.entry(one.job()).or_default().insert(one.header("webhook-id").to_owned());
    }
    ensure!(ids.values().all(|ids| ids.len() == 1), "{ids:?}");
    log_is_sound(&up, &jobs)?;
    up.stop()?;
    Ok(())
}

/// The log verifies, and holds exactly one `completed` for each job.
fn log_is_sound(up: &Up, jobs: &[String]) -> Result<()> {
    for id in jobs {
        let until = Instant::now() + PATIENCE;
        loop {
            let output = up.cli(&["audit", "verify", "--job", id, "--json"])?;
            let report: serde_json::Value =
                serde_json::from_slice(&output.stdout).unwrap_or_default();
            let empty = Vec::new();
            let proofs = report["proofs"].as_array().unwrap_or(&empty);
            let completed = proofs.iter().filter(|proof| proof["type"] == "completed").count();
            ensure!(completed <= 1, "{id} completed {completed} times");
            if completed == 1 && report["sound"] == true {
                break;
            }
            ensure!(Instant::now() < until, "{id}: {report}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(())
}
