//! `hotcell key` and `hotcell token` on a running installation: the first tenant's key administers
//! its tenant by its second factor, and survives its own rotation.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Result, ensure};
use hotcell_e2e::{
    api::{Api, text},
    up::Up,
};
use reqwest::Method;
use serde_json::json;

fn said(output: &std::process::Output) -> String {
    let bytes = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn status(base: &str, key: &str) -> Result<u16> {
    Ok(Api::new(base, key).call(Method::GET, "/v1/keys?limit=1", None).await?.0)
}

/// API-07, API-08, IAM-02, STEP-09, STEP-15.
#[tokio::test(flavor = "multi_thread")]
async fn api_08_keys_are_made_rotated_and_revoked_by_the_command_line() -> Result<()> {
    let up = Up::start(&["--encoders", "0", "--cell", "noop"])?;
    let base = up.env("HOTCELL_API").to_owned();
    let first = up.env("HOTCELL_KEY").to_owned();
    let secret = up.totp()?;
    let id = |key: &str| key.split('_').nth(1).unwrap().to_owned();

    // The key by itself makes no key; nothing of the second factor is in dev.env.
    let body = json!({ "roles": ["viewer"] });
    let plain = Api::new(&base, &first).call(Method::POST, "/v1/keys", Some(&body)).await?;
    ensure!(plain.0 == 401, "{plain:?}");
    let env = std::fs::read_to_string(up.dir().join("dev.env"))?;
    ensure!(!env.contains(secret.trim()), "the second factor lies beside the key");

    // With the secret at hand the command steps up by itself.
    let network = "127.0.0.0/8";
    let made =
        up.json(&["key", "create", "--roles", "viewer", "--label", "ci", "--network", network]);
    let made = made?;
    let key = text(&made, "key")?;
    ensure!(status(&base, &key).await? == 403, "a viewer lists no keys");
    let token = up.cli(&["token"])?;
    ensure!(token.status.success(), "{}", said(&token));
    let token = String::from_utf8(token.stdout)?;
    ensure!(status(&base, token.trim()).await? == 200, "a token of the key does what the key does");
    let wrong = up.cli(&["token", "--totp", "000000"])?;
    ensure!(wrong.status.code() == Some(1), "{}", said(&wrong));

    // The key in use is rotated: the next command finds the new one.
    let rotated = up.json(&["key", "rotate", &id(&first)])?;
    let second = text(&rotated, "key")?;
    ensure!(status(&base, &first).await? == 401, "the old key is dead at once");
    ensure!(status(&base, token.trim()).await? == 401, "and its tokens with it");
    let listed = up.json(&["key", "list"])?;
    let states: Vec<_> = listed.as_array().unwrap().iter().map(|key| &key["state"]).collect();
    ensure!(states == ["revoked", "active", "active"], "{listed}");
    let gone = up.json(&["key", "revoke", &id(&key)])?;
    ensure!(gone["state"] == "revoked", "{gone}");
    ensure!(status(&base, &key).await? == 401, "a revoked key opens nothing");

    // The operator helps who has lost all of it.
    let helped = up.json(&["key", "recover", "demo"])?;
    let again = Api::new(&base, &text(&helped, "key")?);
    let admin = again.stepped_up(&text(&helped, "totp")?).await?;
    let (made, _) = admin.call(Method::POST, "/v1/keys", Some(&body)).await?;
    ensure!(made == 201, "the recovered key administers: {made}");
    let nobody = up.cli(&["key", "recover", "nobody"])?;
    ensure!(nobody.status.code() == Some(1), "{}", said(&nobody));

    // A second start keeps the key and its second factor.
    let up = Up::start_in(up.stop()?, &["--encoders", "0", "--cell", "noop"])?;
    ensure!(up.env("HOTCELL_KEY") == second, "the key that the rotation made");
    ensure!(up.totp()? == secret, "the second factor stays");
    let shown = up.json(&["key", "show", &id(&second)])?;
    ensure!((shown["state"] == "active") && (shown["totp"] == "confirmed"), "{shown}");
    Ok(())
}
