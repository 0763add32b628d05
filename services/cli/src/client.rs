//! What a tenant does: transcode a file, look at a job.

use crate::{
    api::{Api, refusal},
    args::TranscodeArgs,
    fail::{Context as _, Fail},
    print, token,
};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use hotcell_schemas::{Digest, JobId, limits::UPLOAD_BYTES_MAX};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Method, header::CONTENT_LENGTH};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::ReaderStream;

/// Pause between two looks at a job, in milliseconds.
const POLL_MS: u64 = 100;

/// The problem of who may, once it shows more of itself (RFC 9470).
const STEP_UP: &str = "urn:hotcell:problem:step-up-required";

/// Pieces of an upload, in bytes.
const CHUNK_BYTES: usize = 256 << 10;

/// The MIME type of a file by its extension; the server checks it against the bytes.
pub(crate) fn content_type(file: &Path) -> Result<&'static str, Fail> {
    let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
    Ok(match extension.as_str() {
        "mp4" | "m4v" => "video/mp4",
        "mov" => "video/quicktime",
        "mkv" => "video/x-matroska",
        "webm" => "video/webm",
        "avi" => "video/x-msvideo",
        "ts" | "mts" => "video/mp2t",
        "flv" => "video/x-flv",
        "mp3" => "audio/mpeg",
        "m4a" => "audio/mp4",
        "aac" => "audio/aac",
        "wav" => "audio/wav",
        "flac" => "audio/flac",
        "ogg" | "oga" => "audio/ogg",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        _ => {
            return Err(Fail::usage(format!(
                "{}: cannot tell its type by its extension; rename it, for instance to .mp4",
                file.display()
            )));
        }
    })
}

fn string(value: &Value, name: &str) -> Result<String, Fail> {
    let text = value.get(name).and_then(Value::as_str);
    text.map(str::to_owned).ok_or_else(|| Fail::failed(format!("the API's answer has no {name}")))
}

/// How far long work is; nothing where nobody looks.
pub(crate) fn bar(length: u64, doing: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:<12} {bar:32} {percent:>3}%  {elapsed}");
    let bar = ProgressBar::new(length).with_message(doing);
    bar.set_style(style.expect("the template is a constant").progress_chars("━━╌"));
    bar
}

/// `hotcell transcode FILE`.
pub(crate) async fn transcode(data: &Path, args: &TranscodeArgs, json: bool) -> Result<(), Fail> {
    let kind = content_type(&args.file)?;
    let size = fs::metadata(&args.file)
        .map_err(|error| Fail::usage(format!("{}: {error}", args.file.display())))?
        .len();
    if size == 0 || size > UPLOAD_BYTES_MAX {
        let rule = format!("must have 1 to {UPLOAD_BYTES_MAX} bytes");
        return Err(Fail::usage(format!("{}: {rule}", args.file.display())));
    }
    let api = Api::find(data)?;
    let name = upload(&api, &args.file, kind, size).await?;
    let inputs = json!([{ "url": format!("upload:{name}") }]);
    let mut request = match &args.preset_name {
        Some(preset) => json!({ "inputs": inputs, "presetName": preset }),
        None => json!({
            "inputs": inputs,
            "outputFormat": args.format,
            "preset": { "quality": args.quality, "resolution": args.resolution },
        }),
    };
    let members = request.as_object_mut().into_iter();
    for (members, destination) in members.zip(&args.destination) {
        members.insert("destination".to_owned(), json!(destination));
    }
    let id = submit(&api, data, &request, args.factor.totp.as_deref()).await?;
    let job = wait(&api, &id).await?;
    let state = string(&job, "state")?;
    if state != "completed" {
        let failure = job.get("failure").cloned().unwrap_or_default();
        let text = |name: &str| failure.get(name).and_then(Value::as_str).unwrap_or("unknown");
        return Err(Fail::failed(format!(
            "job {id} {state} ({}): {}",
            text("code"),
            text("message")
        )));
    }
    let output = job.pointer("/outputs/0").cloned().unwrap_or_default();
    let expected = string(&output, "sha256")?;
    let size = output.get("fileSize").and_then(Value::as_u64).unwrap_or(0);
    let name = string(&output, "name")?;
    // A preset's format is known by what was made.
    let format = Path::new(&name).extension().and_then(|e| e.to_str()).unwrap_or(&args.format);
    let out = args.output.clone().unwrap_or_else(|| beside(&args.file, format));
    download(&api, &id, &name, &expected, size, &out).await?;
    if json {
        print::json(&json!({ "job": id, "file": out, "sha256": expected, "size": size }));
    } else {
        print::line(format!("{}  {size} bytes  sha256 {expected}  job {id}", out.display()));
    }
    Ok(())
}

