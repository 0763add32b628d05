//! One file through the API as far as it goes.

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, stream};
use hotcell_e2e::{
    api::{Api, text},
    corpus::Entry,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Files on their way at once: four cells work, the others wait their turn.
const AT_ONCE: usize = 16;

/// A job has ended this long after it was submitted, waiting included.
const PATIENCE: Duration = Duration::from_secs(180);

/// A second factor counts for five minutes; it is given again before.
const FACTOR_FRESH: Duration = Duration::from_secs(200);

/// Pause between two looks at a job.
const LOOK: Duration = Duration::from_millis(100);

/// Where a file ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PlaceOfEnd {
    /// At the API: no job came of it.
    Upload,
    /// A job that no worker got.
    Validation,
    /// At a worker.
    Cell,
}

/// How a file ended.
#[derive(Debug, Clone)]
pub(crate) struct End {
    /// Where.
    pub(crate) place: PlaceOfEnd,
    /// `completed`, `rejected` or `failed`.
    pub(crate) state: String,
    /// The code; empty when it completed.
    pub(crate) code: String,
    /// What the code's sentence says.
    pub(crate) message: String,
    /// See the head of `corpus.rs`.
    pub(crate) took: Duration,
    /// Attempts at the job.
    pub(crate) attempts: u64,
    /// The job's id.
    pub(crate) job: Option<String>,
}

/// Low quality and 240 lines; sound alone for what is declared as sound.
pub(crate) fn request(filename: &str, kind: &str) -> Value {
    let format = if kind.starts_with("audio/") { "m4a" } else { "mp4" };
    json!({
        "inputs": [{ "url": format!("upload:{filename}") }],
        "outputFormat": format,
        "preset": { "quality": "low", "resolution": "240p" },
    })
}

/// The sender, who gives a second factor where one is asked for.
struct Sender<'a> {
    api: &'a Api,
    totp: &'a str,
    /// Since when, and the client that has it.
    stepped: Mutex<Option<(Instant, Api)>>,
}

impl Sender<'_> {
    /// Submits. What looks encrypted, junk with the right bits included, is submitted again with the
    /// second factor: the cells shall get it.
    async fn submit(&self, body: &Value) -> Result<(Duration, u16, Value)> {
        let path = "/v1/transcodes";
        let (took, status, answer) = self.api.timed(Method::POST, path, Some(body)).await?;
        if status != 401 {
            return Ok((took, status, answer));
        }
        ensure!(answer["policy"] == json!(["step-up-protected-source"]), "{answer}");
        let mut stepped = self.stepped.lock().await;
        let api = match stepped.take().filter(|(since, _)| since.elapsed() < FACTOR_FRESH) {
            Some(fresh) => stepped.insert(fresh),
            None => stepped.insert((Instant::now(), self.api.stepped_up(self.totp).await?)),
        };
        api.1.timed(Method::POST, path, Some(body)).await
    }
}

/// All files, many at once; the ends are in their order. `totp` is the tenant's second factor.
pub(crate) async fn take_all(api: &Api, totp: &str, entries: &[Entry]) -> Result<Vec<End>> {
    let sender = &Sender { api, totp, stepped: Mutex::new(None) };
    let one = |entry: &Entry| {
        let entry = entry.clone();
        async move { take(sender, &entry).await.with_context(|| entry.name.clone()) }
    };
    let all: Vec<_> = entries.iter().map(one).collect();
    stream::iter(all).buffered(AT_ONCE).collect::<Vec<_>>().await.into_iter().collect()
}

async fn take(sender: &Sender<'_>, entry: &Entry) -> Result<End> {
    let api = sender.api;
    let size = entry.bytes.len();
    let slot = json!({ "filename": entry.name, "contentType": entry.kind, "fileSize": size });
    let (took, status, answer) =
        api.timed(Method::POST, "/v1/upload/presigned-url", Some(&slot)).await?;
    if status >= 400 {
        let field = answer["errors"][0]["field"].as_str().unwrap_or_default();
        return Ok(refused(field, &answer, took));
    }
    let slot = answer["result"].clone();
    let status = api.put_to(&slot, entry.bytes.clone()).await?;
    ensure!(status == 200, "PUT: {status}");
    let filename = text(&slot, "filename")?;
    let confirm = json!({ "filename": filename, "fileSize": size });
    let (took, status, answer) =
        api.timed(Method::POST, "/v1/upload/confirm", Some(&confirm)).await?;
    if status >= 400 {
        ensure!(status == 422, "{status} {answer}");
        let code = text(&answer, "code")?;
        let end = refused(&code, &answer, took);
        // API-24: a job that names it is refused, too.
        let (status, answer) =
            api.call(Method::POST, "/v1/transcodes", Some(&request(&filename, entry.kind))).await?;
        ensure!(status == 422, "API-24: {status} {answer}");
        return Ok(end);
    }
    let (took, status, answer) = sender.submit(&request(&filename, entry.kind)).await?;
    // The edge compiles the job: what cannot be made of this input is said at once.
    if status == 422 {
        return Ok(refused(&text(&answer, "code")?, &answer, took));
    }
    ensure!(status == 202, "{status} {answer}");
    let id = text(&answer["result"], "id")?;
    let job = ended(api, &id).await?;
    worked(&job, id)
}

fn refused(code: &str, answer: &Value, took: Duration) -> End {
    End {
        place: PlaceOfEnd::Upload,
        state: "rejected".to_owned(),
        code: code.to_owned(),
        message: answer["detail"].as_str().unwrap_or_default().to_owned(),
        took,
        attempts: 0,
        job: None,
    }
}

fn worked(job: &Value, id: String) -> Result<End> {
    let timeline = job["timeline"].as_array().context("a timeline")?;
    let at = |event: &Value| event["atMs"].as_u64().context("a time");
    let assigned = timeline.iter().find(|event| event["state"] == "assigned");
    let place = if assigned.is_some() { PlaceOfEnd::Cell } else { PlaceOfEnd::Validation };
    let first = assigned.or(timeline.first()).context("an event")?;
    let last = timeline.last().context("an event")?;
    Ok(End {
        place,
        state: text(job, "state")?,
        code: job["failure"]["code"].as_str().unwrap_or_default().to_owned(),
        message: job["failure"]["message"].as_str().unwrap_or_default().to_owned(),
        took: Duration::from_millis(at(last)?.saturating_sub(at(first)?)),
        attempts: job["attempts"].as_u64().context("a number of attempts")?,
        job: Some(id),
    })
}

/// The job once it has ended. Unlike the harness's own wait, no read may fail: nothing is killed here.
pub(crate) async fn ended(api: &Api, id: &str) -> Result<Value> {
    let until = Instant::now() + PATIENCE;
    loop {
        let job = api.get(&format!("/v1/transcodes/{id}")).await?;
        let state = text(&job, "state")?;
        if ["completed", "failed", "rejected"].contains(&state.as_str()) {
            return Ok(job);
        }
        ensure!(Instant::now() < until, "the job is still {state}: {job}");
        tokio::time::sleep(LOOK).await;
    }
}

/// The one output of a completed job.
pub(crate) async fn output(api: &Api, id: &str) -> Result<Vec<u8>> {
    let job = api.get(&format!("/v1/transcodes/{id}")).await?;
    let name = text(&job["outputs"][0], "name")?;
    let path = format!("/v1/transcodes/{id}/download?output={name}");
    let url = text(&api.get(&path).await?, "url")?;
    let answer = api.http.get(&url).send().await?.error_for_status()?;
    Ok(answer.bytes().await?.to_vec())
}
