//! Hostile inputs through the whole pipeline: each ends in a clear state and reason within 30 s,
//! and the next job runs.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Result, ensure};
use hotcell_e2e::{
    api::{Api, text},
    media,
    up::Up,
};
use reqwest::Method;
use serde_json::json;
use std::time::{Duration, Instant};

/// The promise.
const LIMIT: Duration = Duration::from_secs(30);

/// Name, declared type, bytes; where it must be refused, and by one of which codes.
type Case = (&'static str, &'static str, Vec<u8>, &'static str, &'static [&'static str]);

/// Where an input was refused, and by which code.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    place: &'static str,
    code: String,
}

/// Takes bytes as far as they go: upload, confirm, job.
async fn take(api: &Api, name: &str, kind: &str, bytes: Vec<u8>) -> Result<Verdict> {
    let size = bytes.len();
    let slot = json!({ "filename": name, "contentType": kind, "fileSize": size });
    let (status, answer) = api.call(Method::POST, "/v1/upload/presigned-url", Some(&slot)).await?;
    if status >= 400 {
        let rule = answer["errors"][0]["field"].as_str().unwrap_or_default().to_owned();
        return Ok(Verdict { place: "presign", code: rule });
    }
    let slot = answer["result"].clone();
    ensure!(api.put_to(&slot, bytes).await? == 200);
    let filename = text(&slot, "filename")?;
    let confirm = json!({ "filename": filename, "fileSize": size });
    let (status, answer) = api.call(Method::POST, "/v1/upload/confirm", Some(&confirm)).await?;
    if status >= 400 {
        let code = answer["code"].as_str().unwrap_or_default().to_owned();
        ensure!(status == 422 && !code.is_empty(), "{status} {answer}");
        // API-24: a job that names it is refused, too.
        let job = hotcell_e2e::api::request(&filename);
        let (status, answer) = api.call(Method::POST, "/v1/transcodes", Some(&job)).await?;
        ensure!(status == 422, "API-24: {status} {answer}");
        return Ok(Verdict { place: "confirm", code });
    }
    let id = api.submit(&filename).await?;
    let job = api.ended(&id, LIMIT).await?;
    ensure!(job["state"] != "completed", "{name} was transcoded: {job}");
    Ok(Verdict { place: "job", code: text(&job["failure"], "code")? })
}

/// BRK-01, BRK-06, ZT-08, ZT-11 (playlists), API-24.
#[tokio::test(flavor = "multi_thread")]
async fn each_hostile_file_is_refused_and_the_next_job_runs() -> Result<()> {
    let up = Up::start(&["--encoders", "1"])?;
    let clip = media::clip(1, 640, 360)?;
    // Another tenant's film on this host, and a list that names it. Plain FFmpeg follows the list
    // and opens the film: the attack is real.
    let target = up.dir().join("victim.mp4").display().to_string();
    std::fs::write(&target, &clip)?;
    let list = up.dir().join("list.mp4");
    std::fs::write(&list, media::playlist(&target))?;
    ensure!(media::probe(&list)?["streams"][0]["codec_name"] == "h264", "the attack is none");

    let added = up.json(&["tenant", "add", "mallory"])?;
    let api = Api::new(up.env("HOTCELL_API"), added["key"].as_str().unwrap());
    let good = api.upload("good.mp4", "video/mp4", clip.clone()).await?;
    let mut truncated = clip.clone();
    truncated.truncate(clip.len() / 2);
    // A sound container whose frames are garbage: the sniffer cannot see it, the cell must.
    let mut garbage = clip.clone();
    let frames = garbage.windows(4).position(|w| w == b"mdat").unwrap() + 8;
    let end = garbage.windows(4).position(|w| w == b"moov").filter(|at| *at > frames);
    for byte in &mut garbage[frames..end.unwrap_or(clip.len()) - 8] {
        *byte = 0xff;
    }
    let cases: [Case; 6] = [
        ("list.mp4", "video/mp4", media::playlist(&target), "confirm", &["input_playlist"]),
        (
            "text.mp4",
            "video/mp4",
            b"hello, this is no film\n".repeat(9),
            "confirm",
            &["input_not_media"],
        ),
        ("empty.mp4", "video/mp4", Vec::new(), "presign", &["fileSize"]),
        ("cut.mp4", "video/mp4", truncated, "confirm", &["input_malformed"]),
        ("huge.gif", "image/gif", media::huge_gif(), "confirm", &["input_too_complex"]),
        (
            "noise.mp4",
            "video/mp4",
            garbage,
            "job",
            &["encode_failed", "probe_failed", "output_missing"],
        ),
    ];
    for (name, kind, bytes, place, codes) in cases {
        let began = Instant::now();
        let verdict = take(&api, name, kind, bytes).await?;
        ensure!(began.elapsed() < LIMIT, "{name} took {:?}", began.elapsed());
        ensure!(
            verdict.place == place && codes.contains(&verdict.code.as_str()),
            "{name}: {verdict:?}"
        );
        let id = api.submit(&good).await?;
        let job = api.ended(&id, LIMIT).await?;
        ensure!(job["state"] == "completed", "after {name}: {job}");
    }
    up.stop()?;
    Ok(())
}
