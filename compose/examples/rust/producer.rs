//! A tenant's program that submits over NATS. Promises: one job for one `Idempotency-Key`, however
//! often it asks; an event that was missed is made up for by asking. See ../README.md.
//!
//! `producer NATS-URL CREDENTIAL-FILE FILENAME` prints one JSON object for each step.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "both go to whoever ran it")]

use anyhow::{Context as _, Result, bail};
use async_nats::{Client, ConnectOptions, HeaderMap, Request, Subscriber};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::StreamExt as _;
use serde_json::{Value, json};
use std::{env, fs, path::PathBuf, time::Duration};
use tokio::time::{sleep, timeout};

/// Tries of one request: a broker or an intake that restarts is back within seconds.
const TRIES_MAX: u32 = 8;

/// An event that does not come within this long, in seconds, may have been missed.
const EVENT_SECS: u64 = 15;

/// An answer: the status of HTTP, and the body.
struct Answer {
    status: u16,
    body: Value,
}

/// The name in the login's token: the only inboxes that it may hear begin with it.
fn login_name(creds: &str) -> Result<String> {
    let jwt = creds.lines().find(|line| line.matches('.').count() == 2);
    let claims = jwt.and_then(|jwt| jwt.split('.').nth(1)).context("no token in the file")?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
    let name = claims.get("name").and_then(Value::as_str);
    Ok(name.context("the token has no name")?.to_owned())
}

async fn connect(url: &str, path: PathBuf) -> Result<Client> {
    let name = login_name(&fs::read_to_string(&path)?)?;
    // The file is read again for each connection: logins end, and are renewed in place.
    let mut options = ConnectOptions::with_auth_callback(move |nonce| {
        let path = path.clone();
        async move {
            let text = fs::read_to_string(path).map_err(async_nats::AuthError::new)?;
            let mut lines = text.lines();
            let mut after = |mark: &str| {
                lines.find(|line| line.contains(mark))?;
                lines.next().map(str::to_owned)
            };
            let jwt = after("BEGIN NATS USER JWT");
            let seed = after("BEGIN USER NKEY SEED");
            let seed = seed.ok_or_else(|| async_nats::AuthError::new("no seed in the file"))?;
            let key = nkeys::KeyPair::from_seed(&seed).map_err(async_nats::AuthError::new)?;
            let signature = key.sign(&nonce).map_err(async_nats::AuthError::new)?;
            let mut auth = async_nats::Auth::new();
            auth.jwt = jwt;
            auth.signature = Some(signature);
            Ok(auth)
        }
    })
    .custom_inbox_prefix(format!("_INBOX_{name}"))
    .event_callback(|event| async move { eprintln!("broker: {event}") })
    .retry_on_initial_connect();
    if url.starts_with("tls:") {
        // The broker speaks TLS from the first byte on, and with whom it knows.
        options = options.require_tls(true).tls_first();
        let file = |name| env::var_os(name).map(PathBuf::from);
        if let Some(authorities) = file("HOTCELL_CA") {
            options = options.add_root_certificates(authorities);
        }
        if let (Some(cert), Some(key)) = (file("HOTCELL_CERT"), file("HOTCELL_CERT_KEY")) {
            options = options.add_client_certificate(cert, key);
        }
    }
    Ok(options.connect(url).await?)
}

/// Asks, and asks again while it is told to come back or nobody answers. All four verbs may be
/// repeated: a submission by its key.
async fn ask(client: &Client, verb: &str, body: &Value, key: Option<&str>) -> Result<Answer> {
    for tries in 1..=TRIES_MAX {
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            headers.insert("Idempotency-Key", key);
        }
        let request = Request::new().headers(headers).payload(body.to_string().into());
        let request = request.timeout(Some(Duration::from_secs(10)));
        let Ok(answer) = client.send_request(format!("api.{verb}"), request).await else {
            // No answer, or nobody there: the same request is asked again.
            sleep(Duration::from_secs(1)).await;
            continue;
        };
        let header = |name: &str| {
            let headers = answer.headers.as_ref()?;
            headers.get(name).map(|value| value.as_str().to_owned())
        };
        let status: u16 = header("Hotcell-Status").context("an answer without status")?.parse()?;
        if (status == 429 || status == 503) && tries < TRIES_MAX {
            let secs = header("retry-after").and_then(|text| text.parse().ok()).unwrap_or(1);
            sleep(Duration::from_secs(secs)).await;
            continue;
        }
        return Ok(Answer { status, body: serde_json::from_slice(&answer.payload)? });
    }
    bail!("api.{verb} is not answered")
}

