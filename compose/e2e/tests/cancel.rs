//! A cancelled job ends in every place: what runs is killed, what waits never runs, and the worker
//! goes on with the next.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Result, ensure};
use hotcell_e2e::{
    api::{Api, request, text},
    media,
    up::Up,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);

async fn reaches(api: &Api, id: &str, state: &str) -> Result<Value> {
    let until = Instant::now() + PATIENCE;
    loop {
        let job = api.get(&format!("/v1/transcodes/{id}")).await?;
        if job["state"] == state {
            return Ok(job);
        }
        ensure!(Instant::now() < until, "job {id} is {} and not {state}", job["state"]);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// API-26: the only slot is taken by an encode of minutes; without the cancellation the next job
/// would wait for all of it.
#[tokio::test(flavor = "multi_thread")]
async fn api_26_a_running_cell_dies_and_a_waiting_job_never_runs() -> Result<()> {
    let up = Up::start(&["--encoders", "1"])?;
    let api = Api::new(up.env("HOTCELL_API"), up.env("HOTCELL_KEY"));
    let name = api.upload("a.mp4", "video/mp4", media::clip(20, 1280, 720)?).await?;
    let small = api.upload("b.mp4", "video/mp4", media::clip(1, 320, 240)?).await?;
    let mut long = request(&name);
    long["preset"] = json!({ "quality": "high", "resolution": "2160p" });
    let long = text(&api.post("/v1/transcodes", &long).await?, "id")?;
    reaches(&api, &long, "assigned").await?;
    let (waiting, next) = (api.submit(&small).await?, api.submit(&small).await?);
    reaches(&api, &next, "validated").await?;

    let cancel =
        async |id: &str| api.call(Method::DELETE, &format!("/v1/transcodes/{id}"), None).await;
    for id in [&waiting, &long] {
        let (status, body) = cancel(id).await?;
        ensure!(status == 200 && body["result"]["state"] == "cancelled", "{status} {body}");
    }
    // The worker hears it with its next beat, 4 s later at most; its slot is free when the cell is
    // dead.
    let done = api.ended(&next, PATIENCE).await?;
    ensure!(done["state"] == "completed", "{done}");
    for (id, attempts) in [(&waiting, 0), (&long, 1)] {
        let job = api.get(&format!("/v1/transcodes/{id}")).await?;
        ensure!(job["state"] == "cancelled" && job["attempts"] == attempts, "{job}");
        ensure!(job["outputs"] == json!([]), "{job}");
        let (status, body) = cancel(id).await?;
        ensure!(status == 200, "twice is once: {status} {body}");
    }
    let (status, body) = cancel(&next).await?;
    ensure!(status == 409 && body["state"] == "completed", "{status} {body}");
    let listed = api.get("/v1/transcodes?state=cancelled").await?;
    ensure!(listed["jobs"].as_array().is_some_and(|jobs| jobs.len() == 2), "{listed}");
    up.stop()?;
    Ok(())
}