/// Submits a job, once more with the second factor where policy asks for it.
async fn submit(
    api: &Api,
    data: &Path,
    request: &Value,
    totp: Option<&str>,
) -> Result<String, Fail> {
    let path = "/v1/transcodes";
    let (mut status, mut body) = api.send(Method::POST, path, Some(request)).await?;
    if body.get("type").and_then(Value::as_str) == Some(STEP_UP) {
        let stronger = token::for_changes(data, totp).await?;
        (status, body) = stronger.send(Method::POST, path, Some(request)).await?;
    }
    if !status.is_success() {
        return Err(refusal(status, &body));
    }
    string(body.get("result").unwrap_or(&body), "id")
}

/// `clip.mov` to `clip.mp4`; `clip.mp4` to `clip.hotcell.mp4`, never over the input.
fn beside(file: &Path, format: &str) -> PathBuf {
    let out = file.with_extension(format);
    if out == file { file.with_extension(format!("hotcell.{format}")) } else { out }
}

/// Uploads and confirms a file; the server's name for it.
async fn upload(api: &Api, file: &Path, kind: &str, size: u64) -> Result<String, Fail> {
    let client_name = file.file_name().and_then(|n| n.to_str()).unwrap_or("upload");
    let body = json!({ "filename": client_name, "contentType": kind, "fileSize": size });
    let slot = api.post("/v1/upload/presigned-url", &body).await?;
    let (url, name) = (string(&slot, "uploadUrl")?, string(&slot, "filename")?);
    let reader = tokio::fs::File::open(file).await.or_fail("cannot read the file")?;
    let progress = bar(size, "uploading");
    let counted = progress.clone();
    let stream = ReaderStream::with_capacity(reader, CHUNK_BYTES)
        .inspect_ok(move |chunk: &Bytes| counted.inc(chunk.len() as u64));
    let mut request = api.http.put(url).header(CONTENT_LENGTH, size);
    for (header, value) in slot.get("headers").and_then(Value::as_object).into_iter().flatten() {
        if !header.eq_ignore_ascii_case("content-length") {
            request = request.header(header, value.as_str().unwrap_or_default());
        }
    }
    let sent = request.body(reqwest::Body::wrap_stream(stream)).send().await;
    let status = sent.map_err(reqwest::Error::without_url).or_fail("the upload failed")?.status();
    progress.finish_and_clear();
    if !status.is_success() {
        return Err(Fail::failed(format!("the store refused the upload with status {status}")));
    }
    let body = json!({ "filename": name, "fileSize": size });
    api.post("/v1/upload/confirm", &body).await?;
    Ok(name)
}

/// Polls until the job has ended.
async fn wait(api: &Api, id: &str) -> Result<Value, Fail> {
    let spinner = ProgressBar::new_spinner();
    spinner.enable_steady_tick(Duration::from_millis(POLL_MS));
    loop {
        let job = api.get(&format!("/v1/transcodes/{id}")).await?;
        let state = string(&job, "state")?;
        spinner.set_message(format!("{state}  job {id}"));
        let ended = state.parse::<hotcell_schemas::EventKind>().is_ok_and(|s| s.is_terminal());
        if ended {
            spinner.finish_and_clear();
            return Ok(job);
        }
        tokio::time::sleep(Duration::from_millis(POLL_MS)).await;
    }
}

/// Downloads an output to a temporary name, checks its hash, then renames it.
async fn download(
    api: &Api,
    id: &str,
    name: &str,
    expected: &str,
    size: u64,
    out: &Path,
) -> Result<(), Fail> {
    let path = format!("/v1/transcodes/{id}/download?output={name}");
    let url = string(&api.get(&path).await?, "url")?;
    let answer = api.http.get(url).send().await.map_err(reqwest::Error::without_url);
    let answer = answer.or_fail("the download failed")?;
    if !answer.status().is_success() {
        return Err(Fail::failed(format!("the store answers {} to the download", answer.status())));
    }
    let temporary = out.with_extension("part");
    let doing = format!("cannot write {}", temporary.display());
    let mut file = tokio::fs::File::create(&temporary).await.or_fail(&doing)?;
    let (mut hash, progress) = (Sha256::new(), bar(size, "downloading"));
    let mut stream = answer.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(reqwest::Error::without_url).or_fail("the download broke off")?;
        hash.update(&chunk);
        progress.inc(chunk.len() as u64);
        file.write_all(&chunk).await.or_fail(&doing)?;
    }
    file.sync_all().await.or_fail(&doing)?;
    progress.finish_and_clear();
    let found = Digest::from_bytes(hash.finalize().into()).to_string();
    if found != expected {
        let _gone = fs::remove_file(&temporary);
        return Err(Fail::failed(format!(
            "the download's SHA-256 is {found}, the record says {expected}: nothing was kept"
        )));
    }
    fs::rename(&temporary, out).or_fail(&format!("cannot write {}", out.display()))
}

/// `hotcell job show ID`.
pub(crate) async fn show(data: &Path, id: &JobId, json: bool) -> Result<(), Fail> {
    let api = Api::find(data)?;
    let record = api.get(&format!("/v1/transcodes/{id}/audit")).await?;
    if json {
        print::json(&record);
        return Ok(());
    }
    let job = api.get(&format!("/v1/transcodes/{id}")).await?;
    print::line(describe(&job, &record));
    Ok(())
}

