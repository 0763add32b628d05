//! A webhook's whole life by the command line, on a running installation: made, failing until it is
//! disabled, enabled again, its secret rotated, and what it missed delivered by a replay.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Result, ensure};
use axum::http::HeaderMap;
use hotcell_e2e::{
    api::{Api, text},
    hook::{Received, Receiver},
    media,
    up::Up,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);

const LOOK: Duration = Duration::from_millis(100);

/// Looks until `enough`, by the command line.
async fn until(up: &Up, args: &[&str], enough: impl Fn(&Value) -> bool) -> Result<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = up.json(args)?;
        if enough(&found) {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "{args:?}: {found}");
        tokio::time::sleep(LOOK).await;
    }
}

fn verified(secret: &str, received: &Received) -> Result<()> {
    let mut headers = HeaderMap::new();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        headers.insert(name, received.header(name).parse()?);
    }
    Ok(standardwebhooks::Webhook::new(secret)?.verify(&received.body, &headers)?)
}

/// Jobs, with four attempts at each, one after the other: of attempts that overlap only one counts.
const JOBS: usize = 3;

/// BRK-51, BRK-53, BRK-43, BRK-48, BRK-52, IAM-10: attempts at several jobs, of which ten are counted.
#[tokio::test(flavor = "multi_thread")]
async fn brk_51_brk_53_a_webhook_is_disabled_enabled_rotated_and_told_what_it_missed() -> Result<()>
{
    let mut up = Up::start(&["--encoders", "0", "--webhook-retry", "1,1,1"])?;
    let api = Api::new(up.env("HOTCELL_API"), up.env("HOTCELL_KEY"));
    let hook = Receiver::start().await?;
    hook.answer(500);
    // STEP-15: the key by itself makes none; the command has the second factor at hand.
    let body = json!({ "url": hook.url });
    let (status, _) = api.call(Method::POST, "/v1/webhooks", Some(&body)).await?;
    ensure!(status == 401, "a webhook without a second factor");
    let made = up.json(&["webhook", "create", &hook.url])?;
    let (id, first) = (text(&made, "id")?, text(&made, "secret")?);
    let shown = up.json(&["webhook", "show", &id])?;
    ensure!(shown["enabled"] == true && shown.get("secret").is_none(), "BRK-43: {shown}");

    let name = api.upload("a.mp4", "video/mp4", media::clip(1, 320, 240)?).await?;
    let spent = ["webhook", "deliveries", &id, "--state", "exhausted"];
    let mut missed = Value::Null;
    for number in 1..=JOBS {
        let job = api.submit(&name).await?;
        let (status, body) =
            api.call(Method::DELETE, &format!("/v1/transcodes/{job}"), None).await?;
        ensure!(status == 200, "{body}");
        let all = |list: &Value| list["deliveries"].as_array().is_some_and(|l| l.len() == number);
        missed = until(&up, &spent, all).await?;
    }
    let tripped = up.json(&["webhook", "show", &id])?;
    ensure!(tripped["enabled"] == false, "{tripped}");
    ensure!(tripped["disabledFor"] == "failures" && tripped["failures"] == 10, "{tripped}");
    ensure!(tripped["lastFailure"]["status"] == 500, "{tripped}");
    let before = hook.received().await.len();
    ensure!((10..=4 * JOBS).contains(&before), "{before} attempts");
    let delivery = text(&missed["deliveries"][JOBS - 1], "id")?;
    let refused = up.cli(&["webhook", "replay", &id, &delivery])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1) && said.contains("enable it"), "{said}");

    // Enabled again, with another secret; a restart in between changes nothing.
    hook.answer(200);
    let enabled = up.json(&["webhook", "set", &id, "--enabled", "true"])?;
    ensure!(enabled["enabled"] == true && enabled["failures"] == 0, "{enabled}");
    let rotated = up.json(&["webhook", "rotate", &id])?;
    let second = text(&rotated, "secret")?;
    ensure!(second != first && rotated["oldSecretUntil"].is_string(), "{rotated}");
    up = Up::start_in(up.stop()?, &["--encoders", "0", "--webhook-retry", "1,1,1"])?;
    ensure!(up.json(&spent)? == missed, "BRK-52: the same list");

    up.json(&["webhook", "replay", &id, &delivery])?;
    let received = hook.until(PATIENCE, |all| all.len() == before + 1).await?;
    let replayed = &received[before];
    ensure!(replayed.header("webhook-id") == delivery, "the same event id");
    let earlier = received.iter().find(|one| one.header("webhook-id") == delivery);
    ensure!(earlier.unwrap().body == replayed.body, "BRK-48: the job as of the event");
    verified(&second, replayed)?;
    verified(&first, replayed)?;
    ensure!(verified("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", replayed).is_err(), "any secret");
    let done = ["webhook", "deliveries", &id, "--state", "succeeded"];
    let one = |list: &Value| list["deliveries"].as_array().is_some_and(|all| all.len() == 1);
    let told = until(&up, &done, one).await?;
    ensure!(told["deliveries"][0]["replays"] == 1, "{told}");

    let sent = up.json(&["webhook", "test", &id])?;
    let received = hook.until(PATIENCE, |all| all.len() == before + 2).await?;
    ensure!(received[before + 1].header("webhook-id") == text(&sent, "delivery")?, "{sent}");
    let test = received[before + 1].json();
    ensure!(test["type"] == "webhook.test", "{test}");
    up.stop()?;
    Ok(())
}
