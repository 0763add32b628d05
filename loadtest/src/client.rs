//! A tenant's program: the HTTP API as documented, and nothing else.

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use hotcell_intake::totp;
use reqwest::{Client, Method, Response, StatusCode, header::CONTENT_LENGTH, redirect::Policy};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// No answer within this is an error of the run.
const REQUEST_SECS: u64 = 60;

/// A tenant's rate lets a job in within this, or the run has failed.
const RATE_MAX: Duration = Duration::from_secs(120);

/// Pause after a refusal for too many requests.
const RATE_EVERY: Duration = Duration::from_millis(100);

/// One tenant.
#[derive(Debug, Clone)]
pub(crate) struct Tenant {
    http: Client,
    base: String,
    key: String,
}

/// The text in `name`, or an error.
pub(crate) fn text(value: &Value, name: &str) -> Result<String> {
    let text = value.get(name).and_then(Value::as_str);
    text.map(str::to_owned).with_context(|| format!("the answer has no {name}"))
}

/// One HTTP client for all tenants, as one program would have.
pub(crate) fn http() -> Result<Client> {
    hotcell_stage::blob::install_tls();
    let builder = Client::builder().timeout(Duration::from_secs(REQUEST_SECS));
    let builder = builder.pool_idle_timeout(hotcell_stage::blob::IDLE);
    Ok(builder.redirect(Policy::none()).no_proxy().build()?)
}

impl Tenant {
    pub(crate) fn new(http: &Client, base: &str, key: String) -> Self {
        Self { http: http.clone(), base: base.to_owned(), key }
    }

    async fn send(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Value> {
        let (status, body) = self.ask(method, path, body).await?;
        if !status.is_success() {
            bail!("{path} answers {status}: {body}");
        }
        Ok(body.get("result").cloned().unwrap_or(body))
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<(StatusCode, Value)> {
        let url = format!("{}{path}", self.base);
        let mut request = self.http.request(method, url).bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let answer = request.send().await.map_err(reqwest::Error::without_url)?;
        let status = answer.status();
        let body: Value = answer.json().await.map_err(reqwest::Error::without_url)?;
        Ok((status, body))
    }

    async fn get(&self, path: &str) -> Result<Value> {
        self.send(Method::GET, path, None).await
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(Method::POST, path, Some(body.to_string().into())).await
    }

    /// Uploads an MP4 and confirms it; the server's name for it.
    pub(crate) async fn upload(&self, name: &str, media: Bytes) -> Result<String> {
        let size = media.len();
        let body = json!({ "filename": name, "contentType": "video/mp4", "fileSize": size });
        let slot = self.post("/v1/upload/presigned-url", &body).await?;
        let mut put = self.http.put(text(&slot, "uploadUrl")?).header(CONTENT_LENGTH, size);
        for (name, value) in slot.get("headers").and_then(Value::as_object).into_iter().flatten() {
            if !name.eq_ignore_ascii_case("content-length") {
                put = put.header(name, value.as_str().unwrap_or_default());
            }
        }
        checked(put.body(media).send().await)?;
        let name = text(&slot, "filename")?;
        let body = json!({ "filename": name, "fileSize": size });
        self.post("/v1/upload/confirm", &body).await?;
        Ok(name)
    }

    /// The body of a job's submission.
    pub(crate) fn job(upload: &str) -> Bytes {
        let body = json!({
            "inputs": [{ "url": format!("upload:{upload}") }],
            "outputFormat": "mp4",
            "preset": { "quality": "medium", "resolution": "source" },
        });
        body.to_string().into()
    }

    /// Submits a job; its id.
    pub(crate) async fn submit(&self, job: Bytes) -> Result<String> {
        text(&self.send(Method::POST, "/v1/transcodes", Some(job)).await?, "id")
    }

    /// The same with a token that carries the second factor, as a person's program would get one.
    pub(crate) async fn stepped_up(&self, secret: &str) -> Result<Self> {
        let secret = totp::from_base32(secret.trim()).context("the secret is not base 32")?;
        let now = totp::step_of(hotcell_stage::clock::now());
        let mut last = None;
        for step in now.saturating_sub(1)..=now + 1 {
            let body = json!({ "totp": totp::code(&secret, step) });
            match self.post("/v1/token", &body).await {
                Ok(token) => return Ok(Self { key: text(&token, "accessToken")?, ..self.clone() }),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no code was tried")?)
    }

    /// Submits a job as soon as the tenant's rate lets it; its id.
    pub(crate) async fn submit_within_rate(&self, job: Bytes) -> Result<String> {
        let until = Instant::now() + RATE_MAX;
        loop {
            let body = Some(job.clone());
            let (status, answer) = self.ask(Method::POST, "/v1/transcodes", body).await?;
            if status == StatusCode::TOO_MANY_REQUESTS && Instant::now() < until {
                sleep(RATE_EVERY).await;
                continue;
            }
            ensure!(status.is_success(), "/v1/transcodes answers {status}: {answer}");
            return text(answer.get("result").unwrap_or(&answer), "id");
        }
    }

    /// The same by an access token of five minutes.
    pub(crate) async fn with_token(&self) -> Result<Self> {
        let token = self.post("/v1/token", &json!({})).await?;
        Ok(Self { key: text(&token, "accessToken")?, ..self.clone() })
    }

    /// Makes a webhook endpoint; its secret.
    pub(crate) async fn webhook(&self, url: &str) -> Result<String> {
        text(&self.post("/v1/webhooks", &json!({ "url": url })).await?, "secret")
    }

    /// The job as it is now.
    pub(crate) async fn job_now(&self, job: &str) -> Result<Value> {
        self.get(&format!("/v1/transcodes/{job}")).await
    }

    /// What it used, and how its work stands.
    pub(crate) async fn usage(&self) -> Result<Value> {
        self.get("/v1/usage").await
    }

    /// The job's evidence.
    pub(crate) async fn audit(&self, job: &str) -> Result<Value> {
        self.get(&format!("/v1/transcodes/{job}/audit")).await
    }

    /// The job's only output.
    pub(crate) async fn download(&self, job: &str) -> Result<Bytes> {
        let answer = self.get(&format!("/v1/transcodes/{job}/download")).await?;
        let got = checked(self.http.get(text(&answer, "url")?).send().await)?;
        Ok(got.bytes().await.map_err(reqwest::Error::without_url)?)
    }
}

/// An answer of the store with a good status.
fn checked(answer: reqwest::Result<Response>) -> Result<Response> {
    Ok(answer.and_then(Response::error_for_status).map_err(reqwest::Error::without_url)?)
}