fn describe(job: &Value, record: &Value) -> String {
    let text = |value: &Value, name: &str| match value.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    let mut out = format!("job {}  {}\n", text(job, "id"), text(job, "state"));
    if let Some(failure) = job.get("failure").filter(|failure| failure.is_object()) {
        out.push_str(&format!("{}: {}\n", text(failure, "code"), text(failure, "message")));
    }
    let (priority, cpu) = (text(job, "priority"), text(job, "cpuSecs"));
    out.push_str(&format!("priority {priority}, {cpu} CPU seconds\n"));
    let named = |name: &str| job.get(name).and_then(Value::as_str);
    if let Some(preset) = named("presetName") {
        out.push_str(&format!("preset {preset}, version {}\n", text(job, "presetVersion")));
    }
    if let Some(destination) = named("destination") {
        out.push_str(&format!("outputs at destination {destination}\n"));
    }
    out.push_str(&format!("\n{}\n", timeline(job)));
    let mut rows = vec![["output", "bytes", "sha256"].map(String::from).to_vec()];
    for output in job.get("outputs").and_then(Value::as_array).into_iter().flatten() {
        rows.push(["name", "fileSize", "sha256"].map(|name| text(output, name)).to_vec());
    }
    if rows.len() > 1 {
        out.push_str(&format!("\n{}\n", print::table(&rows)));
    }
    let mut rows = vec![["attempt", "worker", "ffmpeg", "outcome"].map(String::from).to_vec()];
    for attempt in record.get("attempts").and_then(Value::as_array).into_iter().flatten() {
        let outcome = match attempt.pointer("/failure/code").and_then(Value::as_str) {
            Some(code) => code.to_owned(),
            None => "ok".to_owned(),
        };
        let report = attempt.get("report").cloned().unwrap_or_default();
        let ffmpeg = text(&report, "ffmpeg").chars().take(48).collect();
        rows.push(vec![text(attempt, "number"), text(attempt, "workerId"), ffmpeg, outcome]);
    }
    if rows.len() > 1 {
        out.push_str(&format!("\n{}", print::table(&rows)));
    }
    out.push_str(&degraded(record));
    out
}

/// A line for each attempt whose cells lacked a layer.
fn degraded(record: &Value) -> String {
    let mut out = String::new();
    for attempt in record.get("attempts").and_then(Value::as_array).into_iter().flatten() {
        let layers = attempt.pointer("/report/degraded").and_then(Value::as_array);
        let layers: Vec<_> = layers.into_iter().flatten().filter_map(Value::as_str).collect();
        if !layers.is_empty() {
            let number = attempt.get("number").and_then(Value::as_u64).unwrap_or(0);
            // The worker wrote them.
            let layers = layers.join(", ").replace(char::is_control, " ");
            out.push_str(&format!("\n\nDEGRADED: attempt {number} ran without {layers}"));
        }
    }
    out
}

/// Each state with the milliseconds since the one before.
pub(crate) fn timeline(job: &Value) -> String {
    let mut rows = vec![["stage", "at", "ms"].map(String::from).to_vec()];
    let mut before = None;
    for stamp in job.get("timeline").and_then(Value::as_array).into_iter().flatten() {
        let at = stamp.get("atMs").and_then(Value::as_u64).unwrap_or(0);
        let took = at.saturating_sub(before.unwrap_or(at));
        before = Some(at);
        let state = stamp.get("state").and_then(Value::as_str).unwrap_or("-").to_owned();
        rows.push(vec![state, hotcell_schemas::UnixMs(at).rfc3339(), took.to_string()]);
    }
    print::table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_job_says_by_which_preset_it_was_made_and_where_its_outputs_are() {
        let job = json!({"id": "j", "state": "completed", "presetName": "web", "presetVersion": 3,
            "destination": "cdn"});
        let said = describe(&job, &json!({}));
        assert!(said.contains("\npreset web, version 3\noutputs at destination cdn\n"), "{said}");
        let said = describe(&json!({"presetName": null, "destination": null}), &json!({}));
        assert!(!said.contains("preset") && !said.contains("destination"), "{said}");
    }

    #[test]
    fn a_job_says_which_layers_its_cells_lacked() {
        let job = json!({"id": "j", "state": "completed"});
        let record = |degraded: Value| {
            json!({"attempts": [{"number": 1, "workerId": "w1",
                "report": {"ffmpeg": "ffmpeg version 5", "degraded": degraded}}]})
        };
        let said = describe(&job, &record(json!(["landlock", "mdwe\nFAKE"])));
        assert!(
            said.ends_with("\n\nDEGRADED: attempt 1 ran without landlock, mdwe FAKE"),
            "{said}"
        );
        assert!(!describe(&job, &record(json!([]))).contains("DEGRADED"));
    }
}
