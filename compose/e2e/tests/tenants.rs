//! Tenant B's key and B's broker login get 404 or denied for everything of tenant A.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context as _, Result, ensure};
use hotcell_e2e::{
    api::{Api, request, text},
    media,
    up::Up,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

const PATIENCE: Duration = Duration::from_secs(120);

/// Longest wait for an answer that must not come.
const SILENCE: Duration = Duration::from_secs(5);

/// A tenant's program at its own broker account: async-nats and JSON, nothing of ours.
struct Program(async_nats::Client);

impl Program {
    async fn connect(url: &str, creds: &Path) -> Result<Self> {
        let login = hotcell_nats_config::creds::read(creds)?.claims.name;
        let options = async_nats::ConnectOptions::with_credentials_file(creds).await?;
        let options = options.custom_inbox_prefix(format!("_INBOX_{login}"));
        let options = options.request_timeout(Some(PATIENCE));
        Ok(Self(options.connect(url).await?))
    }

    async fn ask(&self, subject: &str, body: &Value) -> Result<(u16, Value)> {
        let answer = self.0.request(subject.to_owned(), body.to_string().into()).await?;
        let status = answer.headers.as_ref().and_then(|headers| headers.get("Hotcell-Status"));
        let status = status.context("an answer has a status")?.as_str().parse()?;
        Ok((status, serde_json::from_slice(&answer.payload)?))
    }
}

fn result(answer: &Value) -> &Value {
    answer.get("result").unwrap_or(answer)
}

/// BRK-02, BRK-39, BRK-55, API-06, IAM-01 (two of its kinds of principal), IAM-06.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_is_there_for_b() -> Result<()> {
    let up = Up::start(&["--encoders", "1", "--cell", "noop"])?;
    let (base, nats) = (up.env("HOTCELL_API").to_owned(), up.env("HOTCELL_NATS").to_owned());
    let add = |name: &str| up.json(&["tenant", "add", name]);
    let (a, b) = (add("alpha")?, add("beta")?);
    let key = |added: &Value| Api::new(&base, added["key"].as_str().unwrap());
    let (alpha, beta) = (key(&a), key(&b));
    let name = alpha.upload("a.mp4", "video/mp4", media::clip(1, 320, 240)?).await?;
    let id = alpha.submit(&name).await?;
    let job = alpha.ended(&id, PATIENCE).await?;
    ensure!(job["state"] == "completed", "{job}");

    // By HTTP: unknown, as if it were not there.
    for path in ["", "/audit", "/download?output=out0.mp4"] {
        let path = format!("/v1/transcodes/{id}{path}");
        let (status, _) = alpha.call(Method::GET, &path, None).await?;
        ensure!(status == 200, "{path}: {status} for its own tenant");
        let (status, body) = beta.call(Method::GET, &path, None).await?;
        ensure!(status == 404, "{path}: {status} {body}");
    }
    let (status, body) = beta.call(Method::POST, "/v1/transcodes", Some(&request(&name))).await?;
    ensure!(status == 422 && body.to_string().contains("inputs[0].url"), "{status} {body}");
    let confirm = json!({ "filename": name, "fileSize": 1 });
    let (status, body) = beta.call(Method::POST, "/v1/upload/confirm", Some(&confirm)).await?;
    ensure!(status == 404, "{status} {body}");

    // By the broker: the same submission, the same answers.
    let creds = |added: &Value| Path::new(added["creds"].as_str().unwrap()).to_owned();
    let program_a = Program::connect(&nats, &creds(&a)).await?;
    let program_b = Program::connect(&nats, &creds(&b)).await?;
    let (status, answer) = program_a.ask("api.submit", &request(&name)).await?;
    ensure!((200..300).contains(&status), "{status} {answer}");
    let by_nats = text(result(&answer), "id")?;
    let job = alpha.ended(&by_nats, PATIENCE).await?;
    ensure!(job["state"] == "completed", "{job}");
    let record = alpha.get(&format!("/v1/transcodes/{by_nats}/audit")).await?;
    ensure!(record["actor"]["kind"] == "natsLogin", "{}", record["actor"]);
    let (status, answer) = program_a.ask("api.get", &json!({ "id": id })).await?;
    ensure!(status == 200 && result(&answer)["state"] == "completed", "{status} {answer}");
    let (status, answer) = program_b.ask("api.get", &json!({ "id": id })).await?;
    ensure!(status == 404, "{status} {answer}");
    let (status, answer) = program_b.ask("api.submit", &request(&name)).await?;
    ensure!(status == 422, "{status} {answer}");
    // The account's name in the subject is the broker's to write: B cannot name A's.
    let account = a["account"].as_str().unwrap();
    let foreign = format!("tenant.{account}.get");
    let request = async_nats::Request::new().payload(json!({ "id": id }).to_string().into());
    let request = request.timeout(Some(SILENCE));
    let denied = program_b.0.send_request(foreign, request).await;
    ensure!(denied.is_err(), "B asked as A: {denied:?}");
    up.stop()?;
    Ok(())
}