/// Waits for the event that a job ended with, and says its states on the way. Each silence is a
/// reason to ask: events are not stored.
async fn ended(client: &Client, events: &mut Subscriber, id: &str) -> Result<(String, Value)> {
    loop {
        match timeout(Duration::from_secs(EVENT_SECS), events.next()).await {
            Ok(Some(event)) if event.subject.split('.').eq(["events", id, "terminal"]) => {
                let event: Value = serde_json::from_slice(&event.payload)?;
                let told = event.get("data").cloned().unwrap_or_default();
                // Or it is no event: see README.md.
                if told.get("id").and_then(Value::as_str) == Some(id) {
                    return Ok(("event".to_owned(), told));
                }
            }
            Ok(Some(event)) if event.subject.split('.').eq(["events", id, "state"]) => {
                say("state", 200, &serde_json::from_slice(&event.payload)?);
            }
            Ok(Some(_)) => {}
            Ok(None) => bail!("the connection is closed"),
            Err(_) => {
                let job = result(&ask(client, "get", &json!({ "id": id }), None).await?);
                let state = job.get("state").and_then(Value::as_str).unwrap_or_default();
                if ["completed", "failed", "rejected", "cancelled", "expired"].contains(&state) {
                    return Ok(("get".to_owned(), job));
                }
            }
        }
    }
}

fn result(answer: &Answer) -> Value {
    answer.body.get("result").cloned().unwrap_or_default()
}

fn say(step: &str, status: u16, more: &Value) {
    println!("{}", json!({ "step": step, "status": status, "said": more }));
}

fn job(filename: &str) -> Value {
    json!({
        "inputs": [{ "url": format!("upload:{filename}") }],
        "outputFormat": "mp4",
        "preset": { "quality": "low", "resolution": "240p" },
    })
}

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [url, creds, filename] = args.as_slice() else {
        bail!("usage: producer NATS-URL CREDENTIAL-FILE FILENAME")
    };
    let client = connect(url, creds.into()).await?;
    // Heard before anything is submitted, or a quick job's event would be missed.
    let mut events = client.subscribe("events.>").await?;

    let key = format!("rust-{filename}");
    let made = ask(&client, "submit", &job(filename), Some(&key)).await?;
    if made.body.get("result").is_none() {
        // A problem, which says what is wrong.
        say("submit", made.status, &made.body);
        bail!("no job was made");
    }
    say("submit", made.status, &result(&made));
    let again = ask(&client, "submit", &job(filename), Some(&key)).await?;
    say("repeat", again.status, &result(&again));
    let made = result(&made);
    let id = made.get("id").and_then(Value::as_str).context("no job was made")?;

    let list = ask(&client, "list", &json!({ "limit": 1 }), None).await?;
    say("list", list.status, &result(&list));
    let (by, done) = ended(&client, &mut events, id).await?;
    say(&by, 200, &done);
    let read = ask(&client, "get", &json!({ "id": id }), None).await?;
    say("get", read.status, &result(&read));

    let second = ask(&client, "submit", &job(filename), Some(&format!("{key}-2"))).await?;
    let second = result(&second);
    let ask_to = json!({ "id": second.get("id") });
    let cancelled = ask(&client, "cancel", &ask_to, None).await?;
    say("cancel", cancelled.status, &cancelled.body);

    let refused = ask(&client, "submit", &job("no-such-upload.mp4"), None).await?;
    say("problem", refused.status, &refused.body);
    Ok(())
}
