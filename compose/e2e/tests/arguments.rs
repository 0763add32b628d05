//! FFmpeg's own arguments from the tenant's request to the file that comes back, through every
//! service; and what a tenant without the right, or with a wrong argument, is told. On the same
//! installation, a job by a preset's name.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context as _, Result, ensure};
use hotcell_e2e::{
    api::{Api, text},
    media,
    up::Up,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::{fs, path::Path, time::Duration};

const PATIENCE: Duration = Duration::from_secs(120);

fn body(name: &str, arguments: &str) -> Value {
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    json!({"inputs": [{"url": format!("upload:{name}")}],
        "outputs": [{"format": "mp4", "ffmpegArgs": arguments}]})
}

const GOOD: &str = "-ss 0.5 -i {in0} -c:v libx264 -preset veryfast -crf 30 \
    -vf crop=200:200,scale=100:-2,transpose=clock,fps=10 -c:a aac -ac 1 \
    -metadata title=Fenster -movflags +faststart {out0}";

/// NEW-07, IAM-11, STEP-05: they ask for a second factor; argv and filters are in the record, and the output is what was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn new_07_own_arguments_from_the_request_to_the_file() -> Result<()> {
    let up = Up::start(&["--encoders", "1"])?;
    let base = up.env("HOTCELL_API").to_owned();
    let added = up.json(&["tenant", "add", "with", "--raw-arguments"])?;
    let without = up.json(&["tenant", "add", "without"])?;
    let api = |added: &Value| Api::new(&base, added["key"].as_str().unwrap());
    let (with, without) = (api(&added), api(&without));
    let path = "/v1/transcodes";

    let name = without.upload("a.mp4", "video/mp4", media::clip(2, 320, 240)?).await?;
    let (status, problem) = without.call(Method::POST, path, Some(&body(&name, GOOD))).await?;
    ensure!(status == 403 && problem["code"] == "request_forbidden", "{status} {problem}");

    let name = with.upload("a.mp4", "video/mp4", media::clip(2, 320, 240)?).await?;
    let bad = GOOD.replace("fps=10", "movie=/etc/passwd");
    let (status, problem) = with.call(Method::POST, path, Some(&body(&name, &bad))).await?;
    ensure!(status == 422, "{status} {problem}");
    ensure!(problem["errors"][0]["field"] == "outputs[0].ffmpegArgs[11]", "{problem}");

    let (status, problem) = with.call(Method::POST, path, Some(&body(&name, GOOD))).await?;
    ensure!(status == 401, "{status} {problem}");
    ensure!(problem["policy"] == json!(["step-up-raw-arguments"]), "{problem}");
    let with = with.stepped_up(&text(&added, "totp")?).await?;
    let answer = with.post(path, &body(&name, GOOD)).await?;
    let id = text(answer.get("result").unwrap_or(&answer), "id")?;
    let job = with.ended(&id, PATIENCE).await?;
    ensure!(job["state"] == "completed", "{job}");
    let record = with.get(&format!("{path}/{id}/audit")).await?;
    let command = record["command"].as_array().context("the record has the command")?;
    for token in ["{in0}", "{out0}", "title=Fenster", "-crf", "30", "-max_alloc"] {
        ensure!(command.contains(&json!(token)), "{token}: {command:?}");
    }
    ensure!(record["filters"] == json!(["crop", "scale", "transpose", "fps"]), "{record}");

    let link = with.get(&format!("{path}/{id}/download?output=out0.mp4")).await?;
    let link = text(link.get("result").unwrap_or(&link), "url")?;
    let bytes = with.http.get(link).send().await?.error_for_status()?.bytes().await?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("out0.mp4");
    fs::write(&file, &bytes)?;
    let seen = media::probe(&file)?;
    let streams = seen["streams"].as_array().context("it has streams")?;
    ensure!(streams.len() == 2 && streams[0]["codec_name"] == "h264", "{seen}");
    ensure!(streams[0]["width"] == 100 && streams[0]["height"] == 100, "{seen}");
    let film = bytes.windows(7).any(|part| part == b"Fenster");
    ensure!(film, "the title is not in the file");
    a_job_by_preset(&up).await
}

/// STEP-04: a preset by the command line, and a job by its name: made as the preset says, and
/// recorded with its version and settings by every node.
async fn a_job_by_preset(up: &Up) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let place = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (settings, clip) = (place("web.json"), place("clip.mp4"));
    fs::write(&clip, media::clip(1, 320, 240)?)?;
    let output = json!({"format": "webm", "video": {"codec": "vp9", "height": 120}});
    for height in [240, 120] {
        let mut body = json!({ "outputs": [output] });
        body["outputs"][0]["video"]["height"] = json!(height);
        fs::write(&settings, body.to_string())?;
        up.json(&["preset", "put", "web-120p", &settings])?;
    }
    let listed = up.json(&["preset", "list"])?;
    ensure!(listed[0]["name"] == "web-120p" && listed[0]["version"] == 2, "{listed}");
    let made = up.json(&["transcode", &clip, "--preset-name", "web-120p"])?;
    let file = made["file"].as_str().context("it names its file")?;
    ensure!(file == place("clip.webm"), "{made}");
    let seen = media::probe(Path::new(file))?;
    ensure!(seen["streams"][0]["codec_name"] == "vp9", "{seen}");
    ensure!(seen["streams"][0]["height"] == 120, "{seen}");
    let record = up.json(&["job", "show", &text(&made, "job")?])?;
    let request = &record["request"];
    ensure!(request["presetName"] == "web-120p" && request["presetVersion"] == 2, "{request}");
    ensure!(request["outputs"] == json!([output]), "{request}");
    up.json(&["preset", "remove", "web-120p"])?;
    let gone = up.cli(&["transcode", &clip, "--preset-name", "web-120p"])?;
    let said = String::from_utf8_lossy(&gone.stderr);
    ensure!(gone.status.code() == Some(1) && said.contains("presetName: must be"), "{said}");
    Ok(())
}
