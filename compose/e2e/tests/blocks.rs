//! `hotcell block` on a running installation: an administrator stops a key and lets it go on; the
//! operator stops and releases anybody, also the only administrator, without the API.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Result, ensure};
use hotcell_e2e::{
    api::{Api, text},
    up::Up,
};
use reqwest::Method;
use std::time::Duration;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `key` is answered with `status`.
async fn comes_to(base: &str, key: &str, status: u16) -> Result<serde_json::Value> {
    let until = Instant::now() + PATIENCE;
    loop {
        let (found, body) = Api::new(base, key).call(Method::GET, "/v1/transcodes", None).await?;
        if found == status {
            return Ok(body);
        }
        ensure!(Instant::now() < until, "{found}, not {status}: {body}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// IAM-21: by the command line.
#[tokio::test(flavor = "multi_thread")]
async fn iam_21_the_command_line_stops_and_releases_and_the_operator_is_above_it() -> Result<()> {
    let up = Up::start(&["--encoders", "0", "--cell", "noop"])?;
    let (base, admin) = (up.env("HOTCELL_API").to_owned(), up.env("HOTCELL_KEY").to_owned());
    let made = up.json(&["key", "create", "--roles", "submitter"])?;
    let (id, key) = (text(&made, "id")?, text(&made, "key")?);
    comes_to(&base, &key, 200).await?;

    // The administrator: without a second factor to stop, with it to release.
    let block = up.json(&["block", "add", "--key", &id, "--reason", "CANARY stolen"])?;
    let number = text(&block, "id")?;
    let told = comes_to(&base, &key, 403).await?;
    ensure!(told["type"] == "urn:hotcell:problem:identity-blocked", "{told}");
    ensure!(told["block"] == number.as_str() && !told.to_string().contains("CANARY"), "{told}");
    let listed = up.json(&["block", "list"])?;
    ensure!(listed[0]["principal"]["id"] == id.as_str(), "{listed}");
    ensure!(listed[0]["reason"] == "CANARY stolen", "{listed}");
    let table = up.cli(&["block", "list"])?;
    let table = String::from_utf8(table.stdout)?;
    ensure!(table.contains(&format!("key {id}")), "{table}");
    up.json(&["block", "remove", &number])?;
    comes_to(&base, &key, 200).await?;
    ensure!(up.json(&["block", "list"])?.as_array().is_some_and(Vec::is_empty), "it is gone");

    // Itself it cannot stop; the operator can, and then only the operator helps.
    let own = admin.split('_').nth(1).unwrap();
    let mine = up.cli(&["block", "add", "--key", own, "--reason", "x"])?;
    ensure!(mine.status.code() == Some(1), "{mine:?}");
    let operators = ["block", "add", "--tenant", "demo", "--key", own, "--reason", "looked into"];
    let number = text(&up.json(&operators)?, "id")?;
    comes_to(&base, &admin, 403).await?;
    // What it made is blocked with it.
    comes_to(&base, &key, 403).await?;
    let refused = up.cli(&["block", "remove", &number])?;
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    let listed = up.json(&["block", "list", "--tenant", "demo"])?;
    ensure!(listed[0]["byOperator"] == true && listed[0]["by"].is_null(), "{listed}");
    let nobody = up.cli(&["block", "list", "--tenant", "nobody"])?;
    ensure!(nobody.status.code() == Some(1), "{nobody:?}");
    up.json(&["block", "remove", &number, "--tenant", "demo"])?;
    for key in [&admin, &key] {
        comes_to(&base, key, 200).await?;
    }
    // And what an administrator has blocked, the operator releases, too.
    let block = up.json(&["block", "add", "--key", &id, "--reason", "x"])?;
    comes_to(&base, &key, 403).await?;
    up.json(&["block", "remove", &text(&block, "id")?, "--tenant", "demo"])?;
    comes_to(&base, &key, 200).await?;
    up.stop()?;
    Ok(())
}

/// IAM-21: a raised risk stops nobody, and asks a program for other people's approval until it is lifted.
#[tokio::test(flavor = "multi_thread")]
async fn iam_21_the_command_line_raises_and_lifts_a_risk() -> Result<()> {
    let up = Up::start(&["--encoders", "0", "--cell", "noop"])?;
    let base = up.env("HOTCELL_API").to_owned();
    let made = up.json(&["key", "create", "--roles", "submitter"])?;
    let (id, key) = (text(&made, "id")?, text(&made, "key")?);
    comes_to(&base, &key, 200).await?;
    for side in [&[][..], &["--tenant", "demo"]] {
        let said = |words: &[&str]| up.json(&[words, side].concat());
        let add = ["block", "add", "--key", &id, "--reason", "looked into"];
        let number = text(&said(&[&add[..], &["--risk", "2"]].concat())?, "id")?;
        let told = comes_to(&base, &key, 403).await?;
        ensure!(told["type"] == "urn:hotcell:problem:approval-required", "{told}");
        ensure!(told["policy"] == serde_json::json!(["step-up-risk"]), "{told}");
        let listed = said(&["block", "list"])?;
        ensure!(listed[0]["risk"] == 2 && listed[0]["id"] == number.as_str(), "{listed}");
        let table = up.cli(&[&["block", "list"], side].concat())?;
        let table = String::from_utf8(table.stdout)?;
        let row = table.lines().find(|line| line.contains(&number)).unwrap_or_default();
        let row: Vec<_> = row.split("  ").map(str::trim).filter(|it| !it.is_empty()).collect();
        ensure!(row.get(1..3) == Some(&[format!("key {id}").as_str(), "2"][..]), "{table}");
        said(&["block", "remove", &number])?;
        comes_to(&base, &key, 200).await?;
    }
    let none = up.cli(&["block", "add", "--key", &id, "--reason", "x", "--risk", "5"])?;
    ensure!(none.status.code() == Some(2), "{none:?}");
    up.stop()?;
    Ok(())
}
