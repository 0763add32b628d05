//! A tenant's backend as a test plays it: plain HTTP, nothing of hotcell's own client code.

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Pause between two looks at a job.
const LOOK: Duration = Duration::from_millis(20);

/// A request that comes too often waits as it is told to, this often.
const WAITS: usize = 20;

/// One tenant's key at one installation.
#[derive(Debug, Clone)]
pub struct Api {
    /// The HTTP client.
    pub http: Client,
    /// Base URL.
    pub base: String,
    /// The key.
    pub key: String,
}

impl Api {
    /// A client.
    ///
    /// # Panics
    /// When the TLS backend cannot be set up: it is compiled in.
    #[must_use]
    pub fn new(base: &str, key: &str) -> Self {
        hotcell_stage::blob::install_tls();
        let http = Client::builder().no_proxy().timeout(Duration::from_secs(60));
        let http = http.pool_idle_timeout(hotcell_stage::blob::IDLE).build();
        let http = http.expect("the TLS backend is compiled in");
        Self { http, base: base.to_owned(), key: key.to_owned() }
    }

    /// Sends a request; status and JSON body. One that came too soon is sent again when the answer
    /// says so (`Retry-After`, RFC 9110 §10.2.3): how quick a test is depends on its machine.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        let (_, status, answer) = self.timed(method, path, body).await?;
        Ok((status, answer))
    }

    /// The same, and how long the answer took: what waited for its turn was not yet asked.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn timed(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(Duration, u16, Value)> {
        let mut waits = 0;
        loop {
            let began = Instant::now();
            let response = self.send(&method, path, body).await?;
            let Some(secs) = too_soon(&response).filter(|_| waits < WAITS) else {
                let (status, answer) = answer(response).await?;
                return Ok((began.elapsed(), status, answer));
            };
            waits += 1;
            tokio::time::sleep(Duration::from_secs(secs)).await;
        }
    }

    async fn send(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Response> {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.base));
        request = request.bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.json(body);
        }
        Ok(request.send().await?)
    }

    /// A POST that must succeed; its `result`.
    ///
    /// # Errors
    /// When it does not.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let (status, answer) = self.call(Method::POST, path, Some(body)).await?;
        ensure!((200..300).contains(&status), "POST {path}: {status} {answer}");
        Ok(answer.get("result").cloned().unwrap_or(answer))
    }

    /// A GET that must succeed; its `result`.
    ///
    /// # Errors
    /// When it does not.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let (status, answer) = self.call(Method::GET, path, None).await?;
        ensure!((200..300).contains(&status), "GET {path}: {status} {answer}");
        Ok(answer.get("result").cloned().unwrap_or(answer))
    }

    /// Asks for an upload URL and puts `bytes` there; the server's file name.
    ///
    /// # Errors
    /// When either is refused.
    pub async fn put(&self, name: &str, kind: &str, bytes: Vec<u8>) -> Result<String> {
        let body = json!({ "filename": name, "contentType": kind, "fileSize": bytes.len() });
        let slot = self.post("/v1/upload/presigned-url", &body).await?;
        let status = self.put_to(&slot, bytes).await?;
        ensure!(status == 200, "PUT of {name}: {status}");
        text(&slot, "filename")
    }

    /// Puts `bytes` to an upload slot; the store's status.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn put_to(&self, slot: &Value, bytes: Vec<u8>) -> Result<u16> {
        let mut request = self.http.put(text(slot, "uploadUrl")?);
        for (name, value) in slot["headers"].as_object().context("headers")? {
            if name != "content-length" {
                request = request.header(name, value.as_str().context("a header's value")?);
            }
        }
        Ok(request.body(bytes).send().await?.status().as_u16())
    }

    /// Uploads and confirms `bytes`; the server's file name.
    ///
    /// # Errors
    /// When any step is refused.
    pub async fn upload(&self, name: &str, kind: &str, bytes: Vec<u8>) -> Result<String> {
        let size = bytes.len();
        let filename = self.put(name, kind, bytes).await?;
        let body = json!({ "filename": filename, "fileSize": size });
        self.post("/v1/upload/confirm", &body).await?;
        Ok(filename)
    }

    /// Submits a 480p MP4 of an upload; the job's id.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn submit(&self, filename: &str) -> Result<String> {
        text(&self.post("/v1/transcodes", &request(filename)).await?, "id")
    }

    /// Waits until a job has ended.
    ///
    /// # Errors
    /// When it has not within `patience`.
    pub async fn ended(&self, id: &str, patience: Duration) -> Result<Value> {
        let until = Instant::now() + patience;
        loop {
            if let Ok(job) = self.get(&format!("/v1/transcodes/{id}")).await {
                let state = text(&job, "state")?;
                if ["completed", "failed", "rejected", "cancelled"].contains(&state.as_str()) {
                    return Ok(job);
                }
                if Instant::now() > until {
                    bail!("job {id} is still {state}");
                }
            }
            ensure!(Instant::now() < until, "job {id} cannot be read");
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// The request of the tests: 480p MP4, low quality, from one upload.
#[must_use]
pub fn request(filename: &str) -> Value {
    json!({
        "inputs": [{ "url": format!("upload:{filename}") }],
        "outputFormat": "mp4",
        "preset": { "quality": "low", "resolution": "480p" },
    })
}

/// A text field of an answer.
///
/// # Errors
/// When it is absent or no text.
pub fn text(value: &Value, name: &str) -> Result<String> {
    let text = value.get(name).and_then(Value::as_str);
    Ok(text.with_context(|| format!("{name} is not in {value}"))?.to_owned())
}

/// Seconds to wait, where the answer is that a rate was exceeded.
fn too_soon(response: &Response) -> Option<u64> {
    if response.status() != StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    response.headers().get("retry-after")?.to_str().ok()?.parse().ok()
}

async fn answer(response: Response) -> Result<(u16, Value)> {
    let status = response.status().as_u16();
    let bytes = response.bytes().await?;
    Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
}
